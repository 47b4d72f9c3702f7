"""The scheduler with diffusion models: stock pipelines of tiny real UNets, and a model with a known solution."""

import functools
import inspect
import math

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)

from diffusers_twinflow import TwinFlowScheduler
from diffusers_twinflow.diff2flow import DIFFUSION_PREDICTION_TYPES, Diff2Flow, flow_scale, signal_and_noise
from tests.families import tiny_diffusion

SD = tiny_diffusion.SCHEDULE
PICTURE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(4))
MASK = torch.zeros(1, 1, 32, 32)
MASK[:, :, 8:24, 8:24] = 1
TEXT = {"prompt": ["a picture"], "height": 32, "width": 32}
PIXART = {**TEXT, "use_resolution_binning": False, "max_sequence_length": 8}
PIPELINES = {
    "StableDiffusionPipeline": (tiny_diffusion.stable_diffusion, TEXT),
    "StableDiffusionImg2ImgPipeline": (tiny_diffusion.stable_diffusion, {"image": PICTURE, "strength": 0.5}),
    "StableDiffusionInpaintPipeline": (
        tiny_diffusion.stable_diffusion,
        {**TEXT, "image": PICTURE, "mask_image": MASK, "strength": 0.75},
    ),
    "StableDiffusionXLPipeline": (tiny_diffusion.stable_diffusion_xl, TEXT),
    "StableDiffusionXLImg2ImgPipeline": (tiny_diffusion.stable_diffusion_xl, {"image": PICTURE, "strength": 0.5}),
    "StableDiffusionXLInpaintPipeline": (
        tiny_diffusion.stable_diffusion_xl,
        {**TEXT, "image": PICTURE, "mask_image": MASK, "strength": 0.75},
    ),
    "PixArtSigmaPipeline": (tiny_diffusion.pixart_sigma, PIXART),
}
STYLES = ("few", "any", "multi")


@functools.cache
def load(name, build):
    """A pipeline and the config of the scheduler it came with."""
    default_build, call = PIPELINES[name]
    stock = (build or default_build)()
    cls = getattr(diffusers, name)
    accepted = inspect.signature(cls.__init__).parameters
    components = {key: part for key, part in stock.components.items() if key in accepted}
    if "requires_safety_checker" in accepted:
        components["requires_safety_checker"] = False
    pipe = cls(**components)
    pipe.set_progress_bar_config(disable=True)
    return pipe, pipe.scheduler.config, {"prompt": ["a picture"], "guidance_scale": 1.0, **call}


def draw(name, scheduler, steps, build=None, seed=0, **arguments):
    """Latents drawn with a scheduler made from the config of the pipeline's own."""
    pipe, config, call = load(name, build)
    pipe.scheduler = scheduler(config)
    generator = torch.Generator().manual_seed(seed)
    options = {**call, "num_inference_steps": steps, "output_type": "latent", "return_dict": False, **arguments}
    latents = pipe(**options, generator=generator)[0]
    assert latents.isfinite().all()
    return latents


def ours(**options):
    return lambda config: TwinFlowScheduler.from_config(config, **options)


@pytest.mark.parametrize(
    ("name", "style"),
    [
        pytest.param(
            name, style, marks=() if style == "few" or name == "StableDiffusionPipeline" else pytest.mark.slow
        )
        for name in PIPELINES
        for style in STYLES
    ],
)
def test_unmodified_pipelines(name, style):
    """Few-step latents are finite, the seed's own, and of the scale that the stock scheduler's are."""
    first = draw(name, ours(sampling_style=style), 4)
    assert torch.equal(first, draw(name, ours(sampling_style=style), 4))
    assert not torch.allclose(first, draw(name, ours(sampling_style=style), 4, seed=1), atol=1e-2)
    stock = draw(name, DDIMScheduler.from_config, 10)
    assert 0.5 < first.std() / stock.std() < 2


@pytest.mark.parametrize("guidance_scale", [pytest.param(1.0, marks=pytest.mark.slow), 3.0])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "Inpaint" in name else ()) for name in PIPELINES]
)
def test_at_ddims_timesteps_it_is_ddim(name, guidance_scale):
    """An Euler step of the flow is a DDIM step, so the same timesteps give the same picture, up to rounding."""
    reference = draw(name, DDIMScheduler.from_config, 20, guidance_scale=guidance_scale)
    timesteps = load(name, None)[0].scheduler.timesteps.tolist()
    scheduler = ours(sampling_style="any", use_custom_sigmas=True)
    given = {"timesteps": timesteps, "guidance_scale": guidance_scale}
    if name.startswith("PixArt"):
        given["num_inference_steps"] = None
    assert relative_error(draw(name, scheduler, 20, **given), reference) < 1e-4


def nine_channels():
    pipe = tiny_diffusion.stable_diffusion()
    pipe.unet = tiny_diffusion.unet(in_channels=9)
    return pipe


def test_inpainting_networks_see_mask_and_picture_unscaled():
    name = "StableDiffusionInpaintPipeline"
    reference = draw(name, DDIMScheduler.from_config, 20, nine_channels)
    timesteps = load(name, nine_channels)[0].scheduler.timesteps.tolist()
    scheduler = ours(sampling_style="any", use_custom_sigmas=True)
    assert relative_error(draw(name, scheduler, 20, nine_channels, timesteps=timesteps), reference) < 1e-4


@pytest.mark.parametrize(
    ("name", "guidance_scale"),
    [
        pytest.param("StableDiffusionPipeline", 3.0, marks=pytest.mark.slow),
        ("PixArtSigmaPipeline", 1.0),
    ],
)
def test_many_steps_converge_to_ddim(name, guidance_scale):
    """From the same noise; four times the steps have less than 0.6 of the error."""
    reference = draw(name, DDIMScheduler.from_config, 250, guidance_scale=guidance_scale)
    errors = [
        relative_error(draw(name, ours(sampling_style="multi"), steps, guidance_scale=guidance_scale), reference)
        for steps in (8, 32, 128)
    ]
    assert all(after < 0.6 * before for before, after in zip(errors, errors[1:])), errors
    assert errors[-1] < 0.04


@pytest.mark.parametrize(
    ("scheduler", "build"),
    [
        pytest.param(DPMSolverMultistepScheduler, tiny_diffusion.stable_diffusion, marks=pytest.mark.slow),
        pytest.param(EulerDiscreteScheduler, tiny_diffusion.stable_diffusion, marks=pytest.mark.slow),
        (DPMSolverMultistepScheduler, tiny_diffusion.v_prediction),
        pytest.param(EulerDiscreteScheduler, tiny_diffusion.v_prediction, marks=pytest.mark.slow),
    ],
)
def test_other_solvers_and_v_prediction(scheduler, build):
    reference = draw("StableDiffusionPipeline", scheduler.from_config, 100, build)
    assert relative_error(draw("StableDiffusionPipeline", ours(sampling_style="multi"), 100, build), reference) < 0.02


def test_image_to_image_starts_where_ddim_starts():
    """The picture with noise, as the network sees it first, is the stock scheduler's at the same timestep."""
    pipe, config, _ = load("StableDiffusionImg2ImgPipeline", None)
    picture, noise = (torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    scheduler = TwinFlowScheduler.from_config(config, sampling_style="multi")
    scheduler.set_timesteps(20)
    scheduler.set_begin_index(8)
    timestep = scheduler.timesteps[8:9]
    seen = scheduler.scale_model_input(scheduler.add_noise(picture, noise, timestep), timestep[0])
    below, above = (
        DDIMScheduler.from_config(config).add_noise(picture, noise, t.long()) for t in (timestep, timestep + 1)
    )
    fraction = timestep.frac().item()
    torch.testing.assert_close(seen, torch.lerp(below, above, fraction), rtol=0, atol=1e-4)


def relative_error(sample, reference):
    return ((sample - reference).norm() / reference.norm()).item()


# Configurations of other schedulers


@pytest.mark.parametrize(
    "stock",
    [
        PNDMScheduler(**SD, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False),
        DDIMScheduler(),
        EulerDiscreteScheduler(**SD, prediction_type="v_prediction", rescale_betas_zero_snr=True),
        DPMSolverMultistepScheduler(prediction_type="sample", beta_schedule="squaredcos_cap_v2"),
        DDIMScheduler(trained_betas=[0.1, 0.3, 0.5, 0.9], num_train_timesteps=4),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
@pytest.mark.parametrize("saved", [False, True])
def test_from_config_takes_prediction_and_schedule_over(stock, saved, tmp_path):
    if saved:
        stock.save_pretrained(tmp_path)
        scheduler = TwinFlowScheduler.from_pretrained(tmp_path)
    else:
        scheduler = TwinFlowScheduler.from_config(stock.config)
    assert scheduler.config.prediction_type == stock.config.prediction_type
    scheduler.set_timesteps(4)
    expected = Diff2Flow.from_config(stock.config).schedule.timestep_of(scheduler.sigmas[:-1].double()).float()
    torch.testing.assert_close(scheduler.timesteps, expected, rtol=0, atol=1e-2)
    back = type(stock).from_config(scheduler.config)
    assert torch.equal(back.alphas_cumprod, stock.alphas_cumprod)


def test_a_config_on_disk_without_its_defaults(tmp_path):
    """Stable Diffusion 1.5 leaves its prediction type out."""
    config = {"_class_name": "PNDMScheduler", **SD, "num_train_timesteps": 1000}
    scheduler = TwinFlowScheduler.from_config(config)
    assert (scheduler.config.prediction_type, scheduler.config.beta_end) == ("epsilon", 0.012)


def test_flow_models_stay_flow_models():
    for stock in (
        diffusers.FlowMatchEulerDiscreteScheduler(),
        diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    ):
        scheduler = TwinFlowScheduler.from_config(stock.config)
        scheduler.set_timesteps(2)
        assert scheduler.init_noise_sigma == 1.0
        assert torch.equal(scheduler.timesteps, scheduler.sigmas[:-1] * 1000)


def test_schedules_that_are_unknown_are_refused():
    with pytest.raises(ValueError, match="beta_schedule"):
        TwinFlowScheduler.from_config(EDMEulerScheduler().config)


# The grid


def test_the_grid_starts_at_the_last_timestep_and_ends_where_it_is_asked_to():
    """Stable Diffusion's last alpha_bar is 0.00466: sigma 0.936."""
    scheduler = TwinFlowScheduler(prediction_type="epsilon", **SD)
    scheduler.set_timesteps(3)
    torch.testing.assert_close(scheduler.sigmas, torch.tensor([0.93596, 0.71798, 0.5, 0]), rtol=0, atol=1e-5)
    assert scheduler.timesteps[0].item() == pytest.approx(999, abs=1e-3)
    assert scheduler.timesteps[1] % 1 > 0.01
    assert scheduler.target_timesteps.tolist() == [0, 0, 0]
    scheduler.set_timesteps(1)
    assert scheduler.sigmas.tolist() == pytest.approx([0.93596, 0], abs=1e-5)
    with pytest.raises(ValueError, match="gap_end=0.98.*0.936"):
        TwinFlowScheduler(prediction_type="epsilon", gap_end=0.98, **SD).set_timesteps(2)


def multi_scheduler(schedule, steps, **options):
    scheduler = TwinFlowScheduler(prediction_type="epsilon", sampling_style="multi", **schedule, **options)
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize(
    "schedule, tolerance", [(SD, 2e-2), ({}, 2e-2), ({"beta_schedule": "squaredcos_cap_v2"}, 1.0)]
)
def test_the_multi_grid_is_ddims(schedule, tolerance):
    """It is even in the model's time. The cosine schedule knows sigmas above `1 - gap_start`."""
    stock = DDIMScheduler(timestep_spacing="trailing", **schedule)
    stock.set_timesteps(20)
    timesteps = multi_scheduler(schedule, 20).timesteps
    torch.testing.assert_close(timesteps, stock.timesteps.float(), rtol=0, atol=tolerance)


def test_the_multi_grid_falls_at_any_number_of_steps_and_ends_at_the_gap():
    sigmas = multi_scheduler(SD, 3000).sigmas
    assert (sigmas.diff() < 0).all() and sigmas[-2] > 0
    ends = multi_scheduler(SD, 20, gap_end=0.3).sigmas
    assert (ends[0].item(), ends[-2].item()) == pytest.approx((0.93596, 0.3), abs=1e-5)
    with pytest.raises(ValueError, match="gap_end=0.98.*0.936"):
        multi_scheduler(SD, 2, gap_end=0.98)


def test_zero_terminal_snr_starts_where_flow_models_start():
    scheduler = TwinFlowScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True, **SD)
    scheduler.set_timesteps(4)
    assert scheduler.sigmas[0].item() == pytest.approx(0.999)
    assert 996 < scheduler.timesteps[0] < 999


def test_a_users_timesteps_are_the_networks():
    scheduler = TwinFlowScheduler(prediction_type="epsilon", use_custom_sigmas=True, **SD)
    scheduler.set_timesteps(timesteps=[900, 400])
    assert scheduler.timesteps.tolist() == [900, 400]
    alpha_bar = DDIMScheduler(**SD).alphas_cumprod[[900, 400]]
    expected = (1 - alpha_bar).sqrt() / (alpha_bar.sqrt() + (1 - alpha_bar).sqrt())
    torch.testing.assert_close(scheduler.sigmas[:-1], expected)


def test_per_token_times_are_refused():
    scheduler = TwinFlowScheduler(prediction_type="epsilon")
    scheduler.set_timesteps(1)
    x = torch.zeros(1, 2, 4)
    with pytest.raises(ValueError, match="per_token_timesteps"):
        scheduler.step(x, scheduler.timesteps[0], x, per_token_timesteps=torch.ones(1, 2))


# A mixture of two Gaussians of mean 0 and variance 1, whose best prediction is known

WEIGHTS, MEANS, DEVIATION = torch.tensor([0.25, 0.75]).double(), torch.tensor([-1.5, 0.5]).double(), 0.5


def mixture_cdf(x):
    return (WEIGHTS * torch.special.ndtr((x[:, None] - MEANS) / DEVIATION)).sum(1)


class MixtureNetwork:
    """Predicts what the best diffusion network would for this data, at its own scale and timesteps."""

    def __init__(self, bridge):
        self.bridge = bridge

    def __call__(self, network_input, timestep):
        sigma = self.bridge.schedule.sigma_of(timestep.double().reshape(1))
        signal, noise = signal_and_noise(sigma)
        variance = (signal * DEVIATION) ** 2 + noise**2
        logits = WEIGHTS.log() - (network_input[:, None] - signal * MEANS) ** 2 / (2 * variance)
        given_mode = MEANS + signal * DEVIATION**2 / variance * (network_input[:, None] - signal * MEANS)
        data = (logits.softmax(1) * given_mode).sum(1)
        z = (network_input - signal * data) / noise
        return {"epsilon": z, "v_prediction": signal * z - noise * data, "sample": data}[self.bridge.prediction_type]


@pytest.mark.parametrize(
    "schedule", [SD, {"rescale_betas_zero_snr": True, **SD}, {"beta_schedule": "squaredcos_cap_v2"}, {}]
)
@pytest.mark.parametrize("prediction_type", DIFFUSION_PREDICTION_TYPES)
def test_samples_have_the_exact_distribution(prediction_type, schedule):
    """Evenly spaced quantiles of the noise go to evenly spaced quantiles of the data."""
    quantiles = (torch.arange(2000).double() + 0.5) / 2000
    samples = sample_mixture(torch.special.ndtri(quantiles), prediction_type, schedule, sampling_style="multi")
    assert (samples.diff() > 0).all()
    assert (mixture_cdf(samples) - quantiles).abs().max() < 0.01


def test_fresh_noise_keeps_the_distribution():
    noise = torch.randn(20000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    options = {"sampling_style": "multi", "stochastic_ratio": "sde"}
    samples = sample_mixture(noise, "epsilon", SD, generator=torch.Generator().manual_seed(1), **options).sort().values
    quantiles = (torch.arange(len(samples)).double() + 0.5) / len(samples)
    assert (mixture_cdf(samples) - quantiles).abs().max() < 1.63 / math.sqrt(len(samples)) + 0.005


def sample_mixture(noise, prediction_type, schedule, generator=None, **options):
    scheduler = TwinFlowScheduler(prediction_type=prediction_type, **schedule, **options)
    network = MixtureNetwork(Diff2Flow.from_config(scheduler.config))
    scheduler.set_timesteps(200)
    x = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, timestep), timestep)
        x = scheduler.step(output, timestep, x, generator=generator, return_dict=False)[0]
    return x


def test_pred_original_sample_and_one_step():
    """One evaluation of a network that knows the data gives the data."""
    x, z = (torch.randn(2, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    for prediction_type in DIFFUSION_PREDICTION_TYPES:
        scheduler = TwinFlowScheduler(prediction_type=prediction_type, **SD)
        scheduler.set_timesteps(2)
        sigma = scheduler.sigmas[0].double()
        signal, noise = (part.float() for part in signal_and_noise(sigma))
        output = {"epsilon": z, "v_prediction": signal * z - noise * x, "sample": x}[prediction_type]
        point = (signal * x + noise * z) * flow_scale(sigma).float()
        result = scheduler.step(output, scheduler.timesteps[0], point)
        torch.testing.assert_close(result.pred_original_sample, x, rtol=0, atol=1e-4)
        assert not np.allclose(result.prev_sample, x, atol=1e-2)
