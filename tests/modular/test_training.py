"""Training modular pipelines, whose blocks run behind the interface of a stock pipeline."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import ModularPipeline

from diffusers_twinflow import TwinFlowConfig, TwinFlowConfigError, TwinFlowPipeline, load_twinflow_lora
from diffusers_twinflow.families import FAMILIES, blocks_pipeline
from diffusers_twinflow.hub.base_loading import load_base
from diffusers_twinflow.hub.files import modular_index_at
from diffusers_twinflow.hub.pushable import check_pushable
from diffusers_twinflow.methods import TwinFlow
from diffusers_twinflow.training import Trainer, TrainingArguments
from tests.fresh_accelerator import fresh_accelerator
from tests.modular import tiny

PROMPTS = ["a", "a picture with many more words than the other one has"]
IMAGE_FREE = {"twinflow_image_free": True, "twinflow_adversarial_enabled": True}
CLOSE = {"rtol": 0, "atol": 1e-5}
CALL = {"prompt": "a fox", "height": 32, "width": 32, "output_type": "pt"}


def arguments_for(folder: Path, **options) -> TrainingArguments:
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    data = {} if "instance_data_dir" in options else {"prompts_file": str(folder / "prompts.txt")}
    return TrainingArguments(
        **{"pretrained_model_name_or_path": str(folder / "base"), "train_batch_size": 2} | options,
        output_dir=str(folder / "out"),
        resolution=32,
        max_train_steps=2,
        learning_rate=3e-2,
        rank=2,
        save_ema=False,
        validation_prompts=["a"],
        num_validation_images=1,
        validation_base_steps=2,
        validation_step_counts=[1],
        **data,
    )


def trained(model, arguments: TrainingArguments, **options) -> None:
    with fresh_accelerator():
        trainer = Trainer(model, arguments, TwinFlow(TwinFlowConfig(twinflow_enabled=True, **options)))
        trainer.train()
    assert not trainer.problems


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base and a LoRA of it that was trained with prompts alone."""
    folder = tmp_path_factory.mktemp("modular")
    tiny.anima().save_pretrained(str(folder / "base"), overwrite_modular_index=True)
    assert not (folder / "base" / "model_index.json").exists()
    trained(None, arguments_for(folder), **IMAGE_FREE)
    return folder


@torch.no_grad()
def latents_of(modular, **options):
    """The samples of a modular pipeline for one step."""
    drawn = modular(**CALL, **options, num_inference_steps=1, generator=torch.Generator().manual_seed(0))
    assert drawn.get("images").shape == (1, 3, 32, 32)
    return drawn.get("latents")


def test_a_lora_draws_without_guidance(folder):
    pipeline = TwinFlowPipeline.from_pretrained(folder / "out", merge=False)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.twinflow_config.family == "AnimaModularPipeline"
    calls = []
    pipeline.transformer.register_forward_pre_hook(lambda *args: calls.append(args))
    image = pipeline(**CALL).images
    assert image.shape == (1, 3, 32, 32) and image.isfinite().all()
    assert len(calls) == pipeline.twinflow_config.num_inference_steps


def test_a_modular_pipeline_draws_with_the_lora(folder):
    ours = TwinFlowPipeline.from_pretrained(folder / "out")
    pipeline = blocks_pipeline(tiny.anima())
    before = latents_of(pipeline.to_modular())
    load_twinflow_lora(pipeline, folder / "out")
    pipeline.guider.disable()
    after = latents_of(pipeline.to_modular())
    assert (before - after).abs().max() > 0.1
    torch.testing.assert_close(after, latents_of(ours.to_modular()), **CLOSE)
    assert torch.equal(ours(**CALL, generator=torch.Generator().manual_seed(0)).images, drawn_by(ours.to_modular()))


def drawn_by(modular):
    return modular(**CALL, num_inference_steps=1, generator=torch.Generator().manual_seed(0)).get("images")


def test_a_stock_modular_pipeline_loads_the_lora(folder):
    stock = tiny.anima()
    before = latents_of(stock)
    stock.load_lora_weights(str(folder / "out"))
    assert (before - latents_of(stock)).abs().max() > 0.1


def test_a_component_is_loaded_from_where_the_index_says(folder, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(folder / "base", base)
    (base / "vae").rename(tmp_path / "vae")
    index = json.loads((base / "modular_model_index.json").read_text())
    index["vae"][2] |= {"pretrained_model_name_or_path": str(tmp_path), "subfolder": "vae"}
    (base / "modular_model_index.json").write_text(json.dumps(index))
    pipeline = load_base(FAMILIES["AnimaModularPipeline"], str(base), use_safetensors=True)
    expected = tiny.anima().vae.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in pipeline.vae.state_dict().items())


def test_a_component_of_another_library_is_refused(folder, tmp_path):
    index = json.loads((folder / "base" / "modular_model_index.json").read_text())
    index["vae"][:2], index["vae"][2]["type_hint"] = ["os", "system"], ["os", "system"]
    (tmp_path / "modular_model_index.json").write_text(json.dumps(index))
    with pytest.raises(TwinFlowConfigError, match="has vae=.*it must be a model, scheduler, tokenizer or processor"):
        load_base(FAMILIES["AnimaModularPipeline"], str(tmp_path))


def test_the_code_of_the_model_card_loads_the_lora(folder, monkeypatch):
    monkeypatch.chdir(folder)
    code = next(each for each in codes((folder / "out" / "README.md").read_text()) if "load_twinflow_lora" in each)
    assert "AnimaModularPipeline" in (folder / "out" / "README.md").read_text()
    small = code.replace(".images[0]", ", height=32, width=32).images[0]").replace("), height", ", height")
    names = {"modular": tiny.anima()}
    exec(small, names)
    assert names["image"].size == (32, 32) and not names["pipe"].guider._enabled


def codes(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


@pytest.mark.slow
def test_a_lora_carries_the_target_time_into_a_stock_modular_pipeline(tmp_path, image_dir):
    (tmp_path / "base").mkdir()
    options = {"instance_data_dir": str(image_dir), "center_crop": True, "pretrained_model_name_or_path": "base"}
    trained(tiny.flux3(), arguments_for(tmp_path, **options), twinflow_enhanced_ratio=0)
    ours, stock = blocks_pipeline(tiny.flux3()), popped(tiny.flux3())
    load_twinflow_lora(ours, tmp_path / "out")
    ours.guider.disable()
    stock.guider.disable()
    stock.scheduler = ours.scheduler
    before = latents_of(stock)
    stock.load_lora_weights(str(tmp_path / "out"))
    after = latents_of(stock)
    assert (before - after).abs().max() > 1e-3
    torch.testing.assert_close(after, latents_of(ours.to_modular()), **CLOSE)


def popped(modular):
    """The pipeline without the block that rewrites prompts."""
    blocks = modular.blocks
    blocks.sub_blocks.pop("prompt_upsampler")
    pipeline = type(modular)(blocks)
    pipeline.register_components(**{name: modular.components[name] for name in pipeline.components})
    return pipeline


LONG = "a long prompt that has more tokens than fit into a window of eighty of them, since each letter is one"


@pytest.mark.slow
def test_prompts_of_different_lengths_one_at_a_time(tmp_path):
    """FLUX.3 passes the places of a prompt's tokens without a batch dimension."""
    (tmp_path / "base").mkdir()
    arguments = arguments_for(tmp_path, pretrained_model_name_or_path="base", train_batch_size=1)
    (tmp_path / "prompts.txt").write_text(f"{PROMPTS[0]}\n{LONG}")
    trained(tiny.flux3(), arguments, **IMAGE_FREE, twinflow_enhanced_ratio=0.5, twinflow_split_passes=True)
    assert (tmp_path / "out" / "pytorch_lora_weights.safetensors").is_file()


@pytest.mark.slow
def test_a_whole_model_of_images(folder, tmp_path, image_dir):
    arguments = arguments_for(tmp_path, instance_data_dir=str(image_dir), train_type="full", center_crop=True)
    trained(tiny.anima(), arguments)
    index = json.loads((tmp_path / "out" / "modular_model_index.json").read_text())
    assert index["transformer"][:2] == ["diffusers", "CosmosTransformer3DModel"]
    assert str(tmp_path) not in (tmp_path / "out" / "modular_model_index.json").read_text()
    pushed = json.loads(modular_index_at(tmp_path / "out", "me/anima"))
    assert {each[2]["pretrained_model_name_or_path"] for name, each in pushed.items() if name[0] != "_"} == {
        "me/anima"
    }
    assert latents_of(TwinFlowPipeline.from_pretrained(tmp_path / "out").to_modular()).isfinite().all()
    stock = ModularPipeline.from_pretrained(str(tmp_path / "out"))
    stock.load_components()
    assert type(stock.transformer).__name__ == "CosmosTransformer3DModel"
    assert latents_of(stock).isfinite().all()
    shutil.copytree(tmp_path / "out", tmp_path / "without")
    shutil.rmtree(tmp_path / "without" / "t5_tokenizer")
    with pytest.raises(TwinFlowConfigError, match="'t5_tokenizer' is missing"):
        TwinFlowPipeline.from_pretrained(tmp_path / "without")
    _, files = check_pushable(tmp_path / "out", base_model="someone/base")
    assert {"modular_model_index.json", "t5_tokenizer/tokenizer.json"} <= {*files}
