"""A step of a family whose velocity needs numbers of the condition on the CPU does not wait for the device."""

from dataclasses import replace

import pytest
import torch

from diffusers_twinflow import TwinFlowConfig, TwinFlowConfigError
from diffusers_twinflow.conditions import ON_HOST, concatenate, expand, send, take
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.families.stock_calls import READS_VALUES
from diffusers_twinflow.methods import TwinFlow
from diffusers_twinflow.training import Trainer, TrainingArguments
from diffusers_twinflow.training.cuda_graphs import check_recorded_family
from tests.families import kit, tiny_z_image
from tests.fresh_accelerator import fresh_accelerator
from tests.host_reads import no_host_reads
from tests.models.representatives import by_weight
from tests.models.stock import STOCK
from tests.models.stock.spec import run, stock_class
from tests.modular import tiny

LONG = "a long prompt that has more tokens than fit into a window of eighty of them, since each letter is one"
BATCH = 16


def trained(pipeline, folder, **options) -> Trainer:
    """A trainer after a step of batch 1, with prompts of different lengths."""
    (folder / "prompts.txt").write_text(f"a\n{LONG}")
    config = TwinFlowConfig(
        twinflow_enabled=True,
        twinflow_image_free=True,
        twinflow_adversarial_enabled=True,
        twinflow_split_passes=True,
    )
    arguments = TrainingArguments(
        "base",
        output_dir=str(folder / "out"),
        prompts_file=str(folder / "prompts.txt"),
        resolution=32,
        train_batch_size=1,
        max_train_steps=1,
        learning_rate=1e-2,
        rank=2,
        save_ema=False,
        merged_lora_gigabytes=0.0,
        **options,
    )
    with fresh_accelerator():
        trainer = Trainer(pipeline, arguments, TwinFlow(config))
        trainer.prepare()
        trainer.begin_step()
    return trainer


def inputs(trainer, prompts):
    """Latents, condition and draw of a batch, and a method that may run pairs of passes as one."""
    device = next(trainer.transformer.parameters()).device
    condition = send(trainer.data.encode_prompts(prompts), device)
    shape = trainer.data.blank.shape[1:]
    latents = torch.randn(len(prompts), *shape, generator=torch.Generator().manual_seed(0)).to(device)
    method = TwinFlow(replace(trainer.method.config, twinflow_image_free=False, twinflow_split_passes=False))
    draw = method.draw(range(len(prompts)), shape, seed=0, device=device)
    assert all(len(each) for each in (draw.faked, draw.enhanced, draw.walked, draw.rectified))
    return method, latents, condition, draw


def gradients(trainer, output):
    output.loss.backward()
    found = [parameter.grad for parameter in trainer.trainable]
    for parameter in trainer.trainable:
        parameter.grad = None
    return found


def test_a_step_reads_no_lengths_of_prompts_from_the_device(tmp_path):
    """Its loss and gradients are those of a condition with a mask on the device, as earlier versions encoded it."""
    pipeline = tiny_z_image.z_image()
    kit.fill_zeros(pipeline.transformer)
    trainer = trained(pipeline, tmp_path, max_sequence_length=48)
    method, latents, condition, draw = inputs(trainer, ["a", "a red fox", LONG, ""] * (BATCH // 4))
    lengths = condition[f"{ON_HOST}lengths"]
    assert len(lengths.unique()) > 2 and lengths.max() == 48
    with no_host_reads():
        output = method.loss(latents, condition, draw, trainer.networks)
    found = gradients(trainer, output)

    def masked(condition):
        embeds, lengths = condition["prompt_embeds"], condition[f"{ON_HOST}lengths"].to(latents.device)
        places = torch.arange(embeds.shape[1], device=latents.device)
        return {"prompt_embeds": embeds, "prompt_embeds_mask": places < lengths.unsqueeze(1)}

    networks = replace(trainer.networks, unconditional=masked(trainer.networks.unconditional))
    before = method.loss(latents, masked(condition), draw, networks)
    assert torch.equal(output.per_sample, before.per_sample)
    assert all(map(torch.equal, found, gradients(trainer, before)))
    with no_host_reads(), pytest.raises(AssertionError, match="cpu"):
        method.loss(latents, condition, replace(draw, plan=None), trainer.networks)


def test_a_step_compares_what_a_batch_must_share_on_the_host(tmp_path):
    """With the places of the prompts' tokens, which FLUX.3 takes once per batch."""
    trainer = trained(tiny.flux3(), tmp_path)
    method, latents, condition, draw = inputs(trainer, ["a", "b"] * (BATCH // 2))
    assert f"{ON_HOST}txt_ids" in condition
    with no_host_reads():
        method.loss(latents, condition, draw, trainer.networks)
    condition[f"{ON_HOST}txt_ids"][-1] += 1
    with pytest.raises(TwinFlowConfigError, match="samples of a batch have different `txt_ids`.*train_batch_size=1"):
        method.loss(latents, condition, draw, trainer.networks)
    recorded = replace(trainer.arguments, cuda_graphs=True)
    check_recorded_family(recorded, FAMILIES["Flux3ModularPipeline"])
    with pytest.raises(TwinFlowConfigError, match="`cuda_graphs` cannot be used with Flux3.*numbers on the CPU"):
        check_recorded_family(recorded, trainer.family)


@pytest.mark.parametrize(
    "name",
    [
        *by_weight(each for each, stock in STOCK.items() if not stock.compiles_itself and each not in READS_VALUES),
        pytest.param("MochiTransformer3DModel", marks=pytest.mark.xfail(raises=AssertionError, strict=True)),
    ],
)
@torch.no_grad()
def test_models_that_read_values_are_in_the_table(name):
    stock = STOCK[name]
    model = stock.build(stock_class(name))
    with no_host_reads():
        run(stock, model, 0.8, 0.3)


@pytest.mark.parametrize("name", ["z_image", "lumina2", "HiDreamImagePipeline"])
def test_passes_that_need_numbers_on_the_host_are_not_recorded(name):
    with pytest.raises(TwinFlowConfigError, match="`cuda_graphs` cannot be used with .*numbers on the CPU"):
        check_recorded_family(TrainingArguments("base", cuda_graphs=True), FAMILIES[name])


def test_the_part_of_a_condition_on_the_host_follows_its_samples():
    condition = {"embeds": torch.arange(4.0), f"{ON_HOST}lengths": torch.arange(4)}
    indices = torch.tensor([2, 0])
    taken = take(condition, indices, indices.numpy())
    for found in (taken, take(condition, indices), concatenate(take(condition, indices[:1]), taken)):
        assert torch.equal(found["embeds"].long(), found[f"{ON_HOST}lengths"])
    assert expand(take(condition, indices[:1]), 3)[f"{ON_HOST}lengths"].tolist() == [2, 2, 2]
    sent = send(condition, "meta")
    assert {name: tensor.device.type for name, tensor in sent.items()} == {
        "embeds": "meta",
        f"{ON_HOST}lengths": "cpu",
    }
