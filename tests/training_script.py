"""Where the training script is, and the environment that its runs get."""

from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "examples" / "train_twinflow.py"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "true",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "COMET_START_ONLINE": "0",
}
