"""Text from untrusted files is printed without control codes, and any text can be printed."""

import io
import sys

import pytest

from diffusers_twinflow.cli.output import note, printable, say


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a red fox, née Füchslein 狐 🦊", "a red fox, née Füchslein 狐 🦊"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x9b31m\x7f\b\r", r"\x9b31m\x7f\x08\r"),
        ("first\nerror: forged", r"first\nerror: forged"),
        ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),
        ("\u2028\u200b\u00a0", "\\u2028\\u200b\u00a0"),
        ("\ud800 alone", r"\ud800 alone"),
        (["\x1b"], r"['\x1b']"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, shown, capsys):
    assert printable(text) == shown
    say("value:", text)
    assert capsys.readouterr().out == f"value: {shown}\n"


def test_a_note_is_one_line(capsys):
    note("error: the Hub says\nno \x1b[1mway")
    assert capsys.readouterr().err == "error: the Hub says no \\x1b[1mway\n"


def test_a_terminal_of_another_encoding_gets_escapes(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", stream)
    say("né 狐")
    assert stream.buffer.getvalue() == b"n\xe9 \\u72d0\n"
