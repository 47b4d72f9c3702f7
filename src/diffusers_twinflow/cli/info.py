"""Show the contents of a TwinFlow repository without loading its base."""

import argparse
import json

from .output import say
from .shared_arguments import add_hub_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", help="TwinFlow LoRA or model: a folder or a Hub id.")
    add_hub_arguments(parser)
    parser.add_argument("--json", action="store_true", help="Print the result as one JSON object.")


def run(args: argparse.Namespace) -> None:
    from ..options import shown_value
    from .description import describe

    values = describe(args.adapter, subfolder=args.subfolder, revision=args.revision, token=args.token)
    if args.json:
        for line in json.dumps(values, indent=2).splitlines():
            say(line)
        return
    options = values.pop("options", {})
    for name, value in values.items():
        if value not in (None, []):
            say(f"{name}:", ", ".join(map(str, value)) if isinstance(value, list) else value)
    if options:
        say("options:")
    for name, value in options.items():
        say(f"  {name}:", shown_value(value))
