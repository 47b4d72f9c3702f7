import json

import pytest

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.evaluation.prompts import EvaluationPrompt, ExpectedObject, digest_of, read_prompts


def test_a_text_file_has_one_prompt_per_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffa red fox \n\n  \n{not json}\n", encoding="utf-8")
    assert read_prompts(path) == [EvaluationPrompt("a red fox"), EvaluationPrompt("{not json}")]


def test_json_lines_name_what_images_must_show(tmp_path):
    """A line of GenEval's file and one with a text."""
    lines = [
        {
            "tag": "position",
            "include": [
                {"class": "dog", "count": 1},
                {"class": "cat", "count": 2, "position": ["left of", 0]},
            ],
            "exclude": [{"class": "cat", "count": 3}],
            "prompt": "two cats left of a dog",
        },
        {"prompt": "a sign", "text": "STOP"},
        {"prompt": "a red dog", "include": [{"class": "dog", "color": "red"}]},
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    cats, sign, red = read_prompts(path)
    assert cats == EvaluationPrompt(
        "two cats left of a dog",
        "position",
        (ExpectedObject("dog"), ExpectedObject("cat", 2, ("left of", 0))),
        (ExpectedObject("cat", 3),),
    )
    assert sign.text == "STOP" and not sign.expects_objects
    assert cats.expects_objects and not red.expects_objects, "colors are not checked"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "Line 2 .*not valid"),
        ("[]", "must be a JSON object"),
        ("{}", "'prompt' is missing"),
        ('{"prompt": " "}', "'prompt' is missing"),
        ('{"prompt": 3}', "'prompt' is 3: it must be a string"),
        ('{"prompt": "a", "texts": "b"}', "'texts' is not a known field. The fields are prompt, tag"),
        ('{"prompt": "a", "include": "dog"}', "'include' is 'dog': it must be a list"),
        ('{"prompt": "a", "include": ["dog"]}', "must be a JSON object such as"),
        ('{"prompt": "a", "include": [{"count": 1}]}', "no 'class'"),
        ('{"prompt": "a", "include": [{"class": "dog", "count": 0}]}', "'count' is 0"),
        ('{"prompt": "a", "include": [{"class": "dog", "position": ["near", 0]}]}', "one of left of, right of"),
        ('{"prompt": "a", "include": [{"class": "dog", "position": ["above", 1]}]}', "object 1, but there are 1"),
    ],
)
def test_a_line_that_is_not_valid_is_named(tmp_path, line, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n' + line)
    with pytest.raises(TwinFlowConfigError, match=message):
        read_prompts(path)


@pytest.mark.parametrize(("content", "message"), [(None, "cannot be read"), ("\n \n", "contains no prompt")])
def test_a_file_without_prompts_is_an_error(tmp_path, content, message):
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(TwinFlowConfigError, match=message):
        read_prompts(path)


def test_the_digest_depends_on_prompts_and_expectations():
    prompts = [EvaluationPrompt("a"), EvaluationPrompt("b", text="x")]
    others = (prompts[::-1], prompts[:1], [prompts[0], EvaluationPrompt("b")])
    assert len({digest_of(each) for each in (prompts, *others)}) == 4
    assert digest_of(prompts) == digest_of(list(prompts))
