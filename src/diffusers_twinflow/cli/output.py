"""What the commands print: one place, which keeps a terminal safe from the text of other people's files."""

import sys
import unicodedata
from typing import Any, TextIO


def printable(value: Any) -> str:
    """A value as one line of text that a terminal only shows.

    Control characters, bidirectional marks and lone surrogates, which a terminal would obey or cannot encode, become
    escapes such as `\\x1b`.
    """
    return "".join(character if _is_shown(character) else _escape(character) for character in str(value))


def _is_shown(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def say(*values: Any) -> None:
    """Print a line of a command's result: values of any origin, made printable, on standard output."""
    _write(" ".join(map(printable, values)), sys.stdout)


def note(message: Any) -> None:
    """Print a line on standard error, for the user rather than for a program that reads the result."""
    _write(printable(" ".join(str(message).split("\n"))), sys.stderr)


def _write(line: str, stream: TextIO) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
