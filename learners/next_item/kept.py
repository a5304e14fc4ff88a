"""Kept: what follows from a fold, for as long as nothing is folded, and for a moment beyond. Bounded."""

from collections.abc import Hashable
from typing import Final, Generic, NamedTuple, TypeVar

V = TypeVar("V")

reuse_s: Final = 0.5
"""Longest time, in seconds, for which something is reused, while others' events change it a little."""
sweep_s: Final = 0.05
"""Least time, in seconds, between two looks for what may no longer be reused."""


class Moment(NamedTuple):
    """When something is asked: the number of a turn to fold, and a clock in seconds (`headrace.surface.Now`)."""

    turn: int
    clock_s: float


class _Entry(NamedTuple, Generic[V]):
    turn: int
    until_s: float
    size: int
    value: V


class Kept(Generic[V]):
    """A table of values that may be reused in the turn in which they were made, and for `reuse_s` beyond it.

    Where it is full, what may no longer be reused is dropped, else every other value: of what is asked for again and
    again in the same order, and is more than the table holds, dropping the oldest would drop all.

    Args:
        size_max: most of the sum of the values' sizes.

    >>> kept = Kept[str](2)
    >>> kept.put("a", "old", Moment(1, 5.0))
    >>> kept.get("a", Moment(1, 99.0)), kept.get("a", Moment(2, 5.4)), kept.get("a", Moment(2, 5.6))
    ('old', 'old', None)
    >>> for key in "bcd":
    ...     kept.put(key, key, Moment(2, 6.0))
    >>> [kept.get(key, Moment(2, 6.0)) for key in "abcd"]
    [None, None, 'c', 'd']
    """

    def __init__(self, size_max: int) -> None:
        self.size_max = size_max
        self._entries: dict[Hashable, _Entry[V]] = {}
        self._size, self._swept = 0, Moment(0, 0.0)

    def get(self, key: Hashable, moment: Moment) -> V | None:
        """Return the value of a key, None if there is none that may be reused."""
        found = self._entries.get(key)
        if found is None or (found.turn != moment.turn and moment.clock_s > found.until_s):
            return None
        return found.value

    def put(self, key: Hashable, value: V, moment: Moment, size: int = 1, made: Moment | None = None) -> None:
        """Keep a value; one that is larger than the table is not kept.

        Args:
            made: when what it follows from was made, if that was earlier.
        """
        if size > self.size_max:
            return
        before = self._entries.pop(key, None)
        self._size += size - (0 if before is None else before.size)
        if self._size > self.size_max:
            self._sweep(moment)
        while self._size > self.size_max:
            self._drop(list(self._entries)[::2])
        turn, clock_s = made or moment
        self._entries[key] = _Entry(turn, clock_s + reuse_s, size, value)

    def _sweep(self, moment: Moment) -> None:
        turn, clock_s = moment
        if turn == self._swept.turn or clock_s < self._swept.clock_s + sweep_s:
            return
        self._swept = moment
        self._drop([key for key, one in self._entries.items() if one.turn != turn and clock_s > one.until_s])

    def _drop(self, keys: list[Hashable]) -> None:
        for key in keys:
            self._size -= self._entries.pop(key).size

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()
        self._size = 0

    def use(self) -> tuple[int, int]:
        """Return the sum of the values' sizes and the maximum."""
        return self._size, self.size_max
