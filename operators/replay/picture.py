"""The picture of a comparison: each chart of the families, with a line for either side."""

from typing import Final, NamedTuple

import numpy as np

from learners.families import Placement
from operators.picture import Figure, colour, named_ends
from operators.replay.compare import Comparison

slices_max: Final = 40
"""Most points of a line that is drawn from judgements."""
Line = list[tuple[float, float]]


class Pictured(NamedTuple):
    """A comparison, and the shard whose families declare its charts."""

    comparison: Comparison
    placement: Placement


class Panel(NamedTuple):
    """A chart: its title, what its x axis counts, whether its values are shares, and a line by side."""

    title: str
    along: str
    percent: bool
    lines: dict[str, Line]


def panels(pictured: Pictured) -> list[Panel]:
    """Return the charts of which a side has points."""
    found, sides = [], pictured.comparison.sides
    for kind in pictured.placement.kinds:
        judged = 0
        for chart in kind.surface.charts:
            lines: dict[str, Line] = {}
            for side in sides:
                if chart.judged:
                    lines[side.name] = _means(side.quality[kind.name][judged].points)
                elif chart.lines:
                    scored = [(one.events, chart.lines(one.scores)) for one in side.timeline.get(kind.name, [])]
                    name = chart.bold or next((name for _, values in scored for name in values), "")
                    lines[side.name] = [(at, values[name]) for at, values in scored if name in values]
            judged += chart.judged is not None
            if any(lines.values()):
                along = "entries of the journal" if chart.judged else "events"
                title = f"{chart.title}: {chart.bold}" if chart.bold else chart.title
                found.append(Panel(title, along, chart.percent, lines))
    return found


def _means(points: list[tuple[int, float, float]]) -> Line:
    """Return weighted means over slices of judgements, at the means of their entries' numbers."""
    if not points:
        return []
    parts = np.array_split(np.array(points), min(slices_max, max(1, len(points) // 20)))
    return [(float(part[:, 0].mean()), float(np.average(part[:, 2], weights=part[:, 1]))) for part in parts]


def sides(pictured: Pictured) -> Figure:
    """Draw the charts of a comparison."""
    drawn = panels(pictured)
    figure = Figure(figsize=(9.6, 2.6 * max(1, len(drawn))), layout="constrained")
    grid = figure.subplots(max(1, len(drawn)), squeeze=False)
    for axes, panel in zip(grid.flat, drawn, strict=False):
        axes.set_title(panel.title)
        axes.set_xlabel(panel.along)
        ends = {}
        for (name, line), shade in zip(panel.lines.items(), (colour("line-2"), colour("bold")), strict=True):
            if line:
                axes.plot(*zip(*line, strict=True), color=shade, lw=1.8, marker="." if len(line) < 3 else "")
                ends[name] = line[-1][1], shade
        if panel.percent:
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        named_ends(axes, ends, 0.1)
    return figure
