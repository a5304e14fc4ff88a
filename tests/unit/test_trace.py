"""`headrace trace`: what became of an event of a small shop, as its log tells."""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from headrace.errors import Misconfigured
from headrace.events import Data, Event, Item, at, encode
from headrace.impressions import Impression, record_of
from headrace.letters import LetterDecision
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Outgoing, Partition
from headrace.shard import journal
from headrace.shard.journal import Entry, Run
from headrace.topics import ALARMS, EVENTS, JOURNAL
from learners.families import default_placements
from operators import trace as module
from operators.cli import app
from operators.trace import trace
from operators.traced import Applied, Trace, lines_of
from tests.filed_shop import FiledShop, publish, step

PLACEMENTS = default_placements()
ONLINE = {"online": PLACEMENTS["online"]}
MAIL = "ann@shop.example"


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a shop that has learned 100 events."""
    made = FiledShop(tmp_path_factory.mktemp("learned"))
    made.learn(100)
    made.log.close()
    return made.path.parent


@pytest.fixture
def shop(learned: Path, tmp_path: Path) -> Iterator[FiledShop]:
    """Return a copy of this shop."""
    copied = FiledShop(shutil.copytree(learned, tmp_path / "shop"))
    yield copied
    copied.log.close()


def only(found: list[Trace]) -> Trace:
    (one,) = found
    return one


def online(found: Trace) -> Applied:
    return next(one for one in found.shards if one.shard == "online")


def append(shop: FiledShop, *records: Outgoing) -> None:
    with closing(shop.log.appender()) as appender:
        for record in records:
            appender.append(record)


def view(id_: str, shopper: str = "s1", source: str = "shop/web", item: str = "i1") -> Outgoing:
    made = Event(
        id=id_, source=source, type="view_item", specversion="1.0", shopper=shopper, time=at(1_750_000_000_000),
        data=Data(items=[Item(item)]),
    )  # fmt: skip
    return Outgoing(EVENTS, shopper.encode(), encode(made))


def entry_of(shop: FiledShop, found: Trace) -> Entry:
    entries = journal.entries_from(shop.log, PLACEMENTS["online"].shard, 0)
    return next(entry for entry in entries if entry.number == online(found).entry)


def test_a_learned_event_is_followed_to_its_entry_its_judgement_and_the_first_answer(shop: FiledShop) -> None:
    found = only(trace(shop.log, PLACEMENTS, "e70"))
    applied = online(found)
    assert (found.id, found.source, found.type) == ("e70", "shop/web", "view_item")
    assert found.happened_ms == 1_750_000_070_000
    assert (applied.state, applied.repeats) == ("learned", "")
    assert "next_item" in applied.families
    assert applied.after_ms is not None
    assert applied.after_ms >= 0
    _, partition, offset = found.place.split("/")
    place = Partition(EVENTS, int(partition))
    assert any(
        (run.topic, run.partition) == place and run.start <= int(offset) < run.end for run in entry_of(shop, found).runs
    )
    assert found.answer is None
    assert next(one for one in found.shards if one.shard == "finetune").state == "waiting"
    assert any("headrace replay --without" in one for one in found.unknown)

    assert applied.entry is not None
    for name, shopper, entries in (
        ("before", found.shopper, applied.entry),
        ("other", "s99", applied.entry + 1),
        ("first", found.shopper, applied.entry + 1),
        ("second", found.shopper, applied.entry + 2),
    ):
        time_ms = (found.appended_ms or 0) + 1_500
        append(shop, record_of(Impression(name, time_ms, "/v1/x", [], name, "r1", shopper, "online", entries)))
    answer = only(trace(shop.log, PLACEMENTS, "e70")).answer
    assert answer is not None
    assert (answer.placement, answer.model, answer.entries, answer.after_ms) == (
        "first",
        "r1",
        applied.entry + 1,
        1_500,
    )


def test_judgements_tell_the_ranks_of_the_true_item(shop: FiledShop) -> None:
    """All events are judged, but the first of a visit."""
    found = [only(trace(shop.log, ONLINE, f"e{number}")) for number in range(40, 100, 3)]
    judged = [one for each in found for one in each.judgements]
    assert {one.family for one in judged} == {"next_item"}
    assert all("blend" in one.ranks for one in judged)
    assert len(judged) > 10
    one = next(each for each in found if each.judgements)
    (line,) = [line for line in lines_of(one) if "judged by" in line]
    assert f"rank of the true item: blend {one.judgements[0].ranks['blend'] or 'none'}" in line


def test_each_record_is_found_in_the_entry_that_a_plain_search_finds(shop: FiledShop) -> None:
    applied = {
        (run.partition, offset): entry.number
        for entry in journal.entries_from(shop.log, PLACEMENTS["online"].shard, 0)
        for run in entry.runs
        for offset in range(run.start, run.end)
        if run.topic == EVENTS
    }
    assert any(entry.snapshot for entry in journal.entries_from(shop.log, PLACEMENTS["online"].shard, 0))
    for partition, offset in list(applied)[::7]:
        found = only(trace(shop.log, ONLINE, f"{partition}/{offset}"))
        assert online(found).entry == applied[partition, offset]
        assert online(found).state == "learned"


def test_an_alarm_names_the_event_that_set_it_off(shop: FiledShop) -> None:
    found = only(trace(shop.log, ONLINE, "e60"))
    place = found.place.removeprefix("events/")
    for id_ in (f"price/{place}", "price/3/999999"):
        alarm = {"id": id_, "detector": "price", "score": 0.5, "threshold": 0.25, "events": 60, "time_ms": 5}
        append(shop, Outgoing(ALARMS, b"price", json.dumps(alarm).encode(), 0))
    found = only(trace(shop.log, ONLINE, "e60"))
    assert [(one.detector, one.score) for one in found.alarms] == [("price", 0.5)]
    assert any("drift alarm: 0.5 over 0.25, by price" in line for line in lines_of(found))


def test_a_rejected_event_tells_its_dead_letter_and_nothing_of_whom_it_is(shop: FiledShop) -> None:
    document = {
        "id": "bad", "source": "shop/web", "type": "view_item", "specversion": "1.0", "subject": MAIL,
        "time": "2026-01-01T00:00:00Z", "data": {"items": [], "email": MAIL},
    }  # fmt: skip
    append(shop, Outgoing(EVENTS, b"s1", json.dumps(document).encode()), view("e100"))
    with closing(shop.loop()) as loop:
        step(loop, 101)
    found = only(trace(shop.log, ONLINE, "bad"))
    assert (online(found).state, found.shopper) == ("rejected", "")
    assert found.letter is not None
    assert (found.letter.reason, found.letter.decision) == ("key_mismatch", "")
    decided = LetterDecision(found.place, "dropped", MAIL, f"{MAIL} asked", 5)
    append(shop, decided.record())
    found = only(trace(shop.log, ONLINE, "bad"))
    assert found.letter is not None
    assert found.letter.decision == "dropped"
    assert any("dead letter: key_mismatch (dropped)" in line for line in lines_of(found))
    assert MAIL not in "".join(lines_of(found)) + msgspec.json.encode(found).decode()


def test_a_repeated_event_names_the_first_one(shop: FiledShop) -> None:
    first = only(trace(shop.log, ONLINE, "e20"))
    append(shop, view("e20", first.shopper, item="i2"), view("e20", first.shopper, source="shop/app"), view("e100"))
    with closing(shop.loop()) as loop:
        step(loop, 102)
    found = trace(shop.log, ONLINE, "e20")
    assert [(one.source, online(one).state) for one in found] == [
        ("shop/web", "learned"), ("shop/web", "repeated"), ("shop/app", "learned"),
    ]  # fmt: skip
    assert f"events/{online(found[1]).repeats}" == first.place
    assert [one.source for one in trace(shop.log, ONLINE, "e20", source="shop/app")] == ["shop/app"]
    again = only(trace(shop.log, ONLINE, found[1].place))
    assert online(again).repeats == online(found[1]).repeats
    assert any(f"it repeats {first.place}" in line for line in lines_of(again))


def test_a_repetition_that_the_shard_may_have_forgotten_is_told(
    shop: FiledShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(shop, view("e20", item="i2"), view("e100"))
    with closing(shop.loop()) as loop:
        step(loop, 101)
    monkeypatch.setattr(module, "event_ids_max", 10)
    again = trace(shop.log, ONLINE, "e20")[1]
    assert (online(again).state, online(again).repeats) == ("learned", "")
    assert any("whether online still knew the id of events/" in one for one in again.unknown)


def test_judgements_that_have_expired_are_told(shop: FiledShop) -> None:
    place = PLACEMENTS["online"].shard.judgements
    shop.log.delete_before(place, shop.log.end(place) - 1)
    found = only(trace(shop.log, ONLINE, "e40"))
    assert not found.judgements
    assert any("the judgements of that time have expired" in one for one in found.unknown)


def test_an_event_that_waits_says_how_many_come_before_it(shop: FiledShop) -> None:
    append(shop, *(view(f"w{number}") for number in range(5)))
    found = [only(trace(shop.log, PLACEMENTS, f"w{number}")) for number in range(5)]
    assert [(online(one).state, online(one).waiting) for one in found] == [("waiting", n) for n in range(5)]
    assert online(found[0]).newest_ms is not None
    other = next(one for one in found[4].shards if one.shard == "finetune")
    assert (other.state, other.newest_ms) == ("waiting", None)
    assert any("not yet read by online (" in line and "4 records" in line for line in lines_of(found[4]))
    assert found[0].answer is None
    assert not found[0].judgements


def test_an_id_with_escapes_is_found(shop: FiledShop) -> None:
    value = view("later").value
    assert value is not None
    append(shop, Outgoing(EVENTS, b"s1", value.replace(b"later", b"l\\u00e4ter \\/")))
    assert only(trace(shop.log, ONLINE, "läter /")).id == "läter /"


@pytest.mark.parametrize("wanted", ["nothing", "9/1", "0/99999", "events/0/99999", "e1\x00", "\udcff"])
def test_what_is_not_in_the_log_is_not_found(shop: FiledShop, wanted: str) -> None:
    assert trace(shop.log, PLACEMENTS, wanted) == []


def test_only_what_was_appended_since_a_time_is_searched(shop: FiledShop) -> None:
    now_ms = shop.now_ms() + 10_000
    assert trace(shop.log, ONLINE, "e5", since_ms=now_ms) == []
    found = only(trace(shop.log, ONLINE, "e5", since_ms=1))
    assert any("whether it repeats an event from before" in one for one in found.unknown)


def test_of_one_id_a_bounded_number_is_followed(shop: FiledShop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "records_max", 3)
    append(shop, *(view("same", f"s{number}") for number in range(9)))
    found = trace(shop.log, ONLINE, "same")
    assert len(found) == 3
    assert any("the first 3 were looked at" in one for one in found[0].unknown)


def test_a_journal_that_has_expired_or_passed_the_record_over_is_told(shop: FiledShop) -> None:
    place = PLACEMENTS["online"].shard.journal
    shop.log.delete_before(place, shop.log.end(place) - 1)
    found = only(trace(shop.log, ONLINE, "e3"))
    assert online(found).state == "expired"
    assert any("has expired" in one for one in found.unknown)
    log = MemoryLog()
    log.create()
    with closing(log.appender()) as appender:
        appender.append(view("passed"))
        appender.append(view("next"))
        at_ = only(trace(log, ONLINE, "passed")).place.split("/")
        entry = Entry("online", 0, [Run(EVENTS, int(at_[1]), 1, 2)], 0, None)
        appender.append(Outgoing(JOURNAL, b"online", journal.encode(entry), 0))
    found = only(trace(log, ONLINE, "passed"))
    assert online(found).state == "passed"
    assert any("passed over by online" in line for line in lines_of(found))
    # This entry does not say what became of its records.
    assert online(only(trace(log, ONLINE, "next"))).state == "applied"


def test_the_command_prints_lines_or_json_and_ends_with_1_without_such_an_event(
    shop: FiledShop, clean_environment: None
) -> None:
    publish(shop.log, 1, 100)
    url = f"sqlite:{shop.path}"
    result = CliRunner().invoke(app, ["trace", "e70", "--log", url])
    assert result.exit_code == 0, result.output
    head, *lines = result.stdout.splitlines()
    assert head.startswith("view_item e70 of shop/web, shopper s")
    assert "happened, by its sender's clock" in lines[0]
    assert lines[0].startswith("  2025-06-15 15:07:50.000")
    assert "appended, " in lines[1]
    assert "learned by online (" in lines[2]
    result = CliRunner().invoke(app, ["trace", "e70", "--log", url, "--json"])
    assert json.loads(result.stdout)["id"] == "e70"
    result = CliRunner().invoke(app, ["trace", "e70", "--log", url, "--otlp", "localhost:4318"])
    assert isinstance(result.exception, Misconfigured), "what is no URL is told before anything is sent"
    result = CliRunner().invoke(app, ["trace", "e7000", "--log", url])
    assert result.exit_code == 1
    assert "no event e7000 is in the log" in result.stderr
