"""Turn files, tables and streams into the batches of a run."""

from typing import TYPE_CHECKING, Any

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .cache import DiskCache, MemoryCache
    from .captions import CaptionSource
    from .check import CheckedRows, check_rows
    from .clips import Clip
    from .config import CAPTION_STRATEGIES, DataConfig
    from .framing import Framing, parse_buckets
    from .report import DataReport
    from .rows import load_rows
    from .sampler import RunSampler
    from .samples import Samples
    from .source import Source, open_source
    from .stream import StreamedSamples, StreamLoader
    from .training_data import TrainingData

__all__ = [
    "CAPTION_STRATEGIES",
    "CaptionSource",
    "CheckedRows",
    "Clip",
    "DataConfig",
    "DataReport",
    "DiskCache",
    "Framing",
    "MemoryCache",
    "RunSampler",
    "Samples",
    "Source",
    "StreamLoader",
    "StreamedSamples",
    "TrainingData",
    "check_rows",
    "load_rows",
    "open_source",
    "parse_buckets",
]

MODULES = {
    "CAPTION_STRATEGIES": ".config",
    "CaptionSource": ".captions",
    "CheckedRows": ".check",
    "Clip": ".clips",
    "DataConfig": ".config",
    "DataReport": ".report",
    "DiskCache": ".cache",
    "Framing": ".framing",
    "MemoryCache": ".cache",
    "RunSampler": ".sampler",
    "Samples": ".samples",
    "Source": ".source",
    "StreamLoader": ".stream",
    "StreamedSamples": ".stream",
    "TrainingData": ".training_data",
    "check_rows": ".check",
    "load_rows": ".rows",
    "open_source": ".source",
    "parse_buckets": ".framing",
}
if not TYPE_CHECKING:  # to a type checker, a module with a `__getattr__` has every name
    _get_name, __dir__ = lazy_names(globals(), MODULES)

    def __getattr__(name: str) -> Any:
        if MODULES.get(name, ".config") != ".config":
            from . import requirements  # noqa: F401  (names the extra if one of its packages is missing)
        return _get_name(name)
