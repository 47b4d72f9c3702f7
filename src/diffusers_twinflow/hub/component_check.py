"""Check that a pipeline component fits its files. This runs on the meta device and reads no weights."""

import importlib
import math
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import torch
import transformers
from diffusers import ModelMixin, SchedulerMixin
from diffusers.guiders.guider_utils import BaseGuidance
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode

from ..configuration import TwinFlowConfigError
from ..models.conditioning_file import CONDITIONING_NAME
from ..nested import tensors
from .config_types import check_whole_numbers
from .files import FLOAT_DTYPES, MAX_JSON_BYTES, TensorHeader, read_header, read_json

CONFIG = "config.json"
WEIGHTS = "*.safetensors"
FILE_ENDINGS = (".json", ".safetensors", ".txt", ".model", ".jinja")
LIBRARIES = ("diffusers", "transformers")
COMPONENTS = (
    ModelMixin,
    SchedulerMixin,
    BaseGuidance,
    transformers.PreTrainedModel,
    transformers.PreTrainedTokenizerBase,
    transformers.ProcessorMixin,
    transformers.FeatureExtractionMixin,
    transformers.ImageProcessingMixin,
    transformers.AutoTokenizer,
    transformers.AutoProcessor,
    transformers.AutoImageProcessor,
)
"""Classes that may be a component. Other classes of these libraries load indices, datasets or their own code."""

MAX_TENSORS = 16_384
MAX_CONDITIONING_TENSORS = 1000
MAX_NUMBER = 2**24
MAX_SAMPLE_SIZE = 512
SPARE_ELEMENTS, SPARE_MODULES = 2**25, 2000
ELEMENTS_PER_ELEMENT, MODULES_PER_TENSOR = 4, 8
"""Limits on building a model, relative to the elements and tensors in its files. Tied weights, buffers that are not
saved and parts that a class leaves out stay below these limits."""

_PASSED: set[tuple[Any, ...]] = set()
"""Models that passed the check in this process, each with the state of its files: see `_check_state`."""


def component_class(entry: Any) -> type | None:
    """Return the class that an entry of `model_index.json` names, or `None` if it is not a component.

    Its library is diffusers, transformers, this package, or a folder of diffusers' pipelines such as `ltx2`.
    """
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)):
        return None
    library, name = entry
    module: ModuleType | None
    if library in LIBRARIES:
        module = importlib.import_module(library)
    elif library.split(".")[0] == __package__.split(".")[0]:
        module = sys.modules.get(library)
    else:
        found = getattr(diffusers.pipelines, library, None)
        module = found if isinstance(found, ModuleType) else None
    try:
        found = getattr(module, name, None)
    except (ImportError, RuntimeError):  # a class whose own requirements are not installed
        return None
    return found if isinstance(found, type) and issubclass(found, COMPONENTS) else None


def check_component(
    folder: Path, cls: type, *, variant: str | None = None, is_trained: bool = False, needs_safetensors: bool = True
) -> None:
    """Check that loading a component is safe and complete.

    A component is refused if its configuration is larger than its weights, if it runs code or reads pickle files, or
    if some weights would stay random. A model is built once per process, and again only if its files changed.
    The random state stays as it was.

    Args:
        folder: folder of the component.
        cls: class that loads the component.
        variant: variant of the weights, as in diffusers. A folder without this variant is loaded without it.
        is_trained: whether the component is loaded separately later, which compares all its keys.
        needs_safetensors: refuse a model without safetensors weights. If `False`, such a model is not checked.

    Raises:
        TwinFlowConfigError: if a check fails; the message names the file.
    """
    _check_files(folder)
    _check_code(folder, cls)
    if not issubclass(cls, torch.nn.Module):
        return
    state = _check_state(folder, cls, variant, is_trained, needs_safetensors)
    if state in _PASSED:
        return
    headers = {path.name: read_header(path, float_only=is_trained) for path in sorted(folder.glob(WEIGHTS))}
    conditioning = headers.pop(CONDITIONING_NAME, None)
    if conditioning is not None and len(conditioning.shapes) > MAX_CONDITIONING_TENSORS:
        raise TwinFlowConfigError(
            f"'{folder.name}/{CONDITIONING_NAME}' has {len(conditioning.shapes)} tensors, so it is not a time conditioning. "
            "Save the model again."
        )
    for index in folder.glob("*.safetensors.index*.json"):
        _check_weight_index(index, set(headers))
    if not headers:
        if needs_safetensors:
            raise TwinFlowConfigError(
                f"'{folder.name}' has no safetensors weights, and pickle files are not loaded. Save the model with "
                "safe_serialization=True."
            )
        return
    if not (folder / CONFIG).is_file():
        raise TwinFlowConfigError(f"{folder.name}/{CONFIG} is missing: save the model again.")
    values = read_json(folder / CONFIG, name=f"{folder.name}/{CONFIG}")
    _check_sizes(f"{folder.name}/{CONFIG}", values, [*headers.values()], is_trained)
    if issubclass(cls, ModelMixin):
        check_whole_numbers(f"{folder.name}/{CONFIG}", values, cls.__init__)
    with quiet(), torch.random.fork_rng(devices=[]):  # some classes draw numbers while they are built
        try:
            _build(folder, cls, [*headers.values()])
            if not is_trained and "quantization_config" not in values:
                _check_keys(folder, cls, headers, variant)
        except (TwinFlowConfigError, MemoryError):
            raise
        except Exception as error:  # files from others can raise any error
            raise TwinFlowConfigError(
                f"'{folder.name}' cannot be built from its {CONFIG} and its weights ({type(error).__name__}: "
                f"{str(error)[:300]}). Save the model again."
            ) from error
    _PASSED.add(state)


def _check_state(folder: Path, *arguments: Any) -> tuple[Any, ...]:
    """Return what the result of a check depends on: its arguments, and the identity, size and time of each file."""
    files = []
    for path in sorted(folder.glob("*")):
        found = path.stat()
        files.append((path.name, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
    return (folder.resolve(), *arguments, *files)


def _check_files(folder: Path) -> None:
    """Refuse pipes, devices, broken links, and folders with a file's name: reading them blocks or fails."""
    for path in folder.glob("*"):
        if not path.is_file() and (path.suffix in FILE_ENDINGS or not path.is_dir()):
            raise TwinFlowConfigError(f"'{folder.name}/{path.name}' is not a regular file: replace it with one.")


def _check_code(folder: Path, cls: type) -> None:
    """Refuse folders with their own code, adapters, or weights that are stored elsewhere."""
    if (folder / "adapter_config.json").exists():
        raise TwinFlowConfigError(
            f"'{folder.name}' has an adapter_config.json, which names another model to load: merge the adapter, and save "
            "the model again."
        )
    if not cls.__name__.startswith("Auto"):
        return
    for path in folder.glob("*.json"):
        if path.stat().st_size <= MAX_JSON_BYTES and "auto_map" in read_json(path, name=f"{folder.name}/{path.name}"):
            raise TwinFlowConfigError(
                f"{folder.name}/{path.name} needs custom code (auto_map), which is not run. Load the component yourself and "
                f"pass it as {folder.name}=."
            )


def _check_weight_index(path: Path, names: set[str]) -> None:
    values = read_json(path, name=f"{path.parent.name}/{path.name}").get("weight_map")
    if not isinstance(values, dict) or not all(isinstance(file, str) and file in names for file in values.values()):
        raise TwinFlowConfigError(
            f"'{path.parent.name}/{path.name}' names files that are not safetensors files in its folder. Save the model "
            "again."
        )


def _check_sizes(name: str, values: dict[str, Any], headers: list[TensorHeader], is_trained: bool) -> None:
    """Refuse configurations with numbers that are too large for their weights, before a model is built."""
    tensors = sum(len(header.shapes) for header in headers)
    if tensors > MAX_TENSORS:
        raise TwinFlowConfigError(
            f"the weights in the folder of {name} have {tensors} tensors, but at most {MAX_TENSORS} are read."
        )
    for key, number in _numbers(values):
        bound = MAX_NUMBER
        if "layers" in key or "blocks" in key or "depth" in key:
            bound = tensors
        elif is_trained and key == "sample_size":
            bound = MAX_SAMPLE_SIZE
        if abs(number) > bound:
            raise TwinFlowConfigError(
                f"{name} has {key}={str(number)[:40]}, which is too large for its weights. Save the model again."
            )


def _numbers(values: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number in a JSON value together with the nearest key above it."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _numbers(value, name)
    elif isinstance(values, list):
        for value in values:
            yield from _numbers(value, key)
    elif isinstance(values, int) and not isinstance(values, bool):
        yield key, values


def _build(folder: Path, cls: Any, headers: list[TensorHeader]) -> None:
    """Build the model on the meta device, and stop if it becomes larger than its files."""
    shapes = [shape for header in headers for shape in header.shapes.values()]
    elements = sum(math.prod(shape) for shape in shapes)
    with _Limits(folder.name, elements, len(shapes)), torch.device("meta"), torch.no_grad():
        if issubclass(cls, ModelMixin):
            cls.from_config(cls.load_config(folder, local_files_only=True))
        else:
            cls(cls.config_class.from_pretrained(folder, local_files_only=True))


class _Limits(TorchDispatchMode):
    """Count what this thread allocates and which modules it builds, and raise beyond the limits."""

    def __init__(self, name: str, elements: int, tensors: int) -> None:
        super().__init__()
        self.name, self.elements, self.modules = name, 0, 0
        self.most_elements = SPARE_ELEMENTS + ELEMENTS_PER_ELEMENT * elements
        self.most_modules = SPARE_MODULES + MODULES_PER_TENSOR * tensors
        self.thread = threading.get_ident()

    def __enter__(self) -> "_Limits":
        self.hook = register_module_module_registration_hook(self._count_module)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.hook.remove()
        super().__exit__(*error)

    def _count_module(self, module: torch.nn.Module, name: str, child: torch.nn.Module | None) -> None:
        if threading.get_ident() == self.thread:
            self.modules += 1
            self._check(self.modules > self.most_modules, "layers")

    def _count(self, result: Any) -> None:
        self.elements += sum(tensor.numel() for tensor in tensors(result))
        self._check(self.elements > self.most_elements, "weights and buffers")

    def _check(self, is_too_much: bool, what: str) -> None:
        if is_too_much:
            raise TwinFlowConfigError(
                f"{self.name}/{CONFIG} needs more {what} than its files contain, so it belongs to another model. Save the "
                "model again."
            )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable or func.is_view:
            return func(*args, **kwargs)
        if torch.device(kwargs.get("device") or "meta").type != "meta":
            self._count(func(*args, **kwargs | {"device": torch.device("meta"), "pin_memory": None}))
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        self._count(result)
        return result


def _check_keys(folder: Path, cls: Any, headers: dict[str, TensorHeader], variant: str | None) -> None:
    """Load the files onto the meta device, and refuse a model if some of its weights would stay random."""
    has_variant = variant is not None and any(
        f".{variant}." in name or f".{variant}-" in name or name.endswith(f".{variant}.safetensors")
        for name in headers
    )
    _, info = cls.from_pretrained(
        folder,
        device_map="meta",
        dtype=_dtype(headers),
        use_safetensors=True,
        output_loading_info=True,
        local_files_only=True,
        **({"variant": variant} if has_variant else {}),
    )
    for kind in ("missing_keys", "mismatched_keys"):
        if info[kind]:
            raise TwinFlowConfigError(
                f"the weights of '{folder.name}' do not fit its {CONFIG}: {len(info[kind])} {kind.replace('_', ' ')} such "
                f"as '{sorted(map(str, info[kind]))[0]}', which would be random. Save the model again."
            )


def _dtype(headers: dict[str, TensorHeader]) -> torch.dtype:
    """Return the most frequent dtype. Loading in this dtype converts no weights, so none is read."""
    counts = dict.fromkeys(FLOAT_DTYPES, 0)
    for header in headers.values():
        for dtype in header.dtypes.values():
            if dtype in counts:
                counts[dtype] += 1
    most = max(counts, key=counts.__getitem__)
    return {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[most]


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the libraries' progress bars and reports. The real loading later shows them."""
    kinds = (transformers.utils.logging, diffusers.utils.logging)
    before = [logging.get_verbosity() for logging in kinds]
    had_bars = transformers.utils.logging.is_progress_bar_enabled()
    for logging in kinds:
        logging.set_verbosity(logging.CRITICAL)
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging, verbosity in zip(kinds, before):
            logging.set_verbosity(verbosity)
        if had_bars:
            transformers.utils.logging.enable_progress_bar()
