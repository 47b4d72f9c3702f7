"""Find a repository's files and read them safely: with size limits, as data, never as code."""

import json
import math
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError, safe_open

from ..configuration import TwinFlowConfigError
from ..models.conditioning_file import CONDITIONING_NAME

CONFIG_NAME = "twinflow_config.json"
LORA_NAME = "pytorch_lora_weights.safetensors"
SCHEDULER_NAME = "scheduler/scheduler_config.json"
INDEX_NAME = "model_index.json"
MODULAR_INDEX_NAME = "modular_model_index.json"
MODULAR_ENTRY, LOCATION = 3, "pretrained_model_name_or_path"
CARD_NAME = "README.md"
SAMPLES_FOLDER = "samples"
SAMPLE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
PART_NAMES = (LORA_NAME, CONDITIONING_NAME)
"""Files of a LoRA. A second denoiser has the same with other names, see `second_name`."""


def second_name(name: str) -> str:
    """Return the name of the file of a second denoiser, such as pytorch_lora_weights_2.safetensors."""
    return f"{PurePosixPath(name).stem}_2{PurePosixPath(name).suffix}"


LOADED_NAMES = (
    CONFIG_NAME,
    *PART_NAMES,
    *map(second_name, PART_NAMES),
    SCHEDULER_NAME,
    INDEX_NAME,
    MODULAR_INDEX_NAME,
)

SAVE_AGAIN = "Download or save the file again."
"""What to do about a damaged file."""
CHECKPOINT_NAME = "checkpoint.json"
"""File of a checkpoint of a training run, which is not a repository."""
MAX_JSON_BYTES = 1_000_000
MAX_HEADER_BYTES = 16_000_000
FLOAT_DTYPES = ("F32", "F16", "BF16")
SNAPSHOT_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download")


@dataclass(frozen=True)
class LocatedRepository:
    """A repository whose files are on this machine.

    Attributes:
        name: name that the caller gave, for messages.
        directory: directory of its files, including the subfolder.
        is_local: whether it is a local directory and not a snapshot of a Hub repository.
        subfolder: folder of the repository that `directory` points to.
        hub_options: options for downloading more files of the same commit.
    """

    name: str
    directory: Path
    is_local: bool
    subfolder: str | None = None
    hub_options: dict[str, Any] = field(default_factory=dict)

    def find(self, file_name: str) -> Path | None:
        """Return the path of a file, or `None` if the repository has no file of that name.

        Raises:
            TwinFlowConfigError: if the file is a link to a place outside the repository.
        """
        path = self.directory / file_name
        if not path.is_file():
            return None
        check_inside(path, self.directory)
        return path


def is_inside(path: Path, directory: Path) -> bool:
    """Return whether a path is inside a directory after its links are resolved.

    Files of a snapshot in the Hub's cache are links to the folder `blobs` next to `snapshots`. They count as inside.
    """
    root = directory.resolve()
    for parent in (root, *root.parents):
        if parent.parent.name == "snapshots" and (parent.parent.parent / "blobs").is_dir():
            root = parent.parent.parent
            break
    return path.resolve().is_relative_to(root)


def seen_from(path: str | Path, directory: str | Path) -> str:
    """Return a path relative to a directory, with slashes, for a file that other systems may read.

    On Windows, a path on another drive stays absolute.
    """
    try:
        relative = os.path.relpath(path, directory)
    except ValueError:
        relative = os.path.abspath(path)
    return Path(relative).as_posix()


def check_inside(path: Path, directory: Path) -> None:
    """Check that a path is inside a directory.

    Raises:
        TwinFlowConfigError: if `path` is a link to a place outside `directory`.
    """
    if not is_inside(path, directory):
        raise TwinFlowConfigError(
            f"'{path}' is a link to a place outside '{directory}', so it is not read. Replace the link with the file."
        )


def locate_repository(
    name_or_path: str | Path,
    *,
    subfolder: str | None = None,
    patterns: Sequence[str] = LOADED_NAMES,
    proxies: Any = None,
    **hub_options: Any,
) -> LocatedRepository:
    """Find a local repository, or download the files of a Hub repository at one commit.

    Args:
        name_or_path: local directory or Hub repository.
        subfolder: folder of the repository that contains the files.
        patterns: patterns of the file names to download from that folder.
        proxies: accepted as in diffusers, but has no effect. Set the proxy in the environment.
        hub_options: `revision`, `cache_dir`, `token`, `local_files_only` and `force_download`, as in
            `snapshot_download`.

    Returns:
        The repository with its files on this machine.

    Raises:
        TwinFlowConfigError: if the repository or revision does not exist, or the Hub cannot be reached and the files
            are not cached.
    """
    for option in hub_options:
        if option not in SNAPSHOT_OPTIONS:
            raise TypeError(
                f"'{option}' is not a Hub option. The options are {', '.join(SNAPSHOT_OPTIONS)} and subfolder."
            )
    name = str(name_or_path)
    folder = PurePosixPath(subfolder or "")
    if folder.is_absolute() or ".." in folder.parts:
        raise TwinFlowConfigError(f"subfolder={subfolder!r} is outside the repository: pass a folder inside it.")
    if os.path.isfile(name_or_path):
        raise TwinFlowConfigError(
            f"'{name}' is a file. Pass its folder, '{Path(name_or_path).parent}', which also contains the configuration "
            "and the scheduler."
        )
    if os.path.isdir(name_or_path):
        return LocatedRepository(name, Path(name_or_path) / folder, is_local=True)
    try:
        snapshot = snapshot_download(name, allow_patterns=[str(folder / file) for file in patterns], **hub_options)
    except Exception as error:  # network errors have no common class
        raise download_error(name, error, revision=hub_options.get("revision")) from error
    same_commit = hub_options | {"revision": Path(snapshot).name}
    return LocatedRepository(name, Path(snapshot) / folder, False, subfolder, same_commit)


def download_error(name: str, error: BaseException, *, revision: str | None = None) -> TwinFlowConfigError:
    """Turn a failed download of a Hub repository into one clear error.

    diffusers wraps the client's errors in an `OSError`, so the causes of `error` are checked too.
    """
    chain = _chain_of(error)

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in chain)

    if has(HFValidationError):
        return TwinFlowConfigError(
            f"'{name}' is neither a directory nor a Hub id such as 'me/my-lora'. Check the name."
        )
    if has(GatedRepoError):
        return TwinFlowConfigError(
            f"'{name}' is a gated repository: accept its terms at https://huggingface.co/{name}, then log in with "
            "`hf auth login` or pass the token of that account."
        )
    if has(RevisionNotFoundError):
        return TwinFlowConfigError(
            f"'{name}' has no revision {revision!r} on the Hub. Pass one of its branches, tags or commits."
        )
    if has(RepositoryNotFoundError):
        return TwinFlowConfigError(
            f"'{name}' is not on the Hub, or it is private or gated: check its name, and log in with `hf auth login` or "
            "pass a token."
        )
    reason = f"{type(error).__name__}: {str(error)[:300]}"
    if has(OfflineModeIsEnabled, LocalEntryNotFoundError):
        return TwinFlowConfigError(
            f"'{name}' is not a folder on this machine or in the cache, and it could not be downloaded: check the name, "
            f"the connection, HF_HUB_OFFLINE and local_files_only ({reason})."
        )
    advice = ": check the connection and try again" if has(OSError) else ""
    return TwinFlowConfigError(f"'{name}' could not be downloaded{advice} ({reason}).")


def _chain_of(error: BaseException) -> list[BaseException]:
    """Return an error and its causes, the first cause last."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain


def index_name(directory: Path) -> str:
    """Return the name of a pipeline's index: that of a modular pipeline if it has no other."""
    is_modular = (directory / MODULAR_INDEX_NAME).is_file() and not (directory / INDEX_NAME).is_file()
    return MODULAR_INDEX_NAME if is_modular else INDEX_NAME


def read_pipeline_index(directory: Path) -> dict[str, Any] | None:
    """Read the index of a stock or modular pipeline, in the form of a `model_index.json`; `None` if there is none.

    The places of a modular pipeline's components are added as `_specs`, by name.

    Raises:
        TwinFlowConfigError: if it is not valid.
    """
    path = directory / index_name(directory)
    if not path.is_file():
        return None
    values = read_json(path)
    if path.name == INDEX_NAME:
        return values
    specs = {name: entry[2] for name, entry in values.items() if _is_modular(entry)}
    components = {name: _stock_entry(*values[name]) for name in specs}
    private = {name: value for name, value in values.items() if name.startswith("_")}
    return private | components | {"_specs": specs}


def _is_modular(entry: Any) -> bool:
    """Whether an entry of a modular index is a component: its library, its class, and where it is."""
    return isinstance(entry, list) and len(entry) == MODULAR_ENTRY and isinstance(entry[2], dict)


def _stock_entry(library: Any, class_name: Any, spec: dict[str, Any]) -> list[Any]:
    """Return the library and the class of a component, which a modular index may name only in its `spec`."""
    is_elsewhere = library is None and spec.get(LOCATION) is not None
    return spec.get("type_hint") or [None, None] if is_elsewhere else [library, class_name]


def modular_index_at(directory: Path, repo_id: str) -> str:
    """Return the text of a modular index for a repository on the Hub, which its components are loaded from."""
    values = read_json(directory / MODULAR_INDEX_NAME)
    for entry in filter(_is_modular, values.values()):
        if entry[0] is not None:
            entry[2][LOCATION] = repo_id
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


def read_json(path: Path, *, name: str | None = None) -> dict[str, Any]:
    """Read a JSON object of at most `MAX_JSON_BYTES` bytes.

    Raises:
        TwinFlowConfigError: if the file is larger, is not JSON or is not an object.
    """
    name = name or path.name
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise TwinFlowConfigError(
            f"{name} has {size} bytes, but a configuration has at most {MAX_JSON_BYTES}. {SAVE_AGAIN}"
        )
    try:
        values = json.loads(path.read_bytes(), parse_constant=_refuse_constant, parse_float=_finite_float)
    except (ValueError, RecursionError) as error:
        raise TwinFlowConfigError(f"{name} is not valid JSON ({error}). {SAVE_AGAIN}") from error
    if not isinstance(values, dict):
        raise TwinFlowConfigError(
            f"{name} contains a {type(values).__name__}, but must be a JSON object. {SAVE_AGAIN}"
        )
    return values


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a valid JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


@dataclass(frozen=True)
class TensorHeader:
    """The header of a safetensors file: shapes and dtypes by tensor name, and the metadata."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]
    dtypes: dict[str, str] = field(default_factory=dict)


def read_header(path: Path, *, float_only: bool = True) -> TensorHeader:
    """Read and check the header of a safetensors file without reading tensors.

    Args:
        path: safetensors file.
        float_only: refuse tensors that are not floating-point.

    Raises:
        TwinFlowConfigError: if the file is not a safetensors file, its header is larger than `MAX_HEADER_BYTES` or has
            wrong sizes, or a tensor has a dtype that is not allowed.
    """
    with path.open("rb") as file:
        prefix = file.read(8)
    header_bytes = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
    if not 0 < header_bytes <= min(MAX_HEADER_BYTES, path.stat().st_size - 8):
        raise TwinFlowConfigError(
            f"'{path.name}' is not a safetensors file, because the size of its header is not valid. {SAVE_AGAIN}"
        )
    try:
        with safe_open(path, framework="pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 (no mapping)
            dtypes = {name: tensor.get_dtype() for name, tensor in slices.items()}
            header = TensorHeader(
                {name: tuple(tensor.get_shape()) for name, tensor in slices.items()}, tensors.metadata() or {}, dtypes
            )
    except SafetensorError as error:
        raise TwinFlowConfigError(f"'{path.name}' is not a valid safetensors file ({error}). {SAVE_AGAIN}") from error
    for name, dtype in dtypes.items():
        if float_only and dtype not in FLOAT_DTYPES:
            raise TwinFlowConfigError(
                f"'{path.name}' has '{name}' in {dtype}. Save it in one of {', '.join(FLOAT_DTYPES)}."
            )
    return header


def check_finite(path: Path) -> None:
    """Check that a safetensors file has only finite values.

    Raises:
        TwinFlowConfigError: if a tensor contains NaN or infinity.
    """
    with safe_open(path, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 (no mapping)
            if not torch.isfinite(tensors.get_tensor(name)).all():
                raise TwinFlowConfigError(
                    f"'{path.name}' has values that are not finite (for example in '{name}'), so its training diverged. "
                    "Use another checkpoint."
                )


def check_new_folder(directory: Path, option: str) -> None:
    """Check that an output folder is new or empty, so that nothing is overwritten.

    Args:
        directory: the output folder.
        option: name of the option that set it, for the error message.

    Raises:
        TwinFlowConfigError: if it exists and is not an empty folder.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise TwinFlowConfigError(f"{option}='{directory}' exists and is not empty: choose a new folder.")
