"""Totals: what is counted of each shopper of an experiment, from which the metrics follow.

Metrics share what they count: click-through and a metric of clicks need the same number. `Counting` states once per
experiment which numbers a shopper has, and how they make each metric's outcome and divisor.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from headrace.experiments import ANSWER, RETURN, Experiment, Measure

ORDER: Final = "purchase"


class Counter(NamedTuple):
    """A number of each shopper: events of a type, and what is summed: `events`, `units` or `value`."""

    event: str
    what: str


class _Read(NamedTuple):
    """How a metric reads a shopper's numbers: the place of its outcome and of its divisor (-1: 1 for each shopper)."""

    outcome: int
    divisor: int
    is_any: bool


class Counting:
    """The numbers of a shopper, and how metrics follow from them.

    >>> from headrace.experiments import Arm
    >>> counting = Counting(Experiment((Arm("control"), Arm("new"))))
    >>> counting.counters[0], counting.names
    (Counter(event='click', what='events'), ('click_through', 'conversion', 'revenue', 'retention'))
    >>> totals = [0.0] * len(counting.counters)
    >>> for place in counting.places["purchase"]:
    ...     totals[place] += 2.0
    >>> [counting.values(totals, metric) for metric in range(4)]
    [(0.0, 0.0), (1.0, 1.0), (2.0, 1.0), (0.0, 1.0)]

    Attributes:
        counters: what each number is.
        names: the metrics.
        places: the numbers that an event of a type changes, by the type.
        changed: the metrics that an event of a type may change, by the type.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.counters: list[Counter] = []
        self.names = tuple(one.name for one in experiment.measures)
        self.kinds = tuple(_kind(one) for one in experiment.measures)
        self._reads = [self._read(one) for one in experiment.measures]
        self.places: dict[str, list[int]] = {}
        for place, one in enumerate(self.counters):
            self.places.setdefault(one.event, []).append(place)
        self.changed = {
            event: tuple(
                number for number, read in enumerate(self._reads) if read.outcome in places or read.divisor in places
            )
            for event, places in self.places.items()
        }

    def _read(self, one: Measure) -> _Read:
        is_any = one.count == "shoppers"
        outcome = self._place(Counter(one.event, "events" if is_any else one.count))
        return _Read(outcome, self._place(Counter(one.per, "events")) if one.per else -1, is_any)

    def _place(self, counter: Counter) -> int:
        if counter not in self.counters:
            self.counters.append(counter)
        return self.counters.index(counter)

    def values(self, totals: Sequence[float], metric: int) -> tuple[float, float]:
        """Return a shopper's outcome and divisor of a metric."""
        outcome, divisor, is_any = self._reads[metric]
        value = totals[outcome]
        return (float(value > 0) if is_any else value), (1.0 if divisor < 0 else totals[divisor])


def _kind(one: Measure) -> int:
    """Return which of a shopper's numbers from before (`learners.experiments.before`) tells most of a metric."""
    if one.event == ORDER:
        return 2 if one.count in ("value", "units") else 1
    return 0


__all__ = ["ANSWER", "ORDER", "RETURN", "Counter", "Counting"]
