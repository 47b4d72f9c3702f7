"""The figures of the page on quality that are of the shorter trained base are those of its file of results."""

from pages import ROOT
from quality_rows import aim
from test_figures import joined, results, rows

PAGE = (ROOT / "docs" / "quality.md").read_text(encoding="utf-8")
TEXT = joined(PAGE.split("## Many recipes on a shorter trained base")[1])
REPORT = results("quality_ablations")
VARIANTS = {variant["name"]: variant for variant in REPORT["variants"]}
CONTROLS = ("base-continued", "base-continued-longer")
SHARED = {"train_batch_size": 256, "lr_scheduler": "cosine", "mixed_precision": "bf16", "compile": True}
SHARED |= {"caption_dropout_probability": 0.1}
OTHER_RATIO = {"full-enhanced-0.33": 0.3333, "full-enhanced-0.67": 0.6667, "full-enhanced-0.67-longer": 0.6667}
OTHER_RATIO |= {"full-enhanced-0": 0.0, "full-enhanced-0.8": 0.8, "full-enhanced-1.5": 1.5}
OTHER_RECTIFICATION = {"full-rectify-0.5": 0.5, "full-rectify-0": 0.0}
OTHER_DECAY = {"full-ema-0.999": 0.999, "full-ema-0.95": 0.95}


def distance(name: str, steps: int, style: str = "few") -> float:
    (found,) = (row for row in VARIANTS[name]["rows"] if (row["style"], row["steps"]) == (style, steps))
    return found["frechet_distance"]


def told(*found: tuple) -> list[str]:
    return [f"{distance(*which):.1f}" for which in found]


def diversity(name: str) -> str:
    (found,) = (row for row in VARIANTS[name]["rows"] if (row["style"], row["steps"]) == ("few", 2))
    return f"{found['diversity']:.1f}"


def test_the_table_of_variants():
    table = rows(PAGE, "variant | what it changes | steps of training | 1 step | 2 steps | 4 steps | 2 steps, any")
    assert {cells[0].strip("`") for cells in table} == set(VARIANTS) - set(CONTROLS)
    for label, _, steps, *cells in table:
        name = label.strip("`")
        assert steps == f"{VARIANTS[name]['training']['steps']:,}"
        distances = told((name, 1), (name, 2), (name, 4), (name, 2, "any"), (name, 4, "any"))
        assert cells == [*distances, diversity(name)], name


def test_what_the_variants_share():
    for name in set(VARIANTS) - set(CONTROLS):
        options = VARIANTS[name]["options"]
        assert SHARED.items() <= options.items()
        assert options["twinflow_enhanced_ratio"] == OTHER_RATIO.get(name, 0.5)
        assert options.get("twinflow_target_clamp", 1.0) == (10.0 if "clamp-10" in name else 1.0)
        assert options.get("twinflow_ema_decay", 0.99) == OTHER_DECAY.get(name, 0.99)
        assert options["twinflow_rectify_weight"] == OTHER_RECTIFICATION.get(name, 0.25)


def test_the_base_and_its_further_training():
    base = REPORT["reference"]
    assert (base["guidance_scale"], base["evaluations"]) == (3.0, 100)
    assert f"for {REPORT['training_of_the_base']['transformer']['steps']:,} steps of 512" in TEXT
    shares = "{agreement:.1%}, held-out prompts {held_out_agreement:.1%}".format(**base)
    assert f"is {base['frechet_distance']:.1f} at 100 evaluations (guidance 3; agreement {shares})" in TEXT
    expected = []
    for label, steps, row in [("none: the base", "-", base)] + [
        (f"`{name}`", f"{VARIANTS[name]['training']['steps']:,}", VARIANTS[name]["rows"][0]) for name in CONTROLS
    ]:
        shares = [f"{row[key]:.1%}" for key in ("agreement", "held_out_agreement")]
        expected.append([label, steps, f"{row['frechet_distance']:.1f}", *shares, f"{row['diversity']:.1f}"])
    assert rows(PAGE, "more flow matching") == expected


def test_the_aims():
    base, table = REPORT["reference"]["frechet_distance"], rows(PAGE, "aim, shorter trained base | | measured")
    full, lora = ([distance(name, steps) for steps in (1, 2)] for name in ("full-longer", "lora-all-linears-longer"))
    against = [[full[0] / base], [full[1] / base], [a / b for a, b in zip(lora, full)], [a / base for a in lora]]
    bounds = [1.15, 1.0, 1.25, 1.25]
    for cells, ratios, bound in zip(table, against, bounds):
        assert cells[-1] == aim(ratios, bound)
    with_twin, without = (distance(name, 4, "any") / base for name in ("full-longer", "full-rcgm-longer"))
    assert f"below the base: {with_twin:.2f} times, {without:.2f} without the twin" in TEXT


def test_what_is_said_of_the_variants():
    pairs = (("full-reference", "full-seed-1"), ("lora-all-linears", "lora-all-linears-seed-1"))
    seeds = [distance(a, steps) - distance(b, steps) for a, b in pairs for steps in (1, 2)]
    between = "differ by {:.1f} at 1 step and {:.1f} at 2, two of the LoRA of all linear layers by {:.1f} and {:.1f}"
    assert between.format(*seeds) in TEXT
    for name, place in (("full-order-1", "far worse"), ("full-few-for-any", "any-step ones")):
        assert "{} ({} against {}".format(place, *told((name, 1), ("full-reference", 1))) in TEXT
    assert "1 step; {} against {} with a LoRA".format(*told(("lora-order-1", 1), ("lora-reference", 1))) in TEXT
    for style, words in (("few", "at 4 steps ({} against {} and {}"), ("any", "in style any {} against {} and {})")):
        names = ("full-multi-step-2", "full-reference", "full-seed-1")
        assert words.format(*told(*((name, 4, style) for name in names))) in TEXT
    assert "before 0.999 ({} against {})".format(*told(("full-reference", 1), ("full-ema-0.999", 1))) in TEXT
    assert "before both ({})".format(*told(("full-ema-0.95", 1))) in TEXT
    widened = {"full-reference": "full-clamp-10", "lora-all-linears": "lora-all-linears-clamp-10"}
    for before, wider in (widened | {"lora-reference": "lora-clamp-10"}).items():
        pairs = told((wider, 2), (wider, 4), (before, 2), (before, 4))
        assert "({} and {} against {} and {})".format(*pairs) in TEXT
    assert "it is worse ({} at 2 steps)".format(*told(("full-clamp-10-l2", 2))) in TEXT
    half, more = told(("full-longer", 2), ("full-enhanced-0.67-longer", 2))
    assert f"({half} with 0.5 and {more} with 0.67 at 2 steps)" in TEXT
    half, more = diversity("full-longer"), diversity("full-enhanced-0.67-longer")
    assert f"{more} against {half} with 0.5, and {REPORT['reference']['diversity']:.1f} of the base" in TEXT
    none = *told(("full-enhanced-0", 1), ("full-reference", 1)), diversity("full-enhanced-0")
    assert "{} against {} at 1 step, and differ most, {}.".format(*none) in TEXT
    assert max((diversity(name) for name in set(VARIANTS) - set(CONTROLS)), key=float) == none[-1]
    much = *told(("full-enhanced-0.8", 1)), diversity("full-enhanced-0.8"), *told(("full-enhanced-1.5", 1))
    assert (
        "too much ({} at 1 step, diversity {}), and 1.5, which has none, leaves no picture at all ({})".format(*much)
        in TEXT
    )
    twin, without = ([("full" + way, steps) for steps in (1, 2, 4)] for way in ("-longer", "-rcgm-longer"))
    twin, without = told(*twin), told(*without)
    assert f"({without[1]} and {without[2]} against {twin[1]} and {twin[2]})" in TEXT
    assert f"({twin[0]} against {without[0]}), behind before" in TEXT
    assert "behind before ({} against {})".format(*told(("full-reference", 1), ("full-rcgm", 1))) in TEXT
    twin, without = (told(*((name, steps) for steps in (1, 2, 4))) for name in ("lora-reference", "lora-rcgm"))
    assert f"({twin[0]} against {without[0]}), the worse at 2 and 4 ({twin[1]} and {twin[2]} against" in TEXT
    assert f"against {without[1]} and {without[2]}). Rectification" in TEXT
    seconds = [VARIANTS[name]["training"]["seconds_per_step"] for name in ("full-rcgm-longer", "full-longer")]
    assert f"a step costs {1 - seconds[0] / seconds[1]:.0%} less" in TEXT
    rectified = told(*((f"full-{name}", 1) for name in ("reference", "rectify-0.5", "rectify-0")))
    assert "before 2 ({} against {}) and before none ({})".format(*rectified) in TEXT
    for steps in (1, 2, 4):
        assert distance("full-rectify-0", steps) > distance("full-rcgm", steps)
    assert "({} against {} at 2 steps), so".format(*told(("lora-all-linears", 2), ("lora-reference", 2))) in TEXT
    fewer = told(("lora-no-modulation", 2), ("lora-attention", 2))
    assert "without modulation it is {}, of attention alone {}.".format(*fewer) in TEXT
    faster = told(("lora-all-linears-lr-2e-3", 2), ("lora-lr-2e-3", 2))
    assert "of all linear layers ({}) as of the usual ones ({})".format(*faster) in TEXT
    assert "rank 64 ({} against {} at 2 steps)".format(*told(("lora-rank-16", 2), ("lora-reference", 2))) in TEXT
    negative = told(("full-negative-time", 1), ("full-reference", 1), ("full-seed-1", 1))
    assert "({} against {} and {} of the two seeds)".format(*negative) in TEXT
    squeezed = told(("full-squeezed", 2, "any"), ("full-reference", 2, "any"))
    assert "style any ({} against {} at 2 steps)".format(*squeezed) in TEXT
    assert "at 1 step ({} against {})".format(*told(("full-lr-1e-4", 1), ("full-reference", 1))) in TEXT


def test_what_a_lora_does_not_need():
    kinds = ("modulation-16", "modulation-128", "attention-101", "feed-forward-98")
    shared = [[distance(f"lora-all-linears-{kind}", steps) for kind in kinds] for steps in (1, 2)]
    spans = [f"{f(found):.1f}" for found in shared for f in (min, max)]
    assert "in four other ways gives {} to {} and {} to {} at 1 and 2 steps".format(*spans) in TEXT
    both = {
        "one rank for all {} and {}.": "lora-all-linears",
        "time conditioning ({} and {}) or": "lora-time-lr-4e-3",
        "begins at zero ({} and {}), four times": "lora-all-linears-second-factor-4",
        "behind ({} and {}).": "lora-all-linears-aligned",
    }
    for sentence, name in both.items():
        assert sentence.format(*told((name, 1), (name, 2))) in TEXT
    assert VARIANTS["lora-time-lr-4e-3"]["options"]["time_conditioning_learning_rate"] == 4e-3
    for name, ablated in (("second-factor-4", "--second_factor_rate=4.0"), ("aligned", "--align_steps=150")):
        assert VARIANTS[f"lora-all-linears-{name}"]["command"].endswith(ablated)
    assert "and 5e-4 is worse ({}).".format(*told(("lora-lr-5e-4", 2))) in TEXT
    assert "at 1 step too ({} against {}).".format(*told(("lora-squeezed", 1), ("lora-reference", 1))) in TEXT


def test_style_any_at_four_steps():
    guided = {"full-enhanced-0.67", "full-enhanced-0.67-longer"}
    exceptions = guided | {"full-enhanced-0.8", "full-squeezed", "lora-squeezed", "full-clamp-10-l2"}
    scored = set(VARIANTS) - set(CONTROLS)
    assert {name for name in scored if distance(name, 4, "any") > distance(name, 4)} == exceptions
