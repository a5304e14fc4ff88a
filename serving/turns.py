"""Turns: one thread answers, others fold, never two at once, and each gets its share of the time.

Both work in Python, of which one thread runs at a time anyway. Threads that compete for it switch every 5 ms, and a
lock is polite in the wrong direction: readers starved the follower, or waited for it. Here the thread that answers
decides. It is the thread of an event loop; between two answers it waits while a piece of the fold is done, of about a
millisecond. A fold that is hardly behind gets a little of the time, so that a commit with many events does not hold up
answers. One that is behind gets most of it, because answers that are late are better than answers that are old.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Final, Protocol

hurry_s: Final = 0.3
"""Time, in seconds, from which on a fold that is behind gets most of the time. An event must be in the answers within a
second."""
fold_share: Final = 4.0
"""How much time a fold that is so far behind gets for each second of answering: 80 % of both."""
fold_s_max: Final = 0.02
"""Longest time, in seconds, that all answers wait while several of its pieces are folded."""
calm_share: Final = 0.5
"""How much time a fold that is less far behind gets for each second of answering."""
calm_s_max: Final = 0.004
"""Longest time, in seconds, that all answers wait while several of its pieces are folded."""
fold_s_min: Final = 0.002
"""Time, in seconds, for which pieces are folded one after the other even if nobody has asked: to wake the thread that
answers for each would take longer than a piece."""
next_piece_s: Final = 0.001
"""Longest time, in seconds, until a thread that goes on folding asks for its next turn."""
behind_pieces: Final = 40
"""Pieces in a row from which on folding counts as behind; then it reads from the log between some of them."""
behind_piece_s: Final = 0.005
"""Longest time, in seconds, until a thread that is behind asks for its next turn."""
detached_s: Final = 0.5
"""Time, in seconds, after which a thread that waits for its turn looks whether the loop has ended."""


class EventLoop(Protocol):
    """The part of asyncio's event loop that is used here."""

    def call_soon_threadsafe(self, callback: Callable[[], object], /) -> object:
        """Have a function called by the loop's thread."""


class Turns:
    """Shares one state between the thread that answers and those that fold.

    A thread folds within `with turns:`, about a millisecond at a time, and answers are made within
    `with turns.answering():`. Without an event loop it is a lock.

    Args:
        behind_s: returns how long the fold has been behind, in seconds.

    Attributes:
        number: of turns to fold that began; another one means that something may have been folded.
    """

    def __init__(self, behind_s: Callable[[], float] = lambda: math.inf) -> None:
        self._behind_s = behind_s
        self._state = threading.Lock()
        self._loop: EventLoop | None = None
        self._asks, self._begin, self._done = threading.Semaphore(0), threading.Semaphore(0), threading.Semaphore(0)
        self._folders = threading.Lock()
        self._granted = self._scheduled = False
        self.answering_s, self.number = 0.0, 0
        self._in_row = 0
        self._answering = _Answering(self, self._state)

    def attach(self, loop: EventLoop) -> None:
        """Let the event loop's thread, which answers, say when to fold. Called by that thread."""
        self._loop, self._scheduled = loop, False

    def detach(self) -> None:
        """Let folding go on without the event loop, which ends. Called by its thread."""
        self._loop = None

    def answering(self) -> "_Answering":
        """Return a context manager in which the state may be read."""
        return self._answering

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Let a thread that folds read the state, in a turn that changes nothing."""
        with self:
            self.number -= 1
            yield

    def __enter__(self) -> None:
        self._folders.acquire()
        loop, self._granted = self._loop, False
        if loop is not None:
            self._asks.release()
            if not self._scheduled:
                self._schedule(loop)
            while not self._granted and self._loop is not None:
                self._granted = self._begin.acquire(timeout=detached_s)
            if not self._granted:
                self._asks.acquire(blocking=False)
        self._state.acquire()
        self.number += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._state.release()
        if self._granted:
            self._done.release()
        elif self._answering.waits:  # a lock would be acquired again before that thread wakes
            time.sleep(next_piece_s)
        self._folders.release()

    def _grant(self) -> None:
        self.fold_some()
        self._scheduled = False
        if self._asks.acquire(blocking=False):  # it saw that this function was scheduled
            self._asks.release()
            if self._loop is not None:
                self._schedule(self._loop)

    def fold_if_claimed(self) -> None:
        """Fold some if that has a claim to as much time as it may have: many answers in one round of the loop."""
        share, most_s = self._claims()
        if share * self.answering_s >= most_s:
            self.fold_some()

    def _claims(self) -> tuple[float, float]:
        return (fold_share, fold_s_max) if self._behind_s() > hurry_s else (calm_share, calm_s_max)

    def fold_some(self) -> None:
        """Wait while what was asked for is folded, and what follows at once, for as long as folding has a claim to.

        Called by the thread that answers.
        """
        share, most_s = self._claims()
        claim_s = min(most_s, share * self.answering_s)
        asked = self._asks.acquire(blocking=False)
        until = time.perf_counter() + max(fold_s_min, claim_s)
        while asked:
            self._begin.release()
            self._done.acquire()
            self._in_row += 1
            left_s = max(0.0, until - time.perf_counter())
            claim_s = min(claim_s, left_s)
            wait_s = next_piece_s if self._in_row < behind_pieces else behind_piece_s
            asked = left_s > 0 and self._asks.acquire(timeout=min(wait_s, left_s))
            if not asked and left_s > wait_s:
                self._in_row = 0
        self.answering_s = claim_s / share  # what is left is for the thread that reads from the log meanwhile

    def _schedule(self, loop: EventLoop) -> None:
        self._scheduled = True
        with suppress(RuntimeError):  # it has just been closed
            loop.call_soon_threadsafe(self._grant)


class _Answering:
    """The context in which the state may be read; it measures the time that answers take.

    `waits` is whether the thread that answers waits for the state.
    """

    __slots__ = ("_began", "_state", "_turns", "waits")

    def __init__(self, turns: Turns, state: threading.Lock) -> None:
        self._turns, self._state, self._began, self.waits = turns, state, 0.0, False

    def __enter__(self) -> None:
        self._turns.fold_if_claimed()
        self.waits = True
        self._state.acquire()
        self.waits, self._began = False, time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turns.answering_s += time.perf_counter() - self._began
        self._state.release()
