"""Routes whose handlers never wait: the server's loop calls them with the whole request, without ASGI.

Requests that come in one round of the loop are answered one after the other. Before that, routes may look at several of
them, and compute together what they need.
"""

import asyncio
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from headrace.problem import failure

Handler: TypeAlias = Callable[[Request, bytes | None], Response]
"""Returns the answer to a request with this body (None: it is too long)."""


Prepare: TypeAlias = Callable[[Sequence[Any]], None]
"""Computes together what several questions need; changes no answer."""
together_max: Final = 8
"""Most requests that are looked at together. They wait for each other; twice as many are hardly quicker."""


class DirectRoute(NamedTuple):
    """A route.

    Attributes:
        pattern: matches a decoded path; its groups are the path's parameters.
        question: returns what a request asks, which its handler then finds in the request's state; None if it is
            refused.
        prepare: is told the questions of several requests before they are answered.
    """

    method: str
    pattern: re.Pattern[str]
    handler: Handler
    question: Callable[[Request, bytes], Any] | None = None
    prepare: Prepare | None = None


class _Asked(NamedTuple):
    """A request, and its route; without one, the status of the refusal."""

    request: Request
    body: bytes | None
    route: DirectRoute | None
    status: int


class Direct:
    """Answers requests by the first route that matches.

    Args:
        refuse: answers requests that no route takes; an HTTPException says whether another method would be.
    """

    def __init__(self, routes: Sequence[DirectRoute], refuse: Callable[[Request, Exception], Response]) -> None:
        self._routes, self._refuse = routes, refuse

    def __call__(self, request: Request, body: bytes | None) -> Response:
        """Return the answer. A handler's exception is logged, and answered without its text."""
        return self._answer(self._found(request, body))

    def _found(self, request: Request, body: bytes | None) -> _Asked:
        path, method = request.scope["path"], request.method
        status = 404
        for route in self._routes:
            if found := route.pattern.fullmatch(path):
                if method == route.method or (method == "HEAD" and route.method == "GET"):
                    request.scope["path_params"] = found.groupdict()
                    return _Asked(request, body, route, 200)
                status = 405
        return _Asked(request, body, None, status)

    def _answer(self, asked: _Asked) -> Response:
        if asked.route is None:
            return self._refuse(asked.request, HTTPException(asked.status))
        try:
            return asked.route.handler(asked.request, asked.body)
        except Exception as error:
            structlog.get_logger().error("request failed", exc_info=error)
            return failure()

    def answers(self, requests: Sequence[tuple[Request, bytes | None]]) -> "list[Callable[[], Response]]":
        """Return functions that return the answers to requests, after a look at all of them."""
        found = [self._found(request, body) for request, body in requests]
        if len(found) > 1:
            try:
                _prepare(found)
            except Exception as error:  # whoever has asked for it is told when it is answered
                structlog.get_logger().error("requests could not be prepared", exc_info=error)
        return [partial(self._answer, one) for one in found]


def _prepare(asked: Sequence[_Asked]) -> None:
    questions: dict[Prepare, list[Any]] = {}
    for request, body, route, _ in asked:
        if route and route.question and route.prepare and body is not None:
            question = route.question(request, body)
            if question is not None:
                questions.setdefault(route.prepare, []).append(question)
    for prepare, some in questions.items():
        if len(some) > 1:
            prepare(some)


class _Waits(NamedTuple):
    request: Request
    body: bytes | None
    answer: Callable[[Response], None]


class Waiting:
    """Requests that wait for their answers until the loop has read what else has come.

    Addresses take turns, so that one which asks by many connections, or for much, keeps no other one waiting for more
    than `together_max` answers.
    """

    def __init__(self, direct: Direct, loop: asyncio.AbstractEventLoop) -> None:
        self._direct, self._loop = direct, loop
        self._asked: OrderedDict[str, deque[_Waits]] = OrderedDict()  # by address, the one whose turn is next first
        self._scheduled = False

    def __call__(self, request: Request, body: bytes | None, answer: Callable[[Response], None]) -> None:
        """Answer a request in this round of the loop, or in one of the next if many wait."""
        client = request.scope.get("client")
        self._asked.setdefault(client[0] if client else "", deque()).append(_Waits(request, body, answer))
        self._schedule()

    def _schedule(self) -> None:
        if self._asked and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._answer)

    def _taken(self) -> Iterator[_Waits]:
        for _ in range(together_max):
            if not self._asked:
                return
            address, asked = self._asked.popitem(last=False)
            yield asked.popleft()
            if asked:
                self._asked[address] = asked

    def _answer(self) -> None:
        some = list(self._taken())
        try:
            found = self._direct.answers([(one.request, one.body) for one in some])
            for one, response in zip(some, found, strict=True):
                one.answer(response())
        finally:
            self._scheduled = False
            self._schedule()
