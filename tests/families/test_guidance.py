"""A few-step call turns guidance off in pipelines with different kinds of guidance."""

import inspect

import pytest
import torch

from diffusers_twinflow.families import FAMILIES, family_of
from diffusers_twinflow.hub.repository import TwinFlowRepositoryConfig
from diffusers_twinflow.pipelines import as_twinflow_pipeline
from tests.families import kit, tiny_flux, tiny_qwen


def twinflow(pipeline, steps=2):
    config = TwinFlowRepositoryConfig("lora", family_of(pipeline).name, "base", num_inference_steps=steps)
    pipeline.set_progress_bar_config(disable=True)
    return as_twinflow_pipeline(pipeline, config)


def calls_of(model) -> list[dict]:
    calls = []
    model.register_forward_pre_hook(lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True)
    return calls


def call(pipeline, **options):
    size = {"height": 16, "width": 16, "max_sequence_length": 400}
    return pipeline(prompt="a", output_type="latent", **size | options)


@pytest.mark.parametrize("build", [tiny_flux.dev, tiny_flux.flux2])
def test_embedded_guidance_is_the_same_in_training_and_in_a_call(build):
    pipeline = twinflow(build())
    calls = calls_of(pipeline.transformer)
    call(pipeline, guidance_scale=0.0)
    family = family_of(pipeline)
    condition = family.encode_prompts(pipeline, ["a"], 400)
    noise = torch.randn(1, pipeline.transformer.config.in_channels // (4 if build is tiny_flux.dev else 1), 4, 4)
    with torch.no_grad():
        family.velocity(pipeline.transformer)(noise, torch.ones(1), None, None, condition)
    assert len(calls) == 3 and all(torch.equal(given["guidance"], torch.ones(1)) for given in calls)


@pytest.mark.parametrize("build", [tiny_flux.schnell, tiny_qwen.qwen_image])
def test_a_negative_prompt_costs_no_second_evaluation(build):
    pipeline = twinflow(build())
    calls = calls_of(pipeline.transformer)
    call(pipeline, negative_prompt="b")
    assert len(calls) == 2 and all(given["guidance"] is None for given in calls)


@pytest.mark.parametrize("name", ["guidance_scale", "true_cfg_scale"])
@pytest.mark.parametrize("build", [tiny_flux.dev, tiny_qwen.qwen_image])
def test_guidance_is_refused_by_name(build, name):
    with pytest.raises(ValueError, match=f"{name}=4.0"):
        call(twinflow(build()), **{name: 4.0})


def test_positional_arguments_are_the_stock_pipelines():
    """The first argument of FLUX.2 is an image, not the prompt."""
    pipeline = twinflow(tiny_flux.flux2())
    calls = calls_of(pipeline.transformer)
    pipeline(None, "a", 16, 32, output_type="latent", max_sequence_length=400)
    assert calls[0]["hidden_states"].shape == (1, 4 * 8, 8)


LENGTHS = {
    case.family_name: inspect.signature(case.family.pipeline_class.__call__).parameters.get("max_sequence_length")
    for case in kit.CASES
}


@pytest.mark.parametrize("name", [name for name, parameter in LENGTHS.items() if parameter])
def test_a_prompt_is_as_long_in_training_as_in_a_call(name):
    """Where a run does not say how long, family and stock call have the same default."""
    assert FAMILIES[name].max_sequence_length == LENGTHS[name].default
