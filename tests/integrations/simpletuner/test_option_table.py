"""The table of SimpleTuner's options: every option has a treatment, and its unset and default values do not matter."""

import json
from pathlib import Path

import pytest

from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.integrations.simpletuner import option_table, read_recipe
from diffusers_twinflow.integrations.simpletuner.option_table import TABLE, treatment_of
from diffusers_twinflow.integrations.simpletuner.treatments import Converted, Ignored, Refused, Renamed
from diffusers_twinflow.integrations.simpletuner.values import NEVER
from diffusers_twinflow.training.recipe import option_names

NAMES = json.loads((Path(__file__).parent / "simpletuner_4_8_0.json").read_text(encoding="utf-8"))
"""The options of SimpleTuner 4.8.0 by name, with their default values."""
TWINFLOW = {"model_family": "sd3", "twinflow_enabled": True}


def read(name, value):
    return read_recipe(TWINFLOW | {name: value}, option_names())


def test_every_option_has_one_treatment():
    assert NAMES.keys() - TABLE.keys() == set()
    for name, treatment in TABLE.items():
        if isinstance(treatment, (Ignored, Refused)):
            assert treatment.reason, name
        else:
            assert isinstance(treatment, (Renamed, Converted)), name


def test_no_option_is_listed_twice():
    listed = [name for names in option_table.IGNORED_NAMES.values() for name in names.split()]
    for part in (option_table.RENAMED, option_table.CONVERTED, option_table.REFUSED):
        listed += part
    assert sorted(listed) == sorted(TABLE)


def test_new_names_are_options_of_ours():
    new = {treatment.to for treatment in TABLE.values() if isinstance(treatment, Renamed)}
    new |= {name for treatment in TABLE.values() if isinstance(treatment, Converted) for name in treatment.to}
    assert new <= option_names().keys()


def test_every_twinflow_option_is_known():
    assert set(TwinFlowConfig.option_names()) <= option_table.RENAMED.keys()


@pytest.mark.parametrize("value", [None, False, "false", "False", ""])
def test_options_that_are_not_set_do_not_matter(value):
    defaults = read("seed", None)
    for name in NAMES.keys() - TWINFLOW.keys():
        recipe = read(name, value)
        assert recipe.ignored == defaults.ignored, name
        changed = {key for key, new in recipe.options.items() if defaults.options.get(key) != new}
        switches = (option_table.RENAMED.keys() & option_table.SWITCHES) | {"disable_tf32"}
        assert not changed or name in switches, name


def test_default_values_are_accepted():
    for name, default in NAMES.items():
        assert read(name, default).options, name


@pytest.mark.parametrize(
    ("name", "value"),
    [("caption_dropout_probability", 0.0), ("adam_weight_decay", 0), ("seed", 0), ("lr_warmup_steps", 0)],
)
def test_a_zero_is_a_value(name, value):
    assert read(name, value).options[name] == value


@pytest.mark.parametrize(
    ("name", "new"),
    [
        ("validation_steps", "validation_steps"),
        ("checkpoint_step_interval", "checkpointing_steps"),
        ("max_grad_norm",) * 2,
    ],
)
def test_a_zero_that_means_never(name, new):
    assert read(name, 0).options[new] == NEVER and read(name, 7).options[new] == 7


def test_an_option_of_a_newer_simpletuner_is_named_by_its_group():
    assert treatment_of("ramtorch_another_part") == Ignored(option_table.PLACEMENT)
    assert treatment_of("entirely_new") is None
