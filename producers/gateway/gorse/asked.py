"""A call of Gorse's clients while it is answered: its parameters, and how the server of answers is asked."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from headrace.problem import Problem
from producers.gateway.asking import Asking
from producers.gateway.gorse.feedback import FeedbackTypes
from producers.gateway.made import Made, Request
from producers.gateway.stated import StatedItems

listed_max: Final = 1_000
"""Most entries of an answer, `offset` included."""
usual_n: Final = 10

T = TypeVar("T")


class Asked(NamedTuple):
    """A call.

    Attributes:
        categories: of the path and the query string.
        scored: whether recommendations have scores, as clients of Gorse 0.5 ask for them.
        stated: the items that were stated a moment ago.
        asking: None if there is no server to ask.
        key: the text of the key that asks.
    """

    request: Request
    categories: Sequence[str]
    scored: bool
    stated: StatedItems
    asking: Asking | None
    key: str

    @property
    def query(self) -> Mapping[str, str]:
        """The parameters of the path and of the query string."""
        return self.request.query

    @property
    def types(self) -> FeedbackTypes:
        """The types of feedback that the shop uses."""
        return self.request.feedback

    def number(self, name: str, usual: int, least: int) -> int:
        """Return a whole number of the query string. Raises Problem."""
        text = self.query.get(name) or str(usual)
        if not (text.isascii() and text.isdecimal() and least <= int(text[:9]) <= listed_max):
            raise Problem("bad-query", f"{name}: wanted {least} to {listed_max}, found {text[:20]!r}")
        return int(text)

    async def get(self, kind: type[T], *path: str, **parameters: Any) -> T:
        """Return the answer to a question. Raises Problem."""
        return await self._server().get(kind, self.key, path, parameters)

    async def post(self, kind: type[T], path: Sequence[str], body: Mapping[str, Any]) -> T:
        """Return the answer to a question with a body. Raises Problem."""
        return await self._server().post(kind, self.key, path, body)

    def _server(self) -> Asking:
        if self.asking is None:
            raise Problem("not-offered", "wanted the setting gateway.answers, the URL of headrace serve; found none")
        return self.asking


class Outcome(NamedTuple):
    """What is answered, once what is made is safe."""

    body: Any
    made: Sequence[Sequence[Made]] = ()
