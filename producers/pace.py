"""The gate of `--pace rounds`: a producer waits for the fine-tuner, so that a demo shows rounds, not a race past them.

Records of `models` are JSON objects; one may hold `due_events`, by which the fine-tuner says: I shall have said
something more here before I have seen more than this many records of `events`. The newest one counts; before the first
it is 0.
"""

import time
from collections.abc import Callable

from msgspec import Struct

from headrace.errors import LogUnavailable
from headrace.log import Log, told
from headrace.topics import MODELS, partitions_of


class _Due(Struct):
    due_events: int | None = None


class Rounds:
    """A gate for `producers.publisher.publish`: closed while as many events are published as are due.

    It supposes that its producer is the only one of `events`.
    """

    def __init__(self, log: Log, *, patience_s: float = 300.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._reader = log.reader({place: log.first(place) for place in partitions_of(MODELS)})
        self._patience_s, self._clock = patience_s, clock
        self._due_events = 0
        self._waiting_since: float | None = None

    def __call__(self, number: int) -> str | None:
        """Return None if event `number` may be published, else what is waited for.

        Raises:
            LogUnavailable: nothing more was due for `patience_s`: the fine-tuner is gone or stuck.
        """
        if number < self._due_events:
            return None
        self._follow()
        if number < self._due_events:
            self._waiting_since = None
            return None
        now = self._clock()
        if self._waiting_since is None:
            self._waiting_since = now
        waited_s = now - self._waiting_since
        if waited_s > self._patience_s:
            raise LogUnavailable(
                f"{number} events are published, {self._due_events} are due, and the fine-tuner has said nothing more"
                f" on {MODELS} for {waited_s:.0f} s: is it running?"
            )
        return f"waiting for the fine-tuner: {number} events published, {self._due_events} due"

    def _follow(self) -> None:
        while batches := self._reader.read(1_000, 0.0):
            for record in (record for _, records in batches for record in records):
                found = told(record.value, _Due)
                if found and found.due_events is not None:
                    self._due_events = found.due_events

    def close(self) -> None:
        """Free the reader's connection. Safe to call twice."""
        self._reader.close()
