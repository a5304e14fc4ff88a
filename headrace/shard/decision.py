"""Decisions of a person about a shard (`headrace.shard.loss`, `headrace.shard.skip`), as its journal holds them.

A decision fences a running process of the shard and is an entry of its journal, so that every fold, now and later,
obeys it.
"""

from typing import Final, NamedTuple

import msgspec

from headrace.errors import Misconfigured
from headrace.log.protocol import Outgoing
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


def records_of(shard: Shard, entry: Entry, decision: Decision) -> list[Outgoing]:
    """Return a decision's entry of the journal, and the alarm by which `headrace status` shows the decision."""
    alarm = {
        "detector": DETECTOR, "id": f"{DETECTOR}/{shard.name}/{entry.number}", "shard": shard.name,
        "detail": f"{shard.name}: {decision.text} ({decision.why})", "decision": decision,
    }  # fmt: skip
    return [
        Outgoing(JOURNAL, shard.name.encode(), journal.encode(entry), shard.number),
        Outgoing(ALARMS, DETECTOR.encode(), msgspec.json.encode(alarm), 0),
    ]
