"""The effect of the time conditioning on every stock class."""

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch.utils._pytree import tree_map

from diffusers_twinflow.models import TWINFLOW_CLASSES, disable_twinflow, enable_twinflow, twinflow_class_of
from tests.models.stock import STOCK
from tests.models.stock.spec import run, stock_class
from tests.models.trained import (
    TARGETS,
    TIMES,
    conditioned,
    device_for_backward,
    record_additions,
    trained,
    twinflow_class,
)


def test_every_class_of_the_table_is_tested():
    assert STOCK.keys() == TWINFLOW_CLASSES.keys()


@torch.no_grad()
def test_off_is_the_stock_model(name):
    stock = STOCK[name]
    plain, ours = stock.build(stock_class(name)), stock.build(twinflow_class(name))
    assert dict(plain.config) == dict(ours.config)
    assert list(plain.state_dict()) == list(ours.state_dict())
    assert torch.equal(run(stock, plain, *TIMES), run(stock, ours, *TIMES))
    with pytest.raises(ValueError, match="enable_twinflow"):
        run(stock, ours, *TIMES, timestep_sign=torch.ones(stock.batch))


@torch.no_grad()
def test_on_and_untrained_is_the_stock_output_and_disabling_gives_the_class_back(name):
    stock = STOCK[name]
    plain, ours = stock.build(stock_class(name)), stock.build(stock_class(name))
    enable_twinflow(ours)
    assert type(ours) is twinflow_class(name) and ours.config.twinflow_enabled
    assert torch.equal(run(stock, plain, *TIMES, native_times=TARGETS), conditioned(name, ours))
    assert torch.equal(run(stock, plain, *TIMES), run(stock, ours, *TIMES))

    disable_twinflow(ours)
    assert type(ours) is stock_class(name)
    assert dict(ours.config) == dict(plain.config)
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert vars(ours).keys() == vars(plain).keys()
    assert not any(module._forward_hooks for module in ours.modules())


@torch.no_grad()
def test_sign_and_target_reach_their_own_sample_and_vanish_at_r_equal_t(name):
    stock, ours = STOCK[name], trained(name)
    plain = run(stock, stock.build(stock_class(name)), *TIMES)
    real = {"target_timestep": stock.times(*TIMES), "timestep_sign": torch.ones(stock.batch)}
    assert torch.equal(run(stock, ours, *TIMES, **real), plain)

    times, last = stock.times(*TIMES), stock.batch - 1
    target = times.clone()
    target[last] = stock.times(*TARGETS)[last]
    sign = torch.ones(stock.batch)
    sign[last] = -1
    for change in ({"target_timestep": target}, {"timestep_sign": sign}):
        moved = (run(stock, ours, *TIMES, **change) - plain).abs().amax(1)
        assert not moved[:last].any() and moved[last] > 1e-4


FIXED_TARGET = ("AnyFlowFARTransformer3DModel", "AnyFlowTransformer3DModel")


@torch.no_grad()
def test_time_goes_through_the_embedders_alone(name):
    """With their outputs blanked the stock model does not know the time, so what is added there is everywhere."""
    stock, plain = STOCK[name], STOCK[name].build(stock_class(name))
    native_times = TARGETS if name in FIXED_TARGET else None
    before = run(stock, plain, *TIMES, native_times=native_times)
    for module in twinflow_class(name)._embedder_modules(plain):
        module.register_forward_hook(lambda module, args, output: tree_map(torch.zeros_like, output))
    blank = run(stock, plain, *TIMES, native_times=native_times)
    assert not torch.equal(blank, before)
    assert torch.equal(run(stock, plain, 0.6, 0.9, native_times=native_times), blank)


@torch.no_grad()
def test_what_is_added_to_the_timestep_embedding(name):
    """By value: with an embedder of ones and a sign row of ten it is `t - r` in [0, 1], and ten more for the twin."""
    stock, ours = STOCK[name], STOCK[name].build(twinflow_class(name))
    added, embedded = record_additions(ours)
    own_target = ours.time_conditioning.target_timestep_embedder is not None
    conditioned(name, ours)

    expected = torch.tensor([t - r for t, r in zip(TIMES, TARGETS)][: stock.batch]) * own_target
    expected[-1] += 10.0
    changed = [rows for rows in added if rows.any()]
    assert len(changed) == len(ours._embedder_modules(ours))
    for rows in changed:
        own = rows[: stock.batch] if ours._timestep_embedders.rows == "first" else rows
        assert not rows[len(own) :].any()
        per_row = expected.repeat_interleave(len(own) // stock.batch)[:, None].expand_as(own)
        torch.testing.assert_close(own, per_row, atol=2e-5, rtol=0)
    if own_target:
        frequencies = get_timestep_embedding(
            torch.tensor(TARGETS[: stock.batch]) * 1000, 256, flip_sin_to_cos=True, downscale_freq_shift=0
        )
        torch.testing.assert_close(embedded[0], frequencies, atol=2e-4, rtol=0)


def test_backward_reaches_sign_and_target(name):
    with device_for_backward(name):
        ours = trained(name)
        conditioned(name, ours).square().mean().backward()
    conditioning = ours.time_conditioning
    signs = conditioning.time_sign_embed.weight.grad
    assert signs[1].any() and not signs[0].any()
    if conditioning.target_timestep_embedder is not None:
        for parameter in conditioning.target_timestep_embedder.parameters():
            assert parameter.grad.any()


def test_refused_by_name():
    import diffusers

    with pytest.raises(
        TypeError, match="MiniMaxH3Transformer3DModel has no timestep_sign support: its timestep lists"
    ):
        twinflow_class_of(diffusers.MiniMaxH3Transformer3DModel)
    with pytest.raises(TypeError, match="CogVideoXTransformer3DModel has no timestep_sign support: it is not one of"):
        twinflow_class_of(diffusers.CogVideoXTransformer3DModel)
    with pytest.raises(TypeError, match="through TwinFlowFluxTransformer2DModel"):
        enable_twinflow(
            STOCK["SD3Transformer2DModel"].build(stock_class("SD3Transformer2DModel")),
            TWINFLOW_CLASSES["FluxTransformer2DModel"],
        )


def test_only_a_twinflow_transformer_can_be_disabled():
    name = "SD3Transformer2DModel"
    stock = STOCK[name].build(stock_class(name))
    with pytest.raises(TypeError, match=f"{name} is not a TwinFlow transformer"):
        disable_twinflow(stock)
