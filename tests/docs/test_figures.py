"""The tables of measurements say what the files of results say."""

import json

import pytest
from pages import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BRIDGE = (ROOT / "docs" / "diff2flow.md").read_text(encoding="utf-8")
EPSILON_ROWS = {
    "base, `DDIMScheduler`": ["base, 1 steps", "base, 2 steps", "base, 4 steps", "base, guidance 1"],
    "base, `TwinFlowScheduler`, multi": [None, None, None, "base, bridged"],
    "base, guidance 1.25": [None, None, None, "base, guidance 1.25"],
    "base, guidance 2": [None, None, None, "base, guidance 2"],
}
EPSILON_VARIANTS = {
    "LoRA, 5e-5": "lora_5e-5",
    "LoRA, 2e-4": "lora_2e-4",
    "LoRA, 5e-4": "lora_5e-4",
    "full weights, 1e-4": "full_1e-4",
}
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


def score(column: dict | None) -> str:
    return "-" if column is None else f"{column['frechet_distance']:.1f} ({column['agreement']:.1%})"


def test_the_diffusion_digits():
    report = results("epsilon_sweep")
    base, batch_size = report["base"], report["settings"]["batch_size"]
    columns = {column["name"]: column for column in report["parts"]["base"]["columns"]}
    parts = {label: report["parts"][name] for label, name in EPSILON_VARIANTS.items()}
    expected = [
        [label, str(base["steps"]), *(score(name and columns[name]) for name in names)]
        for label, names in EPSILON_ROWS.items()
    ]
    for label, part in parts.items():
        expected.append([label, str(part["training"]["steps"]), *map(score, part["columns"]), "-"])
    assert rows(BRIDGE, "| steps of training | 1 step | 2 steps | 4 steps | 50 steps") == expected
    assert f"digits held out: {score(columns['real test digits'])}" in BRIDGE
    assert f"{base['parameters'] / 1e6:.1f} million parameters" in BRIDGE
    assert f"trained for {base['seconds']:.0f} seconds with a batch\nof {base['batch_size']}" in BRIDGE
    assert f"for {report['settings']['seconds']:.0f} seconds with a batch of {batch_size}" in BRIDGE
    most = max(part["training"]["steps"] for label, part in parts.items() if label.startswith("LoRA"))
    assert f"a LoRA saw at most {most * batch_size:,} samples" in BRIDGE
    assert f"over {report['settings']['num_samples']:,} samples" in BRIDGE
