"""Facts, table and report of logs: one that a simulated shop and its readers wrote, and an empty one."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from consumers.judge import ShopJudge
from consumers.online import MakeShop
from headrace.blobs import Blobs
from headrace.checks import records_of
from headrace.config import OnlineSettings
from headrace.log import Log, Outgoing, Partition
from headrace.loop import Loop, LoopSettings
from headrace.testing import MemoryLog
from headrace.topics import EVENTS, MODELS, partitions_of
from learners.announcement import Announcement
from operators.facts import Change, Facts, Raised, Sample, held_against, rounds_of
from operators.picture import within
from operators.report import picture, table, write_report
from operators.status import show
from producers.scenario import ShopSettings
from producers.simulate import simulate


def said(kind: str, number: int, **more: object) -> Announcement:
    head = {"id": f"finetune/{kind}{number}", "kind": kind, "round": number, "time_ms": 0, "due_events": 0}
    return msgspec.convert(
        {**head, "version": f"r000{number}", "blob": "model-ab", "at_events": 900, **more}, Announcement
    )


ROUNDS = [
    said("schedule", 0),
    said("candidate", 1, trigger="start", lineage={"tokens": 5_000, "seconds": 1.5, "loss": 4.25}),
    said("promoted", 1, at_events=1_500, reason="better", evidence={"wealth": 21.5, "predictions": 300}),
    said("candidate", 2, trigger="drift", at_events=2_000),
    said("refused", 2, at_events=2_400, reason="worse <b>&"),
    said("failed", 3, blob="", reason="no sequence"),
    said("candidate", 4, at_events=2_900),
]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """Return a log with a small shop's events, learned, and rounds as they could have been."""
    log = MemoryLog()
    log.create()
    simulate(log, ShopSettings(events=4_000, items=150, shoppers=80, days=10, sampled=0.2))
    blobs = Blobs(tmp_path_factory.mktemp("blobs"))
    loop = Loop(
        log, blobs, "online", make=MakeShop(OnlineSettings(items_max=512, shoppers_max=500)),
        sources=partitions_of(EVENTS), sides=partitions_of(MODELS), judge=ShopJudge(blobs, fixed=1.0),
        settings=LoopSettings(commit_interval_s=0.05, idle_wait_s=0.0),
    )  # fmt: skip
    loop.run(lambda: loop.fold.events >= 4_000)
    loop.close()
    appender = log.appender()
    for one in ROUNDS:
        appender.append(one.record())
    alarm = {"detector": "price", "events": 3_800, "time_ms": 5, "score": 0.3, "threshold": 0.2}
    appender.append(Outgoing("alarms", b"price", msgspec.json.encode(alarm), 0))
    appender.append(Outgoing("alarms", b"flood", b'{"detector": "flood", "id": "flood/1", "detail": "bad"}', 0))
    for _ in range(3):
        appender.append(Outgoing("dead-letters", b"events/0/1", b'{"reason": "not_json"}', 0))
    appender.close()
    return log


@pytest.fixture(scope="module")
def facts(log: Log) -> Facts:
    return Facts.read(log)


@pytest.fixture
def empty() -> Log:
    log = MemoryLog()
    log.create()
    return log


def shown(what: object) -> str:
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(what)
    console.file.close()
    return console.export_text()


def test_facts_are_what_the_topics_hold(facts: Facts) -> None:
    assert facts.published == 4_000
    assert [one.events for one in facts.scores] == [1_000, 2_000, 3_000, 4_000]
    assert facts.last is not None
    judged = sum(one.judged for one in facts.slices)  # those of the last commit come after the last scores
    assert 2_000 < facts.last.ranking["blend"].judged <= judged <= 3_500
    assert [change.kind for change in facts.changes][:2] == ["abrupt", "gradual"]
    assert all(0 < change.begin <= change.end <= change.until for change in facts.changes)
    assert facts.dead_letters == {"not_json": 3}
    assert facts.outcomes() == {"promoted": 1, "refused": 1, "failed": 1, "undecided": 1, "rolled_back": 0}
    assert facts.scenario is not None
    assert facts.scenario["events"] == 4_000
    assert facts.lacks == []
    assert facts.types["view_item"] > facts.types["purchase"] > 0
    assert "flood" not in {alarm.detector for alarm in facts.raised}


def test_slices_are_the_whole_in_parts(facts: Facts) -> None:
    assert facts.last is not None
    total = sum(one.judged for one in facts.slices)
    mean = sum(one.judged * one.recall["blend"] for one in facts.slices) / total
    assert mean == pytest.approx(facts.last.ranking["blend"].whole["recall@20"], abs=0.02)
    assert len(facts.slices) > 5


def raised(*events: int) -> list[Raised]:
    return [Raised("x", number, number, 0.0, 0.0) for number in events]


def test_alarms_are_held_against_the_truth(facts: Facts) -> None:
    changes = [("abrupt", 10_000, 10_000), ("gradual", 20_000, 23_000), ("price", 24_000, 24_000)]
    scores = [msgspec.structs.replace(facts.scores[0], events=n, time_ms=n * 86_400) for n in (0, 40_000)]
    alarms = raised(9_999, 10_400, 14_999, 15_000, 23_500, 24_100, 30_000)
    found, false, days = held_against(changes, alarms, scores)
    assert [(one.kind, one.delay_events) for one in found] == [("abrupt", 400), ("gradual", 3_500), ("price", 100)]
    assert [alarm.events for alarm in false] == [9_999, 15_000, 30_000]
    assert [one.until for one in found] == [15_000, 24_000, 29_000]  # a change's time ends where the next begins
    assert days == pytest.approx((40_000 - 14_000) / 1_000)


def test_a_change_without_an_alarm_was_missed() -> None:
    assert Change("price", 5, 5, 10, []).delay_events is None


def test_rounds_are_candidates_with_their_verdicts() -> None:
    found = [(one.newest.kind, one.candidate is not None, one.verdict is not None) for one in rounds_of(ROUNDS)]
    assert found == [
        ("promoted", True, True), ("refused", True, True), ("failed", False, True), ("candidate", True, False),
    ]  # fmt: skip


def test_the_table(facts: Facts) -> None:
    text = shown(table(facts, events_per_s=5_000))
    assert "4,000 of 4,000 events scored, 5,000 a second" in text
    for name in ("popularity", "transitions", "session-knn", "deep", "blend"):
        assert re.search(rf"^{name} +[\d,]+ ", text, re.MULTILINE), name
    assert "rounds: 1 promoted, 1 refused, 1 failed, 1 undecided, 0 rolled back" in text
    assert "dead letters: 3 not_json" in text
    assert re.search(r"abrupt +[\d,]+ +(missed|[\d,]+ events)", text)
    back = [said("rolled_back", 1, version="", at_events=3_000, reason="worse than none")]
    text = shown(table(msgspec.structs.replace(facts, rollbacks=back)))
    assert "1 rolled back" in text
    assert "rolled back to no model at event 3,000: worse than none" in text


SAMPLES = [Sample(float(t), 500.0 * t, 100.0 - t, {1.0: 5.0 * t, float("inf"): 5.0 * t}, {}) for t in range(1, 20)]


def test_the_report_is_one_page_that_needs_nothing_else(facts: Facts, tmp_path: Path) -> None:
    write_report(facts, tmp_path / "report.html", samples=SAMPLES)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|<img|src=|@import|url\(http", page)
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 5
    for svg in pictures:
        ET.fromstring(svg.replace("xlink:href", "href"))
        assert "var(--ink)" in svg  # dark and light
        names = set(re.findall(r'\bid="([^"]+)"', svg))
        assert set(re.findall(r'href="#([^"]+)"', svg)) | set(re.findall(r"url\(#([^)]+)\)", svg)) <= names
    for title in ("Quality over time", "Learners", "Rounds", "Drift", "Purchase propensity", "Speed, lag", "Input"):
        assert title in page
    assert "worse &lt;b&gt;&amp;" in page
    assert "not_json" in page


def test_the_report_is_the_same_each_time(facts: Facts, tmp_path: Path) -> None:
    for name in "ab":
        write_report(facts, tmp_path / name, samples=SAMPLES)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_picture(facts: Facts, tmp_path: Path, kind: str) -> None:
    picture(facts, tmp_path / f"quality.{kind}")
    assert (tmp_path / f"quality.{kind}").stat().st_size > 5_000


def test_an_empty_log_has_a_report_too(empty: Log, tmp_path: Path) -> None:
    facts = Facts.read(empty)
    assert (facts.published, facts.last, facts.false_per_day()) == (0, None, None)
    write_report(facts, tmp_path / "report.html")
    assert "There was none." in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "no scores yet" in shown(table(facts))


def test_what_a_source_lacks(empty: Log) -> None:
    appender = empty.appender()
    data = b'{"source":"shop","type":"login","data":{"made_up":["time"]}}'
    appender.append(Outgoing("events", b"ann", data))
    appender.append(Outgoing("events", b"ann", b"junk"))
    appender.close()
    lacks = " ".join(Facts.read(empty).lacks)
    for word in ("views", "purchases", "prices", "categories", "time: made up"):
        assert word in lacks


def test_a_source_where_nobody_buys_has_a_report_and_a_status(log: Log, empty: Log, tmp_path: Path) -> None:
    """Views alone: the labels are all of one kind, and AUC is not defined."""
    scores = msgspec.json.decode(records_of(log, Partition("scores", 0))[-1].value or b"")
    for view in ("window", "whole"):
        del scores["propensity"][view]["auc"]
    appender = empty.appender()
    appender.append(Outgoing("scores", b"shop", msgspec.json.encode(scores), 0))
    appender.close()
    write_report(Facts.read(empty), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Drift" in text
    assert "Purchase propensity" not in text
    assert "AUC none until both labels were seen" in status(empty)


@pytest.mark.parametrize(("quantile", "seconds"), [(0.5, 1.0), (0.99, 1.98), (1.0, 2.0)])
def test_quantiles_between_two_scrapes(quantile: float, seconds: float) -> None:
    before = {1.0: 10.0, 2.0: 10.0, float("inf"): 10.0}
    after = {1.0: 60.0, 2.0: 110.0, float("inf"): 110.0}
    assert within(before, after, quantile) == pytest.approx(seconds)


def test_nothing_between_two_scrapes_has_no_quantile() -> None:
    assert within({1.0: 5.0}, {1.0: 5.0}, 0.5) is None
    assert within({}, {}, 0.5) is None
    assert within({}, {1.0: 0.0, float("inf"): 5.0}, 0.5) == 1.0


def status(log: Log) -> str:
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show(log, console, "memory:")
    console.file.close()
    return console.export_text()


def test_status_of_a_log(log: Log) -> None:
    text = status(log)
    assert re.search(r"^events +4 +4,000 ", text, re.MULTILINE)
    assert re.search(r"online: [\d,]+ journal entries", text)
    assert re.search(r"^events/3 +[\d,]+ +0$", text, re.MULTILINE)
    assert "finetune: has never run on this log" in text
    assert "champion: r0001, promoted at event 1,500" in text
    assert re.search(r"^blend +[\d,]+ +0\.\d{4}", text, re.MULTILINE)
    assert "flood (" in text
    assert "3 not_json" in text


@pytest.mark.parametrize("noise", [None, b"", b"{}", b"[1]", b"\xff", b'{"x":' * 100_000])
def test_what_others_wrote_hides_nothing(log: Log, facts: Facts, noise: bytes | None) -> None:
    noisy = MemoryLog()
    noisy.create()
    appender = noisy.appender()
    for topic in ("scores", "alarms", "dead-letters", "models"):
        for record in records_of(log, Partition(topic, 0)):
            appender.append(Outgoing(topic, record.key, record.value, 0))
        appender.append(Outgoing(topic, b"who?", noise, 0))
    appender.close()
    found = Facts.read(noisy)
    assert (found.scores, found.raised, found.dead_letters) == (facts.scores, facts.raised, facts.dead_letters)
    assert found.outcomes() == facts.outcomes()
    text = status(noisy)
    for words in (
        "champion: r0001",
        "scores: somebody else wrote",
        "flood (",
        "price after 3,800 events",
        "3 not_json",
    ):
        assert words in text


def test_status_of_an_empty_log(empty: Log) -> None:
    text = status(empty)
    for words in ("has never run", "champion: none yet", "scores: none yet", "alarms: 0", "dead letters: 0"):
        assert words in text


def test_a_run_too_short_to_average_the_truth_has_a_report_too(facts: Facts, tmp_path: Path) -> None:
    short = msgspec.structs.replace(facts, best=facts.best[:5])
    write_report(short, tmp_path / "report.html")
    assert "best possible</text>" not in (tmp_path / "report.html").read_text()
