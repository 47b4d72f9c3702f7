from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusers_twinflow import TwinFlowConfig, TwinFlowConfigError
from diffusers_twinflow.methods.twinflow import BranchRotation

NAMES = ["one_step", "few_step", "any_step", "multi_step", "adversarial"]
shares = st.dictionaries(st.sampled_from(NAMES), st.floats(0.05, 4), min_size=1)


def fraction(rotation: BranchRotation, name: str) -> float:
    return rotation.cycle.count(name) / len(rotation.cycle)


def test_full_twinflow_is_a_quarter_each():
    rotation = BranchRotation(TwinFlowConfig(twinflow_adversarial_enabled=True).branch_shares)
    assert rotation.cycle == ["one_step", "any_step", "multi_step", "adversarial"]


def test_two_to_one():
    """Credits (2, 1) -> a, (-1+2, 1+1) -> b, (1+2, -1+1) -> a: then they repeat."""
    rotation = BranchRotation({"a": 2.0, "b": 1.0})
    assert rotation.at(range(6)) == ["a", "b", "a"] * 2


@given(shares, st.integers(0, 10_000), st.integers(1, 300))
def test_any_window_holds_the_shares_within_one(shares, start, length):
    rotation = BranchRotation(shares)
    positions = range(start, start + length)
    counts = Counter(rotation.at(positions))
    assert sum(counts.values()) == length
    assert [rotation.names[index] for index in rotation.indices_at(positions)] == rotation.at(positions)
    for name in shares:
        assert abs(counts[name] - length * fraction(rotation, name)) <= 2


@given(shares)
def test_the_cycle_has_the_shares(shares):
    rotation = BranchRotation(shares)
    total = sum(shares.values())
    for name, share in shares.items():
        assert abs(fraction(rotation, name) - share / total) < 0.02


def test_a_branch_without_a_share_never_comes():
    rotation = BranchRotation({"few_step": 0.0, "one_step": 1.0})
    assert set(rotation.at(range(50))) == {"one_step"} and set(rotation.indices_at(range(50))) == {1}


@pytest.mark.parametrize("shares", [{}, {"one_step": 0.0}, {"one_step": -1.0, "few_step": 2.0}])
def test_shares_that_make_no_rotation_are_refused(shares):
    with pytest.raises(TwinFlowConfigError, match="must be above 0"):
        BranchRotation(shares)
