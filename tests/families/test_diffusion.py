"""Tests of the families of diffusion models only. The kit tests what every family does."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusionPipeline

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.diff2flow import Diff2Flow
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.models import enable_twinflow
from tests.families import kit, tiny_diffusion

CASES = [case for case in kit.CASES if case.options == kit.BRIDGED]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


def spied(model):
    """The keyword arguments of the model's calls, filled while it runs."""
    calls = []
    return calls, model.register_forward_pre_hook(lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True)


@each_case
def test_the_network_sees_its_own_times_and_scale(case):
    """At a timestep's own sigma, the network gets what `add_noise` of the stock scheduler makes of data and noise."""
    family, pipeline = case.family.bind(case.pipeline), case.pipeline
    model = family.denoiser(pipeline)
    x, z = (torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    timesteps = torch.tensor([700, 30])
    sigma = Diff2Flow.from_config(pipeline.scheduler.config).schedule.sigma_of(timesteps.double()).float()
    x_t = torch.lerp(x, z, sigma.reshape(2, 1, 1, 1))
    condition = case.encode_prompts(kit.PROMPTS)
    seen = []
    with model.register_forward_pre_hook(lambda *call: seen.append(call[1:]), with_kwargs=True), torch.no_grad():
        velocity = family.velocity(model)(x_t, sigma, None, None, condition)
    args, kwargs = seen[0]
    torch.testing.assert_close(kwargs["timestep"], timesteps.float(), rtol=0, atol=1e-2)
    network_input = kwargs["sample"] if "sample" in kwargs else args[0]
    torch.testing.assert_close(network_input, pipeline.scheduler.add_noise(x, z, timesteps), rtol=1e-4, atol=1e-4)
    assert velocity.dtype == torch.float32 and velocity.shape == x_t.shape


@each_case
def test_ends_of_the_schedule(case):
    """At t = 0 and t = 1 the velocity is finite, and its data and noise are those at the nearest known time."""
    family = case.family.bind(case.pipeline)
    model = family.denoiser(case.pipeline)
    schedule = family.bridge.schedule
    velocity, condition = family.velocity(model), case.encode_prompts(kit.PROMPTS)
    point = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for end, known in ((1.0, schedule.sigma_max), (0.0, schedule.sigma_min)):
            t, nearest = torch.full((2,), end), torch.full((2,), known)
            at_end = velocity(point, t, None, None, condition)
            scale = family.bridge.network_input(point, nearest).div(point).mean().reciprocal()
            at_nearest = velocity(point * scale, nearest, None, None, condition)
            kept = (point - at_end, point * scale - known * at_nearest)
            if end == 0:
                kept = (point + at_end, point * scale + (1 - known) * at_nearest)
            torch.testing.assert_close(*kept, rtol=1e-3, atol=1e-3)


@each_case
def test_time_conditioning(case):
    """Switched on, the network is the stock one at r = t and everywhere before training; target and sign then move it."""
    pipeline = case.build()
    family = case.family.bind(pipeline)
    model = family.denoiser(pipeline)
    kit.fill_zeros(model)
    condition = case.encode_prompts(kit.PROMPTS)
    x_t, t = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([1.0, 0.4])
    r, plus = torch.tensor([0.0, 0.1]), torch.ones(2)
    with torch.no_grad():
        stock = family.velocity(model)(x_t, t, None, None, condition)
        velocity = family.velocity(enable_twinflow(model))
        assert torch.equal(velocity(x_t, t, r, plus, condition), stock)
        for parameter in model.time_conditioning.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
        model.time_conditioning.time_sign_embed.weight[0].zero_()
        assert torch.equal(velocity(x_t, t, t, plus, condition), stock)
        jump, twin = velocity(x_t, t, r, plus, condition), velocity(x_t, t, t, -plus, condition)
    for moved in (jump, twin):
        assert ((moved - stock).abs().amax((1, 2, 3)) > 1e-3).all()


def test_a_flow_model_of_the_same_architecture_is_not_bridged():
    pipeline = tiny_diffusion.stable_diffusion()
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    family = FAMILIES["stable_diffusion"].bind(pipeline)
    condition = family.encode_prompts(pipeline, ["a"])
    x_t, t = torch.randn(1, 4, 4, 4), torch.tensor([0.7])
    with torch.no_grad():
        expected = pipeline.unet(x_t, t * 1000, condition["prompt_embeds"]).sample
        assert torch.equal(family.velocity(pipeline.unet)(x_t, t, None, None, condition), expected)


def test_velocity_needs_the_schedule():
    with pytest.raises(TwinFlowConfigError, match="stable_diffusion family.*bind"):
        FAMILIES["stable_diffusion"].velocity(None)


def test_sdxl_sizes_and_empty_prompts_are_the_stock_pipelines():
    """In a guided stock call the network gets the empty prompt first; its size is told as that of a whole picture."""
    pipeline = tiny_diffusion.stable_diffusion_xl()
    pipeline.set_progress_bar_config(disable=True)
    family = FAMILIES["stable_diffusion_xl"].bind(pipeline)
    calls, hook = spied(pipeline.unet)
    with hook:
        pipeline("a", height=32, width=64, num_inference_steps=1, guidance_scale=2.0, output_type="latent")
        condition = family.encode_prompts(pipeline, ["", "a"])
        with torch.no_grad():
            x_t = torch.randn(2, 4, 4, 8)
            family.velocity(pipeline.unet)(x_t, torch.ones(2), None, None, condition)
    stock, own = calls
    torch.testing.assert_close(own["encoder_hidden_states"], stock["encoder_hidden_states"])
    for name, tensor in stock["added_cond_kwargs"].items():
        torch.testing.assert_close(own["added_cond_kwargs"][name], tensor)
    assert not condition["prompt_embeds"][0].any() and condition["prompt_embeds"][1].any()


def test_sdxl_autoencoders_that_overflow_work_in_float32():
    pipeline = tiny_diffusion.stable_diffusion_xl()
    family, vae = FAMILIES["stable_diffusion_xl"], pipeline.vae
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        vae.half()
        seen = []
        vae.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
        family.encode_images(pipeline, pixels)
        assert seen == [torch.float32] and vae.dtype == torch.float16
        vae.register_to_config(force_upcast=False)
        family.encode_images(pipeline, pixels)
        assert seen[1] == torch.float16


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_xl"])
def test_a_length_that_clip_does_not_have_is_refused(name):
    pipeline = getattr(tiny_diffusion, name)()
    with pytest.raises(TwinFlowConfigError, match="max_sequence_length=12.*16"):
        FAMILIES[name].encode_prompts(pipeline, ["a"], 12)


def test_a_distilled_diffusion_model_loads_in_stock_diffusers(tmp_path):
    """The index of a whole distilled pipeline names a scheduler that samples what the network predicts."""
    from diffusers_twinflow.hub import TwinFlowRepositoryConfig, save_twinflow_model

    pipeline = tiny_diffusion.v_prediction()
    save_twinflow_model(tmp_path, pipeline, TwinFlowRepositoryConfig("full", "stable_diffusion", "base"))
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path)
    assert loaded.scheduler.config.prediction_type == "v_prediction"
    assert torch.equal(loaded.scheduler.alphas_cumprod, pipeline.scheduler.alphas_cumprod)
