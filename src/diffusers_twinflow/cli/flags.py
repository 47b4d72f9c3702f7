"""Replace the Python argument names in error messages with command-line flags."""

import argparse
import logging
import re

SYNONYMS = {"num_inference_steps": "steps", "torch_dtype": "dtype"}
"""Python arguments whose flag has a different name."""
NO_VALUE = r"(?=$|[\s,;:)]|\.(?:\s|$))"
"""Matches the text after `name=` if no value follows."""


def name_flags(message: str, parser: argparse.ArgumentParser) -> str:
    """Replace each Python argument in a message, written as `name=` or in backticks, with the command's flag.

    A switch is written as on the command line: `--name` for `name=true`, and `--no-name` for `name=false`.
    """
    flags = {}
    switches = {action.dest for action in parser._actions if isinstance(action, argparse.BooleanOptionalAction)}
    for action in parser._actions:
        long = [text for text in action.option_strings if text.startswith("--") and not text.startswith("--no-")]
        if long:
            flags[action.dest] = long[0]
    flags |= {name: flags[option] for name, option in SYNONYMS.items() if option in flags}
    names = "|".join(map(re.escape, flags))
    switch = re.compile(rf"(?<![\w\-.])({'|'.join(map(re.escape, switches)) or '(?!)'})=(true|false)\b", re.I)
    message = switch.sub(lambda match: f"--{'no-' * (match[2].lower() == 'false')}{match[1]}", message)
    named = re.compile(rf"(?<![\w\-.])(?P<name>{names})(?:={NO_VALUE}|(?==))|`(?P<quoted>{names})`")
    return named.sub(lambda match: flags[match["name"] or match["quoted"]], message)


class FlagNames(logging.Filter):
    """Logging filter that replaces Python arguments with flags in records of this package. It drops no records."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith(__package__.split(".")[0]):
            record.msg, record.args = name_flags(record.getMessage(), self.parser), None
        return True
