"""Routes whose handlers never wait: the server's loop calls them with the whole request, without ASGI."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from headrace.problem import failure

Handler: TypeAlias = Callable[[Request, bytes | None], Response]
"""Returns the answer to a request with this body (None: it is too long)."""


class DirectRoute(NamedTuple):
    """A route.

    Attributes:
        pattern: matches a decoded path; its groups are the path's parameters.
    """

    method: str
    pattern: re.Pattern[str]
    handler: Handler


class Direct:
    """Answers requests by the first route that matches.

    Args:
        refuse: answers requests that no route takes; an HTTPException says whether another method would be.
    """

    def __init__(self, routes: Sequence[DirectRoute], refuse: Callable[[Request, Exception], Response]) -> None:
        self._routes, self._refuse = routes, refuse

    def __call__(self, request: Request, body: bytes | None) -> Response:
        """Return the answer. A handler's exception is logged, and answered without its text."""
        path, method = request.scope["path"], request.method
        status = 404
        for route in self._routes:
            if found := route.pattern.fullmatch(path):
                if method == route.method or (method == "HEAD" and route.method == "GET"):
                    request.scope["path_params"] = found.groupdict()
                    try:
                        return route.handler(request, body)
                    except Exception as error:
                        structlog.get_logger().error("request failed", exc_info=error)
                        return failure()
                status = 405
        return self._refuse(request, HTTPException(status))
