"""A running hash over what the entries of a journal applied, so that changed records are noticed."""

import struct
from collections.abc import Sequence
from hashlib import sha256

from headrace.log.protocol import Record

block_records = 512
"""Records that are hashed together: the code that learns leaves the processor's caches for each hash."""


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
        self._hash = sha256(value.encode())
        self._block: list[Record] = []

    def add(self, records: Sequence[Record]) -> None:
        """Add records of `events` or of a side topic, in the order in which they were applied."""
        self._block += records
        while len(self._block) >= block_records:
            self._hash_block()

    def _hash_block(self) -> None:
        block, self._block = self._block[:block_records], self._block[block_records:]
        keys, values = [record.key or b"" for record in block], [record.value or b"" for record in block]
        numbers = [record.offset for record in block]
        numbers += [record.time_ms for record in block]
        numbers += map(len, keys)
        numbers += map(len, values)
        self._hash.update(struct.pack(f"<{len(numbers)}q", *numbers))
        self._hash.update(b"".join(keys))
        self._hash.update(b"".join(values))

    def add_judgement(self, data: bytes) -> None:
        """Add a judgement. The judgements of an entry come after its records."""
        if self._block:
            self._hash_block()
        self._hash.update(data)

    def close_entry(self) -> str:
        """End an entry; return the new value."""
        if self._block:
            self._hash_block()
        self.value = self._hash.hexdigest()[:16]
        self._hash = sha256(self.value.encode())
        return self.value
