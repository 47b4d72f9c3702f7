"""Errors of the library name Python arguments; a user of the command line reads the flags instead."""

import argparse
import re

SYNONYMS = {"num_inference_steps": "steps", "torch_dtype": "dtype"}
"""Python arguments whose flag has another name."""
NO_VALUE = r"(?=$|[\s,;:)]|\.(?:\s|$))"
"""What follows `name=` if the message gives no value with it."""


def name_flags(message: str, parser: argparse.ArgumentParser) -> str:
    """Replace each Python argument that a message names, as `name=` or in backticks, by the flag of the command."""
    flags = {action.dest: max(action.option_strings, key=len) for action in parser._actions if action.option_strings}
    flags |= {name: flags[option] for name, option in SYNONYMS.items() if option in flags}
    names = "|".join(map(re.escape, flags))
    named = re.compile(rf"(?<![\w\-.])(?P<name>{names})(?:={NO_VALUE}|(?==))|`(?P<quoted>{names})`")
    return named.sub(lambda match: flags[match["name"] or match["quoted"]], message)
