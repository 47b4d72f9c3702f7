"""Put a TwinFlow repository on the Hub: checked first, then one commit, so that nothing is ever half there."""

import re
from dataclasses import replace
from pathlib import Path

import yaml
from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..configuration import TwinFlowConfigError
from .files import (
    CARD_NAME,
    CONDITIONING_NAME,
    CONFIG_NAME,
    LORA_NAME,
    SAMPLE_SUFFIXES,
    SAMPLES_FOLDER,
    SCHEDULER_NAME,
    locate_repository,
    read_header,
)
from .repository import LORA, TwinFlowRepositoryConfig

NEEDED = (CONFIG_NAME, LORA_NAME, SCHEDULER_NAME)
OPTIONAL = (CONDITIONING_NAME, CARD_NAME)
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")


def push_twinflow_lora(
    directory: str | Path,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    base_model: str | None = None,
) -> CommitInfo:
    """Push a directory that `save_twinflow_lora` wrote, as one commit. Other files in it, such as checkpoints, stay.

    Args:
        directory: holds the files of a TwinFlow LoRA repository and, where there are any, a model card and `samples/`.
        repo_id: such as "me/my-lora"; created where it is not there yet.
        token: defaults to the one that you logged in with.
        private: visibility of a repository that is created; the default is the account's.
        revision: branch to commit to, created where it is not there yet; the default is the main one.
        commit_message: defaults to a line that names the step count.
        base_model: Hub id of the base, where `twinflow_config.json` names a directory of this machine.

    Returns:
        what was committed, with its `oid` and `commit_url`.

    Raises:
        TwinFlowConfigError: where the directory is not complete, or names a base model that only this machine has, or
            `repo_id` is no Hub id.
        HfHubHTTPError: where the Hub refuses; nothing of the push is then visible.
    """
    directory = Path(directory)
    config, files = check_pushable(directory, base_model=base_model)
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise TwinFlowConfigError(f"repo_id={repo_id!r} is no Hub id such as 'me/my-lora': {error}") from error
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    return api.create_commit(
        repo_id,
        [
            CommitOperationAdd(name, config.to_json().encode() if name == CONFIG_NAME else str(directory / name))
            for name in files
        ],
        commit_message=commit_message or f"TwinFlow LoRA for {config.num_inference_steps} step(s)",
        revision=revision,
    )


def check_pushable(
    directory: str | Path, *, base_model: str | None = None
) -> tuple[TwinFlowRepositoryConfig, list[str]]:
    """The configuration of a complete LoRA repository and the names of its files, as they go to the Hub.

    Raises:
        TwinFlowConfigError: where a file is missing or broken, or a stranger could not load it.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise TwinFlowConfigError(f"'{directory}' is no directory: give the one that save_twinflow_lora wrote.")
    repository = locate_repository(directory)
    config = TwinFlowRepositoryConfig.load_located(repository)
    if config.train_type != LORA:
        raise TwinFlowConfigError(
            f"'{directory}' holds a {config.train_type} model: push it with huggingface_hub's upload_large_folder."
        )
    missing = [name for name in NEEDED if repository.find(name) is None]
    if missing:
        raise TwinFlowConfigError(f"'{directory}' lacks {', '.join(missing)}: save it again with save_twinflow_lora.")
    files = [*NEEDED, *(name for name in OPTIONAL if repository.find(name))]
    for name in (LORA_NAME, CONDITIONING_NAME):
        if name in files:
            read_header(directory / name)
    if base_model is not None:
        config = replace(config, base_model=base_model)
    _check_base(directory, config)
    for name in (CONFIG_NAME, CARD_NAME):
        if name in files and TOKEN.search((directory / name).read_text(encoding="utf-8")):
            raise TwinFlowConfigError(f"{name} holds what looks like a Hub token: take it out before it is public.")
    if CARD_NAME in files:
        _check_card(directory / CARD_NAME)
    samples = sorted(path for path in (directory / SAMPLES_FOLDER).glob("*") if path.suffix.lower() in SAMPLE_SUFFIXES)
    return config, [*files, *(f"{SAMPLES_FOLDER}/{path.name}" for path in samples)]


def _check_base(directory: Path, config: TwinFlowRepositoryConfig) -> None:
    base = config.base_model
    try:
        validate_repo_id(base)
        is_hub_id = not (directory / base).exists() and not Path(base).is_dir()
    except HFValidationError:
        is_hub_id = False
    if not is_hub_id:
        raise TwinFlowConfigError(
            f"{CONFIG_NAME} names the base model '{base}', which only this machine has: pass base_model= with its Hub "
            "id."
        )


def _check_card(path: Path) -> None:
    try:
        ModelCard(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise TwinFlowConfigError(f"{CARD_NAME} has metadata that is not valid: {error}") from error
