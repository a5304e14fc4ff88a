"""What an archive holds is published into another log: byte for byte, in order, once; and read where the log ends."""

import json
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

import headrace
from headrace.archive.store import FolderStore
from headrace.errors import Misconfigured
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Log, Outgoing, Record
from headrace.log.scan import topic_records
from headrace.log.sqlite import SqliteLog
from headrace.topics import EVENTS, ITEMS
from operators.cli import app
from producers.archived import load_archive
from producers.scenario import SimulationSettings
from producers.simulate import simulate
from tests.archives import E0, Days, once
from tests.replaced import replace_topic


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "archive")


def by_key(log: Log, topic: str) -> dict[bytes | None, list[bytes | None]]:
    """Return the values of a topic by key, in order."""
    found = defaultdict(list)
    for record in topic_records(log, topic):
        found[record.key].append(record.value)
    return dict(found)


def new_log() -> MemoryLog:
    log = MemoryLog()
    log.create()
    return log


def test_each_record_is_published_once_in_order_also_once_the_archive_has_grown(
    tmp_path: Path, store: FolderStore
) -> None:
    source, target, url = new_log(), new_log(), str(tmp_path / "archive")
    simulate(source, SimulationSettings(seed=1, events=400, items=100, shoppers=20))
    with closing(source.appender()) as appender:
        for value in (b"no event", None):
            appender.append(Outgoing(EVENTS, b"ann", value))
    once(source, store)
    assert load_archive(target, url, limit=150).published == 150
    simulate(source, SimulationSettings(seed=2, events=100, items=100, shoppers=20))
    once(source, store)
    done = load_archive(target, url)
    assert (done.published, done.already_published) == (352, 150)
    assert load_archive(target, url).published == 0
    for topic in (EVENTS, ITEMS):
        assert by_key(target, topic) == by_key(source, topic)
    with pytest.raises(Misconfigured, match="wanted the archive of another log"):
        load_archive(source, url)


def test_records_that_were_set_aside_are_published_before_those_that_followed(
    store: FolderStore, tmp_path: Path
) -> None:
    days, target = Days(), new_log()
    days.append(E0, b"a", b"b")
    once(days.log, store)
    replace_topic(days.log, "", EVENTS)
    days.append(E0, b"c")
    once(days.log, store, accept_gap=("eve", "made again"))
    load_archive(target, str(tmp_path / "archive"))
    assert by_key(target, EVENTS) == {b"ann": [b"a", b"b", b"c"]}


def test_load_and_open_by_their_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path, run = tmp_path / "log.db", CliRunner().invoke
    with closing(SqliteLog(str(path))) as log:
        log.create()
        simulate(log, SimulationSettings(events=200, items=100, shoppers=20))
        done = run(app, ["archive", "--log", f"sqlite:{path}", "--archive", "kept", "--once", "--json"])
        assert json.loads(done.stdout)["waiting"] == 0
        structlog.reset_defaults()
        before = list(topic_records(log, EVENTS))
        for place in log.partitions(EVENTS):
            log.delete_before(place, log.end(place))
    dry = run(app, ["load", "kept", "--log", "sqlite:new.db", "--dry-run"])
    assert "200 events and" in dry.output
    assert not Path("new.db").exists()
    done = run(app, ["load", "kept", "--log", "sqlite:new.db", "--json", "--metrics-port", "0"])
    assert '"published": 200' in done.output
    with headrace.open("sqlite:new.db") as copied:
        assert sum(1 for _ in copied.events()) == 200
    with pytest.raises(Misconfigured, match="wanted none of --kind"):
        run(app, ["load", "kept", "--kind", "jsonl"], catch_exceptions=False)
    with pytest.raises(Misconfigured, match="--pseudonymise with an archive, whose records are published as they are"):
        run(app, ["load", "kept", "--pseudonymise"], catch_exceptions=False)
    with pytest.raises(Misconfigured, match=r"wanted an archive, found no manifest\.json"):
        run(app, ["load", "memory://nothing", "--log", "sqlite:none.db"], catch_exceptions=False)
    Path("headrace.toml").write_text(f'log = "sqlite:{path}"\n[archive]\nurl = "kept"\n')
    with headrace.open(f"sqlite:{path}") as found:
        assert [(one.partition, one.offset) for one in found.events()] == places(before)
    with headrace.open(f"sqlite:{path}", archive="") as found:
        assert list(found.events()) == []


def places(records: list[Record]) -> list[tuple[int, int]]:
    return [
        (one.partition, one.offset) for one in sorted(records, key=lambda one: (one.time_ms, one.partition, one.offset))
    ]
