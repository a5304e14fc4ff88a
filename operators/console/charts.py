"""The data of charts, which the browser draws, and of the small pictures that are drawn here."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from headrace.experiment_reports import Point, Report
from headrace.pages import Calibration, Course
from headrace.surface import Bets, FamilyScores, Table
from operators.catalogue import Catalogue
from operators.status import AlarmStatus
from operators.tables import colour_names, shown_name

points_max: Final = 600
"""Most points of a line."""
marks_max: Final = 400
"""Most marks of a chart; of alarms that are closer together, one is marked."""


class Line(Struct):
    """A line of a chart: a value for each place, None where there is none."""

    name: str
    values: list[float | None]
    colour: str
    bold: bool = False
    dash: bool = False


class Mark(Struct):
    """A place that is marked in a chart; `short` ones are ticks at the bottom."""

    x: float
    colour: str
    short: bool = False


class Chart(Struct, kw_only=True):
    """A chart. `along` says what the places count, `unit` is that of the values ("%" for shares), `told` its words.

    With `time`, places are times in seconds since the epoch.
    """

    x: list[float]
    along: str
    unit: str
    series: list[Line]
    told: str
    marks: list[Mark] = []
    log: bool = False
    floor: float = 0.0
    time: bool = False


def of_table(
    declared: Table, column: int, scores: Sequence[FamilyScores], alarms: Sequence[AlarmStatus], says: Catalogue
) -> Chart | None:  # fmt: skip
    """Return how a column of a family's table went over the stream, a line for each row; None without two points."""
    thin = scores[:: 1 + len(scores) // points_max]
    named: dict[str, list[float | None]] = {}
    for place, one in enumerate(thin):
        for row in declared.rows(one.scores):
            values = named.setdefault(str(row[0]), [None] * len(thin))
            value = row[column]
            values[place] = float(value) if isinstance(value, int | float) and math.isfinite(value) else None
    named = {name: values for name, values in named.items() if sum(one is not None for one in values) > 1}
    if len(thin) < 2 or not named:
        return None
    percent = declared.percent and any(isinstance(row[column], float) for row in declared.rows(thin[-1].scores))
    last = max(1, thin[-1].events)
    seen = {one.events * marks_max // last: one.events for one in alarms if one.events is not None and not one.silenced}
    marks = [Mark(events, "bad", short=True) for events in seen.values() if events <= last]
    return Chart(
        x=[float(one.events) for one in thin], along=says("chart.events"), unit="%" if percent else "",
        series=_lines(named, declared.bold), marks=marks,
        told=_told(declared.columns[column], named, says, share=percent),
    )  # fmt: skip


def of_lines(
    title: str, lines: Iterable[tuple[float, Mapping[str, float]]], says: Catalogue, *, percent: bool, floor: float
) -> Chart | None:  # fmt: skip
    """Return a chart of lines that a family declares, from a value by name at each event number."""
    found = list(lines)
    found = found[:: 1 + len(found) // points_max]
    names = dict.fromkeys(name for _, values in found for name in values)
    if len(found) < 2 or not names:
        return None
    named: dict[str, list[float | None]] = {name: [values.get(name) for _, values in found] for name in names}
    return Chart(
        x=[at for at, _ in found], along=says("chart.events"), unit="%" if percent else "",
        series=_lines(named, ""), floor=floor, told=_told(title, named, says, share=percent),
    )  # fmt: skip


def of_course(drawn: Course, says: Catalogue) -> Chart | None:
    """Return how numbers went over the shop's time, a line for each name; None without two times."""
    places = {time_ms: place for place, time_ms in enumerate(drawn.times)}  # a rollback may repeat some
    ordered = [places[time_ms] for time_ms in sorted(places)]
    named: dict[str, Sequence[float | None]] = {
        says.declared(name): [values[place] for place in ordered] for name, values in drawn.lines.items()
    }
    named = {name: values for name, values in named.items() if sum(one is not None for one in values) > 1}
    if len(ordered) < 2 or not named:
        return None
    colours = colour_names(list(named))
    return Chart(
        x=[drawn.times[place] / 1_000 for place in ordered], along=says("chart.time"), unit="%" if drawn.share else "",
        series=[Line(name, list(values), colours[name], dash=n > 4) for n, (name, values) in enumerate(named.items())],
        told=_told(drawn.title, named, says, share=drawn.share), time=True,
    )  # fmt: skip


class Dot(Struct, kw_only=True):
    """Predictions of about the same probability in a picture: its place, its size, and the ends of an interval.

    The interval (Wilson's, 95 %) is that of the share which would be seen by chance.
    """

    x: float
    y: float
    radius: float
    low: float
    high: float
    count: int
    predicted: float
    seen: float


def of_calibration(drawn: Calibration, width: float = 100.0) -> list[Dot]:
    """Return the dots of a square picture, from the lower left; on its diagonal, predictions are right.

    >>> from headrace.pages import Predicted
    >>> [dot] = of_calibration(Calibration((Predicted(100, 0.5, 0.4),)))
    >>> dot.x, dot.y, dot.radius, round(dot.low), round(dot.high)
    (50.0, 60.0, 3.5, 69, 50)
    """
    most = max((math.sqrt(one.predictions) for one in drawn.points), default=1.0)
    found = []
    for one in drawn.points:
        low, high = _wilson(one.seen, one.predictions)
        found.append(
            Dot(
                x=width * one.predicted, y=width * (1 - one.seen), radius=1.0 + 2.5 * math.sqrt(one.predictions) / most,
                low=width * (1 - low), high=width * (1 - high), count=one.predictions, predicted=one.predicted,
                seen=one.seen,
            )
        )  # fmt: skip
    return found


def _wilson(share: float, count: int) -> tuple[float, float]:
    """Return the interval of a share of so many.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.
    """
    z = 1.96
    middle = share + z * z / (2 * count)
    off = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (middle - off) / (1 + z * z / count), (middle + off) / (1 + z * z / count)


def of_wealth(points: Sequence[Bets], says: Catalogue) -> Chart | None:
    """Return the wealth of a candidate's bets, with what a promotion and a refusal need; None without two points."""
    if len(points) < 2:
        return None
    named: dict[str, list[float | None]] = {
        says("chart.better"): [max(1e-3, one.better) for one in points],
        says("chart.own"): [max(1e-3, one.own) for one in points],
        says("chart.worse"): [max(1e-3, one.worse) for one in points],
        says("chart.needed"): [one.needed for one in points],
        says("chart.worse_needed"): [one.worse_needed for one in points],
    }
    colours = ("bold", "line-3", "line-2", "bold", "line-2")
    series = [
        Line(name, values, colour, bold=place == 0, dash=place > 2)
        for place, ((name, values), colour) in enumerate(zip(named.items(), colours, strict=True))
    ]
    newest = points[-1]
    told = says(
        "rounds.told", better=newest.better, needed=newest.needed, worse=newest.worse, worse_needed=newest.worse_needed
    )
    return Chart(
        x=[float(one.predictions) for one in points], along=says("chart.predictions"), unit="", series=series,
        log=True, told=told,
    )  # fmt: skip


def of_sequence(report: Report, points: Sequence[Point], says: Catalogue, *, share: bool) -> Chart | None:
    """Return how a difference and its bounds went over time; None without two points."""
    if len(points) < 2:
        return None
    named: dict[str, list[float | None]] = {
        says("experiment.difference"): [one.difference for one in points],
        says("experiment.low"): [one.low for one in points],
        says("experiment.high"): [one.high for one in points],
    }
    series = [
        Line(name, values, "bold", bold=place == 0, dash=place > 0)
        for place, (name, values) in enumerate(named.items())
    ]
    newest = says(
        "experiment.interval", value=f"{points[-1].difference:+.4g}", low=f"{points[-1].low:+.4g}",
        high=f"{points[-1].high:+.4g}", sure=f"{100 * (1 - report.alpha):g} %",
    )  # fmt: skip
    return Chart(
        x=[(one.time_ms - report.started_ms) / 3_600_000 for one in points], along=says("experiment.hours"),
        unit="%" if share else "", series=series, told=newest,
    )  # fmt: skip


def of_days(report: Report, says: Catalogue) -> Chart | None:
    """Return the primary metric of each day, per shopper in each arm; None without two days."""
    days = [one for one in report.days if min(one.shoppers, default=0) > 0]
    if len(days) < 2 or report.preferred is not None:
        return None
    named: dict[str, list[float | None]] = {
        arm.name: [one.outcomes[report.primary][place] / one.shoppers[place] for one in days]
        for place, arm in enumerate(report.arms)
    }
    title = says("experiment.days", metric=report.primary)
    first = report.started_ms // 86_400_000
    return Chart(
        x=[float(one.day - first) for one in days], along=says("experiment.day"), unit="",
        series=_lines(named, report.arms[0].name), told=_told(title, named, says, share=False),
    )  # fmt: skip


class Watching(Struct, kw_only=True):
    """A detector's score over the stream, as points of a small picture: its line, its threshold, its alarms."""

    name: str
    score: str
    limit: str
    alarms: list[str]
    newest: float
    threshold: float | None


def watching(scores: Sequence[FamilyScores], alarms: Sequence[AlarmStatus]) -> list[Watching]:
    """Return a picture of each detector that has had a score, 100 wide and 40 high."""
    names = dict.fromkeys(name for one in scores for name in one.drift)
    thin = scores[:: 1 + len(scores) // 200]
    by_detector: dict[str, list[int]] = {}
    for one in alarms:
        if one.events is not None:
            by_detector.setdefault(one.detector, []).append(one.events)
    found = []
    for name in names:
        seen = [(one.events, one.drift[name]) for one in thin if name in one.drift]
        values = [one.score for _, one in seen]
        if len(seen) < 2 or not any(values):
            continue
        limits = [one.threshold for _, one in seen]
        known = [one for one in limits if one is not None and 0 < one < math.inf]
        high = 1.15 * max([*values, *known, 1e-9])
        first, last = seen[0][0], seen[-1][0]
        wide = (last - first) or 1

        def at(events: float, value: float, first: float = first, wide: float = wide, high: float = high) -> str:
            return f"{100 * (events - first) / wide:.1f},{39 - 38 * value / high:.1f}"

        drawn = [
            at(events, one.threshold)
            for events, one in seen
            if one.threshold is not None and 0 < one.threshold < math.inf
        ]
        own = [
            events
            for detector, places in by_detector.items()
            if detector == name or (detector.startswith(f"{name}_") and detector not in names)
            for events in places
        ]
        found.append(
            Watching(
                name=name, score=" ".join(at(events, one.score) for events, one in seen), limit=" ".join(drawn),
                alarms=sorted(
                    {
                        f"{100 * (events - first) / wide:.0f}" for events in own if first <= events <= last
                    },
                    key=float,
                ),
                newest=values[-1], threshold=limits[-1] if limits[-1] and limits[-1] < math.inf else None,
            )
        )  # fmt: skip
    return found


def _lines(named: Mapping[str, list[float | None]], bold: str) -> list[Line]:
    colours = colour_names(list(named), bold)
    return [Line(shown_name(name), values, colours[name], bold=name == bold) for name, values in named.items()]


def _told(title: str, named: Mapping[str, Sequence[float | None]], says: Catalogue, *, share: bool) -> str:
    newest: dict[str, Any] = {name: next((one for one in reversed(values) if one is not None), 0.0)
                              for name, values in named.items()}  # fmt: skip
    shown = ", ".join(f"{shown_name(name)} {says.short(value, share)}" for name, value in newest.items())
    return says("chart.told", title=says.declared(title), newest=shown)
