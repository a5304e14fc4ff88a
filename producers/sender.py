"""The sender: sends a numbered sequence of records to a gateway instead of the log, with the same pacing.

A gateway takes events and items. Records of other topics are left out. An event keeps the id that it has in the
sequence, so a second run of the same input repeats what the gateway and the consumers know and drop.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from headrace.client import Client, RefusedEntry, SpoolFull
from headrace.client.entries import EVENTS as TO_EVENTS
from headrace.topics import EVENTS, ITEMS
from producers.publisher import (
    Pace,
    Progress,
    ProgressCallback,
    PublishResult,
    ignore_progress,
    pace_slack_s,
    progress_every,
    retry_s_default,
    wait_s_max,
)
from producers.sequence import NumberedRecord

batch_events: Final = 500
"""Most events of one request."""
examples_max: Final = 5
"""Refusals that the result has in words."""


def send(
    url: str,
    key: str,
    records: Iterable[NumberedRecord],
    *,
    origin: str,
    speed: float | None = None,
    retry_s: float = retry_s_default,
    share: Callable[[], float | None] = lambda: None,
    progress: ProgressCallback = ignore_progress,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> PublishResult:
    """Send the events and items of a sequence, and return once the gateway has answered for all.

    Events that the gateway knew count as already published; refused entries are counted by reason.

    Args:
        url, key: those of the gateway.
        speed: event time per clock time; None for as fast as the gateway answers.
        retry_s: how long, in seconds, a gateway that does not answer is waited for.
        share: returns the share of the sequence that has been read, or None if it is unknown.

    Raises:
        Misconfigured: the speed, the URL or the key is invalid.
        Undelivered: the gateway does not answer, or does not know the key.
    """
    pace = None if speed is None else Pace(speed, clock)
    rejected: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    examples: list[str] = []
    refused_events = events = 0
    first_time_ms: int | None = None
    last_time_ms: int | None = None

    def refuse(refused: Sequence[RefusedEntry]) -> None:
        nonlocal refused_events
        rejected.update(entry.reason for entry in refused)
        examples.extend(f"{entry.target}: {entry.detail}" for entry in refused[: examples_max - len(examples)])
        refused_events += sum(entry.target == TO_EVENTS for entry in refused)

    with Client(url, key, batch_events=batch_events, on_refused=refuse) as client:
        for record in records:
            if record.topic not in (EVENTS, ITEMS):
                left_out[record.topic] += 1
                continue
            if pace is not None and (wait_s := pace.wait_s(record.time_ms)) > pace_slack_s:
                sleep(min(wait_s, wait_s_max))
            while not _added(client, record):
                client.flush(retry_s)
            if record.topic == EVENTS:
                events += 1
                last_time_ms = record.time_ms
                first_time_ms = record.time_ms if first_time_ms is None else first_time_ms
                if events % progress_every == 0:
                    progress(Progress(events, 0, share()))
        counts = client.flush(retry_s)
    published = events - refused_events - counts.repeated
    progress(Progress(events, 0, 1.0))
    return PublishResult(published, counts.repeated, last_time_ms, rejected, examples, left_out, first_time_ms, origin)


def _added(client: Client, record: NumberedRecord) -> bool:
    """Give a record to the client; False if too much waits."""
    assert record.value is not None
    document = msgspec.json.decode(record.value)
    try:
        if record.topic == EVENTS:
            client.send_event(document)
        else:
            client.put_item(**document)
    except SpoolFull:
        return False
    return True
