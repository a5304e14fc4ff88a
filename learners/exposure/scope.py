"""A scope: the exposure of the groups of one placement, or of one arm there, and what keeps it within bounds. Pure.

Exposure is counted by `show`. `look`, once a minute, adds it up and moves each group's multipliers: `over` by how far
the group's share of the exposure since the last look was above its bound, `under` by how far it was below what it
merits at least, both relative to the bound and never below 0. An item's score is multiplied by 2 ** (under - over).

So a multiplier rests only where the share equals the bound on average, whatever the bound costs, and answers may be as
they are best as long as the bound holds over all of them. A look of few answers moves less.

Source: Singh and Joachims, "Fairness of exposure in rankings", KDD 2018 (exposure by place, and merit); Biega, Gummadi
and Weikum, "Equity of attention", SIGIR 2018 (over many answers, not in each); Morik et al., "Controlling fairness and
bias in dynamic learning-to-rank", SIGIR 2020 (a controller that adds the error so far to the scores); Neely,
"Stochastic network optimization", 2010 (multipliers as queues of what a bound was exceeded by). Ours works on shares of
a minute, as what answers show is known to who counts only after a while.
"""

from typing import Any, Final, NamedTuple, Self

from msgspec import Struct

from headrace.exposures import octaves_max
from learners.parts.portable import power_of_two

groups_max: Final = 500
"""Most groups of a kind that are remembered; those that got the least exposure lately are forgotten first."""
answers_full: Final = 50
"""Answers since the last look from which on a look counts in full."""
gain: Final = 0.3
"""How far a look moves a multiplier, for a share that is off by as much as its bound."""
_error_max: Final = 10.0
merit_least: Final = 0.002
"""Least merit of a group to which a least exposure is guaranteed: others are shown by chance."""

Shares = dict[str, float]


class Bounds(NamedTuple):
    """The bounds of one kind of groups, None where there is none."""

    most: float | None = None
    merit_least: float | None = None


class Group(Struct, gc=False):
    """A group's exposure so far and lately, and its multipliers."""

    total: float = 0.0
    recent: float = 0.0
    over: float = 0.0
    under: float = 0.0

    @property
    def factor(self) -> float:
        """What multiplies the scores of its items."""
        return power_of_two(self.under - self.over)


class Kind:
    """The groups of one kind: brands, sellers, or bands of popularity.

    Args:
        half_life_ms: shop time after which what was counted counts half in what is lately.

    >>> kind = Kind(1_000)
    >>> for _ in range(100):
    ...     kind.show("acme", 0.6)
    ...     kind.show("other", 0.4)
    >>> kind.look(5_000, 100, {}, Bounds(most=0.5))
    >>> [round(kind.groups[name].factor, 2) for name in ("acme", "other")]
    [0.96, 1.0]
    """

    def __init__(self, half_life_ms: int) -> None:
        self.half_life_ms, self._looked_ms = half_life_ms, 0
        self.groups: dict[str, Group] = {}
        self._new: Shares = {}
        self.total = self.recent = 0.0

    def show(self, group: str, exposure: float) -> None:
        """Count the exposure of an item of a group, "" if that is unknown."""
        new = self._new
        if group in new or len(new) < 2 * groups_max:
            new[group] = new.get(group, 0.0) + exposure
        else:
            new[""] = new.get("", 0.0) + exposure

    def look(self, time_ms: int, answers: int, merits: Shares, bounds: Bounds) -> None:
        """Add up what was counted since the last look, and move the multipliers.

        Args:
            time_ms: the shop's time.
            answers: how many there were since.
            merits: the groups' shares of what shoppers turn to.
        """
        new, self._new = self._new, {}
        shown = sum(new.values())
        if not shown:
            return
        fading = power_of_two(-min((time_ms - self._looked_ms) / self.half_life_ms, 1_000.0))
        self._looked_ms = time_ms
        self.total += shown
        self.recent = fading * self.recent + shown
        for name, exposure in new.items():
            self.groups.setdefault(name, Group()).total += exposure
        if bounds.merit_least:
            for name, merit in merits.items():
                if merit >= merit_least:
                    self.groups.setdefault(name, Group())
        step = gain * min(1.0, answers / answers_full)
        for name, one in self.groups.items():
            exposure, merit = new.get(name, 0.0), merits.get(name, 0.0)
            one.recent = fading * one.recent + exposure
            share, most, least = exposure / shown, bounds.most, None
            if bounds.merit_least and merit >= merit_least:
                least = min(bounds.merit_least * merit, bounds.most or 1.0)
            one.over = _moved(one.over, step, (share - most) / most) if most and name else 0.0
            one.under = _moved(one.under, step, (least - share) / least) if least and name else 0.0
        if len(self.groups) > groups_max:
            kept = sorted(self.groups.items(), key=lambda one: (-max(one[1].over, one[1].under), -one[1].recent))
            self.groups = dict(kept[:groups_max])

    def shares(self) -> Shares:
        """Return each group's share of the exposure lately, "" for what is not known."""
        return {name: one.recent / self.recent for name, one in self.groups.items()} if self.recent else {}

    def __len__(self) -> int:
        return len(self.groups)

    def state(self) -> dict[str, Any]:
        """Return all groups."""
        groups = [[name, one.total, one.recent, one.over, one.under] for name, one in self.groups.items()]
        return {
            "half_life_ms": self.half_life_ms, "looked_ms": self._looked_ms, "groups": groups,
            "new": list(self._new.items()), "total": self.total, "recent": self.recent,
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Return what continues where `state` was taken."""
        found = cls(state["half_life_ms"])
        found._looked_ms = state["looked_ms"]
        found.groups = {name: Group(*values) for name, *values in state["groups"]}
        found._new = dict(state["new"])
        found.total, found.recent = state["total"], state["recent"]
        return found


def _moved(multiplier: float, step: float, error: float) -> float:
    moved = step * min(max(error, -_error_max), _error_max)
    return min(max(0.0, multiplier + moved), octaves_max)
