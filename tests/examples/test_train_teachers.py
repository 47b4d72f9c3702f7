"""Which weights a run saves depends on its teacher."""

import pytest
import torch
from safetensors.torch import load_file

from tests.examples.trained_weights import trained


@pytest.mark.parametrize(
    ("options", "is_students"),
    [
        ([], False),
        (["--no-save_ema"], True),
        (["--twinflow_ema_decay=1"], True),
        (["--no-use_ema", "--twinflow_allow_no_ema_teacher"], True),
    ],
)
def test_an_average_is_saved_and_a_frozen_teacher_is_not(script, arguments, tmp_path, options, is_students):
    """After one step the average is still the start, where every `lora_B` is 0; the student has moved."""
    more = ["--twinflow_enabled", "--twinflow_enhanced_ratio=0", "--max_train_steps=1", "--checkpointing_steps=1"]
    script.main(arguments(*more, *options))
    saved = load_file(tmp_path / "out" / "pytorch_lora_weights.safetensors")
    student = trained(tmp_path / "out", 1)
    name = "transformer_blocks.0.attn.to_q.lora_B"
    assert student[f"{name}.default.weight"].any()
    expected = (
        student[f"{name}.default.weight"] if is_students else torch.zeros_like(student[f"{name}.default.weight"])
    )
    assert torch.equal(saved[f"transformer.{name}.weight"], expected)
