#!/usr/bin/env python
"""Time and memory of a LoRA training step of full TwinFlow at real size, with random weights, on one GPU.

This is a step of `Trainer` on a base of a published size with random weights, quantized or not: rank 64, order 2, adversarial
branch and rectification. Without a GPU this is a tiny rehearsal.

    python benchmarks/real_size.py --parts sd3_1024 qwen_512_int8 --minutes 8
"""

import argparse
import collections
import dataclasses
import statistics

import torch

from at_real_size.building import random_transformer
from at_real_size.measuring import (
    Report,
    add_common_arguments,
    allocated_gib,
    announce,
    peak_gib,
    synchronize,
    timed,
)
from at_real_size.models import FLUX_DEV, QWEN_IMAGE, SD35_MEDIUM, RealModel
from at_real_size.ours import FULL_TWINFLOW, OurTraining, run_options
from diffusers_twinflow.training.quantization import check_quantization

TINY_RESOLUTION = 64
CYCLES_HELP = "How often each of the four branches is trained in the timed steps of batch 1."


@dataclasses.dataclass(frozen=True)
class Setting:
    name: str
    model: RealModel
    resolution: int
    batch: int
    quantize_base: str | None = None


SETTINGS = {
    "sd3_1024": Setting("SD3.5-medium", SD35_MEDIUM, 1024, 4),
    "sd3_1024_batch_1": Setting("SD3.5-medium", SD35_MEDIUM, 1024, 1),
    "flux_512": Setting("FLUX.1-dev", FLUX_DEV, 512, 1),
    "qwen_512_int8": Setting("Qwen-Image", QWEN_IMAGE, 512, 1, "torchao_int8"),
    "qwen_512_nf4": Setting("Qwen-Image", QWEN_IMAGE, 512, 1, "bnb_4bit"),
    "qwen_512_bf16": Setting("Qwen-Image", QWEN_IMAGE, 512, 1),
    "qwen_1024_int8": Setting("Qwen-Image", QWEN_IMAGE, 1024, 1, "torchao_int8"),
}


def measure_setting(args, setting: Setting) -> dict:
    """Return a row: build the model, then time steps until each branch was trained."""
    device = torch.device(args.device)
    check_quantization(setting.quantize_base, "lora")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    built = {}

    def build_base() -> None:
        built["transformer"] = random_transformer(setting.model, device, torch.bfloat16, setting.quantize_base)

    row = {"build_seconds": timed(build_base, device), "build_peak_gib": peak_gib(device)}
    transformer = built.pop("transformer")
    row["parameters"] = sum(count_values(parameter) for parameter in transformer.parameters())
    row["base_gib"] = allocated_gib(device)
    options = run_options(setting.batch, True, f"--rank={args.rank}", *FULL_TWINFLOW)
    latents = setting.model.latents(setting.batch, setting.resolution, device)
    training = OurTraining(setting.model, transformer, options, latents)
    try:
        row |= {"trained_parameters": training.trained_parameters, "resident_gib": allocated_gib(device)}
        return row | time_steps(training, device, args.cycles)
    finally:
        training.close()


def count_values(parameter: torch.nn.Parameter) -> int:
    """Return the number of weights of a parameter. In NF4, a byte contains two."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def time_steps(training: OurTraining, device: torch.device, cycles: int) -> dict:
    """Return the seconds per step, in total and by branch, and the peak memory."""
    cycle = training.cycle
    for _ in range(cycle):
        training.step()
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = collections.defaultdict(list)
    for _ in range(cycles * cycle):
        trained = "+".join(training.next_branches())
        seconds[trained].append(timed(training.step, device))
    every = [value for values in seconds.values() for value in values]
    return {
        "seconds": statistics.median(every),
        "mean_seconds": statistics.fmean(every),
        "seconds_by_branches": {name: statistics.median(values) for name, values in seconds.items()},
        "runs": len(every),
        "peak_gib": peak_gib(device),
        "last_gradient_norm": float(training.grad_norm),
    }


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_arguments(parser, list(SETTINGS), "real_size")
    parser.add_argument("--cycles", type=int, default=1 if parser.get_default("tiny") else 2, help=CYCLES_HELP)
    return parser.parse_args(input_args)


def rehearsed(setting: Setting) -> Setting:
    """Return the setting with a tiny model. NF4, which needs a GPU, becomes 8 bit."""
    quantize_base = setting.quantize_base and "torchao_int8"
    changes = {"name": f"tiny {setting.name}", "model": setting.model.tiny(), "resolution": TINY_RESOLUTION}
    return dataclasses.replace(setting, **changes, quantize_base=quantize_base)


def main(args: argparse.Namespace) -> int:
    announce(args)
    report = Report(args, args.output, args.minutes)
    for part in args.parts:
        if report.is_over(part):
            continue
        setting = rehearsed(SETTINGS[part]) if args.tiny else SETTINGS[part]
        with report.guarded(part):
            described = {"model": setting.name, "resolution": setting.resolution, "batch": setting.batch}
            described |= {"quantize_base": setting.quantize_base, "rank": args.rank, "gradient_checkpointing": True}
            report.add({"part": part, **described, **measure_setting(args, setting)})
    announce(args)
    return report.exit_code()


if __name__ == "__main__":
    raise SystemExit(main(parse_args()))
