"""Pictures of facts: drawn by matplotlib as SVG whose colours are CSS variables, so that a page can be light or dark.

Colours are from a palette that colour-blind people can tell apart, and lines are named where they end, not in a legend.

Source: Okabe and Ito, "Color Universal Design", 2008 (the palette; ours is darker on light ground, lighter on dark).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from operators.facts import Facts, Sample, Slice

THEME: Final = {
    "ink": ("#1d2733", "#e4e9ef"),
    "soft": ("#66717e", "#98a4b1"),
    "grid": ("#e3e7eb", "#2b333d"),
    "drift": ("#f3e3c6", "#3a3222"),
    "paper": ("#fdfdfc", "#14181d"),
    "popularity": ("#8a8f98", "#8d96a1"),
    "transitions": ("#b97a00", "#e6a32e"),
    "session_knn": ("#00805f", "#2fb58f"),
    "deep": ("#8c4f9f", "#cf8fdf"),
    "blend": ("#0064a8", "#56b4e9"),
    "alarm": ("#c24a00", "#f0824a"),
    "other": ("#44607c", "#9db8d2"),
}
"""Name: colour on light ground, on dark ground."""
_INK, _SOFT, _GRID, _DRIFT, _ALARM = (THEME[name][0] for name in ("ink", "soft", "grid", "drift", "alarm"))
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none", "font.size": 9.5, "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"],
    "text.color": _INK, "axes.edgecolor": _SOFT, "axes.labelcolor": _SOFT, "xtick.color": _SOFT, "ytick.color": _SOFT,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.grid": True,
    "axes.grid.axis": "y", "grid.color": _GRID, "grid.linewidth": 0.8, "axes.axisbelow": True,
    "xtick.major.size": 3, "ytick.major.size": 0, "lines.solid_capstyle": "round", "axes.titlesize": 10,
    "axes.titlelocation": "left", "axes.titlecolor": _INK, "savefig.transparent": True,
}  # fmt: skip
_WIDTH: Final = 9.6


def colour_of(learner: str) -> str:
    """Return a learner's colour on light ground."""
    return THEME.get(learner, THEME["other"])[0]


def _figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.03, hspace=0.02, wspace=0.05)
    figure = Figure(figsize=(_WIDTH, height), layout=layout)
    return figure, figure.subplots(rows, columns, **options)


def _thousands(value: float, _: object = None) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"


def _along(axes: Axes, facts: Facts, label: bool = True) -> None:
    """Make event numbers the x axis."""
    last = facts.last.events if facts.last else 1
    axes.set_xlim(0, last)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    if label:
        axes.set_xlabel("events")


def _changes(axes: Axes, facts: Facts, named: bool = False) -> None:
    """Shade what changes gradually, draw a line where something changes at once."""
    last = facts.last.events if facts.last else 1
    right, row = -last, 0
    for change in facts.changes:
        if change.end > change.begin:
            axes.axvspan(change.begin, change.end, color=_DRIFT, lw=0, zorder=0)
        else:
            axes.axvline(change.begin, color=_SOFT, lw=1, ls=(0, (4, 3)), zorder=1)
        if named:
            row = row + 1 if change.begin - right < 0.1 * last else 0  # names of changes close together step down
            right = change.end
            place = (change.begin + change.end) / 2 if change.end > change.begin else change.begin + 0.006 * last
            centre = "center" if change.end > change.begin else "left"
            axes.annotate(
                change.kind, (place, 1), xycoords=("data", "axes fraction"), xytext=(0, -2 - 12 * row),
                textcoords="offset points", ha=centre, va="top", fontsize=8.5, color=_SOFT, linespacing=1.1,
            )  # fmt: skip


def named_ends(axes: Axes, ends: Mapping[str, tuple[float, str]], gap: float) -> None:
    """Write each line's name beside its end, pushed apart so that they can be read."""
    order = sorted(ends, key=lambda name: ends[name][0])
    low, high = axes.get_ylim()
    places: list[float] = []
    for name in order:
        least = places[-1] + gap * (high - low) if places else -np.inf
        places.append(max(ends[name][0], least))
    for name, place in zip(order, places, strict=True):
        axes.annotate(
            name.replace("_", "-"), (1, place), xycoords=("axes fraction", "data"), xytext=(6, 0),
            textcoords="offset points", va="center", color=ends[name][1], fontsize=9, annotation_clip=False,
            weight="bold" if name == "blend" else "normal",
        )  # fmt: skip


def _lines(axes: Axes, slices: Sequence[Slice], scores: Callable[[Slice], Mapping[str, float]]) -> dict[str, float]:
    """Draw a line per learner; return where each one ends."""
    ends = {}
    names = list(dict.fromkeys(name for one in slices for name in scores(one)))
    for name in names:
        found = [(one.events, scores(one).get(name, np.nan)) for one in slices]
        events, values = np.array(found).T
        thick = name == "blend"
        axes.plot(events, values, color=colour_of(name), lw=2.2 if thick else 1.4, zorder=4 if thick else 3)
        ends[name] = float(values[np.isfinite(values)][-3:].mean())
    return ends


def _best(facts: Facts, groups: int = 24) -> tuple[list[float], list[float]]:
    """Return event numbers and the best possible recall@20 around them."""
    parts = [part for part in np.array_split(np.arange(len(facts.best)), groups) if len(part) >= 10]
    best = facts.best
    return (
        [float(np.mean([best[i].event_number for i in part])) for part in parts],
        [float(np.mean([best[i].recall_at_20 for i in part])) for part in parts],
    )


def quality(facts: Facts) -> Figure:
    """Draw recall@20 over the stream, with drift, alarms, and rounds' verdicts."""
    figure, (main, marks) = _figure(4.6, 2, sharex=True, height_ratios=(8, 1.35))
    main.set_title("recall@20 of the next item, predicted before it was learned")
    ends = {name: (value, colour_of(name)) for name, value in _lines(main, facts.slices, lambda s: s.recall).items()}
    events, best = _best(facts)
    if best:  # a short run tells the truth about too few steps to average
        main.plot(events, best, color=_SOFT, lw=1.2, ls=(0, (1, 1.6)))
        ends["best possible"] = (best[-1], _SOFT)
    main.set_ylim(0, main.get_ylim()[1] * 1.12)
    main.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    named_ends(main, ends, 0.055)
    _changes(main, facts, named=True)
    for one in facts.rounds:
        if one.verdict and one.verdict.kind == "promoted":
            main.axvline(one.verdict.at_events, color=colour_of("deep"), lw=1, alpha=0.55, zorder=2)
    _marks(marks, facts)
    _along(marks, facts)
    return figure


def _marks(axes: Axes, facts: Facts) -> None:
    """Draw two rails: rounds with their verdicts, and alarms."""
    axes.set_ylim(-0.6, 1.6)
    axes.set_yticks([1, 0], ["rounds", "alarms"], color=_INK)
    axes.spines.bottom.set_color(_GRID)
    for change in facts.changes:
        axes.axvspan(change.begin, change.until, ymax=0.5, color=_DRIFT, lw=0, alpha=0.6, zorder=0)
    kinds = {"promoted": ("^", "full"), "refused": ("x", "full"), "failed": ("s", "none")}
    colour = colour_of("deep")
    for one in facts.rounds:
        if one.candidate and one.verdict:
            axes.plot([one.candidate.at_events, one.verdict.at_events], [1, 1], color=colour, lw=1.2, alpha=0.5)
        if one.verdict:
            marker, fill = kinds[one.verdict.kind]
            axes.plot(one.verdict.at_events, 1, marker, fillstyle=fill, color=colour, ms=7, zorder=5, clip_on=False)
    for back in facts.rollbacks:
        axes.plot(back.at_events, 1, "v", color=_ALARM, ms=7, zorder=5, clip_on=False)
    axes.plot([a.events for a in facts.raised], [0] * len(facts.raised), "|", color=_ALARM, ms=11, mew=1.3, zorder=4)


def reciprocal(facts: Facts) -> Figure:
    """Draw the mean reciprocal rank over the stream."""
    figure, axes = _figure(2.5)
    axes.set_title("MRR@20")
    ends = {name: (value, colour_of(name)) for name, value in _lines(axes, facts.slices, lambda s: s.mrr).items()}
    axes.set_ylim(bottom=0)
    named_ends(axes, ends, 0.1)
    _changes(axes, facts)
    _along(axes, facts)
    return figure


def drift(facts: Facts) -> Figure:
    """Draw what each detector saw, its threshold, its alarms, and what truly changed."""
    names = list(facts.scores[-1].drift)
    rows = -(-len(names) // 3)
    figure, grid = _figure(1.75 * rows, rows, 3, squeeze=False, sharex=True)
    for axes, name in zip(grid.flat, names, strict=False):
        seen = [(one.events, one.drift[name]) for one in facts.scores if name in one.drift]
        axes.set_title(name.replace("_", " "), fontsize=9)
        axes.plot([e for e, _ in seen], [w.score for _, w in seen], color=colour_of("blend"), lw=1.3, zorder=3)
        limits = [(e, w.threshold) for e, w in seen if w.threshold is not None and 0 < w.threshold < 1]
        if limits:
            axes.plot(*zip(*limits, strict=True), color=_SOFT, lw=1, ls=(0, (3, 2)), zorder=2, drawstyle="steps-pre")
        axes.set_ylim(0, 1.25 * max([w.score for _, w in seen] + [t for _, t in limits] + [0.01]))
        for alarm in facts.raised:
            if alarm.detector.startswith(name):
                axes.axvline(alarm.events, ymax=0.14, color=_ALARM, lw=1.8, zorder=4)
        _changes(axes, facts)
        _along(axes, facts, label=False)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.tick_params(labelsize=8)
    for axes in list(grid.flat)[len(names) :]:
        axes.set_visible(False)
    return figure


def propensity(facts: Facts) -> Figure:
    """Draw how well purchase propensity orders views, and how far its probabilities are from what happened."""
    figure, (left, right) = _figure(2.3, 1, 2)
    panels = (
        (left, "auc", "AUC: does it order views by who buys?", 0.5),
        (right, "calibration_error", "calibration error", 0.0),
    )
    for axes, score, title, floor in panels:
        for view, width, opacity in (("window", 1.7, 1.0), ("whole", 1.1, 0.5)):
            seen = [(one.events, getattr(one.propensity, view).get(score)) for one in facts.scores]
            seen = [(events, value) for events, value in seen if value is not None]
            if seen:
                axes.plot(*zip(*seen, strict=True), color=colour_of("session_knn"), lw=width, alpha=opacity)
        axes.set_title(title)
        low, high = axes.get_ylim()
        axes.set_ylim(min(floor, low), high * 1.05)
        _changes(axes, facts)
        _along(axes, facts)
    return figure


def flow(samples: Sequence[Sample]) -> Figure:
    """Draw speed, lag and freshness over the seconds of the run, from scrapes of `/metrics`."""
    figure, (speed, lag, fresh) = _figure(2.3, 1, 3)
    seconds = [sample.seconds for sample in samples]
    rates = [(b.learned - a.learned) / max(1e-9, b.seconds - a.seconds) for a, b in pairwise(samples)]
    speed.fill_between(seconds[1:], rates, color=colour_of("blend"), alpha=0.25, lw=0, step="pre")
    speed.plot(seconds[1:], rates, color=colour_of("blend"), lw=1.3, drawstyle="steps-pre")
    speed.set_title("events learned per second")
    lag.fill_between(seconds, [sample.lag for sample in samples], color=colour_of("transitions"), alpha=0.25, lw=0)
    lag.plot(seconds, [sample.lag for sample in samples], color=colour_of("transitions"), lw=1.3)
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
    axes.set_title("seconds from append to use: half, 99 %", fontsize=10)
    for name, which in (("learned", "freshness"), ("answers", "serving_freshness")):
        colour = colour_of("session_knn" if which == "freshness" else "deep")
        for quantile, width in ((0.5, 1.7), (0.99, 0.9)):
            found = [(b.seconds, within(getattr(a, which), getattr(b, which), quantile)) for a, b in pairwise(samples)]
            shown = [(second, value) for second, value in found if value is not None]
            if shown:
                axes.plot(*zip(*shown, strict=True), color=colour, lw=width, label=name if quantile == 0.5 else None)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    if axes.lines:
        axes.legend(frameon=False, fontsize=8, loc="upper right", labelcolor="linecolor", handlelength=0.8)


def within(before: Mapping[float, float], after: Mapping[float, float], quantile: float) -> float | None:
    """Return within how many seconds a share of what came between two scrapes of a histogram lies; None if none came.

    As Prometheus does it: a straight line within the bucket; what is beyond the last bound counts as that bound.

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
    with mpl.rc_context({**_STYLE, "svg.hashsalt": figure.__name__}):
        drawn = figure(subject)
        if path is not None:
            drawn.savefig(path, dpi=160, transparent=False, facecolor=THEME["paper"][0])
            return ""
        text = StringIO()
        drawn.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' id="[A-Za-z.]+\d*_\d+"', "", svg)  # pictures share a page: no name twice
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"^<svg[^>]*viewBox=\"([^\"]*)\"[^>]*>", r'<svg viewBox="\1" role="img">', svg, flags=re.DOTALL)
    for name, (light, _) in THEME.items():
        svg = svg.replace(light, f"var(--{name.replace('_', '-')})")
    return svg
