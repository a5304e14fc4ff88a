"""The delivery: what waits, and the thread that sends it in order, in batches, again and again until it is answered."""

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from threading import Condition, Thread
from typing import Any, Final, NamedTuple

from headrace.client.connection import Gateway
from headrace.client.entries import IN_BATCHES, RefusedEntry, batch, document_of, refused_of
from headrace.errors import BrokenWorld
from headrace.spool import Segment, Spool, SpoolFull, segment_bytes_max

retry_after_s_max: Final = 600.0
"""Longest pause that a gateway can ask for."""
_ABOUT_THE_BODY: Final = (400, 413, 422)
"""Answers that would be the same however often the request was repeated."""
_ABOUT_THE_CLIENT: Final = (401, 403, 404, 405)
"""Answers that a person must do something about: the key or the URL is wrong."""

_log: Final = logging.getLogger("headrace.client")


class Undelivered(BrokenWorld):
    """The gateway did not answer all that was sent; the text says how much waits, and why."""

    retriable = True


RefusedCallback = Callable[[Sequence[RefusedEntry]], None]


class Counts(NamedTuple):
    """What the gateway has answered, in entries, as it names them; and the bytes that wait for an answer.

    `spooled` ones are among the accepted: they wait on the gateway's disk until its log answers again.
    """

    accepted: int = 0
    repeated: int = 0
    unused: int = 0
    spooled: int = 0
    refused: int = 0
    waiting_bytes: int = 0


def log_refused(refused: Sequence[RefusedEntry]) -> None:
    """Write a line about the refusals of one answer to the log `headrace.client`."""
    first = refused[0]
    _log.warning("%d refused, first: %s: %s: %s", len(refused), first.target, first.reason, first.detail)


class Memory:
    """What waits, in memory, with the methods of `Spool`."""

    def __init__(self, *, bytes_max: int) -> None:
        self._bytes_max, self.size = bytes_max, 0
        self._waiting: list[bytes] = []
        self._taken: Segment | None = None

    def __len__(self) -> int:
        return int(bool(self._waiting)) + int(self._taken is not None)

    def add(self, entries: Sequence[bytes]) -> None:
        size = sum(map(len, entries))
        if self.size + size > self._bytes_max:
            raise SpoolFull(f"wanted at most {self._bytes_max} bytes that wait, found {self.size} and {size} more")
        self._waiting += entries
        self.size += size

    def first(self) -> Segment | None:
        if self._taken is None and self._waiting:
            count = size = 0
            while count < len(self._waiting) and size < segment_bytes_max:
                size += len(self._waiting[count])
                count += 1
            self._taken, self._waiting = Segment(0, self._waiting[:count]), self._waiting[count:]
        return self._taken

    def remove(self, segment: Segment) -> None:
        self._taken = None
        self.size -= sum(map(len, segment.entries))

    def close(self) -> None:
        pass


class Delivery:
    """Sends entries (`entry`) from a queue to a gateway, until `close`. Thread-safe.

    Args:
        gateway, queue: owned by the delivery from now on.
        batch_events: most entries of one request, and how many end the wait for more.
        interval_s: longest wait for more entries.
        retry_s, retry_s_max: the first pause after a failure, and the longest.
        on_refused: called from the thread of the delivery. An exception of it ends the delivery.
    """

    def __init__(
        self,
        gateway: Gateway,
        queue: Memory | Spool,
        *,
        batch_events: int,
        interval_s: float,
        retry_s: float,
        retry_s_max: float,
        on_refused: RefusedCallback,
    ) -> None:
        self._gateway, self._queue, self._on_refused = gateway, queue, on_refused
        self._batch_events = self._limit = batch_events
        self._interval_s, self._retry_s, self._retry_s_max = interval_s, retry_s, retry_s_max
        self._counts = Counts()
        # Entries are numbered as they are added; what an earlier process left counts as one for each segment.
        self._added, self._answered = len(queue), 0
        self._untaken = self._hurrying = self._failures = 0
        self._closing = self._stopping = self._hopeless = False
        self._fault = ""
        self._error: BaseException | None = None
        self._changed = Condition()
        self._thread = Thread(target=self._run, name="headrace-client", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> Counts:
        """What the gateway has answered, and what waits."""
        with self._changed:
            return self._counts._replace(waiting_bytes=self._queue.size)

    @property
    def failing(self) -> bool:
        """Whether the newest request had no answer that ends it."""
        return bool(self._fault)

    def add(self, entries: Sequence[bytes]) -> None:
        """Add entries, all or none of them.

        Raises:
            SpoolFull: they do not fit.
            ValueError: the delivery is closed.
            RuntimeError: the thread has ended with an error, which is the cause.
        """
        with self._changed:
            self._raise_error()
            if self._closing:
                raise ValueError("wanted an open client, found a closed one")
            self._queue.add(entries)
            self._added += len(entries)
            self._untaken += len(entries)
            self._changed.notify_all()

    def await_answers(self, timeout_s: float, *, unless_failing: bool = False) -> None:
        """Return once all that was added before is answered.

        Raises:
            Undelivered: it is not in time, or will not be as the key or the URL is wrong, or a request fails and
                `unless_failing` is set.
            RuntimeError: the thread has ended with an error, which is the cause.
        """
        with self._changed:
            wanted = self._added

            def ended() -> bool:
                in_vain = self._hopeless or (unless_failing and self.failing)
                return self._answered >= wanted or self._error is not None or in_vain

            self._hopeless = False  # until the next attempt
            self._hurrying += 1
            self._changed.notify_all()
            self._changed.wait_for(ended, timeout_s)
            self._hurrying -= 1
            self._raise_error()
            if self._answered < wanted:
                why = self._fault or f"no answer within {timeout_s:g} s"
                raise Undelivered(f"{self._gateway.url}: {self._queue.size:,} bytes wait: {why}")

    def close(self, timeout_s: float, *, unless_failing: bool = False) -> None:
        """Take no more entries, wait for the answers, and end the thread after the running request.

        Raises: as `await_answers`.
        """
        with self._changed:
            self._closing = True
        try:
            self.await_answers(timeout_s, unless_failing=unless_failing)
        finally:
            with self._changed:
                self._stopping = True
                self._changed.notify_all()
            self._thread.join(timeout_s)

    def _raise_error(self) -> None:
        if self._error is not None:
            raise RuntimeError("the client has stopped because of an error") from self._error

    def _run(self) -> None:
        try:
            while (taken := self._take()) is not None:
                segment, reached = taken
                if not self._deliver(segment.entries):
                    break
                with self._changed:
                    self._queue.remove(segment)
                    self._answered = reached
                    self._changed.notify_all()
        except BaseException as error:  # whoever calls next raises it
            with self._changed:
                self._error = error
                self._changed.notify_all()
        finally:
            self._gateway.close()
            with self._changed:
                self._queue.close()

    def _take(self) -> tuple[Segment, int] | None:
        """Wait for entries; return the oldest, and up to which number all is then answered. None to stop."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._queue) or self._stopping)
            self._changed.wait_for(self._is_due, self._interval_s)
            segment = None if self._stopping else self._queue.first()
            if segment is None:
                return None
            if len(self._queue) > 1:
                return segment, self._answered
            self._untaken = 0
            return segment, self._added

    def _is_due(self) -> bool:
        ready = self._untaken >= self._batch_events or len(self._queue) > 1
        return ready or self._hurrying > 0 or self._stopping

    def _deliver(self, entries: Sequence[bytes]) -> bool:
        """Send entries until all are answered; False if the delivery is stopped before."""
        while entries:
            answered, pause_s = self._send(entries)
            entries = entries[answered:]
            with self._changed:
                stopped = self._changed.wait_for(lambda: self._stopping, pause_s)
            if stopped and entries:
                return False
        return True

    def _send(self, entries: Sequence[bytes]) -> tuple[int, float]:
        """Send the first entries in one request; return how many are answered, and the pause then, in seconds."""
        target, documents = batch(entries, self._limit)
        try:
            answer = self._gateway.request(
                target, b"[" + b",".join(documents) + b"]" if target in IN_BATCHES else documents[0]
            )
        except (OSError, HTTPException) as error:
            # A smaller body may pass: some servers close the connection of one that they find too large.
            self._limit = max(1, len(documents) // 2)
            return 0, self._failed(f"{type(error).__name__}: {error}")
        code, detail = f"http_{answer.status}", str(answer.body.get("detail") or answer.body.get("title") or "")
        refused = refused_of(target, documents, answer.body.get("refused"))
        if answer.status in _ABOUT_THE_BODY and len(refused) < len(documents):
            if len(documents) > 1:  # one of them spoils it, or together they are too large
                self._limit = len(documents) // 2
                return 0, 0.0
            refused = [RefusedEntry(target, document_of(documents[0]), code, detail)]
        elif answer.status not in (*range(200, 300), *_ABOUT_THE_BODY):
            return 0, self._failed(f"{code}: {detail}", answer.after_s, hopeless=answer.status in _ABOUT_THE_CLIENT)
        self._succeeded(answer.body, len(refused))
        if refused:
            self._on_refused(refused)
        return len(documents), 0.0

    def _succeeded(self, body: Mapping[str, Any], refused: int) -> None:
        if self._failures:
            _log.warning("%s answers again", self._gateway.url)
        with self._changed:
            self._failures, self._fault, self._hopeless = 0, "", False
            self._limit = min(self._batch_events, self._limit * 2)
            stated = {name: body.get(name) for name in ("accepted", "repeated", "unused", "spooled")}
            self._counts = self._counts._replace(
                refused=self._counts.refused + refused,
                **{name: getattr(self._counts, name) + n for name, n in stated.items() if isinstance(n, int)},
            )

    def _failed(self, fault: str, after_s: float = 0.0, *, hopeless: bool = False) -> float:
        """Note that a request has no answer that ends it; return the pause until it is repeated, in seconds."""
        if not self._failures:
            _log.warning("%s: %s; what waits is sent again", self._gateway.url, fault)
        with self._changed:
            self._fault, self._hopeless = fault, hopeless
            self._changed.notify_all()
        pause_s = min(self._retry_s * 2.0 ** min(self._failures, 30), self._retry_s_max) * random.uniform(0.5, 1)
        self._failures += 1
        # Never earlier than the gateway asked for, and not all clients at the same time.
        return max(pause_s, min(after_s, retry_after_s_max) * random.uniform(1, 1.1))
