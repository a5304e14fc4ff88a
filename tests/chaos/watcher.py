"""A read-committed reader that runs all the time: what it has read once must stay, and nothing may come twice."""

import hashlib
import threading
from collections.abc import Sequence
from contextlib import closing
from typing import Final

from headrace.archive.log import with_archive
from headrace.errors import LogUnavailable
from headrace.log.open import open_log
from headrace.log.protocol import Partition
from tests.chaos.violation import Violation

records_max: Final = 2_000
wait_s: Final = 0.05
pause_s: Final = 0.3
"""Pause, in seconds, before another try to reach a log that does not answer."""


def fingerprint(key: bytes | None, value: bytes | None) -> bytes:
    """Return a short digest of a record's key and value."""
    return hashlib.blake2b(repr((key, value)).encode(), digest_size=12).digest()


class Watcher:
    """Reads the committed records of some topics in a thread, across all outages.

    Attributes:
        seen: for each partition, the offsets that were read, in order, and a digest of each record.
    """

    def __init__(self, url: str, archive: str, topics: Sequence[str]) -> None:
        self._url, self._archive, self._topics = url, archive, topics
        self.seen: dict[Partition, list[tuple[int, bytes]]] = {}
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._read()
                except LogUnavailable:
                    self._stop.wait(pause_s)
        except Exception as error:
            self._error = error

    def _read(self) -> None:
        with closing(with_archive(open_log(self._url), self._archive)) as log:
            places = [place for topic in self._topics for place in log.partitions(topic)]
            for place in places:
                self.seen.setdefault(place, [])
            starts = {place: seen[-1][0] + 1 if (seen := self.seen[place]) else 0 for place in places}
            with closing(log.reader(starts)) as reader:
                while not self._stop.is_set():
                    for place, records in reader.read(records_max, wait_s):
                        self.seen[place] += [(one.offset, fingerprint(one.key, one.value)) for one in records]

    def count(self, topic: str) -> int:
        """Return how many records of a topic it has read.

        Raises:
            Violation: it has failed, which no outage explains.
        """
        if self._error:
            raise Violation(f"the reader that runs all the time failed: {self._error!r}") from self._error
        return sum(len(seen) for place, seen in list(self.seen.items()) if place.topic == topic)

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join()
