import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from fork_server import load_script
from launching import ENVIRONMENT, SCRIPT


@pytest.fixture(scope="session")
def script():
    """The training script, for runs in the tests' own process."""
    return load_script(str(SCRIPT))


@pytest.fixture(autouse=True)
def new_accelerator_state():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def arguments(base_dir, image_dir, tmp_path):
    """Arguments of a short run; what a test adds comes after and wins."""

    def build(*more: str) -> list[str]:
        options = {
            "pretrained_model_name_or_path": base_dir,
            "dataset_name": image_dir,
            "output_dir": tmp_path / "out",
            "resolution": 16,
            "max_sequence_length": 2,
            "train_batch_size": 4,
            "max_train_steps": 4,
            "checkpointing_steps": 2,
            "learning_rate": 1e-3,
            "rank": 2,
        }
        return [f"--{name}={value}" for name, value in options.items()] + list(more)

    return build


@pytest.fixture
def short(arguments, tmp_path):
    """Arguments of a run of 4 samples a step."""

    def build(name: str, processes: int, *more: str) -> list[str]:
        options = {
            "output_dir": tmp_path / name,
            "train_batch_size": 4 // processes,
            "max_train_steps": 3,
            "checkpointing_steps": 1,
            # Adam with so large an epsilon is plain gradient descent: rounding does not flip the sign of an update.
            "learning_rate": 10,
            "adam_epsilon": 10,
        }
        switches = ["--twinflow_enabled", "--twinflow_adversarial_enabled", "--cache_latents", "--no-save_ema"]
        return arguments(*(f"--{option}={value}" for option, value in options.items()), *switches, *more)

    return build


@dataclass
class Run:
    """A run that was started, in one or more processes."""

    pids: list[int]
    outputs: list[Path]
    exit_code: Callable[[int], int]

    def wait(self) -> list[int]:
        """The exit codes of its processes."""
        return [self.exit_code(pid) for pid in self.pids]

    def check(self) -> str:
        """Wait until it has ended well; returns what the first process wrote."""
        codes = self.wait()
        texts = [path.read_text() for path in self.outputs]
        assert not any(codes), (codes, *(text[-3000:] for text in texts))
        return texts[0]


@pytest.fixture(scope="session")
def fork_server():
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("fork_server.py"), SCRIPT],
        env=os.environ | ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield server
    server.stdin.close()
    server.wait(timeout=20)


@pytest.fixture
def start(fork_server, tmp_path):
    """Start the script in processes of its own, which have everything imported already; they work in `tmp_path`."""

    def order(**values) -> int:
        fork_server.stdin.write(json.dumps(values) + "\n")
        fork_server.stdin.flush()
        return int(fork_server.stdout.readline())

    def start_run(arguments: list[str], processes: int = 1, **environment: str) -> Run:
        pids, outputs = [], []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        for rank in range(processes):
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
            place = {**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if processes > 1 else {}
            outputs.append(tmp_path / f"output-{len(list(tmp_path.glob('output-*')))}")
            outputs[-1].touch()
            pids.append(
                order(
                    arguments=arguments,
                    environment={name: str(value) for name, value in (environment | place).items()},
                    directory=str(tmp_path),
                    output=str(outputs[-1]),
                )
            )
        return Run(pids, outputs, lambda pid: order(wait=pid))

    return start_run


@pytest.fixture
def launch(tmp_path):
    """Launch the script with Python's arguments before it, as a user does; it must succeed."""

    def run(arguments: list[str], *before: str, **environment: str) -> str:
        command = [sys.executable, *before, str(SCRIPT), *arguments]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=os.environ | ENVIRONMENT | environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run
