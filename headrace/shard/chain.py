"""A running hash over what the entries of a journal applied, so that changed records are noticed."""

from collections.abc import Sequence
from hashlib import blake2b
from struct import Struct

from headrace.log.protocol import Record

_position = Struct("<qq").pack  # of a record: its offset and append time


class Chain:
    """Hashes the records of entries. `value` is the hash after the last entry that was closed, "" before the first.

    How the records of an entry are cut into pieces does not matter.

    >>> record = Record(0, 7, 1_000, b"ann", b"{}")
    >>> one, other = Chain(), Chain()
    >>> one.add([record, record])
    >>> other.add([record])
    >>> other.add([record])
    >>> one.close_entry() == other.close_entry()
    True
    """

    def __init__(self, value: str = "") -> None:
        self.value = value
        self._hash = blake2b(value.encode(), digest_size=8)

    def add(self, records: Sequence[Record]) -> None:
        """Add records of `events` or of a side topic, in the order in which they were applied."""
        parts: list[bytes] = []
        for record in records:
            parts += (_position(record.offset, record.time_ms), record.key or b"", record.value or b"")
        self._hash.update(b"".join(parts))

    def add_judgement(self, data: bytes) -> None:
        """Add a judgement."""
        self._hash.update(data)

    def close_entry(self) -> str:
        """End an entry; return the new value."""
        self.value = self._hash.hexdigest()
        self._hash = blake2b(self.value.encode(), digest_size=8)
        return self.value
