from collections import Counter

import numpy as np
import pytest
from scipy import stats

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.data.captions import CaptionSource
from diffusers_twinflow.data.draws import SampleDraw


def test_columns_give_texts_and_lists_of_texts_without_blanks():
    source = CaptionSource(columns=("long", "short", "tags"))
    row = {"long": " a red fox ", "short": None, "tags": ["fox", "", "  ", "snow"]}
    assert source.candidates(row) == ["a red fox", "fox", "snow"]
    assert source.candidates({"long": " ", "short": None, "tags": []}) == []


def test_text_files_names_and_one_prompt_for_all(tmp_path):
    row = {"image": {"path": str(tmp_path / "red_fox.png"), "bytes": None}}
    (tmp_path / "red_fox.txt").write_text("a red fox\n\nfüchse\n", encoding="utf-8")
    assert CaptionSource("textfile").candidates(row) == ["a red fox", "füchse"]
    assert CaptionSource("filename").candidates(row) == ["red fox"]
    assert CaptionSource("instance_prompt", instance_prompt="sks dog").candidates(row) == ["sks dog"]
    with pytest.raises(FileNotFoundError):
        CaptionSource("textfile").candidates({"image": {"path": str(tmp_path / "other.png")}})


def test_a_position_always_chooses_alike_and_positions_choose_evenly():
    source = CaptionSource(columns=("a", "b", "c"), dropout_probability=0.25)
    chosen = [source.choose(["x", "y", "z"], SampleDraw.at(0, position)) for position in range(4000)]
    assert chosen == [source.choose(["x", "y", "z"], SampleDraw.at(0, position)) for position in range(4000)]
    shares = {caption: count / len(chosen) for caption, count in Counter(chosen).items()}
    assert shares == pytest.approx({"": 0.25, "x": 0.25, "y": 0.25, "z": 0.25}, abs=0.03)
    other_seed = [source.choose(["x", "y", "z"], SampleDraw.at(1, position)) for position in range(4000)]
    assert chosen != other_seed


def test_dropout_of_none_and_all():
    draws = [SampleDraw.at(0, position) for position in range(100)]
    assert {CaptionSource().choose(["x"], draw) for draw in draws} == {"x"}
    assert {CaptionSource(dropout_probability=1.0).choose(["x"], draw) for draw in draws} == {""}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "guess"}, "caption_strategy='guess'.*textfile"),
        ({"strategy": "instance_prompt"}, "`instance_prompt`"),
        ({"dropout_probability": 1.5}, "caption_dropout_probability=1.5"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(TwinFlowConfigError, match=message):
        CaptionSource(**options)


def test_draws_of_a_position_are_the_same_in_any_batch_and_uniform():
    whole = SampleDraw.at_positions(0, range(4000))
    for positions in ([0], range(60, 70), [3999, 64, 63, 64], range(1, 4000, 7)):
        assert SampleDraw.at_positions(0, positions) == [whole[position] for position in positions]
    assert SampleDraw.at_positions(1, range(10)) != whole[:10]
    choices = np.array(whole)
    assert min(stats.kstest(choice, "uniform").pvalue for choice in choices.T) > 0.01
    assert np.abs(np.corrcoef(choices.T) - np.eye(len(SampleDraw._fields))).max() < 0.06
    assert len(np.unique(choices)) == choices.size


@pytest.mark.parametrize("text", ["", " \t\n", "\ufeff", "\ufeff \u200b", "\x00"])
def test_a_caption_without_a_visible_character_is_none(text):
    assert CaptionSource().candidates({"text": text}) == []


def test_byte_order_marks_inside_are_left_out_and_other_joiners_stay():
    assert CaptionSource().candidates({"text": "\ufeffa fox\ufeff"}) == ["a fox"]
    assert CaptionSource().candidates({"text": "👩\u200d🚀"}) == ["👩\u200d🚀"]
