"""Compares a follower's state with the snapshots of its shard: two folds of one journal must never differ."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, NamedTuple

from headrace.shard.journal import Pointer, Stamp
from headrace.state import State, digest

comparison_interval_s: Final = 600.0
"""Least time between two comparisons. One costs as much as taking a snapshot."""


class _Taken(NamedTuple):
    """The digest of the state after the entries before `number`, while a thread computes it."""

    number: int
    stamp: Stamp
    digest: Future[str]


class Comparison:
    """Compares now and then; computes digests in a thread of its own, and never waits for one.

    A snapshot's blob is named by the hash of its bytes, and equal states have equal bytes, so the name of the blob is
    the digest that the shard publishes.

    Args:
        interval_s: least time between two comparisons, and before the first one: what was just restored is equal.
    """

    def __init__(self, interval_s: float = comparison_interval_s) -> None:
        self._interval_s, self._taken_at = interval_s, time.monotonic()
        self._taken: _Taken | None = None
        self._published: Pointer | None = None  # the first snapshot that is as new as the state that was taken
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="comparison")

    @property
    def due(self) -> bool:
        """Whether the next state of which the shard takes a snapshot should be compared."""
        return self._taken is None and time.monotonic() - self._taken_at >= self._interval_s

    def take(self, state: State, number: int, stamp: Stamp) -> None:
        """Take a state that shares nothing with the fold: the one after the entries before `number`."""
        self._taken_at = time.monotonic()
        self._taken = _Taken(number, stamp, self._executor.submit(digest, state))

    def hear(self, pointer: Pointer | None) -> None:
        """Take the newest snapshot that an entry names; call this for each entry."""
        if self._taken and not self._published and pointer and pointer.number >= self._taken.number:
            self._published = pointer

    def forget(self) -> None:
        """Forget the state that was taken: another one was put in its place before a snapshot of it was named."""
        self._taken = self._published = None

    def result(self) -> bool | None:
        """Return whether a state equalled its snapshot, once that is known; None at all other times.

        A state that another release or other settings have written has other bytes; it is not compared. Nor is one
        whose snapshot the shard could not store.
        """
        taken, published = self._taken, self._published
        if taken is None or published is None or not taken.digest.done():
            return None
        self._taken = self._published = None
        if (published.number, published.stamp) != (taken.number, taken.stamp):
            return None
        return taken.digest.result() == published.blob.rpartition("-")[2]

    def close(self) -> None:
        """End the thread. Safe to call twice."""
        self._executor.shutdown(wait=True)
