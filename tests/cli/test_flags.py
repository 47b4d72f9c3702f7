import argparse

import pytest

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


def test_flags_are_those_of_the_command():
    push = build_parser().parse_args(["push", "folder", "me/x"]).parser
    assert name_flags("base_model= and seed=3", push) == "--base_model and seed=3"
