"""The scheduler in progress gives a transformer its target times, whatever else shares the transformer."""

import copy
import gc
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from diffusers_twinflow.models import TwinFlowSD3Transformer2DModel
from diffusers_twinflow.sampling_calls import SamplingCall, begin_sampling, current_sampling_call, only_own_calls
from diffusers_twinflow.schedulers import TwinFlowScheduler
from tests import tiny

STYLES = ("few", "any", "multi")


@pytest.fixture(autouse=True)
def no_other_calls():
    with torch.no_grad(), only_own_calls():
        yield


@pytest.fixture(scope="module")
def model():
    model = tiny.sd3_transformer(TwinFlowSD3Transformer2DModel)
    model.enable_twinflow()
    torch.nn.init.normal_(model.time_conditioning.target_timestep_embedder.linear_2.weight)
    return model


def velocity(model, x: torch.Tensor, timestep: torch.Tensor, **twinflow) -> torch.Tensor:
    condition = tiny.sd3_condition(1)
    return model(
        x,
        timestep=timestep.expand(1),
        encoder_hidden_states=condition["prompt_embeds"],
        pooled_projections=condition["pooled_prompt_embeds"],
        return_dict=False,
        **twinflow,
    )[0]


def steps(model, scheduler, count: int = 3, explicit: bool = False) -> Iterator[torch.Tensor]:
    """A sampling loop as pipelines have it, step by step; with `explicit` the target is an argument."""
    scheduler.set_timesteps(count)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for index, t in enumerate(scheduler.timesteps):
        twinflow = {"target_timestep": scheduler.target_timesteps[index].expand(1)} if explicit else {}
        x = scheduler.step(velocity(model, x, t, **twinflow), t, x, return_dict=False)[0]
        yield x


def sample(model, scheduler, **options) -> torch.Tensor:
    *_, x = steps(model, scheduler, **options)
    return x


@pytest.mark.parametrize("options", [*({"sampling_style": style} for style in STYLES), {"squeeze_target_time": True}])
def test_the_loop_of_a_pipeline_has_the_targets(model, options):
    alone, euler = TwinFlowScheduler(**options), FlowMatchEulerDiscreteScheduler()
    assert torch.equal(sample(model, alone), sample(model, TwinFlowScheduler(**options), explicit=True))
    before = sample(model, euler)
    sample(model, alone)
    assert current_sampling_call() is None
    assert torch.equal(sample(model, euler), before)


def test_a_call_inside_a_call(model):
    """As a callback that draws with another pipeline does."""
    outer = TwinFlowScheduler(sampling_style="any")
    expected = sample(model, outer)
    inner = TwinFlowScheduler(sampling_style="multi")
    expected_inside = sample(model, inner)
    for x in steps(model, outer):  # noqa: B007
        assert torch.equal(sample(model, inner), expected_inside)
    assert torch.equal(x, expected)


def test_threads_share_a_transformer(model):
    expected = [sample(model, TwinFlowScheduler(sampling_style=style)) for style in STYLES]
    barrier = threading.Barrier(len(STYLES))

    @torch.no_grad()
    def work(style: str) -> list[torch.Tensor]:
        scheduler = TwinFlowScheduler(sampling_style=style)
        barrier.wait()
        return [sample(model, scheduler) for _ in range(5)]

    with ThreadPoolExecutor(len(STYLES)) as threads:
        for outputs, value in zip(threads.map(work, STYLES), expected):
            assert all(torch.equal(output, value) for output in outputs)


def test_an_interrupted_call_gives_targets_at_its_own_time_alone(model):
    euler, interrupted = FlowMatchEulerDiscreteScheduler(), TwinFlowScheduler()
    expected = sample(model, euler, count=8)
    next(steps(model, interrupted))
    assert torch.equal(sample(model, euler, count=8), expected)
    assert current_sampling_call() is not None
    del interrupted
    gc.collect()
    assert current_sampling_call() is None


def test_a_copied_or_loaded_scheduler_has_calls_of_its_own(model):
    scheduler = TwinFlowScheduler(sampling_style="any")
    expected = sample(model, scheduler)
    scheduler.set_timesteps(3)
    for other in (copy.copy(scheduler), copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        assert torch.equal(sample(model, other), expected)


def test_starting_in_the_middle_of_the_grid(model):
    """With a begin index only its time has a target; without one every time of the grid has, until the first step."""
    scheduler = TwinFlowScheduler(sampling_style="any")
    scheduler.set_timesteps(4)
    times = scheduler.timesteps
    assert torch.equal(model._scheduled_target(times), scheduler.target_timesteps)
    scheduler.set_begin_index(2)
    expected = torch.where(torch.arange(4) == 2, scheduler.target_timesteps, times)
    assert torch.equal(model._scheduled_target(times), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64])
def test_a_rounded_time_is_found(model, dtype):
    scheduler = TwinFlowScheduler(sampling_style="any")
    scheduler.set_timesteps(4)
    assert torch.equal(model._scheduled_target(scheduler.timesteps.to(dtype)), scheduler.target_timesteps)
    multi = TwinFlowScheduler(sampling_style="multi")
    multi.set_timesteps(4)
    rounded = multi.timesteps.to(dtype)
    assert torch.equal(model._scheduled_target(rounded), rounded.float())


def test_a_time_beside_the_grid_has_no_target(model):
    scheduler = TwinFlowScheduler()
    scheduler.set_timesteps(4)
    beside = scheduler.timesteps - 1
    assert torch.equal(model._scheduled_target(beside), beside)


def test_the_callers_target_and_source_come_first(model):
    x, scheduler = torch.zeros(1, 4, 8, 8), TwinFlowScheduler()
    scheduler.set_timesteps(1)
    t, target = scheduler.timesteps[0], torch.tensor([500.0])
    explicit = velocity(model, x, t, target_timestep=target)
    assert not torch.equal(velocity(model, x, t), explicit)
    model.set_target_timestep_source(lambda timestep: target)
    try:
        assert torch.equal(velocity(model, x, t), explicit)
    finally:
        model.set_target_timestep_source(None)


@pytest.mark.slow
def test_compiled_once_for_all_schedulers(model):
    """Another style or step takes no graph of its own, and the graph is whole."""
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for style in STYLES:
        eager, counted = sample(model, TwinFlowScheduler(sampling_style=style)), torch._dynamo.utils.counters["stats"]
        before = counted["unique_graphs"]
        output = sample(compiled, TwinFlowScheduler(sampling_style=style))
        torch.testing.assert_close(output, eager, atol=1e-5, rtol=1e-4)
        assert counted["unique_graphs"] - before == (style == STYLES[0])
    torch._dynamo.reset()


def test_only_the_last_live_call_counts():
    first, second = (SamplingCall(torch.tensor([1.0]), torch.tensor([0.0])) for _ in range(2))
    begin_sampling(first)
    begin_sampling(second)
    assert current_sampling_call() is second
    with only_own_calls():
        assert current_sampling_call() is None
    second.move_to(1)
    assert current_sampling_call() is first
    del first
    assert current_sampling_call() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("mode", [None, pytest.param("reduce-overhead", marks=pytest.mark.slow)])
def test_on_a_gpu(model, mode):
    """The loop reads nothing back from the GPU, and CUDA graphs see each step's own target."""
    eager = copy.deepcopy(model).cuda()
    compiled = eager if mode is None else torch.compile(eager, mode=mode, fullgraph=True)
    condition = {name: tensor.cuda() for name, tensor in tiny.sd3_condition(1).items()}
    inputs = {
        "encoder_hidden_states": condition["prompt_embeds"],
        "pooled_projections": condition["pooled_prompt_embeds"],
        "return_dict": False,
    }

    def loop(model, style: str, explicit: bool = False, waiting: str = "default") -> torch.Tensor:
        scheduler, x = TwinFlowScheduler(sampling_style=style), torch.ones(1, 4, 8, 8, device="cuda")
        scheduler.set_timesteps(4, device="cuda")
        scheduler.set_begin_index(0)
        torch.cuda.set_sync_debug_mode(waiting)
        try:
            for index, t in enumerate(scheduler.timesteps):
                torch.compiler.cudagraph_mark_step_begin()
                twinflow = {"target_timestep": scheduler.target_timesteps[index].expand(1)} if explicit else {}
                velocity = model(x, timestep=t.expand(1), **inputs, **twinflow)[0].clone()
                x = scheduler.step(velocity, t, x, return_dict=False)[0]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return x

    for style in STYLES:
        expected = loop(eager, style, explicit=True)
        for _ in range(3):
            found = loop(compiled, style)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    loop(eager, "any", waiting="error")
