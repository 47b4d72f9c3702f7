import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diffusers_twinflow import TwinFlowConfigError
from diffusers_twinflow.integrations.simpletuner.base_models import FLUX_LORA_TARGETS
from diffusers_twinflow.integrations.simpletuner.defaults import DEFAULTS, LORA_DEFAULTS, VERSION
from diffusers_twinflow.integrations.simpletuner.option_table import TABLE
from diffusers_twinflow.integrations.simpletuner.recipes import ignored_options, read_recipe, translate_recipe

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


LEFT_OUT = {
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-6,
    "adam_weight_decay": 0.01,
    "allow_tf32": True,
    "caption_dropout_probability": 0.1,
    "checkpoints_total_limit": 5,
    "gradient_checkpointing": True,
    "lora_dropout": 0.1,
    "lora_layers": ["to_k", "to_q", "to_v", "to_out.0"],
    "lr_power": 0.8,
    "lr_scheduler": "constant_with_warmup",
    "max_grad_norm": 2.0,
    "num_train_epochs": 1,
    "num_validation_images": 1,
    "resolution": 1024,
    "twinflow_ema_decay": 0.995,
    "validation_steps": 100,
}


def asked(recipe, known=()):
    """What a recipe itself asks for."""
    read = read_recipe(recipe, known)
    return {name: value for name, value in read.options.items() if name not in read.defaults}


def test_a_documented_recipe():
    for recipe in (RECIPE, {f"--{name}": value for name, value in RECIPE.items()}):
        read = read_recipe(recipe)
        assert read.defaults == LEFT_OUT and read.options == TRANSLATED | LEFT_OUT


# What a recipe leaves out


def test_a_recipe_without_rank_and_resolution_has_those_of_simpletuner():
    """The page's own quick recipe names no rank, resolution or checkpointing."""
    quick = {name: value for name, value in RECIPE.items() if name not in ("lora_rank", "train_batch_size")}
    options = translate_recipe(quick)
    assert (options["rank"], options["resolution"], options["train_batch_size"]) == (16, 1024, 4)
    assert options["gradient_checkpointing"] is True and options["caption_dropout_probability"] == 0.1
    assert options["adam_weight_decay"] == 0.01


def test_a_recipe_without_a_model_type_trains_all_weights():
    options = translate_recipe({"model_family": "sd3", "lora_rank": 16})
    assert options["train_type"] == "full" and not {"lora_dropout", "lora_layers"} & options.keys()
    assert options["learning_rate"] == 4e-7


def test_null_is_left_out():
    nothing = {
        "lora_rank": None,
        "model_type": "lora",
        "model_flavour": None,
        "resolution": None,
        "no_such_name": None,
    }
    options = translate_recipe({"model_family": "sd3"} | nothing)
    assert (options["rank"], options["resolution"]) == (16, 1024)
    assert options["pretrained_model_name_or_path"] == "stabilityai/stable-diffusion-3.5-medium"


def test_the_end_of_the_run():
    family = {"model_family": "sd3"}
    assert translate_recipe(family)["num_train_epochs"] == 1
    assert "num_train_epochs" not in translate_recipe(family | {"max_train_steps": 9})
    assert "num_train_epochs" not in translate_recipe(family | {"max_train_steps": 9, "num_train_epochs": 0})


def test_the_decay_is_that_of_the_average_that_is_kept():
    family = {"model_family": "sd3", "use_ema": True}
    assert translate_recipe(family | {"twinflow_enabled": True})["twinflow_ema_decay"] == 0.995
    assert translate_recipe(family)["flow_matching_ema_decay"] == 0.995
    plain = translate_recipe(family | {"ema_decay": 0.9})
    assert plain["flow_matching_ema_decay"] == 0.9 and "twinflow_ema_decay" not in plain
    assert translate_recipe(family | {"ema_decay": 0.9, "twinflow_enabled": True})["twinflow_ema_decay"] == 0.9


def test_a_recipe_of_our_own_has_our_defaults():
    own = {
        "rank": 8,
        "twinflow_enabled": True,
        "learning_rate": 1e-4,
        "distillation_method": None,
        "guidance_scale": 0,
    }
    assert read_recipe(own, known=["rank"]).defaults == {}
    assert VERSION == "4.8.0" and not DEFAULTS.keys() & LORA_DEFAULTS.keys()


def test_optimizer_defaults_are_those_of_the_optimizer():
    prodigy = translate_recipe({"model_family": "sd3", "optimizer": "prodigy"})
    assert (prodigy["adam_weight_decay"], prodigy["prodigy_use_bias_correction"]) == (0.0, False)


def test_our_own_recipe_stays():
    own = {"rank": 8, "lora_layers": ["attn.to_q"], "cache_latents": True, "twinflow_enabled": True}
    assert translate_recipe(own, known=own) == own


def test_step_count_of_the_validation():
    enabled = {"twinflow_enabled": True, "validation_num_inference_steps": 4}
    assert translate_recipe(enabled)["twinflow_target_step_count"] == 4
    assert translate_recipe(enabled | {"twinflow_target_step_count": 2})["twinflow_target_step_count"] == 2
    assert "twinflow_target_step_count" not in translate_recipe({"validation_num_inference_steps": 30})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distillation_method": "dcm"}, "distillation_method='dcm' contradicts"),
        ({"guidance_scale": 4.5}, "guidance_scale=4.5 contradicts"),
        ({"guidance_scale": "3.0"}, "guidance_scale='3.0' contradicts"),
        ({"guidance_scale": "much"}, "must be a number"),
        ({"scheduled_sampling_max_step_offset": 10}, "scheduled sampling must be off"),
        ({"twinflow_enhanced_ration": 0.5}, "Did you mean 'twinflow_enhanced_ratio'"),
        ({"learning_rat": 1}, "Did you mean 'learning_rate'"),
        ({"--learning_rate": 2e-4}, "'learning_rate' is given twice"),
        ({"rank": 8}, "unknown option 'rank'. Remove it"),
        ({"gradient_checkpointin": False}, "Did you mean 'gradient_checkpointing'"),
        ({"instanceprompt": "a fox"}, "Did you mean 'instance_prompt'"),
        ({"twinflow_enabled": "perhaps"}, "twinflow_enabled='perhaps' must be true or false"),
        ({"use_ema": 0.5}, r"use_ema=0\.5 must be true or false"),
        ({"only_instance_prompt": True}, "instance_prompt=None. Set it"),
        ({"flux_lora_target": "ai-toolkit"}, "Set lora_layers to the layer names"),
        ({"peft_lora_target_modules": [1]}, "peft_lora_target_modules=.* is not valid"),
        ({"pretrained_transformer_model_name_or_path": "me/mine"}, "save a pipeline that includes this part"),
        ({"revision": "a", "base_model_revision": "b"}, "sets revision='b'"),
        (
            {"model_family": "hidre", "pretrained_model_name_or_path": None},
            "model_family='hidre' is not a model family",
        ),
        ({"model_family": "mageflow"}, "model_family='mageflow' cannot be trained: diffusers has no such model"),
        ({"crepa_enabled": True, "model_family": "mageflow"}, "model_family='mageflow' cannot be trained"),
        ({"model_family": ["sd3"]}, "must be a string"),
        ({"model_type": "controlnet"}, "it must be 'lora' or 'full'"),
        ({"lora_type": "dora"}, "lora_type='dora' is not one of standard, lycoris"),
        ({"controlnet": True}, "controlnet=True is not supported: it trains a ControlNet"),
        ({"ltx2_prefix_conditioning_probability": 0.25}, "no reference images and no given frames; leave it out"),
        ({"optimizer": "dadapt-lion"}, "use 'adamw' or 'prodigy'"),
        ({"lr_scheduler": "sine"}, "use 'cosine'"),
        ({"crepa_enabled": True}, "crepa_enabled=True is not supported"),
        ({"diffusion_blocks_config": {"layers": 100 * [1]}}, r"diffusion_blocks_config=.{80}\.\.\. is not supported"),
        ({"data_backend_config": "no/such.json"}, "'no/such.json' does not exist"),
        ({"resolution": 1.0}, "whole number of pixels"),
        ({"resolution": True}, "a number above 0"),
        ({"validation_num_inference_steps": 2.5}, "whole number"),
        ({"validation_resolution": "large"}, "give sizes such as 1024x1024"),
        ({"validation_prompt": 3}, "must be a string"),
    ],
)
def test_refused(changes, message):
    with pytest.raises(TwinFlowConfigError, match=message):
        translate_recipe(RECIPE | changes)


@pytest.mark.parametrize("value", [None, "", False, 0, "none"])
def test_off_in_every_spelling(value):
    assert translate_recipe(RECIPE | {"distillation_method": value, "scheduled_sampling_max_step_offset": value})


def test_guidance_is_no_contradiction_without_twinflow():
    assert asked({"twinflow_enabled": False, "guidance_scale": 4.5}) == {"twinflow_enabled": False}


def test_guidance_of_validation_images_is_ignored_with_the_option_that_replaces_it():
    read = read_recipe(RECIPE | {"validation_guidance": 4.5, "validation_guidance_real": 1.0})
    assert "twinflow_enhanced_ratio" in read.ignored["validation_guidance"] and read.options == TRANSLATED | LEFT_OUT


def test_an_adapter_and_a_loss_of_another_kind_are_replaced_with_a_reason():
    read = read_recipe(RECIPE | {"lora_type": "lycoris", "loss_type": "huber", "tread_config": {"routes": []}})
    assert read.options == TRANSLATED | LEFT_OUT
    assert read.ignored.keys() == {"lora_type", "loss_type", "tread_config"}
    assert "LoRA of the rank in lora_rank" in read.ignored["lora_type"]


@pytest.mark.parametrize("name", ["init_lora", "init_lora_from"])
def test_a_lora_to_start_from_is_merged_into_the_base(name):
    read = read_recipe(RECIPE | {name: "me/style"})
    assert read.options["base_loras"] == ["me/style"] and "merged into the base" in read.ignored[name]
    with pytest.raises(TwinFlowConfigError, match=f"{name}=3 must be a string"):
        read_recipe(RECIPE | {name: 3})


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


def test_zero_steps_are_those_of_the_epochs():
    assert translate_recipe({"max_train_steps": 0, "num_train_epochs": 3}) == {"num_train_epochs": 3}
    assert translate_recipe({"max_train_steps": 9, "num_train_epochs": 0}) == {"max_train_steps": 9}


@pytest.mark.parametrize("value", [768, "768", "768x768", "1280x512, 768x768"])
def test_size_of_the_validation(value):
    assert translate_recipe({"validation_resolution": value}) == {"validation_resolution": 768}


def test_resolution_in_megapixels():
    assert asked({"resolution": 0.25, "resolution_type": "area"}) == {"resolution": 512}
    assert asked({"resolution": 512.0, "resolution_type": "pixel"}) == {"resolution": 512}


def test_a_validation_without_a_square_is_named():
    recipe = {"validation_resolution": "832x480"}
    assert translate_recipe(recipe) == {} and "no size is square" in ignored_options(recipe)["validation_resolution"]


def test_a_validation_that_is_disabled_draws_nothing():
    recipe = {"validation_prompt": "a fox", "validation_disable": True}
    assert "validation_prompts" not in translate_recipe(recipe)
    assert translate_recipe(recipe | {"validation_disable": False})["validation_prompts"] == ["a fox"]


# Values in other spellings


@pytest.mark.parametrize("value", [True, "true", "True", "yes", "on", "1", 1])
def test_true_in_every_spelling(value):
    recipe = {"twinflow_enabled": value, "gradient_checkpointing": value, "disable_tf32": value}
    assert asked(recipe) == {"twinflow_enabled": True, "gradient_checkpointing": True, "allow_tf32": False}


@pytest.mark.parametrize("value", [False, "false", "no", "off", "0", 0, "", []])
def test_false_in_every_spelling(value):
    recipe = {"twinflow_enabled": value, "gradient_checkpointing": value, "disable_tf32": value}
    assert asked(recipe) == {"twinflow_enabled": False, "gradient_checkpointing": False, "allow_tf32": True}


def test_a_text_that_is_off_is_left_out():
    off = {"hub_model_id": "", "logging_dir": False, "lora_alpha": None, "model_flavour": "", "lora_layers": []}
    assert asked(off, known=["lora_layers"]) == {"lora_layers": []}


# Unknown names, and names that are off


@pytest.mark.parametrize("value", [None, False, "", [], {}])
def test_an_unknown_name_that_is_off_does_not_matter(value):
    assert translate_recipe({"some_new_feature": value}) == {} and ignored_options({"some_new_feature": value}) == {}


@pytest.mark.parametrize(
    "name",
    [
        "maximum_image_edge",
        "disable_tf16",
        "allow_bf16",
        "adam_beta3",
        "pretrained_something_model_name_or_path",
        "min_x",
    ],
)
def test_a_hint_never_names_an_option_of_another_meaning(name):
    with pytest.raises(TwinFlowConfigError, match="Remove it") as error:
        translate_recipe({name: 3})
    assert "Did you mean" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["pretrained_vae_model_name_or_path", "maximum_image_size", "target_downsample_size", "framerate"]
)
def test_options_that_used_to_be_unknown_are_named_with_a_reason(name):
    recipe = {name: "x", "model_family": "sd3"}
    assert ignored_options(recipe)[name] and read_recipe(recipe).options.get(name) is None


# Quantisation, layers and prompts


@pytest.mark.parametrize(
    ("precision", "quantization"),
    [("int8-quanto", "torchao_int8"), ("int8-torchao", "torchao_int8"), ("nf4-bnb", "bnb_4bit")],
)
def test_a_quantised_base_is_one(precision, quantization):
    recipe = {"model_type": "lora", "base_model_precision": precision}
    assert asked(recipe) == {"train_type": "lora", "quantize_base": quantization}
    assert ignored_options(recipe) == {}
    full = {"model_type": "full", "base_model_precision": precision}
    for recipe in (full, {"base_model_precision": precision}):
        assert "quantize_base" not in translate_recipe(recipe)
        assert "unquantized" in ignored_options(recipe)["base_model_precision"]


def test_another_quantisation_names_ours():
    for precision in ("fp8-torchao", "int4-quanto", "int8-sdnq"):
        reasons = ignored_options({"model_type": "lora", "base_model_precision": precision})
        assert "--quantize_base" in reasons["base_model_precision"]
    assert ignored_options({"model_type": "lora", "base_model_precision": "no_change"}) == {}


@pytest.mark.parametrize("value", [["to_q", "to_k"], "to_q, to_k", '["to_q", "to_k"]'])
def test_layers_of_the_lora(value):
    recipe = {"model_family": "flux", "model_type": "lora", "peft_lora_target_modules": value}
    assert translate_recipe(recipe)["lora_layers"] == ["to_q", "to_k"]


def test_layers_of_a_flux_lora():
    recipe = {"model_family": "flux", "model_type": "lora"}
    assert translate_recipe(recipe)["lora_layers"] == FLUX_LORA_TARGETS["all"]
    named = translate_recipe(recipe | {"flux_lora_target": "tiny"})
    assert named["lora_layers"] == [f"single_transformer_blocks.{block}.proj_out" for block in (7, 20)]


def test_only_the_instance_prompt():
    recipe = {"instance_data_dir": "images", "instance_prompt": "a fox", "only_instance_prompt": True}
    assert asked(recipe) == {
        "instance_data_dir": "images",
        "caption_strategy": "instance_prompt",
        "instance_prompt": "a fox",
    }


@example({"ema_decay": False})
@given(
    st.dictionaries(
        st.sampled_from(sorted({*TABLE, *RECIPE, "--x"})),
        st.none() | st.booleans() | st.floats() | st.text() | st.lists(st.text()),
    )
)
def test_any_json_is_translated_or_refused_clearly(options):
    try:
        assert isinstance(translate_recipe(options), dict)
    except TwinFlowConfigError as error:
        assert str(error)


def test_the_old_place_of_the_names_says_where_they_are():
    with pytest.warns(FutureWarning, match="integrations.simpletuner"):
        from diffusers_twinflow.hub import translate_recipe as moved
    assert moved is translate_recipe
