"""The publisher: appends a numbered sequence of records to the log, with pacing, resumable, each record once.

What of an input is published is in the log, in the same commits as its records (`producers.published`). So a restart
continues, and so does a run of a file that has been renamed or has grown; no state is kept outside the log.

The commits are those of a writer whose id depends on how the input begins. A second run of the same input, or of a copy
with more or fewer lines, therefore fences the first, also one that is suspended: what the first has not committed by
then, it never commits.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Final, NamedTuple

from headrace.errors import Fenced, Misconfigured
from headrace.log.protocol import Log, Outgoing
from headrace.topics import EVENTS, PUBLISHED, PUBLISHER_PREFIX
from producers.published import Commits, find_published
from producers.sequence import NumberedRecord

pace_slack_s: Final = 0.02
"""Shorter sleeps are skipped, so a record may be early by up to this time."""
progress_every: Final = 500
"""Records between two reports of progress."""
transaction_timeout_s: Final = 5.0
"""Time after which an unfinished commit is aborted: an open one hides others' events, and usually takes 0.05 s."""
gate_poll_s: Final = 0.05
"""Pause between two calls of a closed gate."""
wait_s_max: Final = 1e9
"""Maximum sleep before a record (decades); operating systems reject sleeps of centuries."""


class Progress(NamedTuple):
    """The progress of a producer.

    `share` (0 to 1) is None if the total is unknown; `note` states why the producer waits, and is empty otherwise.
    """

    published: int
    already_published: int
    share: float | None
    note: str = ""


class PublishResult(NamedTuple):
    """The result of a run: records that it published, records of earlier runs, and rejected input by reason.

    `published` and `already_published` count records of `topic`; the times are those of the first and the last record
    that this run published. `examples` has the first rejections with their lines, `left_out` counts what is valid but
    no input of learners.
    """

    published: int
    already_published: int
    last_time_ms: int | None = None
    rejected: Mapping[str, int] = {}
    examples: Sequence[str] = ()
    left_out: Mapping[str, int] = {}
    first_time_ms: int | None = None
    origin: str = ""
    topic: str = EVENTS


PublishGate = Callable[[int], str | None]
"""Called with the number of `events` records so far; returns None to publish the next one, or a reason to wait."""
ProgressCallback = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """Do nothing."""


class Pace:
    """Delays records so that event time passes `speed` times as fast as the clock.

    >>> pace = Pace(2.0, clock=lambda: 0.0)
    >>> pace.wait_s(10_000), pace.wait_s(14_000)
    (0.0, 2.0)
    """

    def __init__(self, speed: float, clock: Callable[[], float]) -> None:
        if not 0 < speed < float("inf"):
            raise Misconfigured(f"speed {speed}: wanted a factor above 0 (1 is real time), or max")
        self._speed, self._clock = speed, clock
        self._zero: tuple[int, float] | None = None

    def restart(self) -> None:
        """Restart the pace at the next record, so that other waiting time is not followed by a burst."""
        self._zero = None

    def wait_s(self, time_ms: int) -> float:
        """Return how long to wait until a record of this event time is due."""
        if self._zero is None:
            self._zero = time_ms, self._clock()
        return max(0.0, (time_ms - self._zero[0]) / 1000 / self._speed - (self._clock() - self._zero[1]))


def publish(
    log: Log,
    records: Callable[[], Iterable[NumberedRecord]],
    *,
    origin: str,
    topics: Sequence[str] = (EVENTS,),
    speed: float | None = None,
    time_from_ms: int | None = None,
    time_to_ms: int | None = None,
    limit: int | None = None,
    gate: PublishGate | None = None,
    share: Callable[[], float | None] = lambda: None,
    progress: ProgressCallback = ignore_progress,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> PublishResult:
    """Append the records that the log does not hold yet, and return once all are committed.

    A record that an earlier run published is not published again; one that it skipped, as its range did not include it,
    is published by the next run whose range does.

    Args:
        records: returns the sequence, from its beginning at each call; it is called twice at most.
        origin: names the input in messages and in `published`: kind, name and digest.
        topics: those of the records; the records of the first one are counted.
        speed: event time per clock time; None for as fast as the log accepts the records.
        time_from_ms, time_to_ms: the range of event times to publish, end exclusive.
        limit: maximum number of counted records in that range, including those already published.
        gate: called before each counted record; while it returns a text, the publisher commits and waits.
        share: returns the share of the input that has been read, or None if it is unknown.

    Raises:
        Misconfigured: an option is invalid, or release 0.3.0 has published other content under the same name (see
            `last_published`).
        Fenced: another run publishes the same input, or this one was suspended during a commit.
        LogUnavailable: the log did not acknowledge in time.
    """
    pace = None if speed is None else Pace(speed, clock)
    if limit is not None and limit < 0:
        raise Misconfigured(f"limit {limit}: wanted 0 or more")
    sequence = iter(records())
    first = next(sequence, None)
    if first is None:
        progress(Progress(0, 0, 1.0))
        return PublishResult(0, 0, origin=origin)
    beginning = first.digest[:16]
    places = [place for topic in (*topics, PUBLISHED) for place in log.partitions(topic)]
    published = already_published = 0
    first_time_ms = last_time_ms = None

    def report(note: str = "") -> None:
        reached = (published + already_published) / limit if limit else share()
        progress(Progress(published, already_published, reached, note))

    try:
        writer = log.writer(PUBLISHER_PREFIX + beginning, places, timeout_s=transaction_timeout_s)
        try:
            sequence = chain([first], sequence)
            done = find_published(log, sequence, origin, beginning, topics)
            if done.numbers:
                sequence = iter(records())
            commits = Commits(writer, origin, beginning, clock)
            commits.held = bool(done.until)  # until all that release 0.3.0 published is noted
            for record in sequence:
                earlier = commits.held
                commits.held = earlier and record.digest != done.until
                counts = record.topic == topics[0]
                outgoing = Outgoing(record.topic, record.key, record.value)
                known = done.has(record)
                if earlier and done.had(record, outgoing):
                    commits.note(record.digest)
                    known = True
                if (time_from_ms is not None and record.time_ms < time_from_ms) or (
                    time_to_ms is not None and record.time_ms >= time_to_ms
                ):
                    continue
                if limit is not None and counts and published + already_published >= limit:
                    if earlier:
                        continue
                    break
                if known:
                    already_published += counts
                    if counts and already_published % progress_every == 0:
                        report()
                    continue
                while gate is not None and counts and (note := gate(published + already_published)) is not None:
                    commits.settle()
                    report(note)
                    sleep(gate_poll_s)
                    if pace is not None:
                        pace.restart()
                if pace is not None and (wait_s := pace.wait_s(record.time_ms)) > pace_slack_s:
                    commits.settle(wait_s)
                    report()
                    sleep(min(wait_s, wait_s_max))
                commits.add(outgoing, record.digest)
                if counts:
                    published += 1
                    last_time_ms = record.time_ms
                    first_time_ms = record.time_ms if first_time_ms is None else first_time_ms
                    if published % progress_every == 0:
                        report()
            commits.finish()
        finally:
            writer.close()
    except Fenced as error:
        raise Fenced(
            f"{origin}: another run publishes this input and goes on where this one stopped; nothing is lost ({error})"
        ) from error
    progress(Progress(published, already_published, 1.0))
    return PublishResult(
        published, already_published, last_time_ms, first_time_ms=first_time_ms, origin=origin, topic=topics[0]
    )
