"""A running hash over what the entries of a journal applied, so that changed records are noticed."""

import struct
from collections.abc import Sequence
from hashlib import sha256

from headrace.log.protocol import Record

block_records = 512
block_bytes = 2**20
"""Records, or bytes of them, that are hashed at once: for each hash, the code that learns leaves the caches."""


class Chain:
    """Hashes the records of entries. `value` is the hash after the last entry that was closed, "" before the first.

    How the records of an entry are cut into pieces does not matter: numbers, keys and values are a stream each.

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
        self._begin()

    def _begin(self) -> None:
        self._numbers, self._keys, self._values, self._judgements = sha256(), sha256(), sha256(), sha256()
        self._block: list[Record] = []
        self._size = 0

    def add(self, records: Sequence[Record]) -> None:
        """Add records of `events` or of a side topic, in the order in which they were applied."""
        self._block += records
        self._size += sum([len(record.value or b"") for record in records])
        if len(self._block) >= block_records or self._size >= block_bytes:
            self._hash_block()

    def _hash_block(self) -> None:
        block, self._block, self._size = self._block, [], 0
        keys, values = [record.key or b"" for record in block], [record.value or b"" for record in block]
        numbers = [0] * (4 * len(block))  # filled by columns, which takes less time than rows
        numbers[0::4] = [record.offset for record in block]
        numbers[1::4] = [record.time_ms for record in block]
        numbers[2::4], numbers[3::4] = map(len, keys), map(len, values)
        self._numbers.update(struct.pack(f"<{len(numbers)}q", *numbers))
        self._keys.update(b"".join(keys))
        self._values.update(b"".join(values))

    def add_judgement(self, data: bytes) -> None:
        """Add a judgement."""
        self._judgements.update(data)

    def close_entry(self) -> str:
        """End an entry; return the new value."""
        if self._block:
            self._hash_block()
        parts = (self._numbers, self._keys, self._values, self._judgements)
        self.value = sha256(self.value.encode() + b"".join(part.digest() for part in parts)).hexdigest()[:16]
        self._begin()
        return self.value
