"""The trainer takes exactly the steps of a straight-line loop, bit for bit."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from accelerate.utils import set_seed
from peft import LoraConfig

from diffusers_twinflow import TwinFlowConfig, enable_twinflow
from diffusers_twinflow.data.batches import LatentBatches
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.methods import FlowMatching, Method, Networks, TwinFlow
from diffusers_twinflow.methods.merged_passes import MergedPasses
from diffusers_twinflow.models.merged_lora import MergedLora
from diffusers_twinflow.training import Trainer, TrainingArguments
from diffusers_twinflow.training.callbacks import CheckpointCallback
from tests.tiny import sd3_condition, sd3_transformer
from tests.training.encoded import BATCH, LATENT_SHAPE, InOrder

FAMILY = FAMILIES["stable_diffusion_3"]
STEPS, SEED, LEARNING_RATE, RANK = 4, 7, 1e-2, 2
EMPTY = sd3_condition(1, seed=9)
FULL = TwinFlowConfig(twinflow_enabled=True, twinflow_adversarial_enabled=True)


def straight_line(method: Method, train_type: str, is_merged: bool) -> tuple[dict[str, torch.Tensor], dict]:
    """Train with nothing but torch and the method. Returns the parameters of the model, and the teacher's state."""
    transformer = sd3_transformer().requires_grad_(False)
    set_seed(SEED)
    copy = None
    if method.config.twinflow_enabled:
        enable_twinflow(transformer)
    if train_type == "lora":
        lora = LoraConfig(
            r=RANK,
            lora_alpha=RANK,
            init_lora_weights="gaussian",
            target_modules=FAMILY.lora_targets(transformer),
        )
        transformer.add_adapter(lora)
        if method.config.twinflow_enabled:
            transformer.time_conditioning.requires_grad_(True)
        method.add_teacher(transformer, lora)
    else:
        transformer.requires_grad_(True)
        copy = method.copy_for_teacher(transformer)
    transformer.train()
    trainable = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    velocity = FAMILY.velocity(transformer)
    teacher = method.build_teacher(transformer, FAMILY.velocity, copy)
    networks = Networks(velocity, velocity, teacher, unconditional=EMPTY if method.needs_unconditional else None)
    merged = MergedLora(transformer) if is_merged else None
    if merged is not None:
        networks = MergedPasses(transformer, merged, networks).networks
    batches = list(InOrder())
    for step in range(STEPS):
        if teacher is not None:
            teacher.update()
        batch = batches[step % len(batches)]
        positions = range(step * BATCH, (step + 1) * BATCH)
        draw = method.draw(positions, LATENT_SHAPE, seed=SEED, device="cpu")
        with merged.used() if merged is not None else nullcontext():
            method.loss(batch["latents"], batch["condition"], draw, networks).loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return dict(transformer.named_parameters()), {} if teacher is None else teacher.state_dict()


def by_trainer(
    method: Method, train_type: str, is_merged: bool, base: str, out: str, stops
) -> tuple[dict[str, torch.Tensor], dict]:
    """Train with the trainer, in one run that ends and is resumed at each of `stops` but the last."""
    arguments = TrainingArguments(
        base,
        output_dir=out,
        train_type=train_type,
        train_batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        rank=RANK,
        seed=SEED,
        checkpointing_steps=1,
        merged_lora_gigabytes=None if is_merged else 0.0,
    )
    for steps in stops:
        data = LatentBatches(InOrder(), seed=SEED, batch_size=BATCH, empty_condition=EMPTY)
        options = replace(arguments, max_train_steps=steps)
        trainer = Trainer(sd3_transformer(), options, method, data, callbacks=[CheckpointCallback()])
        trainer.train("latest" if steps != stops[0] else None)
    return dict(trainer.transformer.named_parameters()), (
        {} if trainer.teacher is None else trainer.teacher.state_dict()
    )


CASES = {
    "lora": (TwinFlow(FULL), "lora", False),
    "lora-on-merged-weights": (TwinFlow(FULL), "lora", True),
    "full": (TwinFlow(FULL), "full", False),
    "image-free": (TwinFlow(replace(FULL, twinflow_image_free=True)), "lora", False),
    "flow-matching": (FlowMatching(), "lora", False),
    "flow-matching-full": (FlowMatching(), "full", False),
}


@pytest.mark.parametrize(
    "stops",
    [pytest.param((STEPS,), id="at-once", marks=pytest.mark.slow), pytest.param((2, STEPS), id="resumed")],
)
@pytest.mark.parametrize("name", CASES)
def test_the_weights_are_those_of_a_straight_line_loop(name, stops, base_dir, tmp_path):
    method, train_type, is_merged = CASES[name]
    weights, teacher = straight_line(method, train_type, is_merged)
    found, found_teacher = by_trainer(method, train_type, is_merged, str(base_dir), str(tmp_path / "out"), stops)
    assert found.keys() == weights.keys()
    assert [key for key in weights if not torch.equal(found[key], weights[key])] == []
    assert found_teacher.keys() == teacher.keys()
    if teacher:
        assert found_teacher["decay"] == teacher["decay"]
        assert all(torch.equal(found_teacher["weights"][key], value) for key, value in teacher["weights"].items())
    start = dict(sd3_transformer().named_parameters())
    moved = [key for key, value in weights.items() if value.requires_grad and value.any()]
    assert len(moved) > 10 and any(key not in start or not torch.equal(start[key], weights[key]) for key in moved)
