import argparse
import re

import pytest

from diffusers_twinflow.cli import train
from diffusers_twinflow.cli.flags import name_flags
from diffusers_twinflow.cli.main import build_parser


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    return build_parser().parse_args(["generate", "a", "--adapter", "x"]).parser


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("pass base_model= with where it is.", "pass --base_model with where it is."),
        ("num_frames=6: cut them to 5", "--num_frames=6: cut them to 5"),
        ("use num_frames=5, or height=.5 (width=8)", "use --num_frames=5, or --height=.5 (--width=8)"),
        ("`height` and `width` have to be divisible by 8", "--height and --width have to be divisible by 8"),
        ("num_inference_steps=2000 is too large", "--steps=2000 is too large"),
        ("set torch_dtype=.", "set --dtype."),
        ("--num_frames=6 is not for it", "--num_frames=6 is not for it"),
        ("max_height=3, x.seed=4 and `seeds` are others", "max_height=3, x.seed=4 and `seeds` are others"),
        ("no option is named", "no option is named"),
    ],
)
def test_arguments_of_the_library_become_flags(parser, message, shown):
    assert name_flags(message, parser) == shown


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("use_ema=false removes the teacher", "--no-use_ema removes the teacher"),
        ("set diff2flow_enabled=true, or cache_latents=True.", "set --diff2flow_enabled, or --cache_latents."),
        ("my_use_ema=true and use_ema=trueish", "my_use_ema=true and --use_ema=trueish"),
    ],
)
def test_switches_are_written_as_the_command_line_takes_them(message, shown):
    parser = train.build_parser()
    assert name_flags(message, parser) == shown
    for flag in re.findall(r"--[a-z]\w*(?:-\w+)?(?=[ ,.])", shown):
        train.parse_args([flag, "--pretrained_model_name_or_path", "base"])


def test_flags_are_those_of_the_command():
    push = build_parser().parse_args(["push", "folder", "me/x"]).parser
    assert name_flags("base_model= and seed=3", push) == "--base_model and seed=3"
