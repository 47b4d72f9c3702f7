import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusers_twinflow import flow

times = st.floats(0, 1, allow_nan=False)


def field(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(t=times, seed=st.integers(0, 1000))
def test_recover_inverts_interpolate(t, seed):
    x, z = field(seed, 3, 2, 4), field(seed + 1, 3, 2, 4)
    t = torch.full((3,), t, dtype=torch.float64)
    x_hat, z_hat = flow.recover(flow.interpolate(x, z, t), t, flow.velocity(x, z))
    torch.testing.assert_close(x_hat, x)
    torch.testing.assert_close(z_hat, z)


def test_interpolate_ends_at_data_and_noise():
    x, z = field(0, 2, 3), field(1, 2, 3)
    assert torch.equal(flow.interpolate(x, z, torch.tensor([0.0, 1.0]))[0], x[0])
    assert torch.equal(flow.interpolate(x, z, torch.tensor([0.0, 1.0]))[1], z[1])


@given(t=times, r=times, order=st.integers(0, 4), seed=st.integers(0, 1000))
def test_perfect_velocity_is_a_fixed_point(t, r, order, seed):
    """A field of straight lines predicts `z - x` everywhere: the target is the prediction, whatever the jump."""
    x, z = field(seed, 1, 5), field(seed + 1, 1, 5)
    t, r = torch.tensor([max(t, r)], dtype=torch.float64), torch.tensor([min(t, r)], dtype=torch.float64)
    v = flow.velocity(x, z)
    target = flow.rcgm_target(lambda *_: v, v, v, flow.interpolate(x, z, t), t, r, order=order, delta=0.01, clamp=1.0)
    torch.testing.assert_close(target, v)
    assert flow.barron_loss(v, target).max() < 1e-9


@given(t=times, seed=st.integers(0, 1000))
def test_rcgm_at_r_equal_t_is_flow_matching(t, seed):
    """Without a jump the target is the velocity, and the teacher's answer is of no account."""
    t = torch.tensor([t], dtype=torch.float64)
    prediction, v = field(seed, 1, 5), field(seed + 1, 1, 5)
    target = flow.rcgm_target(
        lambda x, *_: torch.full_like(x, 1e6), prediction, v, field(2, 1, 5), t, t, order=2, delta=0.01, clamp=100.0
    )
    torch.testing.assert_close(target, v)


def test_rcgm_target_by_hand():
    """t = 1, r = 0.5, delta = 0.25, one teacher jump from 0.75 to 0.5.

    The velocity 2 takes x = 4 to 3.5 at 0.75. The teacher answers x + tau + r = 4.75 there: I = 4.75 / 4 = 1.1875.
    Residual = 3 * 0.5 / 0.25 - 1.1875 / 0.25 - 2 = -0.75; the target is 3 + 0.75.
    """
    one = torch.ones(1, 1, dtype=torch.float64)

    def teacher(x, tau, r):
        assert tau.item() == 0.75 and r.item() == 0.5
        return x + tau + r

    options = {"order": 1, "delta": 0.25, "clamp": 1.0}
    target = flow.rcgm_target(teacher, 3 * one, 2 * one, 4 * one, one[0], one[0] / 2, **options)
    assert target.item() == 3.75
    options["clamp"] = 0.5
    assert flow.rcgm_target(teacher, 3 * one, 2 * one, 4 * one, one[0], one[0] / 2, **options).item() == 3.5


def test_rcgm_walks_equal_steps():
    visited = []

    def teacher(x, tau, r):
        visited.append((round(tau.item(), 6), round(r.item(), 6)))
        return x

    one = torch.ones(1, 1, dtype=torch.float64)
    flow.rcgm_target(teacher, one, one, one, one[0] * 0.7, one[0] * 0.1, order=3, delta=0.3, clamp=1.0)
    assert visited == [(0.4, 0.3), (0.3, 0.2), (0.2, 0.1)]


def test_rcgm_learns_the_average_velocity():
    """On the exact field of a point mass at x = 0, F(x, t, r) = x / t is the fixed point for every jump."""
    t, r = torch.tensor([0.9, 0.6], dtype=torch.float64), torch.tensor([0.2, 0.0], dtype=torch.float64)
    x = field(3, 2, 4)
    v = x / t[:, None]
    target = flow.rcgm_target(
        lambda y, tau, _: y / tau[:, None], v.clone(), v, x, t, r, order=2, delta=0.01, clamp=10.0
    )
    torch.testing.assert_close(target, v)


def test_targets_have_no_gradient():
    prediction = field(0, 2, 3).requires_grad_()
    t = torch.tensor([0.5, 0.5], dtype=torch.float64)
    target = flow.rcgm_target(
        lambda x, *_: x, prediction, field(1, 2, 3), field(2, 2, 3), t, t * 0, order=1, delta=0.01, clamp=1.0
    )
    assert not target.requires_grad


def test_barron_loss_by_hand():
    """Squared errors 1 and 4 give m = 2.5; alpha 1, c 1: weight (2.5 + 1) ** -0.5."""
    prediction, target = torch.tensor([[1.0, 2.0]], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    expected = 2.5 / math.sqrt(3.5)
    assert flow.barron_loss(prediction, target, alpha=1.0, c=1.0).item() == pytest.approx(expected, rel=1e-7)
    assert flow.barron_loss(prediction, target, alpha=2.0, c=0.5).item() == pytest.approx(5.0)


@pytest.mark.parametrize("error", [3.0, 30.0])
def test_barron_weight_has_no_gradient(error):
    """With alpha 1 and c far below the error the gradient is that of m / sqrt(m0), not of sqrt(m), so 2 for any error."""
    prediction = torch.tensor([[error]], dtype=torch.float64, requires_grad=True)
    flow.barron_loss(prediction, torch.zeros(1, 1, dtype=torch.float64), alpha=1.0, c=1e-3).sum().backward()
    assert prediction.grad.item() == pytest.approx(2.0, rel=1e-2)


def test_interval_weight():
    t = torch.tensor([1.0, 0.5], dtype=torch.float64)
    r = torch.tensor([0.0, 0.5], dtype=torch.float64)
    weight = flow.interval_weight(t, r)
    assert weight[0].item() == 1.0
    assert weight[1].item() == pytest.approx(4.0776835, rel=1e-6)


def test_ema_decay_warms_up_to_its_target():
    decays = [0.0]
    for _ in range(2000):
        decays.append(flow.ema_decay_warmup(decays[-1], 0.99))
    assert decays[1] == pytest.approx(0.495)
    assert decays == sorted(decays)
    assert decays[-1] == pytest.approx(0.99, abs=1e-3)
