"""Target and sign reach a compiled model, whatever breaks its graph, in every thread."""

import dataclasses
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import FasterCacheConfig, FirstBlockCacheConfig, PyramidAttentionBroadcastConfig
from diffusers.hooks import apply_group_offloading
from diffusers.models.cache_utils import CacheMixin

from tests.models.stock import STOCK
from tests.models.stock.spec import flat, stock_class
from tests.models.trained import TARGETS, TIMES, both, trained, twinflow_class

SD3 = "SD3Transformer2DModel"
BROKEN = (
    SD3,
    "FluxTransformer2DModel",
    "QwenImageTransformer2DModel",
    "WanTransformer3DModel",
    "ZImageTransformer2DModel",
)
NOT_ONE_GRAPH = (
    "Lumina2Transformer2DModel",
    "HiDreamImageTransformer2DModel",
    "OmniGenTransformer2DModel",
    "HunyuanVideo15Transformer3DModel",
)
CPU = torch.device("cpu")


def break_graph(model: torch.nn.Module) -> None:
    blocks = next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    blocks[0].register_forward_pre_hook(lambda *_: torch._dynamo.graph_break(), with_kwargs=True)


def break_before_embedding(model: torch.nn.Module) -> None:
    for module in model._embedder_modules(model):
        module.register_forward_pre_hook(lambda *_: torch._dynamo.graph_break())


def offload_leaves(model: torch.nn.Module) -> None:
    apply_group_offloading(model, onload_device=CPU, offload_device=CPU, offload_type="leaf_level")


def offload_blocks(model: torch.nn.Module) -> None:
    apply_group_offloading(
        model, onload_device=CPU, offload_device=CPU, offload_type="block_level", num_blocks_per_group=1
    )


def cast_layers(model: torch.nn.Module) -> None:
    model.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)


def leave(model: torch.nn.Module) -> None:
    """Compile it as it is."""


def answer(name: str, model: torch.nn.Module, **twinflow) -> torch.Tensor:
    return flat(model(**STOCK[name].arguments(*TIMES), **twinflow))


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=1000, accumulated_recompile_limit=10_000):
        yield
    torch._dynamo.reset()


@torch.no_grad()
def check_compiled(name: str, prepare: Callable, compile: Callable = torch.compile) -> None:
    """With target and sign, without them and with them again, a compiled model answers what the eager one does."""
    model = trained(name)
    prepare(model)
    conditioned, plain = answer(name, model, **both(name)), answer(name, model)
    assert not torch.allclose(conditioned, plain, atol=1e-3)
    compiled = compile(model, backend="eager")
    for twinflow, expected in ((both(name), conditioned), ({}, plain), (both(name), conditioned)):
        torch.testing.assert_close(answer(name, compiled, **twinflow), expected, atol=1e-5, rtol=1e-4)


def compile_in_place(model: torch.nn.Module, **options) -> torch.nn.Module:
    model.compile(**options)
    return model


@pytest.mark.parametrize("prepare", [break_graph, pytest.param(break_before_embedding, marks=pytest.mark.slow)])
def test_a_graph_break_keeps_target_and_sign(prepare):
    check_compiled(SD3, prepare)


@pytest.mark.slow
@pytest.mark.parametrize("compile", [torch.compile, compile_in_place])
@pytest.mark.parametrize("prepare", [break_graph, offload_leaves, offload_blocks, cast_layers])
@pytest.mark.parametrize("name", BROKEN)
def test_compiled_with_hooks_of_diffusers(name, prepare, compile):
    check_compiled(name, prepare, compile)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOT_ONE_GRAPH)
def test_compiled_in_several_graphs(name):
    check_compiled(name, leave)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BROKEN if stock_class(name)._repeated_blocks])
def test_blocks_compiled_alone(name):
    def compile_blocks(model, **options):
        model.compile_repeated_blocks(**options)
        return model

    check_compiled(name, leave, compile_blocks)


@pytest.mark.slow
@pytest.mark.parametrize("prepare", [leave, break_graph])
def test_two_threads_of_one_compiled_model(prepare):
    """The threads call one model in turn with other targets and signs, and are switched often."""
    model = trained(SD3)
    prepare(model)
    calls = ({}, both(SD3), {"target_timestep": STOCK[SD3].times(*TARGETS)})
    with torch.no_grad():
        expected = [answer(SD3, model, **twinflow) for twinflow in calls]
    compiled, barrier = torch.compile(model, backend="eager"), threading.Barrier(len(calls))

    @torch.no_grad()
    def ask(index: int) -> list[torch.Tensor]:
        barrier.wait()
        return [answer(SD3, compiled, **calls[index]) for _ in range(20)]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(len(calls)) as threads:
            answers = list(threads.map(ask, range(len(calls))))
    finally:
        sys.setswitchinterval(interval)
    for found, value in zip(answers, expected):
        for output in found:
            torch.testing.assert_close(output, value, atol=1e-5, rtol=1e-4)


CACHES = {
    "first_block": lambda timestep: FirstBlockCacheConfig(threshold=0.0),
    "pyramid": lambda timestep: PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=timestep
    ),
    "faster": lambda timestep: FasterCacheConfig(
        spatial_attention_block_skip_range=2, is_guidance_distilled=True, current_timestep_callback=timestep
    ),
}


CACHED = [
    (name, cache)
    for name in (*BROKEN, *NOT_ONE_GRAPH)
    for cache in CACHES
    if issubclass(stock_class(name), CacheMixin)
    and (name, cache) != ("HunyuanVideo15Transformer3DModel", "first_block")  # diffusers has not registered its blocks
]


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name, cache", CACHED)
def test_caches_of_diffusers(name, cache):
    """The first call, at a time at which nothing is reused, fills the cache; later ones are equal and reuse it."""
    stock = dataclasses.replace(STOCK[name], config={**STOCK[name].config, "num_layers": 2})
    model, times = trained(name, stock.build(twinflow_class(name))), [999.0]
    expected, plain = answer(name, model, **both(name)), answer(name, model)
    assert not torch.allclose(expected, plain, atol=1e-3)
    model.enable_cache(CACHES[cache](lambda: times[-1]))
    for timestep in (999.0, 500.0, 500.0):
        times.append(timestep)
        with model.cache_context("cond"):
            torch.testing.assert_close(answer(name, model, **both(name)), expected, atol=1e-4, rtol=1e-3)
    model.disable_cache()
    torch.testing.assert_close(answer(name, model), plain)
