"""Snapshots of a live shard: frozen at a commit, stored beside the loop, named in a later commit."""

from collections.abc import Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

from headrace.clock import TIMER, Timer
from headrace.errors import BlobUnwritable
from headrace.log.protocol import Partition
from headrace.shard.blobs import Blobs
from headrace.shard.journal import Pointer, Stamp, key_of, snapshots_kept
from headrace.state import State, encode


def pointer_to(number: int, positions: Mapping[Partition, int], stamp: Stamp, digest: str) -> Pointer:
    """Return a pointer that lacks the blob and the positions in the journal and the judgements."""
    return Pointer(
        blob="", number=number, journal=0, judgements=0, versions={"headrace": stamp.headrace}, stamp=stamp,
        positions={key_of(place): position for place, position in positions.items()}, digest=digest,
    )  # fmt: skip


def former_blobs(pointer: Pointer | None) -> list[str]:
    """Return the blobs that stay beside the one that follows this pointer's."""
    return [pointer.blob, *pointer.former][: snapshots_kept - 1] if pointer else []


@dataclass
class _Pending:
    """A snapshot that no entry names yet: its pointer (without the blob's name and, at first, the journal's position),
    and the blob that is being stored."""

    pointer: Pointer
    stored: Future[tuple[str, int]]


class Snapshots:
    """Takes a snapshot at each interval, and deletes the blobs that no kept pointer names.

    Call `settled` once per settled commit, `newest` before and `take` after each commit.

    Args:
        kind: the shard's name, the kind of its blobs.
        pointer: the newest snapshot that the journal names.
        executor: stores blobs beside the loop, one after the other; a thread by default.

    Attributes:
        size: bytes of the newest snapshot that this object took, 0 before the first.
        failures, failure: the number of snapshots in a row that could not be written, and why the newest could not.
            Learning goes on, and the next interval brings another try.
    """

    def __init__(
        self,
        blobs: Blobs,
        kind: str,
        pointer: Pointer | None,
        *,
        interval_s: float,
        timer: Timer = TIMER,
        executor: Executor | None = None,
    ) -> None:
        self._blobs, self._kind, self._pointer, self._interval_s = blobs, kind, pointer, interval_s
        self._timer, self._executor = timer, executor or ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._pending: _Pending | None = None
        self._kept_blobs: set[str] | None = None  # those to keep once the commit in flight, which names them, is done
        self._taken_at = self._timer.monotonic()
        self.size = self.failures = 0
        self.failure = ""

    @property
    def due(self) -> bool:
        """Whether a snapshot should be taken at this commit."""
        idle = self._pending is None and self._kept_blobs is None
        return idle and self._timer.monotonic() - self._taken_at >= self._interval_s

    def take(self, state: State, number: int, positions: Mapping[Partition, int], stamp: Stamp, digest: str) -> None:
        """Store the state after the entries before `number`; `settled` adds its position in the journal."""
        pointer = pointer_to(number, positions, stamp, digest)
        self._pending = _Pending(pointer, self._executor.submit(self._store, state))
        self._taken_at = self._timer.monotonic()

    def _store(self, state: State) -> tuple[str, int]:
        data = encode(state)
        return self._blobs.put(self._kind, data), len(data)

    def settled(self, number: int, journal: int, judgements: int) -> None:
        """Note that a commit is final: the entries before `number` end at these positions."""
        if self._kept_blobs:  # only now: a writer that was fenced must not delete its successor's blobs
            self._executor.submit(self._blobs.sweep, self._kind, self._kept_blobs)
            self._kept_blobs = None
        if self._pending and self._pending.pointer.number == number and not self._pending.pointer.journal:
            pointer = msgspec.structs.replace(self._pending.pointer, journal=journal, judgements=judgements)
            self._pending.pointer = pointer

    def newest(self) -> Pointer | None:
        """Return the newest pointer whose blob is durable, for the next entry to name."""
        pending = self._pending
        if pending and pending.stored.done() and (error := pending.stored.exception()):
            if not isinstance(error, BlobUnwritable):
                raise error
            self._pending = None
            self.failures += 1
            self.failure = str(error)
        elif pending and pending.pointer.journal and pending.stored.done():
            blob, self.size = pending.stored.result()
            self.failures, self.failure = 0, ""
            former = former_blobs(self._pointer)
            self._pointer = msgspec.structs.replace(pending.pointer, blob=blob, former=former)
            self._pending, self._kept_blobs = None, {blob, *former}
        return self._pointer

    def behind(self, number: int) -> int:
        """Return how many of the journal's first `number` entries the newest snapshot lacks: what a restart folds."""
        return number - (self._pointer.number if self._pointer else 0)

    def close(self) -> None:
        """Wait until a snapshot that is being stored is durable. Safe to call twice."""
        self._executor.shutdown(wait=True)
