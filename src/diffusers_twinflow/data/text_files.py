"""Read text files in UTF-8, or in the encoding of their byte order mark."""

import codecs
import os
import unicodedata
from functools import lru_cache
from pathlib import Path

from ..image_files import check_regular

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order marks. UTF-32 comes before UTF-16, because its mark begins with the mark of UTF-16."""
BYTE_ORDER_MARK = "\ufeff"
LISTED_FOLDERS = 64


def encoding_of(path: str | Path) -> str:
    """Return the encoding of a text file from its first bytes.

    Raises:
        OSError, ValueError: if the file does not exist, or is not a regular file.
    """
    check_regular(path)
    with open(path, "rb") as file:
        start = file.read(4)
    return next((name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark)), "utf-8")


def read_text(path: str | Path) -> str:
    """Read a text file without its byte order mark.

    Raises:
        OSError, ValueError: if the file does not exist, is not a regular file or is not text.
    """
    encoding = encoding_of(path)
    try:
        text = Path(path).read_text(encoding=encoding)
    except UnicodeError as error:
        raise ValueError(f"'{path}' is not text in {encoding.upper()} ({error}): save it as UTF-8") from error
    if "\0" in text:
        raise ValueError(f"'{path}' contains null characters, like UTF-16 without a byte order mark: save it as UTF-8")
    return text


def find_beside(path: str | Path, suffix: str) -> Path:
    """Find the file with the same name and another suffix. Letter case and Unicode form may differ.

    If there is no such file, a path that does not exist is returned.
    """
    wanted = Path(path).with_suffix(suffix)
    if wanted.exists():
        return wanted
    folder = wanted.parent
    if not folder.is_dir():
        return wanted
    return _files_by_form(folder, folder.stat().st_mtime_ns).get(_form(wanted.name), wanted)


@lru_cache(maxsize=LISTED_FOLDERS)
def _files_by_form(folder: Path, modified: int) -> dict[str, Path]:
    return {_form(name): folder / name for name in sorted(os.listdir(folder), reverse=True)}


def _form(name: str) -> str:
    """Return a file's name in one Unicode form, with its suffix in lower case."""
    stem, ending = os.path.splitext(unicodedata.normalize("NFC", name))
    return stem + ending.lower()
