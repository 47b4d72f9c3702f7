"""The target time that a model gets in a stock pipeline's call is the one that it is trained with."""

import pytest
import torch
from diffusers.modular_pipelines.flux.modular_blocks_flux import FluxAutoBlocks

from diffusers_twinflow import TwinFlowScheduler
from diffusers_twinflow.families.encoding import as_pictures
from diffusers_twinflow.models import enable_twinflow
from tests.families.kit import CASES

STEPS = 3
IN_SHORT = ("stable_diffusion_3", "lumina2", "aura_flow")


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.id, marks=[] if case.id in IN_SHORT else pytest.mark.slow) for case in CASES],
)
def test_times_of_a_call(case, small_references):
    family, pipeline = case.family, case.build()
    pipeline.set_progress_bar_config(disable=True)
    enable_twinflow(family.denoiser(pipeline))
    calls = []
    family.denoiser(pipeline).time_conditioning.register_forward_pre_hook(lambda _, times: calls.append(times))
    options = case.call_options() | {"num_inference_steps": STEPS, "output_type": "latent"}
    if family.takes_reference_image:
        options["image"] = as_pictures(case.references(1)["reference_images"])
    for style in ("few", "any", "multi"):
        scheduler = TwinFlowScheduler.from_config(pipeline.scheduler.config, shift=3.0, sampling_style=style)
        pipeline.scheduler = scheduler
        calls.clear()
        pipeline(prompt="a", **options)
        timesteps, targets = (torch.cat(times) for times in list(zip(*calls))[:2])
        scale = scheduler.config.num_train_timesteps
        torch.testing.assert_close(timesteps, family.timestep(scheduler.timesteps / scale))
        torch.testing.assert_close(targets, family.timestep(scheduler.target_timesteps / scale))
        if style == "multi":
            assert torch.equal(targets, timesteps)
        elif style == "few":
            assert not scheduler.target_timesteps.any()


@pytest.mark.slow
@torch.no_grad()
def test_a_modular_pipeline(small_references):
    """It knows nothing of TwinFlow and was never linked to anything."""
    case = next(case for case in CASES if case.id == "flux dev")
    stock, modular = case.build(), FluxAutoBlocks().init_pipeline()
    enable_twinflow(stock.transformer)
    components = stock.components | {"scheduler": TwinFlowScheduler(sampling_style="any")}
    modular.update_components(**{name: value for name, value in components.items() if value is not None})
    calls = []
    stock.transformer.time_conditioning.register_forward_pre_hook(lambda _, times: calls.append(times))
    modular(prompt="a", num_inference_steps=STEPS, output_type="latent", **case.call_options())
    expected = modular.scheduler.target_timesteps / modular.scheduler.config.num_train_timesteps
    torch.testing.assert_close(torch.cat([target for _, target, _ in calls]), expected)
