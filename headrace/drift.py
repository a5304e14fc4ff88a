"""Drift: what an alarm says has moved, and silences.

A silence is a time of which a person knows that it is unusual, such as a sale, stated before or while it lasts.

A record of the topic `silences` states one for a drift detector, or for all; its key is the detector's name, or
`EVERY_DETECTOR`, and it replaces the silence of that name before. Its value is one JSON document. `decode` returns a
`Silence` or a `Rejection` and never raises, whatever the bytes are.
"""

from collections.abc import Collection, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from headrace.events import Rejection
from headrace.log.protocol import RECORD_BYTES_MAX, Outgoing, Record
from headrace.topics import SILENCES

EVERY_DETECTOR: Final = "*"
"""Stands for all detectors."""


class Moved(Struct, frozen=True):
    """A value that moved, and its share or mean before and now; `unit` is "%" for shares, "" for plain numbers.

    >>> str(Moved("boots", 0.001, 0.023, "%")), str(Moved("shoes", 12.5, 16.0))
    ('boots 0.1 % → 2.3 %', 'shoes 12.5 → 16')
    """

    value: str
    before: float
    now: float
    unit: str = ""

    def __str__(self) -> str:
        texts = (f"{100 * one:.1f} %" if self.unit == "%" else f"{one:.4g}" for one in (self.before, self.now))
        return f"{self.value} {' → '.join(texts)}"


def told(moved: Sequence[Moved], detail: str = "", silenced: str = "") -> str:
    """Return what an alarm says, in words.

    >>> told([Moved("NL", 0.5, 0.25, "%"), Moved("BE", 0.5, 0.75, "%")], silenced="a fair")
    'NL 50.0 % → 25.0 %, BE 50.0 % → 75.0 %; silenced: a fair'
    """
    parts = [detail, ", ".join(map(str, moved)), f"silenced: {silenced}" if silenced else ""]
    return "; ".join(part for part in parts if part)


class Silence(Struct, frozen=True, forbid_unknown_fields=True):
    """From when to when (shop's time) a detector raises no alarm, why, and who says so."""

    detector: Annotated[str, Meta(pattern=r"^(\*|[a-z0-9_]{1,64})$(?!\n)")]
    from_ms: Annotated[int, Meta(ge=0, le=1 << 53)]
    until_ms: Annotated[int, Meta(ge=0, le=1 << 53)]
    why: Annotated[str, Meta(min_length=1, max_length=500)]
    by: Annotated[str, Meta(max_length=200)] = ""

    def covers(self, detectors: Collection[str], time_ms: int) -> bool:
        """Return whether one of these detectors is silenced at a time."""
        if not self.from_ms <= time_ms < self.until_ms:
            return False
        return self.detector == EVERY_DETECTOR or self.detector in detectors


_decode = msgspec.json.Decoder(Silence).decode


def decode(record: Record) -> Silence | Rejection:
    """Return the silence that a record states, or the reason why it cannot be used."""
    value = record.value
    if not value:
        return Rejection("empty", "wanted a JSON document, found an empty value")
    if len(value) > RECORD_BYTES_MAX:
        return Rejection("too_large", f"wanted at most {RECORD_BYTES_MAX} bytes, found {len(value)}")
    try:
        silence = _decode(value)
    except msgspec.ValidationError as error:
        return Rejection("schema", str(error)[:300])
    except msgspec.DecodeError as error:
        return Rejection("not_json", str(error)[:300])
    except UnicodeDecodeError as error:
        return Rejection("bad_utf8", str(error)[:300])
    if record.key != silence.detector.encode():
        return Rejection("key_mismatch", f"wanted the key {silence.detector!r}, found {record.key!r}"[:300])
    return silence


def record_of(silence: Silence) -> Outgoing:
    """Return the record that states a silence."""
    return Outgoing(SILENCES, silence.detector.encode(), msgspec.json.encode(silence))
