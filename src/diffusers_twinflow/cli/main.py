"""The command line `diffusers-twinflow`, with one file per command.

The command files import torch and diffusers only when a command runs, so that `--help` is fast.
"""

import argparse
import traceback
from contextlib import nullcontext
from functools import partial

from .. import __version__
from ..configuration import TwinFlowConfigError
from ..writing import DiskError
from . import compare, convert, demo, evaluate, export, generate, info, push, train
from .flags import name_flags
from .launched import is_first_to_show
from .option_flags import OneLineParser
from .output import note
from .quiet import only_our_messages

COMMANDS = (train, generate, compare, evaluate, demo, info, push, export, convert)
INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="diffusers-twinflow",
        description="Train TwinFlow LoRAs and models, generate images with them, score, inspect, export, convert and share "
        "them.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", title="commands")
    for command in COMMANDS:
        name = command.__name__.rsplit(".", 1)[-1]
        summary = (command.__doc__ or name).splitlines()[0]
        command_parser = commands.add_parser(name, help=summary, description=summary)
        command.add_arguments(command_parser)
        command_parser.add_argument(
            "--verbose", action="store_true", help="Show messages of other libraries and tracebacks of errors."
        )
        command_parser.set_defaults(
            run=command.run, parser=command_parser, has_own_output=getattr(command, "HAS_OWN_OUTPUT", False)
        )
    return parser


def main(input_args: list[str] | None = None) -> int:
    """Run one command, or print the help if there is none.

    Returns:
        The exit status: 0, or 1 with one line on standard error for errors that the user can fix.
    """
    parser = build_parser()
    try:
        args = parser.parse_args(input_args)
    except TwinFlowConfigError as error:
        return end(str(error))
    if args.command is None:
        parser.print_help()
        return 0
    return run_command(args)


def run_command(args: argparse.Namespace) -> int:
    from huggingface_hub.errors import HfHubHTTPError

    try:
        rewrite = partial(name_flags, parser=args.parser)
        with nullcontext() if args.has_own_output else only_our_messages(args.verbose, rewrite):
            args.run(args)
    except (TwinFlowConfigError, HfHubHTTPError, DiskError) as error:
        if args.verbose:
            note_traceback()
        return end(name_flags(str(error), args.parser))
    except KeyboardInterrupt:
        note("interrupted")
        return INTERRUPTED
    return 0


def end(message: str) -> int:
    """Show an error, unless another process of the launch has shown it, and return the exit status."""
    if is_first_to_show(message):
        note(f"error: {message}")
    return 1


def note_traceback() -> None:
    for line in traceback.format_exc().splitlines():
        note(line)
