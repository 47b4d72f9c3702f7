"""What only video families do: several frames, from latents to a strip of images."""

import pytest
import torch
from PIL import Image

from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.families.video import strip
from diffusers_twinflow.hub.model_card import build_model_card
from diffusers_twinflow.hub.repository import TwinFlowRepositoryConfig
from diffusers_twinflow.hub.sample_images import draw_row
from diffusers_twinflow.models import enable_twinflow
from diffusers_twinflow.pipelines import as_twinflow_pipeline
from tests.families import kit, tiny_videos

FRAMES = 9
CASES = [kit.Case("wan", tiny_videos.wan), kit.Case("ltx_video", tiny_videos.ltx_video)]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


def video(case: kit.Case) -> torch.Tensor:
    """Two moving videos, pixels of shape [2, 3, F, H, W]."""
    return torch.stack([case.pixels().roll(frame, dims=-1) for frame in range(FRAMES)], dim=2)


@each_case
def test_velocity_of_videos_is_the_stock_pipelines(case):
    with torch.no_grad():
        latents = case.family.encode_images(case.pipeline, video(case))
    assert latents.shape[:3] == (2, latents.shape[1], 3)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    packed = case.family.pack(noise)
    options = {"num_frames": FRAMES, "num_inference_steps": kit.STEPS, "output_type": "latent"}
    stock = kit.stock_call(case, latents=packed, **options)
    ours = kit.euler(case, noise)
    torch.testing.assert_close(case.family.pack(ours), stock, **kit.CLOSE)
    still = torch.cat([kit.euler(case, noise[:, :, i : i + 1]) for i in range(3)], dim=2)
    assert not torch.allclose(still, ours, atol=1e-3)


@each_case
def test_videos_are_decoded_as_the_pipeline_decodes_them(case):
    with torch.no_grad():
        latents = case.family.encode_images(case.pipeline, video(case))
        pixels = case.family.decode_latents(case.pipeline, latents)
    options = {"num_frames": FRAMES, "num_inference_steps": 1}
    drawn = kit.stock_call(case, latents=case.family.pack(latents), output_type="latent", **options)
    frames = kit.stock_call(case, latents=case.family.pack(latents), output_type="pt", **options)
    with torch.no_grad():
        decoded = case.family.decode_latents(case.pipeline, case.family.unpack(drawn, *latents.shape[-2:]))
    assert pixels.shape == (2, 3, FRAMES, 32, 64)
    torch.testing.assert_close(decoded.transpose(1, 2), frames, **kit.CLOSE)


@pytest.mark.parametrize(("count", "chosen"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (9, [0, 2, 5, 8])])
def test_a_strip_goes_from_the_first_frame_to_the_last(count, chosen):
    frames = torch.arange(count).reshape(count, 1, 1, 1).expand(count, 3, 2, 1)
    assert strip(frames).shape == (3, 2, len(chosen))
    assert strip(frames)[0, 0].tolist() == chosen
    pictures = [Image.new("RGB", (1, 2), (i, i, i)) for i in range(count)]
    assert [strip(pictures).getpixel((x, 0))[0] for x in range(len(chosen))] == chosen


@each_case
def test_pictures_of_a_run_are_strips_and_a_call_gives_frames(case):
    pipeline = case.build()
    pipeline.set_progress_bar_config(disable=True)
    enable_twinflow(case.family.denoiser(pipeline))
    config = TwinFlowRepositoryConfig("lora", case.family_name, "base", max_sequence_length=8)
    as_twinflow_pipeline(pipeline, config)
    size = case.family.size_options(32)
    assert [picture.size for picture in draw_row(pipeline, kit.PROMPTS, 2, **size)] == [(32, 32)] * 2
    assert draw_row(pipeline, ["a"], 2, num_frames=FRAMES, **size)[0].size == (4 * 32, 32)
    frames = pipeline("a", num_frames=FRAMES, output_type="pt", **size).frames
    assert frames.shape == (1, FRAMES, 3, 32, 32) and pipeline.scheduler.num_inference_steps == 1


def test_the_card_says_how_to_get_frames():
    family = FAMILIES["wan"]
    card = build_model_card(TwinFlowRepositoryConfig("lora", family.name, "me/base"), "me/tiny")
    assert card.data.pipeline_tag == "text-to-video"
    assert card.text.count("video = pipe(") == card.text.count(".frames[0]") == 2


@pytest.mark.parametrize(
    ("name", "build", "rate"),
    [
        ("wan", tiny_videos.wan, 16),
        ("wan", lambda: tiny_videos.wan(expand_timesteps=True), 24),
        ("ltx_video", tiny_videos.ltx_video, 25),
    ],
)
def test_the_frame_rate_is_that_of_the_base(name, build, rate):
    assert FAMILIES[name].frame_rate(build()) == rate
