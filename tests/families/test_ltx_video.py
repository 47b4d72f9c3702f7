import pytest
import torch

from diffusers_twinflow import TwinFlowConfigError
from diffusers_twinflow.families import FAMILIES
from tests.families import tiny_videos

FAMILY = FAMILIES["ltx_video"]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "timestep_conditioning"])
def pipeline(request):
    pipeline = tiny_videos.ltx_video(timestep_conditioning=request.param)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_latents_are_normalised_by_channel(pipeline):
    video = torch.rand(2, 3, 5, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.manual_seed(0)
        latents = FAMILY.encode_images(pipeline, video)
        torch.manual_seed(0)
        raw = pipeline.vae.encode(video).latent_dist.sample()
    mean, std = pipeline.vae.latents_mean.tolist(), pipeline.vae.latents_std.tolist()
    for channel in range(8):
        torch.testing.assert_close(latents[:, channel], (raw[:, channel] - mean[channel]) * 0.8 / std[channel])


def test_latents_are_decoded_as_the_pipeline_decodes_them(pipeline):
    noise = torch.randn(1, 8, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    call = {"latents": FAMILY.pack(noise), "height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 2}
    call |= {"guidance_scale": 1.0, "max_sequence_length": 8}
    frames = pipeline("a", **call, output_type="pt").frames
    latents = FAMILY.unpack(pipeline("a", **call, output_type="latent").frames, 2, 2)
    with torch.no_grad():
        torch.testing.assert_close(FAMILY.decode_latents(pipeline, latents), frames.transpose(1, 2))


def test_images_are_videos_of_one_frame(pipeline):
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = FAMILY.encode_images(pipeline, pixels)
        assert latents.shape == (2, 8, 1, 2, 2)
        assert FAMILY.decode_latents(pipeline, latents).shape == (2, 3, 1, 32, 32)
    with pytest.raises(TwinFlowConfigError, match="4 frames.*cut them to 1 or pad them to 5"):
        FAMILY.encode_images(pipeline, pixels.unsqueeze(2).repeat(1, 1, 4, 1, 1))


def test_packing_is_the_pipelines(pipeline):
    latents = torch.arange(2 * 8 * 3 * 2 * 4.0).reshape(2, 8, 3, 2, 4)
    packed = FAMILY.pack(latents)
    assert torch.equal(packed, pipeline._pack_latents(latents))
    assert torch.equal(FAMILY.unpack(packed, 2, 4), latents)


def test_positions_are_in_seconds_and_pixels(pipeline):
    scale = FAMILY.encode_prompts(pipeline, ["a", "b"], 8)["rope_interpolation_scale"]
    torch.testing.assert_close(scale, torch.tensor([[4 / 25, 16.0, 16.0]] * 2))
