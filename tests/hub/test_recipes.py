import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusers_twinflow import TwinFlowConfig, TwinFlowConfigError
from diffusers_twinflow.hub.recipes import RENAMED, ignored_options, translate_recipe

RECIPE = {
    "model_family": "sd3",
    "model_type": "lora",
    "pretrained_model_name_or_path": "stabilityai/stable-diffusion-3.5-large",
    "output_dir": "output/sd3-twinflow",
    "distillation_method": None,
    "use_ema": True,
    "twinflow_enabled": True,
    "twinflow_target_step_count": 2,
    "twinflow_estimate_order": 2,
    "twinflow_enhanced_ratio": 0.5,
    "twinflow_delta_t": 0.01,
    "twinflow_target_clamp": 1.0,
    "learning_rate": 1e-4,
    "lora_rank": 16,
    "train_batch_size": 1,
    "gradient_accumulation_steps": 4,
    "mixed_precision": "bf16",
    "validation_guidance": 0.0,
    "validation_num_inference_steps": 2,
    "validation_prompt": "a fox",
}
TRANSLATED = {
    "train_type": "lora",
    "pretrained_model_name_or_path": "stabilityai/stable-diffusion-3.5-large",
    "output_dir": "output/sd3-twinflow",
    "use_ema": True,
    "twinflow_enabled": True,
    "twinflow_target_step_count": 2,
    "twinflow_estimate_order": 2,
    "twinflow_enhanced_ratio": 0.5,
    "twinflow_delta_t": 0.01,
    "twinflow_target_clamp": 1.0,
    "learning_rate": 1e-4,
    "rank": 16,
    "train_batch_size": 1,
    "gradient_accumulation_steps": 4,
    "mixed_precision": "bf16",
    "validation_prompts": ["a fox"],
}


def test_a_documented_recipe():
    assert translate_recipe(RECIPE) == TRANSLATED
    assert translate_recipe({f"--{name}": value for name, value in RECIPE.items()}) == TRANSLATED


def test_our_own_recipe_stays():
    own = {"rank": 8, "lora_layers": ["attn.to_q"], "cache_latents": True, "twinflow_enabled": True}
    assert translate_recipe(own, known=own) == own


def test_the_family_names_the_base_where_nothing_else_does():
    base = translate_recipe({"model_family": "flux"})["pretrained_model_name_or_path"]
    assert base == "black-forest-labs/FLUX.1-dev"


def test_step_count_of_the_validation():
    enabled = {"twinflow_enabled": True, "validation_num_inference_steps": 4}
    assert translate_recipe(enabled)["twinflow_target_step_count"] == 4
    assert translate_recipe(enabled | {"twinflow_target_step_count": 2})["twinflow_target_step_count"] == 2
    assert "twinflow_target_step_count" not in translate_recipe({"validation_num_inference_steps": 30})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distillation_method": "dcm"}, "distillation_method='dcm' contradicts"),
        ({"validation_guidance": 4.5}, "validation_guidance=4.5 contradicts"),
        ({"validation_guidance": "3.0"}, "validation_guidance=3.0 contradicts"),
        ({"validation_guidance": "much"}, "must be a number"),
        ({"scheduled_sampling_max_step_offset": 10}, "scheduled sampling must be off"),
        ({"twinflow_enhanced_ration": 0.5}, "Did you mean 'twinflow_enhanced_ratio'"),
        ({"learning_rat": 1}, "Did you mean 'learning_rate'"),
        ({"--learning_rate": 2e-4}, "'learning_rate' is given twice"),
        ({"rank": 8}, "unknown option 'rank'"),
        ({"revision": "a", "base_model_revision": "b"}, "says revision='b'"),
        ({"model_family": "wan", "pretrained_model_name_or_path": None}, "model_family='wan' is none of sd3"),
        ({"model_family": ["sd3"]}, "must be a text"),
        ({"model_type": "controlnet"}, "it must be 'lora' or 'full'"),
        ({"lora_type": "lycoris"}, "lora_type='lycoris'"),
        ({"controlnet": True}, "controlnet=True is not supported"),
        ({"optimizer": "dadapt-lion"}, "use 'adamw' or 'prodigy'"),
        ({"lr_scheduler": "sine"}, "use 'cosine'"),
        ({"loss_type": "huber"}, "set twinflow_loss"),
        ({"crepa_enabled": True}, "crepa_enabled=True is not supported"),
        ({"tread_config": {"routes": []}}, "tread_config=.* is not supported"),
        ({"data_backend_config": "no/such.json"}, "'no/such.json' does not exist"),
        ({"resolution": 1.0}, "whole number of pixels"),
        ({"resolution": True}, "a number above 0"),
        ({"validation_num_inference_steps": 2.5}, "whole number"),
        ({"validation_resolution": "1280x768"}, "no square size"),
        ({"validation_prompt": 3}, "must be a text"),
    ],
)
def test_refused(changes, message):
    with pytest.raises(TwinFlowConfigError, match=message):
        translate_recipe(RECIPE | changes)


@pytest.mark.parametrize("value", [None, "", False, 0, "none"])
def test_off_in_every_spelling(value):
    assert translate_recipe(RECIPE | {"distillation_method": value, "scheduled_sampling_max_step_offset": value})


def test_guidance_is_no_contradiction_without_twinflow():
    assert translate_recipe({"twinflow_enabled": False, "validation_guidance": 4.5}) == {"twinflow_enabled": False}


def test_what_is_left_out_is_named():
    assert ignored_options({"--optimizer": "adamw_bf16", "seed": 1}) == {"optimizer": "the optimizer is AdamW"}
    assert translate_recipe({"--optimizer": "adamw_bf16", "seed": 1}) == {"optimizer": "adamw", "seed": 1}
    assert (
        ignored_options({"optimizer": "prodigy", "validation_prompt_library": False, "rank": 1}, known=["rank"]) == {}
    )
    assert ignored_options({"sdnq_group_size": -1, "vae_dtype": "bf16"}).keys() == {"sdnq_group_size", "vae_dtype"}


def test_an_option_of_ours_is_not_left_out():
    own = {"caption_strategy": "column", "optimizer": "prodigy"}
    assert translate_recipe(own, known=own) == own and ignored_options(own, known=own) == {}


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
    named = recipe | {"pretrained_model_name_or_path": "me/mine"}
    assert translate_recipe(named) == {"pretrained_model_name_or_path": "me/mine"}


def test_a_flavour_that_is_not_known_needs_a_name():
    with pytest.raises(TwinFlowConfigError, match="name it with pretrained_model_name_or_path"):
        translate_recipe({"model_family": "flux", "model_flavour": "fluxbooru"})


def test_zero_steps_are_those_of_the_epochs():
    assert translate_recipe({"max_train_steps": 0, "num_train_epochs": 3}) == {"num_train_epochs": 3}
    assert translate_recipe({"max_train_steps": 9, "num_train_epochs": 0}) == {"max_train_steps": 9}


@pytest.mark.parametrize("value", [768, "768", "768x768", "1280x512, 768x768"])
def test_size_of_the_validation(value):
    assert translate_recipe({"validation_resolution": value}) == {"validation_resolution": 768}


def test_resolution_in_megapixels():
    assert translate_recipe({"resolution": 1.0, "resolution_type": "area"}) == {"resolution": 1024}
    assert translate_recipe({"resolution": 512.0, "resolution_type": "pixel"}) == {"resolution": 512}


def test_every_twinflow_option_is_known():
    assert set(TwinFlowConfig.option_names()) <= set(RENAMED)


@given(
    st.dictionaries(
        st.sampled_from(sorted({*RENAMED, *RECIPE, "--x"})),
        st.none() | st.booleans() | st.floats() | st.text() | st.lists(st.text()),
    )
)
def test_any_json_is_translated_or_refused_clearly(options):
    try:
        assert isinstance(translate_recipe(options), dict)
    except TwinFlowConfigError as error:
        assert str(error)
