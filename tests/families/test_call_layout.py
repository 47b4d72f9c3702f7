"""Arguments of a call in nested lists, tuples and dictionaries: taken apart into samples, and put together again."""

from collections import namedtuple

import pytest
import torch

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.families.call_layout import join, layout_of, layout_of_one, layout_of_packed, same, split

Rotary = namedtuple("Rotary", "cos sin")


def arguments(count: int):
    """Arguments of a call for a number of samples that are conditioned alike."""
    row = torch.arange(6.0).reshape(1, 2, 3)
    return {
        "embeds": [row.repeat(count, 1, 1), {"mask": torch.ones(count, 2)}],
        "rotary": Rotary(torch.zeros(4, 2), torch.ones(4, 2)),
        "texts": [(row[0], {"ids": torch.arange(3), "scale": 2.0})] * count,
        "plain": (None, "text", torch.Size([4, 4])),
    }


def test_joined_arguments_are_those_of_any_number_of_samples():
    layout = layout_of(arguments(1), arguments(2), "kwargs")
    condition = split(layout, arguments(2), 2, "kwargs")
    assert {name: len(rows) for name, rows in condition.items()} == {
        "kwargs.embeds.0": 2,
        "kwargs.embeds.1.mask": 2,
        "kwargs.texts.0": 2,
        "kwargs.texts.1.ids": 2,
    }
    three = {name: rows[[0, 1, 0]] for name, rows in condition.items()}
    assert same(join(layout, three, 3, torch.device("cpu")), arguments(3))


@pytest.mark.parametrize("change", [{"plain": (None, "text")}, {"embeds": "text"}, {"rotary": [torch.zeros(4, 2)]}])
def test_another_structure_is_refused_by_name(change):
    layout = layout_of(arguments(1), arguments(2), "kwargs")
    with pytest.raises(TwinFlowConfigError, match=f"another `kwargs.{next(iter(change))}` for some prompts"):
        split(layout, arguments(1) | change, 1, "kwargs")


@pytest.mark.parametrize("kind", [list, tuple, dict], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("layout_for", [layout_of_one, layout_of_packed])
def test_a_tensor_that_depends_on_the_prompt_is_found_in_any_container(kind, layout_for):
    def placed(length: int):
        places = torch.arange(length)
        return {"ids": places} if kind is dict else kind([places])

    layout = layout_for(placed(3), "ids", placed(5))
    condition = split(layout, placed(7), 1, "ids")
    assert same(join(layout, condition, 1, torch.device("cpu")), placed(7))
