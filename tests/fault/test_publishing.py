"""A file is published once, whatever happens to the processes that publish it."""

import os
import signal
from pathlib import Path

import pytest

from headrace.events import Data, Event, Item, at, encode
from headrace.log.protocol import Log
from headrace.shard.checks import committed_records
from headrace.topics import EVENTS, partitions_of
from operators.child import Child, Children

COUNT = 3_000
SLOW = "6000x"
"""At one event a minute, 100 events a second."""


def write(path: Path, count: int) -> Path:
    events = (
        Event(f"e{n}", "shop", "view_item", at(1_750_000_000_000 + 60_000 * n), Data([Item("i")]), "1.0", f"s{n % 40}")
        for n in range(count)
    )
    path.write_bytes(b"".join(encode(event) + b"\n" for event in events))
    return path


def published(log: Log) -> list[bytes | None]:
    return [record.value for place in partitions_of(EVENTS) for record in committed_records(log, place)]


@pytest.mark.parametrize("how", ["suspended", "killed", "at once"])
def test_runs_of_one_input_publish_each_event_once(
    shared_log: Log, log_url: str, tmp_path: Path, children: Children, how: str
) -> None:
    def load(path: Path, *options: str) -> Child:
        common = ["--log", log_url, "--metrics-port", "0"]
        return children.start("producer", "load", str(path), *common, *options, up=False)

    first = load(write(tmp_path / "events.jsonl", COUNT), "--speed", SLOW)
    children.wait_until("some events are published", lambda: len(published(shared_log)) > 50)
    if how == "suspended":
        os.kill(first.pid, signal.SIGSTOP)
    elif how == "killed":
        first.kill()
    again = load(write(tmp_path / "renamed.jsonl", COUNT + 10))
    assert again.wait(120) == 0, again.tail
    if how == "suspended":
        os.kill(first.pid, signal.SIGCONT)
    if how != "killed":
        assert first.wait(120) == 1, first.tail
        assert "another run publishes this input and goes on where this one stopped" in first.text
    found = published(shared_log)
    assert len(found) == len(set(found)) == COUNT + 10
