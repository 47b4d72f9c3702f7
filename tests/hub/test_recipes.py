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
        ({"model_family": "wan"}, "model_family='wan' is not supported"),
        ({"model_family": ["sd3"]}, "is not supported"),
        ({"model_type": "controlnet"}, "it must be 'lora' or 'full'"),
        ({"lora_type": "lycoris"}, "lora_type='lycoris'"),
        ({"controlnet": True}, "controlnet=True is not supported"),
        ({"num_train_epochs": 3}, "give max_train_steps"),
        ({"resolution": 1.0}, "whole number of pixels"),
        ({"validation_num_inference_steps": 2.5}, "whole number"),
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
    assert translate_recipe({"--optimizer": "adamw_bf16", "seed": 1}) == {"seed": 1}


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
