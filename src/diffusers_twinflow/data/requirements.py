"""Check that the packages of the extra `train` are installed. Imported before the modules that read data."""

import importlib.util

PACKAGES = ("datasets", "filelock", "PIL", "psutil", "torchdata", "tqdm")

missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
if missing:
    raise ModuleNotFoundError(
        f"Training needs packages that are not installed ({', '.join(missing)}): "
        'pip install "diffusers-twinflow[train]".',
        name=missing[0],
    )
