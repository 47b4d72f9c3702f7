"""The reference image on its way from the data to the loss."""

import json

import pytest
import torch
from peft import LoraConfig
from PIL import Image

from diffusers_twinflow.cli import main
from diffusers_twinflow.configuration import TwinFlowConfig, TwinFlowConfigError
from diffusers_twinflow.data import DataConfig, Samples, open_source
from diffusers_twinflow.data.draws import SampleDraw
from diffusers_twinflow.data.framing import Framing
from diffusers_twinflow.data.sampler import Place
from diffusers_twinflow.families import FAMILIES, family_of
from diffusers_twinflow.families.encoding import as_pictures
from diffusers_twinflow.hub import TwinFlowRepositoryConfig, save_model_card, save_twinflow_lora
from diffusers_twinflow.methods import Networks, TwinFlow
from diffusers_twinflow.methods.teachers import StudentTeacher
from diffusers_twinflow.schedulers import TwinFlowScheduler
from tests import tiny
from tests.families import tiny_qwen

FAMILY = FAMILIES["qwen_image_edit"]


@pytest.fixture
def images(tmp_path):
    """Two pictures of 40 x 30 pixels, each with itself as its reference."""
    folder = tmp_path / "images"
    folder.mkdir()
    rows = []
    for number in range(2):
        pixels = torch.randint(256, (30, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
        name = {"file_name": f"{number}.png", "reference_file_name": f"{number}.png"}
        rows.append(json.dumps(name | {"text": "a"}))
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return folder


def config_of(folder, **options) -> DataConfig:
    options = {"reference_image_column": "reference", "cache_dir": str(folder.parent / "datasets")} | options
    return DataConfig(instance_data_dir=str(folder), **options)


def test_a_reference_is_cut_and_flipped_as_its_image(images, tmp_path):
    source = open_source(config_of(images), tmp_path / "out")
    framing = Framing(((16, 16),), center_crop=False, random_flip=True)
    samples = Samples(source.rows, source.config.captions, framing, seed=0)
    draws = [SampleDraw.at(0, position) for position in range(6)]
    assert len({framing.flips(draw) for draw in draws}) == 2
    for position in range(6):
        sample = samples[Place(position % 2, position)]
        assert torch.equal(sample["reference"], sample["pixels"])


def test_a_broken_reference_is_left_out_by_name(images, tmp_path):
    (images / "broken.png").write_bytes((images / "0.png").read_bytes()[:60])
    lines = (
        (images / "metadata.jsonl")
        .read_text()
        .replace('"reference_file_name": "1.png"', '"reference_file_name": "broken.png"')
    )
    (images / "metadata.jsonl").write_text(lines)
    source = open_source(config_of(images), tmp_path / "out")
    assert len(source.rows.rows) == 1
    assert "1.png" in (tmp_path / "out" / "data_report.json").read_text()


def test_a_reference_column_that_is_not_there_is_named(images, tmp_path):
    with pytest.raises(TwinFlowConfigError, match="reference_image_column='before' is not a column"):
        open_source(config_of(images, reference_image_column="before"), tmp_path / "out")


@pytest.mark.parametrize("name", ["streaming", "cache_text_embeddings", "twinflow_image_free"])
def test_what_does_not_go_with_a_reference(images, name):
    with pytest.raises(TwinFlowConfigError, match=f"{name}=True.*Leave {name} out"):
        config_of(images, **{name: True})


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (tiny_qwen.qwen_image_edit, [], "--reference_image_column is missing"),
        (tiny_qwen.qwen_image_edit, ["--reference_image_column=a", "--validation_prompts=b"], "--validation_image is"),
        (tiny.sd3_pipeline, ["--reference_image_column=a"], "does not edit images. Leave it out"),
    ],
)
def test_the_script_refuses_before_it_loads(script, build, options, message, tmp_path, monkeypatch):
    pipeline = build()
    pipeline.scheduler.save_pretrained(tmp_path / "scheduler")
    pipeline.save_config(tmp_path)
    monkeypatch.setattr(type(pipeline), "from_pretrained", None)
    with pytest.raises(SystemExit, match=message):
        script.main([f"--pretrained_model_name_or_path={tmp_path}", "--dataset_name=data", *options])


def test_the_empty_prompt_keeps_the_samples_own_reference():
    """Guidance that compares each sample with its own empty prompt, here the same velocity, changes nothing."""
    offsets = torch.arange(8.0)

    def velocity(x, t, r, sign, condition):
        return x + condition["offset"].view(-1, 1, 1, 1)

    def loss(unconditional, ratio):
        config = TwinFlowConfig(twinflow_enabled=True, twinflow_enhanced_ratio=ratio, twinflow_target_clamp=100.0)
        method = TwinFlow(config)
        draw = method.draw(range(8), (1, 2, 2), seed=0)
        latents = torch.randn(8, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        networks = Networks(velocity, velocity, StudentTeacher(None, lambda model: velocity), unconditional)
        return method.loss(latents, {"offset": offsets}, draw, networks).loss

    plain = loss(None, 0.0)
    torch.testing.assert_close(loss({"offset": offsets}, 0.5), plain)
    assert not torch.isclose(loss({"offset": offsets.flip(0)}, 0.5), plain)
    assert not torch.isclose(loss({"offset": offsets[:1]}, 0.5), plain)


@pytest.mark.parametrize(
    "build", [pytest.param(tiny_qwen.qwen_image_edit, marks=pytest.mark.slow), tiny_qwen.qwen_image_edit_plus]
)
def test_the_transformer_gets_what_the_stock_call_gives_it(build):
    """At the stock call's own size of references, with one that is not square."""
    pipeline = build()
    family = family_of(pipeline)
    pipeline.set_progress_bar_config(disable=True)
    calls = []
    pipeline.transformer.register_forward_pre_hook(lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True)
    reference = torch.randint(256, (1, 3, 24, 48), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    noise = torch.randn(1, 4, 4, 2, generator=torch.Generator().manual_seed(1))
    (image,) = as_pictures(reference)
    pipeline(
        image, "a", true_cfg_scale=1.0, height=64, width=32, latents=family.pack(noise), num_inference_steps=2,
        output_type="latent",
    )  # fmt: skip
    condition = family.encode_prompts(pipeline, ["a"], 480, reference)
    with torch.no_grad():
        family.velocity(pipeline.transformer)(noise, torch.ones(1), None, None, condition)
    stock, ours = calls[0], calls[-1]
    length = stock["encoder_hidden_states"].shape[1]
    assert ours["img_shapes"] == stock["img_shapes"] == [[(1, 2, 1), (1, 23, 45)]]
    torch.testing.assert_close(ours["hidden_states"], stock["hidden_states"])
    torch.testing.assert_close(ours["encoder_hidden_states"][:, :length], stock["encoder_hidden_states"])
    assert ours["encoder_hidden_states_mask"].sum() == length
    assert torch.equal(ours["timestep"], stock["timestep"])


@pytest.mark.usefixtures("small_references")
def test_each_prompt_edits_the_image_anew():
    pipeline = tiny_qwen.qwen_image_edit()
    pipeline.set_progress_bar_config(disable=True)
    image = Image.new("RGB", (32, 32), "red")
    options = {"num_inference_steps": 2, "true_cfg_scale": 1.0, "output_type": "pt"} | FAMILY.size_options(32)
    generator = torch.Generator().manual_seed(0)
    pictures = FAMILY.draw(pipeline, ["a", "b"], 2, image=image, generator=generator, **options)
    assert len(pictures) == 4 and len({picture.sum().item() for picture in pictures}) == 4


@pytest.fixture
def adapter(tmp_path):
    """A repository with an untrained LoRA, beside its base."""
    pipeline = tiny_qwen.qwen_image_edit()
    pipeline.save_pretrained(tmp_path / "base")
    pipeline.transformer.add_adapter(LoraConfig(r=2, target_modules=["attn.to_q"]))
    directory = tmp_path / "adapter"
    directory.mkdir()
    config = TwinFlowRepositoryConfig("lora", FAMILY.name, "../base", max_sequence_length=480)
    save_twinflow_lora(directory, pipeline.transformer, config, TwinFlowScheduler())
    return directory


@pytest.mark.usefixtures("small_references")
def test_the_command_line_edits_an_image(adapter, tmp_path, capsys):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "before.png")
    command = ["generate", "a", "--adapter", str(adapter), "--device=cpu", f"--out={tmp_path / 'after.png'}"]
    assert main(command) == 1 and "--image is missing" in capsys.readouterr().err
    assert main([*command, f"--image={tmp_path / 'before.png'}", "--height=32", "--width=64"]) == 0
    assert Image.open(tmp_path / "after.png").size == (64, 32)


def test_the_card_shows_a_call_with_an_image(adapter):
    card = save_model_card(adapter, "me/my-edit")
    assert 'pipe(image=load_image("before.png"), prompt="your prompt"' in card.text
    assert card.data.pipeline_tag == "image-to-image"


def test_prompts_are_not_encoded_without_reference_images():
    with pytest.raises(TwinFlowConfigError, match="needs reference_images"):
        FAMILY.encode_prompts(tiny_qwen.qwen_image_edit(), ["a"])
