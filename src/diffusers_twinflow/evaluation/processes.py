"""Share an evaluation among the processes of an accelerator."""

from datetime import timedelta

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object

LONGEST_WAIT = timedelta(hours=3)
"""How long processes wait for each other while one checks data, encodes its share or generates images."""


def build_accelerator(device: str | None = None) -> Accelerator:
    """Build the accelerator of an evaluation. `accelerate launch` decides about the processes.

    Args:
        device: device that the user chose. "cpu" keeps the processes off a GPU.
    """
    wait = InitProcessGroupKwargs(timeout=LONGEST_WAIT)
    return Accelerator(cpu=device == "cpu", kwargs_handlers=[wait])


def share_of(accelerator: Accelerator, count: int) -> range:
    """Return the indices, of `count`, that this process works on."""
    return range(accelerator.process_index, count, accelerator.num_processes)


gather = gather_object
"""Return the items of the lists of all processes as one list. All processes must call it."""
