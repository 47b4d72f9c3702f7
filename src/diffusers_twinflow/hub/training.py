"""What a training script needs of the Hub: refuse before training what could not be pushed after it, then publish."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import CommitInfo
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..configuration import TwinFlowConfigError
from .model_card import save_model_card
from .push import push_twinflow_lora
from .repository import LORA


def check_push_options(
    *,
    hub_model_id: str | None,
    base_model: str,
    hub_base_model: str | None = None,
    train_type: str = LORA,
    hub_token: str | None = None,
    report_to: str = "none",
) -> None:
    """Refuse, before training, a run that asks for a push that would fail or leak.

    Args:
        hub_model_id: the repository to push to.
        base_model: what is trained: a Hub id or a directory.
        hub_base_model: Hub id of the base, needed where `base_model` is a directory.
        hub_token: a token among the arguments, which trackers would publish.
        report_to: the tracker.

    Raises:
        TwinFlowConfigError: naming the option and the remedy.
    """
    if not hub_model_id:
        raise TwinFlowConfigError("--push_to_hub needs --hub_model_id, such as me/my-lora.")
    for option, name in (("--hub_model_id", hub_model_id), ("--hub_base_model", hub_base_model)):
        try:
            if name is not None:
                validate_repo_id(name)
        except HFValidationError as error:
            raise TwinFlowConfigError(f"{option}={name!r} is no Hub id: {error}") from error
    if train_type != LORA:
        raise TwinFlowConfigError("--push_to_hub pushes LoRAs: push a whole model with upload_large_folder.")
    if Path(base_model).is_dir() and hub_base_model is None:
        raise TwinFlowConfigError(
            f"--push_to_hub needs the Hub id of the base, and '{base_model}' is a directory of this machine: give "
            "--hub_base_model."
        )
    if hub_token and report_to == "wandb":
        raise TwinFlowConfigError("--hub_token would be logged to wandb: log in with `hf auth login` instead.")


def publish_lora(
    directory: str | Path,
    hub_model_id: str,
    *,
    prompts: Sequence[str] = (),
    scores: Mapping[str, float] | None = None,
    hub_token: str | None = None,
    hub_private_repo: bool | None = None,
    hub_revision: str | None = None,
    hub_base_model: str | None = None,
) -> CommitInfo:
    """Write the model card of a trained LoRA and push the repository as one commit.

    Args:
        directory: what `save_twinflow_lora` wrote, with `samples/` where there are any.
        prompts: what the rows of the sample grid were drawn from.
        scores: measured numbers by name, for the card.
        hub_token, hub_private_repo, hub_revision, hub_base_model: as in `push_twinflow_lora`.
    """
    save_model_card(directory, hub_model_id, prompts=prompts, scores=scores, base_model=hub_base_model)
    return push_twinflow_lora(
        directory,
        hub_model_id,
        token=hub_token,
        private=hub_private_repo,
        revision=hub_revision,
        base_model=hub_base_model,
    )
