"""What of an input is published: digests in the topic `published`; in logs of release 0.3.0, the records themselves.

Each commit writes its records and, to `published`, a short digest of each. A run publishes those of its records whose
digest is not there, whatever range the runs before had and in whatever order the input states them.

Releases up to 0.3.0 published without `published`. A log without any record there is searched for their records, which
contain the origin and number.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from headrace.errors import LogUnavailable, Misconfigured
from headrace.log.protocol import Log, Outgoing, Partition, Writer, decode_json
from headrace.topics import PUBLISHED, TOPICS, partitions_of, place_of
from producers.sequence import NumberedRecord

batch_records_max: Final = 1_000
"""Maximum number of records of one commit."""
batch_bytes_max: Final = 4 * 2**20
"""Size of keys and values at which a commit is due."""
commit_interval_s: Final = 0.25
"""Minimum time between two commits of a publisher that waits only shortly between records."""
digest_bytes: Final = 8
"""Bytes that are kept for each record. Among ten million records, two have equal ones with a probability of 3e-6."""
noted_max: Final = 50_000
"""Maximum number of digests in one record of `published`."""
look_back_max: Final = 5_000
"""Records per step while searching backwards for the records of an earlier run."""
look_back_timeout_s: Final = 30.0
"""How long the log may take to return records that it holds."""


class Publication(Struct):
    """A record of `published`: a commit published these records of an input.

    `beginning` is shared by all inputs that begin alike; `digests` has the last `digest_bytes` bytes of the digest of
    each record.
    """

    origin: str
    beginning: str
    digests: bytes


class _Origin(Struct):
    source: str
    id: str
    headraceload: str = ""


def published_number(value: bytes | None, family: str) -> tuple[str, int] | None:
    """Return the origin and number of a record that a producer of release 0.3.0 wrote, of this family, else None.

    A family is an origin without its digest. Events loaded from JSONL have `ORIGIN#NUMBER` in the extension attribute
    `headraceload`; all others have the origin as `source` and an id that ends in `-NUMBER`.

    >>> published_number(b'{"source":"load:a:b:0f","id":"0f-12"}', "load:a:b")
    ('load:a:b:0f', 12)
    >>> published_number(b'{"source":"me","id":"x"}', "load:a:b") is None
    True
    """
    if value is None or family.encode() not in value:
        return None
    found = decode_json(value, _Origin)
    if found is None:
        return None  # another program's record, which the online consumer validates
    origin, _, number = found.headraceload.rpartition("#") if found.headraceload else (found.source, "", found.id)
    digits = number.rpartition("-")[2]
    if origin.rpartition(":")[0] != family or not (digits.isascii() and digits.isdigit()):
        return None
    return origin, int(digits)


def last_published(log: Log, origin: str, topics: Iterable[str]) -> dict[Partition, int]:
    """Return the last number of this origin in each partition that holds any, searching backwards from the end.

    If a partition holds none, it is read completely; this takes seconds, and guarantees that no record is sent twice.

    Raises:
        Misconfigured: the log holds records of the same kind and name but of other content.
    """
    family = origin.rpartition(":")[0]
    found: dict[Partition, int] = {}
    for place in (place for topic in topics for place in log.partitions(topic)):
        first, last = log.first(place), log.last(place)
        if last is None:
            continue
        end = last.offset + 1  # between it and the log's end are only markers
        reader = log.reader({place: first})
        try:
            while first < end and place not in found:
                start = max(first, end - look_back_max)
                reader.seek(place, start)
                while (position := reader.position(place)) < end:
                    batches = reader.read(end - position, look_back_timeout_s)
                    if not batches:
                        where = f"{place.topic}/{place.number}"
                        raise LogUnavailable(
                            f"{where}: wanted the records from {position} to {end}, found none in time"
                        )
                    for record in (record for _, records in batches for record in records if record.offset < end):
                        match = published_number(record.value, family)
                        if match and match[0] != origin:
                            raise Misconfigured(
                                f"{place.topic} holds records of {match[0]}, this is {origin}: the same name with other"
                                " content. Rename the input if its events are new, or publish to a new log"
                            )
                        if match:
                            found[place] = match[1]
                end = start
        finally:
            reader.close()
    return found


class Published(NamedTuple):
    """What earlier runs have published of an input: the records with these digests, in order.

    `numbers` are the last ones in each partition if it was release 0.3.0, and `until` is the digest of the last record
    that it can have published.
    """

    digests: NDArray[np.uint64]
    numbers: Mapping[Partition, int] = {}
    until: str = ""

    def has(self, record: NumberedRecord) -> bool:
        """Return whether `published` notes a record.

        >>> found = Published(np.array([2, 7], np.uint64))
        >>> [found.has(NumberedRecord(0, 0, b"", b"", digest=f"{n:032x}")) for n in (1, 2, 7, 8)]
        [False, True, True, False]
        """
        wanted = np.uint64(int.from_bytes(_short(record.digest), "big"))
        place = int(np.searchsorted(self.digests, wanted))
        return place < len(self.digests) and bool(self.digests[place] == wanted)

    def had(self, record: NumberedRecord, outgoing: Outgoing) -> bool:
        """Return whether release 0.3.0 published a record."""
        return record.number <= self.numbers.get(place_of(outgoing, TOPICS[record.topic].partitions), -1)


def _short(digest: str) -> bytes:
    return bytes.fromhex(digest)[-digest_bytes:]


def find_published(
    log: Log, records: Iterable[NumberedRecord], origin: str, beginning: str, topics: Sequence[str]
) -> Published:
    """Return what is published of an input, from the topic `published` or, if it is empty, from the records.

    Some of `records` are taken if release 0.3.0 published any, else none.
    """
    (place,) = partitions_of(PUBLISHED)
    if log.last(place) is None:
        numbers, until = last_published(log, origin, topics), ""
        last: dict[str, int] = {}
        for at, number in numbers.items():
            last[at.topic] = max(number, last.get(at.topic, -1))
        for record in records if last else ():
            if record.number <= last.get(record.topic, -1):
                until = record.digest
        return Published(np.empty(0, np.uint64), numbers, until)
    found = bytearray()
    for value in _records_of(log, place):
        one = decode_json(value, Publication)
        if one is not None and one.beginning == beginning:
            found += one.digests
    whole = len(found) // digest_bytes * digest_bytes
    return Published(np.unique(np.frombuffer(bytes(found[:whole]), ">u8").astype(np.uint64)))


def _records_of(log: Log, place: Partition) -> Iterator[bytes | None]:
    """Yield the values of a partition that are committed now."""
    last = log.last(place)
    reader = log.reader({place: log.first(place)})
    try:
        while last is not None and reader.position(place) <= last.offset:
            batches = reader.read(look_back_max, look_back_timeout_s)
            if not batches:
                raise LogUnavailable(f"{place.topic}: wanted the records up to {last.offset}, found none in time")
            for _, records in batches:
                yield from (record.value for record in records)
    finally:
        reader.close()


class Commits:
    """Commits records in batches, each with their digests."""

    def __init__(self, writer: Writer, origin: str, beginning: str, clock: Callable[[], float]) -> None:
        self._writer, self._clock = writer, clock
        self._origin, self._beginning = origin, beginning
        self._batch: list[Outgoing] = []
        self._bytes = 0
        self._digests = bytearray()
        self._committed_s = float("-inf")
        self.held = False
        """While set, nothing is committed."""

    def note(self, digest: str) -> None:
        """Note with the next commit that a record is published."""
        self._digests += _short(digest)

    def add(self, record: Outgoing, digest: str) -> None:
        """Add a record; commit if a batch is complete."""
        self.note(digest)
        self._batch.append(record)
        self._bytes += len(record.key or b"") + len(record.value or b"")
        if len(self._batch) >= batch_records_max or self._bytes >= batch_bytes_max:
            self.commit()

    def settle(self, wait_s: float | None = None) -> None:
        """Commit the batch and wait until it is in the log, unless the publisher waits briefly and did so lately."""
        lately = self._clock() - self._committed_s < commit_interval_s
        if self._batch and not (wait_s is not None and wait_s < commit_interval_s and lately):
            self.commit()
            self._writer.settle()

    def finish(self) -> None:
        """Commit what is left and wait until all is in the log."""
        self.held = False
        if self._digests:
            self.commit()
        self._writer.settle()

    def commit(self) -> None:
        """Start to commit the batch, unless it is held."""
        if self.held:
            return
        size = noted_max * digest_bytes
        for start in range(0, len(self._digests), size):
            digests = bytes(self._digests[start : start + size])
            done = msgspec.json.encode(Publication(self._origin, self._beginning, digests))
            self._batch.append(Outgoing(PUBLISHED, self._origin.encode(), done))
        self._writer.commit(self._batch, {})
        self._batch, self._bytes, self._digests, self._committed_s = [], 0, bytearray(), self._clock()
