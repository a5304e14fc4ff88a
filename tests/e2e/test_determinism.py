"""One journal, one state: the same events give the same digest in ten configurations, with all of them judged."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from headrace.log.memory import MemoryLog
from headrace.log.open import open_log
from headrace.log.protocol import Log, Outgoing
from headrace.log.sqlite import SqliteLog
from headrace.shard import entries, loop, merge
from headrace.shard.blobs import Blobs
from headrace.shard.checks import check_folds, entries_of
from headrace.shard.follower import Follower
from headrace.shard.refold import refold
from tests.determined import (
    MAKE,
    SHARD,
    TURN_RECORDS,
    Digests,
    digests,
    learn,
    publish,
    shopping,
)

APPENDED_MS = 1_790_000_000_000
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def events() -> list[Outgoing]:
    return shopping()


@pytest.fixture(autouse=True)
def commits_at_fixed_records(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_commits(monkeypatch)


def limit_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a commit as soon as there are so many records; a chunk must not exceed it."""
    monkeypatch.setattr(loop, "turn_records_max", TURN_RECORDS)
    monkeypatch.setattr(merge, "chunk_records_max", TURN_RECORDS)


class Case:
    """What a configuration is given: the events, a folder, and how to change a limit."""

    def __init__(self, events: list[Outgoing], folder: Path, monkeypatch: pytest.MonkeyPatch, kafka_url: str) -> None:
        self.events, self.folder, self.monkeypatch, self.kafka_url = events, folder, monkeypatch, kafka_url
        self.blobs = Blobs(folder / "blobs")

    def fill(self, log: Log) -> Log:
        log.create()
        publish(log, self.events)
        return log

    def memory(self) -> Log:
        return self.fill(MemoryLog(clock=lambda: APPENDED_MS))

    def sqlite(self) -> Log:
        return self.fill(SqliteLog(str(self.folder / "log.db"), clock=lambda: APPENDED_MS))

    def kafka(self) -> Log:
        return self.fill(open_log(self.kafka_url))

    def learn_dropped(self, log: Log, snapshot_interval_s: float) -> Digests:
        """Drop the loop after so many chunks of 16 records, within commits, at their ends and right behind them."""
        self.monkeypatch.setattr(merge, "chunk_records_max", 16)
        for steps in (1, 2, 3, 5):
            learn(log, self.blobs, steps=steps, snapshot_interval_s=snapshot_interval_s)
        return learn(log, self.blobs)

    def follow(self, log: Log, pieces: int, from_start: bool) -> Digests:
        """Fold the journal in pieces of so many records."""
        learn(log, self.blobs)
        self.monkeypatch.setattr(entries, "piece_records_max", pieces)
        self.monkeypatch.setattr(entries, "read_ahead_records_max", pieces + 4)
        with closing(Follower(log, self.blobs, SHARD, make=MAKE, from_start=from_start)) as follower:
            while follower.step(0.0, 1):
                pass
            return digests(follower.state())


def with_other_commits(case: Case) -> Digests:
    case.monkeypatch.setattr(merge, "chunk_records_max", TURN_RECORDS // 2)
    case.monkeypatch.setattr(loop, "turn_records_max", TURN_RECORDS // 2)
    return learn(case.memory(), case.blobs)


def in_small_reads(case: Case) -> Digests:
    for limit, value in (("chunk_records_max", 8), ("merge_read_records_max", 24), ("buffer_records_max", 10)):
        case.monkeypatch.setattr(merge, limit, value)
    return learn(case.memory(), case.blobs)


def record_by_record(case: Case) -> Digests:
    case.monkeypatch.setattr(merge, "chunk_records_max", 1)
    return learn(case.memory(), case.blobs)


def processes_in_turn(case: Case) -> Digests:
    """This process, dropped within a commit, and then one whose hashes have another seed."""
    case.monkeypatch.setattr(merge, "chunk_records_max", 16)
    with closing(case.sqlite()) as log:
        learn(log, case.blobs, steps=5)
    command = [sys.executable, "-m", "tests.determined", f"sqlite:{case.folder / 'log.db'}", str(case.blobs.folder)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "4242"}, text=True, capture_output=True, check=True,
        timeout=300,
    )  # fmt: skip
    return Digests(*done.stdout.split()[-2:])  # after what was logged


REFERENCE = "uninterrupted, in memory"
CONFIGURATIONS: dict[str, Callable[[Case], Digests]] = {
    REFERENCE: lambda case: learn(case.memory(), case.blobs, snapshot_interval_s=1e9),
    "record by record": record_by_record,
    "in small reads": in_small_reads,
    "in a file, with a snapshot of each commit": lambda case: learn(case.sqlite(), case.blobs),
    "in a file, dropped and folded again": lambda case: case.learn_dropped(case.sqlite(), 1e9),
    "in a file, dropped and resumed from snapshots": lambda case: case.learn_dropped(case.sqlite(), 0.0),
    "in a file, by a process with other hash seeds at last": processes_in_turn,
    "a follower from the start, in pieces of 3": lambda case: case.follow(case.sqlite(), 3, from_start=True),
    "a follower from a snapshot, in pieces of 7": lambda case: case.follow(case.memory(), 7, from_start=False),
    "on Kafka": lambda case: learn(case.kafka(), case.blobs),
    "on Kafka, dropped and resumed from snapshots": lambda case: case.learn_dropped(case.kafka(), 0.0),
}


@pytest.fixture(scope="module")
def reference(events: list[Outgoing], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Digests]:
    with pytest.MonkeyPatch.context() as patched:
        limit_commits(patched)
        case = Case(events, tmp_path_factory.mktemp("reference"), patched, "")
        yield CONFIGURATIONS[REFERENCE](case)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_state_is_the_same(
    name: str, events: list[Outgoing], reference: Digests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    kafka_url = str(request.getfixturevalue("kafka_url")) if "Kafka" in name else ""
    found = CONFIGURATIONS[name](Case(events, tmp_path, monkeypatch, kafka_url))
    assert found.families == reference.families
    if not kafka_url:  # its brokers set the append times
        assert found.whole == reference.whole


def test_other_commits_are_another_state(
    events: list[Outgoing], reference: Digests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judgements are learned at commits, so the journal is what the state follows from, and the digest notices."""
    assert with_other_commits(Case(events, tmp_path, monkeypatch, "")).families != reference.families


def test_all_folds_of_one_journal_of_four_partitions_are_equal(
    events: list[Outgoing], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs, log = Blobs(tmp_path / "blobs"), MemoryLog()
    log.create()
    publish(log, [one._replace(partition=None) for one in events])
    monkeypatch.setattr(merge, "chunk_records_max", 7)
    for steps in (3, 8, 0):
        live = learn(log, blobs, steps=steps)
    plain = check_folds(log, blobs, SHARD, make=MAKE)
    assert plain.digest() == live.whole
    assert {run.partition for entry in entries_of(log, SHARD) for run in entry.runs} == {0, 1, 2, 3}
    assert refold(log, blobs, SHARD, make=MAKE).blob.endswith(live.whole)
