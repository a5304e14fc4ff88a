"""Charts of a run: drawn by matplotlib as SVG whose colours are CSS variables, so that a page can be light or dark.

Colour-blind people can distinguish the colours; lines have their names at their ends instead of in a legend.

Source: Okabe and Ito, "Color Universal Design", 2008 (the palette; ours is darker on light background,
lighter on dark).
"""

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

from headrace.errors import Misconfigured
from headrace.surface import Chart
from headrace.text import visible
from learners.family import Family
from operators.facts import Facts, Sample
from operators.tables import colour_names
from operators.trading import Front

try:  # at import, so that a demo without it fails at its start, not when it writes its report
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.text import Text
    from matplotlib.ticker import FuncFormatter, MaxNLocator
except ModuleNotFoundError as error:
    raise Misconfigured("pictures need matplotlib: pip install 'headrace[demo]'") from error

THEME: Final = {
    "ink": ("#1d2733", "#e4e9ef"),
    "soft": ("#66717e", "#98a4b1"),
    "grid": ("#e3e7eb", "#2b333d"),
    "drift": ("#f3e3c6", "#3a3222"),
    "paper": ("#fdfdfc", "#14181d"),
    "line-1": ("#8a8f98", "#8d96a1"),
    "line-2": ("#b97a00", "#e6a32e"),
    "line-3": ("#00805f", "#2fb58f"),
    "line-4": ("#44607c", "#9db8d2"),
    "line-5": ("#8c4f9f", "#cf8fdf"),
    "bold": ("#0064a8", "#56b4e9"),
    "alarm": ("#c24a00", "#f0824a"),
}
"""Name: colour on light background, on dark background."""
_INK, _SOFT, _GRID, _DRIFT, _ALARM = (THEME[name][0] for name in ("ink", "soft", "grid", "drift", "alarm"))
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none", "font.size": 9.5, "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"],
    "text.color": _INK, "axes.edgecolor": _SOFT, "axes.labelcolor": _SOFT, "xtick.color": _SOFT, "ytick.color": _SOFT,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.grid": True,
    "axes.grid.axis": "y", "grid.color": _GRID, "grid.linewidth": 0.8, "axes.axisbelow": True,
    "xtick.major.size": 3, "ytick.major.size": 0, "lines.solid_capstyle": "round", "axes.titlesize": 10,
    "axes.titlelocation": "left", "axes.titlecolor": _INK, "savefig.transparent": True, "text.parse_math": False,
}  # fmt: skip
_WIDTH: Final = 9.6
shown_max: Final = 80
"""Most characters of a text in a picture."""
name_shown_max: Final = 24
"""Most characters of a line's name, which stands beside the chart and leaves less place for it."""


def colour(name: str) -> str:
    """Return a colour of `THEME` on light background."""
    return THEME[name][0]


def _figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.03, hspace=0.02, wspace=0.05)
    figure = Figure(figsize=(_WIDTH, height), layout=layout)
    return figure, figure.subplots(rows, columns, **options)


def _thousands(value: float, _: object = None) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"


def _along(axes: Axes, facts: Facts, label: bool = True) -> None:
    """Set up an x axis of event numbers."""
    last = facts.last.events if facts.last else 1
    axes.set_xlim(0, last)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    if label:
        axes.set_xlabel("events")


def _changes(axes: Axes, facts: Facts, named: bool = False) -> None:
    """Shade gradual changes; draw a line at abrupt ones."""
    last = facts.last.events if facts.last else 1
    right, row = -last, 0
    for change in facts.changes:
        if change.end > change.begin:
            axes.axvspan(change.begin, change.end, color=_DRIFT, lw=0, zorder=0)
        else:
            axes.axvline(change.begin, color=_SOFT, lw=1, ls=(0, (4, 3)), zorder=1)
        if named:
            row = (
                row + 1 if change.begin - right < 0.1 * last else 0
            )  # names of close changes are placed below each other
            right = change.end
            place = (change.begin + change.end) / 2 if change.end > change.begin else change.begin + 0.006 * last
            centre = "center" if change.end > change.begin else "left"
            axes.annotate(
                change.kind, (place, 1), xycoords=("data", "axes fraction"), xytext=(0, -2 - 12 * row),
                textcoords="offset points", ha=centre, va="top", fontsize=8.5, color=_SOFT, linespacing=1.1,
            )  # fmt: skip


def named_ends(axes: Axes, ends: Mapping[str, tuple[float, str]], gap: float, bold: str = "") -> None:
    """Write each line's name beside its end, with a minimum distance between names."""
    order = sorted(ends, key=lambda name: ends[name][0])
    low, high = axes.get_ylim()
    places: list[float] = []
    for name in order:
        least = places[-1] + gap * (high - low) if places else -np.inf
        places.append(max(ends[name][0], least))
    for name, place in zip(order, places, strict=True):
        axes.annotate(
            visible(name.replace("_", "-"), name_shown_max), (1, place), xycoords=("axes fraction", "data"),
            xytext=(6, 0), textcoords="offset points", annotation_clip=False, va="center", fontsize=9,
            color=ends[name][1], weight="bold" if name == bold else "normal",
        )  # fmt: skip


def _lines(axes: Axes, points: Mapping[str, Sequence[tuple[float, float]]], bold: str) -> dict[str, tuple[float, str]]:
    """Draw a line for each name; return the end and the colour of each."""
    ends: dict[str, tuple[float, str]] = {}
    colours = colour_names(list(points), bold)
    for name, found in points.items():
        events, values = np.array(found).T
        thick = name == bold
        shade = colour(colours[name])
        axes.plot(events, values, color=shade, lw=2.2 if thick else 1.4, zorder=4 if thick else 3)
        known = np.isfinite(values)
        lone = known & ~np.append(known[1:], False) & ~np.append(False, known[:-1])  # between two gaps
        axes.plot(events[lone], values[lone], ".", color=shade, ms=4, zorder=3)
        ends[name] = float(values[known][-3:].mean()), shade
    return ends


def _points(facts: Facts, kind: type[Family], chart: Chart) -> dict[str, list[tuple[float, float]]]:
    """Return the points of a chart by line: from records of scores, or means over slices of judgements.

    Lines of fewer than two points, which cannot be drawn, are left out, and charts of zeros, which had no input. A
    slice in which a line has no value, such as one without a model, is a gap (NaN).
    """
    found: dict[str, list[tuple[float, float]]] = {}
    if chart.lines is not None:
        for one in facts.scores.get(kind.name, []):
            for name, value in chart.lines(one.scores).items():
                found.setdefault(name, []).append((one.events, value))
    else:
        slices = facts.slices.get((kind.name, chart.title), [])
        for name in dict.fromkeys(name for slice_ in slices for name in slice_.values):
            found[name] = [
                (slice_.middles.get(name, slice_.events), slice_.values.get(name, math.nan)) for slice_ in slices
            ]
    values = {name: [value for _, value in points if math.isfinite(value)] for name, points in found.items()}
    if not any(map(any, values.values())):
        return {}
    return {name: points for name, points in found.items() if len(values[name]) > 1}


def _best(facts: Facts, name: str, groups: int = 24) -> tuple[list[float], list[float]]:
    """Return event numbers and the best possible score around them."""
    best = [one for one in facts.best if name in one.scores]
    parts = [part for part in np.array_split(np.arange(len(best)), groups) if len(part) >= 10]
    return (
        [float(np.mean([best[i].event_number for i in part])) for part in parts],
        [float(np.mean([best[i].scores[name] for i in part])) for part in parts],
    )


class Drawing(NamedTuple):
    """A chart of a family in a run."""

    facts: Facts
    kind: type[Family]
    chart: Chart

    @property
    def points(self) -> dict[str, list[tuple[float, float]]]:
        """Its points by line; empty if there are none."""
        return _points(*self)


def quality(drawing: Drawing) -> Figure:
    """Draw a chart over the stream, with drift, alarms, and rounds' verdicts."""
    figure, (main, marks) = _figure(4.6, 2, sharex=True, height_ratios=(8, 1.35))
    facts = drawing.facts
    _draw_chart(main, drawing, gap=0.055, named=True)
    for one in facts.rounds:
        if one.verdict and one.verdict.kind == "promoted":
            main.axvline(one.verdict.at_events, color=colour("line-5"), lw=1, alpha=0.55, zorder=2)
    _marks(marks, facts)
    _along(marks, facts)
    return figure


def chart(drawing: Drawing) -> Figure:
    """Draw a chart over the stream."""
    figure, axes = _figure(2.5)
    _draw_chart(axes, drawing, gap=0.1)
    _along(axes, drawing.facts)
    return figure


def _draw_chart(axes: Axes, drawing: Drawing, *, gap: float, named: bool = False) -> None:
    facts, declared = drawing.facts, drawing.chart
    axes.set_title(declared.title)
    ends = _lines(axes, drawing.points, declared.bold)
    events, best = _best(facts, declared.truth)
    if best:  # a short run has the truth of too few steps to average
        axes.plot(events, best, color=_SOFT, lw=1.2, ls=(0, (1, 1.6)))
        ends["best possible"] = (best[-1], _SOFT)
    low, high = axes.get_ylim()
    axes.set_ylim(min(declared.floor, low), high * (1.12 if named else 1.05))
    if declared.percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    named_ends(axes, ends, gap, declared.bold)
    _changes(axes, facts, named=named)


def _marks(axes: Axes, facts: Facts) -> None:
    """Draw two rails: rounds with their verdicts, and alarms."""
    axes.set_ylim(-0.6, 1.6)
    axes.set_yticks([1, 0], ["rounds", "alarms"], color=_INK)
    axes.spines.bottom.set_color(_GRID)
    for change in facts.changes:
        axes.axvspan(change.begin, change.until, ymax=0.5, color=_DRIFT, lw=0, alpha=0.6, zorder=0)
    kinds = {"promoted": ("^", "full"), "refused": ("x", "full"), "failed": ("s", "none")}
    shade = colour("line-5")
    last = facts.last.events if facts.last else 1
    for one in facts.rounds:
        if one.candidate:  # without a verdict, it is in the gate until now
            until = one.verdict.at_events if one.verdict else last
            axes.plot([one.candidate.at_events, until], [1, 1], color=shade, lw=1.2, alpha=0.5)
        if one.verdict:
            marker, fill = kinds[one.verdict.kind]
            axes.plot(one.verdict.at_events, 1, marker, fillstyle=fill, color=shade, ms=7, zorder=5, clip_on=False)
    for back in facts.rollbacks:
        axes.plot(back.at_events, 1, "v", color=_ALARM, ms=7, zorder=5, clip_on=False)
    axes.plot([a.events for a in facts.alarms], [0] * len(facts.alarms), "|", color=_ALARM, ms=11, mew=1.3, zorder=4)


def watched(facts: Facts) -> tuple[list[str], list[str]]:
    """Return the detectors that have had a score, and those that have not: no input yet, or too little."""
    records = [one for found in facts.scores.values() for one in found]
    names = list(dict.fromkeys(name for one in records for name in one.drift))
    seen = [name for name in names if any(name in one.drift and one.drift[name].score for one in records)]
    return seen, [name for name in names if name not in seen]


def drift(facts: Facts) -> Figure:
    """Draw the score, threshold and alarms of each detector that has had a score, and the true changes."""
    names, _ = watched(facts)
    rows = -(-len(names) // 3)
    figure, grid = _figure(1.75 * rows, rows, 3, squeeze=False, sharex=True)
    for axes, name in zip(grid.flat, names, strict=False):
        seen = [(one.events, one.drift[name]) for found in facts.scores.values() for one in found if name in one.drift]
        axes.set_title(name.replace("_", " "), fontsize=9)
        axes.plot([e for e, _ in seen], [w.score for _, w in seen], color=colour("bold"), lw=1.3, zorder=3)
        limits = [(e, w.threshold) for e, w in seen if w.threshold is not None and 0 < w.threshold < math.inf]
        if limits:
            axes.plot(*zip(*limits, strict=True), color=_SOFT, lw=1, ls=(0, (3, 2)), zorder=2, drawstyle="steps-pre")
        axes.set_ylim(0, 1.25 * max([w.score for _, w in seen] + [t for _, t in limits] + [0.01]))
        for alarm in facts.alarms:
            of_loss = alarm.detector.startswith(f"{name}_") and alarm.detector not in names
            if alarm.detector == name or of_loss:
                axes.axvline(alarm.events, ymax=0.14, color=_ALARM, lw=1.8, zorder=4)
        _changes(axes, facts)
        _along(axes, facts, label=False)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.tick_params(labelsize=8)
    for axes in list(grid.flat)[len(names) :]:
        axes.set_visible(False)
    return figure


def flow(samples: Sequence[Sample]) -> Figure:
    """Draw speed, lag and freshness over the seconds of the run, from scrapes of `/metrics`."""
    figure, (speed, lag, fresh) = _figure(2.3, 1, 3)
    seconds = [sample.seconds for sample in samples]
    rates = [(b.learned - a.learned) / max(1e-9, b.seconds - a.seconds) for a, b in pairwise(samples)]
    speed.fill_between(seconds[1:], rates, color=colour("bold"), alpha=0.25, lw=0, step="pre")
    speed.plot(seconds[1:], rates, color=colour("bold"), lw=1.3, drawstyle="steps-pre")
    speed.set_title("events learned per second")
    lag.fill_between(seconds, [sample.lag for sample in samples], color=colour("line-2"), alpha=0.25, lw=0)
    lag.plot(seconds, [sample.lag for sample in samples], color=colour("line-2"), lw=1.3)
    lag.set_title("records that wait")
    _freshness(fresh, samples)
    for axes in (speed, lag, fresh):
        axes.set_xlabel("seconds")
        axes.set_xlim(seconds[0], seconds[-1])
    for axes in (speed, lag):
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(_thousands))
    return figure


def _freshness(axes: Axes, samples: Sequence[Sample]) -> None:
    axes.set_title("seconds from append to use: median, 99 %", fontsize=10)
    for name, which in (("learned", "freshness"), ("answers", "serving_freshness")):
        shade = colour("line-3" if which == "freshness" else "line-5")
        for quantile, width in ((0.5, 1.7), (0.99, 0.9)):
            found = [(b.seconds, within(getattr(a, which), getattr(b, which), quantile)) for a, b in pairwise(samples)]
            shown = [(second, value) for second, value in found if value is not None]
            if shown:
                axes.plot(*zip(*shown, strict=True), color=shade, lw=width, label=name if quantile == 0.5 else None)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    if axes.lines:
        axes.legend(frameon=False, fontsize=8, loc="upper right", labelcolor="linecolor", handlelength=0.8)


_GAINS: Final = {
    "margin": "expected margin of an answer", "new": "share of new items", "brands": "brands of an answer",
    "largest_brand": "share of the largest brand",
}  # fmt: skip
"""What `rules trade` draws over the relevance that is kept."""


def front_of(found: Front) -> Figure:
    """Draw what answers gain over which share of the relevance they keep, a point for each share that was tried."""
    figure, grid = _figure(2.4, 1, len(_GAINS))
    for axes, (name, title) in zip(grid, _GAINS.items(), strict=True):
        points = sorted((100 * one.kept, getattr(one, name)) for one in found.points)
        axes.plot(*zip(*points, strict=True), ".-", color=colour("bold"), lw=1.3)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("relevance kept, %")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(labelsize=8)
    return figure


def within(before: Mapping[float, float], after: Mapping[float, float], quantile: float) -> float | None:
    """Return a quantile of the observations between two scrapes of a histogram; None if there are none.

    As in Prometheus: linear interpolation within the bucket; a quantile beyond the last bound is that bound.

    >>> within({}, {1.0: 50.0, 2.0: 100.0, float("inf"): 100.0}, 0.75)
    1.5
    """
    counts = [(bound, count - before.get(bound, 0.0)) for bound, count in sorted(after.items())]
    total = counts[-1][1] if counts else 0.0
    if total <= 0:
        return None
    low, below = 0.0, 0.0
    for bound, count in counts:
        if count >= quantile * total:
            share = (quantile * total - below) / max(1e-9, count - below)
            return low if bound == np.inf else low + (bound - low) * share
        low, below = bound, count
    return low


Subject = TypeVar("Subject")


def draw(figure: Callable[[Subject], Figure], subject: Subject, path: Path | None = None) -> str:
    """Draw a figure in our style; return it as SVG for a page, or write it to a file of the suffix's kind."""
    own = (subject.kind.name, subject.chart.title) if isinstance(subject, Drawing) else ()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "/".join((figure.__name__, *own))}):
        drawn = figure(subject)
        for text in drawn.findobj(Text):
            text.set_text(visible(text.get_text(), shown_max))
        content = StringIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the page's fonts may have it
            if path is not None:
                drawn.savefig(path, dpi=160, transparent=False, facecolor=THEME["paper"][0])
                return ""
            drawn.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' id="[A-Za-z.]+(\d[A-Za-z]*)?_\d+"', "", svg)  # charts share a page, where ids must be unique
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"^<svg[^>]*viewBox=\"([^\"]*)\"[^>]*>", r'<svg viewBox="\1" role="img">', svg, flags=re.DOTALL)
    for name, (light, _) in THEME.items():
        svg = svg.replace(light, f"var(--{name})")
    return svg
