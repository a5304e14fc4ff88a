"""What a page about a family shows, as data: a family declares pages, and the console draws them.

A page has sections, and a section has figures, tables, calibrations and courses over the shop's time. Its texts are
English; the console translates those that its catalogue has. A family computes a page from its records of `scores`
alone, so that a page needs no server and tells of any time that the log still holds.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from msgspec import Struct

Kind = Literal["text", "code", "number", "share", "bar", "pairs", "trend", "time"]
"""How a column is shown: as a text of the family, as what a person has written, a number, a share, a share as a bar,
numbers by name, a line over time, a time (ms since the epoch)."""


class Column(NamedTuple):
    """A column of a listing."""

    name: str
    kind: Kind = "number"


class Figure(NamedTuple):
    """A number that is shown large, None if it is not known yet. With `share`, it is shown in per cent."""

    name: str
    value: float | None
    share: bool = False
    unit: str = ""


class Figures(Struct, frozen=True):
    """Numbers side by side."""

    figures: tuple[Figure, ...]


class Listing(Struct, frozen=True):
    """A table. A cell is of its column's kind: `pairs` a mapping of numbers, `trend` a sequence; None is no value."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    title: str = ""


class Predicted(NamedTuple):
    """Predictions of about the same probability: how many, their mean, and the share that came true."""

    predictions: int
    predicted: float
    seen: float


class Calibration(Struct, frozen=True):
    """Predicted probabilities against what came true."""

    points: tuple[Predicted, ...]


class Course(Struct, frozen=True):
    """How numbers went over the shop's time: a value for each time (ms) in each line, None where there was none."""

    title: str
    times: tuple[int, ...]
    lines: Mapping[str, tuple[float | None, ...]]
    share: bool = False


Drawn = Figures | Listing | Calibration | Course


class Section(Struct, frozen=True):
    """A part of a page: what is drawn, one below the other, and in words what it means."""

    title: str
    drawn: tuple[Drawn, ...]
    about: str = ""


class Page(Struct, frozen=True):
    """A page: `name` is its place in addresses, and `lead` says what it is good for.

    `sections` computes it from the family's records of `scores`, oldest first: of a long time, some of them, evenly.
    There is at least one. `nothing` says when there will be something, as long as there are no sections.
    """

    name: str
    title: str
    lead: str
    sections: Callable[[Sequence[Any]], Sequence[Section]]
    nothing: str = ""


def course(title: str, found: Sequence[tuple[int, Mapping[str, float | None]]], *, share: bool = False) -> Course:
    """Return a course from the values by name at each time.

    >>> course("a", [(1, {"x": 2.0}), (2, {"x": 3.0, "y": 4.0})]).lines
    {'x': (2.0, 3.0), 'y': (None, 4.0)}
    """
    names = dict.fromkeys(name for _, values in found for name in values)
    lines = {name: tuple(values.get(name) for _, values in found) for name in names}
    return Course(title, tuple(time_ms for time_ms, _ in found), lines, share)
