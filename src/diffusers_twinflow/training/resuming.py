"""Resume from a checkpoint: check which options may differ from the earlier run, and apply the new ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..configuration import TwinFlowConfigError
from . import deepspeed
from .arguments import FIXED
from .checkpoint_files import Manifest, checkpoint_step
from .distributed import checkpoint_state, uses_deepspeed
from .schedule import PROCESSES, SAMPLES_PER_EPOCH, SAMPLES_PER_STEP

HYPERPARAMETERS = (
    "initial_lr",
    "betas",
    "eps",
    "weight_decay",
    "beta3",
    "decouple",
    "use_bias_correction",
    "safeguard_warmup",
)
"""Values in an optimizer's checkpoint that are replaced by the options of the resumed run."""
FIXED_OF_THE_METHOD = ("twinflow_enabled", "diff2flow_enabled")


def check_options(new: Mapping[str, Any], checkpoint: Path) -> None:
    """Check that a run can resume from a checkpoint with its options.

    Args:
        new: options of the resumed run.
        checkpoint: checkpoint to resume from.

    Raises:
        TwinFlowConfigError: if an option changed that must be the same as in the run that wrote the checkpoint.
    """
    old: dict[str, Any] = Manifest.read(checkpoint).arguments
    new = dict(new)
    alphas = [values.get("lora_alpha") for values in (old, new)]
    if alphas != [None, None]:  # the default is the rank
        old, new = (values | {"lora_alpha": values.get("lora_alpha", values.get("rank"))} for values in (old, new))
    changed = [
        f"{name}={new.get(name)} (it was {old.get(name)})"
        for name in (*FIXED, *FIXED_OF_THE_METHOD)
        if old.get(name) != new.get(name) and not _is_moved_base(name, old, new)
    ]
    ema_decays = [float(values.get("twinflow_ema_decay", 0)) for values in (old, new)]
    if new.get("twinflow_enabled") and ema_decays[0] != ema_decays[1] and 0 in ema_decays:
        changed.append(f"twinflow_ema_decay={ema_decays[1]} (it was {ema_decays[0]}; 0 keeps no teacher)")
    if changed:
        raise TwinFlowConfigError(
            f"'{checkpoint}' cannot be resumed with different options: {', '.join(changed)}. Set them back, or start a "
            "new run in another `output_dir`."
        )


def _is_moved_base(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether the base was a folder and still is one. Its path may change."""
    was, now = str(old.get(name)), str(new.get(name))
    return name == "pretrained_model_name_or_path" and Path(now).is_dir() and Path(was).is_absolute()


def check_sizes(checkpoint: Path, sizes: dict[str, int]) -> None:
    """Check that the resumed run has the same samples in the same order.

    Raises:
        TwinFlowConfigError: if the numbers that define the order have changed.
    """
    old = Manifest.read(checkpoint).sizes
    remedies = {
        SAMPLES_PER_STEP: "`train_batch_size` times `gradient_accumulation_steps` times processes must stay the same",
        SAMPLES_PER_EPOCH: "the data must stay the same",
    }
    for name, remedy in remedies.items():
        if old.get(name) != sizes.get(name):
            raise TwinFlowConfigError(
                f"'{checkpoint}' cannot be resumed with {sizes.get(name)} {name.replace('_', ' ')} (it was "
                f"{old.get(name)}): {remedy}."
            )


def check_steps(checkpoint: Path, total_steps: int | None) -> None:
    """Check that a resumed run does not end before its checkpoint.

    Args:
        total_steps: number of steps at the end of the run; `None` if it is not known yet.

    Raises:
        TwinFlowConfigError: if it does.
    """
    taken = checkpoint_step(checkpoint)
    if total_steps is not None and taken > total_steps:
        raise TwinFlowConfigError(
            f"'{checkpoint}' has taken {taken} steps, but the run ends after {total_steps}. Set `max_train_steps` to "
            f"{taken} or more, or resume from an earlier checkpoint."
        )


def load_checkpoint(
    accelerator: Accelerator, checkpoint: Path, model: torch.nn.Module, optimizer: Any, lr_scheduler: Any
) -> None:
    """Load a checkpoint that `save_checkpoint` wrote. All processes must call it.

    The learning rates and other numbers of the optimizer come from the options of the resumed run.

    Raises:
        TwinFlowConfigError: if the checkpoint cannot be loaded.
    """
    options = [{name: group[name] for name in HYPERPARAMETERS if name in group} for group in optimizer.param_groups]
    try:
        with checkpoint_state(accelerator, model):
            accelerator.load_state(str(checkpoint), **(deepspeed.LOAD_OPTIONS if uses_deepspeed(accelerator) else {}))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise TwinFlowConfigError(
            f"resume_from_checkpoint='{checkpoint}' cannot be loaded ({type(error).__name__}: {error}). Resume from "
            "another checkpoint."
        ) from error
    for group, own in zip(optimizer.param_groups, options):
        group.update(own)
    _apply_rates(optimizer, lr_scheduler, accelerator.num_processes / Manifest.read(checkpoint).sizes[PROCESSES])


def _apply_rates(optimizer: Any, lr_scheduler: Any, more_processes: float) -> None:
    """Set the learning rates of the next step from this run's schedule. accelerate counts a step once per process."""
    schedule = getattr(lr_scheduler, "scheduler", lr_scheduler)
    schedule.last_epoch = round(schedule.last_epoch * more_processes)
    schedule.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
    for group, rate, factor in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas):
        group["lr"] = rate * factor(schedule.last_epoch)
    schedule._last_lr = [group["lr"] for group in optimizer.param_groups]
