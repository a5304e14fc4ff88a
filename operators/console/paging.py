"""Long lists, of which a page shows a part."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from operators.console.visit import Visit, to

page_rows: Final = 50


class Part(NamedTuple):
    """A part of a list: its rows, how many there are in all, its first row's number, and the pages beside it.

    `before` and `after` are paths, "" if there is none.
    """

    rows: Sequence[Any]
    total: int
    first: int
    before: str
    after: str

    @property
    def last(self) -> int:
        """The number of its last row."""
        return self.first + len(self.rows) - 1


def page_of(rows: Sequence[Any], visit: Visit, *, length: int = page_rows) -> Part:
    """Return the part of a list that a request asks for by `page`, from 1 on."""
    text = visit.asked("page", "1")
    pages = max(1, -(-len(rows) // length))
    number = min(pages, max(1, int(text) if text.isdecimal() and len(text) < 9 else 1))

    def beside(other: int) -> str:
        query = {**visit.request.query_params, "page": str(other)}
        return to(visit.request.url.path, **query) if 1 <= other <= pages else ""

    first = (number - 1) * length
    return Part(rows[first : first + length], len(rows), first + 1, beside(number - 1), beside(number + 1))
