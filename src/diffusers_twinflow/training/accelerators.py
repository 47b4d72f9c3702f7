"""Build the accelerator of a run."""

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs, ProjectConfiguration, set_seed

from ..configuration import TwinFlowConfigError
from ..evaluation.processes import LONGEST_WAIT
from . import deepspeed
from .arguments import TrainingArguments
from .base_model import weight_dtype_of
from .cuda_graphs import check_cuda_graphs
from .distributed import check_distributed, uses_deepspeed
from .tracking import tracker_names

logger = get_logger(__name__)


def build_accelerator(args: TrainingArguments) -> Accelerator:
    """Build the accelerator of the run and seed the global random generators.

    Raises:
        TwinFlowConfigError: if the way the processes were launched is not supported, or the precision is not supported
            on the CPU.
    """
    accelerator = Accelerator(
        mixed_precision="no" if deepspeed.is_asked_for() else args.mixed_precision,
        log_with=None if args.dry_run else tracker_names(args.report_to) or None,
        project_config=ProjectConfiguration(args.output_dir, logging_dir=str(Path(args.output_dir, args.logging_dir))),
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=args.gradient_accumulation_steps, sync_with_dataloader=False
        ),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)],
    )
    if accelerator.device.type == "cpu":
        _check_precision_of_cpu(args.mixed_precision)
    check_distributed(accelerator, args.offload_ema)
    check_cuda_graphs(args, accelerator)
    if uses_deepspeed(accelerator):
        deepspeed.configure(
            accelerator,
            weight_dtype_of(args),
            batch_size=args.train_batch_size,
            accumulation_steps=args.gradient_accumulation_steps,
            max_grad_norm=args.max_grad_norm,
        )
    set_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = args.allow_tf32
    return accelerator


def _check_precision_of_cpu(precision: str | None) -> None:
    """Refuse fp16, which accelerate would train without autocast and loss scaling, and warn that bf16 is slow."""
    if precision == "fp16":
        raise TwinFlowConfigError(
            "mixed_precision=fp16 needs a GPU, and this run is on the CPU. Use mixed_precision=no."
        )
    if precision == "bf16":
        logger.warning(
            "mixed_precision=bf16 is slower than mixed_precision=no on a CPU, unless it has instructions for bf16 "
            "(AVX512-BF16 or AMX)."
        )
