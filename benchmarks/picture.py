"""Pictures of the benchmarks: self-contained SVG files that follow the reader's light or dark colour scheme."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from operators.picture import THEME, Subject, draw, named_ends
from operators.picture import colour as theme_colour

_BASELINES: Final = {"finetune": "alarm", "ewc": "transitions", "joint": "ink"}
"""The colour of each baseline; its line is dashed to distinguish it from other lines of that colour."""
_DASHES: Final = (0, (4, 2))
_SCORES: Final = {"recall@20": "Recall@20", "mrr@20": "MRR@20"}
_FULL_CHANGE: Final = 0.1
"""The change that is drawn in full colour."""


_COLOURS: Final = {
    "popularity": "line-1", "transitions": "line-2", "session_knn": "line-3", "deep": "line-5", "blend": "bold",
    "alarm": "alarm", "ink": "ink",
}  # fmt: skip


def colour_of(name: str) -> str:
    """Return the colour of a learner on light ground."""
    return theme_colour(_COLOURS.get(name, "line-4"))


def write(path: Path, figure: Callable[[Subject], Figure], subject: Subject) -> None:
    """Draw a figure into an SVG file with colours for a light and for a dark background."""
    svg = draw(figure, subject)
    light, dark = (" ".join(f"--{name}: {colours[way]};" for name, colours in THEME.items()) for way in (0, 1))
    style = (
        f"<style>:root {{ color-scheme: light dark; {light} background: var(--paper); }} "
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}</style>"
    )
    names = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    svg = re.sub(r"^<svg([^>]*)>", lambda match: f"{names}{match[1]}>\n{style}", svg)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(svg)


def periods(result: Mapping[str, Any]) -> Figure:
    """Draw Recall@20 and MRR@20 per period, a line per learner."""
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    found = result["periods"]
    numbers = [int(period) for period in found]
    for axes, (score, title) in zip(figure.subplots(1, 2), _SCORES.items(), strict=True):
        axes.set_title(f"{title} in %, on each period before it was learned")
        ends = {}
        for name in result["mean"]:
            values = [100 * of[name][score] for of in found.values()]
            colour = colour_of(_BASELINES.get(name, name))
            dashes = _DASHES if name in _BASELINES else "-"
            axes.plot(numbers, values, color=colour, ls=dashes, lw=2.2 if name == "blend" else 1.4, marker=".")
            ends[name] = (values[-1], colour)
        axes.set_xlabel("period")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        named_ends(axes, ends, 0.045, "blend")
    return figure


def retention(result: Mapping[str, Any]) -> Figure:
    """Draw a heat map per learner: Recall@20 in % of each model (down) on each period (across).

    The colour shows the change since the period was first tested: blue is better, orange worse.
    """
    learners = result["learners"]
    side = max(3.2, 0.26 * (1 + len(next(iter(learners.values()))["periods"])))
    figure = Figure(figsize=(side * len(learners) + 0.6, side + 0.9), layout="constrained")
    for axes, (name, scores) in zip(
        figure.subplots(1, len(learners), squeeze=False).flat, learners.items(), strict=True
    ):
        axes.set_title(f"{name}: mean drop {100 * scores['drop']['recall@20']:+.1f} points")
        _heat(axes, np.array(scores["recall@20"]), scores["updates"], scores["periods"])
    figure.supxlabel("Recall@20 in % on period; colour: better or worse than in the first test (outlined)", size=9)
    return figure


def _heat(axes: Axes, scores: "np.ndarray[Any, Any]", updates: list[int], columns: list[int]) -> None:
    place_of = {update: row for row, update in enumerate(updates)}
    for column, period in enumerate(columns):
        first = place_of[period - 1]
        for row in range(len(updates)):
            change = scores[row, column] - scores[first, column]
            corner = (column - 0.5, row - 0.5)
            if row > first:
                colour, alpha = theme_colour("bold" if change > 0 else "alarm"), min(1.0, abs(change) / _FULL_CHANGE)
                axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour, alpha=0.75 * alpha, lw=0))
            if row == first:
                axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=THEME["soft"][0], lw=1, zorder=3))
            text, ink = f"{100 * scores[row, column]:.0f}", THEME["soft" if row < first else "ink"][0]
            axes.text(column, row, text, ha="center", va="center", fontsize=6.5, color=ink)
    axes.set_xticks(range(len(columns)), [str(period) for period in columns], fontsize=7)
    axes.set_yticks(range(len(updates)), [str(update) for update in updates], fontsize=7)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(updates) - 0.5, -0.5)
    axes.set_ylabel("learned up to period")
    axes.grid(visible=False)
    axes.set_aspect("equal")


def freshness(result: Mapping[str, Any]) -> Figure:
    """Draw Recall@20 by the delay of the fast learners, and by the update schedule of the deep learner.

    Dashed lines cover only the first events, up to where the most frequent updates end.
    """
    titles = {"periods": "DIGINETICA, by delay in events", "retail": "Online Retail, by delay"}
    panels = [name for name in titles if name in result]
    figure = Figure(figsize=(4.6 * (1 + len(panels)), 3.9), layout="constrained")
    figure.supylabel("Recall@20 in %", size=9)
    *late, deep = figure.subplots(1, 1 + len(panels))
    for axes, name in zip(late, panels, strict=True):
        axes.set_title(titles[name])
        _curves(axes, result[name]["late"], "whole", "-")
    updated = result["periods"]["updated"]
    often = {
        every: of["updates"] / max(part["predictions"] for part in of["deep"].values()) for every, of in updated.items()
    }
    order = sorted(updated, key=lambda every: (often[every], every.isdigit()))
    deep.set_title("DIGINETICA, by updates of the deep model")
    found = {every: {name: updated[every][name] for name in ("deep", "blend")} for every in order}
    _curves(deep, found, "whole", "-")
    _curves(deep, found, "short", _DASHES)
    return figure


def _curves(axes: Axes, found: Mapping[str, Mapping[str, Mapping[str, Any]]], part: str, dashes: Any) -> None:
    """Draw Recall@20 of a part of the stretch over the keys of `found`, a line per learner."""
    ends = {}
    for name in next(iter(found.values())):
        values = [100 * of[name][part]["recall@20"] if part in of[name] else np.nan for of in found.values()]
        colour = colour_of(name)
        axes.plot(values, color=colour, lw=2.2 if name == "blend" else 1.4, ls=dashes, marker="o", ms=3.5)
        ends[name] = [value for value in values if value == value][-1], colour
    axes.set_xticks(range(len(found)), [f"{int(key):,}" if key.isdigit() else key for key in found])
    axes.margins(y=0.08)
    if dashes == "-":
        named_ends(axes, ends, 0.06, "blend")


_TRIGGERS: Final = {"volume": "blend", "time": "session_knn", "drift": "alarm", "gain": "deep"}
"""The colour of each trigger's points."""


def triggers(result: Mapping[str, Any]) -> Figure:
    """Draw Recall@20 of the deep model by the tokens that each setting of each trigger spent."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set_title("Recall@20 in % of the deep model, by the trigger of its updates")
    never = result["never"]
    for name, found in result["triggers"].items():
        points = sorted((one["tokens"], 100 * one["recall@20"]) for one in (never, *found.values()))
        colour = colour_of(_TRIGGERS[name])
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", ms=4, lw=1.4, label=name)
        for setting, one in found.items():
            axes.annotate(
                f"{float(setting):,g}", (one["tokens"], 100 * one["recall@20"]), xytext=(4, 4),
                textcoords="offset points", fontsize=7, color=colour,
            )  # fmt: skip
    axes.set_xlabel("predictions trained on")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.0f}k")
    axes.legend(frameon=False, labelcolor="linecolor")
    axes.margins(0.08)
    return figure


_SOURCES: Final = {
    "ours": ("bold", "o"), "river": ("session_knn", "s"), "evidently": ("alarm", "^"), "alibi": ("deep", "D"),
}  # fmt: skip
"""The colour and the marker of each library's detectors."""


def drift(result: Mapping[str, Any]) -> Figure:
    """Draw delay against false alarms per stable day, a panel for each kind of drift.

    Filled: thresholds that were chosen; hollow: defaults. A detector that misses every drift of a kind stands at the
    right edge; the share that it misses is written beside where it misses some.
    """
    kinds = {kind: found for kind, found in result["kinds"].items() if found["ours"]["missed"] is not None}
    columns = 3
    rows = -(-max(1, len(kinds)) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.9 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (kind, found) in zip(panels, kinds.items(), strict=False):
        axes.set_title(kind)
        known = [one["delay_events"] for one in found.values() if one["delay_events"] is not None]
        edge = 1.15 * max(known, default=1.0)
        for name, one in found.items():
            colour_name, marker = _SOURCES[name.split(" ", 1)[0].split(",")[0]]
            ink = theme_colour("bold") if name == "ours" else colour_of(colour_name)
            delay = edge if one["delay_events"] is None else one["delay_events"]
            face = "none" if name.endswith(", default") else ink
            size = 60 if name == "ours" else 22
            axes.scatter([delay], [one["false_per_day"] or 0.0], s=size, marker=marker, edgecolors=ink, facecolors=face)
            if 0 < one["missed"] < 1:
                axes.annotate(
                    f"{one['missed']:.0%}", (delay, one["false_per_day"] or 0.0), xytext=(4, 3),
                    textcoords="offset points", fontsize=6, color=ink,
                )  # fmt: skip
        axes.set_xlim(left=0)
        axes.set_yscale("symlog", linthresh=0.05)
        axes.set_ylim(bottom=-0.01)
        axes.set_yticks([0.0, 0.01, 0.1, 1.0])
        axes.yaxis.set_major_formatter(
            "{x:g}"
        )  # that of the scale writes mathematical text, which stays code in an SVG
    for axes in panels:
        axes.set_visible(False)
    handles = [
        Line2D(
            [],
            [],
            ls="",
            marker=marker,
            color=theme_colour("bold") if name == "ours" else colour_of(ink),
            label={"ours": "Headrace"}.get(name, name),
        )
        for name, (ink, mark) in _SOURCES.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    figure.supxlabel("delay in events (share missed beside; at the right edge: all); hollow: default", size=9)
    figure.supylabel("false alarms per stable day", size=9)
    return figure


def trading(result: Mapping[str, Any]) -> Figure:
    """Draw hit rate against expected margin, and against categories, of each way to trade relevance."""
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    fronts = (
        ("expected_margin", "expected margin of a list", ("trade for margin", "score x margin^a", "trade for both")),
        ("categories", "categories of a list", ("trade for diversity", "MMR", "trade for both")),
    )
    colours = {"trade for margin": "bold", "trade for diversity": "bold", "trade for both": "line-3"}
    best = result["ways"]["best"][""]
    for axes, (gain, title, names) in zip(figure.subplots(1, 2), fronts, strict=True):
        axes.set_title(title)
        axes.set_xlabel("hit rate in %")
        for name in names:
            points = [best, *result["ways"][name].values()]
            shade = theme_colour(colours.get(name, "line-2"))
            axes.plot(
                [100 * one["hit_rate"] for one in points], [one[gain] for one in points], ".-", color=shade, label=name
            )
        axes.legend(frameon=False, fontsize=8.5, labelcolor="linecolor")
    return figure
