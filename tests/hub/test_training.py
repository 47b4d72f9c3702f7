import pytest

from diffusers_twinflow import TwinFlowConfigError
from diffusers_twinflow.hub import check_push_options

GOOD = {"hub_model_id": "me/lora", "base_model": "owner/base"}


def test_what_can_be_pushed():
    check_push_options(**GOOD)
    check_push_options(**GOOD, hub_token="hf_x", report_to="tensorboard")


def test_a_local_base_needs_its_hub_id(tmp_path):
    with pytest.raises(TwinFlowConfigError, match="--hub_base_model"):
        check_push_options(hub_model_id="me/lora", base_model=str(tmp_path))
    check_push_options(hub_model_id="me/lora", base_model=str(tmp_path), hub_base_model="owner/base")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hub_model_id": None}, "needs --hub_model_id"),
        ({"hub_model_id": "a/b/c"}, "--hub_model_id='a/b/c'"),
        ({"hub_base_model": "../base"}, "--hub_base_model='../base'"),
        ({"train_type": "full"}, "pushes LoRAs"),
        ({"hub_token": "hf_x", "report_to": "wandb"}, "would be logged"),
    ],
)
def test_refused_before_training(changes, message):
    with pytest.raises(TwinFlowConfigError, match=message) as refused:
        check_push_options(**(GOOD | changes))
    assert "hf_x" not in str(refused.value)
