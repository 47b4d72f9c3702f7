import family_matrix
import kit

from diffusers_twinflow.families import FAMILIES


def test_every_family_is_in_the_kit():
    assert {case.family_name for case in kit.CASES} == set(FAMILIES)


def test_the_page_tells_what_the_kit_runs():
    page = family_matrix.PAGE.read_text()
    assert page == family_matrix.fill(page), "run `python tests/families/family_matrix.py`"
