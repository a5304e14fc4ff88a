"""The gate of `--pace rounds`: a producer waits for the fine-tuner, so that a demo does not outrun its rounds.

Records of `models` are JSON objects, which may have a field `due_events`: once the fine-tuner has seen this many
records of `events` and the round that is then due has been trained, it writes another record. The newest value applies;
before the first it is 0.
"""

import time
from collections.abc import Callable

from msgspec import Struct

from headrace.errors import BrokenWorld
from headrace.log.protocol import Log, decode_json
from headrace.topics import MODELS, partitions_of


class _Due(Struct):
    due_events: int | None = None


class NoVerdict(BrokenWorld):
    """The fine-tuner does not announce how many events it wants: it has ended or is stuck."""


class VerdictGate:
    """A gate for `producers.publisher.publish`: closed while `due_events` events or more are published.

    It assumes that its producer is the only producer of `events`.
    """

    def __init__(self, log: Log, *, timeout_s: float = 300.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._reader = log.reader({place: log.first(place) for place in partitions_of(MODELS)})
        self._timeout_s, self._clock = timeout_s, clock
        self._due_events = 0
        self._waiting_since: float | None = None

    def __call__(self, number: int) -> str | None:
        """Return None if event `number` may be published, else a text that states what the gate waits for.

        Raises:
            NoVerdict: `due_events` has not increased for `timeout_s`: the fine-tuner has ended or is stuck.
        """
        if number < self._due_events:
            return None
        self._read_verdicts()
        if number < self._due_events:
            self._waiting_since = None
            return None
        now = self._clock()
        if self._waiting_since is None:
            self._waiting_since = now
        waited_s = now - self._waiting_since
        if waited_s > self._timeout_s:
            raise NoVerdict(
                f"{number} events are published, {self._due_events} are due, and the fine-tuner has announced no more"
                f" on {MODELS} for {waited_s:.0f} s: is it running?"
            )
        return f"waiting for the fine-tuner: {number} events published, {self._due_events} due"

    def _read_verdicts(self) -> None:
        while batches := self._reader.read(1_000, 0.0):
            for record in (record for _, records in batches for record in records):
                found = decode_json(record.value, _Due)
                if found and found.due_events is not None:
                    self._due_events = found.due_events

    def close(self) -> None:
        """Close the reader's connection. May be called twice."""
        self._reader.close()
