import argparse
import json

import pytest

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.ranges import AT_LEAST_1, POSITIVE, Number
from diffusers_twinflow.training.arguments import OneLineParser, as_arguments, parse_with_config, save_arguments


@pytest.fixture
def parser():
    parser = OneLineParser()
    parser.add_argument("--config")
    parser.add_argument("--rank", type=Number(int, AT_LEAST_1), default=64)
    parser.add_argument("--rates", type=Number(float, POSITIVE), nargs="+")
    parser.add_argument("--kind", choices=["a", "b"], default="a")
    parser.add_argument("--buckets", nargs="?", const="auto")
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"twinflow_enabled": "perhaps"}, "twinflow_enabled='perhaps' must be true or false"),
        ({"twinflow_enabled": 0.5}, "true or false"),
        ({"rank": "many"}, "'rank' of .* is \"many\": it must be a whole number"),
        ({"rank": 4.5}, "a whole number"),
        ({"rank": True}, "'rank' of .* is true: it must be a whole number"),
        ({"rank": [4]}, "a whole number"),
        ({"rank": 1e400}, "a whole number"),
        ({"rates": {"a": 1}}, "a number"),
        ({"rates": [1, "x"]}, "a number"),
        ({"hub_token": ["a"]}, "a text"),
        ({"kind": "c"}, "one of a, b"),
        ({"rank": 0}, "--rank=0 is not valid: it must be 1 or more"),
        ({"rates": [1, -2]}, "--rates=-2.0 is not valid: it must be above 0"),
    ],
    ids=str,
)
def test_values_of_the_wrong_type_are_named(parser, tmp_path, options, message):
    with pytest.raises(TwinFlowConfigError, match=message):
        parse_with_config(parser, config(tmp_path, **options))


@pytest.mark.parametrize(
    ("options", "name", "expected"),
    [
        ({"rank": 4.0}, "rank", 4),
        ({"rank": "4"}, "rank", 4),
        ({"rates": 1}, "rates", [1.0]),
        ({"twinflow_enabled": "True"}, "twinflow_enabled", True),
        ({"names": ["-- a prompt", "--rank=3"]}, "names", ["-- a prompt", "--rank=3"]),
        ({"rank": None, "names": []}, "rank", 64),
        ({"buckets": True}, "buckets", "auto"),
        ({"buckets": "16,16"}, "buckets", "16,16"),
    ],
    ids=str,
)
def test_values_as_a_file_gives_them(parser, tmp_path, options, name, expected):
    assert getattr(parse_with_config(parser, config(tmp_path, **options)), name) == expected


@pytest.mark.parametrize(
    "given", [["--rank=0"], ["--rank=nan"], ["--rates", "1", "nan"], ["--rates=inf"], ["--kind=c"]]
)
def test_bad_arguments_are_one_line_without_usage(parser, given, capsys):
    with pytest.raises(TwinFlowConfigError, match=given[0].split("=")[0]) as raised:
        parse_with_config(parser, given)
    assert "\n" not in str(raised.value) and capsys.readouterr().err == ""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_recipe_in_any_unicode_encoding(parser, tmp_path, encoding):
    path = tmp_path / "recipe.json"
    path.write_bytes(json.dumps({"names": ["füchse"]}, ensure_ascii=False).encode(encoding))
    assert parse_with_config(parser, ["--config", str(path)]).names == ["füchse"]


def test_a_recipe_that_is_no_text_is_named(parser, tmp_path):
    for name, content in {"bytes.json": b"\xff\x00\xfe{", "deep.json": b"[" * 100_000}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TwinFlowConfigError, match=f"{name}' is not valid JSON"):
            parse_with_config(parser, ["--config", str(tmp_path / name)])
    with pytest.raises(TwinFlowConfigError, match="cannot be read"):
        parse_with_config(parser, ["--config", str(tmp_path)])


def test_what_is_saved_is_read_as_it_was_without_tokens(parser, tmp_path):
    args = parse_with_config(parser, ["--rank=3", "--names", "a", "b", "--hub_token=hf_secret"])
    path = save_arguments(args, tmp_path)
    assert "hf_secret" not in path.read_text()
    again = parse_with_config(parser, ["--config", str(path)])
    assert vars(again) == vars(args) | {"config": str(path), "hub_token": None}
