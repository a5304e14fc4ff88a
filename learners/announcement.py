"""Records of the topic `models`: rounds of the slow learner, their outcomes, and requests. Each is a JSON document."""

from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from headrace.log.protocol import Outgoing, Record, decode_json
from headrace.topics import MODELS

Kind = Literal["schedule", "proposed", "candidate", "promoted", "refused", "failed", "rolled_back", "requested"]
Action = Literal["", "promote", "roll_back"]


class Announcement(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One step of a round, or a request.

    `version` and `blob` name the model of this step; for `rolled_back` that is the model that is champion again (both
    are empty if there is none). `at_events` is the number of records of `events` that the fine-tuner had read,
    `due_events` the number at which its next step is due; the step may come later, as long as a round trains (None in
    an operator's announcements). `evidence` holds the figures behind a verdict, `lineage` the origin of a candidate.

    A verdict (`promoted`, `rolled_back`) has in `heard` the position of `models` up to which the fine-tuner had heard;
    None in those of older releases. A request (`requested`) has what it asks for in `action`, who asks in `by` and why
    in `reason`. `learners.succession` decides which of them count.
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
    heard: int | None = None
    action: Action = ""
    by: str = ""

    def record(self) -> Outgoing:
        """Return the announcement as a record of `models`."""
        return Outgoing(MODELS, self.version.encode() or b"-", msgspec.json.encode(self), 0)


def announced(record: Record) -> Announcement | None:
    """Return the announcement in a record of `models`, or None if the record holds no known announcement."""
    return decode_json(record.value, Announcement)
