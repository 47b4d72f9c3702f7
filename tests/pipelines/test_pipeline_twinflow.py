import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

from diffusers_twinflow import TwinFlowConfigError
from diffusers_twinflow.hub import TwinFlowRepositoryConfig, save_twinflow_model
from diffusers_twinflow.models import TwinFlowSD3Transformer2DModel, enable_twinflow
from diffusers_twinflow.pipelines import TwinFlowPipeline, as_twinflow_pipeline
from diffusers_twinflow.schedulers import TwinFlowScheduler
from tests import tiny

CONFIG = TwinFlowRepositoryConfig(
    train_type="lora", family="stable_diffusion_3", base_model="-", num_inference_steps=2, max_sequence_length=2
)


@pytest.fixture
def pipeline():
    stock = tiny.sd3_pipeline()
    enable_twinflow(stock.transformer, TwinFlowSD3Transformer2DModel)
    with torch.no_grad():
        stock.transformer.time_conditioning.target_timestep_embedder.linear_2.weight.normal_()
    stock.set_progress_bar_config(disable=True)
    return as_twinflow_pipeline(stock, CONFIG)


def draw(pipeline, prompt="a picture", seed=0, **options):
    return pipeline(prompt, generator=torch.Generator().manual_seed(seed), output_type="pt", **options).images


def record_times(pipeline) -> list[tuple[float, float]]:
    seen = []

    def record(module, args, kwargs):
        timestep = kwargs["timestep"]
        seen.append((timestep[0].item(), module._scheduled_target(timestep)[0].item()))

    pipeline.transformer.register_forward_pre_hook(record, with_kwargs=True)
    return seen


def test_is_both_pipelines(pipeline):
    assert isinstance(pipeline, TwinFlowPipeline) and isinstance(pipeline, StableDiffusion3Pipeline)
    assert isinstance(pipeline.scheduler, TwinFlowScheduler)


def test_defaults_are_the_trained_step_count_and_no_guidance(pipeline):
    seen = record_times(pipeline)
    draw(pipeline)
    assert len(seen) == 2 and pipeline.guidance_scale == 0


def test_each_step_has_its_target_time(pipeline):
    seen = record_times(pipeline)
    draw(pipeline)
    assert [target for _, target in seen] == [0, 0]
    seen.clear()
    pipeline.scheduler = TwinFlowScheduler.from_config(pipeline.scheduler.config, sampling_style="any")
    draw(pipeline)
    assert [target for _, target in seen] == [pytest.approx(seen[1][0]), 0]


def test_the_target_time_reaches_the_picture(pipeline):
    few = draw(pipeline)
    pipeline.scheduler = TwinFlowScheduler.from_config(pipeline.scheduler.config, sampling_style="multi")
    assert not torch.equal(few, draw(pipeline))


def test_same_seed_same_picture(pipeline):
    assert torch.equal(draw(pipeline), draw(pipeline))
    assert not torch.equal(draw(pipeline), draw(pipeline, seed=1))


@pytest.mark.parametrize("guidance_scale", [1.0, 4.5])
def test_guidance_is_refused_by_name(pipeline, guidance_scale):
    with pytest.raises(ValueError, match=f"guidance_scale={guidance_scale}"):
        draw(pipeline, guidance_scale=guidance_scale)
    assert torch.equal(draw(pipeline, guidance_scale=0.0), draw(pipeline))


def test_the_stock_arguments(pipeline):
    steps = []

    def callback(pipe, step, timestep, tensors):
        steps.append(step)
        return tensors

    images = draw(pipeline, ["a", "b"], num_inference_steps=4, num_images_per_prompt=3, callback_on_step_end=callback)
    assert images.shape == (6, 3, 16, 16) and steps == [0, 1, 2, 3]
    (array,) = pipeline("a", output_type="np", return_dict=False)
    assert array.shape == (1, 16, 16, 3)
    assert pipeline("a").images[0].size == (16, 16)


def test_a_foreign_scheduler_has_no_targets(pipeline):
    seen = []
    pipeline.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(module._scheduled_target(kwargs["timestep"])), with_kwargs=True
    )
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    assert draw(pipeline).isfinite().all()
    assert seen == [None, None]


def test_a_directory_that_is_no_repository_is_named(tmp_path):
    with pytest.raises(TwinFlowConfigError, match="no twinflow_config.json"):
        TwinFlowPipeline.from_pretrained(tmp_path)


def test_a_missing_base_is_named_with_the_remedy(tmp_path):
    TwinFlowRepositoryConfig(**{**vars(CONFIG), "base_model": str(tmp_path / "gone")}).save(tmp_path)
    with pytest.raises(TwinFlowConfigError, match="(?s)gone.*base_model="):
        TwinFlowPipeline.from_pretrained(tmp_path, local_files_only=True)


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_a_whole_model_loads_in_the_dtype_asked_for(tmp_path, name):
    stock = tiny.sd3_pipeline()
    enable_twinflow(stock.transformer, TwinFlowSD3Transformer2DModel)
    save_twinflow_model(tmp_path, stock, TwinFlowRepositoryConfig(**{**vars(CONFIG), "train_type": "full"}))
    pipeline = TwinFlowPipeline.from_pretrained(tmp_path, **{name: torch.bfloat16})
    assert pipeline.transformer.dtype == pipeline.vae.dtype == pipeline.text_encoder.dtype == torch.bfloat16
