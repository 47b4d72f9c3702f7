import pytest
import torch

from diffusers_twinflow.models import TwinFlowSD3Transformer2DModel, enable_twinflow
from tests import tiny


def inputs(batch=3):
    condition = tiny.sd3_condition(batch)
    return {
        "hidden_states": torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(2)),
        "timestep": torch.tensor([1000.0, 500.0, 20.0]),
        "encoder_hidden_states": condition["prompt_embeds"],
        "pooled_projections": condition["pooled_prompt_embeds"],
    }


TIMES = {"target_timestep": torch.tensor([0.0, 250.0, 10.0]), "timestep_sign": torch.tensor([1.0, 1.0, -1.0])}


def trained():
    transformer = tiny.sd3_transformer(TwinFlowSD3Transformer2DModel)
    transformer.enable_twinflow()
    torch.nn.init.normal_(transformer.time_conditioning.target_timestep_embedder.linear_2.weight)
    with torch.no_grad():
        transformer.time_conditioning.time_sign_embed.weight[1].normal_()
    return transformer


def test_off_refuses_the_new_arguments():
    ours = tiny.sd3_transformer(TwinFlowSD3Transformer2DModel)
    for name, value in TIMES.items():
        with pytest.raises(ValueError, match="enable_twinflow"):
            ours(**inputs(), **{name: value})


def test_positional_timestep():
    ours, given = trained(), inputs()
    positional = ours(
        given["hidden_states"], given["encoder_hidden_states"], given["pooled_projections"], given["timestep"], **TIMES
    )
    assert torch.equal(positional.sample, ours(**given, **TIMES).sample)


def test_target_timestep_source_answers_calls_without_a_target():
    ours = trained()
    ours.set_target_timestep_source(lambda timestep: timestep / 2)
    halved = ours(**inputs()).sample
    ours.set_target_timestep_source(None)
    assert torch.equal(halved, ours(**inputs(), target_timestep=inputs()["timestep"] / 2).sample)


def test_another_class_is_refused():
    with pytest.raises(TypeError, match="Linear has no timestep_sign support"):
        enable_twinflow(torch.nn.Linear(1, 1), TwinFlowSD3Transformer2DModel)
