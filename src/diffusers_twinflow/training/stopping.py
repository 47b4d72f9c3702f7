"""When a run is stopped by Ctrl-C or a signal, say in one line how to continue it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunStopped(KeyboardInterrupt):
    """Raised if a signal asks the process to stop. It is a `KeyboardInterrupt`, which data loader workers handle.

    Attributes:
        name: name of the signal.
        exit_code: exit code that a shell reports for a process ended by this signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.name, self.exit_code = signal.Signals(number).name, 128 + number


@contextmanager
def stop_signals() -> Iterator[None]:
    """Make SIGINT and SIGTERM raise `RunStopped` inside the `with` block. Outside the main thread it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise RunStopped(number)

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
