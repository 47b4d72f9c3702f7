"""Show only our own messages on the terminal while a command runs."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TextIO

from .output import note

PACKAGE = __package__.split(".")[0]
LIBRARIES = (
    "torch",
    "torchao",
    "bitsandbytes",
    "transformers",
    "diffusers",
    "peft",
    "accelerate",
    "huggingface_hub",
    "httpx",
    "gradio",
)
IMPORTED_LATE = "DeepSpeed"
"""Logger of a library that other libraries import later. The import sets its level, and its handler writes to stdout."""


@contextmanager
def only_our_messages(verbose: bool = False, rewrite: Callable[[str], str] = str) -> Iterator[None]:
    """Hide the messages, warnings and progress bars of other libraries inside the `with` block.

    Our own warnings are shown on one line each. Progress bars of downloads are shown if standard error is a terminal.

    Args:
        verbose: show the libraries' messages too.
        rewrite: changes our messages, such as the names of arguments to flags.
    """
    with ExitStack() as stack:
        stack.enter_context(_our_log(rewrite))
        stack.enter_context(_our_warnings(lambda text: note(f"warning: {rewrite(text)}"), hide_others=not verbose))
        if not verbose:
            stack.enter_context(_quiet_loggers())
            stack.enter_context(_no_bars())
        yield


@contextmanager
def quiet_libraries(show_warning: Callable[[str], None]) -> Iterator[None]:
    """Hide the messages, warnings and progress bars of other libraries inside the `with` block, also of `datasets`.

    Args:
        show_warning: shows a warning of this package.
    """
    with _our_warnings(show_warning, hide_others=True), _quiet_loggers(), _no_bars(), _no_bars_of_datasets():
        yield


@contextmanager
def _our_log(rewrite: Callable[[str], str]) -> Iterator[None]:
    logger, handler = logging.getLogger(PACKAGE), _NoteHandler(rewrite)
    logger.addHandler(handler)
    propagates, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates


class _NoteHandler(logging.Handler):
    def __init__(self, rewrite: Callable[[str], str]) -> None:
        super().__init__()
        self.rewrite = rewrite

    def emit(self, record: logging.LogRecord) -> None:
        note(f"{record.levelname.lower()}: {self.rewrite(record.getMessage())}")


@contextmanager
def _our_warnings(show: Callable[[str], None], hide_others: bool) -> Iterator[None]:
    def show_warning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        show(str(message))

    with warnings.catch_warnings():
        if hide_others:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", category=UserWarning, module=PACKAGE)
            warnings.showwarning = show_warning
        yield


@contextmanager
def _quiet_loggers() -> Iterator[None]:
    import diffusers  # noqa: F401  (these libraries set the levels of their loggers when they are imported)
    import torch  # noqa: F401
    import transformers  # noqa: F401

    levels = {name: logging.getLogger(name).level for name in LIBRARIES}
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
    late = logging.getLogger(IMPORTED_LATE)
    late.addFilter(_is_error)
    try:
        yield
    finally:
        late.removeFilter(_is_error)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


@contextmanager
def _no_bars() -> Iterator[None]:
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    hides_downloads = are_progress_bars_disabled()
    with ExitStack() as stack:
        stack.callback(disable_progress_bars if hides_downloads else enable_progress_bars)
        for library in (diffusers_logging, transformers_logging):
            if library.is_progress_bar_enabled():
                library.disable_progress_bar()
                stack.callback(library.enable_progress_bar)
        shows_downloads = sys.stderr.isatty() and not hides_downloads
        (enable_progress_bars if shows_downloads else disable_progress_bars)()  # transformers' functions change it too
        yield


@contextmanager
def _no_bars_of_datasets() -> Iterator[None]:
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
