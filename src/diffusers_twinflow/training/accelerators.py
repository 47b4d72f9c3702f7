"""Build the accelerator of a run."""

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs, ProjectConfiguration, set_seed

from ..evaluation.processes import LONGEST_WAIT
from . import deepspeed
from .arguments import TrainingArguments
from .base_model import weight_dtype_of
from .cuda_graphs import check_cuda_graphs
from .distributed import check_distributed, uses_deepspeed
from .tracking import tracker_names


def build_accelerator(args: TrainingArguments) -> Accelerator:
    """Build the accelerator of the run and seed the global random generators.

    Raises:
        TwinFlowConfigError: if the way the processes were launched is not supported.
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
