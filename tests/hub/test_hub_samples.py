import numpy as np
import pytest
from PIL import Image

from diffusers_twinflow.hub.samples import labelled_grid, read_prompts, write_samples


def column(*colours):
    return [Image.new("RGB", (40, 30), colour) for colour in colours]


def test_columns_stand_in_order_under_their_labels():
    grid = np.asarray(labelled_grid({"base, 28 steps": column("red", "blue"), "1 step": column("lime", "black")}))
    width = grid.shape[1] // 2
    head = grid.shape[0] - 60
    assert head > 10 and (grid[:head] < 128).any(axis=(0, 2))[:width].any()
    middle = [[tuple(grid[head + 15 + 30 * row, width // 2 + width * i]) for i in range(2)] for row in range(2)]
    assert middle == [[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (0, 0, 0)]]


def test_labels_are_not_cut_off():
    narrow = {"a rather long label of the base": [Image.new("RGB", (4, 4))], "b": [Image.new("RGB", (4, 4))]}
    longer = {name + "!" * 20: images for name, images in narrow.items()}
    assert labelled_grid(longer).width > labelled_grid(narrow).width > 2 * 100


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(ValueError):
        labelled_grid({"a": column("red"), "b": column("red", "red")})


def test_each_prompt_stands_above_its_rows():
    """Two rows a prompt: white lines with text, then both rows, and the same again."""
    columns = {"1 step": column("red", "red", "blue", "blue"), "2 steps": column("red", "red", "blue", "blue")}
    plain = np.asarray(labelled_grid(columns))
    grid = np.asarray(labelled_grid(columns, ["a fox in the snow", "a very long prompt " * 40]))
    reds, blues = ((grid == colour).all(-1).any(1) for colour in ((255, 0, 0), (0, 0, 255)))
    assert reds.sum() == blues.sum() == 60 and grid.shape[1] == plain.shape[1]
    first, second = np.flatnonzero(reds), np.flatnonzero(blues)
    assert (np.diff(first) == 1).all() and (np.diff(second) == 1).all()
    above = {"first": grid[plain.shape[0] - 120 : first[0]], "second": grid[first[-1] + 1 : second[0]]}
    assert all((part < 128).any() and (part > 250).any() for part in above.values())
    assert above["first"].shape[0] <= above["second"].shape[0] < 50, "a long prompt is cut off"


def test_the_grid_of_a_card_has_labels_and_notes(tmp_path):
    path = write_samples(tmp_path, {"base, 28 steps": column("red"), "1 step": column("lime")}, ["a fox"])
    with Image.open(path) as grid:
        assert grid.height > 30 + 20
    assert read_prompts(tmp_path) == ["a fox"]
