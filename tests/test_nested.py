"""Values in nested lists, tuples and dictionaries."""

from collections import OrderedDict, namedtuple

import pytest
import torch

from diffusers_twinflow.nested import Group, map_leaves, map_tensors, tensors

Pair = namedtuple("Pair", "one two")
FIRST, SECOND, THIRD = torch.zeros(1), torch.ones(2), torch.full((3,), 2.0)


@pytest.mark.parametrize(
    "value",
    [
        [FIRST, (SECOND, 3), {"a": None, "b": [THIRD]}],
        Pair({"x": FIRST}, [SECOND, [], THIRD]),
        {2: FIRST, "size": torch.Size([3, 4]), "more": ((SECOND,), THIRD)},
        OrderedDict(a=FIRST, b=Pair(SECOND, {"deep": [THIRD, "text"]})),
    ],
)
def test_tensors_are_replaced_in_their_order(value):
    assert [*map(len, tensors(value))] == [1, 2, 3]
    doubled = map_tensors(lambda tensor: torch.cat([tensor, tensor]), value)
    assert [*map(len, tensors(doubled))] == [2, 4, 6] and [*map(len, tensors(value))] == [1, 2, 3]
    remaining = iter(tensors(value))
    assert str(map_tensors(lambda _: next(remaining), doubled)) == str(map_tensors(lambda tensor: tensor, value))


def test_containers_keep_their_class_and_dictionaries_become_plain():
    copied = map_leaves(lambda leaf: leaf, [Pair(1, 2), torch.Size([3]), OrderedDict(a=(4,))])
    assert copied == [Pair(1, 2), torch.Size([3]), {"a": (4,)}]
    assert [*map(type, copied)] == [Pair, torch.Size, dict]


@pytest.mark.parametrize("value", [None, "text", torch.zeros(2), {1, 2}, 3.0])
def test_other_values_are_leaves(value):
    assert Group.of(value) is None
    assert map_leaves(lambda leaf: [leaf], value)[0] is value
