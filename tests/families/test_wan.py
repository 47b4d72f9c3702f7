import pytest
import torch

from diffusers_twinflow import TwinFlowConfigError, load_twinflow_lora
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.hub.repository import TwinFlowRepositoryConfig
from diffusers_twinflow.hub.stock_pipelines import assemble
from diffusers_twinflow.models import enable_twinflow
from diffusers_twinflow.pipelines import TwinFlowPipeline, as_twinflow_pipeline
from tests.families import kit, tiny_videos

FAMILY = FAMILIES["wan"]


@pytest.fixture(scope="module")
def pipeline():
    pipeline = tiny_videos.wan()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_latents_are_normalised_by_channel(pipeline):
    video = torch.rand(2, 3, 5, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    config = pipeline.vae.config
    with torch.no_grad():
        latents = FAMILY.encode_images(pipeline, video)
        raw = pipeline.vae.encode(video).latent_dist.mode()
    for channel in range(16):
        expected = (raw[:, channel] - config.latents_mean[channel]) / config.latents_std[channel]
        torch.testing.assert_close(latents[:, channel], expected)


def test_images_are_videos_of_one_frame(pipeline):
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = FAMILY.encode_images(pipeline, pixels)
        assert latents.shape == (2, 16, 1, 2, 2)
        assert torch.equal(latents, FAMILY.encode_images(pipeline, pixels.unsqueeze(2)))
        assert FAMILY.decode_latents(pipeline, latents).shape == (2, 3, 1, 16, 16)


@pytest.mark.parametrize(("frames", "remedy"), [(4, "cut them to 1 or pad them to 5"), (6, "cut them to 5")])
def test_frames_that_the_autoencoder_would_leave_out_are_refused(pipeline, frames, remedy):
    with pytest.raises(TwinFlowConfigError, match=f"{frames} frames.*{remedy}"):
        FAMILY.encode_images(pipeline, torch.zeros(1, 3, frames, 16, 16))


def test_one_time_for_all_tokens_is_the_stock_calls_time_per_token():
    """Wan 2.2 5B calls its transformer with a time a token, which in text to video is the same for all."""
    pipeline = tiny_videos.wan(expand_timesteps=True)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    shapes = []
    hook = pipeline.transformer.register_forward_pre_hook(
        lambda *call: shapes.append(call[2]["timestep"].shape), with_kwargs=True
    )
    stock = pipeline(
        "a", latents=noise, height=32, width=32, num_frames=5, num_inference_steps=4, guidance_scale=1.0,
        max_sequence_length=8, output_type="latent",
    ).frames  # fmt: skip
    hook.remove()
    assert set(shapes) == {(1, 8)}
    velocity = FAMILY.velocity(pipeline.transformer)
    condition = FAMILY.encode_prompts(pipeline, ["a"], 8)
    x, sigmas = noise, pipeline.scheduler.sigmas
    with torch.no_grad():
        for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:]):
            x = x + (sigma_next - sigma) * velocity(x, sigma.expand(1), None, None, condition)
    torch.testing.assert_close(x, stock, rtol=1e-4, atol=1e-4)


def test_a_distilled_model_with_a_time_per_token_draws_as_with_one_for_all():
    pipeline = tiny_videos.wan(expand_timesteps=True)
    enable_twinflow(pipeline.transformer)
    for parameter in pipeline.transformer.time_conditioning.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    as_twinflow_pipeline(pipeline, TwinFlowRepositoryConfig("lora", "wan", "base", num_inference_steps=2))
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    call = {"latents": noise, "height": 32, "width": 32, "num_frames": 5, "max_sequence_length": 8}
    drawn = []
    for per_token, is_trained in ((True, True), (False, True), (False, False)):
        pipeline.register_to_config(expand_timesteps=per_token)
        if not is_trained:
            pipeline.transformer.time_conditioning.reset_parameters()
        torch.manual_seed(0)
        drawn.append(pipeline("a", **call, output_type="latent").frames)
    per_token, for_all, untrained = drawn
    torch.testing.assert_close(per_token, for_all, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(for_all, untrained, atol=1e-2)


def test_a_pipeline_of_the_same_components_keeps_its_options():
    pipeline = tiny_videos.wan(expand_timesteps=True)
    again = assemble(FAMILY, pipeline)
    assert again.config.expand_timesteps and again.components == pipeline.components
    transformer = tiny_videos.wan_transformer()
    assert assemble(FAMILY, pipeline, {**pipeline.components, "transformer": transformer}).transformer is transformer


@pytest.fixture(scope="module")
def two_transformers():
    return tiny_videos.wan(transformer_2=tiny_videos.wan_transformer(), boundary_ratio=0.875)


def test_the_first_of_two_transformers_is_trained_alone_and_draws_every_step(
    script, two_transformers, image_dir, tmp_path
):
    two_transformers.save_pretrained(tmp_path / "base")
    case = kit.Case("wan", tiny_videos.wan, options=("--denoisers", "transformer"))
    kit.train(script, case, tmp_path / "base", image_dir, tmp_path / "out", "lora")
    pipeline = TwinFlowPipeline.from_pretrained(tmp_path / "out")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.transformer_2 is None and pipeline.config.boundary_ratio is None
    times = []
    pipeline.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: times.append(kwargs["timestep"][0].item()), with_kwargs=True
    )
    pipeline("a", height=16, width=16, num_frames=1, num_inference_steps=4, max_sequence_length=8)
    assert len(times) == 4 and times[0] > 875 > times[-1]
    with pytest.raises(
        TwinFlowConfigError, match="trained on transformer, .* load the pipeline with transformer_2=None"
    ):
        load_twinflow_lora(two_transformers, tmp_path / "out")


def test_the_second_transformer_cannot_be_trained_alone():
    with pytest.raises(TwinFlowConfigError, match="denoisers=transformer_2 is not valid.*transformer transformer_2"):
        FAMILY.load_options(["transformer_2"])
