"""The scheduler equals a plain implementation of the formulas, on random fields with every combination of options."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from diffusers_twinflow.schedulers import TwinFlowScheduler
from tests.schedulers.plain_sampler import plain_grid, plain_loop, plain_sde_ratio

options = st.fixed_dictionaries(
    {
        "sampling_style": st.sampled_from(["few", "any", "multi"]),
        "stochastic_ratio": st.one_of(st.just("sde"), st.sampled_from([0.0, 1.0]), st.floats(0, 1)),
        "gap_start": st.floats(0.001, 0.3),
        "gap_end": st.one_of(st.just(0.0), st.floats(0.05, 0.6)),
        "kumaraswamy": st.lists(st.floats(0.7, 1.5), min_size=3, max_size=3),
        "shift": st.floats(0.5, 6.0),
        "extrapolation_ratio": st.one_of(st.just(0.0), st.floats(0, 1)),
        "sampling_order": st.sampled_from([1, 2]),
        "invert_sigmas": st.booleans(),
    }
)


def field(shape, seed, evaluations, dtype):
    generator = torch.Generator().manual_seed(seed)
    slope, waves, offset = torch.randn(3, evaluations, *shape, generator=generator, dtype=torch.float64).to(dtype)
    return lambda x, i: 0.3 * slope[i] * x + (waves[i] * x).cos() + offset[i]


def scheduler_loop(scheduler, model, x, generator):
    sign = -1 if scheduler.config.invert_sigmas else 1
    for i, t in enumerate(scheduler.timesteps):
        output = sign * model(x, i).to(x.dtype)
        x = scheduler.step(output, t, x, generator=generator, return_dict=False)[0]
    return x


def reference_loop(options, steps, model, x, generator):
    points = steps if options["sampling_order"] == 1 else steps // 2 + 1
    warp = options["kumaraswamy"]
    return plain_loop(
        model,
        x,
        plain_grid(points, options["gap_start"], options["gap_end"], warp, options["shift"]),
        ratio=options["stochastic_ratio"],
        extrapolation=options["extrapolation_ratio"],
        corrections=steps - points,
        draw=lambda: torch.randn(x.shape, generator=generator, dtype=x.dtype),
    )


@given(options, st.integers(1, 9), st.integers(0, 2**31), st.sampled_from([(2, 3), (1, 2, 3, 2), (1, 2, 2, 1, 3)]))
@settings(max_examples=3 * settings.default.max_examples)
def test_loop_in_float64(options, steps, seed, shape):
    scheduler = TwinFlowScheduler(**options)
    scheduler.set_timesteps(steps)
    model = field(shape, seed, steps, torch.float64)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ours = scheduler_loop(scheduler, model, x, torch.Generator().manual_seed(1))
    plain = reference_loop(options, steps, model, x, torch.Generator().manual_seed(1))
    assume(plain.abs().max() < 1e6)
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)


@given(options, st.integers(1, 8), st.integers(0, 2**31))
def test_every_step_in_float32(options, steps, seed):
    """One step from the same float32 input: 1e-6 of the largest term."""
    options = {**options, "sampling_order": 1, "extrapolation_ratio": 0.0}
    scheduler = TwinFlowScheduler(**options)
    scheduler.set_timesteps(steps)
    warp = options["kumaraswamy"]
    sigmas = plain_grid(steps, options["gap_start"], options["gap_end"], warp, options["shift"])
    torch.manual_seed(seed)
    sign = -1 if options["invert_sigmas"] else 1
    for i, t in enumerate(scheduler.timesteps):
        x, v = torch.randn(2, 2, 5)
        out = scheduler.step(sign * v, t, x, generator=torch.Generator().manual_seed(i))
        sigma, sigma_next, rho = sigmas[i], sigmas[i + 1], options["stochastic_ratio"]
        if rho == "sde":
            rho = plain_sde_ratio(sigma, sigma_next) if sigma_next else 0.0
        noise = torch.randn(2, 5, generator=torch.Generator().manual_seed(i)).double()
        x, v = x.double(), v.double()
        x_hat, z_hat = x - sigma * v, x + (1 - sigma) * v
        plain = (1 - sigma_next) * x_hat + sigma_next * ((1 - rho) ** 0.5 * z_hat + rho**0.5 * noise)
        size = max(x.abs().max(), v.abs().max(), noise.abs().max()).item()
        assert (out.prev_sample.double() - plain).abs().max() <= 1e-6 * size
        assert (out.pred_original_sample.double() - x_hat).abs().max() <= 1e-6 * size


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_arithmetic_is_float32(dtype):
    scheduler = TwinFlowScheduler(stochastic_ratio=0.3)
    scheduler.set_timesteps(4)
    x, v = torch.randn(2, 1, 4, 64).to(dtype)
    half = scheduler.step(v, scheduler.timesteps[0], x, generator=torch.Generator().manual_seed(0))
    scheduler.set_timesteps(4)
    full = scheduler.step(v.float(), scheduler.timesteps[0], x.float(), generator=torch.Generator().manual_seed(0))
    assert half.prev_sample.dtype == half.pred_original_sample.dtype == dtype
    assert torch.equal(half.prev_sample, full.prev_sample.to(dtype))
    assert torch.equal(half.pred_original_sample, full.pred_original_sample.to(dtype))


def oscillator(x, sigma):
    """The exact velocity of the flow from N(0, 1) to N(m, s^2), whose solution from z is known: m + s * z at sigma 0."""
    mean, deviation = 2.0, 0.5
    variance = sigma**2 + ((1 - sigma) * deviation) ** 2
    slope = (sigma - (1 - sigma) * deviation**2) / variance
    return slope * (x - (1 - sigma) * mean) - mean


@pytest.mark.parametrize("order, steps, error", [(1, 30, 0.08), (1, 240, 0.01), (2, 31, 0.02), (2, 241, 0.0015)])
def test_multi_converges_to_the_ode_solution(order, steps, error):
    scheduler = TwinFlowScheduler(sampling_style="multi", sampling_order=order)
    scheduler.set_timesteps(steps)
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)[None]
    sigmas = plain_grid(steps if order == 1 else steps // 2 + 1, 0.001, 0, (1.17, 0.8, 1.1), 1)
    sigmas = sigmas[:-1] if order == 1 else [sigmas[0], *(s for s in sigmas[1:-1] for _ in (0, 1))]
    x = z
    for sigma, t in zip(sigmas, scheduler.timesteps):
        assert t.item() == pytest.approx(1000 * sigma, rel=1e-6)
        x = scheduler.step(oscillator(x, sigma), t, x, return_dict=False)[0]
    exact = 2.0 + 0.5 * z
    assert (x - exact).abs().max() < error
