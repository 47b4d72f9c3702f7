"""The parts of a condition that depend on the size, found from two prompts at two sizes."""

import pytest
import torch

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.families.size_parts import part_of_size

PROMPTS = (torch.tensor([[1.0, 1, 0]]), torch.tensor([[1.0, 0, 0]]))


def masks(tokens):
    """A mask of the prompt, then of the tokens of a sample."""
    return [torch.cat([prompt, torch.ones(1, tokens)], 1) for prompt in PROMPTS]


def features(tokens):
    """Features of the tokens of a prompt, then of those of a sample."""
    return [torch.cat([torch.full((1, 3, 2), float(i)), torch.zeros(1, tokens, 2)], 1) for i in range(2)]


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (features(4), features(2)),
        (features(2), features(4)),
        (masks(4), masks(2)),
        (masks(2), masks(4)),
        ([torch.ones(1, 2, 3)] * 2, [torch.zeros(1, 2, 3)] * 2),
        ([torch.ones(1, 2, 3)] * 2, [torch.ones(1, 4, 3)] * 2),
        ([torch.ones(1, 2)] * 2, [None] * 2),
    ],
)
def test_conditions_of_another_size_become_those_of_this_one(here, there):
    part = part_of_size(here, there, "name")
    for mine, theirs in zip(here, there):
        torch.testing.assert_close(part.put(theirs, 1, torch.device("cpu")), mine)
    if there[0] is not None:
        both = part.put(torch.cat(there), 2, torch.device("cpu"))
        torch.testing.assert_close(both, torch.cat(here))


def test_conditions_that_do_not_depend_on_the_size_have_no_part():
    assert part_of_size(masks(2), masks(2), "name") is None


def test_conditions_that_depend_on_both_are_refused():
    with pytest.raises(TwinFlowConfigError, match="`mask` depends on the prompt and the size.*aspect_ratio_buckets"):
        part_of_size([each * 2 for each in PROMPTS], list(PROMPTS), "mask")
