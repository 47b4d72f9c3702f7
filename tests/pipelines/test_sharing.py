"""Pipelines that share, copy or take over a TwinFlow transformer generate the images of the first one."""

import copy
import gc
import io
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusion3Pipeline,
)

from diffusers_twinflow import TwinFlowConfigError, TwinFlowPipeline, TwinFlowScheduler
from diffusers_twinflow.families import family_of
from diffusers_twinflow.hub import TwinFlowRepositoryConfig
from diffusers_twinflow.models import disable_twinflow, enable_twinflow, is_twinflow_transformer, uncompiled
from diffusers_twinflow.pipelines import as_twinflow_pipeline
from tests import tiny

CONFIG = TwinFlowRepositoryConfig("full", "stable_diffusion_3", "-", num_inference_steps=2, max_sequence_length=2)
IMAGE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
TEXT, PICTURE = {}, {"image": IMAGE, "strength": 1.0}
Text, Img2Img = StableDiffusion3Pipeline, StableDiffusion3Img2ImgPipeline


def stock_pipeline(style: str = "any") -> StableDiffusion3Pipeline:
    pipeline = tiny.sd3_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    enable_twinflow(pipeline.transformer)
    with torch.no_grad():
        weight = pipeline.transformer.time_conditioning.target_timestep_embedder.linear_2.weight
        weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    pipeline.scheduler = TwinFlowScheduler(sampling_style=style)
    return pipeline


def twinflow_pipeline() -> TwinFlowPipeline:
    return as_twinflow_pipeline(stock_pipeline(), CONFIG)


def draw(pipeline, **options) -> torch.Tensor:
    call = {"num_inference_steps": 2, "guidance_scale": 0.0, "max_sequence_length": 2, "output_type": "latent"}
    return pipeline("a picture", generator=torch.Generator().manual_seed(0), **call, **options).images


@pytest.fixture(scope="module", params=[stock_pipeline, twinflow_pipeline])
def pipeline(request):
    gc.freeze()  # so that the tests' `gc.collect` looks through pipelines, not through every imported library
    return request.param()


@pytest.fixture(scope="module")
def expected():
    pipeline = stock_pipeline()
    return {Text: draw(pipeline), Img2Img: draw(Img2Img(**pipeline.components), **PICTURE)}


WAYS = {
    "from_pipe": Text.from_pipe,
    "of its own class": lambda pipe: type(pipe).from_pipe(pipe),
    "img2img": Img2Img.from_pipe,
    "auto img2img": AutoPipelineForImage2Image.from_pipe,
    "components": lambda pipe: Img2Img(**pipe.components),
    "there and back": lambda pipe: Text.from_pipe(Img2Img.from_pipe(pipe)),
    "auto and back": lambda pipe: AutoPipelineForText2Image.from_pipe(AutoPipelineForImage2Image.from_pipe(pipe)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("way", WAYS)
def test_taken_over(pipeline, expected, way):
    """A copy of the first pipeline, which is then gone."""
    first = copy.deepcopy(pipeline)
    other = WAYS[way](first)
    del first
    gc.collect()
    kind = Img2Img if isinstance(other, Img2Img) else Text
    other.set_progress_bar_config(disable=True)
    assert torch.equal(draw(other, **(PICTURE if kind is Img2Img else TEXT)), expected[kind])


def test_inpainting_takes_the_transformer(pipeline):
    other = AutoPipelineForInpainting.from_pipe(pipeline)
    assert type(other) is StableDiffusion3InpaintPipeline and other.transformer is pipeline.transformer


def test_pickled(expected):
    """Before the first call, in which transformers puts hooks on text encoders that do not pickle."""
    for make in (stock_pipeline, twinflow_pipeline):
        pipeline = make()
        loaded = pickle.loads(pickle.dumps(pipeline))
        assert type(loaded) is type(pipeline) and torch.equal(draw(loaded), expected[Text])
        file = io.BytesIO()
        torch.save(pipeline.transformer, file)
        file.seek(0)
        loaded.transformer = torch.load(file, weights_only=False)
        assert torch.equal(draw(loaded), expected[Text])


def test_twinflow_pipeline_from_pipe(expected):
    first = twinflow_pipeline()
    other = TwinFlowPipeline.from_pipe(first)
    assert type(other) is type(first) and other.twinflow_config == CONFIG
    other.set_progress_bar_config(disable=True)
    images = other("a picture", generator=torch.Generator().manual_seed(0), output_type="latent").images
    assert torch.equal(images, expected[Text])
    with pytest.raises(TwinFlowConfigError, match="StableDiffusion3Pipeline has no TwinFlow weights"):
        TwinFlowPipeline.from_pipe(tiny.sd3_pipeline())


def sharing(style: str, transformer: torch.nn.Module) -> StableDiffusion3Pipeline:
    pipeline = stock_pipeline(style)
    pipeline.transformer = transformer
    return pipeline


def test_called_alternately():
    """The second is called first, each keeps its own style, and one with a stock scheduler gets no targets."""
    alone = {style: draw(stock_pipeline(style)) for style in ("any", "multi")}
    transformer = stock_pipeline().transformer
    pipelines = {style: sharing(style, transformer) for style in alone}
    stock = Text(**pipelines["any"].components | {"scheduler": FlowMatchEulerDiscreteScheduler()})
    stock.set_progress_bar_config(disable=True)
    without = draw(stock)
    for style in ("multi", "any", "multi"):
        assert torch.equal(draw(pipelines[style]), alone[style])
        assert torch.equal(draw(stock), without)


def test_called_in_two_threads():
    alone = {style: draw(stock_pipeline(style)) for style in ("any", "multi")}
    transformer, barrier = stock_pipeline().transformer, threading.Barrier(len(alone))
    pipelines = {style: sharing(style, transformer) for style in alone}

    def work(style: str) -> list[torch.Tensor]:
        barrier.wait()
        return [draw(pipelines[style]) for _ in range(3)]

    with ThreadPoolExecutor(len(alone)) as threads:
        for style, images in zip(alone, threads.map(work, alone)):
            assert all(torch.equal(image, alone[style]) for image in images)


def test_an_interrupted_call_leaves_nothing(pipeline):
    """A stock pipeline that starts at the time that the call had reached gets no target."""

    class StopError(Exception):
        pass

    def stop(*_):
        raise StopError

    stock = Text(**pipeline.components | {"scheduler": FlowMatchEulerDiscreteScheduler()})
    stock.set_progress_bar_config(disable=True)
    sigmas = TwinFlowScheduler(sampling_style="any")
    sigmas.set_timesteps(2)
    given = {"num_inference_steps": None, "sigmas": sigmas.sigmas[1:-1].tolist()}
    before = stock("a", generator=torch.Generator().manual_seed(0), output_type="latent", guidance_scale=0.0, **given)
    with pytest.raises(StopError):
        draw(as_twinflow_pipeline(copy.copy(pipeline), CONFIG), callback_on_step_end=stop)
    after = stock("a", generator=torch.Generator().manual_seed(0), output_type="latent", guidance_scale=0.0, **given)
    assert torch.equal(before.images, after.images)


def compiled_around(transformer: torch.nn.Module) -> torch.nn.Module:
    return torch.compile(transformer, backend="eager")


def compiled_in_place(transformer: torch.nn.Module) -> torch.nn.Module:
    transformer.compile(backend="eager")
    return transformer


@pytest.mark.slow
@pytest.mark.parametrize("compile", [compiled_around, compiled_in_place])
def test_compiled_and_switched_off(compile, expected):
    torch._dynamo.reset()
    pipeline, stock = stock_pipeline(), tiny.sd3_pipeline()
    pipeline.transformer = compile(pipeline.transformer)
    torch.testing.assert_close(draw(pipeline), expected[Text], atol=1e-5, rtol=1e-4)
    assert is_twinflow_transformer(pipeline.transformer)
    disable_twinflow(pipeline.transformer)
    pipeline.scheduler = stock.scheduler
    assert type(uncompiled(pipeline.transformer)) is type(stock.transformer)
    torch.testing.assert_close(draw(pipeline), draw(stock), atol=1e-5, rtol=1e-4)
    torch._dynamo.reset()


def test_a_compiled_model_is_not_switched_on():
    with pytest.raises(TypeError, match="SD3Transformer2DModel is compiled. Call enable_twinflow before"):
        enable_twinflow(torch.compile(tiny.sd3_transformer(), backend="eager"))


def test_the_family_of_another_task(pipeline):
    assert family_of(Img2Img.from_pipe(pipeline)).name == family_of(pipeline).name == "stable_diffusion_3"
