"""Put a TwinFlow repository on the Hub: checked first, then one commit, so that nothing is ever half there."""

import re
from dataclasses import replace
from pathlib import Path

import yaml
from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..configuration import TwinFlowConfigError
from ..families import FAMILIES
from .files import (
    CARD_NAME,
    CONDITIONING_NAME,
    CONFIG_NAME,
    INDEX_NAME,
    LORA_NAME,
    SAMPLE_SUFFIXES,
    SAMPLES_FOLDER,
    SCHEDULER_NAME,
    LocatedRepository,
    check_finite,
    locate_repository,
    read_header,
)
from .model_check import FILE_PATTERNS, WEIGHTS, check_model_files, read_index
from .repository import LORA, TwinFlowRepositoryConfig

NEEDED = (CONFIG_NAME, LORA_NAME, SCHEDULER_NAME)
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
        directory: holds the files of a TwinFlow repository and, where there are any, a model card and `samples/`.
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
    config, files = check_pushable(directory, base_model=base_model)
    if config.train_type != LORA:
        raise TwinFlowConfigError(
            f"'{directory}' holds a {config.train_type} model: push it with push_twinflow_model, or the command line."
        )
    return _push(Path(directory), config, files, repo_id, token, private, revision, commit_message)


def push_twinflow_model(
    directory: str | Path,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    base_model: str | None = None,
) -> CommitInfo:
    """Push a directory that `save_twinflow_model` or `save_twinflow_lora` wrote, as `push_twinflow_lora` does."""
    config, files = check_pushable(directory, base_model=base_model)
    return _push(Path(directory), config, files, repo_id, token, private, revision, commit_message)


def _push(
    directory: Path,
    config: TwinFlowRepositoryConfig,
    files: list[str],
    repo_id: str,
    token: str | None,
    private: bool | None,
    revision: str | None,
    commit_message: str | None,
) -> CommitInfo:
    check_repo_id(repo_id)
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    kind = "LoRA" if config.train_type == LORA else "model"
    return api.create_commit(
        repo_id,
        [
            CommitOperationAdd(name, config.to_json().encode() if name == CONFIG_NAME else str(directory / name))
            for name in files
        ],
        commit_message=commit_message or f"TwinFlow {kind} for {config.num_inference_steps} step(s)",
        revision=revision,
    )


def check_repo_id(repo_id: str) -> None:
    """
    Raises:
        TwinFlowConfigError: where it is no Hub id.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise TwinFlowConfigError(f"repo_id={repo_id!r} is no Hub id such as 'me/my-lora': {error}") from error


def whole_repo_id(repo_id: str, token: str | None = None) -> str:
    """The Hub id with its owner, which is asked of the Hub: a token that is refused is so before anything is trained.

    Raises:
        TwinFlowConfigError: where it is no Hub id, or nobody is logged in, or the Hub cannot be reached.
    """
    check_repo_id(repo_id)
    try:
        name = HfApi(token=token).whoami()["name"]
    except Exception as error:  # network errors of the client's library have no class of its own
        raise TwinFlowConfigError(
            f"the Hub does not know who pushes to '{repo_id}' ({type(error).__name__}): log in with `hf auth login`, or "
            "pass a token that can write."
        ) from error
    return repo_id if "/" in repo_id else f"{name}/{repo_id}"


def check_pushable(
    directory: str | Path, *, base_model: str | None = None
) -> tuple[TwinFlowRepositoryConfig, list[str]]:
    """The configuration of a complete repository and the names of its files, as they go to the Hub.

    Raises:
        TwinFlowConfigError: where a file is missing or broken, or a stranger could not load it.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise TwinFlowConfigError(f"'{directory}' is no directory: give the one that was trained into.")
    repository = locate_repository(directory)
    config = TwinFlowRepositoryConfig.load_located(repository)
    files = _lora_files(repository) if config.train_type == LORA else _model_files(repository, config)
    if base_model is not None:
        config = replace(config, base_model=base_model)
    _check_base(directory, config)
    config = _without_local_paths(config)
    files += [CARD_NAME] if repository.find(CARD_NAME) else []
    for name in (CONFIG_NAME, CARD_NAME):
        if name in files and TOKEN.search((directory / name).read_text(encoding="utf-8")):
            raise TwinFlowConfigError(f"{name} holds what looks like a Hub token: take it out before it is public.")
    if CARD_NAME in files:
        _check_card(directory / CARD_NAME)
    samples = sorted(path for path in (directory / SAMPLES_FOLDER).glob("*") if path.suffix.lower() in SAMPLE_SUFFIXES)
    return config, [*files, *(f"{SAMPLES_FOLDER}/{path.name}" for path in samples)]


def _lora_files(repository: LocatedRepository) -> list[str]:
    missing = [name for name in NEEDED if repository.find(name) is None]
    if missing:
        raise TwinFlowConfigError(
            f"'{repository.name}' lacks {', '.join(missing)}: save it again with save_twinflow_lora."
        )
    weights = [name for name in (LORA_NAME, CONDITIONING_NAME) if repository.find(name)]
    for name in weights:
        read_header(repository.directory / name)
        check_finite(repository.directory / name)
    return [*NEEDED, *(name for name in weights if name not in NEEDED)]


def _model_files(repository: LocatedRepository, config: TwinFlowRepositoryConfig) -> list[str]:
    family, directory = FAMILIES[config.family], repository.directory
    components = read_index(repository, family)
    check_model_files(directory, family, components)
    if repository.find(SCHEDULER_NAME) is None:
        raise TwinFlowConfigError(
            f"'{repository.name}' lacks {SCHEDULER_NAME}: save it again with save_twinflow_model."
        )
    for path in (directory / family.component_name).glob(WEIGHTS):
        check_finite(path)
    found = {path for name in components for pattern in FILE_PATTERNS for path in (directory / name).glob(pattern)}
    return [CONFIG_NAME, INDEX_NAME, *sorted(path.relative_to(directory).as_posix() for path in found)]


def _without_local_paths(config: TwinFlowRepositoryConfig) -> TwinFlowRepositoryConfig:
    """The configuration without arguments of the training that are places of this machine."""
    arguments = config.trained.get("arguments")
    if not isinstance(arguments, dict):
        return config
    kept = {name: value for name, value in arguments.items() if not (isinstance(value, str) and _is_place(value))}
    return replace(config, trained=config.trained | {"arguments": kept})


def _is_place(text: str) -> bool:
    return Path(text).is_absolute() or ("/" in text and Path(text).exists())


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
