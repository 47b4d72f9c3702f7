"""Times, targets and weights of each branch, and a custom branch."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffusers_twinflow import TwinFlowConfig, TwinFlowConfigError
from diffusers_twinflow.methods import BRANCHES, Branch, BranchSamples, Networks, TwinFlow
from diffusers_twinflow.methods.teachers import StudentTeacher

CONFIG = TwinFlowConfig(twinflow_enabled=True, twinflow_enhanced_ratio=0.0)
BY_NAME = {branch.name: branch for branch in BRANCHES}


@pytest.mark.parametrize(
    ("name", "t", "r"),
    [
        ("one_step", [1.0, 1.0], [0.0, 0.0]),
        ("few_step", [0.8, 0.4], [0.0, 0.0]),
        ("any_step", [0.8, 0.4], [0.8 - 0.8 * 0.5 * 0.9, 0.4]),
        ("multi_step", [0.8, 0.4], [0.8 - 0.8 * 0.5 * 0.05, 0.4]),
        ("adversarial", [0.8, 0.4], [0.8, 0.4]),
    ],
)
def test_times_by_hand(name, t, r):
    config = replace(CONFIG, twinflow_consistency_ratio=0.9)
    found = BY_NAME[name].times(np.array([0.8, 0.4]), np.array([0.5, 0.0]), config)
    np.testing.assert_allclose(found, [t, r])


def test_only_the_twin_has_a_negative_sign_and_fakes():
    assert [(branch.sign, branch.trains_on_fakes) for branch in BRANCHES] == [(1.0, False)] * 4 + [(-1.0, True)]
    assert [branch.is_rectified for branch in BRANCHES] == [True, False, False, False, False]
    assert [branch.name for branch in BRANCHES] == list(CONFIG.branch_shares)


def double(value) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def samples(prediction, velocity=2.0, jumped=0.0, t=1.0, r=0.0) -> BranchSamples:
    """One sample of one element."""
    tensors = [double([[value]]) for value in (0.0, prediction, velocity, jumped)]
    return BranchSamples(tensors[0], double([t]), double([r]), *tensors[1:])


def test_the_target_of_a_jump_by_hand():
    """F = 2.004 from 1 to 0, delta = 0.01, v = 2, jumps of 1.98: residual (2.004 - 1.98) / 0.01 - 2 = 0.4."""
    found = BY_NAME["one_step"].target(samples(2.004, jumped=1.98), CONFIG)
    torch.testing.assert_close(found, double([[1.604]]), rtol=1e-12, atol=0)
    clamped = BY_NAME["one_step"].target(samples(2.5, jumped=1.98), CONFIG)
    torch.testing.assert_close(clamped, double([[1.5]]))


@pytest.mark.parametrize("name", ["one_step", "few_step", "any_step", "multi_step"])
def test_a_jump_that_adds_up_is_its_own_target(name):
    """F (t - r) = delta v + I: nothing is left to learn."""
    gap, delta, velocity, jumped = 0.5, CONFIG.twinflow_delta_t, 2.0, 0.6
    prediction = (delta * velocity + jumped) / gap
    found = BY_NAME[name].target(samples(prediction, velocity, jumped, t=0.75, r=0.25), CONFIG)
    torch.testing.assert_close(found, double([[prediction]]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("changes", [{"twinflow_estimate_order": 0}, {"twinflow_delta_t": 0.9}])
def test_short_jumps_and_order_0_learn_the_velocity(changes):
    found = BY_NAME["any_step"].target(samples(2.5, t=0.75, r=0.25), replace(CONFIG, **changes))
    torch.testing.assert_close(found, double([[2.0]]))


def test_the_twin_learns_the_velocity_without_a_bound():
    assert torch.equal(BY_NAME["adversarial"].target(samples(50.0), CONFIG), double([[2.0]]))


def test_weights_by_hand():
    t, r = double([1.0, 0.5, 0.5]), double([0.0, 0.5, 0.25])
    expected = [1.0, math.tan(math.pi / 2.5) + 1, math.tan(0.75 * math.pi / 2.5) + 1]
    torch.testing.assert_close(BY_NAME["any_step"].weight(t, r, CONFIG), double(expected), rtol=1e-12, atol=0)
    assert BY_NAME["adversarial"].weight(t, r, replace(CONFIG, twinflow_adversarial_weight=0.3)).tolist() == [0.3] * 3


class Half(Branch):
    """From a drawn time half of the way, towards twice the velocity."""

    name = "half"
    is_walked = False

    def times(self, t, u, config):
        return t, t / 2

    def target(self, samples, config):
        return 2 * samples.velocity

    def weight(self, t, r, config):
        return 10 * t


def test_a_branch_of_ones_own_trains_its_share():
    method = TwinFlow(replace(CONFIG, twinflow_loss="l2"), branches=[*BRANCHES, Half(share=1.0)])
    assert method.branch_names[-1] == "half"
    draw, latents = method.draw(range(12), (2,), seed=0), torch.randn(12, 2)
    half = draw.branch_indices == 5
    assert torch.equal(draw.r[half], draw.t[half] / 2) and half.sum() == 3
    assert torch.equal(draw.samples_of[5], half.nonzero()[:, 0])

    def zero(x, *rest):
        return torch.zeros_like(x)

    output = method.loss(latents, {}, draw, Networks(zero, zero, StudentTeacher(None, lambda _: zero)))
    expected = (2 * (draw.noise - latents)).square().mean(1) * 10 * draw.t
    torch.testing.assert_close(output.per_sample[half], expected[half])
    assert torch.equal(output.branches, draw.branch_indices)


def test_only_a_branch_of_ones_own():
    draw = TwinFlow(CONFIG, branches=[Half(share=1.0)]).draw(range(5), (2,), seed=0)
    assert draw.branch_indices.tolist() == [0] * 5 and not draw.passes.walk


class Wrong(Half):
    name = "wrong"

    def times(self, t, u, config):
        return t, t + 1


@pytest.mark.parametrize(
    ("branches", "message"),
    [([Half(share=0.0)], "must be above 0"), ([Half(share=1.0), Half(share=1.0)], "a different name")],
)
def test_branches_that_do_not_fit_are_refused(branches, message):
    with pytest.raises(TwinFlowConfigError, match=message):
        TwinFlow(CONFIG, branches=branches)


def test_times_out_of_range_are_refused():
    method = TwinFlow(CONFIG, branches=[Wrong(share=1.0)])
    with pytest.raises(TwinFlowConfigError, match="branch 'wrong' returned times"):
        method.draw(range(3), (2,), seed=0)
