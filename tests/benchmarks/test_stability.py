import json

import pytest

import stability


@pytest.mark.slow
def test_a_run_tells_how_large_loss_and_latents_grew(tmp_path, monkeypatch):
    monkeypatch.setattr(stability, "WINDOW", 1)
    output = tmp_path / "stability.json"
    arguments = ["--steps=2", "--batch_size=4", "--runs", "LoRA, weight 1", f"--data_dir={tmp_path / 'data'}"]
    stability.main(stability.parse_benchmark_args([*arguments, f"--output={output}"]))
    (row,) = json.loads(output.read_text())["rows"]
    assert row["steps"] == 2 and len(row["losses"]) == len(row["one_step_rms"]) == 2
    assert 0 < row["largest_loss"] < stability.RUNAWAY_LOSS and 0.3 < row["largest_rms"] < 3
