"""Records of the topic `models`: rounds of the slow learner, their outcomes, and requests. Each is a JSON document."""

import re
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct, field

from headrace.events import Rejection
from headrace.log.protocol import Outgoing, Record, decode_json
from headrace.topics import MODELS

Kind = Literal["schedule", "proposed", "candidate", "promoted", "refused", "failed", "rolled_back", "requested"]
Action = Literal["", "promote", "roll_back", "withdraw"]
Count = Annotated[int, Meta(ge=0, le=2**53)]
BlobName = Annotated[str, Meta(max_length=200, pattern=r"^[^\x00-\x1f/\x7f]*$")]
"""The name of a file in the folder of blobs."""
Text = Annotated[str, Meta(max_length=10_000)]
figures_depth_max: Final = 8
"""Maximum depth of `evidence` and `lineage`; numbers in them are 64-bit ones."""


class Announcement(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One step of a round, or a request.

    `version` and `blob` name the model of this step; for `rolled_back` that is the model that is champion again (both
    are empty if there is none). `at_events` is the number of records of `events` that the fine-tuner had read,
    `due_events` the number at which its next step is due; the step may come later, as long as a round trains (None in
    an operator's announcements). `evidence` holds the figures behind a verdict, `lineage` the origin of a candidate.

    A verdict (`promoted`, `rolled_back`) has in `heard` the position of `models` up to which the fine-tuner had heard;
    None in those of older releases. A request (`requested`) has what it asks for in `action`, who asks in `by` and why
    in `reason`. `learners.succession` decides which of them count; a request to `withdraw` a candidate concerns the
    fine-tuner alone.
    """

    id: Text
    kind: Kind
    round: Count
    at_events: Count
    time_ms: Count
    due_events: Count | None = None
    version: Text = ""
    blob: BlobName = ""
    parent: Text = ""
    trigger: Text = ""
    reason: Text = ""
    evidence: dict[str, Any] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)
    heard: Count | None = None
    action: Action = ""
    by: Text = ""

    def record(self) -> Outgoing:
        """Return the announcement as a record of `models`."""
        return Outgoing(MODELS, self.version.encode() or b"-", msgspec.json.encode(self), 0)


def round_of(version: str, announced_in: int) -> int:
    """Return the number of the round that made a model, -1 if none did.

    The fine-tuner's versions begin with it. The announcement by which a model is in use may be of another round, that
    of a rollback, or of none, if a model was promoted that had not been in the gate yet.

    >>> round_of("r0003-9192c6a3", 5), round_of("proposed-1e0d77ab", 0), round_of("summer", 7)
    (3, -1, 7)
    """
    found = re.match(r"r(\d{1,15})-", version)
    return int(found[1]) if found else announced_in or -1


def announced(record: Record) -> Announcement | None:
    """Return the announcement in a record of `models`, or None if the record holds no known announcement."""
    found = decode_json(record.value, Announcement)
    return found if found and _plain([found.evidence, found.lineage], figures_depth_max + 1) else None


def unusable(record: Record) -> Rejection:
    """Return why a record of `models` holds no announcement."""
    try:
        msgspec.json.decode(record.value or b"", type=Announcement)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Rejection("schema", f"wanted an announcement, found {error}"[:300])
    return Rejection("schema", f"wanted evidence and lineage of at most {figures_depth_max} levels and 64-bit numbers")


def _plain(value: Any, depth: int) -> bool:
    """Return whether a decoded document can be kept in a state: not too deep, and without large numbers."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return depth > 0 and all(_plain(one, depth - 1) for one in value)
    return not isinstance(value, int) or -(2**63) <= value < 2**63
