"""A merged LoRA of every family generates the images of the separate LoRA, and unloading it restores the base."""

import copy

import pytest
import torch
from peft import LoraConfig
from torch import nn

from diffusers_twinflow import TwinFlowPipeline, TwinFlowScheduler, enable_twinflow, unload_twinflow_lora
from diffusers_twinflow.hub import TwinFlowRepositoryConfig, save_twinflow_lora
from diffusers_twinflow.hub.merging import merged_lora_of
from diffusers_twinflow.hub.stock_pipelines import load_stock_pipeline
from diffusers_twinflow.models.adapter_layers import has_adapters
from tests.families.kit import CASES, PROMPTS, as_pictures

FIRST = {"stable_diffusion", "pixart_sigma"}


def by_weight():
    return [pytest.param(case, id=case.id, marks=() if case.id in FIRST else pytest.mark.slow) for case in CASES]


def targets_of(case, model) -> list[str]:
    """The family's layers, and a convolution if the model has one."""
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d) and "." in name]
    return [*case.family.lora_targets(model), *convolutions[:1]]


def write(case, directory) -> None:
    pipeline = copy.deepcopy(case.pipeline)
    pipeline.save_pretrained(directory / "base")
    model = case.family.denoiser(pipeline)
    enable_twinflow(model)
    torch.manual_seed(4)
    model.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=targets_of(case, model), init_lora_weights=False))
    config = TwinFlowRepositoryConfig("lora", case.family_name, "base", num_inference_steps=2)
    save_twinflow_lora(directory, model, config, TwinFlowScheduler.from_config(pipeline.scheduler.config))


def draw(case, pipeline) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    options = case.call_options() | {"num_inference_steps": 2, "output_type": "latent"}
    if case.family.takes_reference_image:
        options["image"] = as_pictures(case.references(1)["reference_images"])[0]
    generator = torch.Generator().manual_seed(0)
    return pipeline(prompt=PROMPTS[0], generator=generator, return_dict=False, **options)[0]


@pytest.mark.parametrize("case", by_weight())
def test_merged_in_every_family(case, tmp_path):
    write(case, tmp_path)
    merged, separate = (TwinFlowPipeline.from_pretrained(tmp_path, merge=merge) for merge in (True, False))
    model = case.family.denoiser(merged)
    assert not has_adapters(model) and has_adapters(case.family.denoiser(separate))
    base = case.family.denoiser(load_stock_pipeline(case.family, tmp_path / "base")).state_dict()
    assert all(weight.copy is None for weight in merged_lora_of(model).base.values())
    changed = {name for name, tensor in model.state_dict().items() if name in base and not tensor.equal(base[name])}
    assert changed == {f"{name}.weight" for name in merged_lora_of(model).base}
    torch.testing.assert_close(draw(case, merged), draw(case, separate), rtol=1e-3, atol=1e-3)
    unload_twinflow_lora(merged)
    found = case.family.denoiser(merged).state_dict()
    assert found.keys() == base.keys() and all(tensor.equal(base[name]) for name, tensor in found.items())
