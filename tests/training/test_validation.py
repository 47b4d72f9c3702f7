import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_twinflow.training.validation import aside_from_training, labelled_grid


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


def test_evaluating_leaves_mode_and_generators():
    model = torch.nn.Sequential(torch.nn.Dropout(0.5)).train()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with pytest.raises(KeyError), aside_from_training(model, torch.device("cpu")):
        assert not model.training and not torch.is_grad_enabled()
        torch.rand(7)
        raise KeyError
    assert model.training and model[0].training and torch.equal(torch.rand(2), expected)
