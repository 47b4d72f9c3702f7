"""Push a TwinFlow repository to the Hub: check it first, then push all files in one commit."""

import json
import re
import shlex
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, ModelInfo
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..configuration import TwinFlowConfigError
from ..families import FAMILIES
from .base_loras import parse_base_loras
from .component_check import WEIGHTS
from .files import (
    CARD_NAME,
    CONFIG_NAME,
    LORA_NAME,
    MODULAR_INDEX_NAME,
    PART_NAMES,
    SAMPLES_FOLDER,
    SCHEDULER_NAME,
    LocatedRepository,
    check_finite,
    index_name,
    locate_repository,
    modular_index_at,
    read_header,
    read_json,
)
from .model_check import FILE_PATTERNS, check_model_files, read_index
from .repository import LORA, TwinFlowRepositoryConfig
from .sample_images import sample_names

NEEDED = (CONFIG_NAME, LORA_NAME, SCHEDULER_NAME)
PUSHED_FILES = "pushed_files"
"""Key of the pushed `twinflow_config.json` with the names of the files beside it and the model card."""
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
GENERATED_NAMES = {".gitattributes"}
"""Files that the Hub itself puts into a new repository."""
REASONS = {
    401: "the Hub does not accept the token: log in with `hf auth login`",
    403: "the token may not write there: log in with `hf auth login` and a token that has write access",
    409: "the repository was changed at the same time: push again",
    412: "the repository was changed at the same time: push again",
    413: "a file is larger than the Hub or a proxy on the way accepts",
    429: "the Hub received too many requests from you: wait a while",
}


class TwinFlowPushError(TwinFlowConfigError):
    """Raised if a push fails. The message contains the command that pushes the same files later."""


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
    """Push a TwinFlow LoRA that `save_twinflow_lora` wrote to the Hub, in one commit.

    The model card and `samples/` are pushed too, if they exist. Other files in the directory, such as checkpoints, are
    not pushed. The commit deletes files of earlier pushes that the directory no longer has. Other files of the Hub's
    repository and its model card stay. Without a new model card, the images of the old one stay too.

    Args:
        directory: directory of the TwinFlow repository.
        repo_id: Hub id, such as "me/my-lora". The repository is created if it does not exist.
        token: token with write access. Defaults to the token that you logged in with.
        private: whether a new repository is private. Defaults to the setting of your account.
        revision: branch to commit to, created if it does not exist. Defaults to the main branch.
        commit_message: defaults to a message that names the step count.
        base_model: Hub id of the base. Needed if `twinflow_config.json` names a local directory.

    Returns:
        The commit, with its `oid` and `commit_url`.

    Raises:
        TwinFlowConfigError: if the directory is incomplete, if it names a base model that exists only on this machine,
            or if `repo_id` is not a Hub id.
        TwinFlowPushError: if the Hub refuses the push or the connection fails. In this case nothing is published.

    Examples:
        >>> save_twinflow_lora("my-lora", transformer, config, scheduler)
        >>> commit = push_twinflow_lora("my-lora", "me/my-lora")
        >>> print(commit.commit_url)
    """
    config, files = check_pushable(directory, base_model=base_model)
    if config.train_type != LORA:
        raise TwinFlowConfigError(
            f"'{directory}' is a {config.train_type} model: push it with push_twinflow_model or `diffusers-twinflow push`."
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
    """Push a whole model or a LoRA that `save_twinflow_model` or `save_twinflow_lora` wrote to the Hub, in one commit.

    Arguments, return value and errors are those of `push_twinflow_lora`.
    """
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
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        parent = api.model_info(repo_id, revision=revision)
        earlier = _pushed_before(api, parent)
        stale = _stale_files(earlier, files)
        written = {CONFIG_NAME: _with_file_names(config.to_json(), earlier.union(files).difference(stale))}
        if MODULAR_INDEX_NAME in files:
            written[MODULAR_INDEX_NAME] = modular_index_at(directory, repo_id)
        operations = [
            CommitOperationAdd(name, written[name].encode() if name in written else str(directory / name))
            for name in files
        ]
        return api.create_commit(
            repo_id,
            [*operations, *map(CommitOperationDelete, stale)],
            commit_message=commit_message or f"TwinFlow {kind} for {config.num_inference_steps} step(s)",
            revision=revision,
            parent_commit=parent.sha if stale else None,
        )
    except Exception as error:  # the client's errors have no common class
        command = push_command(directory, repo_id, base_model=base_model, revision=revision, private=private)
        raise TwinFlowPushError(
            f"the push to '{repo_id}' failed: {_reason(error)}. {_what_is_left(api, repo_id)}The files are complete in "
            f"'{directory}'. Push them later with `{command}`."
        ) from error


def _with_file_names(text: str, files: set[str]) -> str:
    """Add the names of pushed files to the text of `twinflow_config.json`, for the next push."""
    names = sorted(files - {CONFIG_NAME, CARD_NAME})
    return json.dumps(json.loads(text) | {PUSHED_FILES: names}, indent=2, sort_keys=True) + "\n"


def _pushed_before(api: HfApi, parent: ModelInfo) -> set[str]:
    """Return the names of files that earlier pushes wrote and that are still there."""
    present = {sibling.rfilename for sibling in parent.siblings or ()}
    if CONFIG_NAME not in present:
        return set()
    path = api.hf_hub_download(parent.id, CONFIG_NAME, revision=parent.sha)
    try:
        names = read_json(Path(path)).get(PUSHED_FILES)
    except TwinFlowConfigError:  # somebody changed it, so what was pushed is not known
        return set()
    pushed = {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()
    return (pushed & present) - {CARD_NAME}


def _stale_files(earlier: set[str], files: list[str]) -> list[str]:
    """Return which files of earlier pushes the next one deletes.

    Args:
        earlier: names of files of earlier pushes.
        files: names of the files of the next push. If there is no model card, the old one stays with its images.
    """
    kept = () if CARD_NAME in files else (f"{SAMPLES_FOLDER}/",)
    return sorted(name for name in earlier.difference(files) if not name.startswith(kept))


def push_command(
    directory: str | Path,
    repo_id: str,
    *,
    base_model: str | None = None,
    revision: str | None = None,
    private: bool | None = None,
) -> str:
    """Return the command line that pushes a directory."""
    words = ["diffusers-twinflow", "push", str(directory), repo_id]
    words += ["--base_model", base_model] if base_model else []
    words += ["--revision", revision] if revision else []
    words += ["--private"] if private else []
    return shlex.join(words)


def _reason(error: Exception) -> str:
    """Say why a request failed, based on the HTTP status if there was a response."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, HfHubHTTPError) and cause.response is not None:
        status = cause.response.status_code
        default = "the Hub has a problem: try again later" if status >= 500 else cause.server_message
        return f"{REASONS.get(status, default or 'the Hub refused it')} (status {status})"
    if isinstance(error, (ValueError, LookupError)):
        return f"the response did not come from the Hub, perhaps from a proxy or a login page ({type(error).__name__})"
    return f"the connection broke ({type(error).__name__}: {' '.join(str(error).split())[:200]})"


def _what_is_left(api: HfApi, repo_id: str) -> str:
    """Return a sentence about the empty repository that a failed push left behind, or "" if there is none."""
    try:
        names = set(api.list_repo_files(repo_id))
    except HfHubHTTPError:
        return ""
    except Exception:  # the Hub cannot be reached, which is why the push failed
        return f"If '{repo_id}' is new, it may be on the Hub without files. "
    return "" if names - GENERATED_NAMES else f"'{repo_id}' is on the Hub without files; the next push fills it. "


def check_repo_id(repo_id: str) -> None:
    """Check that a name is a valid Hub id.

    Raises:
        TwinFlowConfigError: if it is not.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise TwinFlowConfigError(f"repo_id={repo_id!r} is not a Hub id such as 'me/my-lora': {error}") from error


def whole_repo_id(repo_id: str, token: str | None = None) -> str:
    """Add the owner to a Hub id and check that the token may write there. Call it before training.

    Args:
        repo_id: Hub id, with or without an owner.
        token: defaults to the token that you logged in with.

    Returns:
        The Hub id with its owner.

    Raises:
        TwinFlowConfigError: if `repo_id` is not a Hub id, nobody is logged in, the token may not write there, or the
            Hub cannot be reached.
    """
    check_repo_id(repo_id)
    try:
        account = HfApi(token=token).whoami()
        name = account["name"]
    except Exception as error:  # network errors have no common class
        raise TwinFlowConfigError(
            f"you are not logged in to push to '{repo_id}', or the Hub cannot be reached ({type(error).__name__}): log in "
            "with `hf auth login`, or pass a token with write access."
        ) from error
    repo_id = repo_id if "/" in repo_id else f"{name}/{repo_id}"
    problem = _write_problem(account, repo_id)
    if problem:
        raise TwinFlowConfigError(
            f"the Hub would refuse the push to '{repo_id}': {problem}. Create a token with write access to it at "
            "https://huggingface.co/settings/tokens and log in with `hf auth login`, or push to a repository of yours."
        )
    return repo_id


def _write_problem(account: dict[str, Any], repo_id: str) -> str | None:
    """Return why a token may not write to a repository, as far as `whoami` shows it, or `None` if it may."""
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
    """Check that a repository is complete and can be loaded by others.

    Returns:
        The configuration and the names of the files, as they are pushed to the Hub.

    Raises:
        TwinFlowConfigError: if a file is missing or damaged, or others could not load the repository.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise TwinFlowConfigError(f"'{directory}' is not a directory: pass the output directory of the training.")
    repository = locate_repository(directory)
    config = TwinFlowRepositoryConfig.load_located(repository)
    files = _lora_files(repository, config) if config.train_type == LORA else _model_files(repository, config)
    if base_model is not None:
        config = replace(config, base_model=base_model)
    _check_base(directory, config)
    _check_base_loras(directory, config)
    config = _without_local_paths(config)
    files += [CARD_NAME] if repository.find(CARD_NAME) else []
    for name in (CONFIG_NAME, CARD_NAME):
        if name in files and TOKEN.search(_read_text(directory / name)):
            raise TwinFlowConfigError(f"{name} contains what looks like a Hub token. Remove it before you push.")
    if CARD_NAME in files:
        _check_card(directory / CARD_NAME)
    return config, [*files, *(f"{SAMPLES_FOLDER}/{name}" for name in sample_names(directory))]


def _read_text(path: Path) -> str:
    """Read a text file in UTF-8, the encoding that the Hub needs.

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
    weights = []
    for part, denoiser in product(PART_NAMES, config.trained_denoisers):
        name = config.file_of(denoiser, part)
        if repository.find(name):
            weights.append(name)
        elif part == LORA_NAME or config.needs_time_conditioning:
            raise TwinFlowConfigError(f"'{repository.name}' lacks {name}: save it again with save_twinflow_lora.")
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
    for path in (path for name in family.denoiser_names for path in (directory / name).glob(WEIGHTS)):
        check_finite(path)
    found = {path for name in components for pattern in FILE_PATTERNS for path in (directory / name).glob(pattern)}
    return [CONFIG_NAME, index_name(directory), *sorted(path.relative_to(directory).as_posix() for path in found)]


def _without_local_paths(config: TwinFlowRepositoryConfig) -> TwinFlowRepositoryConfig:
    """Remove training arguments that are paths on this machine from the configuration."""
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
            f"{CONFIG_NAME} names the base model '{base}', which exists only on this machine: pass its Hub id as "
            "base_model=."
        )


def _check_base_loras(directory: Path, config: TwinFlowRepositoryConfig) -> None:
    if config.train_type != LORA:
        return
    for lora in parse_base_loras(config.base_loras):
        if lora.hub_id is None or (directory / lora.name).exists():
            raise TwinFlowConfigError(
                f"{CONFIG_NAME} names the LoRA '{lora}' in the base, which exists only on this machine: push that LoRA, "
                f"and write its Hub id into base_loras of {CONFIG_NAME}."
            )


def _check_card(path: Path) -> None:
    try:
        ModelCard(_read_text(path))
    except (ValueError, yaml.YAMLError) as error:
        raise TwinFlowConfigError(f"{CARD_NAME} has metadata that is not valid: {error}") from error
