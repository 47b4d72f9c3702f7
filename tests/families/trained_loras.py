"""Tiny LoRAs of every family whose time conditioning changes the images."""

import torch
from peft import LoraConfig

from diffusers_twinflow import TwinFlowScheduler, enable_twinflow
from diffusers_twinflow.hub import TwinFlowRepositoryConfig, save_twinflow_lora


def write(case, directory, **scheduler_options):
    """A trained LoRA of the case's pipeline in `directory`, the base beside it."""
    directory.mkdir()
    pipeline = case.build()
    pipeline.save_pretrained(directory / "base")
    model = case.family.denoiser(pipeline)
    config = LoraConfig(
        r=2, lora_alpha=4, target_modules=case.family.lora_targets(model)[:4], init_lora_weights="gaussian"
    )
    enable_twinflow(model)
    model.add_adapter(config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "target_timestep_embedder.linear_2" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    saved = TwinFlowRepositoryConfig("lora", case.family_name, "base", num_inference_steps=2)
    scheduler = TwinFlowScheduler.from_config(pipeline.scheduler.config, shift=1.0, **scheduler_options)
    save_twinflow_lora(directory, model, saved, scheduler)
    return scheduler
