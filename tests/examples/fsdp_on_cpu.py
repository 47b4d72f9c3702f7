"""FSDP2 on CPU processes, which accelerate by itself shards on accelerators only."""

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


def pretend_accelerators() -> None:
    """Have accelerate take this process's CPU for one of several accelerators."""
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
