"""LTX-2 generates a video and its sound: a sample has two latents, which are trained together."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.models.autoencoders.autoencoder_mmaudio import MMAudioMelSpectrogram
from safetensors.torch import load_file
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from diffusers_twinflow import TwinFlowConfig, TwinFlowConfigError, TwinFlowPipeline, load_twinflow_lora
from diffusers_twinflow.data import DataConfig, TrainingData, open_source
from diffusers_twinflow.families import family_of
from diffusers_twinflow.families.sound import INPUTS, SoundFormat, log_mel
from diffusers_twinflow.flow import squared_error
from diffusers_twinflow.methods import FlowMatching, Method, Networks, TwinFlow
from diffusers_twinflow.methods.teachers import StudentTeacher
from diffusers_twinflow.training import Trainer, TrainingArguments
from tests import videos
from tests.families import kit
from tests.families.tiny_text_encoders import gemma
from tests.fresh_accelerator import fresh_accelerator
from tests.schedulers.captured_images import decoder_of
from tests.schedulers.captured_pipelines import Captured
from tests.schedulers.stock_pipelines import VARIANTS
from tests.schedulers.stock_pipelines.long_video import LTX_2_OFF, ltx_2

PROMPTS = ["a red fox", "two birds"]
SIZE = {"height": 32, "width": 32, "num_frames": 5}


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
    for vae in (pipeline.vae, pipeline.audio_vae):
        vae.latents_mean.normal_()
        vae.latents_std.uniform_(0.5, 2.0)
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
    video, sound = family.layout.split_sample(weights)
    assert weights.mean().item() == pytest.approx(1) and video.numel() > sound.numel()
    assert video.sum().item() == pytest.approx(sound.sum().item())
    error = torch.zeros_like(weights)
    error[:, video.numel() :] = 1
    assert squared_error(error, torch.zeros_like(error), weights).item() == pytest.approx(0.5)


def test_the_sound_of_silent_clips_has_no_weight(family):
    weights = family.number_weights(family.sample_shape, part_weights=torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    whole = family.number_weights(family.sample_shape)
    (video, silent_video), (sound, silence) = family.layout.split_sample(weights)
    assert torch.equal(weights[:1], whole) and torch.equal(silent_video, video)
    assert sound.all() and not silence.any()


def train_on_base(method: Method, folder: Path, name: str, steps: int, resume: str | None, **options) -> None:
    """Train a LoRA on the base in `folder / "base"` and save it to `folder / name`."""
    arguments = TrainingArguments(
        str(folder / "base"),
        output_dir=str(folder / name),
        resolution=32,
        num_frames=5,
        max_sequence_length=8,
        max_train_steps=steps,
        checkpointing_steps=1,
        learning_rate=1e-2,
        rank=2,
        save_ema=False,
        **options,
    )
    with fresh_accelerator():
        trainer = Trainer(None, arguments, method)
        trainer.train(resume)
    assert not trainer.problems


def test_a_lora_is_trained_with_prompts_resumed_and_drawn(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "base")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))

    config = TwinFlowConfig(
        twinflow_enabled=True,
        twinflow_image_free=True,
        twinflow_adversarial_enabled=True,
        twinflow_target_step_count=2,
    )

    def train(name: str, steps: int, resume: str | None = None) -> None:
        options = {
            "prompts_file": str(tmp_path / "prompts.txt"),
            "train_batch_size": 2,
            "validation_prompts": ["a"],
            "validation_base_steps": 2,
            "validation_step_counts": [1],
            "num_validation_images": 1,
        }
        train_on_base(TwinFlow(config), tmp_path, name, steps, resume, **options)

    train("whole", 2)
    shutil.copytree(tmp_path / "whole" / "checkpoint-1", tmp_path / "resumed" / "checkpoint-1")
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


@pytest.fixture(scope="module")
def encoding(pipeline):
    """The family, prepared for clips."""
    family = family_of(pipeline).for_samples(pipeline, resolution=32, num_frames=5, max_sequence_length=8)
    family.prepare_prompts(pipeline, PROMPTS)
    family.prepare_images(pipeline)
    return family


@torch.no_grad()
def test_latents_of_a_clip_are_what_the_stock_call_denormalises(pipeline, encoding):
    """Both parts, packed by the pipeline's helpers, and drawn again by its call."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 3, 5, 32, 32, generator=generator) * 2 - 1
    sound = torch.rand(2, 2, encoding.sound_format.num_samples, generator=generator) * 2 - 1
    distribution = encoding.encode_distribution(pipeline, pixels, sound)
    video_latents, sound_latents = encoding.layout.split_sample(distribution.mean)
    vae, audio_vae = pipeline.vae, pipeline.audio_vae
    mean = vae.encode(pixels).latent_dist.mode()
    mean = pipeline._normalize_latents(mean, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
    torch.testing.assert_close(video_latents, pipeline._pack_latents(mean))
    spectrogram = log_mel(sound, sample_rate=16_000, hop=160, bands=8)
    posterior = audio_vae.encode(spectrogram[:, :, : 4 * sound_latents.shape[1] - 3]).latent_dist
    packed = pipeline._pack_audio_latents(posterior.mode())
    packed = pipeline._normalize_audio_latents(packed, audio_vae.latents_mean, audio_vae.latents_std)
    torch.testing.assert_close(sound_latents, packed)
    _, std = encoding.layout.split_sample(distribution.std)
    torch.testing.assert_close(std, pipeline._pack_audio_latents(posterior.std) / audio_vae.latents_std)
    decoded = encoding.decode_latents(pipeline, distribution.mean)
    expected = vae.decode(vae.encode(pixels).latent_dist.mode(), None, return_dict=False)[0]
    torch.testing.assert_close(decoded, (expected / 2 + 0.5).clamp(0, 1), rtol=1e-4, atol=1e-4)


def test_a_sample_has_as_much_sound_as_the_stock_call_generates(pipeline, encoding):
    frames = 4 * encoding.layout.beside[0].shape[0] - 3
    sound = pipeline(PROMPTS[0], num_inference_steps=1, max_sequence_length=8, guidance_scale=1.0, **SIZE, **LTX_2_OFF)
    assert sound.audio.shape[-1] == frames * 240
    window = 1024 // 2 + 1
    assert encoding.sound_format == SoundFormat(16_000, 2, (frames - 1) * 160 + window)


@torch.no_grad()
def test_without_sound_silence_is_encoded(pipeline, encoding):
    pixels = torch.zeros(1, 3, 5, 32, 32)
    silence = torch.zeros(1, 2, encoding.sound_format.num_samples)
    ours = encoding.encode_distribution(pipeline, pixels)
    assert torch.equal(ours.mean, encoding.encode_distribution(pipeline, pixels, silence).mean)


def test_the_spectrogram_is_that_of_another_implementation():
    """diffusers' for the sound of Kandinsky 6, which pads differently: frames inside are the same at a shift of the window."""
    torch.manual_seed(0)
    waveform = torch.rand(1, 2, 16_000) * 2 - 1
    theirs = MMAudioMelSpectrogram(16_000, 1024, 64, 160)(waveform[0])
    ours = log_mel(waveform[..., 80:], sample_rate=16_000, hop=160, bands=64)[0].transpose(1, 2)
    torch.testing.assert_close(ours[..., 4:90], theirs[..., 4:90], rtol=1e-3, atol=1e-3)


def test_an_audio_autoencoder_of_another_rate_is_refused(pipeline):
    family = family_of(pipeline).for_samples(pipeline, resolution=32, num_frames=5, max_sequence_length=8)
    family.prepare_prompts(pipeline, PROMPTS)
    rate = pipeline.vocoder.config.output_sampling_rate
    pipeline.vocoder.register_to_config(output_sampling_rate=rate * 2)
    try:
        with pytest.raises(TwinFlowConfigError, match="samples of sound at 48000 per second, but .* prompts only"):
            family.prepare_images(pipeline)
    finally:
        pipeline.vocoder.register_to_config(output_sampling_rate=rate)


def test_an_unknown_audio_autoencoder_is_refused(pipeline, monkeypatch):
    family = family_of(pipeline).for_samples(pipeline, resolution=32, num_frames=5, max_sequence_length=8)
    family.prepare_prompts(pipeline, PROMPTS)
    monkeypatch.delitem(INPUTS, "AutoencoderKLLTX2Audio")
    with pytest.raises(TwinFlowConfigError, match="`audio_vae`, a AutoencoderKLLTX2Audio, is not known.*prompts only"):
        family.prepare_images(pipeline)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Four videos of 9 frames at 24 a second. Every other one has a sound track."""
    folder = tmp_path_factory.mktemp("clips")
    for i in range(4):
        sound = videos.tone(0.4, hertz=300.0 * (i + 1)) if i % 2 else None
        videos.write_video(folder / f"{i}.mp4", videos.frames(9, first=i), fps=24, sound=sound)
    rows = [{"file_name": f"{i}.mp4", "text": PROMPTS[i % 2]} for i in range(4)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def open_data(pipeline, clips, tmp_path, batch_size=4, **options) -> TrainingData:
    options = {"resolution": 32, "num_frames": 5, "max_sequence_length": 8} | options
    config = DataConfig(
        instance_data_dir=str(clips),
        image_column="video",
        cache_dir=str(tmp_path / "datasets"),
        sound_fps=24.0,
        **options,
    )
    family = family_of(pipeline).for_samples(pipeline, resolution=32, num_frames=5, max_sequence_length=8)
    source = open_source(config, tmp_path / "out")
    return TrainingData(source, family, pipeline, base_name="base", seed=0, batch_size=batch_size)


def first_batch(data):
    batch = next(iter(data.loader(first_position=0, last_position=4, step_samples=4)))
    return batch, *data.read(batch)


@torch.no_grad()
def test_a_batch_mixes_clips_with_and_without_sound(pipeline, clips, tmp_path):
    data = open_data(pipeline, clips, tmp_path)
    batch, latents, _ = first_batch(data)
    has_sound = torch.tensor([caption == PROMPTS[1] for caption in batch["caption"]])
    assert has_sound.tolist().count(True) == 2
    assert torch.equal(batch["part_weights"], torch.stack([torch.ones(4), has_sound.float()], 1))
    assert torch.equal(batch["sound"].flatten(1).any(1), has_sound)
    _, sound = data.family.layout.split_sample(latents)
    _, silence = data.family.layout.split_sample(
        data.family.encode_distribution(pipeline, torch.zeros(1, 3, 5, 32, 32)).mean
    )
    distances = (sound - silence).flatten(1).norm(dim=1)
    assert distances[has_sound].min() > 0


@torch.no_grad()
def test_latents_are_the_same_from_a_cache_a_stream_and_a_file(pipeline, clips, tmp_path):
    plain, latents, condition = first_batch(open_data(pipeline, clips, tmp_path))
    cached = {"cache_latents": True, "cache_text_embeddings": True, "cache_directory": str(tmp_path / "cache")}
    for _ in range(2):  # the second time, everything is read from disk
        batch, same, prompts = first_batch(open_data(pipeline, clips, tmp_path, **cached))
        torch.testing.assert_close(same, latents, rtol=1e-4, atol=1e-4)
        assert torch.equal(batch["part_weights"], plain["part_weights"]) and "sound" not in batch
        torch.testing.assert_close(prompts, condition, rtol=1e-4, atol=1e-4)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    data = open_data(pipeline, clips, tmp_path, streaming=True)
    batch = next(iter(data.loader(first_position=0, last_position=4, step_samples=4)))
    brightness, streamed = (each["pixels"].mean((1, 2, 3, 4)) for each in (plain, batch))
    order = (brightness[:, None] - streamed).abs().argmin(1)
    assert torch.equal(batch["sound"][order], plain["sound"])
    assert torch.equal(batch["part_weights"][order], plain["part_weights"])


@torch.no_grad()
def test_sizes_with_as_many_numbers_have_samples_of_other_shapes(pipeline, family):
    family = family_of(pipeline).for_samples(pipeline, resolution=32, num_frames=5, max_sequence_length=8)
    family.prepare_prompts(pipeline, PROMPTS)
    sizes = [(32, 64), (64, 32), (32, 32)]
    family.prepare_sizes(pipeline, sizes)
    family.prepare_images(pipeline)
    velocity = family.velocity(pipeline.transformer)
    shapes, condition = set(), family.encode_prompts(pipeline, PROMPTS[:1])
    for height, width in sizes:
        pixels = torch.zeros(1, 3, 5, height, width)
        latents = family.encode_distribution(pipeline, pixels).mean
        shapes.add(tuple(latents.shape))
        assert velocity(latents, torch.tensor([0.5]), None, None, condition).shape == latents.shape
        assert family.number_weights(latents.shape[1:]).shape == latents.shape
        assert family.decode_latents(pipeline, latents).shape == pixels.shape
    assert len(shapes) == 3


@torch.no_grad()
def test_the_loss_of_a_silent_clip_does_not_depend_on_its_sound(family):
    """Neither with TwinFlow nor with flow matching, in a batch with other clips."""
    x = torch.randn(16, *family.sample_shape, generator=torch.Generator().manual_seed(0))
    silent = torch.arange(16) // 4 % 2 == 1
    parts = torch.stack([torch.ones(16), 1 - silent.float()], 1)
    weights = family.number_weights(family.sample_shape, part_weights=parts)
    sound = family.layout.beside[0].shape[0] * family.layout.beside[0].shape[1]
    config = TwinFlowConfig(twinflow_enabled=True, twinflow_adversarial_enabled=True, twinflow_enhanced_ratio=0.0)
    for method in (TwinFlow(config, teacher="student"), FlowMatching()):
        outputs = []
        for shift in (0.0, 0.1):

            def velocity(x_t, t, r, sign, condition, shift=shift):
                by_sign = shift * (1.0 if sign is None else (2 + sign)[:, None])
                return torch.cat([x_t[:, :-sound], x_t[:, -sound:] + by_sign], 1)

            teacher = StudentTeacher(torch.nn.Identity(), lambda _, velocity=velocity: velocity)
            networks = Networks(velocity, velocity, weights=weights, teacher=teacher)
            draw = method.draw(range(16), family.sample_shape, seed=0, device="cpu")
            outputs.append(method.loss(x, {}, draw, networks))
        same = outputs[0].per_sample == outputs[1].per_sample
        assert same[silent].all() and not same[~silent].all()
        if isinstance(method, TwinFlow):
            before, after = (output.parts["rectify"] for output in outputs)
            rectified = silent[draw.rectified]
            assert rectified.any() and torch.equal(before[rectified], after[rectified])
            assert not torch.equal(before[~rectified], after[~rectified])


@pytest.mark.parametrize("method", ["flow matching", pytest.param("twinflow", marks=pytest.mark.slow)])
def test_a_lora_is_trained_on_clips_resumed_and_drawn(method, pipeline, clips, tmp_path):
    """A batch has clips with and without sound, and a resumed run ends with the same weights."""
    pipeline.save_pretrained(tmp_path / "base")
    twinflow = TwinFlowConfig(twinflow_enabled=True, twinflow_adversarial_enabled=True, twinflow_target_step_count=2)

    def train(name: str, steps: int, resume: str | None = None) -> None:
        options = {
            "instance_data_dir": str(clips),
            "image_column": "video",
            "cache_dir": str(tmp_path / "datasets"),
            "train_batch_size": 4,
            "cache_latents": name == "cached",
            "cache_text_embeddings": name == "cached",
        }
        chosen = TwinFlow(twinflow) if method == "twinflow" else FlowMatching()
        train_on_base(chosen, tmp_path, name, steps, resume, **options)

    train("whole", 2)
    shutil.copytree(tmp_path / "whole" / "checkpoint-1", tmp_path / "resumed" / "checkpoint-1")
    train("resumed", 2, resume="latest")
    train("cached", 2)
    results = [
        load_file(tmp_path / name / "pytorch_lora_weights.safetensors") for name in ("whole", "resumed", "cached")
    ]
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])
    assert all(torch.allclose(results[0][key], results[2][key], atol=1e-3) for key in results[0])
    moved = [key for key, value in results[0].items() if "lora_B" in key and value.any()]
    assert any("audio" in key for key in moved) and any("audio" not in key for key in moved)
    base = DiffusionPipeline.from_pretrained(tmp_path / "base")
    before = draw(base, 2, guidance_scale=1.0, **LTX_2_OFF)
    if method == "twinflow":
        load_twinflow_lora(base, tmp_path / "whole")
    else:
        base.load_lora_weights(tmp_path / "whole")
    for part, other in zip(draw(base, 2, guidance_scale=1.0, **LTX_2_OFF), before):
        assert part.isfinite().all() and not torch.equal(part, other)


KANDINSKY_6 = "Kandinsky6TI2VAPipeline"


@torch.no_grad()
def test_sound_of_kandinsky_6_is_what_the_stock_call_decodes():
    """Its autoencoder takes mono waveforms."""
    pipeline, call = VARIANTS[KANDINSKY_6]()
    found = Captured(KANDINSKY_6)
    decoder = decoder_of(found)
    found.family.find_codec(decoder, torch.zeros(1, 3, 5, 32, 32))
    sound_format, layout = found.family.codec.sound_format, found.family.layout
    assert sound_format == SoundFormat(1600, 1, layout.beside[0].shape[0] * 32)
    sound = torch.rand(2, 1, sound_format.num_samples) * 2 - 1
    distribution = found.family.codec.encode(torch.zeros(2, 3, 5, 32, 32), sound)
    _, latents = layout.split_sample(distribution.mean)
    expected = found.pipe.audio_vae.encode(sound[:, 0]).latent_dist.mode() * found.pipe.audio_vae.config.scaling_factor
    torch.testing.assert_close(latents, expected.transpose(1, 2))
    assert pipeline(**call, num_inference_steps=2, output_type="np").audio.shape[-1] == sound_format.num_samples


@torch.no_grad()
def test_kandinsky_6_without_an_audio_autoencoder_is_trained_without_sound():
    pipeline, call = VARIANTS[KANDINSKY_6]()
    pipeline.register_modules(audio_vae=None, vocoder=None)
    family = family_of(pipeline).for_samples(pipeline, resolution=32, num_frames=5)
    assert family.call_options["sample_audio"] is False
    embeds = {name: value for name, value in call.items() if "embeds" in name}
    drawn = family.draw_frames(
        pipeline, [None], **embeds, height=32, width=32, num_frames=5, num_inference_steps=1, guidance_scale=1.0
    )
    assert len(drawn[0]) == 5


def test_the_command_trains_on_clips(script, pipeline, clips, tmp_path):
    """On images, too: they are silent videos of one frame."""
    pipeline.save_pretrained(tmp_path / "base")
    shared = [
        f"--pretrained_model_name_or_path={tmp_path / 'base'}", f"--cache_dir={tmp_path / 'datasets'}", "--resolution=32",
        "--max_sequence_length=8", "--max_train_steps=1", "--train_batch_size=2", "--rank=2",
    ]  # fmt: skip
    of_clips = [f"--instance_data_dir={clips}", "--image_column=video", "--num_frames=5"]
    with fresh_accelerator():
        script.main([*shared, *of_clips, "--mixed_precision=bf16", f"--output_dir={tmp_path / 'clips'}"])
    assert (tmp_path / "clips" / "pytorch_lora_weights.safetensors").is_file()
    with pytest.raises(SystemExit, match="video_fps=10 is not valid for this model, which generates 24 frames"):
        script.main([*shared, *of_clips, "--video_fps=10", f"--output_dir={tmp_path / 'wrong'}"])
    (tmp_path / "images").mkdir()
    for i in range(2):
        videos.frames(1, first=i)[0].save(tmp_path / "images" / f"{i}.png")
    of_images = [f"--instance_data_dir={tmp_path / 'images'}", "--instance_prompt=a"]
    with fresh_accelerator():
        script.main([*shared, *of_images, f"--output_dir={tmp_path / 'still'}"])
    assert (tmp_path / "still" / "pytorch_lora_weights.safetensors").is_file()
