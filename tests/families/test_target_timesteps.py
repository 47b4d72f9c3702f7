"""The target time that a model gets in a stock pipeline's call is the one that it is trained with."""

import pytest
import tiny_images
import torch

import tiny
from diffusers_twinflow import TwinFlowScheduler
from diffusers_twinflow.families import family_of
from diffusers_twinflow.hub.repository import TwinFlowRepositoryConfig
from diffusers_twinflow.models import enable_twinflow
from diffusers_twinflow.pipelines import as_twinflow_pipeline

STEPS = 3


@pytest.fixture(scope="module", params=[tiny.sd3_pipeline, tiny_images.lumina2, tiny_images.aura_flow])
def pipeline(request):
    pipeline = request.param()
    family = family_of(pipeline)
    enable_twinflow(pipeline.transformer)
    config = TwinFlowRepositoryConfig("lora", family.name, "base", num_inference_steps=STEPS)
    as_twinflow_pipeline(pipeline, config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("style", ["few", "any", "multi"])
def test_times_of_a_call(pipeline, style):
    family = family_of(pipeline)
    pipeline.scheduler = TwinFlowScheduler(sampling_style=style, shift=3.0)
    calls = []
    hook = pipeline.transformer.time_conditioning.register_forward_pre_hook(lambda _, times: calls.append(times))
    size = {} if family.name == "stable_diffusion_3" else {"height": 32, "width": 32}
    tokens = 200 if family.name == "lumina2" else 8
    pipeline("a", **size, max_sequence_length=tokens, output_type="latent")
    hook.remove()
    timesteps, targets, _ = zip(*calls)
    sigmas = pipeline.scheduler.sigmas
    expected = {"few": torch.zeros(STEPS), "any": sigmas[1:], "multi": sigmas[:-1]}[style]
    torch.testing.assert_close(torch.cat(timesteps), family.timestep(sigmas[:-1]))
    torch.testing.assert_close(torch.cat(targets), family.timestep(expected))
    if style == "multi":
        assert torch.equal(torch.cat(targets), torch.cat(timesteps))
