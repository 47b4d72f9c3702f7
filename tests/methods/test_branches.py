from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.methods.twinflow.branches import BRANCHES, Branch, BranchRotation

shares = st.dictionaries(st.sampled_from([branch.value for branch in Branch]), st.floats(0.05, 4), min_size=1)


def test_full_twinflow_is_a_quarter_each():
    rotation = BranchRotation(TwinFlowConfig(twinflow_adversarial_enabled=True).branch_shares)
    counts = Counter(rotation.at(range(4)))
    assert counts == dict.fromkeys((Branch.ONE_STEP, Branch.ANY_STEP, Branch.MULTI_STEP, Branch.ADVERSARIAL), 1)


@given(shares, st.integers(0, 10_000), st.integers(1, 300))
def test_any_window_holds_the_shares_within_one(shares, start, length):
    rotation = BranchRotation(shares)
    counts = Counter(rotation.at(range(start, start + length)))
    assert sum(counts.values()) == length
    positions = range(start, start + length)
    assert [BRANCHES[index] for index in rotation.indices_at(positions)] == rotation.at(positions)
    for name in shares:
        assert abs(counts[Branch(name)] - length * rotation.fraction(Branch(name))) <= 2


@given(shares)
def test_fractions_are_the_shares(shares):
    rotation = BranchRotation(shares)
    total = sum(shares.values())
    assert abs(sum(rotation.fraction(Branch(name)) for name in shares) - 1) < 1e-9
    for name, share in shares.items():
        assert abs(rotation.fraction(Branch(name)) - share / total) < 0.02
    assert Counter(rotation.cycle) == {
        Branch(name): round(rotation.fraction(Branch(name)) * len(rotation.cycle)) for name in shares
    }


def test_a_branch_without_a_share_never_comes():
    rotation = BranchRotation({"one_step": 1.0, "few_step": 0.0})
    assert set(rotation.at(range(50))) == {Branch.ONE_STEP}
    assert rotation.fraction(Branch.FEW_STEP) == 0
