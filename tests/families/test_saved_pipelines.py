"""`save_pretrained` of pipelines with TwinFlow weights: stock diffusers and TwinFlowPipeline load what it writes."""

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file

from diffusers_twinflow import TwinFlowPipeline, enable_twinflow, load_twinflow_lora, save_twinflow_lora
from diffusers_twinflow.hub import TwinFlowRepositoryConfig, save_twinflow_model
from diffusers_twinflow.hub.files import CONDITIONING_NAME
from diffusers_twinflow.hub.stock_pipelines import load_stock_pipeline
from diffusers_twinflow.models.adapter_layers import has_adapters
from diffusers_twinflow.models.conditioning_file import split_unfolded
from diffusers_twinflow.models.merged_copy import merged_copy
from diffusers_twinflow.schedulers import TwinFlowScheduler
from tests.families.kit import CASES

NAMES = ("stable_diffusion_3", "flux schnell", "stable_diffusion")
BY_ID = {case.id: case for case in CASES}
STEPS = 2
ADAPTER = "twinflow"
STOCK_PROGRAM = """
import json, sys
sys.modules["diffusers_twinflow"] = None
from pathlib import Path
from safetensors.torch import save_file
from diffusers import DiffusionPipeline
from diffusers.utils import logging

logging.disable_progress_bar()
for directory, options in json.loads(sys.argv[1]).items():
    pipeline = DiffusionPipeline.from_pretrained(directory, **options)
    denoiser = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
    tensors = {name: tensor.contiguous() for name, tensor in denoiser.state_dict().items()}
    save_file(tensors, f"{directory}.safetensors")
    print(json.dumps([type(pipeline).__name__, type(denoiser).__name__, type(pipeline.scheduler).__module__]))
"""


def train(model) -> None:
    """Give the time conditioning values that change images."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        model.time_conditioning.time_sign_embed.weight[1].normal_(generator=generator)
        model.time_conditioning.target_timestep_embedder.linear_2.weight.normal_(generator=generator)


def write_lora(case, directory):
    """A base and a LoRA with time conditioning for it, in two folders."""
    base, repository = directory / "base", directory / "lora"
    case.pipeline.save_pretrained(base)
    model = copy.deepcopy(case.family.denoiser(case.pipeline))
    enable_twinflow(model)
    train(model)
    torch.manual_seed(4)
    targets = case.family.lora_targets(model)
    model.add_adapter(LoraConfig(r=2, lora_alpha=6, target_modules=targets, init_lora_weights=False))
    repository.mkdir()
    config = TwinFlowRepositoryConfig("lora", case.family_name, str(base), num_inference_steps=STEPS)
    save_twinflow_lora(repository, model, config, TwinFlowScheduler.from_config(case.pipeline.scheduler.config))
    return base, repository


@pytest.fixture(scope="module", params=[NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])])
def lora(request, tmp_path_factory):
    """A case, a folder with its base and a LoRA with time conditioning for it."""
    case = BY_ID[request.param]
    return case, *write_lora(case, tmp_path_factory.mktemp("saved"))


def draw(case, pipeline, **options):
    pipeline.set_progress_bar_config(disable=True)
    options = case.family.size_options(case.resolution) | case.call | options
    return pipeline("a", generator=torch.Generator().manual_seed(0), output_type="pt", **options)[0]


def few_steps(case) -> dict:
    """What a stock call needs for the images of the TwinFlow pipeline."""
    return {"num_inference_steps": STEPS, **case.family.guidance_off}


def snapshot(pipeline) -> dict[str, torch.Tensor]:
    model = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(before, after):
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def stock_weights(case, pipeline) -> dict[str, torch.Tensor]:
    """The weights that the stock class needs for the model as it is now."""
    tensors = merged_copy(case.family.denoiser(pipeline)).state_dict()
    return {name: tensor.clone() for name, tensor in tensors.items() if not name.startswith("time_conditioning.")}


def unfolded(tensors, folder) -> dict[str, torch.Tensor]:
    """The weights that a stock model has in a folder, without the target time that its timestep embedder carries."""
    own = split_unfolded(load_file(folder / CONDITIONING_NAME))[1]
    assert own and not any(torch.equal(tensors[name], weight) for name, weight in own.items())
    return tensors | own


def unfused(pipeline):
    pass


def fused(pipeline):
    pipeline.fuse_lora(adapter_names=[ADAPTER], components=pipeline._lora_loadable_modules[:1])


def fused_and_unloaded(pipeline):
    fused(pipeline)
    pipeline.unload_lora_weights()


STATES = [unfused, fused, fused_and_unloaded]


def check(case, pipeline, save, directory):
    """Saving changes nothing in memory, and TwinFlowPipeline draws from the directory what the pipeline draws."""
    is_stock = not isinstance(pipeline, TwinFlowPipeline)
    options = few_steps(case) if is_stock else {}
    image, before, cls = draw(case, pipeline, **options), snapshot(pipeline), type(pipeline)
    config = dict(case.family.denoiser(pipeline).config)
    weights = stock_weights(case, pipeline)
    save(directory)
    assert_same(before, snapshot(pipeline))
    assert type(pipeline) is cls and dict(case.family.denoiser(pipeline).config) == config
    assert torch.equal(draw(case, pipeline, **options), image)
    folder = directory / case.family.component_name
    assert_same(weights, unfolded(load_file(folder / "diffusion_pytorch_model.safetensors"), folder))
    assert (
        json.loads((folder / "config.json").read_text())["_class_name"]
        == case.family.transformer_class.stock_class().__name__
    )
    loaded = TwinFlowPipeline.from_pretrained(directory)
    assert not has_adapters(case.family.denoiser(loaded))
    torch.testing.assert_close(draw(case, loaded), image, atol=2e-4, rtol=1e-3)
    return loaded, image


@pytest.mark.parametrize("state", STATES)
def test_a_twinflow_pipeline(lora, tmp_path, state):
    case, base, repository = lora
    pipeline = TwinFlowPipeline.from_pretrained(repository)
    state(pipeline)
    assert not torch.allclose(
        draw(case, pipeline), draw(case, load_stock_pipeline(case.family, base), **few_steps(case)), atol=0.01
    )
    loaded, image = check(case, pipeline, pipeline.save_pretrained, tmp_path / "saved")
    again, _ = check(case, loaded, loaded.save_pretrained, tmp_path / "again")
    assert torch.equal(draw(case, again), draw(case, loaded))
    assert loaded.twinflow_config.train_type == "full" and loaded.twinflow_config.num_inference_steps == STEPS
    assert os.path.samefile(loaded.twinflow_config.base_model, base)


@pytest.mark.parametrize("state", STATES)
def test_a_stock_pipeline_with_a_lora(lora, tmp_path, state):
    case, base, repository = lora
    pipeline = load_stock_pipeline(case.family, base)
    load_twinflow_lora(pipeline, repository)
    state(pipeline)
    check(case, pipeline, pipeline.save_pretrained, tmp_path / "saved")


def test_save_twinflow_model_of_a_lora_that_is_not_fused(lora, tmp_path):
    case, base, repository = lora
    pipeline = TwinFlowPipeline.from_pretrained(repository)
    config = pipeline.twinflow_config
    check(case, pipeline, lambda folder: save_twinflow_model(folder, pipeline, config), tmp_path / "saved")


def test_a_style_lora_is_saved_at_its_weight(lora, tmp_path):
    case, base, repository = lora
    pipeline = TwinFlowPipeline.from_pretrained(repository)
    model = case.family.denoiser(pipeline)
    torch.manual_seed(5)
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), adapter_name="style")
    model.set_adapters([ADAPTER, "style"], [1.0, 0.3])
    check(case, pipeline, pipeline.save_pretrained, tmp_path / "on")
    model.set_adapters([ADAPTER], [1.0])
    check(case, pipeline, pipeline.save_pretrained, tmp_path / "off")


def test_a_style_lora_of_a_text_encoder_is_saved_too(lora, tmp_path):
    case, base, repository = lora
    pipeline = TwinFlowPipeline.from_pretrained(repository)
    torch.manual_seed(6)
    style = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    inject_adapter_in_model(style, pipeline.text_encoder, adapter_name="style")
    loaded, _ = check(case, pipeline, pipeline.save_pretrained, tmp_path)
    assert has_adapters(pipeline.text_encoder) and not has_adapters(loaded.text_encoder)


@pytest.mark.parametrize("unload", ["unload_lora_weights", "delete_adapters"])
def test_a_stock_pipeline_without_lora_methods(tmp_path, unload):
    """PixArt-Sigma's pipeline and transformer load no LoRA in stock diffusers."""
    case = BY_ID["pixart_sigma"]
    base, repository = write_lora(case, tmp_path)
    pipeline = load_stock_pipeline(case.family, base)
    before, cls, scheduler = snapshot(pipeline), type(pipeline), pipeline.scheduler
    load_twinflow_lora(pipeline, repository)
    check(case, pipeline, pipeline.save_pretrained, tmp_path / "saved")
    getattr(pipeline, unload)(*([ADAPTER] if unload == "delete_adapters" else []))
    assert type(pipeline) is cls and pipeline.scheduler is scheduler
    assert type(pipeline.transformer) is case.family.transformer_class.stock_class()
    assert_same(before, snapshot(pipeline))


def test_a_pipeline_whose_transformer_was_enabled(lora, tmp_path):
    """The stock pipeline knows nothing of TwinFlow, and TwinFlowPipeline finds the time conditioning all the same."""
    case, base, _ = lora
    pipeline = load_stock_pipeline(case.family, base)
    model = case.family.denoiser(pipeline)
    enable_twinflow(model)
    train(model)
    before = snapshot(pipeline)
    pipeline.save_pretrained(tmp_path)
    assert_same(before, snapshot(pipeline))
    assert (tmp_path / case.family.component_name / CONDITIONING_NAME).is_file()
    stock = type(pipeline).from_pretrained(tmp_path, **absent_of(tmp_path))
    assert type(case.family.denoiser(stock)) is case.family.transformer_class.stock_class()
    assert_same(snapshot(load_stock_pipeline(case.family, base)), snapshot(stock))
    loaded = TwinFlowPipeline.from_pretrained(tmp_path)
    assert_same(before, snapshot(loaded))
    assert isinstance(loaded.scheduler, TwinFlowScheduler)
    image = draw(case, loaded, num_inference_steps=STEPS)

    for folder in ("scheduler", "components"):
        pipeline.scheduler = loaded.scheduler
        if folder == "components":
            pipeline = type(pipeline)(**pipeline.components)
        pipeline.save_pretrained(tmp_path / folder)
        again = TwinFlowPipeline.from_pretrained(tmp_path / folder)
        assert torch.equal(draw(case, again, num_inference_steps=STEPS), image)


def test_a_stock_pipeline_is_no_twinflow_pipeline(lora, tmp_path):
    case, base, _ = lora
    with pytest.raises(ValueError, match="no twinflow_config.json"):
        TwinFlowPipeline.from_pretrained(base)


def absent_of(directory) -> dict[str, None]:
    index = json.loads((directory / "model_index.json").read_text())
    return {name: None for name, component in index.items() if component == [None, None]}


@pytest.mark.slow
def test_stock_diffusers_loads_all_of_them_in_a_fresh_process(lora, tmp_path):
    case, base, repository = lora
    saved = {}
    for state in STATES:
        for cls in (TwinFlowPipeline, DiffusionPipeline):
            pipeline = TwinFlowPipeline.from_pretrained(repository)
            if cls is DiffusionPipeline:
                pipeline = load_stock_pipeline(case.family, base)
                load_twinflow_lora(pipeline, repository)
            state(pipeline)
            saved[tmp_path / f"{cls.__name__} {state.__name__}"] = pipeline
    saved[tmp_path / "enabled"] = enabled = load_stock_pipeline(case.family, base)
    enable_twinflow(case.family.denoiser(enabled))
    expected = {directory: stock_weights(case, pipeline) for directory, pipeline in saved.items()}
    for directory, pipeline in saved.items():
        pipeline.save_pretrained(directory)
    options = {str(directory): absent_of(directory) for directory in saved}
    command = [sys.executable, "-W", "ignore", "-c", STOCK_PROGRAM, json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for word in ("initialized", "not used", "twinflow", "lora", "base_layer"):
        assert word not in done.stderr, done.stderr
    classes = [json.loads(line) for line in done.stdout.splitlines()]
    names = (case.family.pipeline_class.__name__, case.family.transformer_class.stock_class().__name__)
    assert all(tuple(found[:2]) == names and found[2].startswith("diffusers.") for found in classes), classes
    for directory, tensors in expected.items():
        loaded = load_file(f"{directory}.safetensors")
        is_distilled = directory.name != "enabled"
        assert_same(tensors, unfolded(loaded, directory / case.family.component_name) if is_distilled else loaded)
