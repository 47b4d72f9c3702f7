"""Training a few-step model of stock classes, whose weights carry the target times of its steps."""

import pytest
import torch

from diffusers_twinflow import TwinFlowConfig, TwinFlowPipeline
from diffusers_twinflow.methods import TwinFlow
from diffusers_twinflow.pipelines import export
from diffusers_twinflow.training import Trainer, TrainingArguments
from tests.hub.repositories import write_repository

CALL = {"num_inference_steps": 2, "output_type": "pt", "height": 16, "width": 16}


@pytest.fixture(scope="module")
def few_step_model(base_dir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("few-step")
    write_repository(directory / "lora", str(base_dir))
    export(directory / "lora", directory / "model", "merged", step_counts=[1, 2])
    return directory / "model"


def image_of(pipeline, **options):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline("a", generator=torch.Generator().manual_seed(0), **CALL, **options).images


def test_a_trained_few_step_model_draws_the_images_of_the_run_when_it_is_loaded(few_step_model, image_dir, tmp_path):
    arguments = TrainingArguments(
        str(few_step_model),
        instance_data_dir=str(image_dir),
        output_dir=str(tmp_path / "out"),
        resolution=16,
        rank=2,
        learning_rate=1e-2,
        max_train_steps=2,
        save_ema=False,
    )
    config = TwinFlowConfig(twinflow_enabled=True, twinflow_enhanced_ratio=0.0, twinflow_target_step_count=2)
    trainer = Trainer(None, arguments, TwinFlow(config))
    trainer.train()
    loaded = TwinFlowPipeline.from_pretrained(tmp_path / "out", merge=False)
    assert loaded.twinflow_config.num_inference_steps == 2
    trainer.transformer.eval()
    trainer.pipeline.scheduler = loaded.scheduler
    expected = image_of(trainer.pipeline, guidance_scale=0.0)
    torch.testing.assert_close(image_of(loaded), expected)
    base = TwinFlowPipeline.from_pretrained(tmp_path / "out")
    base.unload_lora_weights()
    assert (image_of(base, guidance_scale=0.0) - expected).abs().max() > 1e-4
