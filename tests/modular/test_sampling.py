"""`TwinFlowScheduler` as a component of modular pipelines whose guiders are off."""

import diffusers
import pytest
import torch

from diffusers_twinflow import TwinFlowScheduler
from tests.modular import list_on_page
from tests.modular.building import ALONE, CANNOT, SCHEDULER_OPTIONS, TWINS, UNTESTED, twin

STEPS = 2
REPRESENTATIVES = (
    "Flux2",
    "FluxKontext",
    "Helios",
    "LTX2",
    "QwenImage",
    "QwenImageLayered",
    "StableDiffusion3",
    "Wan22Image2Video",
    "ZImage",
    "Cosmos3Distilled",
)
"""Pipelines that run by default: images, references, layers, videos in one piece and in sections, sound, two denoisers."""


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in REPRESENTATIVES else pytest.mark.slow) for name in TWINS]
)
def test_a_modular_pipeline_draws_what_the_stock_pipeline_draws(name):
    modular, inputs, stock, call = twin(name)
    config = stock.scheduler.config | dict(TWINS[name].scheduler)
    modular.update_components(scheduler=TwinFlowScheduler.from_config(config))
    drawn = modular(**inputs, num_inference_steps=STEPS, generator=generator()).get(TWINS[name].output)
    stock.scheduler = TwinFlowScheduler.from_config(config)
    options = {"output_type": "latent", "return_dict": False} | call
    expected = stock(**options, num_inference_steps=STEPS, generator=generator())[0]
    drawn, expected = (torch.cat(each) if isinstance(each, list) else each for each in (drawn, expected))
    drawn, expected = (each.flatten().sort().values for each in (drawn, expected))  # packed in different orders
    torch.testing.assert_close(drawn, expected, atol=TWINS[name].tolerance, rtol=0)


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_each_step_of_a_modular_pipeline_is_a_step_of_the_scheduler(name, steps):
    modular, inputs = ALONE[name]()
    scheduler = TwinFlowScheduler(**SCHEDULER_OPTIONS.get(name, {}))
    modular.update_components(scheduler=scheduler)
    calls, times, results = [], [], []
    modular.transformer.register_forward_hook(
        lambda module, args, kwargs, output: calls.append((kwargs, output[0])), with_kwargs=True
    )
    step = scheduler.step

    def recorded(output, timestep, sample, **options):
        result = step(output, timestep, sample, **options)
        times.append(float(timestep))
        results.append((output, sample, result[0]))
        return result

    scheduler.step = recorded
    modular(**inputs, num_inference_steps=steps, generator=generator())

    grid = TwinFlowScheduler(**SCHEDULER_OPTIONS.get(name, {}))
    grid.set_timesteps(steps)
    assert times == grid.timesteps.tolist() and len(calls) == steps  # the guiders are off
    for (given, output), (stepped_output, sample, _) in zip(calls, results):
        torch.testing.assert_close(output, stepped_output)
        torch.testing.assert_close(given["hidden_states"], sample)
    for (*_, result), (_, sample, _) in zip(results, results[1:]):
        torch.testing.assert_close(result, sample)
    output, sample, result = results[-1]
    sigma = float(grid.sigmas[-2])
    data = (
        sample + (1 - sigma) * output
        if "invert_sigmas" in SCHEDULER_OPTIONS.get(name, {})
        else sample - sigma * output
    )
    torch.testing.assert_close(result, data)


def test_a_flow_map_jumps_to_the_next_time_of_the_grid():
    modular, inputs = ALONE["Flux3Distilled"]()
    modular.update_components(scheduler=TwinFlowScheduler(sampling_style="any"))
    targets = []
    modular.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: targets.append(float(kwargs["target_timestep"])), with_kwargs=True
    )
    modular(**inputs, num_inference_steps=4, generator=generator())
    expected = modular.scheduler.target_timesteps / modular.scheduler.config.num_train_timesteps
    assert targets == pytest.approx(expected.tolist())


def test_the_page_lists_what_is_tested():
    for path, text in list_on_page.pages().items():
        assert path.read_text(encoding="utf-8") == text, "run `python -m tests.modular.list_on_page`"


def test_every_modular_pipeline_is_listed():
    names = {name.removesuffix("ModularPipeline") for name in dir(diffusers) if name.endswith("ModularPipeline")}
    listed = [*TWINS, *ALONE, *CANNOT, *UNTESTED]
    assert sorted(listed) == sorted(names - {""})
