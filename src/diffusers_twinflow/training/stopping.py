"""A run that is stopped by Ctrl-C or by the system says in one line how it goes on."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunStopped(KeyboardInterrupt):
    """A signal that asks the process to stop. Workers of data loaders know what to do with a KeyboardInterrupt.

    Attributes:
        name: of the signal.
        exit_code: what a shell reports of a process that the signal ended.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.name, self.exit_code = signal.Signals(number).name, 128 + number


@contextmanager
def stop_signals() -> Iterator[None]:
    """Within the context SIGINT and SIGTERM raise `RunStopped`; outside the main thread nothing changes."""
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
