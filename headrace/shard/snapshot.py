"""Snapshots of a live shard: frozen at a commit, stored beside the loop, named in a later commit."""

import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from headrace.clock import TIMER, Timer
from headrace.errors import BlobUnwritable
from headrace.log.protocol import Partition
from headrace.shard.blobs import Blobs
from headrace.shard.journal import Pointer, Stamp, key_of, snapshots_kept
from headrace.shard.kept import store_pointer, sweep
from headrace.state import State, encode

cost_share_max: Final = 0.04
"""Most of the loop's time that snapshots may take, as it counts; with what it cannot count (caches that are cold
afterwards) it is below 0.05."""
rarer_s_max: Final = 600.0
"""Longest time, in seconds, between two snapshots for their cost alone: the process may have stood still in one."""
close_s_max: Final = 1.0
"""Longest time, in seconds, that `close` waits for a snapshot that is being stored; no entry would name it."""
T = TypeVar("T")


class _Worker(Executor):
    """Calls functions one after the other in a thread of its own, for which a process that ends does not wait."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="snapshot", daemon=True)
        self._thread.start()

    def submit(self, function: Callable[..., T], /, *arguments: Any, **named: Any) -> "Future[T]":
        """Have a function called; return what will have its result."""
        future: Future[T] = Future()

        def call() -> None:
            try:
                future.set_result(function(*arguments, **named))
            except Exception as error:  # of any kind: whoever asks for the result raises it
                future.set_exception(error)

        self._calls.put(call)
        return future

    def _work(self) -> None:
        while call := self._calls.get():
            call()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the thread after what was submitted; wait for that for at most `close_s_max`."""
        self._calls.put(None)
        self._thread.join(close_s_max)


def pointer_to(
    number: int,
    positions: Mapping[Partition, int],
    stamp: Stamp,
    digest: str,
    topics: Mapping[str, str],
    skipped: Mapping[str, str],
    time_ms: int = 0,
) -> Pointer:
    """Return a pointer that lacks the blob and the positions in the journal and the judgements."""
    return Pointer(
        blob="", number=number, journal=0, judgements=0, versions={"headrace": stamp.headrace}, stamp=stamp,
        positions={key_of(place): position for place, position in positions.items()}, digest=digest,
        topics=dict(topics), skipped=dict(skipped), time_ms=time_ms,
    )  # fmt: skip


def former_blobs(pointer: Pointer | None) -> list[str]:
    """Return the blobs that stay beside the one that follows this pointer's."""
    return [pointer.blob, *pointer.former][: snapshots_kept - 1] if pointer else []


def continued(pointer: Pointer, before: Pointer | None) -> Pointer:
    """Return a pointer that also names what it takes over from the one before it."""
    if before is None:
        return pointer
    return msgspec.structs.replace(
        pointer, former=former_blobs(before), origin=before.origin, restated=before.restated
    )  # fmt: skip


@dataclass
class _Pending:
    """A snapshot that no entry names yet: its pointer (without the blob's name and, at first, the journal's position),
    and the blob that is being stored."""

    pointer: Pointer
    stored: Future[tuple[str, int]]


class Snapshots:
    """Takes a snapshot at each interval, and deletes those that are no longer kept (`headrace.shard.kept`).

    Call `settled` once per settled commit, `newest` before and `take` after each commit.

    A snapshot keeps the loop from learning while the state is frozen, and while it is encoded and freed, as that holds
    the interpreter's lock. Hashing and writing the bytes does not, but takes processor time too, which is all there is
    to take on one core; waiting for the disk takes none.

    Args:
        kind: the shard's name, the kind of its blobs.
        pointer: the newest snapshot that the journal names.
        executor: stores blobs beside the loop, one after the other; a thread by default.

    Attributes:
        interval_s: least time between two snapshots, in seconds.
        cost_share_max: most of the loop's time that they may take; if they would take more, they are taken more rarely.
        cost_s: what the newest one took: the time for which the loop stood still while the state was frozen and
            encoded, and the processor time of the rest, in seconds.
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
        self._blobs, self._kind, self._pointer = blobs, kind, pointer
        self.interval_s, self.cost_share_max = interval_s, cost_share_max
        self._timer, self._executor = timer, executor or _Worker()
        self._pending: _Pending | None = None
        self._pointers: dict[str, Pointer] = {}
        self._kept_blobs: set[str] | None = None  # those to keep once the commit in flight, which names them, is done
        self._taken_at = self._timer.monotonic()
        self._freeze_s = self._store_s = 0.0
        self.size = self.failures = 0
        self.failure = ""

    @property
    def cost_s(self) -> float:
        return self._freeze_s + self._store_s

    @property
    def due(self) -> bool:
        """Whether a snapshot should be taken at this commit."""
        idle = self._pending is None and self._kept_blobs is None
        interval_s = max(self.interval_s, min(self.cost_s / self.cost_share_max, rarer_s_max))
        return idle and self._timer.monotonic() - self._taken_at >= interval_s

    def take(self, frozen: Callable[[], State], pointer: Pointer) -> None:
        """Store a state; its pointer is of `pointer_to`, and `settled` adds its position in the journal.

        Args:
            frozen: returns the state; called at once.
        """
        self._taken_at = self._timer.monotonic()
        held = [frozen()]
        self._freeze_s = self._timer.monotonic() - self._taken_at
        self._pending = _Pending(pointer, self._executor.submit(self._store, held))

    def _store(self, held: list[State]) -> tuple[str, int]:
        """Store a state, which is freed as soon as it is encoded: it is taken out of the list."""
        began_s = self._timer.monotonic()
        data = encode(held.pop())
        encode_s, began_s = self._timer.monotonic() - began_s, self._timer.cpu()
        try:
            return self._blobs.put(self._kind, data), len(data)
        finally:
            self._store_s = encode_s + self._timer.cpu() - began_s

    def settled(self, number: int, journal: int, judgements: int) -> None:
        """Note that a commit is final: the entries before `number` end at these positions."""
        if self._kept_blobs:  # only now: a writer that was fenced must not delete its successor's blobs
            self._executor.submit(sweep, self._blobs, self._kind, self._kept_blobs, self._pointers)
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
            self._pointer = continued(msgspec.structs.replace(pending.pointer, blob=blob), self._pointer)
            self._pending, self._kept_blobs = None, self._pointer.named
            self._executor.submit(self._store_pointer, self._pointer)
        return self._pointer

    def _store_pointer(self, pointer: Pointer) -> None:
        """Store a pointer; if it cannot be written, nobody can return to its state later."""
        with suppress(BlobUnwritable):
            store_pointer(self._blobs, self._kind, pointer)

    def behind(self, number: int) -> int:
        """Return how many of the journal's first `number` entries the newest snapshot lacks: what a restart folds."""
        return number - (self._pointer.number if self._pointer else 0)

    def close(self) -> None:
        """End the thread. Safe to call twice."""
        self._executor.shutdown()
