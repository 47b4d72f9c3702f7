"""The path of the training script, the environment of its runs, and the script as a module."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "train_twinflow.py"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "true",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "COMET_START_ONLINE": "0",
}


def load_script():
    spec = importlib.util.spec_from_file_location("train_twinflow", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def all_options(options) -> SimpleNamespace:
    """What the script's `parse_args` returns, all options on one object."""
    return SimpleNamespace(**{name: value for each in options for name, value in vars(each).items()})
