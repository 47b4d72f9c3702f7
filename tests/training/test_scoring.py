import json

import pytest
from accelerate import PartialState

from diffusers_twinflow.configuration import TwinFlowConfig, TwinFlowConfigError
from diffusers_twinflow.training.arguments import TrainingArguments
from diffusers_twinflow.training.scoring import ScoreBook, check_scores, spread


def book_of(tmp_path, values, name="prompt_score", **options):
    book = ScoreBook(tmp_path, **options)
    return book, [book.add(step, {name: value}) for step, value in enumerate(values, 1)]


def test_the_first_of_equals_is_best_and_others_are_not(tmp_path):
    book, is_best = book_of(tmp_path, [1.0, 1.0, 3.0, 2.0])
    assert is_best == [True, False, True, False] and book.best == {"step": 3, "prompt_score": 3.0}


@pytest.mark.parametrize(
    ("name", "higher_is_better", "best"),
    [("frechet_distance", None, 2), ("frechet_distance", True, 1), ("judge", None, 1), ("judge", False, 2)],
)
def test_a_distance_is_better_lower(tmp_path, name, higher_is_better, best):
    book, _ = book_of(tmp_path, [5.0, 2.0, 3.0], name, higher_is_better=higher_is_better)
    assert book.best["step"] == best


def test_not_a_number_is_never_best(tmp_path):
    nan = float("nan")
    assert book_of(tmp_path, [1.0, nan, 2.0])[1] == [True, False, True]
    assert book_of(tmp_path, [3.0, nan, 2.0], "frechet_distance")[1] == [True, False, True]


def test_patience_counts_the_scores_since_the_best(tmp_path):
    book = ScoreBook(tmp_path, patience=2)
    over = []
    for step, value in enumerate([1.0, 0.0, 2.0, 1.0, 1.5], 1):
        book.add(step, {"judge": value})
        over.append(book.is_over)
    assert over == [False, False, False, False, True]
    assert not book_of(tmp_path, [3.0, 2.0, 1.0])[0].is_over


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path):
    book, _ = book_of(tmp_path, [1.0, 9.0, 2.0], metric="prompt_score")
    book.save()
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written["metric"] == "prompt_score" and written["best_step"] == 2
    resumed = ScoreBook(tmp_path, metric="prompt_score", first_step=1)
    assert resumed.entries == [{"step": 1, "prompt_score": 1.0}]
    assert resumed.add(2, {"prompt_score": 2.0})
    assert ScoreBook(tmp_path, first_step=3).entries == written["scores"]


@pytest.mark.parametrize("text", ["", '{"scores": [', "[]", '{"scores": [{"judge": 1}]}', "null"])
def test_a_damaged_file_of_scores_is_forgotten(tmp_path, text, caplog):
    (tmp_path / "scores.json").write_text(text)
    PartialState()
    book = ScoreBook(tmp_path, first_step=9, patience=1)
    assert book.entries == [] and not book.is_over and "scores.json' is damaged" in caplog.text


def test_a_run_that_was_over_is_over_when_it_is_resumed(tmp_path):
    book, _ = book_of(tmp_path, [2.0, 1.0], patience=1)
    book.save()
    assert ScoreBook(tmp_path, first_step=2, patience=1).is_over and book.has(2) and not book.has(3)
    assert not ScoreBook(tmp_path, first_step=2, patience=2).is_over


def test_the_deciding_score_must_be_measured(tmp_path):
    with pytest.raises(TwinFlowConfigError, match="score_metric=taste.*Choose one of judge"):
        ScoreBook(tmp_path, metric="taste").add(1, {"judge": 1.0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"streaming": True}, "streaming"),
        ({"frechet_model": "somewhere", "twinflow_image_free": True}, "frechet_model"),
        ({"frechet_model": "somewhere", "num_frames": 5}, "`frechet_model` compares images.*num_frames=5"),
        ({"judge": None}, "`score_steps` needs"),
        ({"score_steps": None}, "`judge` needs `score_steps`"),
    ],
)
def test_scores_that_cannot_be_taken(changes, message):
    given = {"score_steps": 1, "judge": "json:loads"}
    check_scores(TrainingArguments(**given), TwinFlowConfig())
    config = TwinFlowConfig(twinflow_image_free=changes.pop("twinflow_image_free", False))
    with pytest.raises(TwinFlowConfigError, match=message):
        check_scores(TrainingArguments(**{**given, **changes}), config)


def test_spread():
    assert spread("abcd", 2) == ["a", "c"] and spread("ab", 5) == ["a", "a", "a", "b", "b"]
    assert spread("abc", 3) == ["a", "b", "c"]
