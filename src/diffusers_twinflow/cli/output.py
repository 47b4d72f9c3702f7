"""Print the output of commands. Text from untrusted files cannot send control codes to the terminal."""

import os
import sys
import unicodedata
from typing import Any, TextIO


def printable(value: Any) -> str:
    """Return a value as one line of text that is safe to print.

    Control characters, bidirectional marks and lone surrogates are written as escapes such as `\\x1b`.
    """
    return "".join(character if _is_shown(character) else _escape(character) for character in str(value))


def _is_shown(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def say(*values: Any) -> None:
    """Print a line of a command's result on standard output. The values may come from untrusted files."""
    _write(" ".join(map(printable, values)), sys.stdout)


def note(message: Any) -> None:
    """Print a line for the user on standard error, where programs that read the result do not see it."""
    _write(printable(" ".join(str(message).split("\n"))), sys.stderr)


def _write(line: str, stream: TextIO) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def speaks() -> bool:
    """Return whether this process prints errors that occur in all processes."""
    from accelerate import PartialState

    if PartialState._shared_state:
        return PartialState().is_main_process
    return int(os.environ.get("RANK", 0)) == 0
