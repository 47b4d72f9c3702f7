"""The scheduler replaces the stock scheduler in pipelines of tiny real components, without other changes.

Each pipeline stands for one way to talk to a scheduler. Where a pipeline is held against Euler, both step along the same
grid, so what differs would be a sign, a place on the grid, a re-noising or a scale.
"""

import functools
import inspect
import re
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from diffusers_twinflow import TwinFlowScheduler
from tests.schedulers.plain_sampler import plain_grid
from tests.schedulers.stock_pipelines import PIPELINES, VARIANTS
from tests.schedulers.stock_pipelines.batches import RESIZES, repeat
from tests.schedulers.stock_pipelines.cannot import CANNOT, easy_animate_control, sana_sprint
from tests.smaller_pictures import resize_to

MODEL_TIMES = {
    "the timestep itself": lambda t, scale: t,
    "from 0 to 1": lambda t, scale: t / scale,
    "from 0 to 1, reversed": lambda t, scale: 1 - t / scale,
    "one below": lambda t, scale: t - 1,
}
PAGE = Path(__file__).parents[2] / "docs" / "scheduler.md"
TIME_ARGUMENTS = ("timestep", "timesteps", "t", "vision_timesteps")
GAP_END = {1: 0.6, 2: 0.6, 4: 0.5}
ONE_STEP_IS_TOO_FEW = {"inverted sigmas": "MochiPipeline divides by the half of the steps"}
PASSES = {"guidance in two passes of the transformer": 2}
SECTIONS = {
    "set_timesteps again for every section": 2,
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline": 2,
    "AnyFlowFARPipeline": 2,
    "VisualClozePipeline": 2,
}
CACHE_PASSES = ("AnyFlowFARPipeline",)  # at time 0, after each section
NOT_BY_SEED = {"CogView4ControlPipeline": "encodes its control image without the user's generator"}
REPRESENTATIVES = {
    "audio, times from 0 to 1, generator passed to step",
    "linear sigmas and mu",
    "packed image to image",
    "packed inpainting",
    "reference tokens",
    "attention mask",
    "generator passed to step",
    "reads prev_sample of the output object",
    "channels last",
    "set_timesteps again for every section",
    "prediction negated, reversed time",
    "predicts the clean picture, in pixels",
    "steps only",
    "noise mixed in again after every step",
    "video, time per token",
    "image to video",
    "two transformers, changed at a boundary of time",
    "copies of the scheduler, whole timesteps, one a frame",
    "inverted sigmas",
}
"""Contracts that run by default: one for each layout of samples and each way to draw their noise."""


def each(of):
    return [pytest.param(name, marks=() if name in REPRESENTATIVES else pytest.mark.slow) for name in of]


WHOLE_TIMESTEPS = "Euler takes whole timesteps for indices"
NO_EULER = {
    "copies of the scheduler, whole timesteps, one a frame": WHOLE_TIMESTEPS,
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": WHOLE_TIMESTEPS,
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline": WHOLE_TIMESTEPS,
    **NOT_BY_SEED,
}


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    resize_to(32 * 32, RESIZES, monkeypatch)


@functools.cache
def load(contract):
    pipe, call = {**PIPELINES, **VARIANTS}[contract]()
    pipe.contract, pipe.stock_scheduler_config = contract, pipe.scheduler.config
    return pipe, call


def swap(contract, **options):
    """The pipeline with a `TwinFlowScheduler` made from the config of its stock scheduler."""
    pipe, call = load(contract)
    pipe.scheduler = TwinFlowScheduler.from_config(pipe.stock_scheduler_config, **options)
    for inner in ("generation_pipe", "upsampling_pipe"):
        if hasattr(pipe, inner):
            getattr(pipe, inner).scheduler = pipe.scheduler
    return pipe, call


def draw(pipe, call, seeds, steps=2, **arguments):
    """The latents of one sample a seed."""
    arguments = {**repeat(pipe.contract, call, len(seeds)), "num_inference_steps": steps, **arguments}
    parameters = inspect.signature(type(pipe).__call__).parameters
    if "num_inference_steps" not in parameters:
        arguments["sigmas"] = np.linspace(1, 1 / arguments.pop("num_inference_steps"), steps).tolist()
    if "output_type" in parameters:
        arguments.setdefault("output_type", "latent")
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    torch.seed()
    samples = pipe(**arguments, generator=generators if len(seeds) > 1 else generators[0], return_dict=False)[0]
    if isinstance(samples, list):
        samples = torch.stack(samples) if samples[0].ndim == 4 else torch.cat(samples, dim=2)
    assert samples.shape[0] == len(seeds) and samples.isfinite().all()
    return samples


def times_seen(pipe):
    """The list of the times that the transformer is called with, filled while it runs."""
    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    names = list(inspect.signature(type(denoiser).forward).parameters)[1:]
    seen = []

    def record(module, args, kwargs):
        passed = {**dict(zip(names, args)), **kwargs}
        time = next(passed[name] for name in TIME_ARGUMENTS if name in passed).flatten().max().item()
        seen.append(time)

    return seen, denoiser.register_forward_pre_hook(record, with_kwargs=True)


def own_grid(scheduler, steps):
    config = scheduler.config
    shift = 1.0 if config.use_dynamic_shifting else config.shift
    gap_end = GAP_END[steps] / (shift - (shift - 1) * GAP_END[steps])
    sigmas = torch.tensor(plain_grid(steps, 0.001, gap_end, (1, 1, 1), shift))
    return 1 - sigmas if config.invert_sigmas else sigmas


@pytest.mark.parametrize("steps", [2, *(pytest.param(steps, marks=pytest.mark.slow) for steps in (1, 4))])
@pytest.mark.parametrize("contract", each(PIPELINES))
def test_own_grid(contract, steps, caplog):
    run_on_own_grid(contract, steps)
    assert "replaced" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_variants(name, caplog):
    """Those that talk to their scheduler as one of the matrix does."""
    for steps in (1, 2, 4):
        latents = run_on_own_grid(name, steps)
    assert name in NOT_BY_SEED or torch.equal(latents, run_on_own_grid(name, 4))
    assert "replaced" not in caplog.text


def run_on_own_grid(contract, steps):
    if steps == 1 and contract in ONE_STEP_IS_TOO_FEW:
        pytest.skip(ONE_STEP_IS_TOO_FEW[contract])
    pipe, call = swap(contract)
    seen, hook = times_seen(pipe)
    with hook:
        latents = draw(pipe, call, [0], steps, **({"strength": 1.0} if "strength" in call else {}))
    seen = seen[:: PASSES.get(contract, 1)]
    if contract in CACHE_PASSES:
        seen = [time for time in seen if time != 0]
    scheduler = pipe.scheduler
    torch.testing.assert_close(scheduler.sigmas, own_grid(scheduler, steps), rtol=0, atol=1e-6)
    scale = scheduler.config.num_train_timesteps
    torch.testing.assert_close(scheduler.timesteps, scheduler.sigmas[:-1] * scale)
    expected = [time(scheduler.timesteps, scale) for time in MODEL_TIMES.values()]
    if all(isinstance(time, int) for time in seen):
        expected = [times.trunc() for times in expected]
    seen = torch.tensor(seen, dtype=torch.float32)
    sections = SECTIONS.get(contract, 1)
    assert len(seen) == steps * sections
    assert any(torch.allclose(seen, times.repeat(sections), rtol=1e-4, atol=1e-4) for times in expected), (
        seen,
        scheduler.timesteps,
    )
    return latents


@pytest.mark.parametrize("contract", each(PIPELINES))
def test_same_seed_same_sample_whatever_the_neighbours(contract):
    pipe, call = swap(contract)
    alone = draw(pipe, call, [1], steps=4)
    assert torch.equal(alone, draw(pipe, call, [1], steps=4))
    together = draw(pipe, call, [0, 1, 2], steps=4)
    torch.testing.assert_close(together[1:2], alone, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_no_flow_pipeline_of_diffusers_is_forgotten():
    covered = {type(load(contract)[0]).__name__ for contract in PIPELINES} | {*VARIANTS}
    assert not covered & {*CANNOT}
    assert f"All {len(covered)} pipeline classes" in PAGE.read_text()
    classes = {name: getattr(diffusers, name) for name in dir(diffusers) if re.search("Pipeline$|Refiner$", name)}
    flow = {
        name
        for name, cls in classes.items()
        if issubclass(cls, diffusers.DiffusionPipeline) and "FlowMatch" in inspect.getsource(inspect.getmodule(cls))
    }
    assert len(flow) > 100
    assert flow <= covered | {*CANNOT}, "a new pipeline: add it to stock_pipelines, or to CANNOT with its reason"


def test_the_page_names_every_pipeline_that_cannot():
    assert not [name for name in CANNOT if f"`{name}`" not in PAGE.read_text()]


def test_what_cannot():
    pipe, call = sana_sprint()
    assert pipe(**call).images.isfinite().all()
    with pytest.raises(ValueError, match="prediction_type='trigflow'"):
        TwinFlowScheduler.from_config(pipe.scheduler.config)
    pipe.scheduler = TwinFlowScheduler()
    with pytest.raises(TypeError, match="max_timesteps"):
        pipe(**call)
    pipe, call = easy_animate_control()
    assert type(pipe.scheduler) is FlowMatchEulerDiscreteScheduler
    with pytest.raises(TypeError, match="text_encoder_index"):
        pipe(**call)


class EulerOnTheSameGrid(FlowMatchEulerDiscreteScheduler):
    def set_timesteps(self, num_inference_steps=None, device=None, sigmas=None, mu=None, timesteps=None):
        steps = num_inference_steps or len(timesteps if sigmas is None else sigmas)
        own = TwinFlowScheduler.from_config(self.config, sampling_style="any")
        own.set_timesteps(steps)
        own_sigmas = 1 - own.sigmas if self.config.invert_sigmas else own.sigmas
        super().set_timesteps(sigmas=own_sigmas[:-1].tolist(), device=device)

    def scale_model_input(self, sample, timestep=None):
        return sample


@pytest.mark.parametrize("contract", each(name for name in (*PIPELINES, *VARIANTS) if name not in NO_EULER))
def test_without_noise_it_is_euler(contract):
    plain = {"shift": 1.0, "use_dynamic_shifting": False}
    pipe, call = swap(contract, sampling_style="any", **plain)
    ours = draw(pipe, call, [0], steps=4)
    pipe.scheduler = EulerOnTheSameGrid.from_config(pipe.stock_scheduler_config, **plain)
    euler = draw(pipe, call, [0], steps=4)
    torch.testing.assert_close(ours, euler, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, draw(*swap(contract, **plain), [0], steps=4), atol=1e-2)


@pytest.mark.parametrize("contract", ["steps only", "packed image to image", "video, sigmas read as numbers"])
@pytest.mark.parametrize(
    "options",
    [
        {"sampling_style": "any", "squeeze_target_time": True},
        {"sampling_style": "multi", "sampling_order": 2, "extrapolation_ratio": 0.1},
        {"stochastic_ratio": "sde", "gap_end": 0.3},
    ],
)
def test_options(contract, options):
    pipe, call = swap(contract, **options)
    first = draw(pipe, call, [0], steps=4)
    assert pipe.scheduler.step_index == 4
    assert torch.equal(first, draw(pipe, call, [0], steps=4))
    assert not torch.allclose(first, draw(*swap(contract), [0], steps=4), atol=1e-2)


@pytest.mark.parametrize("name", ["sigmas", "timesteps"])
@pytest.mark.parametrize("use_custom_sigmas", [False, True])
def test_custom_lists(name, use_custom_sigmas):
    """What a user passes counts with use_custom_sigmas; the linear sigmas that Flux passes of its own never do."""
    scale = {"sigmas": 1, "timesteps": 1000}[name]
    pipe, call = swap(
        {1: "linear sigmas and mu", 1000: "generator passed to step"}[scale],
        shift=1.0,
        use_custom_sigmas=use_custom_sigmas,
    )
    draw(pipe, {**call, name: np.array([0.9, 0.3]) * scale}, [0])
    own, custom = torch.tensor([0.999, 0.6, 0.0]), torch.tensor([0.9, 0.3, 0.0])
    torch.testing.assert_close(pipe.scheduler.sigmas, custom if use_custom_sigmas else own)
    draw(pipe, call, [0])
    torch.testing.assert_close(pipe.scheduler.sigmas, own)


def test_a_changed_picture_gives_the_same_noise():
    """Encoders differ in their last bits with the batch, so noise must not depend on them."""
    for contract in ("begin index and scale_noise", "packed inpainting", "per_token_timesteps, prediction negated"):
        pipe, call = swap(contract)
        first = draw(pipe, call, [0], steps=4)
        changed = draw(pipe, {**call, "image": call["image"] + 1e-5}, [0], steps=4)
        torch.testing.assert_close(first, changed, rtol=0, atol=1e-2)
        assert not torch.equal(first, changed)
