"""Refused requests, as problem documents. Source: RFC 9457, "Problem Details for HTTP APIs"."""

from typing import Any, Final, Literal, TypeAlias

import msgspec
from starlette.responses import Response

MEDIA_TYPE: Final = "application/problem+json"
Code: TypeAlias = Literal[
    "bad-request", "bad-query", "bad-body", "bad-key", "bad-signature", "forbidden", "all-refused", "not-found",
    "unknown", "method-not-allowed", "too-slow", "too-large", "bad-encoding", "too-many-events", "too-many-requests",
    "unavailable", "restoring", "stale", "no-answers", "not-offered", "internal",
]  # fmt: skip
TITLES: Final[dict[Code, tuple[int, str]]] = {
    "bad-request": (400, "The request is no HTTP"),
    "bad-query": (400, "A parameter cannot be used"),
    "bad-body": (400, "The body has another form"),
    "all-refused": (400, "Nothing in the body can be used"),
    "bad-key": (401, "No valid API key"),
    "bad-signature": (401, "The signature is not that of the body"),
    "forbidden": (403, "The key does not allow this"),
    "not-found": (404, "No such route"),
    "unknown": (404, "Nothing is known of it"),
    "method-not-allowed": (405, "The route has other methods"),
    "too-slow": (408, "The body took too long to arrive"),
    "too-large": (413, "The body is too large"),
    "bad-encoding": (415, "The body's encoding is not known"),
    "too-many-events": (429, "Too many events with this key"),
    "too-many-requests": (429, "Too many requests at a time with this key"),
    "internal": (500, "The server has failed"),
    "not-offered": (501, "This is not offered"),
    "unavailable": (503, "Events cannot be taken now"),
    "restoring": (503, "No state to answer from yet"),
    "stale": (503, "Events are missing in the answers"),
    "no-answers": (503, "The server of answers does not answer"),
}
"""The status and the title of each problem; its `type` is `urn:headrace:problem:` and its code."""


class Problem(Exception):
    """A request that is refused as a whole.

    Args:
        detail: what was wanted and found.
        retry_s: after how many seconds the same request may succeed; None if it will not.
        closes: the connection must be closed, as the rest of the body was not read.
        more: further members of the document.
    """

    def __init__(
        self, code: Code, detail: str, *, retry_s: int | None = None, closes: bool = False, **more: Any
    ) -> None:
        super().__init__(detail)
        self.code, self.detail, self.retry_s, self.closes, self.more = code, detail, retry_s, closes, more

    def response(self) -> Response:
        """Return the answer."""
        status, title = TITLES[self.code]
        document = {
            "type": f"urn:headrace:problem:{self.code}", "title": title, "status": status, "detail": self.detail,
            **self.more,
        }  # fmt: skip
        headers = {"cache-control": "no-store"}
        if self.retry_s is not None:
            headers["retry-after"] = str(self.retry_s)
        if self.closes:
            headers["connection"] = "close"
        if status == 401:
            headers["www-authenticate"] = 'Bearer realm="headrace"'
        return Response(msgspec.json.encode(document), status, headers, MEDIA_TYPE)


def failure() -> Response:
    """Return the answer to a request at which the server has failed, without the cause, which may contain data."""
    # The server closes the connection then: the client must not send another request on it.
    return Problem("internal", "the server's log has the cause", closes=True).response()
