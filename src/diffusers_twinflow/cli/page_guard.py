"""Protect the web page of `demo` from other sites, large requests, and jobs that nobody waits for."""

import time
from collections import Counter

from starlette.datastructures import Headers, QueryParams
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ..configuration import TwinFlowConfigError

MAX_BODY_BYTES = 1_000_000
GRACE_SECONDS = 5.0
POLL_SECONDS = 0.05
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
STREAM, CALL = "/queue/data", "/call/"
ARRIVED = "twinflow_arrived"


class Listeners:
    """The sessions that wait for results, which are those with an open result stream.

    A browser or gradio's client opens the stream after it adds a job to the queue. A session without an open stream for
    `GRACE_SECONDS` is abandoned.
    """

    def __init__(self) -> None:
        self.open: Counter[str] = Counter()

    def check(self, session: str, arrived: float) -> None:
        """Wait until the result stream of a session is open.

        Args:
            session: id of the session.
            arrived: time when its job arrived, from `time.monotonic`.

        Raises:
            TwinFlowConfigError: if the stream is not opened within `GRACE_SECONDS`.
        """
        while not self.open[session]:
            if time.monotonic() - arrived > GRACE_SECONDS:
                raise TwinFlowConfigError("This request was dropped, because nobody waits for its images any more.")
            time.sleep(POLL_SECONDS)


class PageGuard:
    """Middleware that refuses requests that the page never sends, and records which result streams are open.

    It refuses requests from other sites (by their `Origin`), uploads, and bodies that are large or of unknown size.
    """

    def __init__(self, app: ASGIApp, listeners: Listeners) -> None:
        self.app, self.listeners = app, listeners

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope[ARRIVED] = time.monotonic()
        refusal = refuse(scope)
        if refusal:
            status, message = refusal
            await PlainTextResponse(message, status)(scope, receive, send)
            return
        session = streamed_session(scope)
        if session is None:
            await self.app(scope, receive, send)
            return
        self.listeners.open[session] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.listeners.open[session] -= 1
            if not self.listeners.open[session]:
                del self.listeners.open[session]


def refuse(scope: Scope) -> tuple[int, str] | None:
    """Return the status and message for a request that is refused, or `None` if it is served."""
    if scope["method"] in SAFE_METHODS:
        return None
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
        return 403, "Requests from other sites are not allowed."
    if scope["path"].rstrip("/").endswith("/upload"):
        return 403, "Uploads are not allowed."
    length = headers.get("content-length", "")
    if not length.isdigit():
        return 411, "The request needs a Content-Length header."
    if int(length) > MAX_BODY_BYTES:
        return 413, f"The request may have at most {MAX_BODY_BYTES} bytes."
    return None


def streamed_session(scope: Scope) -> str | None:
    """Return the session whose results a request streams, from gradio's clients or from the id of a `/call` job."""
    path = scope["path"].rstrip("/")
    if path.endswith(STREAM):
        return QueryParams(scope["query_string"]).get("session_hash")
    if scope["method"] == "GET" and CALL in path:
        return path.rsplit("/", 1)[1]
    return None
