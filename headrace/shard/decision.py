"""Decisions of a person about a shard (`headrace.shard.loss`, `headrace.shard.skip`), as its journal holds them.

A decision fences a running process of the shard and is an entry of its journal, so that every fold, now and later,
obeys it.
"""

from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

import headrace
from headrace.errors import Misconfigured
from headrace.log.protocol import Outgoing, Record, decode_json
from headrace.shard import journal
from headrace.shard.journal import Decision, Entry
from headrace.topics import ALARMS, JOURNAL, Shard

why_characters_max: Final = 500
DETECTOR: Final = "decision"
"""The detector in the alarm that tells a decision."""


class Author(NamedTuple):
    """Who decides, and why."""

    who: str
    why: str

    def check(self) -> None:
        """Raise Misconfigured if the reason is missing or too long."""
        if not 0 < len(self.why) <= why_characters_max:
            raise Misconfigured(f"why: wanted 1 to {why_characters_max} characters, found {len(self.why)}")


class Told(Struct, frozen=True):
    """A decision, as `alarms` tells it, and the shard for which it was made."""

    shard: str
    decision: Decision


def told_decision(record: Record) -> Told | None:
    """Return the decision that a record of `alarms` tells, None if it tells none."""
    return decode_json(record.value, Told)


def records_of(shard: Shard, entry: Entry, decision: Decision) -> list[Outgoing]:
    """Return a decision's entry of the journal, and the alarm by which `headrace status` shows the decision."""
    decision = msgspec.structs.replace(decision, headrace=headrace.__version__)
    entry = msgspec.structs.replace(entry, decision=decision)
    alarm = {
        "detector": DETECTOR, "id": f"{DETECTOR}/{shard.name}/{entry.number}", "shard": shard.name,
        "detail": f"{shard.name}: {decision.text} ({decision.why})", "decision": decision,
    }  # fmt: skip
    return [
        Outgoing(JOURNAL, shard.name.encode(), journal.encode(entry), shard.number),
        Outgoing(ALARMS, DETECTOR.encode(), msgspec.json.encode(alarm), 0),
    ]
