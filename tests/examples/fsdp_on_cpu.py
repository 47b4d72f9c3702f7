"""Runs the training script under FSDP2 on CPU processes, which accelerate by itself shards on accelerators only."""

import sys
from pathlib import Path

from accelerate.state import PartialState
from accelerate.utils import DistributedType

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import train_twinflow  # noqa: E402

if __name__ == "__main__":
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    train_twinflow.main(sys.argv[1:])
