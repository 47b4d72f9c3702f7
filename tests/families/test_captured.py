"""Families that are derived from a stock pipeline give the same results as written ones, and train with prompts only."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux import pipeline_flux_kontext
from diffusers.pipelines.wan import pipeline_wan_i2v
from PIL import Image

from diffusers_twinflow import TwinFlowConfig, TwinFlowPipeline
from diffusers_twinflow.cli.media_files import save_image
from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.data.sampler import Place
from diffusers_twinflow.families import FAMILIES, Family, family_of
from diffusers_twinflow.families.captured import CapturedFamily
from diffusers_twinflow.families.diffusion import DiffusionFamily
from diffusers_twinflow.families.stock_calls import denoiser_of
from diffusers_twinflow.methods import TwinFlow
from diffusers_twinflow.training import Trainer, TrainingArguments
from diffusers_twinflow.training.checks import check_base
from tests import tiny, videos
from tests.families import kit, tiny_captured
from tests.fresh_accelerator import fresh_accelerator

SAME_LENGTH = ["a red fox", "two birds"]
DIFFERENT = ["a", "a picture with many more words than the other one has"]
NOT_PADDED = ("z_image",)
WRITTEN = [
    case
    for case in kit.CASES
    if not isinstance(case.family, DiffusionFamily) and not case.family.takes_reference_image
]


SECOND_OF_A_LAYOUT = ("flux schnell", "chroma", "lumina2", "aura_flow")
each_written = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.id, marks=pytest.mark.slow if case.id in SECOND_OF_A_LAYOUT else ())
        for case in WRITTEN
    ],
)


def derived(case: kit.Case, prompts: list[str]) -> CapturedFamily:
    cls = case.family.pipeline_class
    family = CapturedFamily(cls, *denoiser_of(cls)).for_samples(
        case.pipeline, resolution=case.resolution, max_sequence_length=case.max_sequence_length
    )
    family.prepare_prompts(case.pipeline, prompts)
    return family


@each_written
@torch.no_grad()
def test_velocities_are_those_of_the_written_family(case):
    """Of prompts that are encoded together and alone, though some pipelines pass a mask only if a prompt is padded."""
    prompts = SAME_LENGTH if case.family_name in NOT_PADDED else DIFFERENT
    written, pipeline = case.family.bind(case.pipeline), case.pipeline
    family = derived(case, prompts)
    blank = torch.zeros(2, 3, case.resolution, case.resolution)
    latents = torch.randn(written.blank_latents(pipeline, blank).shape)
    denoiser, t = written.denoiser(pipeline), torch.tensor([0.3, 0.8])
    expected = written.velocity(denoiser)(latents, t, None, None, case.encode_prompts(prompts))
    shape = family.blank_latents(pipeline, blank).shape
    alone = [family.encode_prompts(pipeline, [prompt]) for prompt in prompts]
    apart = {name: torch.cat([each[name] for each in alone]) for name in alone[0]}
    for condition in (family.encode_prompts(pipeline, prompts), apart):
        ours = family.velocity(denoiser)(as_passed(written, latents, shape), t, None, None, condition)
        torch.testing.assert_close(ours, as_passed(written, expected, shape), **kit.CLOSE)


EMPTY_DIFFERS = ("lumina2",)  # its pipeline adds a system prompt to every prompt, but not for guidance


@each_written
@torch.no_grad()
def test_the_empty_prompt_is_that_of_the_written_family(case):
    written, pipeline = case.family.bind(case.pipeline), case.pipeline
    family = derived(case, SAME_LENGTH[:1])
    latents = torch.randn(written.blank_latents(pipeline, torch.zeros(1, 3, case.resolution, case.resolution)).shape)
    denoiser, t = written.denoiser(pipeline), torch.tensor([0.3])
    expected = written.velocity(denoiser)(latents, t, None, None, case.encode_prompts([""]))
    prompts = [""] if case.family_name in NOT_PADDED else ["", SAME_LENGTH[0]]
    condition = {name: each[:1] for name, each in family.encode_prompts(pipeline, prompts).items()}
    sample = as_passed(written, latents, (1, *family.sample_shape))
    ours = family.velocity(denoiser)(sample, t, None, None, condition)
    expected = as_passed(written, expected, ours.shape)
    if case.family_name in EMPTY_DIFFERS:
        assert not torch.allclose(ours, expected, atol=1e-2)
    else:
        torch.testing.assert_close(ours, expected, **kit.CLOSE)


@each_written
@torch.no_grad()
def test_images_are_encoded_as_by_the_written_family(case):
    written, pipeline = case.family.bind(case.pipeline), case.pipeline
    family = derived(case, SAME_LENGTH)
    family.prepare_images(pipeline)
    pixels = case.pixels()[..., : case.resolution]
    expected, ours = (each.encode_distribution(pipeline, pixels) for each in (written, family))
    torch.testing.assert_close(ours.mean, as_passed(written, expected.mean, ours.mean.shape), **kit.CLOSE)
    if expected.std is not None:
        torch.testing.assert_close(ours.std, as_passed(written, expected.std, ours.std.shape), **kit.CLOSE)
    decoded = family.decode_latents(pipeline, ours.mean)
    torch.testing.assert_close(
        decoded.flatten(), written.decode_latents(pipeline, expected.mean).flatten(), **kit.CLOSE
    )


SIZED = [
    pytest.param(case, id=case.id, marks=() if case.family_name in ("flux", "z_image") else pytest.mark.slow)
    for case in WRITTEN
]


@pytest.mark.parametrize("case", SIZED)
@torch.no_grad()
def test_several_sizes_are_those_of_the_written_family(case):
    """Tall and wide samples have the same number of tokens."""
    written, pipeline, side = case.family.bind(case.pipeline), case.pipeline, case.resolution
    family = derived(case, SAME_LENGTH)
    sizes = [(side, 2 * side), (2 * side, side), (side, side)]
    family.prepare_sizes(pipeline, sizes)
    family.prepare_images(pipeline)
    denoiser, t = written.denoiser(pipeline), torch.tensor([0.3, 0.8])
    conditions = case.encode_prompts(SAME_LENGTH), family.encode_prompts(pipeline, SAME_LENGTH)
    for height, width in sizes:
        pixels = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
        expected, ours = (each.encode_distribution(pipeline, pixels).mean for each in (written, family))
        shape = (2, *family.at_sizes[height, width].layout.sample.shape)
        torch.testing.assert_close(ours.reshape(shape), as_passed(written, expected, shape), **kit.CLOSE)
        velocities = [
            each.velocity(denoiser)(latents, t, None, None, condition)
            for each, latents, condition in zip((written, family), (expected, ours), conditions)
        ]
        assert velocities[1].shape == ours.shape
        torch.testing.assert_close(velocities[1].reshape(shape), as_passed(written, velocities[0], shape), **kit.CLOSE)


def as_passed(family: Family, latents: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Canonical latents as the pipeline passes them to its denoiser; FLUX.2's takes them unpacked itself."""
    packed = family.pack(latents)
    if len(shape) == 3 and packed.ndim == 4:
        packed = packed.flatten(2).transpose(1, 2)
    return packed.reshape(shape)


@torch.no_grad()
def test_prompts_of_different_lengths_are_padded_as_the_pipeline_pads_them():
    pipeline = tiny_captured.cogview4()
    family = family_of(pipeline).for_samples(pipeline, resolution=32)
    family.prepare_prompts(pipeline, ["", *DIFFERENT])
    alone = [family.encode_prompts(pipeline, [prompt]) for prompt in DIFFERENT]
    together = family.encode_prompts(pipeline, DIFFERENT)
    own = pipeline.encode_prompt(DIFFERENT, do_classifier_free_guidance=False)[0]
    torch.testing.assert_close(together["encoder_hidden_states"].flatten(1, 2), own)
    for name, tensor in together.items():
        torch.testing.assert_close(torch.cat([condition[name] for condition in alone]), tensor, **kit.CLOSE)


def test_prompts_that_are_longer_than_those_it_was_prepared_for_are_refused():
    pipeline = tiny_captured.hunyuan_image()
    family = family_of(pipeline).for_samples(pipeline, resolution=32)
    with pytest.raises(TwinFlowConfigError, match="`for_samples` on it, and then `prepare_prompts`"):
        family.encode_prompts(pipeline, ["a"])


def test_prompts_that_the_pipeline_does_not_pad_are_refused():
    case = next(case for case in WRITTEN if case.family_name == "z_image")
    family = derived(case, DIFFERENT)
    with pytest.raises(TwinFlowConfigError, match="encoded to different shapes, `cap_feats` to .* does not pad them"):
        family.encode_prompts(case.pipeline, DIFFERENT)


def arguments_for(tmp_path: Path, build, **options) -> TrainingArguments:
    build().save_pretrained(tmp_path / "base")
    (tmp_path / "prompts.txt").write_text("\n".join(DIFFERENT))
    data = (
        {}
        if {"instance_data_dir", "dataset_name"} & options.keys()
        else {"prompts_file": str(tmp_path / "prompts.txt")}
    )
    return TrainingArguments(
        str(tmp_path / "base"),
        output_dir=str(tmp_path / "out"),
        resolution=32,
        train_batch_size=2,
        max_train_steps=1,
        learning_rate=1e-2,
        rank=2,
        save_ema=False,
        num_validation_images=1,
        **data,
        **options,
    )


@pytest.mark.parametrize(
    "build", [pytest.param(tiny_captured.cogview4, marks=pytest.mark.slow), tiny_captured.hunyuan_image]
)
@pytest.mark.parametrize("cached", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_step_with_prompts_alone_to_an_image(build, cached, tmp_path):
    validation = {"validation_prompts": ["a"], "validation_base_steps": 2, "validation_step_counts": [1, 2]}
    arguments = arguments_for(tmp_path, build, cache_text_embeddings=cached, **validation)
    trained(arguments, twinflow_image_free=True, twinflow_adversarial_enabled=True)
    assert (tmp_path / "out" / "samples" / "steps.png").is_file()

    pipeline = TwinFlowPipeline.from_pretrained(tmp_path / "out", merge=False)
    pipeline.set_progress_bar_config(disable=True)
    family = family_of(pipeline)
    assert family.name == type(build()).__name__ == pipeline.twinflow_config.family
    transformer = family.denoiser(pipeline)
    adapted = [name for name, _ in transformer.named_parameters() if ".lora_B." in name]
    assert adapted and all(transformer.get_parameter(name).any() for name in adapted if "context_embedder" not in name)
    calls = []
    transformer.register_forward_pre_hook(lambda *args: calls.append(args))
    image = pipeline("a", height=32, width=32, output_type="pt")[0]
    assert image.shape == (1, 3, 32, 32) and image.isfinite().all()
    assert len(calls) == pipeline.twinflow_config.num_inference_steps  # the guiders of the base are off


@pytest.mark.parametrize(
    ("build", "cached"),
    [
        (tiny_captured.cogview4, True),
        pytest.param(tiny_captured.cogview4, False, marks=pytest.mark.slow),
        pytest.param(tiny_captured.hunyuan_image, True, marks=pytest.mark.slow),
    ],
)
def test_a_step_on_images_to_an_image(build, cached, tmp_path, image_dir):
    arguments = arguments_for(
        tmp_path,
        build,
        instance_data_dir=str(image_dir),
        cache_latents=cached,
        center_crop=True,
        cache_text_embeddings=cached,
        validation_prompts=["a"],
        validation_base_steps=2,
        validation_step_counts=[1],
    )
    trained(arguments)
    pipeline = TwinFlowPipeline.from_pretrained(tmp_path / "out", merge=False)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a", height=32, width=32, output_type="pt")[0]
    assert image.shape == (1, 3, 32, 32) and image.isfinite().all()


def images_of_several_shapes(folder: Path) -> Path:
    tiny.image_folder(folder, count=4)
    for i, size in enumerate([(32, 32), (64, 32), (32, 64), (64, 32)]):
        Image.new("RGB", size, (60 * i, 0, 0)).save(folder / f"{i}.png")
    return kit.add_references(folder)


CACHED = {"cache_latents": True, "cache_text_embeddings": True, "center_crop": True}


@pytest.mark.parametrize(
    ("build", "options"),
    [
        (tiny_captured.cogview4, CACHED),
        pytest.param(tiny_captured.cogview4, {}, marks=pytest.mark.slow),
        pytest.param(tiny_captured.flux_kontext, {"reference_image_column": "reference"}, marks=pytest.mark.slow),
    ],
)
def test_a_step_on_images_of_several_shapes(build, options, tmp_path, small_references):
    """CogView4's transformer is told the size. FLUX's takes tokens, of which tall and wide samples have as many."""
    arguments = arguments_for(
        tmp_path,
        build,
        dataset_name=str(images_of_several_shapes(tmp_path / "images")),
        aspect_ratio_buckets="32,32;32,64;64,32;96,32",
        **options,
    )
    arguments = replace(arguments, max_train_steps=4)
    trainer = trained(arguments, twinflow_adversarial_enabled=True)
    assert sorted(trainer.family.at_sizes) == [(32, 32), (32, 64), (64, 32)]
    assert len({family.sample_shape for family in trainer.family.at_sizes.values()}) == 3
    if not trainer.family.takes_reference_image:
        tall = trainer.family.at_sizes[64, 32].of_size["target_size"]
        assert tall.put(None, 2, torch.device("cpu")).tolist() == [[[64.0, 32.0]]] * 2


@pytest.mark.slow
def test_a_step_on_clips_to_a_video(tmp_path):
    folder = tmp_path / "clips"
    for i in range(2):
        videos.write_video(folder / f"{i}.mp4", videos.frames(9, (40, 32), first=i))
    rows = [{"file_name": f"{i}.mp4", "text": f"{'ab'[i]} video"} for i in range(2)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = arguments_for(
        tmp_path,
        tiny_captured.any_flow,
        dataset_name=str(folder),
        image_column="video",
        num_frames=5,
        cache_latents=True,
        center_crop=True,
    )
    assert trained(arguments).data.samples[Place(0, 0)]["latents"].shape == (2, 16, 4, 4)
    pipeline = TwinFlowPipeline.from_pretrained(tmp_path / "out", merge=False)
    pipeline.set_progress_bar_config(disable=True)
    frames = pipeline("a", height=32, width=32, num_frames=5, output_type="pil").frames[0]
    save_image(frames, tmp_path / "clip.webp", pipeline)
    with Image.open(tmp_path / "clip.webp") as clip:
        assert clip.n_frames == 5


def test_clips_that_the_autoencoder_would_cut_are_refused():
    pipeline = tiny_captured.any_flow()
    family = family_of(pipeline).for_samples(pipeline, resolution=32, num_frames=6)
    family.prepare_prompts(pipeline, ["a"])
    with pytest.raises(TwinFlowConfigError, match="AnyFlowPipeline cannot be trained on images"):
        family.prepare_images(pipeline)


@pytest.fixture
def small_references(monkeypatch):
    """References of 32 x 32 pixels, where FLUX Kontext has a million, and prompts that are not cleaned.

    Wan's image-to-video pipelines clean prompts with a package that is not installed.
    """
    monkeypatch.setattr(pipeline_wan_i2v, "prompt_clean", str.strip)
    monkeypatch.setattr(pipeline_flux_kontext, "PREFERRED_KONTEXT_RESOLUTIONS", [(32, 32)])


REFERENCES = [
    tiny_captured.flux_kontext,
    tiny_captured.sd3_controlnet,
    pytest.param(tiny_captured.flux_controlnet, marks=pytest.mark.slow),
    pytest.param(tiny_captured.flux_control, marks=pytest.mark.slow),
    pytest.param(tiny_captured.wan_image_to_video, marks=pytest.mark.slow),
    pytest.param(tiny_captured.wan_image_to_video_with_two, marks=pytest.mark.slow),
]


def with_references(folder, build, image_dir, **options) -> TrainingArguments:
    """`arguments_for` images that each have a reference image."""
    images = kit.add_references(Path(shutil.copytree(image_dir, folder / "images")))
    return arguments_for(folder, build, dataset_name=str(images), reference_image_column="reference", **options)


@pytest.mark.parametrize(
    "build", [REFERENCES[0], pytest.param(REFERENCES[1], marks=pytest.mark.slow), *REFERENCES[2:]]
)
def test_a_step_on_images_with_references(build, tmp_path, image_dir, small_references):
    arguments = with_references(
        tmp_path,
        build,
        image_dir,
        max_sequence_length=16,
        validation_image=str(next(image_dir.glob("*.png"))),
        validation_prompts=["a"],
        validation_base_steps=2,
        validation_step_counts=[1],
    )
    trained(arguments, twinflow_enhanced_ratio=0.5)
    pipeline = TwinFlowPipeline.from_pretrained(tmp_path / "out", merge=False)
    pipeline.set_progress_bar_config(disable=True)
    family = family_of(pipeline, pipeline.twinflow_config.family)
    assert family.takes_reference_image and family.name == type(build()).__name__
    red, blue = (
        family.draw(
            pipeline,
            ["a"],
            **{family.image_argument: Image.new("RGB", (32, 32), colour)},
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(0),
            **family.size_options(32),
        )[0]
        for colour in ("red", "blue")
    )
    assert red.size == (32, 32) and red.tobytes() != blue.tobytes()


@pytest.mark.parametrize(
    ("build", "train_type"),
    [
        (tiny_captured.sd3_controlnet, "lora"),
        pytest.param(tiny_captured.sd3_controlnet, "full", marks=pytest.mark.slow),
        pytest.param(tiny_captured.flux_controlnet, "full", marks=pytest.mark.slow),
        pytest.param(tiny_captured.flux_control, "lora", marks=pytest.mark.slow),
    ],
)
def test_a_step_on_images_in_bfloat16(build, train_type, tmp_path, image_dir):
    """Parts of the pipeline then have other dtypes, and it does not convert what it passes between them."""
    arguments = with_references(tmp_path, build, image_dir, mixed_precision="bf16", train_type=train_type)
    trained(arguments, twinflow_enhanced_ratio=0.5)


@pytest.mark.parametrize("build", REFERENCES)
@torch.no_grad()
def test_samples_with_references_make_a_batch(build, small_references):
    pipeline = build()
    kit.fill_zeros(pipeline.transformer)
    family = FAMILIES[type(pipeline).__name__].for_samples(pipeline, resolution=32)
    family.prepare_prompts(pipeline, SAME_LENGTH)
    references = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x_t = torch.randn(family.blank_latents(pipeline, references).shape)
    velocity, t = family.velocity(pipeline.transformer), torch.tensor([0.3, 0.8])
    condition = family.encode_prompts(pipeline, SAME_LENGTH, reference_images=references)
    together = velocity(x_t, t, None, None, condition)
    for i, prompt in enumerate(SAME_LENGTH):
        alone = family.encode_prompts(pipeline, [prompt], reference_images=references[i : i + 1])
        torch.testing.assert_close(
            velocity(x_t[i : i + 1], t[i : i + 1], None, None, alone)[0], together[i], **kit.CLOSE
        )
        other = family.encode_prompts(pipeline, [prompt], reference_images=-references[i : i + 1])
        assert not torch.allclose(velocity(x_t[i : i + 1], t[i : i + 1], None, None, other)[0], together[i], atol=1e-3)


@torch.no_grad()
def test_a_model_that_takes_one_sample_gets_each_sample_of_a_batch():
    pipeline, prompts = tiny_captured.cosmos3(), ["a red fox", "a big cat"]
    kit.fill_zeros(pipeline.transformer)
    family = FAMILIES["Cosmos3OmniPipeline"].for_samples(pipeline, resolution=32)
    family.prepare_prompts(pipeline, [*prompts, "a longer prompt"])
    condition = family.encode_prompts(pipeline, prompts)
    x_t = torch.randn(2, *family.sample_shape, generator=torch.Generator().manual_seed(0))
    velocity, t = family.velocity(pipeline.transformer), torch.tensor([0.3, 0.8])
    together = velocity(x_t, t, None, None, condition)
    assert together.shape == x_t.shape and not torch.allclose(together[0], together[1])
    for i, prompt in enumerate(prompts):
        alone = velocity(x_t[i : i + 1], t[i : i + 1], None, None, family.encode_prompts(pipeline, [prompt]))
        torch.testing.assert_close(alone[0], together[i], **kit.CLOSE)
    longer = velocity(x_t[:1], t[:1], None, None, family.encode_prompts(pipeline, ["a longer prompt"]))
    assert not torch.equal(longer[0], together[0])
    with pytest.raises(
        TwinFlowConfigError, match="prompts of a batch are encoded to different shapes.*train_batch_size=1"
    ):
        family.encode_prompts(pipeline, [prompts[0], "a longer prompt"])


def test_a_model_that_takes_one_sample_trains_on_prompts_of_different_lengths(tmp_path):
    arguments = replace(arguments_for(tmp_path, tiny_captured.cosmos3), train_batch_size=1, max_train_steps=3)
    trained(arguments, twinflow_image_free=True, twinflow_enhanced_ratio=0.5, twinflow_split_passes=True)
    pipeline = TwinFlowPipeline.from_pretrained(tmp_path / "out", merge=False)
    assert any(p.any() for key, p in pipeline.transformer.named_parameters() if ".lora_B." in key)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FluxFillPipeline", "because it fills the part of an image that its `mask_image` shows"),
        ("StableDiffusion3ControlNetInpaintingPipeline", "its `control_mask` shows, and samples have no masks"),
        ("HeliosPipeline", "generates a video in sections"),
        ("Cosmos2_5_TransferPipeline", "its call needs `controls`"),
    ],
)
def test_a_pipeline_that_no_run_can_train_is_refused_before_it_is_loaded(name, message, tmp_path):
    index = {"_class_name": name, "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "scheduler").mkdir()
    FlowMatchEulerDiscreteScheduler().save_pretrained(tmp_path / "scheduler")
    arguments = TrainingArguments(str(tmp_path), reference_image_column="image")
    with pytest.raises(TwinFlowConfigError, match=message):
        check_base(arguments, TwinFlowConfig(twinflow_enabled=True), use_ema=True)


@pytest.mark.parametrize("asks", [False, True])
def test_a_controlnet_is_frozen(asks, small_references):
    """Gradients go through it only to a sample that asks for them."""
    pipeline = tiny_captured.sd3_controlnet()
    kit.fill_zeros(pipeline.transformer)
    pipeline.controlnet.requires_grad_(False)
    family = FAMILIES[type(pipeline).__name__].for_samples(pipeline, resolution=32)
    family.prepare_prompts(pipeline, ["a"])
    references = torch.rand(1, 3, 32, 32) * 2 - 1
    condition = family.encode_prompts(pipeline, ["a"], reference_images=references)
    x_t = torch.randn(family.blank_latents(pipeline, references).shape, requires_grad=asks)
    runs_with_grad = []
    pipeline.controlnet.register_forward_pre_hook(lambda *_: runs_with_grad.append(torch.is_grad_enabled()))
    family.velocity(pipeline.transformer)(x_t, torch.tensor([0.5]), None, None, condition).sum().backward()
    assert runs_with_grad == [asks] and all(p.grad is None for p in pipeline.controlnet.parameters())
    assert any(p.grad is not None for p in pipeline.transformer.parameters())


def trained(arguments: TrainingArguments, **options) -> Trainer:
    with fresh_accelerator():
        trainer = Trainer(None, arguments, TwinFlow(TwinFlowConfig(twinflow_enabled=True, **options)))
        trainer.train()
    assert not trainer.problems
    return trainer


@torch.no_grad()
def test_an_autoencoder_in_half_precision_is_inverted_as_exactly():
    pipeline = tiny_captured.cogview4()
    pipeline.vae.register_to_config(scaling_factor=0.3611)
    pipeline.vae.to(torch.bfloat16)
    family = family_of(pipeline).for_samples(pipeline, resolution=32)
    family.prepare_prompts(pipeline, ["a"])
    family.prepare_images(pipeline)
    assert pipeline.vae.dtype == torch.bfloat16
    torch.testing.assert_close(
        family.codec.pixels.map.scale, torch.tensor(1 / 0.3611).expand(4 * 4 * 4), rtol=1e-6, atol=0
    )


def test_a_pipeline_whose_output_has_another_range_is_refused():
    pipeline = tiny_captured.cogview4()
    family = family_of(pipeline).for_samples(pipeline, resolution=32)
    family.prepare_prompts(pipeline, ["a"])
    pipeline.image_processor.register_to_config(do_normalize=False)
    with pytest.raises(TwinFlowConfigError, match="CogView4.*output differs from what its autoencoder decodes"):
        family.prepare_images(pipeline)


def test_a_pipeline_without_an_autoencoder_is_refused():
    pipeline = tiny_captured.cogview4()
    family = family_of(pipeline).for_samples(pipeline, resolution=32)
    family.prepare_prompts(pipeline, ["a"])
    pipeline.vae = None
    with pytest.raises(TwinFlowConfigError, match="no `vae`.*prompts only: set `twinflow_enabled`"):
        family.prepare_images(pipeline)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("LucyEditPipeline", "its call needs `video`"), ("VisualClozePipeline", "its call takes no `prompt`")],
)
def test_a_pipeline_that_needs_more_than_prompts_is_named(name, reason):
    with pytest.raises(TwinFlowConfigError, match=f"{name} cannot be trained with prompts alone: {reason}"):
        FAMILIES[name].for_samples(None, resolution=32)


def test_a_pipeline_whose_call_fails_is_named():
    pipeline = tiny_captured.cogview4()
    family = family_of(pipeline).for_samples(pipeline, resolution=31)
    with pytest.raises(
        TwinFlowConfigError, match=r"CogView4Pipeline.*fails before it reaches.*divisible by 16 but are 31"
    ):
        family.prepare_prompts(pipeline, ["a"])


@torch.no_grad()
def test_the_pipeline_is_left_as_it_was():
    pipeline = tiny_captured.hunyuan_image()
    scheduler, guider = pipeline.scheduler, pipeline.guider
    family = family_of(pipeline).for_samples(pipeline, resolution=32)
    family.prepare_prompts(pipeline, ["a"])
    assert pipeline.scheduler is scheduler and pipeline.guider is guider and guider._enabled
    assert scheduler.step_index is None and not pipeline.transformer._forward_pre_hooks
    assert not hasattr(pipeline, "_progress_bar_config")
