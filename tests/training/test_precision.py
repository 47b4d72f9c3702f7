"""Half precision on a machine without a GPU."""

import pytest
import torch

from diffusers_twinflow import TwinFlowConfigError
from diffusers_twinflow.training.accelerators import build_accelerator
from diffusers_twinflow.training.arguments import TrainingArguments
from tests.fresh_accelerator import fresh_accelerator

pytestmark = pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without a GPU")


def test_fp16_on_a_cpu_is_refused(tmp_path):
    with pytest.raises(TwinFlowConfigError, match=r"mixed_precision=fp16 needs a GPU.* Use mixed_precision=no"):
        build_accelerator(TrainingArguments(mixed_precision="fp16", output_dir=str(tmp_path)))


def test_bf16_on_a_cpu_warns_that_it_is_slow(tmp_path, caplog):
    with fresh_accelerator():
        build_accelerator(TrainingArguments(mixed_precision="no", output_dir=str(tmp_path)))
    assert not caplog.text
    build_accelerator(TrainingArguments(mixed_precision="bf16", output_dir=str(tmp_path)))
    assert "mixed_precision=bf16 is slower than mixed_precision=no on a CPU" in caplog.text
