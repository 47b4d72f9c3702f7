import argparse
import json

import pytest

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.training.arguments import as_arguments, parse_with_config, save_arguments


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--twinflow_enabled", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--names", "--old_names", nargs="+", default=["text"])
    parser.add_argument("--hub_token")
    parser.add_argument("--seed", type=int)
    return parser


def config(tmp_path, **options):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(options))
    return ["--config", str(path)]


def test_arguments_win_over_the_file_and_the_file_over_defaults(parser, tmp_path):
    given = config(tmp_path, rank=7, twinflow_enabled=True, old_names=["a b", "-c"][:1])
    args = parse_with_config(parser, [*given, "--no-twinflow_enabled"])
    assert (args.rank, args.twinflow_enabled, args.names, args.seed) == (7, False, ["a b"], None)
    assert parse_with_config(parser, ["--rank=2"]).rank == 2


def test_unknown_options_are_refused_with_the_nearest(parser, tmp_path):
    with pytest.raises(TwinFlowConfigError, match="'rnak'.*Did you mean 'rank'"):
        parse_with_config(parser, config(tmp_path, rnak=7))


def test_options_without_effect_are_named(parser, tmp_path):
    with pytest.warns(UserWarning, match="'disable_benchmark'"):
        parse_with_config(parser, config(tmp_path, disable_benchmark=True))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, []),
        ([], []),
        (True, ["--x"]),
        (False, ["--no-x"]),
        ([1, "a"], ["--x", "1", "a"]),
        (-2.5, ["--x=-2.5"]),
        (100.0, ["--x=100"]),
    ],
)
def test_a_json_option_as_arguments(value, expected):
    assert as_arguments("x", value) == expected


def test_what_is_saved_is_read_as_it_was_without_tokens(parser, tmp_path):
    args = parse_with_config(parser, ["--rank=3", "--names", "a", "b", "--hub_token=hf_secret"])
    path = save_arguments(args, tmp_path)
    assert "hf_secret" not in path.read_text()
    again = parse_with_config(parser, ["--config", str(path)])
    assert vars(again) == vars(args) | {"config": str(path), "hub_token": None}
