"""What is said on the topic `models`: rounds of the slow learner and their outcome. One JSON document a record."""

from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from headrace.log import Outgoing, Record, told
from headrace.topics import MODELS

Kind = Literal["schedule", "proposed", "candidate", "promoted", "refused", "failed", "rolled_back"]


class Announcement(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One step of a round.

    `version` and `blob` name the model that the step is about: for `rolled_back`, the one that is champion again (none:
    empty). `at_events` is how many records of `events` the fine-tuner had seen, `due_events` by when it will have said
    more (None where an operator speaks). `evidence` holds the numbers behind a verdict, `lineage` where a candidate
    comes from.
    """

    id: str
    kind: Kind
    round: int
    at_events: int
    time_ms: int
    due_events: int | None = None
    version: str = ""
    blob: str = ""
    parent: str = ""
    trigger: str = ""
    reason: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)

    def record(self) -> Outgoing:
        """Return the announcement as a record of `models`."""
        return Outgoing(MODELS, self.version.encode() or b"-", msgspec.json.encode(self), 0)


def announced(record: Record) -> Announcement | None:
    """Return the announcement that a record of `models` holds, or None if it holds none that we know."""
    return told(record.value, Announcement)
