import pytest

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.training import deepspeed


def test_float16_is_refused_with_deepspeed_alone(monkeypatch):
    deepspeed.check_precision("fp16")
    monkeypatch.setenv(deepspeed.ENVIRONMENT_SWITCH, "true")
    deepspeed.check_precision("bf16")
    with pytest.raises(TwinFlowConfigError, match="mixed_precision=fp16.*DeepSpeed.*bf16"):
        deepspeed.check_precision("fp16")
