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


class Thinned(Generic[T]):
    """The records of a topic by name over a long time: of each name some, evenly, and always the newest one.

    Args:
        decode: returns a record's name and what it holds, None if nothing that is wanted.
        kept_max: most records of a name that are kept, at least 2.
        records_max: most records that a look reads, the newest ones.
    """

    def __init__(
        self, topic: str, decode: Callable[[Record], tuple[str, T] | None], *, kept_max: int, records_max: int
    ) -> None:
        self._tail = Tail(topic, decode, records_max)
        self._max = kept_max
        self._held: dict[str, list[T]] = {}
        self._newest: dict[str, T] = {}
        self._seen: dict[str, int] = {}
        self._every: dict[str, int] = {}

    def look(self, log: Log) -> None:
        """Read what has come to a log since the last look. Raises LogUnavailable."""
        self._tail.look(log)
        for name, one in self._tail.held:
            self._take(name, one)
        self._tail.held.clear()

    def of(self, name: str) -> list[T]:
        """Return what is kept of a name, oldest first."""
        held = self._held.get(name, [])
        return held if not held or held[-1] is self._newest[name] else [*held, self._newest[name]]

    def _take(self, name: str, one: T) -> None:
        held, seen = self._held.setdefault(name, []), self._seen.get(name, 0)
        every = self._every.setdefault(name, 1)
        self._seen[name], self._newest[name] = seen + 1, one
        if seen % every == 0:
            held.append(one)
            if len(held) >= self._max:
                del held[1::2]
                self._every[name] = 2 * every
