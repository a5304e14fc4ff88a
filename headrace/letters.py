"""Dead letters: records that could not be used, and what operators decided about them. Both are in `dead-letters`."""

from typing import Final, Literal

import msgspec
from msgspec import Struct

from headrace.log.protocol import Outgoing, Partition
from headrace.shard.journal import place_of_key
from headrace.topics import DEAD_LETTERS

letter_bytes_max: Final = 65_536
"""Bytes of a bad record that its dead letter repeats; the whole record stays at its origin."""
letter_key_bytes_max: Final = 1_024
"""Bytes of its key."""

Decision = Literal["redriven", "dropped"]


class DeadLetter(Struct, frozen=True):
    """A record of `dead-letters`: a bad record, and why it could not be used.

    `id` is its origin, topic/partition/offset, and `appended_ms` its append time. `key` and `value` are its bytes, in
    JSON as base64, the value cut at `letter_bytes_max`; `value_bytes` is the size of the whole value.
    """

    id: str
    reason: str
    detail: str
    appended_ms: int
    key: bytes
    value: bytes
    value_bytes: int

    @property
    def origin(self) -> tuple[Partition, int]:
        """The partition and the offset of the bad record.

        >>> DeadLetter("events/3/17", "not_json", "", 0, b"", b"", 0).origin
        (Partition(topic='events', number=3), 17)
        """
        place, _, offset = self.id.rpartition("/")
        return place_of_key(place), int(offset)

    @property
    def whole(self) -> bool:
        """Whether it repeats all of the record."""
        return self.value_bytes == len(self.value) and len(self.key) < letter_key_bytes_max


class LetterDecision(Struct, frozen=True):
    """A record of `dead-letters`: what an operator decided about a letter, by its `id`; `by` says who, `why` why."""

    id: str
    decision: Decision
    by: str
    why: str
    time_ms: int

    def record(self) -> Outgoing:
        """Return it as a record."""
        return Outgoing(DEAD_LETTERS, self.id.encode(), msgspec.json.encode(self), 0)
