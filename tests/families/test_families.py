"""Every family of the kit's list, from its velocity to an image of the model that the training script saved."""

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.data.trial import blank_latents
from diffusers_twinflow.families import family_of, is_flow_matching
from diffusers_twinflow.hub.stock_pipelines import load_stock_pipeline
from diffusers_twinflow.models import TwinFlowTransformerMixin
from diffusers_twinflow.pipelines import TwinFlowPipeline
from tests import tiny
from tests.families import kit

pytestmark = pytest.mark.usefixtures("small_references")
REPRESENTATIVES = ("stable_diffusion_3", "flux2", "qwen_image_edit", "z_image", "wan", "stable_diffusion_xl")
each_case = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.id, marks=() if case.id in REPRESENTATIVES else pytest.mark.slow)
        for case in kit.CASES
    ],
)
IN_SHORT = ("stable_diffusion_3-lora", "qwen_image_edit-lora")
EACH_STEP = [
    pytest.param(case, kind, id=f"{case.id}-{kind}", marks=() if f"{case.id}-{kind}" in IN_SHORT else pytest.mark.slow)
    for case in kit.CASES
    for kind in ("lora", "full")
]


@each_case
def test_canonical_velocity_is_the_stock_pipelines(case):
    kit.check_velocity(case)


@each_case
def test_latents_are_scaled_as_the_pipeline_scales_them(case):
    kit.check_decoding(case)
    kit.check_encoding(case)


@each_case
def test_the_shape_of_latents_is_known_without_encoding(case):
    def encode(pixels):
        raise AssertionError("the autoencoder was run")

    config = dict(case.pipeline.config)
    found = blank_latents(case.family, case.pipeline, case.pixels(1), encode)
    assert found.shape == case.family.encode_distribution(case.pipeline, case.pixels(1)).mean.shape
    assert dict(case.pipeline.config) == config and found.device.type == "cpu"


@each_case
def test_conditions_stack(case):
    kit.check_padding(case)


@pytest.fixture
def images(tmp_path):
    tiny.image_folder(tmp_path / "images")
    return kit.add_references(tmp_path / "images")


@pytest.mark.parametrize(("case", "train_type"), EACH_STEP)
def test_a_step_of_the_script_to_a_picture(case, train_type, script, images, tmp_path):
    base, out = tmp_path / "base", tmp_path / "out"
    case.pipeline.save_pretrained(base)
    kit.train(script, case, base, images, out, train_type)
    assert (out / "validation" / "step-000001.png").is_file()
    pipeline = TwinFlowPipeline.from_pretrained(out, merge=False)
    pipeline.set_progress_bar_config(disable=True)
    model = case.family.denoiser(pipeline)
    assert isinstance(model, TwinFlowTransformerMixin) and model.twinflow_enabled
    if train_type == "lora":
        trained = kit.trained_layers(model, case.family.lora_targets(model))
        assert all(trained.values()), trained
    picture = kit.draw(case, pipeline)
    assert picture.isfinite().all() and picture.shape == (3, case.resolution, case.resolution)
    assert pipeline.scheduler.num_inference_steps == 1
    assert not torch.equal(picture, kit.draw(case, load_stock_pipeline(case.family, base)))


@each_case
def test_loading_gives_back_what_was_saved(case, tmp_path):
    case.pipeline.save_pretrained(tmp_path)
    loaded = load_stock_pipeline(case.family, tmp_path)
    assert type(loaded) is case.family.pipeline_class is type(case.pipeline)
    present = {name: component is not None for name, component in case.pipeline.components.items()}
    assert present == {name: component is not None for name, component in loaded.components.items()}
    mine, theirs = (case.family.denoiser(pipeline).state_dict() for pipeline in (loaded, case.pipeline))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_a_subclass_of_a_pipeline_is_of_its_family():
    cls = type("Mine", (StableDiffusion3Pipeline,), {})
    assert family_of(cls).name == family_of(tiny.sd3_pipeline()).name == "stable_diffusion_3"


def test_unknown_pipelines_are_refused_by_name():
    with pytest.raises(TwinFlowConfigError, match="DDPMPipeline.*StableDiffusion3Pipeline"):
        family_of("DDPMPipeline")


def test_flow_matching_is_told_by_the_scheduler():
    assert is_flow_matching("FlowMatchEulerDiscreteScheduler", {})
    assert is_flow_matching("DPMSolverMultistepScheduler", {"prediction_type": "flow_prediction"})
    assert not is_flow_matching("DDIMScheduler", {"prediction_type": "epsilon"})
