"""The command shows its own log and no messages of other libraries."""

import os
import re
import subprocess
import sys

import pytest

OURS = re.compile(r"\d\d:\d\d:\d\d (INFO|WARNING) |(Checking samples|Steps): ")


@pytest.mark.long
def test_a_run_shows_only_our_lines(base_dir, image_dir, tmp_path):
    options = {
        "pretrained_model_name_or_path": base_dir,
        "instance_data_dir": image_dir,
        "resolution": 16,
        "max_sequence_length": 8,
        "validation_prompts": "a",
        "num_validation_images": 1,
        "max_train_steps": 1,
        "output_dir": tmp_path / "out",
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "diffusers_twinflow.cli", "train", "--twinflow_enabled", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = [line.strip() for line in re.split(r"[\r\n]", done.stderr)]
    assert done.returncode == 0, done.stderr
    assert [line for line in lines if line and not OURS.match(line)] == []
    for ours in ("Checking samples: 100%", "Steps: 100%", "saved to"):
        assert any(ours in line for line in lines), ours
    assert done.stdout == ""
