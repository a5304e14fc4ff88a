"""Entries: what waits for a gateway, one for each document, and what an answer says of some of them."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

EVENTS: Final = "POST /v1/events"
ITEMS: Final = "PUT /v1/items"
IN_BATCHES: Final = (EVENTS, ITEMS)
"""Targets whose body is an array of documents. A request to another one has one document or none."""
body_bytes_max: Final = 1_000_000
"""Bytes of a body beyond which a batch takes no more documents."""


class RefusedEntry(NamedTuple):
    """What the gateway refused for ever: the request's target such as `POST /v1/events`, and the document sent.

    `reason` is the gateway's code such as `schema`, or `http_413` and the like if the answer named none.
    """

    target: str
    document: Any
    reason: str
    detail: str


def entry(target: str, document: Mapping[str, Any] | None = None) -> bytes:
    """Return what waits for one document: the request's target, a line feed, and the document as JSON.

    Raises:
        TypeError, ValueError: the document is no JSON, or a time in it has no zone.
    """
    if document is None:
        return f"{target}\n".encode()
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_as_json)
    return f"{target}\n{text}".encode()


def _as_json(value: object) -> object:
    """Return as JSON what shops have in their data, prices and times."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"time: wanted one with a zone, found {value}")
        return value.isoformat()
    raise TypeError(f"wanted what JSON has, found {type(value).__name__}")


def batch(entries: Sequence[bytes], count_max: int) -> tuple[str, list[bytes]]:
    """Return the target of the first entry, and the documents, from there on, that go there in one request."""
    first, document = entries[0].split(b"\n", 1)
    target, documents, size = first.decode(), [document], len(document)
    if target in IN_BATCHES:
        for other in entries[1:count_max]:
            its_target, document = other.split(b"\n", 1)
            size += len(document)
            if its_target != first or size > body_bytes_max:
                break
            documents.append(document)
    return target, documents


def document_of(document: bytes) -> Any:
    """Return the decoded document; None if there is none."""
    return json.loads(document) if document else None


def refused_of(target: str, documents: Sequence[bytes], stated: object) -> list[RefusedEntry]:
    """Return what an answer's `refused` says of the documents of its request."""
    lines = [line for line in stated if isinstance(line, dict)] if isinstance(stated, list) else []
    found = {
        index: RefusedEntry(target, document_of(documents[index]), str(line.get("reason")), str(line.get("detail")))
        for line in lines
        if isinstance(index := line.get("index"), int) and 0 <= index < len(documents)
    }
    return [found[index] for index in sorted(found)]
