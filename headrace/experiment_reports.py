"""Reports: what an experiment has shown so far, as the shard that counts it writes it.

A record of the topic `experiment-reports` is one experiment's whole report and replaces the one before. Its key is the
experiment's name, its value one JSON document. All intervals hold at all times at once with probability 1 - alpha.
"""

from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from headrace.experiments import Kind, State
from headrace.log.protocol import Outgoing, Record, decode_json
from headrace.topics import EXPERIMENT_REPORTS


class Point(NamedTuple):
    """How a difference stood at a time, with so many shoppers of both arms."""

    time_ms: int
    shoppers: int
    difference: float
    low: float
    high: float


class Compared(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An arm beside the control, by one metric; `learners.experiments.difference.Difference` explains the numbers.

    Attributes:
        detectable: least relative effect that could be proved now.
        days, days_low, days_high: days until the wished effect could be proved, and with the variance's uncertainty.
        points: how the difference stood over time, the oldest first.
    """

    metric: str
    arm: str
    shoppers: tuple[int, int]
    control_value: float | None = None
    arm_value: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    relative: float | None = None
    relative_low: float | None = None
    relative_high: float | None = None
    p_value: float = 1.0
    decided: bool = False
    variance_ratio: float = 1.0
    detectable: float | None = None
    days: float | None = None
    days_low: float | None = None
    days_high: float | None = None
    points: tuple[Point, ...] = ()


class Segment(Struct, frozen=True, omit_defaults=True):
    """A comparison among the shoppers of a segment, such as `device` `mobile`; its alpha is shared among segments."""

    segment: str
    value: str
    compared: Compared


class Day(Struct, frozen=True):
    """A day of the shop's time: by arm, the shoppers who were in, and by metric what their outcomes grew by."""

    day: int
    shoppers: tuple[int, ...]
    outcomes: dict[str, tuple[float, ...]]


class ArmCount(Struct, frozen=True):
    """An arm, its planned share of the shoppers, and how many it has and has had answers for."""

    name: str
    share: float
    shoppers: int
    answers: int


class Preferred(Struct, frozen=True, omit_defaults=True):
    """Which of two interleaved rankings shoppers prefer: answers won by the first minus those won by the second, per
    shopper."""

    shoppers: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float = 1.0
    decided: bool = False
    points: tuple[Point, ...] = ()


class Report(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The value of a record.

    Attributes:
        version: offset of the newest statement.
        started_ms, time_ms, stopped_ms: shop's time of the start, of the report, and of the stop (0: not stopped).
        stopped_by, why: who stopped it, and why.
        ratio_p: least alpha at which the arms' shares of the shoppers are refuted.
        bots, mixed, evicted: shoppers who are left out because of too many steps, because they were in several arms,
            and those whose outcomes are no longer followed for lack of room.
        strays: answers whose arm is not that of their shopper.
        compared: of each arm but the control, each metric; the primary one first.
        harmed: metrics of arms that a guard has found to be harmed, as `metric of arm`.
    """

    name: str
    version: int
    kind: Kind
    state: State
    alpha: float
    primary: str
    effect: float
    started_ms: int
    time_ms: int
    stopped_ms: int = 0
    stopped_by: str = ""
    why: str = ""
    hypothesis: str = ""
    arms: tuple[ArmCount, ...] = ()
    ratio_p: float = 1.0
    bots: int = 0
    mixed: int = 0
    evicted: int = 0
    strays: int = 0
    compared: tuple[Compared, ...] = ()
    segments: tuple[Segment, ...] = ()
    days: tuple[Day, ...] = ()
    preferred: Preferred | None = None
    harmed: tuple[str, ...] = ()


_encode: Final = msgspec.json.Encoder().encode


def record_of(report: Report) -> Outgoing:
    """Return the record of a report."""
    return Outgoing(EXPERIMENT_REPORTS, report.name.encode(), _encode(report))


def decode(record: Record) -> Report | None:
    """Return a record's report, None if this release cannot read it."""
    return decode_json(record.value, Report)
