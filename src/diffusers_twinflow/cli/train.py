"""Distill a flow-matching model with TwinFlow, or train it with ordinary flow matching.

To train on several GPUs: accelerate launch -m diffusers_twinflow.cli train --config recipe.json --output_dir out
"""

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ..configuration import FlowMatchingConfig, TwinFlowConfig, TwinFlowConfigError
from .flags import FlagNames, name_flags
from .launched import is_first_to_show
from .option_flags import OneLineParser, add_flags, given_values
from .output import note, say, speaks
from .quiet import quiet_libraries

if TYPE_CHECKING:
    from ..methods import Method
    from ..training.recipe import RunOptions
    from ..training.trainer import Trainer

HAS_OWN_OUTPUT = True
"""The command shows its own log, so `main` does not hide messages."""
TITLES: dict[type, str] = {TwinFlowConfig: "TwinFlow"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..training.arguments import RecipeOptions, TrainingArguments

    parser.usage = "%(prog)s [--config CONFIG] [option ...]"
    parser.add_argument("--config", help="JSON file of options. Command-line arguments override the file.")
    add_flags(parser, RecipeOptions, TrainingArguments, FlowMatchingConfig, TwinFlowConfig, titles=TITLES)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of this command alone."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    return parser


def parse_args(input_args: Sequence[str] | None = None) -> "RunOptions":
    """Parse the options from the command line and from the recipe in `--config`.

    Raises:
        TwinFlowConfigError: if an argument or an option is unknown or not valid.
    """
    return options_of_command(build_parser().parse_args(input_args))


def options_of_command(parsed: argparse.Namespace) -> "RunOptions":
    """Return the options of parsed arguments, see `parse_args`."""
    from ..options import options_of
    from ..training.recipe import NAMED_CLASSES, build_options, load_recipe

    given = given_values(parsed, options_of(*NAMED_CLASSES))
    return load_recipe(parsed.config, given) if parsed.config else build_options(given)


def run(args: argparse.Namespace) -> None:
    launch(lambda: options_of_command(args), args.parser, verbose=args.verbose)


def main(
    input_args: Sequence[str] | None = None,
    trainer_class: "type[Trainer] | None" = None,
    build_method: "Callable[[RunOptions], Method] | None" = None,
) -> None:
    """Train with command-line arguments. `examples/train_twinflow.py` calls this.

    Args:
        input_args: the arguments. Defaults to those of the command line.
        trainer_class: subclass of `Trainer` that changes a part of the run. Defaults to `Trainer`.
        build_method: returns the method for the options. Defaults to `RunOptions.method`: TwinFlow or flow matching.

    Raises:
        SystemExit: if the run cannot start or ends early. The message has one line.
    """
    parser = build_parser()
    launch(lambda: options_of_command(parser.parse_args(input_args)), parser, trainer_class, build_method)


def launch(
    read: Callable[[], "RunOptions"],
    parser: argparse.ArgumentParser,
    trainer_class: "type[Trainer] | None" = None,
    build_method: "Callable[[RunOptions], Method] | None" = None,
    verbose: bool = False,
) -> None:
    """Train with the options that `read` returns. Errors are shown on one line, with flags as option names.

    Args:
        verbose: show the messages of other libraries.
    """
    from tqdm.contrib.logging import logging_redirect_tqdm

    from ..training.stopping import RunStopped, stop_signals
    from ..writing import is_disk_error

    options: RunOptions | None = None
    try:
        from ..data import requirements  # noqa: F401  (raises an error if the extra is not installed)

        with shown_log(parser, verbose), stop_signals(), logging_redirect_tqdm():
            from ..training.trainer import Trainer  # here, because libraries print messages when they are imported

            options = read()
            method = options.method() if build_method is None else build_method(options)
            trainer = (trainer_class or Trainer)(None, options.arguments, method)
            if options.arguments.dry_run:
                report_costs(trainer)
            else:
                trainer.train()
    except RunStopped as stopped:
        if speaks():
            note(f"stopped by {stopped.name}{_how_to_go_on(options)}")
        raise SystemExit(stopped.exit_code) from None
    except (TwinFlowConfigError, FloatingPointError) as error:
        raise _end(name_flags(str(error), parser)) from None
    except OSError as error:
        if not is_disk_error(error):
            raise
        raise _end(f"{error} Then run with --resume_from_checkpoint latest.") from None
    if trainer.problems:
        raise _end(f"the result is saved, but {'; '.join(trainer.problems)}")


def _end(message: str) -> SystemExit:
    """Return the exit with an error, which one of the processes that raise it shows."""
    return SystemExit(f"error: {message}" if is_first_to_show(message) else 1)


def _how_to_go_on(options: "RunOptions | None") -> str:
    from ..training.checkpoint_files import list_checkpoints

    if options is None or not list_checkpoints(Path(options.arguments.output_dir)):
        return " before the first checkpoint. Run the same command to start again."
    return ". To continue from the last checkpoint, run the same command with --resume_from_checkpoint latest"


def report_costs(trainer: "Trainer") -> None:
    """Measure the time and memory of a run and print them."""
    from ..training.dry_run import format_report

    report = trainer.dry_run()
    if trainer.accelerator.is_main_process:
        for line in format_report(report).splitlines():
            say(line)


@contextmanager
def shown_log(parser: argparse.ArgumentParser, verbose: bool = False) -> Iterator[None]:
    """Show the log messages of this package, with flags as option names.

    Args:
        verbose: show the messages of other libraries too.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    names = FlagNames(parser)
    logger = logging.getLogger("diffusers_twinflow")
    logger.setLevel(logging.INFO)
    handlers = list(logging.root.handlers)
    for handler in handlers:
        handler.addFilter(names)
        handler.addFilter(_without_main_rank)
    try:
        with nullcontext() if verbose else quiet_libraries(logger.warning):
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(names)
            handler.removeFilter(_without_main_rank)


def _without_main_rank(record: logging.LogRecord) -> bool:
    """Take the prefix away that accelerate gives every message; messages of other processes keep it."""
    if isinstance(record.msg, str):
        record.msg = record.msg.removeprefix("[RANK 0] ")
    return True
