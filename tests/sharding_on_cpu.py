"""FSDP2 and DeepSpeed in CPU processes, which accelerate does not support by itself."""

import os

from accelerate.state import PartialState
from accelerate.utils import DistributedType

# What `accelerate launch --config_file examples/accelerate/fsdp2.yaml` sets, in float32.
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
}
# The same of examples/accelerate/deepspeed.yaml.
DEEPSPEED = {
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2",
    "ACCELERATE_USE_CPU": "false",
    "DS_ACCELERATOR": "cpu",
}


def pretend_accelerators() -> None:
    """Have accelerate take this process's CPU for one of several accelerators, where it is told to shard."""
    if "ACCELERATE_USE_FSDP" in os.environ:
        PartialState(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    if "ACCELERATE_USE_DEEPSPEED" in os.environ:
        PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_CPU)
