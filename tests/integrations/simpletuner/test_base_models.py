"""Model families and flavours of SimpleTuner: which stock pipeline and base they mean."""

import diffusers
import pytest

from diffusers_twinflow import TwinFlowConfigError
from diffusers_twinflow.families.registry import CLASSES, family_of_pipeline_class
from diffusers_twinflow.integrations.simpletuner import ignored_options, read_recipe, translate_recipe
from diffusers_twinflow.integrations.simpletuner.base_models import (
    FAMILIES,
    FLUX_LORA_TARGETS,
    SPELLINGS,
    UNTRAINABLE,
    base_of,
    pipeline_of,
)
from diffusers_twinflow.models import TWINFLOW_CLASSES
from diffusers_twinflow.training.base_model import check_layer_names
from tests.models.stock import STOCK

SIMPLETUNER = [
    "ace_step",
    "anima",
    "auraflow",
    "boogu_image",
    "chroma",
    "cosmos2image",
    "cosmos3",
    "deepfloyd",
    "ernie",
    "flux",
    "flux2",
    "heartmula",
    "hidream",
    "hunyuanvideo",
    "ideogram",
    "infinitetalk",
    "kandinsky5-image",
    "kandinsky5-video",
    "kolors",
    "krea2",
    "longcat_image",
    "longcat_video",
    "ltxvideo",
    "ltxvideo2",
    "lumina2",
    "mageflow",
    "minimaxh3",
    "minimaxmusic",
    "omnigen",
    "pixart_sigma",
    "qwen_image",
    "sana",
    "sanavideo",
    "sd1x",
    "sd2x",
    "sd3",
    "sdxl",
    "stable_cascade",
    "wan",
    "wan_s2v",
    "z_image",
    "z_image_omni",
    "zlab_i1",
]
"""The model families of SimpleTuner 4.8.0."""
FLAVOURS = [(name, flavour) for name, family in FAMILIES.items() for flavour in family.flavours]


@pytest.mark.parametrize(
    ("family", "base"),
    [
        ("flux", "black-forest-labs/FLUX.1-Krea-dev"),
        ("hidream", "HiDream-ai/HiDream-I1-Full"),
        ("kandinsky5-video", "kandinskylab/Kandinsky-5.0-T2V-Lite-sft-5s-Diffusers"),
        ("qwen_image", "Qwen/Qwen-Image-2512"),
        ("sana", "Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers"),
        ("z_image", "Tongyi-MAI/Z-Image-Turbo"),
        ("sd1x", "Lykon/dreamshaper-8"),
        ("sd3", "stabilityai/stable-diffusion-3.5-medium"),
        ("sdxl", "stabilityai/stable-diffusion-xl-base-1.0"),
        ("stable_diffusion_3", "stabilityai/stable-diffusion-3.5-medium"),
        ("pixart-sigma", "terminusresearch/pixart-900m-1024-ft-v0.6"),
    ],
)
def test_a_family_without_a_flavour_is_its_default_flavour(family, base):
    read = read_recipe({"model_family": family})
    assert read.options["pretrained_model_name_or_path"] == read.defaults["pretrained_model_name_or_path"] == base


@pytest.mark.parametrize(
    ("family", "flavour", "base"),
    [
        ("sd3", None, "stabilityai/stable-diffusion-3.5-medium"),
        ("sd3", "large", "stabilityai/stable-diffusion-3.5-large"),
        ("z-image", "turbo", "Tongyi-MAI/Z-Image-Turbo"),
    ],
)
def test_family_and_flavour_name_the_base(family, flavour, base):
    recipe = {"model_family": family, "model_flavour": flavour}
    assert translate_recipe(recipe)["pretrained_model_name_or_path"] == base
    named = read_recipe(recipe | {"pretrained_model_name_or_path": "me/mine"})
    assert named.options["pretrained_model_name_or_path"] == "me/mine" not in named.defaults


@pytest.mark.parametrize("name", SIMPLETUNER)
def test_every_family_of_simpletuner_has_a_base_or_a_reason(name):
    plain = name.replace("-", "_")
    assert (SPELLINGS.get(plain, plain) in FAMILIES) != (plain in UNTRAINABLE)


def test_flavours_fit_together():
    for family in FAMILIES.values():
        assert family.default in family.flavours.keys() | family.refused.keys()
        assert {*family.training_adapters, *family.pipelines} <= family.flavours.keys()
        assert not family.flavours.keys() & family.refused.keys()


@pytest.mark.parametrize(("name", "flavour"), FLAVOURS)
def test_every_flavour_has_a_base_whose_pipeline_has_a_family(name, flavour):
    assert family_of_pipeline_class(pipeline_of(name, flavour)) is not None
    assert base_of(name, flavour).count("/") == 1


def stock_names(pipeline):
    cls = family_of_pipeline_class(pipeline).transformer_class
    return [name for name, twinflow_class in TWINFLOW_CLASSES.items() if twinflow_class is cls]


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_of_a_lora_are_layers_of_the_stock_model(name):
    family = FAMILIES[name]
    for pipeline in {family.pipeline, *family.pipelines.values()}:
        (stock,) = stock_names(pipeline)
        check_layer_names(STOCK[stock].build(TWINFLOW_CLASSES[stock]), family.lora_layers)


def test_flux_targets_are_layers_of_the_stock_model():
    model = STOCK["FluxTransformer2DModel"].build(diffusers.FluxTransformer2DModel)
    for target in ("all", "all+ffs", "context", "context+ffs"):
        check_layer_names(model, FLUX_LORA_TARGETS[target])


def test_every_stock_pipeline_with_a_family_is_found_by_its_name():
    """One test for all: which pipelines have a family is known once they are imported, for seconds."""
    names = [name for name in dir(diffusers) if name.endswith("Pipeline")]
    pipelines = [name for name in names if family_of_pipeline_class(name) is not None]
    assert len(pipelines) > 100
    for pipeline in pipelines:
        assert pipeline_of(pipeline) == pipeline
        plain = pipeline.removesuffix("Pipeline").lower()
        assert plain in FAMILIES or pipeline_of(plain) == pipeline, pipeline


@pytest.mark.parametrize("name", CLASSES)
def test_our_families_are_found_by_their_names(name):
    stock = pipeline_of(name)
    denoisers = [family_of_pipeline_class(each).transformer_class for each in (stock, CLASSES[name].pipeline)]
    assert denoisers[0] is denoisers[1]


def test_a_pipeline_that_simpletuner_does_not_know_needs_a_base():
    with pytest.raises(TwinFlowConfigError, match="means CogView4Pipeline.*Set pretrained_model_name_or_path"):
        read_recipe({"model_family": "CogView4"})
    recipe = {"model_family": "CogView4", "pretrained_model_name_or_path": "zai-org/CogView4-6B"}
    assert translate_recipe(recipe)["pretrained_model_name_or_path"] == "zai-org/CogView4-6B"


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"model_family": "flux", "model_flavour": "mine"}, "is not one of dev, .*Set pretrained_model_name_or_path"),
        ({"model_family": "ace-step"}, "model_flavour='base' of ace-step cannot be trained: .*not for ACE-Step 1"),
        ({"model_family": "sdxl", "model_flavour": "refiner-1.0"}, "a refiner only finishes"),
        ({"model_family": "kolors"}, "model_family='kolors' cannot be trained: it is a diffusion model"),
        ({"model_family": "IFPipeline"}, "IFPipeline is not a flow-matching pipeline"),
        ({"model_family": "no such"}, "is not a model family. It must be one of ace_step"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused_with_the_reason(recipe, message):
    with pytest.raises(TwinFlowConfigError, match=message):
        read_recipe(recipe)


def test_a_path_does_not_make_an_unsupported_model_trainable():
    with pytest.raises(TwinFlowConfigError, match="'infinitetalk' cannot be trained"):
        read_recipe({"model_family": "infinitetalk", "pretrained_model_name_or_path": "Wan-AI/Wan2.1-I2V"})


def test_a_base_that_simpletuner_trains_with_a_helper_is_named():
    recipe = {"model_family": "z_image"}
    assert "training adapter" in ignored_options(recipe)["model_flavour"]
    for without in (
        {"model_flavour": "base"},
        {"disable_assistant_lora": True},
        {"pretrained_model_name_or_path": "a"},
    ):
        assert "model_flavour" not in ignored_options(recipe | without)
