"""The figures of the page on quality are those of its file of results."""

import pytest
from pages import ROOT
from quality_rows import QualityRows, aim, distance, diversity, held_out
from test_figures import README, joined, results, rows

PAGE = (ROOT / "docs" / "quality.md").read_text(encoding="utf-8")
TROUBLESHOOTING = joined((ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"))
TEXT = joined(PAGE.split("## An earlier base")[0])
ROWS = QualityRows("quality")
REPORT, VARIANTS, few, base = ROWS.report, ROWS.variants, ROWS.few, ROWS.base
FULL, LORA, CONTROL = "full-longest", "lora-all-linears-half-longer", "base-continued"
SHORTER_LORAS = ("lora-all-linears-longest", "lora-all-linears-as-long")
OTHER_SEED = "full-longest-seed-1"
LABELS = {"TwinFlow, full weights": FULL, "TwinFlow, LoRA of rank 64": LORA}
SHARED = {"twinflow_rectify_weight": 0.25, "twinflow_enhanced_ratio": 0.5, "train_batch_size": 768}
SHARED |= {"twinflow_target_clamp": 10.0, "twinflow_ema_decay": 0.95, "caption_dropout_probability": 0.1}
SHARED |= {"compile": True, "lr_scheduler": "cosine", "mixed_precision": "bf16"}


def best_of_stock(evaluations: int) -> float:
    """The least distance of the base with any stock scheduler, with or without guidance."""
    return min(row["frechet_distance"] for row in REPORT["base"] if row["evaluations"] == evaluations)


def measured(label: str) -> dict:
    """The row of the results that a row of the page shows."""
    if not label.startswith("base"):
        name, _, steps = label.removesuffix(", style any").rpartition(", ")
        return few(LABELS[name], "any" if label.endswith("any") else "few")[int(steps.split()[0])]
    _, scheduler, steps, guidance = label.split(", ")
    return base(scheduler, int(steps.split()[0]), float(guidance.split()[1]))


def test_the_table_of_scores():
    table = rows(PAGE, "| evaluations | Fréchet distance | agreement | held-out prompts | diversity")
    assert len(table) == 29
    for label, *cells in table:
        row = measured(label)
        assert cells == [
            str(row["evaluations"]), distance(row), f"{row['agreement']:.1%}", held_out(row), diversity(row)
        ], label  # fmt: skip


@pytest.mark.parametrize(
    ("name", "rate", "planned", "minutes"),
    [
        (FULL, 3e-4, 6000, 15),
        (OTHER_SEED, 3e-4, 6000, 12.5),
        (LORA, 1e-3, 8400, 27),
        (SHORTER_LORAS[0], 1e-3, 4200, 15),
        (SHORTER_LORAS[1], 1e-3, 5600, None),
    ],
)
def test_how_each_was_trained(name, rate, planned, minutes):
    options = VARIANTS[name]["options"]
    assert SHARED.items() <= options.items()
    assert (options["learning_rate"], options["max_train_steps"]) == (rate, planned)
    assert options["seed"] == (1 if name == OTHER_SEED else 0)
    if minutes:
        assert VARIANTS[name]["training"]["seconds"] == pytest.approx(minutes * 60, rel=0.025)
    if name.startswith("lora"):
        assert (options["rank"], options["lora_layers"]) == (64, ["all-linear"])


def test_what_is_said_of_the_lengths():
    full, other, lora = (VARIANTS[name]["training"]["steps"] for name in (FULL, OTHER_SEED, LORA))
    assert f"All weights took 15 minutes, whose end cut them at {full:,} of 6,000 steps" in TEXT
    assert f"the LoRA took 27, cut at {lora:,} of 8,400" in TEXT
    assert f"another seed of all weights (`{OTHER_SEED}`) took 12.5 for its {other:,}" in TEXT and other == 6000


def one_and_two(name: str) -> list[float]:
    return [few(name)[steps]["frechet_distance"] for steps in (1, 2)]


def times_the_full(name: str, full: str = FULL) -> str:
    return "{:.2f} and {:.2f} times".format(*(a / b for a, b in zip(one_and_two(name), one_and_two(full))))


def test_what_is_said_of_shorter_loras_and_the_other_seed():
    shorter, as_long = (
        (
            f"{VARIANTS[name]['training']['steps']:,}",
            "{:.1f} and {:.1f}".format(*one_and_two(name)),
            times_the_full(name),
        )
        for name in SHORTER_LORAS
    )
    assert (
        f"with {shorter[0]} steps (`{SHORTER_LORAS[0]}`, 15 minutes) it came to {shorter[1]}, {shorter[2]} the" in TEXT
    )
    assert f"with {as_long[0]} (`{SHORTER_LORAS[1]}`) to {as_long[1]}, {as_long[2]}." in TEXT
    other = "{:.2f} and {:.2f}".format(*one_and_two(OTHER_SEED))
    assert f"other seed of all weights has {other}, and the LoRA {times_the_full(LORA, OTHER_SEED)} that" in TEXT
    assert all(0.05 < a - b < 0.15 for a, b in zip(one_and_two(FULL), one_and_two(OTHER_SEED)))
    for name, lora in (("quality_first", "lora-longer"), ("quality_ablations", "lora-all-linears-longer")):
        variants = QualityRows(name).variants
        assert variants[lora]["training"]["steps"] < variants["full-longer"]["training"]["steps"]


@pytest.mark.parametrize(
    ("row", "name", "steps", "against", "bound"),
    [
        (0, FULL, [1], None, 1.15),
        (1, FULL, [2], None, 1),
        (2, LORA, [1, 2], None, 1.25),
        (3, LORA, [1, 2], FULL, 1.25),
    ],
)
def test_the_aims(row, name, steps, against, bound):
    found = few(name)
    others = few(against) if against else dict.fromkeys(steps, REPORT["reference"])
    ratios = [found[k]["frechet_distance"] / others[k]["frechet_distance"] for k in steps]
    assert rows(PAGE, "aim | | measured")[row][-1] == aim(ratios, bound)


def test_what_is_said_of_the_data_and_the_base():
    data, judge, training = REPORT["data"], REPORT["judge"], REPORT["training_of_the_base"]
    assert f"{data['images']:,} emoji" in TEXT and f"{data['test']['images']} are held out" in TEXT
    assert f"it is {judge['agreement']:.1%}, and their Fréchet distance {judge['frechet_distance']:.1f}," in TEXT
    assert f"{judge['diversity']:.1f} for real pictures of one kind" in TEXT
    before, more = training["continues"]["transformer"]["steps"], training["transformer"]["steps"]
    assert f"for {before + more:,} steps of {REPORT['settings']['base_batch_size']}:" in TEXT
    assert f"and {more:,} steps more" in TEXT
    assert training["continues"] == results("quality_ablations")["training_of_the_base"]
    assert f"{training['continues']['autoencoder']['transformer_parameters'] / 1e6:.1f} million" in TEXT
    assert f"over {REPORT['settings']['samples']:,} samples" in TEXT
    seen = (before + more) * REPORT["settings"]["base_batch_size"], VARIANTS[FULL]["training"]["steps"] * 768
    base_saw, full_saw = (f"{images / 1e6:.1f} million" for images in seen)
    assert f"All weights saw {full_saw} pictures in distilling, the base {base_saw} before" in TEXT
    assert f"each of {data['train']['images']:,} pictures about a thousand times" in TROUBLESHOOTING
    assert seen[1] / data["train"]["images"] == pytest.approx(1000, rel=0.1)


def test_what_more_flow_matching_gives():
    (control,) = VARIANTS[CONTROL]["rows"]
    told = f"{control['train_steps']:,} steps of 256 of plain flow matching (`{CONTROL}`) bring its own"
    assert f"{told} {distance(REPORT['reference'])} to {distance(control)} at 100 evaluations" in TEXT
    assert VARIANTS[CONTROL]["options"]["train_batch_size"] == 256 and control["evaluations"] == 100


def test_what_is_said_of_held_out_prompts_and_diversity():
    full, lora, guided = few(FULL)[2], few(LORA)[2], REPORT["reference"]
    assert f"{held_out(full)} at 2 steps (LoRA: {held_out(lora)}) against {held_out(guided)}" in TEXT
    assert full["agreement"] > guided["agreement"]
    less = base("FlowMatchEuler", 50, 2)
    assert f"{diversity(full)} at 2 steps, the base {diversity(guided)} with guidance 3 and {diversity(less)}" in TEXT


def test_what_is_said_of_styles_and_stock_schedulers():
    one, two = few(FULL)[1]["frechet_distance"], few(FULL)[2]["frechet_distance"]
    assert f"does with 16 ({two:.1f} against {best_of_stock(16):.1f}), and so does one" in TEXT
    assert one < best_of_stock(16)
    for steps in (2, 4, 8):
        any_, few_ = few(LORA, "any")[steps]["frechet_distance"], few(LORA)[steps]["frechet_distance"]
        assert any_ < few_
        assert few(FULL, "any")[steps]["frechet_distance"] < few(FULL)[steps]["frechet_distance"] + 0.05


def test_the_figures_of_the_readme():
    full, lora, guided, (control,) = few(FULL), few(LORA), REPORT["reference"], VARIANTS[CONTROL]["rows"]
    trained = [VARIANTS[name]["training"]["steps"] for name in (FULL, LORA)]
    assert f"trained on {REPORT['data']['train']['images']:,} captioned emoji" in README
    assert (
        f"all weights for {trained[0]:,} steps of 768 in 15 minutes, a LoRA of rank 64 for {trained[1]:,} in 27;"
        in README
    )
    assert f"base {distance(guided)} at 100 evaluations, and with the best" in README
    assert f"with or without guidance, {best_of_stock(8):.1f} at 8 and {best_of_stock(2):.1f} at 2;" in README
    assert f"TwinFlow {distance(full[1])} at 1 and {distance(full[2])} at 2, the LoRA {distance(lora[1])}" in README
    assert f"the LoRA {distance(lora[1])} and {distance(lora[2])}." in README
    assert f"comes to {distance(control)} with {control['train_steps']:,} steps more" in README
    assert f"{held_out(full[2])} at 2 evaluations against the base's {held_out(guided)}" in README
