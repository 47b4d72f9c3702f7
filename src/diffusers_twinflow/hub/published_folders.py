"""Find a transformer of the TwinFlow authors or of SimpleTuner in a repository without twinflow_config.json."""

from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from diffusers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFETENSORS_WEIGHTS_NAME
from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError

from ..configuration import TwinFlowConfigError
from ..models.modeling_twinflow import SAVED_CONDITIONING
from ..models.published_layouts import PUBLISHED_CLASSES, PublishedLayout, published_layout, stock_class_name
from .files import (
    CARD_NAME,
    CONFIG_NAME,
    INDEX_NAME,
    LORA_NAME,
    LocatedRepository,
    download_error,
    is_inside,
    locate_repository,
    read_header,
    read_json,
)
from .published import MODEL_CONFIG_NAME, read_index

SMALL_FILES = (INDEX_NAME, f"*/{INDEX_NAME}", "*config.json", SAFE_WEIGHTS_INDEX_NAME, f"*/{SAFE_WEIGHTS_INDEX_NAME}")
MAX_DEPTH = 3
"""How many folders deep to search. The authors' transformers are three folders deep."""


@dataclass(frozen=True)
class PublishedFolder:
    """A published transformer, recognized by its class and the names of its tensors.

    Attributes:
        repository: its repository. The small files are on this machine; the weights may not be.
        transformer: folder of the transformer, relative to the repository; "." for the repository itself.
        pipeline: folder of its pipeline, or the folder of the transformer if there is no pipeline.
        class_name: its stock class.
        layout: naming scheme of its tensors.
    """

    repository: LocatedRepository
    transformer: PurePosixPath
    pipeline: PurePosixPath
    class_name: str
    layout: PublishedLayout

    @property
    def name(self) -> str:
        """Return the Hub id of the repository, or the absolute path of the pipeline."""
        repository = self.repository
        return str((repository.directory / self.pipeline).resolve()) if repository.is_local else repository.name


def find_published(repository: LocatedRepository) -> PublishedFolder | None:
    """Find the published transformer of a repository. Returns `None` if there is none.

    Only configurations are downloaded. For a Hub repository, the header of the weights may be read, but not the weights.

    Raises:
        TwinFlowConfigError: if there are several and you must choose one with `subfolder=`, or the repository cannot
            be reached.
    """
    if repository.find(CONFIG_NAME) is not None or repository.find(LORA_NAME) is not None:
        return None
    repository = _with_small_files(repository)
    found = [
        folder for path in _folders_with(repository, MODEL_CONFIG_NAME) if (folder := _published(repository, path))
    ]
    ours = _folders_with(repository, CONFIG_NAME)
    choices = sorted({*(str(folder.pipeline) for folder in found), *map(str, ours)})
    if len(choices) > 1:
        raise TwinFlowConfigError(
            f"'{repository.name}' contains {len(choices)} TwinFlow models: {_quoted(choices)}. Pass one of them as "
            "subfolder=."
        )
    if found:
        return found[0]
    if ours:
        raise TwinFlowConfigError(
            f"'{repository.name}' has no {CONFIG_NAME}, but its folder '{ours[0]}' has one. Pass subfolder='{ours[0]}'."
        )
    nested = [str(path) for path in _folders_with(repository, INDEX_NAME) if path.parts]
    if nested:
        raise TwinFlowConfigError(
            f"'{repository.name}' has no {CONFIG_NAME}, and its folders contain no transformer in a layout of the "
            f"TwinFlow authors or of SimpleTuner. If one of {_quoted(nested)} is a TwinFlow repository, pass it as "
            "subfolder=."
        )
    return None


def _with_small_files(repository: LocatedRepository) -> LocatedRepository:
    if repository.is_local:
        return repository
    return locate_repository(
        repository.name,
        subfolder=repository.subfolder,
        patterns=[*SMALL_FILES, CARD_NAME, f"*/{CARD_NAME}"],
        **repository.hub_options,
    )


def _folders_with(repository: LocatedRepository, file_name: str) -> list[PurePosixPath]:
    """Find folders with a file of this name, at most `MAX_DEPTH` deep. Links out of the repository are skipped."""
    root = repository.directory
    paths = [path for depth in range(MAX_DEPTH + 1) for path in sorted(root.glob("*/" * depth + file_name))]
    return [PurePosixPath(path.relative_to(root).parent.as_posix()) for path in paths if is_inside(path, root)]


def _published(repository: LocatedRepository, folder: PurePosixPath) -> PublishedFolder | None:
    """Return the published transformer in a folder with a `config.json`, or `None` if there is none."""
    path = repository.find(str(folder / MODEL_CONFIG_NAME))
    config = read_json(path, name=str(folder / MODEL_CONFIG_NAME)) if path else {}
    class_name = stock_class_name(str(config.get("_class_name")))
    is_ours = SAVED_CONDITIONING in config or config.get("twinflow_enabled") is True
    if class_name not in PUBLISHED_CLASSES or is_ours:
        return None
    names = _tensor_names(repository, folder)
    try:
        layout = published_layout(class_name, names)
    except ValueError:
        return None
    is_component = repository.find(str(folder.parent / INDEX_NAME)) is not None and folder.parts
    pipeline = folder.parent if is_component else folder
    return PublishedFolder(repository, folder, pipeline, class_name, layout)


def _tensor_names(repository: LocatedRepository, folder: PurePosixPath) -> set[str]:
    """Read the names of a transformer's tensors from its index, its file, or the header of its file on the Hub."""
    index = repository.find(str(folder / SAFE_WEIGHTS_INDEX_NAME))
    if index is not None:
        return set(read_index(index))
    weights = repository.find(str(folder / SAFETENSORS_WEIGHTS_NAME))
    if weights is not None:
        return set(read_header(weights, float_only=False).shapes)
    if repository.is_local:
        return set()
    file_name = str(PurePosixPath(repository.subfolder or "") / folder / SAFETENSORS_WEIGHTS_NAME)
    options = repository.hub_options
    try:
        header = HfApi().parse_safetensors_file_metadata(
            repository.name, file_name, revision=options["revision"], token=options.get("token")
        )
    except EntryNotFoundError:
        return set()
    except Exception as error:  # network errors have no common class
        raise download_error(repository.name, error) from error
    return set(header.tensors)


def _subfolder(repository: LocatedRepository, folder: PurePosixPath) -> str | None:
    whole = PurePosixPath(repository.subfolder or "") / folder
    return str(whole) if whole.parts else None


def located(published: PublishedFolder, folder: PurePosixPath, patterns: tuple[str, ...]) -> LocatedRepository:
    """Return a folder of the repository with the files that match `patterns`, from the same commit."""
    repository = published.repository
    if repository.is_local:
        return replace(repository, directory=repository.directory / folder)
    return locate_repository(
        repository.name, subfolder=_subfolder(repository, folder), patterns=patterns, **repository.hub_options
    )


def _quoted(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
