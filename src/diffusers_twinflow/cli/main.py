"""The command line `diffusers-twinflow`; one file a command."""

import argparse
import sys

from huggingface_hub.errors import HfHubHTTPError

from ..configuration import TwinFlowConfigError
from . import compare, convert, demo, generate, info, push

COMMANDS = (generate, info, push, compare, demo, convert)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="diffusers-twinflow", description="TwinFlow LoRAs: draw, look into, share.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        name = command.__name__.rsplit(".", 1)[-1]
        summary = command.__doc__.splitlines()[0]
        command_parser = commands.add_parser(name, help=summary, description=summary)
        command.add_arguments(command_parser)
        command_parser.set_defaults(run=command.run)
    return parser


def main(input_args: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, or 1 with one line on standard error for what the user can mend."""
    args = build_parser().parse_args(input_args)
    try:
        args.run(args)
    except (TwinFlowConfigError, HfHubHTTPError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0
