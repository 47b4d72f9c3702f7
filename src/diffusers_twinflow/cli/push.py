"""Put a trained TwinFlow LoRA or model on the Hub, with a model card, as one commit."""

import argparse
from pathlib import Path

from ..configuration import TwinFlowConfigError
from ..hub.files import CARD_NAME
from ..hub.model_card import is_generated_card, rewrite_model_card
from ..hub.push import check_pushable, push_twinflow_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", help="What the training script or save_twinflow_lora wrote.")
    parser.add_argument("repo_id", help="Such as me/my-lora; created where it is not there yet.")
    parser.add_argument("--base_model", help="Hub id of the base, where it was trained from a local directory.")
    parser.add_argument("--private", action="store_true", default=None, help="Create the repository as private.")
    parser.add_argument("--revision", help="Branch to commit to.")
    parser.add_argument("--card", choices=["new", "keep"], help="Write the model card anew, or keep the one there is.")
    parser.add_argument("--message", help="Message of the commit.")


def run(args: argparse.Namespace) -> None:
    check_pushable(args.directory, base_model=args.base_model)
    if needs_card(Path(args.directory) / CARD_NAME, args):
        rewrite_model_card(args.directory, args.repo_id, base_model=args.base_model)
    commit = push_twinflow_model(
        args.directory,
        args.repo_id,
        private=args.private,
        revision=args.revision,
        commit_message=args.message,
        base_model=args.base_model,
    )
    print(commit.commit_url)  # noqa: T201


def needs_card(path: Path, args: argparse.Namespace) -> bool:
    """Whether to write the model card: if there is none, if nobody edited ours, or if `--card new` asks for it.

    Raises:
        TwinFlowConfigError: if somebody wrote one for another repository or base, and no `--card` decides.
    """
    if args.card or not path.exists() or is_generated_card(path):
        return args.card != "keep"
    text = path.read_text(encoding="utf-8")
    if args.repo_id in text and (args.base_model or "") in text:
        return False
    raise TwinFlowConfigError(
        f"'{path}' was written for another repository or base: pass --card new to write it anew, or --card keep."
    )
