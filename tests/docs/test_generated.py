"""The generated parts of the pages are up to date."""

import re

import marked_parts
import method
import numpy as np
import options_reference
import pytest
import result_tables
import simpletuner_reference
from PIL import Image

from diffusers_twinflow.cli.train import build_parser
from tests.docs.pages import PAGES, ROOT


def test_the_pages_of_options_are_up_to_date():
    page = options_reference.PAGE.read_text(encoding="utf-8")
    assert page == options_reference.filled(page), "run `python docs/options_reference.py`"
    page = options_reference.EVALUATION_PAGE.read_text(encoding="utf-8")
    assert page == options_reference.evaluation_filled(page), "run `python docs/options_reference.py`"


def test_the_page_of_simpletuner_is_up_to_date():
    page = simpletuner_reference.PAGE.read_text(encoding="utf-8")
    assert page == simpletuner_reference.filled(page), "run `python docs/simpletuner_reference.py`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_of_measurements_are_up_to_date(page):
    text = page.read_text(encoding="utf-8")
    assert text == result_tables.fill_tables(text), "run `python docs/result_tables.py`"


def test_every_table_of_measurements_is_on_a_page():
    shown = {name for page in PAGES for name in marked_parts.names_of(page.read_text(encoding="utf-8"))}
    assert set(result_tables.TABLES) - shown == set()


def test_every_flag_of_the_training_command_is_on_the_page_and_says_what_it_does():
    page = options_reference.reference()
    actions = [action for action in build_parser()._actions if action.dest not in ("help", "config")]
    assert [action.dest for action in actions if not action.help] == []
    flags = {flag.removeprefix("--") for action in actions for flag in action.option_strings}
    assert {name for name in flags if not name.startswith("no-") and f"`{name}`" not in page} == set()


def test_a_generated_part_is_replaced_once_and_nothing_else():
    page = "before\n<!-- one -->\nold\n<!-- end -->\nbetween\n<!-- two -->\n<!-- end -->"
    assert marked_parts.names_of(page) == ["one", "two"]
    filled = marked_parts.fill(page, "two", "new")
    assert filled == page.replace("<!-- two -->\n", "<!-- two -->\nnew\n")
    for wrong in ("no place", page + page):
        with pytest.raises(ValueError, match="places for 'one'"):
            marked_parts.fill(wrong, "one", "new")


@pytest.mark.parametrize("mixture", [method.DATA, method.FAKES], ids=["data", "fakes"])
def test_the_drawn_paths_lead_to_the_mixture(mixture):
    noise = np.random.default_rng(0).standard_normal(20_000)
    _, points = method.paths(noise, mixture)
    (low, low_deviation), (high, high_deviation) = mixture
    second_moment = (low**2 + low_deviation**2 + high**2 + high_deviation**2) / 2
    assert points[-1].mean() == pytest.approx((low + high) / 2, abs=0.03)
    assert (points[-1] ** 2).mean() == pytest.approx(second_moment, rel=0.02)


def test_the_picture_is_drawn_at_the_size_that_is_there(tmp_path):
    method.draw(tmp_path / "method.png")
    assert Image.open(tmp_path / "method.png").size == Image.open(method.PICTURE).size


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda path: path.stem)
def test_results_name_no_folder_of_a_machine(path):
    """The commands in a result file can be run elsewhere."""
    assert not re.findall(r"[ \"=]/[A-Za-z]\w*/[^ \"]*", path.read_text(encoding="utf-8"))
