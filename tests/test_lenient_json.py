import codecs

import pytest

from diffusers_twinflow import TwinFlowConfigError, lenient_json
from diffusers_twinflow.options import misspelled_option, read_json_options

WRITTEN = """{
  // a comment, with "quotes"
  "url": "https://x.y/*z*/", /* two
  lines */ "text": "a, ] \\" // b",
  "list": [1, 2,
  ],
}"""
MEANT = {"url": "https://x.y/*z*/", "text": 'a, ] " // b', "list": [1, 2]}


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ],
)
def test_json_written_by_hand(mark, encoding, tmp_path):
    content = mark + WRITTEN.encode(encoding)
    assert lenient_json.loads(content) == MEANT
    (tmp_path / "recipe.json").write_bytes(content)
    assert read_json_options(tmp_path / "recipe.json") == MEANT


@pytest.mark.parametrize("content", [b'{"a": 1,,}', b'{"a" 1}', b"{", b"\xff\xff", b"/* {}", b'{"a": "//}', b""])
def test_what_is_no_json_is_refused(content, tmp_path):
    (tmp_path / "recipe.json").write_bytes(content)
    with pytest.raises(TwinFlowConfigError, match="is not valid JSON"):
        read_json_options(tmp_path / "recipe.json")


def test_the_line_of_a_mistake_is_that_of_the_file():
    with pytest.raises(ValueError, match="^line 4, column 2: found 'o', "):
        lenient_json.loads(b'{ // one\n/* two\nthree */ "a": 1,\n oops }')


@pytest.mark.parametrize(
    ("name", "content", "place", "advice"),
    [
        ("recipe.yaml", b"# mine\nrank: 4\n", "line 1, column 1: found '#'", "as JSON, not as YAML"),
        ("recipe.yml", b"rank: 4\n", "line 1, column 1: found 'r'", "as JSON, not as YAML"),
        ("recipe.toml", b"[training]\nrank = 4\n", "line 1, column 2: found 't'", "as JSON, not as TOML"),
        ("recipe", b"rank = 4\n", "line 1, column 1: found 'r'", "must be JSON"),
        ("recipe.json", b'{\n  "rank": 4\n  "seed": 1\n}', "line 3, column 3: found '\"'", "must be JSON"),
        ("recipe.json", b'{"rank": 4', "line 1, column 11: the file ends", "must be JSON"),
        ("recipe.json", b'\xef\xbb\xbf{"rank": four}', "line 1, column 10: found 'f'", "must be JSON"),
        ("recipe.json", "{'rank': 4}".encode("utf-16"), 'line 1, column 2: found "\'"', "must be JSON"),
    ],
)
def test_a_recipe_in_another_format_is_told_the_format_and_the_first_bad_character(
    name, content, place, advice, tmp_path
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TwinFlowConfigError) as raised:
        read_json_options(tmp_path / name)
    assert place in str(raised.value) and advice in str(raised.value) and '{"rank": 64' in str(raised.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("learning_rat", "learning_rate"),
        ("learnign_rate", "learning_rate"),
        ("learningrate", "learning_rate"),
        ("gradient_accumulatoin_stesp", "gradient_accumulation_steps"),
        ("adam_beta3", None),
        ("disable_tf32", None),
        ("maximum_image_size", None),
        ("train_batch", None),
        ("lr", None),
    ],
)
def test_misspelled_options(name, meant):
    known = [
        "learning_rate",
        "gradient_accumulation_steps",
        "adam_beta2",
        "allow_tf32",
        "minimum_image_size",
        "train_type",
    ]
    assert misspelled_option(name, [*known, "train_batch_size"]) == meant
