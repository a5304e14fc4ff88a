"""A queue of events as a fluid: each minute some arrive, wait in order, and are learned at most at a given speed."""

from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import floor
from typing import Final, NamedTuple

MINUTE_S: Final = 60
STEP_TIME_S: Final = 0.3
"""Freshness of an event that did not wait."""
sampled_all: Final = 50
"""Events of a minute up to which each is an observation of a histogram; of more, one in a thousand."""

Rate = Callable[[int], float]
"""Something per minute, by the minute."""
Minutes = Collection[int]


def steady(per_minute: float) -> Rate:
    """Return a rate that stays."""
    return lambda minute: per_minute


def during(minutes: Minutes, inside: float, outside: float = 0.0) -> Rate:
    """Return a rate that differs in some minutes."""
    return lambda minute: inside if minute in minutes else outside


NEVER: Final = steady(0)


@dataclass
class Arrived:
    """What arrived in a minute: how many of each kind."""

    minute: int
    counts: dict[str, int]


class Events:
    """Whole events by kind that arrive each minute; fractions add up."""

    def __init__(self, rates: Mapping[str, Rate]) -> None:
        self._rates, self._rest = rates, dict.fromkeys(rates, 0.0)

    def arrive(self, minute: int) -> Arrived:
        """Return what arrives in a minute; called for one after the other."""
        found = {}
        for kind, rate in self._rates.items():
            due = self._rest[kind] + rate(minute)
            found[kind] = floor(due)
            self._rest[kind] = due - found[kind]
        return Arrived(minute, found)


class Learned(NamedTuple):
    """What was learned in a minute: how many of each kind, and the delay of a sample of them."""

    counts: Counter[str]
    delays_s: list[float]


class Queue:
    """Events that wait, in the order of their arrival."""

    def __init__(self) -> None:
        self._waiting: deque[Arrived] = deque()

    def put(self, arrived: Arrived) -> None:
        """Add what has arrived."""
        self._waiting.append(Arrived(arrived.minute, dict(arrived.counts)))

    def __len__(self) -> int:
        return sum(sum(one.counts.values()) for one in self._waiting)

    def take(self, most: int, minute: int) -> Learned:
        """Return what is learned of at most this many."""
        counts: Counter[str] = Counter()
        delays: list[tuple[float, int]] = []
        while self._waiting and most > 0:
            oldest = self._waiting[0]
            total = sum(oldest.counts.values())
            share = min(1.0, most / total) if total else 1.0
            taken = {kind: count if share == 1 else floor(count * share) for kind, count in oldest.counts.items()}
            counts.update(taken)
            delays.append(((minute - oldest.minute) * MINUTE_S + STEP_TIME_S, sum(taken.values())))
            most -= sum(taken.values())
            for kind, count in taken.items():
                oldest.counts[kind] -= count
            if share < 1:
                break
            self._waiting.popleft()
        learned = sum(counts.values())
        sampled = min(sampled_all, learned) + learned // 1_000
        return Learned(
            counts, [delay for delay, count in delays for _ in range(-(-sampled * count // max(1, learned)))]
        )
