import pytest

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.evaluation.results import Results, RowResult, delete_results, start_results
from diffusers_twinflow.evaluation.rows import BASE, TWINFLOW, Row

RESULTS = [
    RowResult(Row(BASE, 28), {"clip_score": 30.0}, 2.0, "cpu", 4),
    RowResult(Row(BASE, 4, "unipc"), error="ValueError: no"),
    RowResult(Row(TWINFLOW, 1), {"fid": 3.5}, 0.1, "a GPU"),
]


def results(**settings) -> Results:
    return Results(settings, {"torch": "2"}, {result.row: result for result in RESULTS})


def test_results_are_read_as_they_were_written(tmp_path):
    results(seed=1).save(tmp_path)
    assert Results.load(tmp_path) == results(seed=1)
    assert start_results(tmp_path, {"seed": 1}, {"torch": "3"}).rows == results().rows


def test_other_settings_are_an_error_until_the_results_are_deleted(tmp_path):
    results(seed=1, prompts_sha256="a").save(tmp_path)
    image = tmp_path / "images" / "base-28-steps" / "00000-00.png"
    image.parent.mkdir(parents=True)
    image.touch()
    (tmp_path / "notes.txt").touch()
    for changed in ({"seed": 2, "prompts_sha256": "b"}, {"seed": 1, "prompts_sha256": "b", "judge": "x:y"}):
        with pytest.raises(TwinFlowConfigError, match=r"other settings \(.*prompts.*\)"):
            start_results(tmp_path, changed, {})
    assert image.exists()
    delete_results(tmp_path)
    assert start_results(tmp_path, {"seed": 2}, {}).rows == {}
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"scores": [{"step": 1}]}', '{"settings": {}, "versions": {}, "rows": [{}]}']
)
def test_a_damaged_file_is_an_error(tmp_path, text):
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(TwinFlowConfigError, match="scores.json' is damaged or from another program"):
        start_results(tmp_path, {}, {})
    delete_results(tmp_path)
    assert start_results(tmp_path, {}, {}).rows == {}


def test_rows_have_names_for_people_and_for_folders():
    assert [result.row.label for result in RESULTS] == ["base, 28 steps", "base, unipc, 4 steps", "TwinFlow, 1 step"]
    assert [result.row.folder for result in RESULTS] == ["base-28-steps", "base-unipc-4-steps", "twinflow-1-step"]
