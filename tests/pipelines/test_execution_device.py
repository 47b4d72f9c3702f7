import time

import pytest
import torch
from accelerate import dispatch_model
from diffusers import DiffusionPipeline
from diffusers.hooks import HookRegistry

from diffusers_twinflow.hub import TwinFlowRepositoryConfig
from diffusers_twinflow.models import enable_twinflow
from diffusers_twinflow.pipelines import TwinFlowPipeline, as_twinflow_pipeline
from diffusers_twinflow.pipelines.execution_device import has_offloading_hook
from tests import tiny

CONFIG = TwinFlowRepositoryConfig("lora", "stable_diffusion_3", "-", num_inference_steps=2)
CPU, META, CUDA = torch.device("cpu"), torch.device("meta"), torch.device("cuda")


def pipeline(layers: int = 2) -> TwinFlowPipeline:
    stock = tiny.sd3_pipeline()
    stock.transformer = tiny.sd3_transformer(num_layers=layers)
    enable_twinflow(stock.transformer)
    stock.set_progress_bar_config(disable=True)
    return as_twinflow_pipeline(stock, CONFIG)


def stock_answer(pipe: DiffusionPipeline) -> torch.device:
    return DiffusionPipeline._execution_device.fget(pipe)


def models(pipe: DiffusionPipeline) -> list[torch.nn.Module]:
    return [component for component in pipe.components.values() if isinstance(component, torch.nn.Module)]


def offload_groups(pipe: DiffusionPipeline, **options) -> None:
    pipe.transformer.enable_group_offload(CUDA, CPU, **options)


def dispatch(pipe: DiffusionPipeline) -> None:
    """As `from_pretrained(device_map=)` does, which needs an accelerator."""
    for model in models(pipe):
        dispatch_model(model, {"": META}, force_hooks=True)


HOOKED = {
    "model offload": lambda pipe: pipe.enable_model_cpu_offload(device=CUDA),
    "sequential offload": lambda pipe: pipe.enable_sequential_cpu_offload(device=META),
    "blocks": lambda pipe: offload_groups(pipe, offload_type="block_level", num_blocks_per_group=1),
    "leaves": lambda pipe: offload_groups(pipe, offload_type="leaf_level"),
    "device map": dispatch,
}
FREE = {
    "plain": lambda pipe: None,
    "all moved": lambda pipe: pipe.to(META),
    "some moved": lambda pipe: pipe.transformer.to(META),
    "a registry of no hooks": lambda pipe: HookRegistry.check_if_exists_or_initialize(pipe.transformer),
    "layerwise casting": lambda pipe: pipe.transformer.enable_layerwise_casting(torch.bfloat16, torch.float32),
    "compiled": lambda pipe: setattr(pipe, "transformer", torch.compile(pipe.transformer, backend="eager")),
    "one component gone": lambda pipe: setattr(pipe, "text_encoder", None),
    "a module of the user beside": lambda pipe: setattr(pipe, "a_probe", torch.nn.Linear(1, 1, device=META)),
    "no component": lambda pipe: [
        setattr(pipe, name, None) for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)
    ],
}


@pytest.mark.parametrize("way", HOOKED)
def test_where_modules_are_offloaded_the_hooks_decide(way):
    pipe = pipeline()
    HOOKED[way](pipe)
    assert has_offloading_hook(models(pipe))
    assert pipe._execution_device == stock_answer(pipe)
    assert pipe._execution_device.type in ("meta", "cuda")


@pytest.mark.parametrize("way", FREE)
def test_without_offloading_the_models_decide(way):
    pipe = pipeline()
    FREE[way](pipe)
    assert not has_offloading_hook(models(pipe))
    assert pipe._execution_device == stock_answer(pipe)


def test_an_accelerator_comes_before_the_cpu():
    pipe = pipeline()
    pipe.vae = OnAccelerator()
    assert pipe._execution_device == stock_answer(pipe) == torch.device("cuda", 1)


class OnAccelerator(torch.nn.Module):
    device = torch.device("cuda", 1)


def test_the_end_of_offloading_is_seen():
    pipe = pipeline()
    pipe.enable_model_cpu_offload(device=CUDA)
    pipe.remove_all_hooks()
    assert pipe._execution_device == stock_answer(pipe) == CPU


def test_it_is_found_much_faster():
    pipe = pipeline(layers=24)

    def fastest(find) -> float:
        seconds = []
        for _ in range(10):
            start = time.perf_counter()
            find(pipe)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    assert 4 * fastest(TwinFlowPipeline._execution_device.fget) < fastest(stock_answer)
