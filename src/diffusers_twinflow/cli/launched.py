"""Show an error once, although several processes of a launch may raise it."""

import os
from datetime import timedelta
from hashlib import sha256

LONGEST_WAIT = timedelta(seconds=10)


def is_first_to_show(message: str) -> bool:
    """Return whether this process shows a message, because no other process of its launch has shown the same.

    The processes agree in the store of `accelerate launch` or `torchrun`, which stays open until all of them have ended.
    Other launchers have no such store. Each process then shows its messages.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    from torch.distributed import DistError, TCPStore

    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    key = f"{__package__}/{attempt}/{sha256(message.encode()).hexdigest()}"
    try:
        return TCPStore(*place, is_master=False, timeout=LONGEST_WAIT).add(key, 1) == 1
    except DistError:
        return True
