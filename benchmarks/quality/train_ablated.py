"""The training script with the times given to the transformer in another way, for the ablations of the benchmark.

    python benchmarks/quality/train_ablated.py --times negative <arguments of examples/train_twinflow.py>

- "negative": the twin's trajectory is told by negative times `-t`, `-r`; the sign embedding is not used.
- "squeezed": both times as the one number `t - r/2`; the target embedding is not used, the sign embedding is.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import train_twinflow
from diffusers_twinflow.families.stable_diffusion_3 import StableDiffusion3Family


def negative_times(family, t, r, sign):
    return {"timestep": family.timestep(sign * t), "target_timestep": family.timestep(sign * r)}


def squeezed_times(family, t, r, sign):
    return {"timestep": family.timestep(t - r / 2), "timestep_sign": sign}


TIMES = {"negative": negative_times, "squeezed": squeezed_times}


def main(input_args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--times", choices=TIMES, required=True)
    args, rest = parser.parse_known_args(input_args)
    StableDiffusion3Family.times = TIMES[args.times]
    train_twinflow.main(rest)


if __name__ == "__main__":
    main()
