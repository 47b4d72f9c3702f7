"""The bridge satisfies its definitions on every kind of noise schedule, in float64."""

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusers_twinflow.diff2flow import (
    DIFFUSION_PREDICTION_TYPES,
    Diff2Flow,
    NoiseSchedule,
    flow_scale,
    sigma_of_alpha_bar,
    signal_and_noise,
)

CONFIGS = {
    "Stable Diffusion": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    "linear": {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "sigmoid": {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "sigmoid"},
    "zero terminal SNR": {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "rescale_betas_zero_snr": True,
    },
    "short": {"num_train_timesteps": 50, "beta_start": 0.002, "beta_end": 0.3, "beta_schedule": "linear"},
    "given": {"num_train_timesteps": 4, "trained_betas": [0.1, 0.3, 0.5, 0.9]},
}
SCHEDULES = {name: NoiseSchedule.from_config(config) for name, config in CONFIGS.items()}
UNIT = st.floats(0, 1, allow_subnormal=False)
SCHEDULE = st.sampled_from(list(SCHEDULES))
PREDICTION_TYPE = st.sampled_from(DIFFUSION_PREDICTION_TYPES)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def data_and_noise(shape=(2, 3, 4)):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *shape, dtype=torch.float64, generator=generator).unbind()


def diffusion_target(prediction_type, x, z, signal, noise):
    return {"epsilon": z, "v_prediction": signal * z - noise * x, "sample": x}[prediction_type]


def test_by_hand():
    """alpha_bar 0.64: the diffusion point is 0.8 x + 0.6 z, and 0.8 + 0.6 = 1.4."""
    assert sigma_of_alpha_bar(double(0.64)).item() == pytest.approx(3 / 7)
    assert flow_scale(double(3 / 7)).item() == pytest.approx(1 / 1.4)
    torch.testing.assert_close(torch.cat(signal_and_noise(double(3 / 7))), double(0.8, 0.6))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("prediction_type", DIFFUSION_PREDICTION_TYPES)
def test_every_timestep_of_a_schedule(name, prediction_type):
    """Point, timestep and velocity of the network's own training pairs are those of the flow."""
    schedule = SCHEDULES[name]
    bridge = Diff2Flow(schedule, prediction_type)
    alpha_bar = schedule.alphas_cumprod
    sigma = sigma_of_alpha_bar(alpha_bar)
    x, z = data_and_noise((len(sigma), 5))
    signal, noise = alpha_bar.sqrt()[:, None], (1 - alpha_bar).sqrt()[:, None]
    x_t = (1 - sigma)[:, None] * x + sigma[:, None] * z
    torch.testing.assert_close(bridge.network_input(x_t, sigma), signal * x + noise * z, rtol=1e-9, atol=1e-9)
    timesteps = torch.arange(len(sigma), dtype=torch.float64)
    torch.testing.assert_close(schedule.timestep_of(sigma), timesteps, rtol=0, atol=1e-6)
    torch.testing.assert_close(schedule.sigma_of(timesteps), sigma, rtol=1e-9, atol=0)
    velocity = bridge.velocity(diffusion_target(prediction_type, x, z, signal, noise), x_t, sigma)
    torch.testing.assert_close(velocity, z - x, rtol=0, atol=1e-6)


@given(SCHEDULE, UNIT)
def test_timesteps_and_sigmas_invert_each_other(name, place):
    schedule = SCHEDULES[name]
    timestep = double(place * (len(schedule.alphas_cumprod) - 1))
    sigma = schedule.sigma_of(timestep)
    assert schedule.sigma_min - 1e-12 <= sigma.item() <= schedule.sigma_max + 1e-12
    torch.testing.assert_close(schedule.timestep_of(sigma), timestep, rtol=0, atol=1e-6)
    sigma = double(schedule.sigma_min + place * (schedule.sigma_max - schedule.sigma_min))
    torch.testing.assert_close(schedule.sigma_of(schedule.timestep_of(sigma)), sigma, rtol=0, atol=1e-9)


@given(SCHEDULE, st.floats(0, 0.999))
def test_log_snr_is_linear_between_timesteps(name, fraction):
    schedule = SCHEDULES[name]
    below = int(fraction * (len(schedule.log_snr) - 1))
    sigma = schedule.sigma_of(double(below + 0.25))
    expected = 0.75 * schedule.log_snr[below] + 0.25 * schedule.log_snr[below + 1]
    torch.testing.assert_close(torch.log((1 - sigma) / sigma)[0], expected, rtol=1e-9, atol=1e-9)


@given(SCHEDULE, PREDICTION_TYPE, UNIT)
def test_predictions_and_velocities_invert_each_other(name, prediction_type, sigma):
    bridge = Diff2Flow(SCHEDULES[name], prediction_type)
    (output, x_t), sigma = data_and_noise(), double(sigma, 0.5)
    velocity = bridge.velocity(output, x_t, sigma)
    assert velocity.isfinite().all()
    torch.testing.assert_close(bridge.prediction(velocity, x_t, sigma), output, rtol=0, atol=1e-6)


@given(SCHEDULE, UNIT, UNIT)
def test_the_three_predictions_give_one_velocity(name, place, value):
    """Within what the network knows, the same belief about data and noise is the same velocity."""
    schedule = SCHEDULES[name]
    sigma = double(schedule.sigma_min + place * (schedule.sigma_max - schedule.sigma_min))
    signal, noise = signal_and_noise(sigma)
    x, z = double(value), double(1 - 2 * value)
    x_t = (1 - sigma) * x + sigma * z
    for prediction_type in DIFFUSION_PREDICTION_TYPES:
        output = diffusion_target(prediction_type, x, z, signal, noise)
        velocity = Diff2Flow(schedule, prediction_type).velocity(output, x_t, sigma)
        torch.testing.assert_close(velocity, z - x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("prediction_type", DIFFUSION_PREDICTION_TYPES)
def test_beyond_what_the_network_knows(name, prediction_type):
    """More noise: the data it predicts at its last timestep. Less: the noise it predicts at its first."""
    schedule = SCHEDULES[name]
    bridge = Diff2Flow(schedule, prediction_type)
    (output, point) = (tensor[0, 0, :1] for tensor in data_and_noise())
    for outside, end, timestep in (
        (double((1 + schedule.sigma_max) / 2, 1.0), schedule.sigma_max, len(schedule.log_snr) - 1),
        (double(0.0, schedule.sigma_min / 2), schedule.sigma_min, 0),
    ):
        assert schedule.timestep_of(outside).tolist() == [timestep, timestep]
        at_end = double(end)
        network_input = point / flow_scale(at_end)
        believed = bridge.velocity(output, point, at_end)
        data, noise = point - at_end * believed, point + (1 - at_end) * believed
        for sigma in outside.split(1):
            x_t = network_input * flow_scale(sigma)
            torch.testing.assert_close(bridge.network_input(x_t, sigma), network_input)
            velocity = bridge.velocity(output, x_t, sigma)
            kept = (x_t - sigma * velocity, data) if end > 0.5 else (x_t + (1 - sigma) * velocity, noise)
            torch.testing.assert_close(*kept, rtol=1e-9, atol=1e-9)


@given(SCHEDULE, PREDICTION_TYPE)
def test_weights_are_continuous(name, prediction_type):
    schedule = SCHEDULES[name]
    bridge = Diff2Flow(schedule, prediction_type)
    for sigma in (schedule.sigma_min, 0.5, schedule.sigma_max):
        below, above = (bridge.velocity_weights(double(sigma + side)) for side in (-1e-12, 1e-12))
        torch.testing.assert_close(torch.cat(below), torch.cat(above), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DDIMScheduler(**CONFIGS["Stable Diffusion"]),
        diffusers.PNDMScheduler(),
        diffusers.EulerDiscreteScheduler(**CONFIGS["Stable Diffusion"], prediction_type="v_prediction"),
        diffusers.DPMSolverMultistepScheduler(**CONFIGS["zero terminal SNR"]),
        diffusers.UniPCMultistepScheduler(**CONFIGS["cosine"]),
        diffusers.DDPMScheduler(trained_betas=[0.1, 0.3, 0.5, 0.9]),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_a_stock_scheduler_has_the_same_schedule(scheduler):
    bridge = Diff2Flow.from_config(scheduler.config)
    torch.testing.assert_close(bridge.schedule.alphas_cumprod.float(), scheduler.alphas_cumprod.float())
    assert bridge.prediction_type == scheduler.config.prediction_type


def test_half_precision_points_and_float32_times():
    """What training sees: float32 times, one a sample; the velocity of float32 outputs is right to 1e-4."""
    bridge = Diff2Flow(SCHEDULES["Stable Diffusion"], "epsilon")
    x, z = (tensor.float() for tensor in data_and_noise())
    t = torch.tensor([0.03, 0.93])
    x_t = (1 - t)[:, None, None] * x + t[:, None, None] * z
    torch.testing.assert_close(bridge.velocity(z, x_t, t), z - x, rtol=0, atol=1e-4)
    exact = bridge.schedule.timestep_of(t.double())
    torch.testing.assert_close(bridge.schedule.timestep_of(t).double(), exact, rtol=0, atol=1e-2)
    assert torch.equal(bridge.schedule.timestep_of(t)[1:], bridge.schedule.timestep_of(t[1:]))


def test_what_cannot_be_bridged_is_named():
    with pytest.raises(ValueError, match="prediction_type='flow'"):
        Diff2Flow(SCHEDULES["linear"], "flow")
    with pytest.raises(ValueError, match="alphas_cumprod go from 0.99"):
        NoiseSchedule.from_config({"num_train_timesteps": 10, "beta_start": 0.01, "beta_end": 0.02})
