import inspect
import json
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel

from diffusers_twinflow import TwinFlowConfig, TwinFlowScheduler
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.integrations.simpletuner.recipes import translate_recipe
from diffusers_twinflow.models import TwinFlowSD3Transformer2DModel
from tests import tiny
from tests.training_script import all_options

ROOT = Path(__file__).parents[2]
BASES = sorted(path.name for path in (ROOT / "hub_configs").iterdir() if path.is_dir())


def read(base, name):
    return json.loads((ROOT / "hub_configs" / base / name).read_text())


def test_the_bases():
    assert BASES == [
        "flux.1-dev",
        "qwen-image",
        "sana-1.6b",
        "stable-diffusion-1.5",
        "stable-diffusion-3.5-large",
        "stable-diffusion-3.5-medium",
        "stable-diffusion-xl",
        "z-image",
    ]


@pytest.mark.parametrize("base", BASES)
def test_overlay_leaves_the_stock_model(base):
    config = tiny.SD3_CONFIG | read(base, "transformer_overlay.json")
    stock = tiny.sd3_transformer()
    torch.manual_seed(0)
    overlaid = TwinFlowSD3Transformer2DModel.from_config(config).eval()
    assert not overlaid.twinflow_enabled
    mine, theirs = overlaid.state_dict(), stock.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in theirs)
    call = {
        "hidden_states": torch.ones(2, 4, 8, 8),
        "timestep": torch.tensor([1000.0, 300.0]),
        "encoder_hidden_states": tiny.sd3_condition(2)["prompt_embeds"],
        "pooled_projections": tiny.sd3_condition(2)["pooled_prompt_embeds"],
    }
    with torch.no_grad():
        assert torch.equal(overlaid(**call).sample, stock(**call).sample)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_configuration_without_the_flag_is_off(name):
    assert inspect.signature(FAMILIES[name].transformer_class.__init__).parameters["twinflow_enabled"].default is False


def test_a_stock_checkpoint_is_the_stock_model(tmp_path):
    stock = tiny.sd3_transformer()
    stock.save_pretrained(tmp_path)
    loaded = TwinFlowSD3Transformer2DModel.from_pretrained(tmp_path)
    assert not loaded.twinflow_enabled and loaded.state_dict().keys() == stock.state_dict().keys()
    loaded.save_pretrained(tmp_path / "again")
    again = SD3Transformer2DModel.from_pretrained(tmp_path / "again")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in stock.state_dict().items())


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_scheduler(base, steps):
    scheduler = TwinFlowScheduler.from_pretrained(ROOT / "hub_configs" / base, subfolder="scheduler")
    written = {k: v for k, v in read(base, "scheduler/scheduler_config.json").items() if not k.startswith("_")}
    assert {name: scheduler.config[name] for name in written} == written
    scheduler.set_timesteps(steps)
    first = 0.93596 if scheduler.config.prediction_type == "epsilon" else 0.999
    assert len(scheduler.timesteps) == steps and scheduler.sigmas[0] == pytest.approx(first, abs=1e-5)


@pytest.mark.parametrize("base", BASES)
def test_recipe(base, script):
    recipe = read(base, "training_recipe.json")
    arguments = all_options(script.parse_args(["--config", str(ROOT / "hub_configs" / base / "training_recipe.json")]))
    assert recipe.pop("recipe") == "recommended"
    assert {name: getattr(arguments, name) for name in recipe} == recipe
    assert (arguments.lr_scheduler, arguments.lr_decay_share) == ("warmup_stable_decay", 0.6)
    config = TwinFlowConfig.from_dict({name: getattr(arguments, name) for name in TwinFlowConfig.option_names()})
    assert config.twinflow_enabled
    config.check_training(flow_matching="diff2flow_enabled" not in recipe, use_ema=arguments.use_ema is not False)
    assert translate_recipe(recipe, known=recipe) == recipe


@pytest.mark.parametrize("base", BASES)
def test_the_sources_name_every_number(base):
    text = (ROOT / "hub_configs" / base / "README.md").read_text()
    assert "our own guess" in text and "arXiv:2512.05150" in text
    for name, value in read(base, "training_recipe.json").items():
        if name.startswith("twinflow_") and not isinstance(value, bool) and name != "twinflow_adversarial_weight":
            assert f"{name}`" in text
