"""What a route of the gateway is: it takes a body, asks the server of answers, or says why it is not offered."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from headrace.keys import Role
from producers.gateway.gorse.asked import Asked, Outcome
from producers.gateway.made import Adapter


class Route(NamedTuple):
    """A route that takes a body.

    Attributes:
        role: of the key; None where the body is signed instead.
        reply: whose answer it gives: `headrace` says per entry what became of it; the others as the format's own
            server answers, so that its clients understand it.
    """

    method: str
    path: str
    role: Role | None
    adapter: Adapter
    doc: str
    reply: str = "headrace"


class Call(NamedTuple):
    """A route that asks the server of answers.

    Attributes:
        run: asks, and says what is answered and what is to be written before.
        answer: the type of the answer.
        query: names of parameters of the query string.
        body: what the body is; empty if there is none.
    """

    method: str
    path: str
    role: Role
    run: Callable[[Asked], Awaitable[Outcome]]
    answer: Any
    doc: str
    query: tuple[str, ...] = ()
    body: str = ""


class Unoffered(NamedTuple):
    """A route of another system that is not offered, and why."""

    method: str
    path: str
    why: str
