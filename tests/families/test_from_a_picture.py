"""Pipelines that start from a noised image are trained as the pipeline of their family, and generate with the result."""

import diffusers
import pytest
import torch
from PIL import Image

from diffusers_twinflow import TwinFlowConfig, load_twinflow_lora
from diffusers_twinflow.families.registry import CLASSES, family_of
from diffusers_twinflow.methods import TwinFlow
from diffusers_twinflow.training import Trainer, TrainingArguments
from tests import tiny
from tests.families.kit import CASES
from tests.fresh_accelerator import fresh_accelerator

PIPELINES = [(name, pipeline) for name, classes in CLASSES.items() for pipeline in classes.from_picture]
FIRST = "StableDiffusion3Img2ImgPipeline"


@pytest.mark.parametrize(
    ("name", "class_name"),
    [pytest.param(*each, marks=() if each[1] == FIRST else pytest.mark.slow, id=each[1]) for each in PIPELINES],
)
def test_a_step_on_images_to_an_image(name, class_name, tmp_path, image_dir):
    case = next(case for case in CASES if case.family_name == name)
    pipeline = build(case, class_name)
    pipeline.save_pretrained(tmp_path / "base")
    arguments = TrainingArguments(
        str(tmp_path / "base"),
        output_dir=str(tmp_path / "out"),
        dataset_name=str(image_dir),
        resolution=case.resolution,
        max_sequence_length=case.max_sequence_length,
        train_batch_size=2,
        max_train_steps=1,
        learning_rate=1e-2,
        rank=2,
        save_ema=False,
    )
    with fresh_accelerator():
        trainer = Trainer(None, arguments, TwinFlow(TwinFlowConfig(twinflow_enabled=True)))
        trainer.train()
    assert not trainer.problems and trainer.family.name == name

    assert family_of(pipeline).name == name
    before = draw(case, pipeline)
    load_twinflow_lora(pipeline, tmp_path / "out")
    after = draw(case, pipeline)
    assert after.shape == before.shape and after.isfinite().all() and not torch.equal(after, before)


def build(case, class_name):
    """The components of the family's pipeline in a pipeline of this class."""
    needs_channels = class_name == "StableDiffusion3InpaintPipeline"
    built = tiny.sd3_pipeline(channels=16) if needs_channels else case.build()
    cls, components = getattr(diffusers, class_name), built.components
    return cls(**{name: components.get(name) for name in cls._get_signature_types()})


@torch.no_grad()
def draw(case, pipeline):
    pipeline.set_progress_bar_config(disable=True)
    side = case.resolution
    call = {"image": Image.new("RGB", (side, side), "red"), "height": side, "width": side, "strength": 0.7}
    if "Inpaint" in type(pipeline).__name__:
        call["mask_image"] = Image.new("L", (side, side), "white")
    call |= case.family.guidance_off
    generator = torch.Generator().manual_seed(0)
    return pipeline(prompt="a", num_inference_steps=4, generator=generator, output_type="pt", **call).images
