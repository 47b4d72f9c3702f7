"""A saved whole model generates the same images in stock diffusers and in ours, which finds its time conditioning."""

import pytest
import torch
from diffusers import DiffusionPipeline, SD3Transformer2DModel
from safetensors.torch import load_file, save_file

from diffusers_twinflow import TwinFlowPipeline, TwinFlowScheduler
from diffusers_twinflow.hub.files import CONDITIONING_NAME
from diffusers_twinflow.hub.portable import Portable
from tests.hub.repositories import write_model, write_repository

ABSENT = {"text_encoder_3": None, "tokenizer_3": None}


def draw(pipeline, steps):
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": steps, "guidance_scale": 0.0, "height": 16, "width": 16, "output_type": "latent"}
    generator = torch.Generator().manual_seed(0)
    return pipeline("a", max_sequence_length=2, generator=generator, **options).images


def check(directory, expected):
    ours = TwinFlowPipeline.from_pretrained(directory, **ABSENT)
    stock = DiffusionPipeline.from_pretrained(directory, **ABSENT)
    assert type(stock.transformer) is SD3Transformer2DModel
    stock.scheduler = TwinFlowScheduler.from_config(ours.scheduler.config)
    assert Portable.from_dict(ours.twinflow_config.portable).layers
    for steps, latents in expected.items():
        assert torch.equal(draw(ours, steps), latents)
        torch.testing.assert_close(draw(stock, steps), latents, rtol=0, atol=1e-4)


@pytest.fixture
def model(tmp_path, base_dir):
    write_model(tmp_path / "model", base_dir)
    return tmp_path / "model"


def test_a_model_draws_the_same_images_in_stock_diffusers(model):
    ours = TwinFlowPipeline.from_pretrained(model, **ABSENT)
    check(model, {steps: draw(ours, steps) for steps in (1, 2, 4)})


def test_saved_again_it_is_the_same(model, tmp_path):
    ours = TwinFlowPipeline.from_pretrained(model, **ABSENT)
    expected = {2: draw(ours, 2)}
    ours.save_pretrained(tmp_path / "again")
    assert torch.equal(draw(ours, 2), expected[2])
    check(tmp_path / "again", expected)
    first, second = (load_file(path / "transformer" / CONDITIONING_NAME) for path in (model, tmp_path / "again"))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_lora_saved_as_a_whole_model_is_exact_too(tmp_path, base_dir):
    write_repository(tmp_path / "lora", str(base_dir))
    ours = TwinFlowPipeline.from_pretrained(tmp_path / "lora")
    expected = {steps: draw(ours, steps) for steps in (1, 2)}
    ours.save_pretrained(tmp_path / "model")
    stock = DiffusionPipeline.from_pretrained(tmp_path / "model", **ABSENT)
    stock.scheduler = TwinFlowScheduler.from_config(ours.scheduler.config)
    for steps, latents in expected.items():
        torch.testing.assert_close(draw(stock, steps), latents, rtol=0, atol=1e-4)


def test_a_file_that_names_other_weights_is_refused(model):
    path = model / "transformer" / CONDITIONING_NAME
    tensors = load_file(path)
    tensors["unfolded.proj_out.weight"] = torch.zeros(1)
    save_file(tensors, path)
    with pytest.raises(Exception, match="'proj_out.weight', which does not fit"):
        TwinFlowPipeline.from_pretrained(model, **ABSENT)
