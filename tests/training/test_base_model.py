import torch

from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.models import enable_twinflow
from diffusers_twinflow.training.base_model import ALL_LINEAR, lora_targets
from tests.tiny import sd3_transformer

FAMILY = FAMILIES["stable_diffusion_3"]


def test_all_linear_layers_are_those_of_the_stock_model():
    stock = sd3_transformer()
    linear = {name for name, module in stock.named_modules() if isinstance(module, torch.nn.Linear)}
    assert {"proj_out", "context_embedder", "norm_out.linear", "time_text_embed.timestep_embedder.linear_1"} < linear
    assert set(lora_targets(enable_twinflow(sd3_transformer()), FAMILY, [ALL_LINEAR])) == linear


def test_named_layers_win_over_the_familys():
    transformer = sd3_transformer()
    assert lora_targets(transformer, FAMILY, ["attn.to_q"]) == ["attn.to_q"]
    assert lora_targets(transformer, FAMILY, None) == FAMILY.lora_targets(transformer)
