import pytest
import torch
from peft import LoraConfig

import tiny
from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.hub import TwinFlowRepositoryConfig, save_twinflow_lora
from diffusers_twinflow.models import TwinFlowSD3Transformer2DModel
from diffusers_twinflow.schedulers import TwinFlowScheduler

FAMILY = FAMILIES["stable_diffusion_3"]


def write_repository(directory, base_model: str):
    """A LoRA of rank 2 and alpha 6 on the tiny base, with time conditioning; returns the trained transformer."""
    transformer = tiny.sd3_transformer(TwinFlowSD3Transformer2DModel)
    transformer.enable_twinflow()
    with torch.no_grad():
        transformer.time_conditioning.time_sign_embed.weight[1].normal_()
        transformer.time_conditioning.target_timestep_embedder.linear_2.weight.normal_()
    targets = FAMILY.lora_target_modules
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=6, target_modules=targets, init_lora_weights=False))
    config = TwinFlowRepositoryConfig(
        train_type="lora",
        family=FAMILY.name,
        base_model=base_model,
        num_inference_steps=2,
        max_sequence_length=2,
        options=TwinFlowConfig(twinflow_enabled=True, twinflow_target_step_count=2).to_dict(),
        trained={"steps": 7, "arguments": {"learning_rate": 1e-3}, "versions": {"torch": "2"}},
    )
    directory.mkdir(parents=True, exist_ok=True)
    save_twinflow_lora(directory, transformer, config, TwinFlowScheduler())
    return transformer


@pytest.fixture
def repository(tmp_path, base_dir):
    directory = tmp_path / "repository"
    return directory, write_repository(directory, str(base_dir))


@pytest.fixture(scope="session")
def shared_repository(tmp_path_factory, base_dir):
    """As `repository`, for tests that only read it or copy it."""
    directory = tmp_path_factory.mktemp("shared") / "repository"
    write_repository(directory, str(base_dir))
    return directory


@pytest.fixture
def pipeline(base_dir):
    loaded = FAMILY.load(base_dir)
    loaded.set_progress_bar_config(disable=True)
    return loaded
