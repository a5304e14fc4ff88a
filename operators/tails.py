"""Topics of which the newest records are kept decoded, and read on from where the last look ended."""

from collections.abc import Callable
from typing import Generic, TypeVar

from headrace.log.protocol import Log, Partition, Record
from headrace.log.scan import partition_records

T = TypeVar("T")


class Tail(Generic[T]):
    """The decoded records of a topic, by partition in the log's order. A look reads only what has come since.

    Args:
        decode: returns what a record holds, None if nothing that is wanted.
        records_max: most records that are kept, the newest ones; None for all.

    Attributes:
        held: what is kept.
        cut: whether older records were left out.
    """

    def __init__(self, topic: str, decode: Callable[[Record], T | None], records_max: int | None = None) -> None:
        self._topic, self._decode, self._max = topic, decode, records_max
        self._positions: dict[Partition, int] = {}
        self.held: list[T] = []
        self.cut = False

    def look(self, log: Log) -> bool:
        """Read what has come to a log, which is the same at each look; return whether anything of it is kept.

        Raises:
            LogUnavailable: the log does not answer.
        """
        before = len(self.held)
        for place in log.partitions(self._topic):
            end = log.end(place)
            start = self._positions.get(place, log.first(place))
            if self._max is not None and end - start > self._max:
                start, self.cut = end - self._max, True
            found = map(self._decode, partition_records(log, place, start=start, end=end))
            self.held += [one for one in found if one is not None]
            self._positions[place] = end
        came = len(self.held) > before
        if self._max is not None and len(self.held) > self._max:
            del self.held[: len(self.held) - self._max]
            self.cut = True
        return came
