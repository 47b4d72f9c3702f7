import pytest
import torch

import tiny
from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.families import FAMILIES, family_of, is_flow_matching


@pytest.fixture(scope="module")
def pipeline():
    pipeline = tiny.sd3_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_canonical_velocity_is_the_stock_pipelines(pipeline):
    """Euler steps through the family's call end at the latents of the stock pipeline and its own scheduler."""
    family = family_of(pipeline)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    prompts = ["a picture", "b"]
    stock = pipeline(
        prompt=prompts, latents=noise, num_inference_steps=20, guidance_scale=1.0, max_sequence_length=2,
        output_type="latent",
    ).images  # fmt: skip
    condition = family.encode_prompts(pipeline, prompts, 2)
    velocity = family.velocity(pipeline.transformer)
    x, sigmas = noise, pipeline.scheduler.sigmas
    with torch.no_grad():
        for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:]):
            x = x + (sigma_next - sigma) * velocity(x, sigma.expand(2), None, None, condition)
    torch.testing.assert_close(x, stock, rtol=1e-4, atol=1e-4)


def test_latents_are_scaled_as_the_pipeline_scales_them(pipeline):
    family = family_of(pipeline)
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.manual_seed(0)
    latents = family.encode_images(pipeline, pixels)
    torch.manual_seed(0)
    raw = pipeline.vae.encode(pixels).latent_dist.sample()
    torch.testing.assert_close(latents, (raw - 0.1) * 1.5)
    with torch.no_grad():
        decoded = family.decode_latents(pipeline, latents)
        expected = pipeline.image_processor.postprocess(pipeline.vae.decode(raw).sample, output_type="pt")
    torch.testing.assert_close(decoded, expected)


def test_components_that_were_not_saved_stay_none(base_dir):
    pipeline = FAMILIES["stable_diffusion_3"].load(base_dir)
    assert pipeline.text_encoder_3 is None and pipeline.transformer is not None


def test_unknown_pipelines_are_refused_by_name():
    with pytest.raises(TwinFlowConfigError, match="StableDiffusionPipeline.*StableDiffusion3Pipeline"):
        family_of("StableDiffusionPipeline")


def test_flow_matching_is_told_by_the_scheduler():
    assert is_flow_matching("FlowMatchEulerDiscreteScheduler", {})
    assert is_flow_matching("DPMSolverMultistepScheduler", {"prediction_type": "flow_prediction"})
    assert not is_flow_matching("DDIMScheduler", {"prediction_type": "epsilon"})
