"""List all files of a folder of images or videos, with a reason for every file that is left out."""

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from datasets.packaged_modules.videofolder.videofolder import VideoFolder

from ..image_files import image_suffixes, kind_of_file
from .text_files import find_beside

VIDEOS = (*VideoFolder.EXTENSIONS, ".webm", ".m4v", ".mpg")
METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
TABLES = (".parquet", ".arrow", ".tar", ".json", ".jsonl", ".csv", ".txt", ".zip", ".tsv")
SYSTEM_FILES = ("thumbs.db", "desktop.ini")
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Folder names for each split, as in `datasets`."""


@dataclass
class Listing:
    """The files of a folder and the folders in it, sorted by path.

    Attributes:
        folder: the folder, as an absolute path.
        images, videos, metadata, captions, tables: paths by kind of file. Captions are text files with the name of an
            image or a video. Tables are data files that `datasets` may read directly.
        ignored: reason why each other file is left out, by path.
    """

    folder: str
    images: list[str] = field(default_factory=list)
    videos: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)

    @property
    def media(self) -> dict[str, list[str]]:
        """Return the images and the videos, by the name of their column."""
        return {"image": self.images, "video": self.videos}

    def split(self, name: str) -> "Listing":
        """Return the files of one split.

        A folder with exactly the name of a split (train, validation, test, or a synonym of `datasets`) contains this
        split. Names that only contain a split's name are ordinary folders. If there is no such folder for "train", or a
        metadata file is next to it, all files belong to the split "train".

        Raises:
            FileNotFoundError: if there is no such split.
        """
        names = SPLIT_FOLDERS.get(name, (name,))
        found = {path for path in self.paths if self._top_folder(path) in names}
        if name == "train" and (not found or any(self._top_folder(path) is None for path in self.metadata)):
            return self
        if not found:
            raise FileNotFoundError(f"there is no split '{name}': no folder {' or '.join(names)} in '{self.folder}'")
        kinds = ("images", "videos", "metadata", "captions", "tables")
        chosen = {kind: [path for path in getattr(self, kind) if path in found] for kind in kinds}
        return Listing(self.folder, **chosen, ignored=self.ignored)

    def find(self, name: str, folder: str | Path) -> str:
        """Find the path of a file that a metadata file in `folder` names.

        The name may have another Unicode form than the file, and backslashes between folders.

        Raises:
            ValueError: if the name is outside the folder, or is a URL.
        """
        exact = os.path.normpath(os.path.join(folder, name))
        path = exact if os.path.lexists(exact) else os.path.normpath(os.path.join(folder, name.replace("\\", "/")))
        if "://" in name or not Path(path).is_relative_to(folder):
            raise ValueError(f"file_name '{name}' must be a path inside '{folder}', the folder of its metadata file")
        return path if os.path.lexists(path) else self._by_form.get(unicodedata.normalize("NFC", path), path)

    @property
    def _by_form(self) -> dict[str, str]:
        if not hasattr(self, "_forms"):
            self._forms = {unicodedata.normalize("NFC", path): path for path in [*self.images, *self.videos]}
        return self._forms

    @property
    def paths(self) -> list[str]:
        """Return all files except the ignored ones."""
        return [*self.images, *self.videos, *self.metadata, *self.captions, *self.tables]

    def _top_folder(self, path: str) -> str | None:
        parts = Path(path).relative_to(self.folder).parts
        return parts[0] if len(parts) > 1 else None


def list_folder(folder: str | Path) -> Listing:
    """List a folder and all folders in it. Links are followed.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    root = os.path.abspath(folder)
    if not os.path.isdir(root):
        raise FileNotFoundError("there is no such folder")
    listing = Listing(root)
    suffixes = image_suffixes()
    for path in sorted(_walk(root, listing.ignored, set())):
        name, suffix = os.path.basename(path), os.path.splitext(path)[1].lower()
        if not _is_unicode(path):
            listing.ignored[path.encode("utf-8", "backslashreplace").decode()] = "a path that is not UTF-8"
        elif name.lower() in SYSTEM_FILES or name.startswith("."):
            listing.ignored[path] = "a hidden or system file"
        elif suffix in suffixes:
            listing.images.append(path)
        elif suffix in VIDEOS:
            listing.videos.append(path)
        elif name in METADATA_NAMES:
            listing.metadata.append(path)
        elif suffix in TABLES:
            listing.tables.append(path)
        else:
            listing.ignored[path] = "not an image or a video"
    listing.captions = _captions(listing)
    beside = {*listing.captions}
    listing.tables = [path for path in listing.tables if path not in beside]
    return listing


def _walk(folder: str, ignored: dict[str, str], above: set[tuple[int, int]]) -> Iterator[str]:
    """Yield the files of a folder and of all folders in it. Everything else is added to `ignored` with a reason."""
    status = os.stat(folder)
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        ignored[folder] = "a link to a folder that it is in"
        return
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        ignored[folder] = f"a folder that cannot be read ({error.strerror})"
        return
    for entry in entries:
        suffix = os.path.splitext(entry.name)[1].lower()
        if _is_folder(entry):
            if entry.name.startswith((".", "__")):
                ignored[entry.path] = "a hidden or system folder"
            else:
                yield from _walk(entry.path, ignored, above | {identity})
        elif _is_file(entry) or suffix in image_suffixes() or suffix in VIDEOS:
            yield entry.path
        else:
            ignored[entry.path] = _what(entry)


def _is_unicode(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_file(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _what(entry: os.DirEntry) -> str:
    try:
        return kind_of_file(entry.stat().st_mode)
    except OSError as error:
        return f"a broken link ({error.strerror})"


def _captions(listing: Listing) -> list[str]:
    texts = {path for path in listing.tables if path.lower().endswith(".txt")}
    if not texts:
        return []
    found = {str(find_beside(path, ".txt")) for path in [*listing.images, *listing.videos]}
    return sorted(found & texts)
