"""Team-draft interleaving: two rankings in one list, and which of them shoppers prefer by their clicks.

Two teams pick in turns, each its highest item that is not in the list yet; a coin decides who picks first in each
round. A click counts for the team that picked the item. Of the same shoppers, this tells which ranking is better with
far fewer clicks than two arms of an experiment need, but not by how much sales would change.

The coins are bits of a hash of the seed, so an answer can be interleaved again from its seed.

Source: Radlinski, Kurup and Joachims, "How does clickthrough data reflect retrieval quality?" (CIKM 2008), algorithm 2.
There the list ends where a team has nothing left to pick; here the rest of the other ranking follows, for no team.
"""

import math
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import chain
from typing import Final, NamedTuple

import numpy as np
from msgspec import Struct

from learners.experiments.boundary import critical, p_value, planned_clock
from learners.experiments.difference import Rule
from learners.experiments.moments import Moments

length_max: Final = 1_024
"""Items of a list at most: two for each coin of a hash."""


class Interleaved(NamedTuple):
    """A list, and for each item its team: A (the first ranking), B, or - (none)."""

    items: list[str]
    teams: str


def interleave(first: Sequence[str], second: Sequence[str], length: int, seed: str) -> Interleaved:
    """Return a list of at most `length` items of two rankings.

    >>> interleave(["a", "b", "c"], ["b", "d"], 4, "answer 1")
    Interleaved(items=['a', 'b', 'c', 'd'], teams='ABAB')

    Args:
        seed: of the coins; another one for each answer.

    Raises:
        ValueError: the list is longer than `length_max`.
    """
    if length > length_max:
        raise ValueError(f"length: wanted at most {length_max}, found {length}")
    coins = int.from_bytes(blake2b(seed.encode()).digest(), "little")
    rankings = iter(first), iter(second)
    items: list[str] = []
    teams: list[str] = []
    known: set[str] = set()
    lead = 0  # picks of A minus picks of B
    while len(items) < length:
        if lead:
            team = lead > 0
        else:
            team = coins & 1 == 1
            coins >>= 1
        for item in rankings[team]:
            if item not in known:
                break
        else:
            break
        known.add(item)
        items.append(item)
        teams.append("B" if team else "A")
        lead += -1 if team else 1
    for item in chain(*rankings):
        if len(items) == length:
            break
        if item not in known:
            known.add(item)
            items.append(item)
            teams.append("-")
    return Interleaved(items, "".join(teams))


def winner(teams: str, clicked: Iterable[int]) -> int:
    """Return which team an answer was won by: 1 for A, -1 for B, 0 for neither.

    >>> winner("ABBA", [0, 3, 2]), winner("ABBA", [1, 0])
    (1, 0)

    Args:
        teams: of the answer's items.
        clicked: places of the items that were clicked, each once.
    """
    balance = 0
    for place in clicked:
        team = teams[place]
        balance += (team == "A") - (team == "B")
    return (balance > 0) - (balance < 0)


class Preference(Struct, frozen=True, kw_only=True):
    """Which ranking shoppers prefer. Numbers that cannot be told are None.

    Attributes:
        shoppers: number of shoppers.
        mean: answers won by A minus those won by B, per shopper.
        low, high: its interval; None without enough data.
        p_value: least alpha at which a preference would be proved at this time; 1 without enough data.
        decided: whether the interval excludes 0.
        first_variance: what to keep and give to later calls.
    """

    shoppers: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float = 1.0
    decided: bool = False
    first_variance: float | None = None


def preference(wins: Moments, rule: Rule, first_variance: float | None = None) -> Preference:
    """Return which ranking shoppers prefer, as a confidence sequence (`learners.experiments.boundary`).

    >>> wins = Moments()
    >>> for shopper in range(2_000):
    ...     wins.add(float(shopper % 5 == 0) - float(shopper % 10 == 1))
    >>> found = preference(wins, Rule(shoppers_planned=2_000))
    >>> round(found.mean, 3), round(found.low, 3), round(found.high, 3), found.decided
    (0.1, 0.063, 0.137, True)

    Args:
        wins: the outcome of each shopper is the answers won by A minus those won by B.
        rule: its `shoppers_min` and `nonzero_min` count twice, as they are for each of two arms.
        first_variance: the `first_variance` of the first call that had one; None until then.
    """
    n = wins.n
    if not n:
        return Preference(shoppers=0)
    mean = wins.y / n
    if n < 2 * rule.shoppers_min or wins.nonzero < 2 * rule.nonzero_min:
        return Preference(shoppers=n, mean=mean, first_variance=first_variance)
    variance = max(0.0, wins.yy - wins.y * mean) / (n - 1)
    if variance == 0:
        return Preference(shoppers=n, mean=mean, first_variance=first_variance)
    first, error = first_variance or variance, math.sqrt(variance / n)
    clock = planned_clock(rule.alpha) * n / rule.shoppers_planned * variance / first
    reach = float(critical(np.asarray(clock), rule.alpha)) * error
    return Preference(
        shoppers=n,
        mean=mean,
        low=mean - reach,
        high=mean + reach,
        p_value=p_value(mean / error, clock),
        decided=abs(mean) > reach,
        first_variance=first,
    )
