"""LTX-2 generates a video and its sound: a sample has two latents, which are trained together."""

import pytest
import torch
from diffusers import DiffusionPipeline
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from diffusers_twinflow import TwinFlowConfig, TwinFlowConfigError, TwinFlowPipeline, load_twinflow_lora
from diffusers_twinflow.families import family_of
from diffusers_twinflow.flow import squared_error
from diffusers_twinflow.methods import TwinFlow
from diffusers_twinflow.training import Trainer, TrainingArguments
from tests.families import kit
from tests.families.tiny_text_encoders import gemma
from tests.fresh_accelerator import fresh_accelerator
from tests.schedulers.stock_pipelines.long_video import LTX_2_OFF, ltx_2

PROMPTS = ["a red fox", "two birds"]
SIZE = {"height": 32, "width": 32, "num_frames": 5}
VIDEO, SOUND = 5 * 16 * 16 * 4, 4 * 4


def build():
    tokenizer = gemma()["tokenizer"]
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "num_key_value_heads": 1, "head_dim": 8, **sizes}
    torch.manual_seed(0)
    encoder = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config={"image_size": 28, "patch_size": 14, **sizes})
    )
    pipeline, _ = ltx_2("LTX2Pipeline")
    pipeline.register_modules(text_encoder=encoder.eval(), tokenizer=tokenizer)
    kit.fill_zeros(pipeline.transformer)
    return pipeline


@pytest.fixture(scope="module")
def pipeline():
    return build()


@pytest.fixture(scope="module")
def family(pipeline):
    family = family_of(pipeline).for_samples(pipeline, resolution=32, num_frames=5, max_sequence_length=8)
    family.prepare_prompts(pipeline, PROMPTS)
    return family


@torch.no_grad()
def test_euler_steps_of_both_latents_end_where_the_stock_call_ends(pipeline, family):
    layout = family.layout
    assert [place.argument for place in layout.places] == ["hidden_states", "audio_hidden_states"]
    assert layout.repeated_times == ("sigma",)
    noise = torch.randn(1, *layout.sample_shape, generator=torch.Generator().manual_seed(0))
    video, sound = layout.split_sample(noise)
    # the stock call normalises the sound that it is given
    given = family.layout.beside[0].shape
    seen = {}
    pipeline.transformer.register_forward_hook(
        lambda module, args, kwargs, output: seen.setdefault("last", []).append((kwargs, output)), with_kwargs=True
    )
    pipeline(
        PROMPTS[0], latents=video, max_sequence_length=8, num_inference_steps=4, output_type="latent",
        generator=torch.Generator().manual_seed(1), guidance_scale=1.0, **SIZE, **LTX_2_OFF,
    )  # fmt: skip
    pipeline.transformer._forward_hooks.clear()
    condition = family.encode_prompts(pipeline, PROMPTS[:1])
    velocity, sigmas = family.velocity(pipeline.transformer), pipeline.scheduler.sigmas
    (first, _), *_ = seen["last"]
    x = torch.cat([first["hidden_states"].flatten(1), first["audio_hidden_states"].flatten(1)], 1)
    assert first["audio_hidden_states"].shape[1:] == given and sound.shape[1:] == given
    for (kwargs, output), sigma, sigma_next in zip(seen["last"], sigmas[:-1], sigmas[1:], strict=True):
        parts = torch.cat([kwargs["hidden_states"].flatten(1), kwargs["audio_hidden_states"].flatten(1)], 1)
        torch.testing.assert_close(x, parts, rtol=1e-4, atol=1e-4)
        v = velocity(x, sigma.expand(1), None, None, condition)
        torch.testing.assert_close(v, torch.cat([each.flatten(1) for each in output], 1), rtol=1e-4, atol=1e-4)
        x = x + (sigma_next - sigma) * v


def test_video_and_sound_count_alike(family):
    weights = family.number_weights(family.sample_shape)
    video, sound = family.layout.split_sample(weights[None])
    assert weights.mean().item() == pytest.approx(1) and video.numel() > sound.numel()
    assert video.sum().item() == pytest.approx(sound.sum().item())
    error = torch.zeros(1, len(weights))
    error[:, video.numel() :] = 1
    assert squared_error(error, torch.zeros_like(error), weights).item() == pytest.approx(0.5)


def test_a_lora_is_trained_with_prompts_resumed_and_drawn(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "base")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))

    def train(name: str, steps: int, resume: str | None = None) -> None:
        arguments = TrainingArguments(
            str(tmp_path / "base"),
            output_dir=str(tmp_path / name),
            prompts_file=str(tmp_path / "prompts.txt"),
            resolution=32,
            num_frames=5,
            max_sequence_length=8,
            train_batch_size=2,
            max_train_steps=steps,
            checkpointing_steps=1,
            learning_rate=1e-2,
            rank=2,
            save_ema=False,
            validation_prompts=["a"],
            validation_base_steps=2,
            validation_step_counts=[1],
            num_validation_images=1,
        )
        config = TwinFlowConfig(
            twinflow_enabled=True, twinflow_image_free=True, twinflow_adversarial_enabled=True,
            twinflow_target_step_count=2,
        )  # fmt: skip
        with fresh_accelerator():
            trainer = Trainer(None, arguments, TwinFlow(config))
            trainer.train(resume)
        assert not trainer.problems

    train("whole", 2)
    train("resumed", 1)
    train("resumed", 2, resume="latest")
    drawn = []
    for name in ("whole", "resumed"):
        ours = TwinFlowPipeline.from_pretrained(tmp_path / name, merge=False)
        moved = {key: bool(p.any()) for key, p in ours.transformer.named_parameters() if ".lora_B." in key}
        assert any(value for key, value in moved.items() if "audio" in key)
        drawn.append([draw(ours, count) for count in (1, 2, 4)])
    for whole, resumed in zip(*drawn):
        assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(whole, resumed))
    base = DiffusionPipeline.from_pretrained(tmp_path / "base")
    load_twinflow_lora(base, tmp_path / "whole")
    video, sound = draw(base, 2, guidance_scale=0.0, **LTX_2_OFF)
    torch.testing.assert_close(video, drawn[0][1][0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sound, drawn[0][1][1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def draw(pipeline, count: int, **call) -> tuple[torch.Tensor, torch.Tensor]:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipeline(
        PROMPTS[0], num_inference_steps=count, max_sequence_length=8, generator=generator, output_type="latent",
        return_dict=False, **SIZE, **call,
    )  # fmt: skip


def test_training_on_clips_is_refused(pipeline, family):
    with pytest.raises(
        TwinFlowConfigError, match="it generates 2 latents per sample, a video and its sound.*prompts only"
    ):
        family.prepare_images(pipeline)
