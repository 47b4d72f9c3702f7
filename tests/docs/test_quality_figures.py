"""The figures of the page on quality are those of its file of results."""

import pytest
from pages import ROOT
from test_figures import README, results, rows

PAGE = (ROOT / "docs" / "quality.md").read_text(encoding="utf-8")
REPORT = results("quality")
VARIANTS = {variant["name"]: variant for variant in REPORT["variants"]}
LABELS = {
    "TwinFlow without the twin, full weights": "full-rcgm",
    "TwinFlow without the twin, LoRA of rank 64": "lora-rcgm",
    "full TwinFlow, full weights": "full-lr-1e-4",
}


def few(name: str) -> dict[int, dict]:
    """The rows of a variant in style few, by steps."""
    return {row["steps"]: row for row in VARIANTS[name]["rows"] if row["style"] == "few"}


def measured(label: str) -> dict:
    """The row of the results that a row of the page shows."""
    way, *rest = label.split(", ")
    if way.startswith("base trained"):
        return VARIANTS["base-continued"]["rows"][0]
    if rest[0].startswith("50 steps"):
        return REPORT["reference"]
    if way != "base":
        return few(LABELS[f"{way}, {rest[0]}"])[int(rest[1].split()[0])]
    scheduler, steps, _ = rest
    guided = [row for row in REPORT["base"] if row["guidance_scale"] == 2 and row["scheduler"] == scheduler]
    (row,) = (row for row in guided if row["steps"] == int(steps.split()[0]))
    return row


def test_the_table_of_scores():
    table = rows(PAGE, "| evaluations | Fréchet distance | agreement | held-out prompts | diversity")
    assert len(table) == 22
    for label, *cells in table:
        row = measured(label)
        shares = [f"{row[name]:.1%}" for name in ("agreement", "held_out_agreement")]
        expected = [str(row["evaluations"]), f"{row['frechet_distance']:.1f}", *shares, f"{row['diversity']:.1f}"]
        assert cells == expected, label


def test_the_table_of_variants():
    table = rows(PAGE, "variant | learning rate | 1 step | 2 steps | 4 steps")
    assert len(table) == len(VARIANTS) - 1
    for name, *cells in table:
        name = name.strip("`")
        distances = [f"{few(name)[steps]['frechet_distance']:.1f}" for steps in (1, 2, 4)]
        assert cells == [f"{VARIANTS[name]['options']['learning_rate']:g}", *distances]


@pytest.mark.parametrize(
    ("aim", "found", "bound"),
    [
        (0, [("full-rcgm", 1)], "base"),
        (1, [("full-rcgm", 2)], "base"),
        (2, [("lora-rcgm", 1), ("lora-rcgm", 2)], "full-rcgm"),
        (3, [("lora-rcgm", 1), ("lora-rcgm", 2)], "base"),
    ],
)
def test_the_aims(aim, found, bound):
    ratios = []
    for name, steps in found:
        against = REPORT["reference"] if bound == "base" else few(bound)[steps]
        ratios.append(f"{few(name)[steps]['frechet_distance'] / against['frechet_distance']:.2f}")
    cell = rows(PAGE, "aim | | measured")[aim][-1]
    assert cell.startswith(f"{' and '.join(ratios)} times: ")


def test_what_is_said_of_the_data_and_the_base():
    judge, training = REPORT["judge"], REPORT["training_of_the_base"]
    assert f"it is {judge['agreement']:.1%}" in PAGE and f"\n  distance {judge['frechet_distance']:.1f}" in PAGE
    assert f"{training['transformer']['steps']:,} steps of 256" in PAGE
    assert f"{training['autoencoder']['transformer_parameters'] / 1e6:.1f} million" in PAGE
    assert f"over {REPORT['settings']['samples']:,} samples" in PAGE


def test_the_figures_of_the_readme():
    def distance(row):
        return f"{row['frechet_distance']:.1f}"

    full, lora = few("full-rcgm"), few("lora-rcgm")
    base = measured("base, FlowMatchEuler, 1 step, guidance 2")
    assert f"base {distance(REPORT['reference'])} at 100 evaluations and {distance(base)} at one step" in README
    assert f"TwinFlow {distance(full[1])} at 1 step and {distance(full[2])} at 2, a LoRA" in README
    assert f"of rank 64 {distance(lora[1])} and {distance(lora[2])}." in README
