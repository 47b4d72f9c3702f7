from functools import partial

import pytest
import torch
from torchao.quantization import Int8Tensor

from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.methods import TwinFlow
from diffusers_twinflow.training.arguments import TrainingArguments
from diffusers_twinflow.training.base_model import load_frozen_pipeline, lora_config, prepare_lora
from diffusers_twinflow.training.quantization import check_quantization

FAMILY = FAMILIES["stable_diffusion_3"]


def test_a_lora_trains_on_a_quantised_base(base_dir):
    method = TwinFlow(TwinFlowConfig(twinflow_enabled=True))
    args = TrainingArguments(str(base_dir), rank=2, quantize_base="torchao_int8", mixed_precision="no")
    pipeline = load_frozen_pipeline(FAMILY, args)
    transformer = pipeline.transformer
    prepare_lora(transformer, method, FAMILY, partial(lora_config, family=FAMILY, args=args))
    layer = transformer.transformer_blocks[0].attn.to_q
    assert isinstance(layer.base_layer.weight, Int8Tensor)
    assert pipeline.text_encoder.text_model.encoder.layers[0].mlp.fc1.weight.dtype == torch.float32
    condition = FAMILY.encode_prompts(pipeline, ["a", "b"], 2)
    t = torch.tensor([0.7, 0.9])
    velocity = FAMILY.velocity(transformer)
    velocity(torch.randn(2, 4, 8, 8), t, t * 0, torch.ones(2), condition).square().mean().backward()
    trained = {name: p for name, p in transformer.named_parameters() if p.requires_grad}
    assert all("lora" in name or "time_conditioning" in name for name in trained)
    assert layer.lora_B["default"].weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("name", "train_type", "message"),
    [
        ("torchao_int8", "full", "quantize_base=torchao_int8 needs a frozen base.*train_type=lora"),
        pytest.param(
            "bnb_4bit",
            "lora",
            "needs a GPU.*torchao_int8",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="is allowed with a GPU"),
        ),
    ],
)
def test_what_cannot_be_quantised_is_refused(name, train_type, message):
    with pytest.raises(TwinFlowConfigError, match=message):
        check_quantization(name, train_type)
