"""How two processes end: whatever happens to one of them, both do, and none waits for the other as Python exits."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from tests.training_script import ENVIRONMENT, ROOT

ENDS_WELL = """
import torch
from tests.training_script import load_script
load_script().main()
print("has left its group:", not torch.distributed.is_initialized())
"""
RUN = """
import os, signal, sys
from diffusers_twinflow.cli.train import main
from diffusers_twinflow.training.trainer import Trainer

def fail(gradient):
    raise RuntimeError("no more")

class Ends(Trainer):
    def train_micro_batch(self, batch):
        if self.step == 1 and os.environ["RANK"] == "1":
            if os.environ["HOW"] == "error":
                raise RuntimeError("no more")
            if os.environ["HOW"] == "interrupt":
                os.kill(os.getpid(), signal.SIGINT)
            if os.environ["HOW"] == "error in the backward pass":
                self.trainable[len(self.trainable) // 2].register_hook(fail)
        return super().train_micro_batch(batch)

main(trainer_class=Ends)
"""
LONGEST = 400
PEER_IS_GONE = r"Connection closed by peer|Connection reset by peer|Broken pipe"


@pytest.mark.parametrize("dry_run", ["", pytest.param("--dry_run", marks=pytest.mark.slow)])
def test_processes_leave_their_group(start, short, dry_run):
    run = start(short("out", 2, "--max_train_steps=1", *filter(None, [dry_run])), 2, code=ENDS_WELL)
    run.check()
    assert all("has left its group: True" in path.read_text() for path in run.outputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "code", "message"),
    [
        ("well", 0, "saved to"),
        ("error", 1, "RuntimeError: no more"),
        ("error in the backward pass", 1, "RuntimeError: no more"),
        ("interrupt", 128 + signal.SIGINT, ""),
    ],
)
def test_interpreters_end_in_every_case(short, tmp_path, how, code, message):
    """Python's own exit, which runs the destructors of the process group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-c", RUN, *short("out", 2)]
    outputs = [(tmp_path / f"output-{rank}").open("w+") for rank in range(2)]
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT, **place, "HOW": how, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=output,
            stderr=output,
        )
        for rank, output in enumerate(outputs)
    ]
    try:
        codes = [process.wait(LONGEST) for process in processes]
    finally:
        for process in processes:
            process.kill()
    texts = [(tmp_path / f"output-{rank}").read_text() for rank in range(2)]
    assert codes == [int(code != 0), code], texts
    assert message in texts[int(code != 0)]
    assert code == 0 or re.search(PEER_IS_GONE, texts[0]), texts[0]
