"""Records of one partition that were read ahead, bounded by number and by size."""

from collections import deque
from collections.abc import Sequence

from headrace.log.protocol import Record, size_of_all

buffer_bytes_max = 2 * 2**20
"""A partition with this many buffered bytes of keys and values is not read further. One read may exceed it."""


class Buffer:
    """A queue of records that knows their size in bytes: exactly when they are added, on average when they are taken.

    >>> buffer = Buffer(records_max=2)
    >>> buffer.extend([Record(0, at, 0, b"ann", b"{}") for at in range(3)])
    >>> buffer.full, [record.offset for record in buffer.take(2)], buffer.size, buffer.full
    (True, [0, 1], 5, False)
    """

    def __init__(self, records_max: int) -> None:
        self._records_max = records_max
        self.records: deque[Record] = deque()
        self.size = 0
        self._taken = 1, 0  # number and size of the records that were taken last

    def __len__(self) -> int:
        return len(self.records)

    @property
    def full(self) -> bool:
        """Whether no more should be read."""
        return len(self.records) >= self._records_max or self.size >= buffer_bytes_max

    def extend(self, records: Sequence[Record]) -> None:
        """Append records."""
        self.records.extend(records)
        self.size += size_of_all(records)

    def take(self, records_max: int) -> list[Record]:
        """Remove and return the first records."""
        popleft, held = self.records.popleft, len(self.records)
        count = min(held, records_max)
        if count:
            self._taken = count, self.size * count // held
            self.size -= self._taken[1]
        return [popleft() for _ in range(count)]

    def put_back(self, records: Sequence[Record]) -> None:
        """Put records that were taken last back to the front."""
        self.records.extendleft(reversed(records))
        count, size = self._taken
        self.size += size * len(records) // count
