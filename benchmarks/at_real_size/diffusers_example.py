"""Ordinary flow-matching LoRA training with the arithmetic of diffusers' own example for Stable Diffusion 3.

That is `examples/dreambooth/train_dreambooth_lora_sd3.py` with its defaults and `--mixed_precision bf16`: adapters in
bfloat16 on the attention projections, logit-normal times among the scheduler's 1000, preconditioned outputs, AdamW, and
gradients clipped to norm 1. Latents and prompts are encoded before, as with `--cache_latents`.
"""

import torch
from accelerate import Accelerator
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.models.modeling_utils import ModelMixin
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3
from peft import LoraConfig

from .models import RealModel

TARGET_MODULES = [
    "attn.add_k_proj",
    "attn.add_q_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
    "attn.to_k",
    "attn.to_out.0",
    "attn.to_q",
    "attn.to_v",
]


class ExampleTraining:
    """
    Args:
        transformer: the frozen base, in bfloat16.
    """

    def __init__(
        self,
        model: RealModel,
        transformer: ModelMixin,
        latents: torch.Tensor,
        *,
        rank: int,
        gradient_checkpointing: bool,
    ):
        self.accelerator = Accelerator(mixed_precision="bf16")
        if gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        transformer.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGET_MODULES)
        )
        self.parameters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4, eps=1e-8)
        self.transformer, self.optimizer = self.accelerator.prepare(transformer.train(), optimizer)
        scheduler = FlowMatchEulerDiscreteScheduler(**model.scheduler)
        self.timesteps, self.sigmas = scheduler.timesteps, scheduler.sigmas
        self.latents = latents.to(torch.bfloat16)
        self.condition = model.condition(len(latents), latents.device, torch.bfloat16)

    @property
    def trained_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters)

    def step(self) -> float:
        loss = self.loss()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach().item()

    def loss(self) -> torch.Tensor:
        latents = self.latents
        noise = torch.randn_like(latents)
        u = compute_density_for_timestep_sampling("logit_normal", len(latents), logit_mean=0.0, logit_std=1.0)
        indices = (u * len(self.timesteps)).long()
        timesteps = self.timesteps[indices].to(latents.device)
        sigmas = self.sigmas[indices].to(latents).view(-1, 1, 1, 1)
        noisy = (1.0 - sigmas) * latents + sigmas * noise
        velocity = self.transformer(
            hidden_states=noisy,
            timestep=timesteps,
            encoder_hidden_states=self.condition["prompt_embeds"],
            pooled_projections=self.condition["pooled_prompt_embeds"],
            return_dict=False,
        )[0]
        prediction = noisy - velocity * sigmas
        weight = compute_loss_weighting_for_sd3("logit_normal", sigmas=sigmas).float()
        error = (prediction.float() - latents.float()) ** 2
        return (weight * error).flatten(1).mean(1).mean()

    def close(self) -> None:
        """Release the model from accelerate."""
        self.accelerator.free_memory()
        del self.transformer, self.optimizer
