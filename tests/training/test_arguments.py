import json

import pytest
from diffusers.optimization import SchedulerType

from diffusers_twinflow.cli.train import parse_args
from diffusers_twinflow.configuration import FlowMatchingConfig, TwinFlowConfig, TwinFlowConfigError
from diffusers_twinflow.data.captions import CAPTION_STRATEGIES
from diffusers_twinflow.methods import FlowMatching, TwinFlow
from diffusers_twinflow.options import default_of, from_json, options_of, unused_options
from diffusers_twinflow.training.arguments import DIFFUSERS_LR_SCHEDULERS, TrainingArguments, save_options
from diffusers_twinflow.training.checks import unused_arguments
from diffusers_twinflow.training.recipe import build_options, load_recipe


@pytest.fixture
def recipe(tmp_path):
    def write(**options):
        path = tmp_path / "recipe.json"
        path.write_text(json.dumps(options))
        return path

    return write


def test_arguments_override_the_file_and_the_file_the_defaults(recipe):
    path = recipe(rank=7, twinflow_enabled=True, validation_prompt=["a b"])
    arguments, _, twinflow = parse_args(["--config", str(path), "--no-twinflow_enabled", "--seed=3"])
    assert (arguments.rank, twinflow.twinflow_enabled, arguments.validation_prompts) == (7, False, ["a b"])
    assert (arguments.seed, arguments.learning_rate) == (3, 1e-4)
    assert load_recipe(path, {"rank": 2}).arguments.rank == 2


def test_a_recipe_chooses_the_method():
    flow_matching = build_options({"weighting_scheme": "mode", "mode_scale": 1}).method()
    assert isinstance(flow_matching, FlowMatching) and flow_matching.weighting == FlowMatchingConfig(
        "mode", mode_scale=1
    )
    options = {"twinflow_enabled": True, "twinflow_allow_no_ema_teacher": True}
    for use_ema in (None, True, False):
        method = build_options(options | {"use_ema": use_ema}).method()
        assert isinstance(method, TwinFlow) and method.use_ema == (use_ema is not False)
    with pytest.raises(TwinFlowConfigError, match="twinflow_allow_no_ema_teacher=true"):
        build_options({"twinflow_enabled": True, "use_ema": False}).method()


def test_unknown_options_are_refused_with_the_nearest(recipe):
    with pytest.raises(TwinFlowConfigError, match="'rnak'.*Did you mean 'rank'"):
        load_recipe(recipe(rnak=7))
    with pytest.raises(TwinFlowConfigError, match="'rnak'.*Did you mean 'rank'"):
        build_options({"rnak": 7})
    with pytest.raises(TwinFlowConfigError, match="rnak"):
        parse_args(["--rnak=7"])


@pytest.mark.parametrize("name", ["output_dir", "cache_dir", "instance_data_dir", "resume_from_checkpoint"])
def test_an_empty_path_is_refused(name):
    with pytest.raises(TwinFlowConfigError, match=f"`{name}` is empty"):
        build_options({name: " "})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("batch_size", "'--train_batch_size'"),
        ("epochs", "'--num_train_epochs' or '--validation_epochs'"),
        ("learning-rate", "'--learning_rate'"),
    ],
)
def test_a_flag_of_another_trainer_names_ours(name, meant):
    with pytest.raises(TwinFlowConfigError, match=f"unknown option '--{name}'. Did you mean {meant}"):
        parse_args([f"--{name}", "1"])


def test_options_without_effect_are_named(recipe):
    with pytest.warns(UserWarning, match="'disable_benchmark'"):
        load_recipe(recipe(disable_benchmark=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"twinflow_enabled": "perhaps"}, "twinflow_enabled='perhaps' must be true or false"),
        ({"cache_latents": "perhaps"}, "'cache_latents' of .* is \"perhaps\": it must be true or false"),
        ({"rank": "many"}, "'rank' of .* is \"many\": it must be a whole number"),
        ({"rank": 4.5}, "a whole number"),
        ({"rank": True}, "'rank' of .* is true: it must be a whole number"),
        ({"rank": [4]}, "a whole number"),
        ({"rank": 1e400}, "a whole number"),
        ({"logit_mean": {"a": 1}}, "a number"),
        ({"validation_step_counts": [1, "x"]}, "a whole number"),
        ({"hub_revision": ["a"]}, "a string"),
        ({"train_type": "c"}, "one of lora, full"),
        ({"rank": 0}, "rank=0 is not valid: it must be 1 or more"),
        ({"validation_step_counts": [1, -2]}, "validation_step_counts=-2 is not valid: it must be from 1 to 1000"),
    ],
    ids=str,
)
def test_bad_values_of_a_file_are_named(recipe, options, message):
    with pytest.raises(TwinFlowConfigError, match=message):
        load_recipe(recipe(**options))


@pytest.mark.parametrize(
    ("options", "name", "expected"),
    [
        ({"rank": 4.0}, "rank", 4),
        ({"rank": "4"}, "rank", 4),
        ({"validation_step_counts": 1}, "validation_step_counts", [1]),
        ({"cache_latents": "True"}, "cache_latents", True),
        ({"validation_prompts": ["-- a prompt", "--rank=3"]}, "validation_prompts", ["-- a prompt", "--rank=3"]),
        ({"rank": None, "report_to": []}, "report_to", ["none"]),
        ({"aspect_ratio_buckets": True}, "aspect_ratio_buckets", "auto"),
        ({"aspect_ratio_buckets": "16,16"}, "aspect_ratio_buckets", "16,16"),
        ({"optimizer": "AdamW"}, "optimizer", "adamw"),
    ],
    ids=str,
)
def test_values_as_a_file_gives_them(recipe, options, name, expected):
    assert getattr(load_recipe(recipe(**options)).arguments, name) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": "4"}, "rank='4' is not valid: it must be a whole number"),
        ({"rank": True}, "rank=True"),
        ({"rank": 0}, "rank=0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"validation_prompts": [3]}, "validation_prompts=3"),
        ({"train_type": "dora"}, "train_type='dora' .*lora, full"),
        ({"streaming": 1}, "streaming=1 .*true or false"),
    ],
    ids=str,
)
def test_bad_values_in_python_are_named(options, message):
    with pytest.raises(TwinFlowConfigError, match=message):
        TrainingArguments(**options)


@pytest.mark.parametrize(
    "given", [["--rank=0"], ["--rank=nan"], ["--validation_step_counts", "1", "nan"], ["--train_type=c"]]
)
def test_bad_arguments_are_one_line_without_usage(given, capsys):
    with pytest.raises(TwinFlowConfigError, match=given[0].split("=")[0].lstrip("-")) as raised:
        parse_args(given)
    assert "\n" not in str(raised.value) and capsys.readouterr().err == ""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_recipe_in_any_unicode_encoding(tmp_path, encoding):
    path = tmp_path / "recipe.json"
    path.write_bytes(json.dumps({"validation_prompts": ["füchse"]}, ensure_ascii=False).encode(encoding))
    assert load_recipe(path).arguments.validation_prompts == ["füchse"]


def test_a_recipe_that_is_no_text_is_named(tmp_path):
    for name, content in {"bytes.json": b"\xff\x00\xfe{", "deep.json": b"[" * 100_000}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TwinFlowConfigError, match=f"{name}' is not valid JSON"):
            load_recipe(tmp_path / name)
    with pytest.raises(TwinFlowConfigError, match="cannot be read"):
        load_recipe(tmp_path)


def test_what_is_saved_is_read_as_it_was_without_tokens(tmp_path):
    options = parse_args(["--rank=3", "--validation_prompts", "a", "b", "--hub_token=hf_secret", "--twinflow_enabled"])
    path = save_options(options.arguments.to_dict() | options.method().options(), tmp_path)
    assert "hf_secret" not in path.read_text()
    again = load_recipe(path)
    assert again.arguments == TrainingArguments(rank=3, validation_prompts=["a", "b"])
    assert again.twinflow == TwinFlowConfig(twinflow_enabled=True)


def test_every_option_is_declared_once_with_a_sentence_of_help():
    declared = list(options_of(TrainingArguments, FlowMatchingConfig, TwinFlowConfig))
    names = [name for each in declared for name in (each.name, *each.metadata["aliases"])]
    assert len(names) == len(set(names))
    for each in declared:
        text = each.metadata["help"]
        assert text[0].isupper() or text[0] == "'", text
        assert text.endswith("."), text


def test_choices_are_those_of_the_libraries():
    assert {kind.value for kind in SchedulerType} - {"piecewise_constant"} == set(DIFFUSERS_LR_SCHEDULERS)
    strategy = next(each for each in options_of(TrainingArguments) if each.name == "caption_strategy")
    assert strategy.metadata["choices"] == tuple(CAPTION_STRATEGIES)
    with pytest.raises(ValueError, match="one of"):
        from_json(strategy, "nowhere")


DECLARED = list(options_of(TrainingArguments, FlowMatchingConfig, TwinFlowConfig))


def values_of(**given) -> dict:
    """All options by name, with some of them given."""
    return {each.name: default_of(each) for each in DECLARED} | given


def test_what_an_option_needs_are_options_and_choices():
    known = {each.name: each for each in DECLARED}
    for declared in DECLARED:
        for need in declared.metadata["needs"]:
            for condition in need.split("|"):
                name, _, value = condition.lstrip("!").replace("!=", "=").partition("=")
                assert name in known and name != declared.name
                assert not value or value in known[name].metadata["choices"]


@pytest.mark.parametrize(
    ("given", "need", "enough"),
    [
        ({"validation_steps": 5}, "needs `validation_prompts`", {"validation_prompts": ["a"]}),
        (
            {"validation_steps": 5, "validation_prompts": ["a"], "validation_epochs": 1},
            "is not used with `valid",
            None,
        ),
        ({"hub_model_id": "me/x"}, "needs `push_to_hub`", {"push_to_hub": True}),
        ({"hub_private_repo": False}, "needs `push_to_hub`", {"push_to_hub": True}),
        ({"prodigy_decouple": False}, "needs `optimizer=prodigy`", {"optimizer": "prodigy"}),
        ({"lr_warmup_steps": 5}, "is not used with `lr_scheduler=constant`", {"lr_scheduler": "linear"}),
        ({"lora_alpha": 2.0, "train_type": "full"}, "needs `train_type=lora`", {"train_type": "lora"}),
        (
            {"num_train_epochs": 2, "max_train_steps": 5},
            "is not used with `max_train_steps`",
            {"max_train_steps": None},
        ),
        ({"validation_resolution": 8}, "needs `validation_prompts` or `score_steps`", {"score_steps": 3}),
        ({"tracker_project_name": "a"}, "needs `report_to`", {"report_to": ["wandb"]}),
        ({"twinflow_target_step_count": 2}, "needs `twinflow_enabled`", {"twinflow_enabled": True}),
        ({"twinflow_rectify_weight": 2.0}, "needs `twinflow_adv", {"twinflow_adversarial_enabled": True}),
        ({"mode_scale": 1.0}, "needs `weighting_scheme=mode`", {"weighting_scheme": "mode"}),
        ({"instance_prompt": "a", "caption_strategy": "column"}, "needs `capt", {"caption_strategy": None}),
    ],
    ids=str,
)
def test_an_option_that_is_not_used_is_named_with_what_it_needs(given, need, enough):
    name = next(iter(given))
    assert unused_options(DECLARED, values_of(**given))[name].startswith(need)
    if enough is not None:
        assert name not in unused_options(DECLARED, values_of(**given) | enough)


def test_defaults_and_recommended_options_are_all_used():
    assert unused_options(DECLARED, values_of()) == {}
    for changes in ({}, {"train_type": "full"}, {"max_train_steps": 9}, {"num_frames": 17}, {"num_train_epochs": 2}):
        options = build_options({"recipe": "recommended"} | changes)
        assert unused_arguments(options.arguments, options.method().options()) is None
    options = build_options({"recipe": "data_free"})
    assert unused_arguments(options.arguments, options.method().options()) is None


def test_one_line_names_all_options_that_are_not_used():
    options = build_options({"validation_steps": 5, "hub_model_id": "me/x"})
    note = unused_arguments(options.arguments, options.method().options())
    assert note is not None and note.count("not used in training") == 1 and "\n" not in note
    assert "`validation_steps` (needs `validation_prompts`), `hub_model_id` (needs `push_to_hub`)" in note or (
        "`hub_model_id` (needs `push_to_hub`), `validation_steps` (needs `validation_prompts`)" in note
    )
    with pytest.warns(UserWarning, match="`weighting_scheme` .is not used with `twinflow_enabled`"):
        build_options({"twinflow_enabled": True, "weighting_scheme": "mode"}).method()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_defaults_of_simpletuner_that_nothing_uses_are_not_named(recipe):
    path = recipe(model_type="lora", model_family="sd3", pretrained_model_name_or_path="me/base")
    options = load_recipe(path)
    assert unused_arguments(options.arguments, options.method().options()) is None
    prompts = {"validation_prompts": ["a"]}
    assert load_recipe(path, prompts).arguments.num_validation_images == 1
