from matplotlib.figure import Figure

from quality.report import by_length, draw_variants, shown, targets

BASE = {"frechet_distance": 3.0, "evaluations": 100}


def variant(name: str, one: float, two: float, style: str = "few", trained: int = 10) -> dict:
    rows = [{"style": style, "steps": steps, "frechet_distance": value} for steps, value in ((1, one), (2, two))]
    return {"name": name, "rows": rows, "training": {"steps": trained}}


def test_targets_are_of_the_longest_trained():
    full = [variant("full-reference", 9.0, 1.0), variant("full-longer", 4.0, 3.0), variant("full-rcgm", 1.0, 1.0)]
    lora = [
        variant("lora-reference", 5.5, 3.5),
        variant("lora-rank-16", 0.1, 0.1),
        variant("lora-longer", 1.0, 1.0, "any"),
    ]
    assert shown(full, "full")["name"] == "full-longer" and shown(lora, "lora")["name"] == "lora-reference"
    reached = [row["reached"] for row in targets({"frechet_distance": 3.0}, full + lora)]
    assert reached == [False, True, False, False, True, True]
    assert shown(lora, "full") == {"rows": []}


def drawn(*variants: dict):
    axes = Figure().subplots()
    draw_variants(axes, {"reference": BASE, "variants": list(variants)})
    return axes


def test_a_bar_far_beyond_the_others_is_cut_and_says_its_values():
    axes = drawn(variant("a", 4, 3), variant("b", 5, 4), variant("c", 370.2, 374.4))
    assert axes.get_xlim() == (0, 3 * 5)
    assert [text.get_text() for text in axes.texts] == ["370 and 374"]
    assert axes.texts[0].xy == (15, 0)  # the worst is lowest


def test_bars_of_one_size_are_not_cut():
    axes = drawn(variant("a", 4, 3), variant("b", 5, 4))
    assert 5 < axes.get_xlim()[1] < 6 and not axes.texts


def test_where_nothing_was_scored_the_base_alone_is_drawn():
    assert not drawn({"name": "a", "rows": [], "training": {}}).patches


def test_a_curve_over_the_length_of_training_goes_from_short_to_long():
    trained = {"long": (3, 2, 30), "short": (6, 5, 10), "other": (1, 1, 20)}
    variants = [variant(name, one, two, trained=steps) for name, (one, two, steps) in trained.items()]
    assert by_length(variants, ["short", "long"], 1) == [(10, 6), (30, 3)]
    assert by_length(variants, ["short", "long"], 2) == [(10, 5), (30, 2)]
