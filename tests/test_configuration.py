import json
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusers_twinflow import TwinFlowConfig, TwinFlowConfigError
from diffusers_twinflow.options import read_json_options

DEFAULTS = {
    "twinflow_enabled": False,
    "twinflow_target_step_count": 1,
    "twinflow_estimate_order": 2,
    "twinflow_enhanced_ratio": 0.5,
    "twinflow_delta_t": 0.01,
    "twinflow_target_clamp": 1.0,
    "twinflow_require_ema": True,
    "twinflow_allow_no_ema_teacher": False,
    "twinflow_allow_diff2flow": False,
    "twinflow_adversarial_enabled": False,
    "twinflow_adversarial_weight": 1.0,
    "twinflow_rectify_weight": 1.0,
}


def test_names_and_defaults_that_users_bring_along():
    assert {name: getattr(TwinFlowConfig(), name) for name in DEFAULTS} == DEFAULTS


def test_every_option_has_help():
    for option in TwinFlowConfig.__dataclass_fields__.values():
        assert option.metadata["help"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"twinflow_target_step_count": 0}, "twinflow_target_step_count=0"),
        ({"twinflow_estimate_order": -1}, "twinflow_estimate_order=-1"),
        ({"twinflow_delta_t": 0.0}, "twinflow_delta_t=0.0"),
        ({"twinflow_target_clamp": -1.0}, "twinflow_target_clamp=-1.0"),
        ({"twinflow_enhanced_ratio": "0.5"}, "twinflow_enhanced_ratio='0.5'"),
        ({"twinflow_enhanced_ratio": float("nan")}, "twinflow_enhanced_ratio=nan"),
        ({"twinflow_enabled": 1}, "twinflow_enabled=1"),
        ({"twinflow_estimate_order": True}, "twinflow_estimate_order=True"),
        ({"twinflow_loss": "huber"}, "barron, l2"),
        ({"twinflow_enhanced_low": 0.9, "twinflow_enhanced_high": 0.5}, "twinflow_enhanced_high"),
        ({"twinflow_enabled": True, "twinflow_ema_decay": 0.0}, "twinflow_allow_no_ema_teacher"),
    ],
)
def test_bad_values_are_named(options, named):
    with pytest.raises(TwinFlowConfigError, match=named):
        TwinFlowConfig.from_dict(options)


def test_no_branch_at_all_is_refused():
    shares = {f"twinflow_{name}_share": 0.0 for name in ("one_step", "multi_step", "any_step")}
    with pytest.raises(TwinFlowConfigError, match="share"):
        TwinFlowConfig(**shares)


def test_unknown_option_gets_a_suggestion():
    with pytest.raises(TwinFlowConfigError, match="twinflow_enhance_ratio.*twinflow_enhanced_ratio"):
        TwinFlowConfig.from_dict({"twinflow_enhance_ratio": 0.5})


def test_training_needs_flow_matching_or_the_bridge():
    config = TwinFlowConfig(twinflow_enabled=True)
    with pytest.raises(TwinFlowConfigError, match="diff2flow_enabled=true and twinflow_allow_diff2flow=true"):
        config.check_training(flow_matching=False, use_ema=True)
    bridged = TwinFlowConfig(twinflow_enabled=True, diff2flow_enabled=True, twinflow_allow_diff2flow=True)
    bridged.check_training(flow_matching=False, use_ema=True)
    with pytest.raises(TwinFlowConfigError, match="diff2flow_enabled=true.*twinflow_allow_diff2flow=true"):
        TwinFlowConfig().check_training(flow_matching=False, use_ema=False)
    TwinFlowConfig(diff2flow_enabled=True).check_training(flow_matching=False, use_ema=False)


def test_training_needs_an_ema_teacher_or_the_opt_out():
    with pytest.raises(TwinFlowConfigError, match="twinflow_allow_no_ema_teacher=true"):
        TwinFlowConfig(twinflow_enabled=True).check_training(flow_matching=True, use_ema=False)
    opted_out = TwinFlowConfig(twinflow_enabled=True, twinflow_allow_no_ema_teacher=True)
    opted_out.check_training(flow_matching=True, use_ema=False)


@pytest.mark.parametrize(
    ("ratio", "decay", "is_told"), [(0.99, 0.99, False), (1.0, 0.99, True), (1.5, 0.0, True), (1.5, 1.0, False)]
)
def test_guidance_that_grows_without_end_is_told(ratio, decay, is_told):
    """A frozen teacher's guidance does not grow."""
    options = {"twinflow_enhanced_ratio": ratio, "twinflow_ema_decay": decay, "twinflow_allow_no_ema_teacher": True}
    messages = told_before_training(options)
    assert len(messages) == is_told
    assert not is_told or f"twinflow_enhanced_ratio={ratio:g} " in messages[0] and "a ratio below 1" in messages[0]


def told_before_training(options: dict) -> list[str]:
    config = TwinFlowConfig(twinflow_enabled=True, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config.check_training(flow_matching=True, use_ema=True)
    return [str(warning.message) for warning in caught]


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "twinflow_enabled": st.booleans(),
            "twinflow_target_step_count": st.integers(1, 8),
            "twinflow_estimate_order": st.integers(0, 4),
            "twinflow_enhanced_ratio": st.floats(0, 4),
            "twinflow_adversarial_enabled": st.booleans(),
            "twinflow_few_step_share": st.floats(0, 3),
        },
    )
)
def test_json_round_trip(options):
    config = TwinFlowConfig.from_dict(options)
    assert TwinFlowConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(("text", "message"), [("{", "not valid JSON"), ("[1]", "must be a JSON object")])
def test_bad_json_is_named(tmp_path, text, message):
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises(TwinFlowConfigError, match=message):
        read_json_options(path)


def test_missing_json_is_named(tmp_path):
    with pytest.raises(TwinFlowConfigError, match="nowhere.json"):
        read_json_options(tmp_path / "nowhere.json")
