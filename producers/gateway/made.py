"""What a body of another system's format means here: the entries of the body, and what is made of each.

An adapter is a pure function of the body, of the query of its request and of the time at which it came. What it makes
is not validated yet and states the shop's own ids: `producers.gateway.intake` pseudonymises and validates it alike for
all formats.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from producers.gateway.gorse.feedback import FeedbackTypes


class MadeEvent(NamedTuple):
    """The document of an event (`headrace.events`); its `subject` and `data.session_id` are the shop's own."""

    document: dict[str, Any]


class MadeItem(NamedTuple):
    """What the shop states of an item; None if it is no longer sold. The document has Google Merchant's names."""

    item: str
    document: dict[str, Any] | None


class MadeTraits(NamedTuple):
    """What the shop states of a shopper, whose id is the shop's own: short texts, numbers and truth values by name.

    `consent` lists the purposes to which the shopper consents, as `data.consent` of an event; None if it is not stated.
    `announces` is whether it is also said that there is such a shopper, so that it counts even if no trait is kept.
    """

    shopper: str
    traits: dict[str, Any]
    consent: list[str] | None = None
    announces: bool = False


class MadeRules(NamedTuple):
    """Rules of a placement, a document of `headrace.rules`; None if it has none of its own."""

    placement: str
    document: Any


class MadeExperiment(NamedTuple):
    """An experiment, a document of `headrace.experiments`; None if it is removed."""

    name: str
    document: Any


class Unused(NamedTuple):
    """An entry that is right, and of which nothing is kept."""

    detail: str


class Refused(NamedTuple):
    """An entry that cannot be used: the code of the reason, and what was wanted and found."""

    reason: str
    detail: str


Made: TypeAlias = MadeEvent | MadeItem | MadeTraits | MadeRules | MadeExperiment | Unused | Refused


_USUAL: Final = FeedbackTypes({})


class Request(NamedTuple):
    """What an adapter sees of a request.

    `body` is decompressed; `query` has the parameters of the address; `received_ms` is the server's clock at its
    arrival; `shop` is the name of the key's shop, which begins the `source` of made events; `feedback` are the types of
    Gorse's feedback that the shop uses.
    """

    body: bytes
    query: Mapping[str, str]
    received_ms: int
    shop: str
    feedback: FeedbackTypes = _USUAL


class BadBody(Exception):
    """A body that has no entries at all, as it is no JSON or of another form.

    Attributes:
        reason: a code, such as `not_json`.
        detail: what was wanted and found.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


Adapter: TypeAlias = Callable[[Request], list[list[Made]]]
"""Returns what is made of each entry of a body, in the order of the body: several of some. Raises BadBody."""
