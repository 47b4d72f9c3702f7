import pytest

from tests.fresh_accelerator import new_accelerator_state  # noqa: F401


@pytest.fixture
def arguments(base_dir, image_dir, tmp_path):
    """Arguments of a short run; what a test adds comes after and wins."""

    def build(*more: str) -> list[str]:
        options = {
            "pretrained_model_name_or_path": base_dir,
            "dataset_name": image_dir,
            "output_dir": tmp_path / "out",
            "resolution": 16,
            "max_sequence_length": 2,
            "train_batch_size": 4,
            "max_train_steps": 4,
            "checkpointing_steps": 2,
            "learning_rate": 1e-3,
            "rank": 2,
        }
        return [f"--{name}={value}" for name, value in options.items()] + list(more)

    return build


@pytest.fixture
def short(arguments, tmp_path):
    """Arguments of a run of 4 samples a step."""

    def build(name: str, processes: int, *more: str) -> list[str]:
        options = {
            "output_dir": tmp_path / name,
            "train_batch_size": 4 // processes,
            "max_train_steps": 3,
            "checkpointing_steps": 1,
            # Adam with so large an epsilon is plain gradient descent: rounding does not flip the sign of an update.
            "learning_rate": 10,
            "adam_epsilon": 10,
        }
        switches = ["--twinflow_enabled", "--twinflow_adversarial_enabled", "--cache_latents", "--no-save_ema"]
        return arguments(*(f"--{option}={value}" for option, value in options.items()), *switches, *more)

    return build
