from diffusers_twinflow.families import FAMILIES
from tests.families import family_matrix, kit


def test_every_family_is_in_the_kit():
    assert {case.family_name for case in kit.CASES} == set(FAMILIES)


def test_the_pages_tell_what_the_kit_runs():
    for path, text in family_matrix.pages().items():
        assert path.read_text(encoding="utf-8") == text, "run `python tests/families/family_matrix.py`"
