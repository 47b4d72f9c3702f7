"""Tiny transformers to train, and the loss of a batch, for tests of the objective and of compiling it."""

import torch
from peft import LoraConfig

from diffusers_twinflow.configuration import TwinFlowConfig
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.methods import Networks, TwinFlow
from diffusers_twinflow.methods.teachers import add_teacher_adapter
from diffusers_twinflow.models import TwinFlowSD3Transformer2DModel
from tests import tiny

FAMILY = FAMILIES["stable_diffusion_3"]
FULL = {"twinflow_enabled": True, "twinflow_adversarial_enabled": True}
BATCH = 8


def student_transformer(**changes) -> TwinFlowSD3Transformer2DModel:
    """With a time conditioning that does something."""
    transformer = tiny.sd3_transformer(TwinFlowSD3Transformer2DModel, **changes)
    transformer.enable_twinflow()
    conditioning = transformer.time_conditioning
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (conditioning.time_sign_embed.weight[1], conditioning.target_timestep_embedder.linear_2.weight):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.5)
    return transformer


def lora_transformer(**changes) -> TwinFlowSD3Transformer2DModel:
    transformer = student_transformer(**changes)
    lora_config = LoraConfig(r=2, lora_alpha=2, target_modules=FAMILY.lora_target_modules, init_lora_weights=False)
    transformer.add_adapter(lora_config)
    transformer.time_conditioning.requires_grad_(True)
    add_teacher_adapter(transformer, lora_config)
    return transformer


def run(config: TwinFlowConfig, transformer, positions=range(BATCH), batch=BATCH, passes_of=None, seed=3):
    """The loss of one batch with its draw and latents, after an update of the teacher."""
    method = TwinFlow(config)
    draw = method.draw(list(positions), (4, 8, 8), seed=seed, passes_of=passes_of)
    networks = networks_of(method, transformer)
    networks.teacher.update()
    latents = torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    return method.loss(latents, tiny.sd3_condition(batch), draw, networks), draw, latents


def networks_of(method: TwinFlow, transformer) -> Networks:
    velocity = FAMILY.velocity(transformer)
    teacher = method.build_teacher(transformer, FAMILY.velocity)
    return Networks(velocity, velocity, teacher, unconditional=tiny.sd3_condition(1, seed=9))
