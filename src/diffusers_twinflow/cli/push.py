"""Push a trained TwinFlow LoRA or model to the Hub with a model card, in one commit."""

import argparse
from pathlib import Path

from ..configuration import TwinFlowConfigError
from .output import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", help="Output folder of a training run or of save_twinflow_lora.")
    parser.add_argument("repo_id", help="Hub id, such as me/my-lora. The repository is created if it does not exist.")
    parser.add_argument("--base_model", help="Hub id of the base, if it was trained from a local folder.")
    parser.add_argument("--private", action="store_true", default=None, help="Make a new repository private.")
    parser.add_argument("--revision", help="Branch to commit to. Default: the main branch.")
    parser.add_argument(
        "--card",
        choices=["new", "keep"],
        help="new: write a new model card; keep: push the card in the folder. Default: new, unless the card was edited.",
    )
    parser.add_argument("--message", help="Commit message. Default: a message with the number of steps.")
    parser.add_argument("--token", help="Hub token. Default: HF_TOKEN, or the token of `hf auth login`.")


def run(args: argparse.Namespace) -> None:
    from ..hub.files import CARD_NAME
    from ..hub.model_card import rewrite_model_card
    from ..hub.push import push_twinflow_model
    from ..hub.pushable import check_pushable

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
    """Return whether to write the model card: if there is none, if nobody edited it, or with `--card new`.

    Raises:
        TwinFlowConfigError: if an edited card is for another repository or base, and `--card` is not given.
    """
    from ..hub.model_card import is_generated_card

    if args.card or not path.exists() or is_generated_card(path):
        return args.card != "keep"
    text = path.read_text(encoding="utf-8-sig")
    if args.repo_id in text and (args.base_model or "") in text:
        return False
    raise TwinFlowConfigError(
        f"'{path}' was written for another repository or base. Pass --card new to replace it, or --card keep to keep it."
    )
