import json

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

import tiny
from diffusers_twinflow import TwinFlowConfigError
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.hub import load_twinflow_lora
from diffusers_twinflow.hub.repository import CONDITIONING_NAME, CONFIG_NAME, LORA_NAME
from diffusers_twinflow.schedulers import TwinFlowScheduler

FAMILY = FAMILIES["stable_diffusion_3"]


def forward(transformer, timesteps=(1000.0, 300.0), **times):
    condition = tiny.sd3_condition(2)
    with torch.no_grad():
        return transformer(
            hidden_states=torch.ones(2, 4, 8, 8),
            timestep=torch.tensor(timesteps),
            encoder_hidden_states=condition["prompt_embeds"],
            pooled_projections=condition["pooled_prompt_embeds"],
            **times,
        ).sample


TIMES = {"target_timestep": torch.tensor([0.0, 100.0]), "timestep_sign": torch.tensor([1.0, -1.0])}


def test_round_trip(repository, base_dir):
    directory, trained = repository
    pipeline = FAMILY.load(base_dir)
    config = load_twinflow_lora(pipeline, directory)
    torch.testing.assert_close(forward(pipeline.transformer, **TIMES), forward(trained, **TIMES))
    assert isinstance(pipeline.scheduler, TwinFlowScheduler)
    assert config.twinflow.twinflow_target_step_count == 2


def test_stock_diffusers_loads_the_lora_with_its_alpha_and_its_target_time(repository, base_dir):
    directory, trained = repository
    stock = StableDiffusion3Pipeline.from_pretrained(base_dir, text_encoder_3=None, tokenizer_3=None)
    stock.load_lora_weights(directory)
    assert type(stock.transformer) is SD3Transformer2DModel
    grid = (999.0, 600.0)
    expected = forward(trained, grid, target_timestep=torch.zeros(2))
    torch.testing.assert_close(forward(stock.transformer, grid), expected, rtol=0, atol=1e-4)


def test_what_a_repository_holds(repository):
    directory, _ = repository
    names = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    assert names == {LORA_NAME, CONDITIONING_NAME, CONFIG_NAME, "scheduler/scheduler_config.json"}
    assert json.loads((directory / CONFIG_NAME).read_text())["guidance_scale"] == 0.0


def test_a_configuration_that_names_other_layers_as_folded_is_refused(repository, base_dir):
    directory, _ = repository
    portable = json.loads((directory / CONFIG_NAME).read_text())["portable"]
    for layers, message in [
        ({"proj_out": 1}, "not a timestep embedder"),
        ({"x": 0}, "'portable'"),
        ([1], "'portable'"),
    ]:
        break_config(directory, portable=portable | {"layers": layers})
        with pytest.raises(TwinFlowConfigError, match=message):
            load_twinflow_lora(FAMILY.load(base_dir), directory)
    [name] = portable["layers"]
    break_config(directory, portable=portable | {"layers": {name: 9}})
    with pytest.raises(TwinFlowConfigError, match="no such layer of rank 9"):
        load_twinflow_lora(FAMILY.load(base_dir), directory)


def break_config(directory, **values):
    path = directory / CONFIG_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def break_conditioning(directory, change):
    path = directory / CONDITIONING_NAME
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def widen(tensors):
    tensors["time_sign_embed.weight"] = torch.zeros(2, 32)


def poison(tensors):
    tensors["time_sign_embed.weight"][1, 0] = float("nan")


def sign(tensors):
    tensors["time_sign_embed.weight"][0, 0] = 1.0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / CONFIG_NAME).unlink(), "no twinflow_config.json"),
        (lambda d: (d / LORA_NAME).unlink(), "no pytorch_lora_weights"),
        (lambda d: break_config(d, family="sorcery"), "family='sorcery'"),
        (lambda d: break_config(d, train_type="full"), "holds a full model"),
        (lambda d: break_conditioning(d, widen), "16 wide"),
        (lambda d: break_conditioning(d, poison), "not finite"),
        (lambda d: break_conditioning(d, sign), "positive sign row"),
    ],
)
def test_broken_repositories_leave_the_pipeline_as_it_was(repository, base_dir, spoil, message):
    directory, _ = repository
    spoil(directory)
    pipeline = FAMILY.load(base_dir)
    scheduler, before = pipeline.scheduler, forward(pipeline.transformer)
    with pytest.raises(TwinFlowConfigError, match=message):
        load_twinflow_lora(pipeline, directory)
    assert pipeline.scheduler is scheduler and type(pipeline.transformer) is SD3Transformer2DModel
    assert torch.equal(forward(pipeline.transformer), before)
