"""LoRAs that are merged into the base before training, and before the result is loaded."""

import json
import shutil
from dataclasses import replace

import peft
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from packaging import version
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from diffusers_twinflow import TwinFlowConfig, TwinFlowConfigError, TwinFlowPipeline, load_twinflow_lora
from diffusers_twinflow.hub import BaseLora, TwinFlowRepositoryConfig, merge_base_loras
from diffusers_twinflow.hub.model_card import build_model_card
from diffusers_twinflow.hub.pushable import check_pushable
from diffusers_twinflow.hub.stock_pipelines import load_stock_pipeline
from diffusers_twinflow.methods import TwinFlow
from diffusers_twinflow.pipelines import export
from diffusers_twinflow.schedulers import TwinFlowScheduler
from diffusers_twinflow.training import Trainer, TrainingArguments
from tests.fresh_accelerator import fresh_accelerator
from tests.hub.repositories import FAMILY

CALL = {"num_inference_steps": 2, "output_type": "pt", "height": 16, "width": 16}


def style_lora(base_dir, directory, **more_targets):
    """A LoRA of rank 2 and alpha 4."""
    pipeline = load_stock_pipeline(FAMILY, base_dir)
    layers, metadata = {}, {}
    targets = {"transformer": ["to_q", "proj_out"]} | more_targets
    torch.manual_seed(0)
    for name, modules in targets.items():
        module = getattr(pipeline, name)
        config = LoraConfig(r=2, lora_alpha=4, target_modules=modules, init_lora_weights=False)
        module.add_adapter(config)
        layers[f"{name}_lora_layers"] = get_peft_model_state_dict(module)
        metadata[f"{name}_lora_adapter_metadata"] = config.to_dict() | {"target_modules": modules}
    StableDiffusion3Pipeline.save_lora_weights(directory, **layers, **metadata)
    return directory


@pytest.fixture(scope="module")
def style(base_dir, tmp_path_factory):
    return style_lora(base_dir, tmp_path_factory.mktemp("style"))


@pytest.fixture(scope="module")
def trained(base_dir, style, image_dir, tmp_path_factory):
    """A trainer after two steps, and the folder of its result."""
    output = tmp_path_factory.mktemp("trained") / "out"
    arguments = TrainingArguments(
        str(base_dir),
        base_loras=[f"{style}:0.5"],
        instance_data_dir=str(image_dir),
        output_dir=str(output),
        resolution=16,
        rank=2,
        learning_rate=1e-2,
        train_batch_size=4,
        max_train_steps=2,
        save_ema=False,
    )
    with fresh_accelerator():
        trainer = Trainer(None, arguments, TwinFlow(TwinFlowConfig(twinflow_enabled=True)))
        trainer.train()
    return trainer, output


def image_of(pipeline, **options):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline("a", generator=torch.Generator().manual_seed(0), **CALL, **options).images


def styled(base_dir, style, scale):
    """The base with a fused LoRA, by stock diffusers."""
    pipeline = load_stock_pipeline(FAMILY, base_dir)
    pipeline.load_lora_weights(style)
    pipeline.fuse_lora(lora_scale=scale)
    pipeline.unload_lora_weights()
    return pipeline


def test_merging_is_what_stock_diffusers_fuses(base_dir, style):
    pipeline = load_stock_pipeline(FAMILY, base_dir)
    plain = image_of(pipeline)
    merge_base_loras(pipeline, [f"{style}:0.5", BaseLora(str(style / "pytorch_lora_weights.safetensors"), scale=-0.5)])
    torch.testing.assert_close(image_of(pipeline), plain)
    merge_base_loras(pipeline, [f"{style}:0.5"])
    torch.testing.assert_close(image_of(pipeline), image_of(styled(base_dir, style, 0.5)))
    assert (image_of(pipeline) - plain).abs().max() > 1e-3
    assert not any("lora" in name for name in pipeline.transformer.state_dict())


@pytest.mark.skipif(version.parse(peft.__version__) < version.parse("0.22"), reason="transformers needs PEFT 0.22")
def test_text_encoders_are_merged_too(base_dir, tmp_path):
    style_lora(base_dir, tmp_path, text_encoder=["q_proj"])
    pipeline = load_stock_pipeline(FAMILY, base_dir)
    before = pipeline.text_encoder.text_model.encoder.layers[0].self_attn.q_proj.weight.clone()
    merge_base_loras(pipeline, [str(tmp_path)])
    assert not torch.equal(pipeline.text_encoder.text_model.encoder.layers[0].self_attn.q_proj.weight, before)


def test_images_of_the_loaded_lora_are_the_images_of_the_run(trained, base_dir):
    trainer, output = trained
    loaded = TwinFlowPipeline.from_pretrained(output, merge=False)
    expected = image_of(loaded)
    trainer.transformer.eval()
    trainer.pipeline.scheduler = loaded.scheduler
    torch.testing.assert_close(image_of(trainer.pipeline, guidance_scale=0.0), expected)

    merged = TwinFlowPipeline.from_pretrained(output)
    torch.testing.assert_close(image_of(merged), expected, atol=1e-4, rtol=1e-4)
    without = image_of(TwinFlowPipeline.from_pretrained(output, base_loras=[]))
    assert (without - expected).abs().max() > 1e-3


def test_unloading_gives_the_base_with_its_lora_back(trained, base_dir, style):
    pipeline = TwinFlowPipeline.from_pretrained(trained[1])
    pipeline.unload_lora_weights()
    expected = load_stock_pipeline(FAMILY, base_dir)
    merge_base_loras(expected, [f"{style}:0.5"])
    for name, weight in expected.transformer.state_dict().items():
        assert torch.equal(pipeline.transformer.state_dict()[name], weight), name


def test_it_is_recorded_and_a_moved_lora_is_named(trained, style):
    output = trained[1]
    config = TwinFlowRepositoryConfig.load(output)
    assert config.base_loras == [f"{style}:0.5"]
    card = (output / "README.md").read_text()
    assert "a LoRA that is not on the Hub at scale 0.5 merged into it" in card and str(style) not in card
    assert 'merge_base_loras(pipe, ["path/to/the/lora:0.5"])' in card
    hub_card = build_model_card(replace(config, base_loras=["me/styles/a.safetensors@main:0.8"]), "me/new")
    assert "with [me/styles](https://huggingface.co/me/styles) at scale 0.8 merged into it" in str(hub_card)
    code = 'pipe.load_lora_weights("me/styles", weight_name="a.safetensors", revision="main")\npipe.fuse_lora(lora_scale=0.8)'
    assert 'merge_base_loras(pipe, ["me/styles/a.safetensors@main:0.8"])' in str(hub_card)
    assert code in str(
        build_model_card(
            replace(config, base_loras=["me/styles/a.safetensors@main:0.8"]), "me/new", scheduler=TwinFlowScheduler()
        )
    )
    replace(config, base_loras=["gone/away/lora:2"]).save(output)
    try:
        with pytest.raises(TwinFlowConfigError, match="'gone/away/lora:2', which is neither a path there"):
            TwinFlowPipeline.from_pretrained(output, local_files_only=True)
    finally:
        config.save(output)


def test_a_relative_path_is_relative_to_the_result(trained, style, tmp_path, monkeypatch):
    monkeypatch.chdir(style.parent)
    shutil.copytree(style, tmp_path / "moved" / "style")
    shutil.copytree(trained[1], tmp_path / "moved" / "out")
    lora = BaseLora.parse(f"{style.name}:0.5").seen_from(style / "out")
    assert str(lora) == "..:0.5"
    config = TwinFlowRepositoryConfig.load(tmp_path / "moved" / "out")
    replace(config, base_loras=["../style:0.5"]).save(tmp_path / "moved" / "out")
    expected = image_of(TwinFlowPipeline.from_pretrained(trained[1]))
    moved = TwinFlowPipeline.from_pretrained(tmp_path / "moved" / "out")
    torch.testing.assert_close(image_of(moved), expected)
    assert moved.twinflow_config.base_loras == [f"{(tmp_path / 'moved' / 'style').resolve()}:0.5"]


def test_a_pipeline_without_the_lora_is_warned_of(trained, base_dir, style, caplog):
    pipeline = load_stock_pipeline(FAMILY, base_dir)
    load_twinflow_lora(pipeline, trained[1])
    assert "was trained on its base with" in caplog.text and "merge_base_loras" in caplog.text
    caplog.clear()
    pipeline = load_stock_pipeline(FAMILY, base_dir)
    merge_base_loras(pipeline, [f"{style}:0.5"])
    load_twinflow_lora(pipeline, trained[1])
    assert "was trained on its base" not in caplog.text


def test_pushing_needs_a_hub_id(trained):
    with pytest.raises(TwinFlowConfigError, match="in the base, which exists only on this machine"):
        check_pushable(trained[1], base_model="me/base")


def test_an_export_names_the_lora(trained, tmp_path, style):
    export(trained[1], tmp_path / "lora")
    assert (
        f"load these LoRAs and fuse them into the base: {style}:0.5" in (tmp_path / "lora" / "README.md").read_text()
    )
    export(trained[1], tmp_path / "merged", "merged")
    assert "fuse them" not in (tmp_path / "merged" / "README.md").read_text()
    expected = image_of(TwinFlowPipeline.from_pretrained(trained[1]))
    exported = load_stock_pipeline(FAMILY, tmp_path / "merged")
    assert image_of(exported, guidance_scale=0.0).shape == expected.shape


@pytest.mark.parametrize(
    ("text", "lora"),
    [
        ("me/style", BaseLora("me/style")),
        ("me/style:0.8", BaseLora("me/style", scale=0.8)),
        ("me/style@main:-1e-1", BaseLora("me/style", "main", -0.1)),
        ("me/style/loras/a.safetensors", BaseLora("me/style/loras/a.safetensors")),
        ("C:\\loras\\style", BaseLora("C:\\loras\\style")),
    ],
)
def test_texts(text, lora):
    assert BaseLora.parse(text) == lora and BaseLora.parse(str(lora)) == lora


def arguments_with(base_dir, **changes):
    return TrainingArguments(str(base_dir), instance_data_dir="images", **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_loras": [""]}, "base_loras='' is not valid"),
        ({"base_loras": ["me/style:0"]}, "a scale other than 0"),
        ({"base_loras": ["no such"]}, "'no such' is neither a directory nor a Hub id"),
        ({"base_loras": ["STYLE"], "quantize_base": "torchao_int8"}, "cannot be merged into a quantized base"),
        ({"base_loras": ["EMPTY"]}, "has no pytorch_lora_weights.safetensors. Name the LoRA's file"),
        ({"base_loras": ["EMPTY/other.safetensors"]}, "has no LoRA weights"),
        ({"base_loras": ["EMPTY/lora.bin"]}, "is not a .safetensors file"),
        ({"base_loras": ["TRAINED"]}, "is a TwinFlow LoRA, whose target times would be lost"),
        (
            {"base_loras": ["STYLE"], "push_to_hub": True, "hub_model_id": "me/a", "hub_base_model": "me/b"},
            "Push it first",
        ),
    ],
)
def test_bad_loras_are_refused_before_anything_is_loaded(base_dir, style, trained, tmp_path, changes, message):
    save_file({"weight": torch.ones(1)}, tmp_path / "other.safetensors")
    (tmp_path / "lora.bin").write_bytes(b"")
    places = {"STYLE": style, "EMPTY": tmp_path, "TRAINED": trained[1]}
    loras = changes["base_loras"]
    for name, path in places.items():
        loras = [lora.replace(name, str(path)) for lora in loras]
    method = TwinFlow(TwinFlowConfig(twinflow_enabled=True))
    with pytest.raises(TwinFlowConfigError, match=message):
        Trainer(None, arguments_with(base_dir, **changes | {"base_loras": loras}), method)


def test_a_lora_for_another_model_is_refused(base_dir, style, tmp_path):
    weights = {
        "transformer.no_such_layer.lora_A.weight": torch.ones(2, 4),
        "transformer.no_such_layer.lora_B.weight": torch.ones(4, 2),
    }
    save_file(weights, tmp_path / "pytorch_lora_weights.safetensors")
    pipeline = load_stock_pipeline(FAMILY, base_dir)
    before = {name: weight.clone() for name, weight in pipeline.transformer.state_dict().items()}
    with pytest.raises(TwinFlowConfigError, match="Give a LoRA for this base"):
        merge_base_loras(pipeline, [str(tmp_path)])
    assert all(torch.equal(before[name], weight) for name, weight in pipeline.transformer.state_dict().items())


@pytest.mark.parametrize("value", ["me/style", [1], [""]])
def test_a_damaged_configuration_is_refused(trained, tmp_path, value):
    values = json.loads((trained[1] / "twinflow_config.json").read_text())
    (tmp_path / "twinflow_config.json").write_text(json.dumps(values | {"base_loras": value}))
    with pytest.raises(TwinFlowConfigError, match="base_loras"):
        TwinFlowRepositoryConfig.load(tmp_path)
