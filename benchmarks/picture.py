"""Pictures of the continual benchmarks: files of SVG that stand alone and follow the reader's light or dark."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from operators.picture import THEME, Subject, colour_of, draw, named_ends

_BASELINES: Final = {"finetune": "alarm", "ewc": "transitions", "joint": "ink"}
"""Whose colour a baseline's line has; it is dashed, and so told from others' of that colour."""
_DASHES: Final = (0, (4, 2))
_SCORES: Final = {"recall@20": "Recall@20", "mrr@20": "MRR@20"}
_FULL_CHANGE: Final = 0.1
"""A change of this size has the full colour."""


def write(path: Path, figure: Callable[[Subject], Figure], subject: Subject) -> None:
    """Draw a figure into a file of SVG that holds its colours for light and for dark ground."""
    svg = draw(figure, subject)
    light, dark = (
        " ".join(f"--{name.replace('_', '-')}: {colours[way]};" for name, colours in THEME.items()) for way in (0, 1)
    )
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
        axes.set_title(f"{title} in %, of each period before it was learned")
        ends = {}
        for name in result["mean"]:
            values = [100 * of[name][score] for of in found.values()]
            colour = THEME[_BASELINES[name]][0] if name in _BASELINES else colour_of(name)
            dashes = _DASHES if name in _BASELINES else "-"
            axes.plot(numbers, values, color=colour, ls=dashes, lw=2.2 if name == "blend" else 1.4, marker=".")
            ends[name] = (values[-1], colour)
        axes.set_xlabel("period")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        named_ends(axes, ends, 0.045)
    return figure


def retention(result: Mapping[str, Any]) -> Figure:
    """Draw a heat map per learner: Recall@20 in % of each model (down) on each period (across).

    The colour is the change since the period was first tested: blue is better, orange worse.
    """
    learners = result["learners"]
    side = max(3.2, 0.26 * (1 + len(next(iter(learners.values()))["periods"])))
    figure = Figure(figsize=(side * len(learners) + 0.6, side + 0.9), layout="constrained")
    for axes, (name, told) in zip(figure.subplots(1, len(learners), squeeze=False).flat, learners.items(), strict=True):
        axes.set_title(f"{name}: mean drop {100 * told['drop']['recall@20']:+.1f} points")
        _heat(axes, np.array(told["recall@20"]), told["updates"], told["periods"])
    figure.supxlabel("Recall@20 in % on period; colour: since it was first tested (outlined), better or worse", size=9)
    return figure


def _heat(axes: Axes, scores: "np.ndarray[Any, Any]", updates: list[int], columns: list[int]) -> None:
    place_of = {update: row for row, update in enumerate(updates)}
    for column, period in enumerate(columns):
        first = place_of[period - 1]
        for row in range(len(updates)):
            change = scores[row, column] - scores[first, column]
            corner = (column - 0.5, row - 0.5)
            if row > first:
                colour, alpha = colour_of("blend" if change > 0 else "alarm"), min(1.0, abs(change) / _FULL_CHANGE)
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
    """Draw Recall@20 against how late the fast learners learn, and against how often the deep one is updated."""
    panels = [name for name in ("periods", "retail") if name in result]
    figure = Figure(figsize=(4.4 * (1 + len(panels)), 3.9), layout="constrained")
    *late, updated = figure.subplots(1, 1 + len(panels))
    titles = {"periods": "DIGINETICA: events learned so many late", "retail": "Online Retail: learned so late"}
    for axes, name in zip(late, panels, strict=True):
        found = result[name]["late"]
        _curves(axes, titles[name], {key: {m: f["whole"] for m, f in of.items()} for key, of in found.items()})
    found = result["periods"]["updated"]
    order = ["never", "period", *sorted((every for every in found if every.isdigit()), key=int, reverse=True)]
    members = ("deep", "blend")
    scores = {every: {m: found[every][m]["short"] for m in members} for every in order}
    _curves(updated, f"deep updated so often ({result['options']['short']:,} events)", scores)
    return figure


def _curves(axes: Axes, title: str, found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Draw Recall@20 over named places, a line per learner."""
    axes.set_title(f"{title}, Recall@20 in %", fontsize=9)
    ends = {}
    for name in next(iter(found.values())):
        values = [100 * of[name]["recall@20"] for of in found.values()]
        axes.plot(values, color=colour_of(name), lw=2.2 if name == "blend" else 1.4, marker="o", ms=3.5)
        ends[name] = (values[-1], colour_of(name))
    axes.set_xticks(range(len(found)), [f"{int(key):,}" if key.isdigit() else key for key in found])
    axes.margins(y=0.08)
    named_ends(axes, ends, 0.06)
