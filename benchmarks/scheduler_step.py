"""Time of one scheduler step: TwinFlowScheduler and FlowMatchEulerDiscreteScheduler, on the CPU and on CUDA.

Both use fresh noise, or both use none. They run in turns, so that a busy machine slows both.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from diffusers_twinflow import TwinFlowScheduler

SHAPES = {"image 1024x1024, SD3": (1, 16, 128, 128), "4 images 1024x1024, Flux": (4, 4096, 64)}
STEPS = 4
SCHEDULERS = {
    "no noise": (TwinFlowScheduler(stochastic_ratio=0.0), FlowMatchEulerDiscreteScheduler()),
    "fresh noise": (TwinFlowScheduler(), FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)),
}


def seconds_per_step(scheduler, sample: torch.Tensor, velocity: torch.Tensor) -> float:
    scheduler.set_timesteps(STEPS, device=sample.device)
    scheduler.set_begin_index(0)
    synchronize(sample.device)
    start = time.perf_counter()
    for t in scheduler.timesteps:
        scheduler.step(velocity, t, sample, return_dict=False)
    synchronize(sample.device)
    return (time.perf_counter() - start) / STEPS


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main():
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON file for the results.")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    devices = {"cpu": f"CPU, {args.threads} thread(s)"}
    if torch.cuda.is_available():
        devices["cuda"] = torch.cuda.get_device_name()

    print(f"median of {args.runs} runs of {STEPS} steps, microseconds a step, bfloat16 velocity, float32 sample")
    print(f"{'device':24} {'latents':26} {'noise':12} {'TwinFlow':>10} {'Euler':>10} {'ratio':>6}")
    rows = []
    for device, device_name in devices.items():
        for shape_name, shape in SHAPES.items():
            sample = torch.randn(shape, device=device)
            velocity = torch.randn(shape, device=device, dtype=torch.bfloat16)
            for noise, pair in SCHEDULERS.items():
                times = [[], []]
                for run in range(args.runs + 5):
                    for scheduler, seen in zip(pair, times):
                        taken = seconds_per_step(scheduler, sample, velocity)
                        if run >= 5:
                            seen.append(taken * 1e6)
                ours, euler = map(statistics.median, times)
                print(f"{device_name:24} {shape_name:26} {noise:12} {ours:10.1f} {euler:10.1f} {ours / euler:6.2f}")
                row = {"device": device_name, "latents": shape_name, "shape": shape, "noise": noise}
                rows.append(
                    {
                        **row,
                        "twinflow_us": round(ours, 1),
                        "euler_us": round(euler, 1),
                        "ratio": round(ours / euler, 3),
                    }
                )
    if args.output:
        versions = {"torch": torch.__version__, "diffusers": diffusers.__version__}
        report = {"runs": args.runs, "steps": STEPS, "statistic": "median", **versions, "rows": rows}
        args.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
