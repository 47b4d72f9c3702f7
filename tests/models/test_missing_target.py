"""A pipeline whose scheduler gives no target time gets a warning that says what to do."""

import copy
import logging

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch.utils._python_dispatch import TorchDispatchMode

from diffusers_twinflow import TwinFlowScheduler, enable_twinflow
from tests import tiny
from tests.models.stock import STOCK
from tests.models.stock.spec import run
from tests.models.trained import TARGETS, TIMES, trained

SD3, FLUX, HUNYUAN = "SD3Transformer2DModel", "FluxTransformer2DModel", "HunyuanImageTransformer2DModel"
TEXT = "was called without a target time"


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records if TEXT in record.getMessage()]


@torch.no_grad()
@pytest.mark.parametrize("name", [SD3, FLUX, HUNYUAN])
def test_once_for_each_model(name, warnings):
    model = trained(name)
    for _ in range(3):
        run(STOCK[name], model, *TIMES)
    assert len(warnings()) == 1 and type(model).__name__ in warnings()[0]
    run(STOCK[name], trained(name), *TIMES)
    assert len(warnings()) == 2


@torch.no_grad()
def test_a_call_that_knows_its_times_is_not_warned_of(warnings):
    model, stock = trained(SD3), STOCK[SD3]
    run(stock, model, *TIMES, target_timestep=stock.times(*TARGETS))
    run(stock, model, *TIMES, timestep_sign=torch.ones(stock.batch))
    model.set_target_timestep_source(lambda timestep: None)
    run(stock, model, *TIMES)
    model.set_target_timestep_source(None)
    model.disable_twinflow()
    run(stock, model, *TIMES)
    assert not warnings()
    model.enable_twinflow()
    run(stock, copy.deepcopy(model), *TIMES)
    assert len(warnings()) == 1


def draw(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    pipeline("a", num_inference_steps=2, guidance_scale=0.0, max_sequence_length=2, height=16, width=16)


def test_the_remedy_works(warnings):
    pipeline = tiny.sd3_pipeline()
    enable_twinflow(pipeline.transformer)
    pipeline.scheduler = TwinFlowScheduler.from_config(pipeline.scheduler.config)
    draw(pipeline)
    assert not warnings()
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    draw(pipeline)
    assert len(warnings()) == 1 and "pipe.scheduler = TwinFlowScheduler.from_config" in warnings()[0]


class NoValueIsRead(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_no_value_of_a_tensor_is_read(warnings):
    with NoValueIsRead():
        run(STOCK[SD3], trained(SD3), *TIMES)
    assert len(warnings()) == 1


@torch.no_grad()
def test_a_compiled_model_stays_one_graph(warnings):
    """It is not warned of: the check would break the graph."""
    torch._dynamo.reset()
    model = trained(SD3)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    output = run(STOCK[SD3], compiled, *TIMES)
    assert not warnings()
    torch.testing.assert_close(output, run(STOCK[SD3], model, *TIMES), atol=1e-5, rtol=1e-4)
    assert len(warnings()) == 1
