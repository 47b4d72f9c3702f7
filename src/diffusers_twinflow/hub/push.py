"""Push a TwinFlow repository to the Hub: check it first, then push all files in one commit."""

import json
import shlex
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo
from huggingface_hub.errors import HfHubHTTPError

from ..configuration import TwinFlowConfigError
from .files import (
    CARD_NAME,
    CONFIG_NAME,
    MODULAR_INDEX_NAME,
    SAMPLES_FOLDER,
    modular_index_at,
    read_json,
)
from .pushable import check_pushable
from .repository import LORA, TwinFlowRepositoryConfig
from .write_access import check_repo_id

PUSHED_FILES = "pushed_files"
"""Key of the pushed `twinflow_config.json` with the names of the files beside it and the model card."""
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
