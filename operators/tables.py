"""Families' tables of scores on a terminal, and how their cells are written."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich.table import Table as RichTable

from headrace.surface import Table
from learners.family import Family

NONE: Final = "\N{EN DASH}"
"""A cell without a value."""


def in_order_shown(kinds: Iterable[type[Family]]) -> tuple[type[Family], ...]:
    """Return families in the order in which they are shown: those that are judged beside the fold first.

    A shard folds others before them, which they ask.
    """
    return tuple(sorted(kinds, key=lambda kind: not kind.surface.judge))


def shown_name(learner: str) -> str:
    """Return a learner's name as tables and pictures show it."""
    return learner.replace("_", "-")


def colour_names(lines: Sequence[str], bold: str = "") -> dict[str, str]:
    """Return the name of each line's colour, in charts of every kind, by the order of the lines.

    >>> colour_names(["a", "b", "all"], bold="all")
    {'a': 'line-1', 'b': 'line-2', 'all': 'bold'}
    """
    plain = [line for line in lines if line != bold]
    return {line: "bold" if line == bold else f"line-{1 + plain.index(line) % 5}" for line in lines}


def percent(value: float | None) -> str:
    """Return a share in per cent."""
    return NONE if value is None else f"{100 * value:.1f} %"


def cell(value: str | float | None, *, percent_of: bool) -> str:
    """Return a cell of a family's table.

    >>> cell(1234, percent_of=True), cell(0.5, percent_of=True), cell(0.5, percent_of=False)
    ('1,234', '50.0 %', '0.5000')
    """
    if value is None:
        return NONE
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return percent(value) if percent_of else f"{value:.4f}"


def rich_table(declared: Table, scores: Any) -> RichTable:
    """Return a family's table of scores, for a terminal."""
    made = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, column in enumerate(declared.columns):
        made.add_column(column, justify="right" if place else "left")
    for name, *values in declared.rows(scores):
        cells = [cell(value, percent_of=declared.percent) for value in values]
        made.add_row(shown_name(name), *cells, style="bold" if name == declared.bold else "")
    return made
