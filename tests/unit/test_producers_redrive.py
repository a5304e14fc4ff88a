"""Dead letters: published again each once and in order, mapped, dropped, and continued by another operator."""

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headrace.errors import Fenced
from headrace.letters import DeadLetter
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Log, Outgoing, Partition, Record
from headrace.log.scan import topic_records
from headrace.shard.blobs import Blobs
from headrace.shard.loop import Loop, LoopSettings
from headrace.topics import EVENTS, ITEMS, MODELS
from learners.families import default_placements
from learners.shop import MakeShop
from producers import redrive as module
from producers.mapping import read_mapping
from producers.redrive import Wanted, decisions, drop, letters, redrive

ONLINE = default_placements()["online"]
GOOD = {
    "specversion": "1.0", "source": "shop", "type": "view_item", "time": "2026-01-05T10:00:00Z",
    "data": {"items": [{"item_id": "a"}]},
}  # fmt: skip
MAP = """
[event]
shopper = "_key"
type = {column = "kind", values = {seen = "view_item"}}
time = {column = "time"}
[item]
item_id = "product"
"""


def publish(log: Log, key: str, document: Any, *, topic: str = EVENTS, partition: int | None = None) -> None:
    value = document if isinstance(document, bytes) else json.dumps(document).encode()
    with closing(log.appender()) as appender:
        appender.append(Outgoing(topic, key.encode(), value, partition))


def learn(log: Log, folder: Path) -> dict[str, int]:
    """Let the online shard read all there is; return what it learned and rejected in all."""
    found = {"learned": 0, "rejected": 0}
    settings = LoopSettings(commit_interval_s=0.0, idle_wait_s=0.0)
    with closing(Loop(log, Blobs(folder), ONLINE.shard, make=MakeShop(ONLINE.kinds), settings=settings)) as loop:
        steps = iter(range(20))
        loop.run(lambda: next(steps, None) is None)
        results = loop._results
        found["learned"], found["rejected"] = results.learned, results.rejected
    return found


def of(log: Log, topic: str, key: str) -> list[Record]:
    return [record for record in topic_records(log, topic) if record.key == key.encode()]


@pytest.fixture
def log(tmp_path: Path) -> MemoryLog:
    """Return a log whose shard has met six bad events of two shoppers, a bad item and a bad announcement."""
    log = MemoryLog()
    log.create()
    for n in range(3):
        for key in ("ann", "bob"):
            old = {"id": f"{key}{n}", "kind": "seen", "product": f"p{n}", "time": f"2026-01-05T10:0{n}:00Z"}
            publish(log, key, {**old, "source": "old-app"})
    publish(log, "ann", {**GOOD, "id": "fine"})
    publish(log, "item-1", b"[]", topic=ITEMS)
    publish(log, "-", b"noise", topic=MODELS)
    assert learn(log, tmp_path / "blobs") == {"learned": 1, "rejected": 6}
    return log


def test_what_would_be_rejected_again_stays_open(log: MemoryLog) -> None:
    found = redrive(log, Wanted(), by="eve", why="try")
    assert (found.settled, dict(found.rejected), found.foreign) == (0, {"schema": 7}, 1)
    assert found.examples[0].startswith("items/0/0: schema") or "events/" in found.examples[0]
    assert decisions(log) == {}


def test_mapped_letters_are_published_once_in_order_and_learned(log: MemoryLog, tmp_path: Path) -> None:
    (tmp_path / "fix.toml").write_text(MAP)
    mapping = read_mapping(tmp_path / "fix.toml")
    before = {key: len(of(log, EVENTS, key)) for key in ("ann", "bob")}
    dry = redrive(log, Wanted(sources=["old-app"]), by="eve", why="", mapping=mapping, dry_run=True)
    assert dry.settled == 6
    assert before == {key: len(of(log, EVENTS, key)) for key in ("ann", "bob")}, "a dry run publishes nothing"
    for settled in (6, 0):  # a second run has nothing left to do
        found = redrive(log, Wanted(sources=["old-app"]), by="eve", why="the old app", mapping=mapping)
        assert (found.settled, found.open) == (settled, 0)
    for key in ("ann", "bob"):
        documents = [json.loads(record.value or b"") for record in of(log, EVENTS, key)]
        assert [one["id"] for one in documents[before[key] :]] == [f"{key}{n}" for n in range(3)]
    assert set(decisions(log).values()) == {"redriven"}
    assert learn(log, tmp_path / "blobs") == {"learned": 7, "rejected": 6}


def test_a_run_that_was_killed_is_continued(log: MemoryLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fix.toml").write_text(MAP)
    mapping = read_mapping(tmp_path / "fix.toml")
    monkeypatch.setattr(module, "commit_letters_max", 4)  # two letters a commit

    def killed(progress: Any) -> None:
        if progress.published == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        redrive(log, Wanted(topics=[EVENTS]), by="eve", why="", mapping=mapping, progress=killed)
    assert len(decisions(log)) == 4
    assert redrive(log, Wanted(topics=[EVENTS]), by="bob", why="", mapping=mapping).settled == 2
    ids = [json.loads(record.value or b"")["id"] for record in topic_records(log, EVENTS)]
    assert {id_: ids.count(id_) for id_ in ids} == {
        **{f"{key}{n}": 2 for key in ("ann", "bob") for n in range(3)},
        "fine": 1,
    }


def test_the_second_of_two_operators_fences_the_first(log: MemoryLog) -> None:
    def second(_: Any) -> None:
        drop(log, Wanted(), by="bob", why="")

    value = json.dumps({**GOOD, "id": "x"}).encode()
    letter = DeadLetter("events/0/900", "time_ahead", "", 5, b"ann", value, len(value))
    with closing(log.appender()) as appender:  # a letter of a record that is usable by now
        appender.append(Outgoing("dead-letters", b"x", msgspec.json.encode(letter)))
    with pytest.raises(Fenced):
        redrive(log, Wanted(ids=["events/0/900"]), by="eve", why="", progress=second)
    assert decisions(log)["events/0/900"] == "dropped"
    assert of(log, EVENTS, "ann")[-1].value != letter.value


def test_dropped_letters_are_decided_and_still_read(log: MemoryLog) -> None:
    assert drop(log, Wanted(reasons=["schema"], topics=[ITEMS]), by="eve", why="not ours").settled == 1
    assert [one.id for one in letters(log, Wanted(topics=[ITEMS]))] == ["items/0/0"]
    assert decisions(log) == {"items/0/0": "dropped"}


def test_a_letter_of_a_large_record_is_read_at_its_origin(tmp_path: Path) -> None:
    log = MemoryLog()
    log.create()
    large = {"id": "big", "kind": "seen", "product": "p", "time": "2026-01-05T10:00:00Z", "note": "x" * 100_000}
    publish(log, "ann", large)
    learn(log, tmp_path / "blobs")
    (letter,) = letters(log, Wanted())
    assert not letter.whole
    (tmp_path / "fix.toml").write_text(MAP)
    mapping = read_mapping(tmp_path / "fix.toml")
    assert redrive(log, Wanted(), by="eve", why="", mapping=mapping, dry_run=True).settled == 1
    place, offset = letter.origin
    log.delete_before(place, offset + 1)
    found = redrive(log, Wanted(), by="eve", why="", mapping=mapping)
    assert (found.settled, found.lost) == (0, 1)


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (Wanted(), 8), (Wanted(topics=[EVENTS]), 6), (Wanted(reasons=["schema"], topics=[MODELS]), 1),
        (Wanted(sources=["old-app"]), 6), (Wanted(ids=["items/0/0"]), 1), (Wanted(since_ms=2**50), 0),
        (Wanted(until_ms=2**50), 8),
    ],
)  # fmt: skip
def test_letters_are_selected(log: MemoryLog, wanted: Wanted, count: int) -> None:
    assert len(list(letters(log, wanted))) == count


def places(records: Sequence[Record]) -> set[Partition]:
    return {Partition(EVENTS, record.partition) for record in records}


def test_a_letter_goes_to_the_partition_of_its_origin(tmp_path: Path) -> None:
    log = MemoryLog()
    log.create()
    publish(log, "ann", {**GOOD, "id": "a", "time": "2999-01-05T10:00:00Z"}, partition=2)
    learn(log, tmp_path / "blobs")
    found = redrive(log, Wanted(), by="eve", why="", clock=lambda: 40_000_000_000_000)
    assert found.settled == 1
    assert places(of(log, EVENTS, "ann")) == {Partition(EVENTS, 2)}
