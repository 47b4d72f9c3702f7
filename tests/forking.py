"""Runs of the training script, or of other code, in processes of their own, forked from one that has everything imported."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.training_script import ENVIRONMENT, ROOT


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
        [sys.executable, "-m", "tests.fork_server"],
        cwd=ROOT,
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
    """Start the script, or code, in processes of its own, which have everything imported; they work in `tmp_path`."""

    def order(**values) -> int:
        fork_server.stdin.write(json.dumps(values) + "\n")
        fork_server.stdin.flush()
        return int(fork_server.stdout.readline())

    def start_run(arguments: list, processes: int = 1, code: str | None = None, **environment: str) -> Run:
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
                    arguments=[*map(str, arguments)],
                    code=code,
                    environment={name: str(value) for name, value in (environment | place).items()},
                    directory=str(tmp_path),
                    output=str(outputs[-1]),
                )
            )
        return Run(pids, outputs, lambda pid: order(wait=pid))

    return start_run
