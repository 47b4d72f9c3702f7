from diffusers_twinflow.evaluation.report import curves, points_of, table
from diffusers_twinflow.evaluation.results import RowResult
from diffusers_twinflow.evaluation.rows import BASE, TWINFLOW, Row

ROWS = [
    RowResult(Row(BASE, 28), {"taste": 0.5, "clip_score": 30.0}, 2.0, "cpu"),
    RowResult(Row(BASE, 2, "unipc"), {"fid": 120.25, "taste": 0.25, "clip_score": 10.0}, 0.2, "cpu"),
    RowResult(Row(BASE, 1, "unipc"), error="ValueError: no"),
    RowResult(Row(TWINFLOW, 2), {"fid": 3.0, "taste": 1.0, "clip_score": 31.0}, 0.2, "cpu"),
    RowResult(Row(TWINFLOW, 1), {"fid": 4.0, "taste": 0.75, "clip_score": 29.0}, 0.1, "cpu"),
]


def test_the_table_has_every_row_and_says_what_failed():
    assert table(ROWS) == (
        "|  | Fréchet distance | CLIP score | taste | seconds per image | device |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| base, 28 steps | - | 30 | 0.5 | 2 | cpu |\n"
        "| base, unipc, 2 steps | 120.2 | 10 | 0.25 | 0.2 | cpu |\n"
        "| base, unipc, 1 step | - | - | - | - |  |\n"
        "| TwinFlow, 2 steps | 3 | 31 | 1 | 0.2 | cpu |\n"
        "| TwinFlow, 1 step | 4 | 29 | 0.75 | 0.1 | cpu |\n"
        "\n- base, unipc, 1 step could not be generated: ValueError: no\n"
    )


def test_curves_are_sorted_by_steps_and_the_base_is_a_line():
    assert points_of(ROWS, "fid") == {"base, unipc": ([2], [120.25]), "TwinFlow": ([1, 2], [4.0, 3.0])}
    panels = [panel for panel in curves(ROWS).axes if panel.axison]
    assert [panel.get_ylabel() for panel in panels] == ["Fréchet distance", "CLIP score", "taste", "seconds per image"]
    drawn = {line.get_label(): line.get_ydata() for line in panels[1].get_lines()}
    assert {label: list(values) for label, values in drawn.items()} == {
        "base, 28 steps": [30.0, 30.0],
        "base, unipc": [10.0],
        "TwinFlow": [29.0, 31.0],
    }
