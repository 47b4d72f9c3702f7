"""Put a TwinFlow repository on the Hub: checked first, then one commit, so that nothing is ever half there."""

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..configuration import TwinFlowConfigError
from ..families import FAMILIES
from .component_check import WEIGHTS
from .files import (
    CARD_NAME,
    CONDITIONING_NAME,
    CONFIG_NAME,
    INDEX_NAME,
    LORA_NAME,
    SAMPLES_FOLDER,
    SCHEDULER_NAME,
    LocatedRepository,
    check_finite,
    locate_repository,
    read_header,
)
from .model_check import FILE_PATTERNS, check_model_files, read_index
from .repository import LORA, TwinFlowRepositoryConfig
from .samples import sample_names

NEEDED = (CONFIG_NAME, LORA_NAME, SCHEDULER_NAME)
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
GENERATED_NAMES = {".gitattributes"}
"""What the Hub itself puts into a new repository."""
REASONS = {
    401: "the Hub does not accept the token: log in with `hf auth login`",
    403: "the token may not write there: log in with `hf auth login` and a token that has write access",
    409: "the repository was changed at the same time: push again",
    412: "the repository was changed at the same time: push again",
    413: "a file is larger than the Hub or a proxy on the way accepts",
    429: "the Hub has had too many requests from you: wait for a while",
}


class TwinFlowPushError(TwinFlowConfigError):
    """A push that the Hub or the connection refused; the message has the command that pushes the same files later."""


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
        TwinFlowConfigError: if the directory is not complete, or names a base model that only this machine has, or
            `repo_id` is no Hub id.
        TwinFlowPushError: if the Hub refuses or the connection fails. Nothing of the push is then visible.
    """
    config, files = check_pushable(directory, base_model=base_model)
    if config.train_type != LORA:
        raise TwinFlowConfigError(
            f"'{directory}' holds a {config.train_type} model: push it with push_twinflow_model, or the command line."
        )
    return _push(
        Path(directory),
        config,
        files,
        repo_id,
        token=token,
        private=private,
        revision=revision,
        commit_message=commit_message,
        base_model=base_model,
    )


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
    return _push(
        Path(directory),
        config,
        files,
        repo_id,
        token=token,
        private=private,
        revision=revision,
        commit_message=commit_message,
        base_model=base_model,
    )


def _push(
    directory: Path,
    config: TwinFlowRepositoryConfig,
    files: list[str],
    repo_id: str,
    *,
    token: str | None,
    private: bool | None,
    revision: str | None,
    commit_message: str | None,
    base_model: str | None,
) -> CommitInfo:
    check_repo_id(repo_id)
    kind = "LoRA" if config.train_type == LORA else "model"
    operations = [
        CommitOperationAdd(name, config.to_json().encode() if name == CONFIG_NAME else str(directory / name))
        for name in files
    ]
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        return api.create_commit(
            repo_id,
            operations,
            commit_message=commit_message or f"TwinFlow {kind} for {config.num_inference_steps} step(s)",
            revision=revision,
        )
    except Exception as error:  # the errors of the client and of what it is built on share no class
        command = push_command(directory, repo_id, base_model=base_model, revision=revision, private=private)
        raise TwinFlowPushError(
            f"the push to '{repo_id}' failed: {_reason(error)}. {_what_is_left(api, repo_id)}The files are complete in "
            f"'{directory}'. Push them later with `{command}`."
        ) from error


def push_command(
    directory: str | Path,
    repo_id: str,
    *,
    base_model: str | None = None,
    revision: str | None = None,
    private: bool | None = None,
) -> str:
    """The command line that pushes a directory."""
    words = ["diffusers-twinflow", "push", str(directory), repo_id]
    words += ["--base_model", base_model] if base_model else []
    words += ["--revision", revision] if revision else []
    words += ["--private"] if private else []
    return shlex.join(words)


def _reason(error: Exception) -> str:
    """Why a request failed, from the status of the answer if there was one."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, HfHubHTTPError) and cause.response is not None:
        status = cause.response.status_code
        default = "the Hub has a problem of its own: try again later" if status >= 500 else cause.server_message
        return f"{REASONS.get(status, default or 'the Hub refused it')} (status {status})"
    if isinstance(error, (ValueError, LookupError)):
        return f"what answered is not the Hub, perhaps a proxy or a login page ({type(error).__name__})"
    return f"the connection broke ({type(error).__name__}: {' '.join(str(error).split())[:200]})"


def _what_is_left(api: HfApi, repo_id: str) -> str:
    """A sentence about a repository that the failed push has left empty; nothing if there is none."""
    try:
        names = set(api.list_repo_files(repo_id))
    except HfHubHTTPError:
        return ""
    except Exception:  # no answer: the same error that ended the push
        return f"If '{repo_id}' is new, it may be on the Hub without files. "
    return "" if names - GENERATED_NAMES else f"'{repo_id}' is on the Hub without files; the next push fills it. "


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
    """The Hub id with its owner. The Hub is asked whether the token may write there, so call it before training.

    Raises:
        TwinFlowConfigError: if it is no Hub id, nobody is logged in, the token may not write there, or the Hub cannot
            be reached.
    """
    check_repo_id(repo_id)
    try:
        account = HfApi(token=token).whoami()
        name = account["name"]
    except Exception as error:  # network errors of the client's library have no class of its own
        raise TwinFlowConfigError(
            f"the Hub does not know who pushes to '{repo_id}' ({type(error).__name__}): log in with `hf auth login`, or "
            "pass a token that can write."
        ) from error
    repo_id = repo_id if "/" in repo_id else f"{name}/{repo_id}"
    problem = _write_problem(account, repo_id)
    if problem:
        raise TwinFlowConfigError(
            f"the push to '{repo_id}' would be refused: {problem}. Create a token with write access to it at "
            "https://huggingface.co/settings/tokens and log in with `hf auth login`, or push to a repository of yours."
        )
    return repo_id


def _write_problem(account: dict[str, Any], repo_id: str) -> str | None:
    """Why an account with its token may not write a repository, as far as `whoami` tells; `None` if it may."""
    owner = repo_id.split("/")[0]
    organizations = {entry.get("name"): entry for entry in account.get("orgs") or []}
    token = (account.get("auth") or {}).get("accessToken") or {}
    role = token.get("role")
    if role == "read":
        return f"the token '{token.get('displayName')}' of '{account['name']}' can only read"
    if owner != account["name"] and owner not in organizations:
        return f"'{owner}' is neither '{account['name']}', whose token this is, nor an organization of that account"
    if owner in organizations and organizations[owner].get("roleInOrg") == "read":
        return f"'{account['name']}' can only read in the organization '{owner}'"
    if role == "fineGrained" and not _scope_allows(token.get("fineGrained") or {}, owner, repo_id):
        return f"the fine-grained token '{token.get('displayName')}' has no write access to it"
    return None


def _scope_allows(scope: dict[str, Any], owner: str, repo_id: str) -> bool:
    return any(
        "repo.write" in entry.get("permissions", ()) and (entry.get("entity") or {}).get("name") in (owner, repo_id)
        for entry in scope.get("scoped") or []
    )


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
    files = _lora_files(repository, config) if config.train_type == LORA else _model_files(repository, config)
    if base_model is not None:
        config = replace(config, base_model=base_model)
    _check_base(directory, config)
    config = _without_local_paths(config)
    files += [CARD_NAME] if repository.find(CARD_NAME) else []
    for name in (CONFIG_NAME, CARD_NAME):
        if name in files and TOKEN.search(_read_text(directory / name)):
            raise TwinFlowConfigError(f"{name} holds what looks like a Hub token: take it out before it is public.")
    if CARD_NAME in files:
        _check_card(directory / CARD_NAME)
    return config, [*files, *(f"{SAMPLES_FOLDER}/{name}" for name in sample_names(directory))]


def _read_text(path: Path) -> str:
    """A text file in UTF-8, which the Hub reads too.

    Raises:
        TwinFlowConfigError: if it is in another encoding.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TwinFlowConfigError(f"'{path.name}' is not text in UTF-8 ({error}): save it as UTF-8.") from error


def _lora_files(repository: LocatedRepository, config: TwinFlowRepositoryConfig) -> list[str]:
    missing = [name for name in NEEDED if repository.find(name) is None]
    if missing:
        raise TwinFlowConfigError(
            f"'{repository.name}' lacks {', '.join(missing)}: save it again with save_twinflow_lora."
        )
    weights = [name for name in (LORA_NAME, CONDITIONING_NAME) if repository.find(name)]
    if config.needs_time_conditioning and CONDITIONING_NAME not in weights:
        raise TwinFlowConfigError(
            f"'{repository.name}' lacks {CONDITIONING_NAME}: save it again with save_twinflow_lora."
        )
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
        ModelCard(_read_text(path))
    except (ValueError, yaml.YAMLError) as error:
        raise TwinFlowConfigError(f"{CARD_NAME} has metadata that is not valid: {error}") from error
