"""Facts, table and report of logs: one that a simulated shop and its readers wrote, and an empty one."""

import json
import math
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from headrace.announcement import Announcement
from headrace.events import Event
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Log, Outgoing, Partition
from headrace.shard.blobs import Blobs
from headrace.shard.checks import committed_records
from headrace.shard.journal import Results
from headrace.state import State
from headrace.surface import Chart, FamilyScores, Surface, Table, Watched
from learners.exposure.family import ExposureScores
from learners.family import AlarmRecord, Family, Moment, NoSettings
from learners.next_item.family import NextItemFamily, NextItemScores
from learners.purchase.family import PurchaseFamily
from operators.deployment import Deployment, read_deployment
from operators.facts import Change, Facts, Sample, match_alarms, rounds_of
from operators.picture import Drawing, chart, draw, within
from operators.report import picture, table, write_report
from operators.status import ScoresStatus, collect
from operators.status_text import show
from operators.tables import NONE
from operators.terminal import Terminal
from operators.timeline import Slice, slice_judged_min, slices_of
from tests.small_shop import ROUNDS, learn_small_shop, said


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """Return a log with a small shop's events, learned, and rounds as they could have been."""
    log = MemoryLog()
    log.create()
    learn_small_shop(log, Blobs(tmp_path_factory.mktemp("blobs")))
    return log


@pytest.fixture(scope="module")
def deployment() -> Deployment:
    return read_deployment(log="memory:")


@pytest.fixture(scope="module")
def facts(log: Log, deployment: Deployment) -> Facts:
    return Facts.read(log, deployment)


@pytest.fixture
def empty() -> Log:
    log = MemoryLog()
    log.create()
    return log


RECALL, MRR = (one.title for one in NextItemFamily.surface.charts)
"""The charts of the fast learners, drawn from judgements."""


def next_item(facts: Facts) -> NextItemScores:
    """Return the newest scores of next-item recommendation."""
    scores = facts.newest(NextItemFamily)
    assert isinstance(scores, NextItemScores)
    return scores


def shown(what: object) -> str:
    terminal = Terminal(width=140, record=True, file=StringIO())
    terminal.print(what)
    terminal.file.close()
    return terminal.export_text()


def test_facts_are_what_the_topics_hold(facts: Facts) -> None:
    assert facts.published == 4_000
    for family in ("next_item", "purchase"):
        assert [one.events for one in facts.scores[family]] == [1_000, 2_000, 3_000, 4_000]
    assert facts.last is not None
    for title in (RECALL, MRR):
        # Those of the last commit come after the last scores, and too few for a slice at the end are left out.
        judged = sum(one.judged for one in facts.slices["next_item", title])
        assert 2_000 < next_item(facts).ranking["blend"].judged < judged + slice_judged_min <= 3_500
    assert [change.kind for change in facts.changes][:2] == ["abrupt", "gradual"]
    assert all(0 < change.begin <= change.end <= change.until for change in facts.changes)
    assert facts.dead_letters == {"not_json": 3}
    assert facts.outcomes() == {"promoted": 1, "refused": 1, "failed": 1, "undecided": 1, "rolled_back": 0}
    assert facts.scenario is not None
    assert facts.scenario["events"] == 4_000
    assert facts.lacks == []
    assert facts.types["view_item"] > facts.types["purchase"] > 0
    assert "flood" not in {alarm.detector for alarm in facts.alarms}


def test_slices_are_the_whole_in_parts(facts: Facts) -> None:
    for title, metric in ((RECALL, "recall@20"), (MRR, "mrr@20")):
        slices = facts.slices["next_item", title]
        total = sum(one.judged for one in slices)
        mean = sum(one.judged * one.values["blend"] for one in slices) / total
        assert mean == pytest.approx(next_item(facts).ranking["blend"].whole[metric], abs=0.02)
        assert len(slices) > 5


def test_a_line_of_a_slice_stands_where_its_predictions_were(facts: Facts) -> None:
    """A model that is rolled back within a slice has no point after that."""
    timeline = [FamilyScores(events, 1_000 * events, None, {}) for events in (1_000, 2_000)]
    judged = [(1_000 * n, 1.0, {"blend": 1.0} | ({"deep": 0.5} if n < 100 else {})) for n in range(0, 2_000, 2)]
    first = slices_of(judged, timeline)[0]
    assert first.values == {"blend": 1.0, "deep": 0.5}
    assert (first.events, first.middles) == (160, {"blend": 79.0, "deep": 49.0})


def test_a_line_has_a_gap_where_it_has_no_value(facts: Facts) -> None:
    """Between a rollback and the next promotion there is no deep model."""
    slices = [Slice(1_000 * n, 100, {"blend": 0.4}, {"blend": 1_000.0 * n - 500}) for n in range(1, 6)]
    for n, middle in ((1, 1_500.0), (2, 2_500.0), (4, 4_700.0)):
        slices[n].values["deep"], slices[n].middles["deep"] = 0.3, middle
    drawing = Drawing(
        replace(facts, slices={("next_item", RECALL): slices}), NextItemFamily, NextItemFamily.surface.charts[0]
    )
    deep = [(events, None if math.isnan(value) else value) for events, value in drawing.points["deep"]]
    assert deep == [(1_000, None), (1_500, 0.3), (2_500, 0.3), (4_000, None), (4_700, 0.3)]
    svg = draw(chart, drawing)
    assert "deep</text>" in svg
    assert "nan" not in svg.lower()


def test_the_fine_tuners_marks_stand_where_the_scored_shard_was(log: Log, deployment: Deployment) -> None:
    """The fine-tuner counts records at its own pace: what it calls 900 may be the online shard's 2,500."""
    scores = [record for record in committed_records(log, Partition("scores", 0)) if record.key == b"purchase"]
    now_ms = [0]
    later = MemoryLog(clock=lambda: now_ms[0])
    later.create()
    appender = later.appender()
    appended = {1_000 * (n + 1): Outgoing("scores", one.key, one.value, 0) for n, one in enumerate(scores)}
    appended |= {2_500: said("candidate", 1).record(), 4_600: said("rolled_back", 1).record()}
    for now_ms[0], outgoing in sorted(appended.items()):
        appender.append(outgoing)
    appender.close()
    found = Facts.read(later, deployment)
    assert [one.newest.at_events for one in found.rounds] == [2_500]
    assert [one.at_events for one in found.rollbacks] == [4_000]


def test_where_append_times_are_unknown_the_marks_stand_by_event_time(log: Log, deployment: Deployment) -> None:
    scores = [record for record in committed_records(log, Partition("scores", 0)) if record.key == b"purchase"]
    middle_ms = sum(msgspec.json.decode(one.value or b"")["time_ms"] for one in scores[:2]) // 2
    untimed = MemoryLog(clock=lambda: 0)
    untimed.create()
    appender = untimed.appender()
    for one in scores:
        appender.append(Outgoing("scores", one.key, one.value, 0))
    appender.append(said("candidate", 1, time_ms=middle_ms).record())
    appender.close()
    assert Facts.read(untimed, deployment).rounds[0].newest.at_events == pytest.approx(1_500, abs=1)


def test_repeats_are_told(facts: Facts, tmp_path: Path) -> None:
    entry = replace(facts.entries["online"], results=Results(learned=2, duplicates=11_998))
    repeated = replace(facts, published=12_000, entries={"online": entry})
    assert "online: of 12,000 records of events: 2 learned, 11,998 dropped as repeats" in shown(table(repeated))
    write_report(repeated, tmp_path / "report.html")
    assert "<b>11,998</b><span>of them repeats, dropped</span>" in (tmp_path / "report.html").read_text()


def test_a_detector_without_input_is_named_and_not_drawn(facts: Facts, tmp_path: Path) -> None:
    """A source without prices: the detector's score stays 0."""
    scores = {
        name: [replace(one, drift={**one.drift, "price": Watched(0.0, 0.0)} if one.drift else {}) for one in found]
        for name, found in facts.scores.items()
    }
    write_report(replace(facts, scores=scores), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert re.search("Without input, or too few events: [a-z, ]*price[,.]", page)
    assert "price</text>" not in page.split("<h2>Drift</h2>")[1]
    assert "blend miss</text>" in page.split("<h2>Drift</h2>")[1]


def test_a_chart_without_values_is_not_drawn(facts: Facts, tmp_path: Path) -> None:
    zeros = [Slice(n, 100, {"blend": 0.0}, {"blend": n - 50.0}) for n in (1_000, 2_000)]
    one = [Slice(1_000, 100, {"blend": 0.3}, {"blend": 500.0})]
    slices = {("next_item", RECALL): zeros, ("next_item", MRR): one}
    write_report(replace(facts, slices=slices), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert f"{RECALL}</text>" not in page
    assert f"{MRR}</text>" not in page


def test_a_loaders_digest_is_no_title(facts: Facts, tmp_path: Path) -> None:
    sources = ["load:jsonl:0123456789abcdef", "load:jsonl:fedcba9876543210", "shop"]
    write_report(replace(facts, sources=sources, scenario=None), tmp_path / "report.html")
    assert "<p class='soft'>load:jsonl, shop</p>" in (tmp_path / "report.html").read_text()


def raised(*events: int) -> list[AlarmRecord]:
    return [AlarmRecord(f"x/0/{number}", "x", 0.0, 0.0, number, number) for number in events]


def test_alarms_are_held_against_the_truth(facts: Facts) -> None:
    changes = [("abrupt", 10_000, 10_000), ("gradual", 20_000, 23_000), ("price", 24_000, 24_000)]
    scores = [msgspec.structs.replace(facts.timeline[0], events=n, time_ms=n * 86_400) for n in (0, 40_000)]
    alarms = raised(9_999, 10_400, 14_999, 15_000, 23_500, 24_100, 30_000)
    found, false, days = match_alarms(changes, alarms, scores)
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
    text = shown(table(facts))
    assert "scores after 4,000 events learned" in text
    assert "online: of 4,000 records of events: 4,000 learned, 0 dropped as repeats, 0 unused, 0 rejected" in text
    for name in ("popularity", "transitions", "session-knn", "deep", "blend"):
        assert re.search(rf"^{name} +[\d,]+ ", text, re.MULTILINE), name
    assert "rounds: 1 promoted, 1 refused, 1 failed, 1 undecided, 0 rolled back" in text
    entries = {**facts.entries, "finetune": facts.entries["online"]}
    lines = shown(table(msgspec.structs.replace(facts, entries=entries))).splitlines()
    assert any(line.startswith("finetune: of 4,000 records of events") for line in lines)
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
    defined = Counter(re.findall(r'\bid="([^"]+)"', page))
    assert {name for name, count in defined.items() if count > 1} == set()
    # Quality, MRR, AUC of views and of visits, calibration error, drift, and speed.
    assert len(pictures) == 7
    for svg in pictures:
        ET.fromstring(svg.replace("xlink:href", "href"))
        assert "var(--ink)" in svg  # dark and light
        names = set(re.findall(r'\bid="([^"]+)"', svg))
        assert set(re.findall(r'href="#([^"]+)"', svg)) | set(re.findall(r"url\(#([^)]+)\)", svg)) <= names
    for title in ("Quality over time", "Learners", "Rounds", "Drift", "Purchase propensity", "Speed, lag", "Input"):
        assert title in page
    for kind in facts.kinds:
        for declared in kind.surface.charts if kind.name in ("next_item", "purchase") else ():
            assert declared.title in page
    assert (
        "AUC of the probability of a purchase" not in page
    )  # it takes 30 days, and a chart without points is left out
    assert "worse &lt;b&gt;&amp;" in page
    assert "not_json" in page
    assert "+0.0100 NDCG (+0.0010 to +0.0242), 90 sessions" in page
    assert "<b>1 / 1 / 1</b><span>rounds promoted / refused / failed</span>" in page
    assert "▲ promoted, ✕ refused, □ failed; ▼ rolled back" in page
    assert "repeats" not in page


def test_the_report_is_the_same_each_time(facts: Facts, tmp_path: Path) -> None:
    for name in "ab":
        write_report(facts, tmp_path / name, samples=SAMPLES)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_picture(facts: Facts, tmp_path: Path, kind: str) -> None:
    picture(facts, tmp_path / f"quality.{kind}")
    assert (tmp_path / f"quality.{kind}").stat().st_size > 5_000


def test_an_empty_log_has_a_report_too(empty: Log, deployment: Deployment, tmp_path: Path) -> None:
    facts = Facts.read(empty, deployment)
    assert (facts.published, facts.last, facts.false_per_day()) == (0, None, None)
    write_report(facts, tmp_path / "report.html")
    assert "There were none." in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "no scores yet" in shown(table(facts))
    picture(facts, tmp_path / "quality.svg")
    assert not (tmp_path / "quality.svg").exists()


def test_what_a_source_lacks(empty: Log, deployment: Deployment) -> None:
    appender = empty.appender()
    data = b'{"source":"shop","type":"login","data":{"made_up":["time"]}}'
    appender.append(Outgoing("events", b"ann", data))
    appender.append(Outgoing("events", b"ann", b"junk"))
    appender.close()
    lacks = Facts.read(empty, deployment).lacks
    for kind in deployment.kinds:
        for name, without in kind.surface.inputs.items():
            assert any(lack.startswith(f"{name}: ") and without in lack for lack in lacks), name
    for word in ("prices", "categories", "time: made up"):
        assert any(lack.startswith(word) for lack in lacks), word


def test_a_source_without_purchases_has_a_report_and_a_status(
    log: Log, empty: Log, deployment: Deployment, tmp_path: Path
) -> None:
    """Views alone: the labels are all of one kind, and AUC is not defined."""
    records = [record for record in committed_records(log, Partition("scores", 0)) if record.key == b"purchase"]
    scores = msgspec.json.decode(records[-1].value or b"")
    for view in ("window", "whole"):
        for found in (scores["scores"][view], *scores["scores"]["intent"][view].values()):
            found.pop("auc", None)
            found["base_rate"] = 0.0
    appender = empty.appender()
    for events in (1_000, 2_000):
        appender.append(Outgoing("scores", b"purchase", msgspec.json.encode({**scores, "events": events}), 0))
    appender.close()
    write_report(Facts.read(empty, deployment), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Drift" in text
    for declared in PurchaseFamily.surface.charts:
        assert f"{declared.title}</text>" not in text
    shown_status = status(empty, deployment)
    for name in ("auc", "calibration error", "log loss"):
        assert re.search(rf"^{name} +{NONE} +{NONE}$", shown_status, re.MULTILINE), name
    assert re.search(r"^base rate( +0\.0000){2}$", shown_status, re.MULTILINE)


class OwnScores(msgspec.Struct):
    """Scores of a family of one's own."""

    views: int
    rate: float | None


class OwnFamily(Family):
    """A family of one's own, for what it declares alone."""

    name = "own"
    surface = Surface(
        doc="Counts views.",
        settings=NoSettings,
        scores=OwnScores,
        tables=(
            Table(
                title="Views <own>", columns=("what", "count", "rate"), note="Counted <by> us.", bold="all",
                rows=lambda scores: [("some_views", scores.views, scores.rate), ("all", scores.views, 0.25)],
            ),
        ),
        charts=(
            Chart(title="views & rates", lines=lambda scores: {"views": scores.views, "rate": scores.rate or 0.0}),
        ),
        tiles=lambda scores: [(f"{scores.views:,}", "views of our own")],
    )  # fmt: skip

    def __init__(self, settings: NoSettings, reads: Mapping[str, Family]) -> None:
        self.views = 0

    def learn(self, event: Event, now: Moment) -> None:
        self.views += 1

    def state(self) -> State:
        return {"views": self.views}

    def restore(self, state: State) -> None:
        self.views = state["views"]


def test_a_family_of_one_s_own_is_in_the_report_and_the_table(facts: Facts, tmp_path: Path) -> None:
    scores = [FamilyScores(events, 0, OwnScores(events, None), {}) for events in (1_000, 2_000, 3_000)]
    more = msgspec.structs.replace(facts, kinds=(*facts.kinds, OwnFamily), scores={**facts.scores, "own": scores})
    write_report(more, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<b>3,000</b><span>views of our own</span>" in page
    assert "Views &lt;own&gt;" in page
    assert "Counted &lt;by&gt; us." in page
    text = shown(table(more))
    assert re.search(rf"^some-views +3,000 +{NONE} *$", text, re.MULTILINE)
    assert re.search(r"^all +3,000 +25\.0 % *$", text, re.MULTILINE)
    svg = draw(chart, Drawing(more, OwnFamily, OwnFamily.surface.charts[0]))
    assert svg in page
    assert "views &amp; rates" in svg


@pytest.mark.parametrize(("quantile", "seconds"), [(0.5, 1.0), (0.99, 1.98), (1.0, 2.0)])
def test_quantiles_between_two_scrapes(quantile: float, seconds: float) -> None:
    before = {1.0: 10.0, 2.0: 10.0, float("inf"): 10.0}
    after = {1.0: 60.0, 2.0: 110.0, float("inf"): 110.0}
    assert within(before, after, quantile) == pytest.approx(seconds)


def test_nothing_between_two_scrapes_has_no_quantile() -> None:
    assert within({1.0: 5.0}, {1.0: 5.0}, 0.5) is None
    assert within({}, {}, 0.5) is None
    assert within({}, {1.0: 0.0, float("inf"): 5.0}, 0.5) == 1.0


def status(log: Log, deployment: Deployment) -> str:
    terminal = Terminal(width=140, record=True, file=StringIO())
    show(collect(log, deployment), terminal, deployment.kinds)
    terminal.file.close()
    return terminal.export_text()


def test_status_of_a_log(log: Log, deployment: Deployment) -> None:
    text = status(log, deployment)
    assert "log memory:" in text
    assert re.search(r"^events +4 +4,0\d\d ", text, re.MULTILINE)
    assert re.search(
        r"online \(stock, next_item, purchase, profiles, segments, shopper_value, demand\): [\d,]+ journal entries",
        text,
    )
    assert re.search(r"^events/3 +[\d,]+ +0$", text, re.MULTILINE)
    assert "finetune (placements, experiments, exploration, exposure, rounds): has never run on this log" in text
    assert "champion: r0001, promoted after 1,500 records" in text
    assert "next_item: scores after 4,000 events learned" in text
    assert re.search(r"^blend +[\d,]+( +\d+\.\d %){6}$", text, re.MULTILINE)
    assert "purchase: scores after 4,000 events learned" in text
    assert re.search(r"^log loss( +0\.\d{4}){2}$", text, re.MULTILINE)
    assert "flood (" in text
    assert "3 not_json" in text


def test_a_status_as_json_has_the_numbers_of_its_text(log: Log, deployment: Deployment) -> None:
    found = json.loads(json.dumps(msgspec.to_builtins(collect(log, deployment))))
    text = status(log, deployment)
    (events,) = [one for one in found["topics"] if one["name"] == "events"]
    assert re.search(
        rf"^events +4 +{events['held']:,} +{' '.join(f'{end:,}' for end in events['ends'])} *$", text, re.M
    )
    online, finetune = found["shards"]
    families = "stock, next_item, purchase, profiles, segments, shopper_value, demand"
    assert f"online ({families}): {online['entries']:,} journal entries" in text
    assert (online["snapshot"] is None) == ("no snapshot yet" in " ".join(text.split()))
    for one in online["positions"]:
        assert re.search(rf"^{one['partition']} +{one['position']:,} +{one['lag']:,}$", text, re.MULTILINE)
    assert (finetune["journal"], finetune["entries"], finetune["positions"]) == ("never_run", 0, [])
    assert found["models"]["champion"]["version"] == "r0001"
    for one in found["scores"]:
        assert f"{one['family']}: scores after {one['events']:,} events learned" in text
    assert [one["family"] for one in found["scores"]] == [
        "next_item",
        "stock",
        "purchase",
        "profiles",
        "segments",
        "shopper_value",
        "demand",
    ]
    assert found["scores"][0]["scores"]["ranking"]["blend"]["judged"] > 2_000
    assert (found["alarms_total"], found["alarms"][-1]["detail"]) == (len(found["alarms"]), "bad")
    assert found["dead_letters"] == {"not_json": 3}


@pytest.mark.parametrize(("all_models", "versions"), [(False, ROUNDS[2:]), (True, ROUNDS[1:])])
def test_a_status_has_the_newest_announcements_or_all(
    log: Log, deployment: Deployment, all_models: bool, versions: list[Announcement]
) -> None:
    found = collect(log, deployment, all_models=all_models).models.announced
    assert [(one.version, one.kind) for one in found] == [(one.version, one.kind) for one in versions]


@pytest.mark.parametrize("noise", [None, b"", b"{}", b"[1]", b"\xff", b'{"x":' * 100_000])
def test_what_others_wrote_hides_nothing(log: Log, facts: Facts, deployment: Deployment, noise: bytes | None) -> None:
    noisy = MemoryLog()
    noisy.create()
    appender = noisy.appender()
    for topic in ("scores", "alarms", "dead-letters", "models"):
        for record in committed_records(log, Partition(topic, 0)):
            appender.append(Outgoing(topic, record.key, record.value, 0))
        appender.append(Outgoing(topic, b"who?", noise, 0))
    appender.close()
    found = Facts.read(noisy, deployment)
    for one in (found, facts):
        for scores in one.scores.values():
            assert all(score.appended_ms for score in scores)
    copied = {name: [replace(one, appended_ms=0) for one in scores] for name, scores in found.scores.items()}
    assert copied == {name: [replace(one, appended_ms=0) for one in scores] for name, scores in facts.scores.items()}
    assert (found.alarms, found.dead_letters) == (facts.alarms, facts.dead_letters)
    assert found.outcomes() == facts.outcomes()
    text = status(noisy, deployment)
    for words in (
        "champion: r0001",
        "next_item: scores after 4,000 events learned",
        "purchase: scores after 4,000 events learned",
        "flood (",
        "price after 3,800 events",
        "3 not_json",
    ):
        assert words in text


def test_a_table_without_rows_is_told_and_not_drawn(empty: Log, deployment: Deployment) -> None:
    found = collect(empty, deployment)
    found.scores = [ScoresStatus(family="exposure", events=1_000, time_ms=0, scores=ExposureScores([]))]
    terminal = Terminal(width=140, record=True, file=StringIO())
    show(found, terminal, deployment.kinds)
    text = terminal.export_text()
    assert "Exposure: none yet" in text
    assert "Gini" not in text


def test_status_of_an_empty_log(empty: Log, deployment: Deployment) -> None:
    text = status(empty, deployment)
    for words in ("has never run", "champion: none yet", "scores: none yet", "alarms: 0", "dead letters: 0"):
        assert words in text


def test_a_run_too_short_to_average_the_truth_has_a_report_too(facts: Facts, tmp_path: Path) -> None:
    short = msgspec.structs.replace(facts, best=facts.best[:5])
    write_report(short, tmp_path / "report.html")
    assert "best possible</text>" not in (tmp_path / "report.html").read_text()
