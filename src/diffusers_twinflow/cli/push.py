"""Push a trained TwinFlow LoRA or model to the Hub, with a model card, as one commit."""

import argparse
from pathlib import Path

from ..configuration import TwinFlowConfigError
from .output import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", help="Folder that the training script or save_twinflow_lora wrote.")
    parser.add_argument("repo_id", help="Hub id such as me/my-lora; created if it does not exist.")
    parser.add_argument("--base_model", help="Hub id of the base, if it was trained from a local folder.")
    parser.add_argument("--private", action="store_true", default=None, help="Create the repository as private.")
    parser.add_argument("--revision", help="Branch to commit to; default: the main one.")
    parser.add_argument(
        "--card", choices=["new", "keep"], help="Write a new model card, or keep the one in the folder."
    )
    parser.add_argument("--message", help="Message of the commit.")
    parser.add_argument("--token", help="Hub token; default: HF_TOKEN, or the one of `hf auth login`.")


def run(args: argparse.Namespace) -> None:
    from ..hub.files import CARD_NAME
    from ..hub.model_card import rewrite_model_card
    from ..hub.push import check_pushable, push_twinflow_model

    check_pushable(args.directory, base_model=args.base_model)
    if needs_card(Path(args.directory) / CARD_NAME, args):
        rewrite_model_card(args.directory, args.repo_id, base_model=args.base_model, token=args.token)
    commit = push_twinflow_model(
        args.directory,
        args.repo_id,
        private=args.private,
        revision=args.revision,
        commit_message=args.message,
        base_model=args.base_model,
        token=args.token,
    )
    say(commit.commit_url)


def needs_card(path: Path, args: argparse.Namespace) -> bool:
    """Whether to write the model card: if there is none, if nobody edited ours, or if `--card new` asks for it.

    Raises:
        TwinFlowConfigError: if somebody wrote one for another repository or base, and no `--card` decides.
    """
    from ..hub.model_card import is_generated_card

    if args.card or not path.exists() or is_generated_card(path):
        return args.card != "keep"
    text = path.read_text(encoding="utf-8-sig")
    if args.repo_id in text and (args.base_model or "") in text:
        return False
    raise TwinFlowConfigError(
        f"'{path}' was written for another repository or base: pass --card new to write it anew, or --card keep."
    )
