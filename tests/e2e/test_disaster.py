"""The machine is lost; backup and archive bring the shop back by the commands of docs/disaster.md: nothing twice."""

from collections import Counter
from contextlib import closing
from pathlib import Path
from shutil import rmtree

import pytest

from headrace.events import Event, decode
from headrace.log.open import open_log
from headrace.log.protocol import Log
from headrace.log.scan import topic_records
from headrace.shard import checks
from headrace.shard.blobs import Blobs
from headrace.shard.loop import Loop
from headrace.state import digest
from headrace.topics import EVENTS
from learners.shop import Shop
from operators.manifest import time_text
from tests.filed_shop import MAKE, QUICK, SHARD, FiledShop, publish, step
from tests.pages import DOCS, SETTINGS, commands_of, run

DATA = Path("headrace-data")


@pytest.fixture(autouse=True)
def _shop_folder(clean_environment: None) -> None:
    Path("headrace.toml").write_text(SETTINGS)


def ids(log: Log) -> Counter[str]:
    """Return how often a log has each event."""
    found = [decode(record) for record in topic_records(log, EVENTS)]
    return Counter(event.id for event in found if isinstance(event, Event))


def each_once(count: int) -> Counter[str]:
    return Counter({f"e{number}": 1 for number in range(count)})


def done(command: str) -> str:
    code, output = run(command)
    assert code == 0, output
    return output


def learn(log: Log, blobs: Blobs, events: int) -> None:
    """Learn what waits; the state must be that of the whole journal's fold, in which each record is once."""
    loop: Loop[Shop] = Loop(log, blobs, SHARD, make=MAKE, settings=QUICK)
    with closing(loop):
        step(loop, events)
        loop.run(lambda: True)
        checks.check_covered(log, SHARD)
        folded = checks.check_folds(log, blobs, SHARD, make=MAKE).fold
        assert (folded.events, digest(folded.state())) == (events, digest(loop.fold.state()))


def test_a_log_in_a_file_comes_back_from_backup_and_archive() -> None:
    commands = commands_of(DOCS / "disaster.md")
    shop = FiledShop(DATA)
    shop.learn(50)
    for command in commands[:2]:
        done(command)
    shop.learn(50, 50)
    publish(shop.log, 50, 100)
    done("headrace archive --once")
    archived = list(topic_records(shop.log, EVENTS))
    publish(shop.log, 20, 150)  # after the archiver's last flush
    shop.log.close()
    rmtree(DATA)

    outputs = [done(command) for command in commands[2:6]]
    until = time_text(max(record.time_ms for record in archived))
    assert f"appended after the backup: 100 events and 0 items, until {until}" in " ".join(outputs[1].split())
    assert "whole" in outputs[3]
    with closing(open_log(f"sqlite:{DATA}/log.db")) as back:
        assert list(topic_records(back, EVENTS)) == archived, "with their positions and append times"
        assert ids(back) == each_once(150)
        learn(back, Blobs(DATA / "blobs"), 150)
        publish(back, 20, 150)
        learn(back, Blobs(DATA / "blobs"), 170)
        done("headrace archive --once")
        done("headrace archive --check")
        assert ids(back) == each_once(170)


@pytest.mark.full
def test_a_shop_on_kafka_is_learned_again_from_its_archive(kafka_url: str) -> None:
    lost = open_log(kafka_url)
    lost.create()
    publish(lost, 100)
    learn(lost, Blobs("blobs"), 100)
    done(f"headrace archive --once --log {kafka_url}")
    lost.close()
    (load,) = [one for one in commands_of(DOCS / "disaster.md") if one.startswith("headrace load")]
    found = f"{kafka_url}-found"
    for published in (100, 0):
        output = done(load.replace("kafka:HOST:PORT", found))
        assert f"{published} events published, {100 - published} were in the log already" in output
    with closing(open_log(found)) as log:
        assert ids(log) == each_once(100)
        learn(log, Blobs("new"), 100)
