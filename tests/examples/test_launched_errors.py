"""Errors of several processes: each is shown, whichever process raises it, and the same one only once."""

import os
import subprocess
import sys

import pytest

from tests.training_script import ENVIRONMENT, ROOT

RUN = """
import os
from diffusers_twinflow.cli.train import main
from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.training.trainer import Trainer

RANK = os.environ["RANK"]

class Fails(Trainer):
    def train_micro_batch(self, batch):
        if {condition}:
            raise TwinFlowConfigError(f"image {{RANK if {differs} else 7}} is broken.")
        return super().train_micro_batch(batch)

main(trainer_class=Fails)
"""
TELLS = """
import os
from diffusers_twinflow.cli.launched import is_first_to_show
print(is_first_to_show("all"), is_first_to_show(os.environ["RANK"]), flush=True)
"""


@pytest.mark.parametrize(
    ("condition", "differs", "shown"),
    [
        ("RANK == '1'", False, ["error: image 7 is broken."]),
        ("True", False, ["error: image 7 is broken."]),
        ("True", True, ["error: image 0 is broken.", "error: image 1 is broken."]),
    ],
    ids=["in one process", "the same in both", "different"],
)
def test_each_error_of_two_processes_is_shown_once(start, short, condition, differs, shown):
    run = start(short("out", 2), 2, code=RUN.format(condition=condition, differs=differs))
    assert run.wait() == [1, 1]
    lines = [line for path in run.outputs for line in path.read_text().splitlines()]
    assert sorted(line for line in lines if line.startswith("error: ")) == shown


@pytest.mark.slow
def test_the_store_of_the_launcher_is_found():
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "--no-python"]
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*command, sys.executable, "-c", TELLS], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert sorted(done.stdout.split()) == ["False", "True", "True", "True"]
