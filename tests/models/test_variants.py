"""Configurations and calls of a stock class in which its time is used in another way."""

import inspect
import sys
from dataclasses import replace

import diffusers.pipelines
import pytest
import torch

from diffusers_twinflow import models
from diffusers_twinflow.models import TWINFLOW_CLASSES
from tests.models.stock import STOCK
from tests.models.stock.spec import flat, run, stock_class
from tests.models.trained import TARGETS, TIMES, both, record_additions, trained, twinflow_class


def variant(name, **config):
    return replace(STOCK[name], config=STOCK[name].config | config)


NATIVE = {
    "Flux3Transformer2DModel": ({"flow_map": True}, "target_timestep"),
    "HunyuanImageTransformer2DModel": ({"use_meanflow": True}, "timestep_r"),
    "HunyuanVideo15Transformer3DModel": ({"use_meanflow": True}, "timestep_r"),
    "AnyFlowTransformer3DModel": ({}, "r_timestep"),
    "AceStepTransformer1DModel": ({}, "timestep_r"),
}


@torch.no_grad()
@pytest.mark.parametrize("name", NATIVE)
def test_a_target_time_of_its_own_is_used(name):
    config, argument = NATIVE[name]
    stock = variant(name, **config)
    plain, ours = stock.build(stock_class(name)), stock.build(twinflow_class(name))
    arguments = replace(stock, native=argument).arguments(*TIMES, native_times=TARGETS)
    expected = flat(plain(**arguments))
    assert torch.equal(flat(ours(**arguments)), expected)

    ours.enable_twinflow()
    assert ours.time_conditioning.target_timestep_embedder is None
    shared = {key: value for key, value in arguments.items() if key != argument}
    assert torch.equal(flat(ours(**shared, target_timestep=stock.times(*TARGETS))), expected)
    at_t = flat(plain(**replace(stock, native=argument).arguments(*TIMES)))
    assert torch.equal(flat(ours(**shared)), at_t) and not torch.equal(at_t, expected)
    ours.set_target_timestep_source(lambda timestep: stock.times(*TARGETS))
    assert torch.equal(flat(ours(**shared)), expected)


PER_TOKEN = {
    "LTXVideoTransformer3DModel": (8,),
    "LTX2VideoTransformer3DModel": (8,),
    "WanTransformer3DModel": (8,),
    "ChronoEditTransformer3DModel": (8,),
    "SanaVideoTransformer3DModel": (8,),
    "SanaWMTransformer3DModel": (1, 2),
    "Ideogram4Transformer2DModel": (6,),
}


@torch.no_grad()
@pytest.mark.parametrize("name", PER_TOKEN)
def test_one_time_a_token(name):
    """The first token is clean; each token gets the embedding of its sample, whose time is the noisiest one."""
    stock = STOCK[name]
    ours = stock.build(twinflow_class(name))
    added, _ = record_additions(ours)
    timestep = stock.times(*TIMES).reshape(-1, *[1] * len(PER_TOKEN[name])).repeat(1, *PER_TOKEN[name])
    timestep[..., 0] = stock.at_data
    arguments = {**stock.arguments(*TIMES), "timestep": timestep}
    if name == "LTX2VideoTransformer3DModel":
        arguments["audio_timestep"] = stock.times(*TIMES)
    ours(**arguments, **both(name))
    assert max(len(rows) for rows in added) == timestep.numel()
    for rows in added:
        expected = torch.tensor([0.6, 10.2]).repeat_interleave(len(rows) // 2)[:, None].expand_as(rows)
        torch.testing.assert_close(rows, expected, atol=1e-4, rtol=0)


def test_times_that_mix_samples_are_refused():
    name = "SkyReelsV2Transformer3DModel"
    stock, ours = STOCK[name], trained(name)
    frames = stock.times(*TIMES)[:, None].expand(-1, 2)
    with pytest.raises(ValueError, match="one timestep per sample with TwinFlow on"):
        ours(**{**stock.arguments(*TIMES), "timestep": frames})


@torch.no_grad()
def test_scaled_times():
    """SANA's `timestep_scale` multiplies its timestep; with guidance its embedder is elsewhere."""
    name = "SanaTransformer2DModel"
    stock = replace(
        variant(name, timestep_scale=0.001, guidance_embeds=True),
        at_noise=1.0,
        inputs=lambda: {**STOCK[name].inputs(), "guidance": torch.ones(2)},
    )
    ours = stock.build(twinflow_class(name))
    added, _ = record_additions(ours)
    run(stock, ours, *TIMES, target_timestep=stock.times(*TARGETS))
    torch.testing.assert_close(added[0][:, 0], torch.tensor([0.6, 0.2]), atol=1e-5, rtol=0)


@torch.no_grad()
def test_calls_for_other_times_get_nothing():
    name = "HeliosTransformer3DModel"
    own = ("hidden_states", "encoder_hidden_states")
    alone = replace(STOCK[name], inputs=lambda: {key: STOCK[name].inputs()[key] for key in own})
    same_time = variant(name, zero_history_timestep=False)
    for stock, calls in ((STOCK[name], [False, True]), (alone, [False, True]), (same_time, [True])):
        ours = stock.build(twinflow_class(name))
        added, _ = record_additions(ours)
        run(stock, ours, *TIMES, **both(name))
        assert [bool(rows.any()) for rows in added] == calls


@torch.no_grad()
def test_the_reference_pass_of_wan_animate_2_gets_nothing():
    name = "WanAnimate2Transformer3DModel"
    stock, grid = STOCK[name], {"kv_cache_mode": "extract", "offset_grid_sizes": torch.tensor([[3, 2, 2]] * 2)}
    stock = replace(stock, inputs=lambda: {**STOCK[name].inputs(), **grid})
    expected = run(stock, stock.build(stock_class(name)), *TIMES)
    assert torch.equal(run(stock, trained(name), *TIMES, **both(name)), expected)


@torch.no_grad()
@pytest.mark.parametrize(
    "name, config",
    [
        ("QwenImageTransformer2DModel", {"zero_cond_t": False}),
        ("QwenImage21Transformer2DModel", {"causal_condition": False}),
    ],
)
def test_without_rows_for_another_time(name, config):
    stock = variant(name, **config)
    ours = stock.build(twinflow_class(name))
    added, _ = record_additions(ours)
    run(stock, ours, *TIMES, **both(name))
    assert len(added[0]) == 2 and added[0].all()


def test_one_timestep_for_all_samples():
    stock, ours = STOCK["SD3Transformer2DModel"], trained("SD3Transformer2DModel")
    arguments = {**stock.arguments(*TIMES), "timestep": torch.tensor(300.0)[None]}
    shared = flat(ours(**arguments, target_timestep=torch.tensor([100.0]), timestep_sign=torch.tensor([-1.0])))
    arguments["timestep"] = torch.full((2,), 300.0)
    own = flat(ours(**arguments, target_timestep=torch.full((2,), 100.0), timestep_sign=-torch.ones(2)))
    torch.testing.assert_close(shared, own)


def test_forward_shows_the_stock_parameters(name):
    """Modular pipelines pass only what they find in the signature."""
    ours = list(inspect.signature(twinflow_class(name).forward).parameters)
    stock = list(inspect.signature(stock_class(name).forward).parameters)
    assert ours[: len(stock)] == stock
    assert {"timestep_sign", "target_timestep"} <= set(ours)


def test_classes_are_found_where_pipelines_look_for_them():
    """By name in a module that has `ModelMixin` too and is not taken for a pipeline of diffusers."""
    for cls in TWINFLOW_CLASSES.values():
        module = sys.modules[cls.__module__]
        assert getattr(module, cls.__name__) is cls and module.ModelMixin in cls.__mro__
        assert not hasattr(diffusers.pipelines, cls.__module__.split(".")[-2])
        assert getattr(models, cls.__name__) is cls
