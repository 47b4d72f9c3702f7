"""Check that the packages of the extra `train` are installed. Imported before the modules that read data."""

import importlib.util

from ..configuration import TwinFlowConfigError

PACKAGES = ("datasets", "filelock", "PIL", "psutil", "torchdata", "tqdm")


class MissingPackageError(TwinFlowConfigError, ModuleNotFoundError):
    """Raised if a package of the extra `train` is not installed."""


missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
if missing:
    raise MissingPackageError(
        f"Training needs packages that are not installed ({', '.join(missing)}): "
        'pip install "diffusers-twinflow[train]".'
    )
