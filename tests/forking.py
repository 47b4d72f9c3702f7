"""Run the training script or other code in new processes, forked from one that has already imported everything."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from tests.fork_server import ForkServer
from tests.training_script import ENVIRONMENT

FORGET_THE_PACKAGE = """
import sys
for name in [name for name in sys.modules if name.partition(".")[0] == "diffusers_twinflow"]:
    del sys.modules[name]
"""
"""Code of a run that must import the package anew."""


@dataclass
class Run:
    """A run that was started, in one or more processes.

    Several processes meet in a store of this process, as those of `torchrun` meet in a store of the launcher.
    """

    pids: list[int]
    outputs: list[Path]
    exit_code: Callable[[int], int]
    store: TCPStore | None

    def wait(self) -> list[int]:
        """The exit codes of its processes."""
        return [self.exit_code(pid) for pid in self.pids]

    def check(self) -> str:
        """Wait until it has ended well; returns what the first process wrote."""
        codes = self.wait()
        texts = [path.read_text() for path in self.outputs]
        assert not any(codes), (codes, *(text[-3000:] for text in texts))
        return texts[0]


_servers: list[ForkServer] = []


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session):
    """Fork the server while no test has run, if a test may want it."""
    if not {"start", "hub"} & {name for item in session.items for name in item.fixturenames}:
        return (yield)
    _servers.append(ForkServer())
    try:
        return (yield)
    finally:
        _servers.pop().close()


def fork_server() -> ForkServer:
    """The server that this pytest process forked."""
    return _servers[-1]


@pytest.fixture
def start(tmp_path):
    """Start the script, or code, in processes of its own, which have everything imported; they work in `tmp_path`."""
    order = fork_server().order

    def start_run(arguments: list, processes: int = 1, code: str | None = None, **environment: str) -> Run:
        pids, outputs = [], []
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if processes > 1 else None
        for rank in range(processes):
            place = {}
            if store is not None:
                ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
                place = {**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port}
                place["TORCHELASTIC_USE_AGENT_STORE"] = True
            place = {name: str(value) for name, value in place.items()}
            outputs.append(tmp_path / f"output-{len(list(tmp_path.glob('output-*')))}")
            outputs[-1].touch()
            pids.append(
                order(
                    arguments=[*map(str, arguments)],
                    code=code,
                    environment={**os.environ, **ENVIRONMENT, **environment, **place},
                    directory=str(tmp_path),
                    outputs=[str(outputs[-1])] * 2,
                )
            )
        return Run(pids, outputs, lambda pid: order(wait=pid), store)

    return start_run
