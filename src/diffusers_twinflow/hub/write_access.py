"""Find out before training whether a token may write to a repository on the Hub."""

from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..configuration import TwinFlowConfigError


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
