"""What adapters of the gateway make of bodies, for their tests: events as consumers would decode them."""

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from headrace.events import Event, Rejection, decode
from headrace.log.protocol import Record
from producers.gateway.made import Adapter, Made, MadeEvent, MadeItem, Request

RECEIVED_MS: Final = 1_772_359_210_000
"""2026-03-01T10:00:10Z, when bodies arrive."""


def request(body: Any, query: Mapping[str, str] | None = None, *, received_ms: int = RECEIVED_MS) -> Request:
    """Return a request of the shop `acme`."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Request(content, query or {}, received_ms, "acme")


def made(adapter: Adapter, body: Any, query: Mapping[str, str] | None = None) -> list[Made]:
    """Return all that an adapter makes of a body."""
    return [one for entry in adapter(request(body, query)) for one in entry]


def the_event(adapter: Adapter, body: Any, query: Mapping[str, str] | None = None) -> Event:
    """Return the only event of a body as it is decoded; it must be valid."""
    (one,) = made(adapter, body, query)
    found = decoded(one)
    assert isinstance(found, Event), found
    return found


def decoded(one: Made) -> Event | Rejection:
    """Return what consumers make of an event."""
    assert isinstance(one, MadeEvent), one
    document = one.document
    return decode(Record(0, 0, RECEIVED_MS, document["subject"].encode(), msgspec.json.encode(document)))


def consent_of(one: Made) -> Any:
    """Return the consent that an event states; "not stated" if it states none."""
    assert isinstance(one, MadeEvent), one
    return one.document["data"].get("consent", "not stated")


def item_of(one: Made) -> dict[str, Any]:
    """Return an item's document."""
    assert isinstance(one, MadeItem), one
    assert one.document is not None
    return one.document
