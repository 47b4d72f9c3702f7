"""The figures of the page on quality are those of its file of results."""

import pytest
from pages import ROOT
from test_figures import README, results, rows

PAGE = (ROOT / "docs" / "quality.md").read_text(encoding="utf-8")
REPORT = results("quality")
VARIANTS = {variant["name"]: variant for variant in REPORT["variants"]}
LABELS = {
    "TwinFlow, full weights": "full-longer",
    "TwinFlow, LoRA of rank 64": "lora-longer",
    "TwinFlow without the twin, full weights": "full-rcgm-longer",
    "TwinFlow without the twin, LoRA of rank 64": "lora-rcgm-longer",
}
SHARED = {"twinflow_rectify_weight": 0.25, "twinflow_enhanced_ratio": 0.6667, "train_batch_size": 256}
SHARED |= {"compile": True, "lr_scheduler": "cosine", "mixed_precision": "bf16"}


def few(name: str, style: str = "few") -> dict[int, dict]:
    """The rows of a variant by steps."""
    return {row["steps"]: row for row in VARIANTS[name]["rows"] if row["style"] == style}


def base(scheduler: str, steps: int, guidance: float = 3) -> dict:
    (row,) = (row for row in REPORT["base"] if (row["scheduler"], row["steps"]) == (scheduler, steps)
              and row["guidance_scale"] == guidance)  # fmt: skip
    return row


def distance(row: dict) -> str:
    return f"{row['frechet_distance']:.1f}"


def best_of_stock(evaluations: int) -> float:
    """The least distance of the base with any stock scheduler, with or without guidance."""
    return min(row["frechet_distance"] for row in REPORT["base"] if row["evaluations"] == evaluations)


def measured(label: str) -> dict:
    """The row of the results that a row of the page shows."""
    way, _, rest = label.rpartition(", ")
    if not way.startswith("base"):
        return few(LABELS[way])[int(rest.split()[0])]
    _, scheduler, steps = way.split(", ")
    return base(scheduler, int(steps.split()[0]), float(rest.split()[1]))


def test_the_table_of_scores():
    table = rows(PAGE, "| evaluations | Fréchet distance | agreement | held-out prompts | diversity")
    assert len(table) == 31
    for label, *cells in table:
        row = measured(label)
        shares = [f"{row[name]:.1%}" for name in ("agreement", "held_out_agreement")]
        assert cells == [str(row["evaluations"]), distance(row), *shares, f"{row['diversity']:.1f}"], label


def test_the_table_of_variants():
    table = rows(PAGE, "variant | steps of training | learning rate | 1 step | 2 steps | 4 steps | 2 steps, style any")
    assert len(table) == len(VARIANTS)
    for name, *cells in table:
        variant = VARIANTS[name.strip("`")]
        distances = [distance(few(variant["name"])[steps]) for steps in (1, 2, 4)]
        told = [f"{variant['training']['steps']:,}", f"{variant['options']['learning_rate']:g}"]
        assert cells == [*told, *distances, distance(few(variant["name"], "any")[2])]


def test_what_all_variants_share():
    for variant in VARIANTS.values():
        assert SHARED.items() <= variant["options"].items()
        dropout = variant["options"]["caption_dropout_probability"]
        assert dropout == (0 if variant["name"] == "full-no-dropout" else 0.1)
    assert 1 / (1 - SHARED["twinflow_enhanced_ratio"]) == pytest.approx(
        REPORT["reference"]["guidance_scale"], rel=1e-3
    )


@pytest.mark.parametrize(
    ("aim", "found", "bound"),
    [
        (0, [("full-longer", 1)], "base"),
        (1, [("full-longer", 2)], "base"),
        (2, [("lora-longer", 1), ("lora-longer", 2)], "full-longer"),
        (3, [("lora-longer", 1), ("lora-longer", 2)], "base"),
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
    data, judge, training = REPORT["data"], REPORT["judge"], REPORT["training_of_the_base"]
    assert f"{data['images']:,} emoji" in PAGE and f"{data['test']['images']} are held out" in PAGE
    assert f"it is {judge['agreement']:.1%}" in PAGE and f"\n  distance {judge['frechet_distance']:.1f}" in PAGE
    assert f"prompt; {judge['diversity']:.1f} for real pictures" in PAGE
    assert f"for {training['transformer']['steps']:,} steps of {REPORT['settings']['base_batch_size']}" in PAGE
    assert f"{training['autoencoder']['transformer_parameters'] / 1e6:.1f} million" in PAGE
    assert f"over {REPORT['settings']['samples']:,} samples" in PAGE


def test_what_is_said_of_the_recipe():
    lengths = [few(f"full-{length}")[2] for length in ("shorter", "reference", "longer")]
    before, between, after = map(distance, lengths)
    assert f"from {before} over {between} to {after} at 2 steps" in PAGE
    before, between, after = (f"{row['held_out_agreement']:.1%}" for row in lengths)
    held_out = f"{REPORT['reference']['held_out_agreement']:.1%}"
    assert f"from {before} over {between} to {after}, the base's is {held_out}" in PAGE
    twin, without = few("lora-longer"), few("lora-rcgm-longer")
    assert f"better ({distance(twin[1])} against {distance(without[1])} at 1 step)" in PAGE
    gains = [
        1 - few("lora-all-linears")[k]["frechet_distance"] / few("lora-reference")[k]["frechet_distance"]
        for k in (1, 2)
    ]
    assert f"by {gains[0]:.0%} at 1 step and {gains[1]:.0%} at 2" in PAGE
    diversity = [
        f"{row['diversity']:.1f}"
        for row in (few("full-longer")[2], REPORT["reference"], base("FlowMatchEuler", 50, 2))
    ]
    assert (
        "{} at 2 steps where the base has {} with the same guidance and {} with guidance 2".format(*diversity) in PAGE
    )
    assert f"({distance(few('lora-longer', 'any')[4])} against {distance(few('lora-longer')[4])})" in PAGE


def test_what_is_said_of_stock_schedulers():
    two, one = distance(few("full-longer")[2]), distance(few("full-longer")[1])
    assert best_of_stock(8) == base("UniPC", 4)["frechet_distance"]
    unipc, euler = distance(base("UniPC", 4)), distance(base("FlowMatchEuler", 8, 1))
    assert f"UniPC, does with 8 ({two} against {unipc}), one a lower" in PAGE
    assert f"one than FlowMatchEuler with 8 ({one} against {euler}, without guidance)" in PAGE


def test_the_figures_of_the_readme():
    full, lora, guided = few("full-longer"), few("lora-longer"), REPORT["reference"]
    trained = [VARIANTS[name]["training"]["steps"] for name in ("full-longer", "lora-longer")]
    assert f"trained on {REPORT['data']['train']['images']:,} captioned emoji" in README
    assert f"distilled for {trained[0]:,} steps of 256 (the LoRA: {trained[1]:,})" in README
    assert f"base {distance(guided)} at 100 evaluations, and with the best" in README
    assert f"with or without guidance, {best_of_stock(8):.1f} at 8 and {best_of_stock(2):.1f} at 2;" in README
    assert f"TwinFlow {distance(full[1])} at 1 and {distance(full[2])} at 2, a LoRA of rank 64" in README
    assert f"a LoRA of rank 64 {distance(lora[1])} and {distance(lora[2])}." in README
    assert best_of_stock(16) < full[2]["frechet_distance"] < best_of_stock(8)
