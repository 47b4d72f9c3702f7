"""The figures of the page on quality that are of the first base are those of its file of results."""

from pages import ROOT
from quality_rows import QualityRows, aim, distance, diversity, held_out
from test_figures import joined, rows

PAGE = (ROOT / "docs" / "quality.md").read_text(encoding="utf-8")
TEXT = joined(PAGE.split("## An earlier base")[1].split("## Many recipes")[0])
ROWS = QualityRows("quality_first")
REPORT, VARIANTS, few = ROWS.report, ROWS.variants, ROWS.few
SHARED = {"twinflow_rectify_weight": 0.25, "twinflow_enhanced_ratio": 0.6667, "train_batch_size": 256}
SHARED |= {"compile": True, "lr_scheduler": "cosine", "mixed_precision": "bf16"}


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
    guidance = 1 / (1 - SHARED["twinflow_enhanced_ratio"])
    assert round(guidance, 2) == REPORT["reference"]["guidance_scale"]


def test_the_aims():
    base, table = REPORT["reference"], rows(PAGE, "aim, first base | | measured")
    full, lora = few("full-longer"), few("lora-longer")
    pairs = [
        [(full[1], base)],
        [(full[2], base)],
        [(lora[k], full[k]) for k in (1, 2)],
        [(lora[k], base) for k in (1, 2)],
    ]
    for cells, found, bound in zip(table, pairs, [1.15, 1.0, 1.25, 1.25], strict=True):
        ratios = [a["frechet_distance"] / b["frechet_distance"] for a, b in found]
        assert cells[-1] == aim(ratios, bound)


def test_what_is_said_of_the_base():
    steps, batch = REPORT["training_of_the_base"]["transformer"]["steps"], REPORT["settings"]["base_batch_size"]
    assert f"The first base, of {steps:,} steps of {batch}," in TEXT
    assert f"It has a distance of {distance(REPORT['reference'])} at 100 evaluations (guidance 3)" in TEXT


def test_what_is_said_of_the_recipe():
    lengths = [few(f"full-{length}")[2] for length in ("shorter", "reference", "longer")]
    before, between, after = map(distance, lengths)
    assert f"from {before} over {between} to {after} at 2 steps" in TEXT
    before, between, after = map(held_out, lengths)
    assert f"from {before} over {between} to {after}, the base's is {held_out(REPORT['reference'])}" in TEXT
    twin, without = few("lora-longer"), few("lora-rcgm-longer")
    assert f"better ({distance(twin[1])} against {distance(without[1])} at 1 step)" in TEXT
    usual, more = few("lora-reference"), few("lora-all-linears")
    gains = [1 - more[steps]["frechet_distance"] / usual[steps]["frechet_distance"] for steps in (1, 2)]
    assert f"by {gains[0]:.0%} at 1 step and {gains[1]:.0%} at 2" in TEXT
    diverse = map(diversity, (few("full-longer")[2], REPORT["reference"], ROWS.base("FlowMatchEuler", 50, 2)))
    told = "{} at 2 steps where the base has {} with the same guidance and {} with guidance 2"
    assert told.format(*diverse) in TEXT
    assert f"({distance(few('lora-longer', 'any')[4])} against {distance(few('lora-longer')[4])})" in TEXT
