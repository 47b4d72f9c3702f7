"""A TwinFlow transformer gets its target times however it came into a stock pipeline."""

import logging
from functools import cache

import pytest
import torch

from diffusers_twinflow import TwinFlowScheduler
from diffusers_twinflow.hub import load_published_transformer
from diffusers_twinflow.sampling_calls import only_own_calls
from tests import tiny
from tests.families import tiny_qwen, tiny_z_image
from tests.published import write_published

BUILD = {"qwen": tiny_qwen.qwen_image, "z_image": tiny_z_image.z_image, "sd3": tiny.sd3_pipeline}
UNIT = {"qwen": lambda t: t, "z_image": lambda t: 1 - t, "sd3": lambda t: 1000 * t}
OPTIONS = {"qwen": {"true_cfg_scale": 1.0}, "z_image": {"guidance_scale": 0.0}, "sd3": {"guidance_scale": 0.0}}
SCHEDULER = TwinFlowScheduler(sampling_style="any")


@pytest.fixture(autouse=True)
def no_call_of_another_test():
    with only_own_calls():
        yield


@cache
def built(name):
    return BUILD[name]()


def stock_pipeline(name):
    """A new stock pipeline of components that all tests share."""
    pipeline = built(name)
    return type(pipeline)(**pipeline.components)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    for name in BUILD:
        write_published(root / name, built(name))
    return root


def scheduler_first(pipeline, transformer):
    pipeline.scheduler = SCHEDULER
    pipeline.transformer = transformer
    return pipeline


def by_register_modules(pipeline, transformer):
    pipeline.register_modules(transformer=transformer, scheduler=SCHEDULER)
    return pipeline


def by_assignment(pipeline, transformer):
    pipeline.transformer = transformer
    pipeline.scheduler = SCHEDULER
    return pipeline


def by_constructor(pipeline, transformer):
    return type(pipeline)(**pipeline.components | {"transformer": transformer, "scheduler": SCHEDULER})


def by_from_pipe(pipeline, transformer):
    return type(pipeline).from_pipe(pipeline, transformer=transformer, scheduler=SCHEDULER, dtype=torch.float32)


WAYS = [scheduler_first, by_register_modules, by_assignment, by_constructor, by_from_pipe]


def targets_of(pipeline, name):
    calls = []
    handle = pipeline.transformer.time_conditioning.register_forward_pre_hook(lambda _, times: calls.append(times))
    pipeline.set_progress_bar_config(disable=True)
    pipeline("a", num_inference_steps=3, height=32, width=32, output_type="latent", **OPTIONS[name])
    handle.remove()
    return torch.cat([times[1] for times in calls])


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", BUILD)
def test_every_way(folders, name, way, caplog):
    caplog.set_level(logging.WARNING, logger="diffusers_twinflow")
    transformer = load_published_transformer(folders / name, subfolder="transformer")
    pipeline = way(stock_pipeline(name), transformer)
    targets = targets_of(pipeline, name)
    expected = UNIT[name](pipeline.scheduler.target_timesteps / 1000)
    torch.testing.assert_close(targets, expected)
    assert "without a target time" not in caplog.text


@pytest.mark.parametrize("name", BUILD)
def test_from_pretrained(folders, name):
    transformer = load_published_transformer(folders / name, subfolder="transformer")
    stock = built(name)
    absent = {key: None for key, value in stock.components.items() if value is None}
    pipeline = type(stock).from_pretrained(folders / name, transformer=transformer, scheduler=SCHEDULER, **absent)
    torch.testing.assert_close(targets_of(pipeline, name), UNIT[name](pipeline.scheduler.target_timesteps / 1000))


@pytest.mark.parametrize("name", BUILD)
def test_another_scheduler_is_warned_of(folders, name, caplog):
    caplog.set_level(logging.WARNING, logger="diffusers_twinflow")
    pipeline = stock_pipeline(name)
    pipeline.transformer = load_published_transformer(folders / name, subfolder="transformer")
    pipeline.set_progress_bar_config(disable=True)
    for _ in range(2):
        pipeline("a", num_inference_steps=2, height=32, width=32, output_type="latent", **OPTIONS[name])
    assert caplog.text.count("without a target time") == 1
