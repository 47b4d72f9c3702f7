"""Tiny TwinFlow repositories on the tiny base."""

import pytest
import torch
from peft import LoraConfig

from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.hub import TwinFlowRepositoryConfig, save_twinflow_lora, save_twinflow_model
from diffusers_twinflow.hub.stock_pipelines import load_stock_pipeline
from diffusers_twinflow.models import TwinFlowSD3Transformer2DModel, enable_twinflow
from diffusers_twinflow.schedulers import TwinFlowScheduler
from tests import tiny

FAMILY = FAMILIES["stable_diffusion_3"]


def repository_config(train_type: str, base_model: str) -> TwinFlowRepositoryConfig:
    return TwinFlowRepositoryConfig(
        train_type=train_type,
        family=FAMILY.name,
        base_model=base_model,
        num_inference_steps=2,
        max_sequence_length=2,
        options=TwinFlowConfig(twinflow_enabled=True, twinflow_target_step_count=2).to_dict(),
        trained={"steps": 7, "arguments": {"learning_rate": 1e-3}, "versions": {"torch": "2"}},
    )


def train_conditioning(transformer) -> None:
    """Give the time conditioning values that change pictures."""
    torch.manual_seed(1)
    with torch.no_grad():
        transformer.time_conditioning.time_sign_embed.weight[1].normal_()
        transformer.time_conditioning.target_timestep_embedder.linear_2.weight.normal_()


def write_repository(directory, base_model: str):
    """A LoRA of rank 2 and alpha 6 on the tiny base, with time conditioning; returns the trained transformer."""
    transformer = tiny.sd3_transformer(TwinFlowSD3Transformer2DModel)
    transformer.enable_twinflow()
    train_conditioning(transformer)
    targets = FAMILY.lora_target_modules
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=6, target_modules=targets, init_lora_weights=False))
    directory.mkdir(parents=True, exist_ok=True)
    save_twinflow_lora(directory, transformer, repository_config("lora", base_model), TwinFlowScheduler())
    return transformer


def write_model(directory, base_dir, base_model: str = "me/tiny-sd3") -> None:
    """A whole distilled model."""
    pipeline = load_stock_pipeline(FAMILY, base_dir)
    enable_twinflow(pipeline.transformer, FAMILY.transformer_class)
    train_conditioning(pipeline.transformer)
    directory.mkdir(parents=True, exist_ok=True)
    save_twinflow_model(directory, pipeline, repository_config("full", base_model))


@pytest.fixture(scope="session")
def adapter(tmp_path_factory, base_dir):
    """A tiny TwinFlow LoRA repository on the tiny base."""
    directory = tmp_path_factory.mktemp("adapter") / "lora"
    write_repository(directory, str(base_dir))
    return directory
