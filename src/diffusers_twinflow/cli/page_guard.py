"""What protects the web page of `demo`: from other sites, from large requests, and from jobs that nobody waits for."""

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
    """Who is waiting for results: the sessions whose result stream is open.

    A browser and gradio's client open it when they have put a job into the queue. A session without one for
    `GRACE_SECONDS` is abandoned.
    """

    def __init__(self) -> None:
        self.open: Counter[str] = Counter()

    def check(self, session: str, arrived: float) -> None:
        """Return once somebody listens to a session.

        Args:
            arrived: when its job came, by `time.monotonic`.

        Raises:
            TwinFlowConfigError: if nobody does within the time of grace.
        """
        while not self.open[session]:
            if time.monotonic() - arrived > GRACE_SECONDS:
                raise TwinFlowConfigError("Nobody waits for this drawing any more: it was dropped.")
            time.sleep(POLL_SECONDS)


class PageGuard:
    """Middleware that refuses what the page itself never sends, and notes whose result streams are open.

    Refused are requests of other sites' pages (by their `Origin`), uploads, and bodies that are large or of unknown size.
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
    """The status and message that a request is refused with; `None` if it is served."""
    if scope["method"] in SAFE_METHODS:
        return None
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
        return 403, "Requests of other sites are refused."
    if scope["path"].rstrip("/").endswith("/upload"):
        return 403, "This page takes no uploads."
    length = headers.get("content-length", "")
    if not length.isdigit():
        return 411, "A request needs a Content-Length."
    if int(length) > MAX_BODY_BYTES:
        return 413, f"A request has at most {MAX_BODY_BYTES} bytes."
    return None


def streamed_session(scope: Scope) -> str | None:
    """The session whose results a request streams: of gradio's clients, or by the id of a job's `/call`."""
    path = scope["path"].rstrip("/")
    if path.endswith(STREAM):
        return QueryParams(scope["query_string"]).get("session_hash")
    if scope["method"] == "GET" and CALL in path:
        return path.rsplit("/", 1)[1]
    return None
