"""The recommended recipe: what it sets, what overrides it, and its learning rate over a run."""

import json

import pytest
import torch

from diffusers_twinflow import TwinFlowConfig, TwinFlowConfigError
from diffusers_twinflow.cli.train import parse_args
from diffusers_twinflow.training.arguments import TrainingArguments
from diffusers_twinflow.training.optimizer import build_lr_scheduler
from diffusers_twinflow.training.recipe import build_options, load_recipe

RECOMMENDED = {"recipe": "recommended"}


def samples_per_step(arguments: TrainingArguments, processes: int = 1) -> int:
    return arguments.train_batch_size * arguments.gradient_accumulation_steps * processes


@pytest.mark.parametrize(
    ("train_type", "length", "rate", "steps", "has_twin"),
    [
        ("lora", "long", 1e-3, 4000, True),
        ("lora", "short", 1e-3, 1000, True),
        ("full", "long", 5e-4, 4000, True),
        ("full", "short", 5e-4, 1000, False),
    ],
)
def test_what_python_and_the_command_line_set(train_type, length, rate, steps, has_twin):
    choices = {"train_type": train_type, "length": length}
    arguments, config = TrainingArguments.recommended("me/base", **choices), TwinFlowConfig.recommended(**choices)
    assert (arguments.learning_rate, arguments.max_train_steps, samples_per_step(arguments)) == (rate, steps, 256)
    assert (arguments.lr_scheduler, arguments.lr_decay_share) == ("warmup_stable_decay", 0.6)
    assert (arguments.lora_layers, arguments.caption_dropout_probability) == (
        ["all-linear"] if train_type == "lora" else None,
        0.1,
    )
    assert config == TwinFlowConfig(
        twinflow_enabled=True,
        twinflow_adversarial_enabled=has_twin,
        twinflow_target_clamp=10.0,
        twinflow_ema_decay=0.95,
    )
    given = ["--recipe=recommended", "--pretrained_model_name_or_path=me/base", f"--train_type={train_type}"]
    options = parse_args(given + ([f"--max_train_steps={steps}"] if length == "short" else []))
    assert (options.arguments, options.twinflow) == (arguments, config)


def test_videos_take_smaller_steps():
    arguments = TrainingArguments.recommended(media="video", num_frames=17)
    assert (samples_per_step(arguments), arguments.train_batch_size, arguments.gradient_checkpointing) == (32, 1, True)
    assert build_options(RECOMMENDED | {"num_frames": 17}).arguments == arguments
    assert samples_per_step(build_options(RECOMMENDED | {"num_frames": 1}).arguments) == 256


def test_diffusion_models_keep_the_layers_the_bound_and_the_decay_of_the_method():
    options = {"diff2flow_enabled": True, "twinflow_allow_diff2flow": True}
    config = TwinFlowConfig.recommended(diffusion=True, **options)
    assert (config.twinflow_target_clamp, config.twinflow_ema_decay) == (1.0, 0.99)
    found = build_options(RECOMMENDED | options)
    assert found.twinflow == config and found.arguments == TrainingArguments.recommended(diffusion=True)
    assert found.arguments.lora_layers is None


@pytest.mark.parametrize("train_type", ["lora", "full"])
def test_training_without_images(train_type):
    config = TwinFlowConfig.recommended(train_type=train_type, length="short", data_free=True)
    assert (config.has_frozen_teacher, config.is_data_free, config.twinflow_adversarial_enabled) == (True, True, True)
    assert (config.twinflow_enhanced_ratio, config.twinflow_rectify_weight, config.twinflow_target_clamp) == (4, 3, 1)
    arguments = TrainingArguments.recommended(train_type=train_type, data_free=True, prompts_file="prompts.txt")
    assert arguments.caption_dropout_probability == 0 and arguments.lr_scheduler == "warmup_stable_decay"
    options = build_options({"recipe": "data_free", "train_type": train_type, "prompts_file": "prompts.txt"})
    assert (options.arguments, options.twinflow) == (arguments, config)
    config.check_training(flow_matching=True, use_ema=True)


def test_given_options_override_the_recipe(tmp_path):
    path = tmp_path / "recipe.json"
    own = {"learning_rate": 1e-4, "twinflow_ema_decay": 0.99, "lora_layers": ["to_q"], "proportion_empty_prompts": 0.0}
    path.write_text(json.dumps(RECOMMENDED | own))
    arguments, _, config = parse_args(["--config", str(path), "--twinflow_ema_decay=0.9", "--no-twinflow_enabled"])
    assert (arguments.learning_rate, arguments.lora_layers, arguments.caption_dropout_probability) == (
        1e-4,
        ["to_q"],
        0.0,
    )
    assert (config.twinflow_ema_decay, config.twinflow_target_clamp, config.twinflow_enabled) == (0.9, 10.0, False)
    assert load_recipe(path).twinflow == TwinFlowConfig.recommended(twinflow_ema_decay=0.99)
    in_python = TwinFlowConfig.recommended(twinflow_target_clamp=2.0)
    assert (in_python.twinflow_target_clamp, in_python.twinflow_ema_decay) == (2.0, 0.95)


@pytest.mark.parametrize(
    ("options", "batch", "accumulation"),
    [
        ({}, 4, 64),
        ({"train_batch_size": 64}, 64, 4),
        ({"train_batch_size": 100}, 100, 3),
        ({"train_batch_size": 999}, 999, 1),
    ],
)
def test_micro_batches_make_the_recommended_step(options, batch, accumulation):
    for arguments in (build_options(RECOMMENDED | options).arguments, TrainingArguments.recommended(**options)):
        assert (arguments.train_batch_size, arguments.gradient_accumulation_steps) == (batch, accumulation)


def test_processes_share_the_recommended_step(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert samples_per_step(build_options(RECOMMENDED).arguments, 8) == 256
    assert samples_per_step(TrainingArguments.recommended(num_processes=8), 8) == 256
    own = build_options(RECOMMENDED | {"gradient_accumulation_steps": 2}).arguments
    assert samples_per_step(own, 8) == 64


def test_epochs_count_if_they_are_given():
    arguments = build_options(RECOMMENDED | {"num_train_epochs": 3}).arguments
    assert (arguments.max_train_steps, arguments.num_train_epochs) == (None, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "best"}, "recipe='best' .*recommended"),
        (RECOMMENDED | {"train_type": "dora"}, "train_type='dora'"),
        (RECOMMENDED | {"max_train_steps": "4"}, "max_train_steps='4'"),
        (RECOMMENDED | {"rnak": 4}, "Did you mean 'rank'"),
    ],
    ids=str,
)
def test_bad_options_are_named(options, message):
    with pytest.raises(TwinFlowConfigError, match=message):
        build_options(options)


@pytest.mark.parametrize("choice", [{"train_type": "dora"}, {"length": "longest"}, {"media": "sound"}], ids=str)
def test_choices_that_do_not_exist_are_refused(choice):
    for recommend in (TwinFlowConfig.recommended, TrainingArguments.recommended):
        with pytest.raises(TwinFlowConfigError, match=f"{next(iter(choice))}='.*' is not valid: it must be .* or "):
            recommend(**choice)


def rates(steps: int, processes: int = 1, **options) -> list[float]:
    """The factor of the learning rate of each step of a run."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    arguments = TrainingArguments(lr_scheduler="warmup_stable_decay", **options)
    schedule, found = build_lr_scheduler(arguments, optimizer, steps, processes), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for _ in range(processes):
            schedule.step()
    return found


@pytest.mark.parametrize("processes", [1, 3])
def test_the_rate_rises_stays_and_falls_linearly(processes):
    rising, falling = [0.0, 0.5], [1 - step / 6 for step in range(6)]
    assert rates(10, processes, lr_warmup_steps=2) == pytest.approx(rising + [1.0] * 2 + falling)


def test_the_rate_may_fall_over_the_whole_run_and_not_before_it_has_risen():
    assert rates(4, lr_decay_share=1.0) == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert rates(4, lr_decay_share=1.0, lr_warmup_steps=2) == pytest.approx([0.0, 0.5, 1.0, 0.5])
    assert rates(3, lr_warmup_steps=6) == pytest.approx([0.0, 1 / 6, 2 / 6])
