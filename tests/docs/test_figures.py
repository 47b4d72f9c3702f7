"""The tables of measurements say what the files of results say."""

import json

import pytest
from pages import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BRIDGE = (ROOT / "docs" / "diff2flow.md").read_text(encoding="utf-8")
SAMPLERS = {"`TwinFlowScheduler`, multi": "TwinFlow multi", "`DDIMScheduler`": "DDIM"}


def results(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def rows(page: str, first_cells: str) -> list[list[str]]:
    """The cells of the table rows under the header that begins so, without the first one."""
    _, table = page.split(f"| {first_cells} |", 1)
    lines = table.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]


def test_the_digits():
    report = results("digits_demo")
    real = report["real_digits"]
    expected = [["real digits, held out", "-", f"{real['frechet_distance']:.1f}", f"{real['agreement']:.1%}"]]
    for column in report["columns"]:
        figures = str(column["evaluations"]), f"{column['frechet_distance']:.1f}", f"{column['agreement']:.1%}"
        expected.append([column["name"], *figures])
    assert rows(README, "| evaluations | Fréchet distance") == expected
    minutes = {name: f"{seconds / 60:.1f}" for name, seconds in report["seconds"].items()}
    assert f"Training took {minutes['training']} minutes, everything after installation {minutes['total']}." in README


@pytest.mark.parametrize("name, label", [("lora", "LoRA, rank 64"), ("full", "full weights")])
def test_the_cost_of_a_step(name, label):
    found = {row["name"]: row for row in results(f"training_engine_{name}")["rows"]}
    flow_matching, plain, engine = (found[name] for name in ("flow matching", "plain", "engine"))
    (row,) = (row for row in rows(README, "| time, flow matching = 1") if row[0] == label)
    assert row[1] == f"{engine['seconds'] / flow_matching['seconds']:.1f}"
    assert row[2] == f"{plain['seconds'] / engine['seconds']:.2f} times"
    memory = f"{engine['peak_gigabytes']:.1f} GiB (flow matching {flow_matching['peak_gigabytes']:.1f}"
    assert row[3].startswith(memory)


def test_the_convergence_of_the_bridge():
    errors = {
        (f"{row['schedule']}, {row['prediction_type']}, {row['guidance']:g}", row["way"]): row["relative_error"]
        for row in results("diff2flow_convergence")["rows"]
    }
    table = rows(BRIDGE, "schedule, prediction, guidance")
    assert len(table) > 0
    for setting, sampler, *cells in table:
        assert cells == [f"{error:.4f}" for error in errors[setting, SAMPLERS[sampler]].values()]
