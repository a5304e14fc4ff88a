"""Whatever text others chose, it is shown as text: on terminals, in pages and pictures, in logs and in metrics."""

import io
import json
import logging
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from rich.cells import cell_len

from headrace.announcement import Announcement, Kind
from headrace.events import Event
from headrace.letters import DeadLetter
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Outgoing
from headrace.metrics import ShardMetrics, label_characters_max
from headrace.process import log_to_stderr
from headrace.state import State
from headrace.surface import Chart, FamilyScores, Metric, Surface, Table, Watched
from headrace.text import visible
from learners.family import AlarmRecord, Family, Moment, NoSettings
from learners.next_item.family import NextItemScores, Ranked
from learners.shop import ScoreRecord
from operators.cli.look import line_characters_max
from operators.deployment import read_deployment
from operators.facts import Change, Facts, RoundOutcome
from operators.picture import Drawing, chart, draw, drift, quality
from operators.report import table, write_report
from operators.status import collect
from operators.status_text import show
from operators.terminal import Terminal, progress_bar, say
from operators.timeline import Slice
from tests.hostile import HOSTILE, json_texts, texts, wire

KINDS: tuple[Kind, ...] = ("candidate", "promoted", "refused", "failed", "rolled_back", "requested", "proposed")


def announcement(kind: Kind, text: str) -> Announcement:
    text = text[:10_000]  # announcements with longer texts are dead letters
    evidence = {"wealth": 2.0, "predictions": 3, "worth": {text: 0.5}}
    blob = "model-ab" if text else ""
    return Announcement(
        id=text, kind=kind, round=KINDS.index(kind), at_events=900, time_ms=0, version=text, blob=blob, parent=text,
        trigger=text, reason=text, evidence=evidence, by=text, action="promote" if kind == "requested" else "",
    )  # fmt: skip


class Scores(Struct):
    """The scores of a family of one's own: by name."""

    by_name: dict[str, float]


def family(text: str) -> type[Family]:
    """Return a family of one's own that declares this text wherever it may declare one."""

    class Odd(Family):
        name = "odd"
        surface = Surface(
            doc=text,
            settings=NoSettings,
            scores=Scores,
            tables=(
                Table(
                    title=text, columns=("what", text), note=text, bold=text,
                    rows=lambda scores: [(text, text), ("all", 0.25)],
                ),
            ),
            charts=(
                Chart(title=text, judged=lambda one: (0, 1.0, {}), caption=text, bold=text),
                Chart(title=text, lines=lambda scores: scores.by_name, caption=text),
            ),
            tiles=lambda scores: [(text, text)],
        )  # fmt: skip

        def __init__(self, settings: NoSettings, reads: Mapping[str, Family]) -> None:
            pass

        def learn(self, event: Event, now: Moment) -> None:
            pass

        def state(self) -> State:
            return {}

        def restore(self, state: State) -> None:
            pass

    return Odd


def facts(text: str, kind: type[Family] | None = None) -> Facts:
    """Return facts in which everything that others wrote is this text."""
    kind = kind or family(text)
    alarm = AlarmRecord(text, text, 0.3, 0.2, 1_500, 0)
    scores = [FamilyScores(n, n, Scores({text: n / 4e3, "other": 0.5}), {text: Watched(0.1, 0.2)}) for n in (1, 2_000)]
    slices = [
        Slice(n, 100, {text: n / 4e3, "other": 0.5}, {text: n - 500.0, "other": n - 400.0}) for n in (1_000, 2_000)
    ]
    candidate, verdict = announcement("candidate", text), announcement("promoted", text)
    return Facts(
        published=2_000, sources=[text], types={text: 3}, lacks=[text], kinds=(kind,), scores={"odd": scores},
        slices={("odd", text): slices}, alarms=[alarm], rounds=[RoundOutcome(candidate, verdict)],
        rollbacks=[announcement("rolled_back", text)], changes=[Change(text, 500, 900, 1_900, [alarm])],
        false_alarms=[alarm], stable_days=1.0, best=[], bots=0, scenario={"seed": text}, planted=[],
        dead_letters={text: 2}, entries={},
    )  # fmt: skip


def on_terminal(print_it: Callable[[Terminal], None]) -> str:
    with io.StringIO() as file:
        print_it(Terminal(width=line_characters_max, file=file))
        return file.getvalue()


def is_shown(text: str, output: str) -> bool:
    """Whether an output has nothing but lines of visible characters, and contains this text, unless it has no width."""
    wanted = visible(text).rstrip()
    return output.replace("\n", "").isprintable() and (wanted in output or not cell_len(wanted))


def status(text: str) -> str:
    log = MemoryLog()
    log.create()
    ranking = {text: Ranked(1, {"recall@20": 0.5}, {})}
    scores = msgspec.Raw(msgspec.json.encode(NextItemScores(text, ranking)))
    alarm = {"detector": text, "events": 5, "detail": text}
    appender = log.appender()
    for record in (
        *(announcement(kind, text).record() for kind in KINDS),
        Outgoing("alarms", b"x", msgspec.json.encode(alarm), 0),
        Outgoing("dead-letters", b"x", msgspec.json.encode(DeadLetter("x", text, text, 0, b"", b"", 0)), 0),
        Outgoing("scores", b"x", msgspec.json.encode(ScoreRecord("x", "next_item", 1, 0, scores, {}))),
    ):
        appender.append(record)
    appender.close()
    deployment = read_deployment(log="memory:")
    deployment = deployment._replace(settings=deployment.settings.model_copy(update={"log": f"sqlite:{text}"}))
    return on_terminal(lambda terminal: show(collect(log, deployment), terminal, deployment.kinds))


@settings(max_examples=30)
@given(json_texts)
def test_status_shows_text_as_text(text: str) -> None:
    found = status(text)
    assert is_shown(text, found)
    harmless = status("harmless" if text else "")  # an empty text is left out
    assert len(found.splitlines()) == len(harmless.splitlines())


@settings(max_examples=40)
@given(json_texts)
def test_the_table_of_a_run_and_its_progress_show_text_as_text(text: str) -> None:
    found = on_terminal(lambda terminal: terminal.print(table(facts(text))))
    assert is_shown(text, found)

    def progress(terminal: Terminal) -> None:
        with progress_bar(terminal) as bar:
            bar.add_task(text, total=1.0, text=text)

    assert is_shown(text, on_terminal(progress))


@settings(max_examples=40)
@given(texts)
def test_what_a_command_says_is_indented_after_its_first_line(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", output := io.StringIO())
        say(f"headrace: {text}")
    found = output.getvalue()
    first, *others = found.removesuffix("\n").split("\n")
    assert first.startswith("headrace: ")
    assert all(line.startswith("  ") for line in others)
    assert found.replace("\n", "").isprintable()


class Structure(HTMLParser):
    """The elements of a page in order, with their attributes; those of pictures left out, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[object] = []
        self.text = ""
        self._in_picture = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not self._in_picture:
            self.elements.append((tag, attrs))
        self._in_picture |= tag == "svg"

    def handle_endtag(self, tag: str) -> None:
        self._in_picture &= tag != "svg"
        if not self._in_picture:
            self.elements.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        if not self._in_picture:
            self.elements.append(("comment", data))


def page(text: str) -> str:
    with TemporaryDirectory() as folder:
        write_report(facts(text), Path(folder) / "report.html")
        return (Path(folder) / "report.html").read_text(encoding="utf-8")


def check_page(text: str) -> None:
    found = page(text)
    parsed = Structure(found)
    assert parsed.elements == Structure(page("harmless")).elements
    assert visible(text) in parsed.text
    assert found.replace("\n", "").isprintable()
    pictures = re.findall(r"<svg.*?</svg>", found, re.DOTALL)
    assert len(pictures) == 3
    for svg in pictures:
        check_picture(svg)


def check_picture(svg: str) -> None:
    """Check that a picture is well-formed XML of the elements that it may have."""
    root = ET.fromstring(re.sub(r"xlink:href", "href", svg))
    assert {one.tag for one in root.iter()} <= {
        "svg",
        "g",
        "path",
        "defs",
        "style",
        "use",
        "text",
        "tspan",
        "clipPath",
        "rect",
    }
    assert svg.replace("\n", "").isprintable()


@pytest.mark.full  # each page has three pictures; the next test takes some of the texts
@pytest.mark.parametrize("text", [wire(text) for text in HOSTILE if text.strip()])
def test_the_report_of_each_hostile_text_has_the_elements_of_a_harmless_one(text: str) -> None:
    check_page(text)


@settings(max_examples=3)
@given(json_texts.filter(str.strip))
def test_the_report_has_the_same_elements_whatever_the_text(text: str) -> None:
    check_page(text)


@pytest.mark.parametrize("first", range(0, len(HOSTILE), 8))
def test_pictures_of_hostile_names_are_well_formed(first: int) -> None:
    """Names of lines, of changes and of detectors, and a title, are texts of others."""
    names = HOSTILE[first : first + 8]
    kind = family(names[0])
    scores = [
        FamilyScores(n, n, Scores(dict.fromkeys(names, n / 4e3)), dict.fromkeys(names, Watched(0.1, 0.2)))
        for n in (1, 2_000)
    ]
    changes = [Change(name, 10 * place, 10 * place, 500, []) for place, name in enumerate(names)]
    many = msgspec.structs.replace(facts("", kind), scores={"odd": scores}, changes=changes)
    drawing = Drawing(many, kind, kind.surface.charts[1])
    for svg in (draw(quality, drawing), draw(chart, drawing), draw(drift, many)):
        check_picture(svg)


class Screen(io.StringIO):
    """A stream that is a terminal, or is not."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@contextmanager
def logging_to(screen: Screen) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", screen)
        root.handlers = []
        try:
            log_to_stderr()
            yield
        finally:
            root.handlers = handlers
            root.setLevel(level)
            structlog.reset_defaults()


def log_everything(text: str) -> None:
    """Log a text as an event, as a field, in a field, as a library does, and as an exception's."""
    logger = structlog.get_logger()
    logger.info(text, shopper=text, items=[text], table={text: text})
    logging.getLogger("a.library").warning("found %s", text)
    try:
        raise ValueError(text)
    except ValueError:
        logger.exception("failed")
        logging.getLogger("a.library").exception("failed")


@settings(max_examples=40)
@given(texts)
def test_each_log_record_is_one_line_of_json(text: str) -> None:
    with logging_to(screen := Screen(terminal=False)):
        log_everything(text)
    lines = screen.getvalue().removesuffix("\n").split("\n")
    ours, theirs, *failed = [json.loads(line) for line in lines]
    assert (ours["event"], ours["shopper"], ours["items"], ours["table"]) == (text, text, [text], {text: text})
    assert (theirs["event"], theirs["level"]) == (f"found {text}", "warning")
    assert [one["event"] for one in failed] == ["failed", "failed"]
    assert all("ValueError" in one["exception"] and text in one["exception"] for one in failed)
    assert all(line.isascii() for line in lines)


COLOURS = re.compile(r"\x1b\[\d+m")


@settings(max_examples=40)
@given(texts)
def test_a_log_on_a_terminal_has_no_control_characters_but_its_own_colours(text: str) -> None:
    outputs = []
    for shown in (text, "harmless"):
        with logging_to(screen := Screen(terminal=True)):
            log_everything(shown)
        outputs.append(screen.getvalue())
    found, harmless = outputs
    assert COLOURS.sub("", found).replace("\n", "").isprintable()
    assert len(COLOURS.findall(found)) == len(COLOURS.findall(harmless))
    allowed = text.count("\n") * 2  # the lines of both exceptions
    assert len(found.split("\n")) <= len(harmless.split("\n")) + allowed


@settings(max_examples=80)
@given(st.lists(texts, min_size=1, max_size=4))
def test_labels_of_metrics_are_bounded_text(labels: list[str]) -> None:
    names = tuple(f"label_{place}" for place in range(len(labels)))
    metric = Metric(name="shop_odd_total", help=wire(labels[0]), labels=names, kind="counter")
    surface = Surface(doc="A test.", settings=NoSettings, metrics=(metric,), labels=dict.fromkeys(names, "a test"))
    metrics = ShardMetrics([surface])
    metrics.family_metrics.report(metric.name, 2.0, *labels)
    (found,) = [
        one
        for one in text_string_to_metric_families(generate_latest(metrics.registry).decode())
        if one.name == "shop_odd"
    ]
    (sample,) = found.samples
    assert sample.labels == {
        name: visible(text, label_characters_max) for name, text in zip(names, labels, strict=True)
    }
    assert all(value.isprintable() for value in sample.labels.values())
    assert sample.value == 2.0
