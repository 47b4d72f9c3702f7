"""The training script on two GPUs, started as a user starts it with the configurations of `examples/accelerate`."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.examples.trained_weights import assert_same_training, trained
from tests.training_script import SCRIPT

CONFIGURATIONS = SCRIPT.parent / "accelerate"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
LONGEST_RUN = 150
ROUNDING = 2e-4


@pytest.fixture
def start_on_gpus(tmp_path):
    """Start the script on one GPU, or on two with a configuration, and give what waits for its success."""
    runs = []

    def start(arguments: list[str], configuration: str | None = None):
        before, environment = [], {"CUDA_VISIBLE_DEVICES": "0"}
        if configuration:
            file = CONFIGURATIONS / f"{configuration}.yaml"
            before = [
                "-m",
                "accelerate.commands.launch",
                f"--config_file={file}",
                f"--main_process_port={free_port()}",
            ]
            before, environment = [*before, "--mixed_precision=no"], {}
        output = tmp_path / f"output-{len(runs)}"
        with output.open("wb") as file:
            command = [sys.executable, *before, SCRIPT, *arguments]
            environment = os.environ | ENVIRONMENT | environment
            options = {"cwd": tmp_path, "env": environment, "start_new_session": True}
            run = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, **options)
        runs.append(run)
        return lambda: check(run, output)

    yield start
    for run in runs:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)


def check(run: subprocess.Popen, output: Path) -> None:
    assert run.wait(LONGEST_RUN) == 0, output.read_text()[-5000:]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("train_type", ["lora", "full"])
@pytest.mark.parametrize("kind", ["ddp", "fsdp2", "deepspeed"])
def test_two_gpus_are_one_with_the_same_batch(start_on_gpus, short, tmp_path, kind, train_type):
    """Weights and teacher, also after a stop. Each process learns from its own teacher, and would train other weights
    if that were another one."""
    if kind == "deepspeed":
        pytest.importorskip("deepspeed")
    more = f"--train_type={train_type}"
    one = start_on_gpus(short("one", 1, more))
    two = start_on_gpus(short("two", 2, more), kind)
    start_on_gpus(short("stopped", 2, more, "--max_train_steps=2"), kind)()
    start_on_gpus(short("stopped", 2, more, "--resume_from_checkpoint=latest"), kind)()
    one()
    two()
    last, first = (trained(tmp_path / "one", step) for step in (3, 1))
    assert max((last[name] - first[name]).abs().max() for name in last) > 1e-2
    assert_same_training(tmp_path / "two", tmp_path / "one", 3, ROUNDING)
    assert_same_training(tmp_path / "stopped", tmp_path / "two", 3, ROUNDING)
