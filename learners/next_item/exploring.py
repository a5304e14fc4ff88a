"""Exploring: what an answer of an exploring arm leaves to chance, in which context, and what is chosen.

The choice is drawn from the policy's probabilities by a hash of the answer's id, so an answer can be made again.
"""

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from headrace.experiments import RECOMMENDED, Explore
from headrace.impressions import Explored, ShownItem
from headrace.policies import PHONES, of_time
from headrace.sampling import fraction
from learners.next_item.ranking import Ask
from learners.parts.policies import Chooser, present

visit_max: Final = 8
"""Items of a visit from which on it counts as long."""


class Exploring(NamedTuple):
    """What an arm leaves to chance: the experiment, the arm, and its policy, None before there is one."""

    experiment: str
    arm: str
    explore: Explore
    chooser: Chooser | None = None

    def draw(self, actions: Sequence[str], context: list[float], id_: str) -> Explored:
        """Choose one of the actions, which may be fewer than the arm has: then they are its first ones.

        >>> exploring = Exploring("home", "new", Explore(rankers=("recommended", "trending")))
        >>> drawn = [exploring.draw(["recommended", "trending"], [], f"r{n}") for n in range(1_000)]
        >>> drawn[0].probabilities, sum(one.action for one in drawn)
        ([0.99, 0.01], 12)
        """
        chooser, version = self.chooser, ""
        if chooser is None:
            probabilities = present(len(actions), self.explore.floor).tolist()
        else:
            probabilities = chooser.probabilities(context, len(actions)).tolist()
            version = chooser.policy.version
        left = fraction(f"{self.experiment}\0{self.arm}\0{id_}", 0, "explore")
        action = len(actions) - 1
        for number, one in enumerate(probabilities):
            left -= one
            if left < 0:
                action = number
                break
        return Explored(
            self.experiment, list(actions), probabilities, action, self.explore.slot, version, context
        )  # fmt: skip


def context_of(ask: Ask, asked: Sequence[str], segments: Collection[str]) -> list[float]:
    """Return the context of an answer: the numbers that `headrace.policies.features_of` names.

    Args:
        asked: the segments that the arm names.
        segments: those that the shopper is in.
    """
    return [
        1.0, min(ask.visit, visit_max) / visit_max, float(not ask.visit), float(ask.returning),
        float(ask.device in PHONES), *of_time(ask.time_ms), float(ask.on_item), float(ask.model is not None),
        *[float(name in segments) for name in asked],
    ]  # fmt: skip


def ranker_of(explored: Explored) -> str:
    """Return the ranker that was chosen, as an arm states it."""
    chosen = explored.actions[explored.action]
    return "" if chosen == RECOMMENDED else chosen


def candidates_in(items: Sequence[str], explore: Explore, fixed: frozenset[str]) -> list[int]:
    """Return the places of the items that may take the slot, the present one first; none if it is not free.

    Args:
        items: in the order of the ranking.
        fixed: items that must stay at their places.

    >>> candidates_in(["a", "b", "c", "d", "e"], Explore(slot=2, candidates=3), frozenset("c"))
    [1, 3, 4]
    >>> candidates_in(["a", "b"], Explore(slot=2), frozenset()), candidates_in(["a", "b"], Explore(slot=3), frozenset())
    ([], [])
    """
    first = explore.slot - 1
    found = [place for place in range(first, len(items)) if items[place] not in fixed][: explore.candidates]
    return found if len(found) > 1 and found[0] == first else []


def shown_items(items: Sequence[str], explored: Explored | None) -> list[ShownItem]:
    """Return the items of a list with their propensities.

    Where a whole list was chosen, each item has the probability of the list. Where a slot was, the candidates have that
    of their place: the other one of the two that changed places has it too.

    >>> drawn = Explored("e", ["b", "c"], [0.75, 0.25], 1, 2)
    >>> [(one.item_id, one.propensity) for one in shown_items(["a", "c", "b"], drawn)]
    [('a', 1.0), ('c', 0.25), ('b', 0.25)]
    """
    if explored is None:
        return [ShownItem(item) for item in items]
    chances, chosen = explored.probabilities, explored.probabilities[explored.action]
    if not explored.position:
        return [ShownItem(item, chosen) for item in items]
    # Another candidate is at its own place unless it was chosen; the present item is where the chosen one was.
    of = {item: 1 - chance for item, chance in zip(explored.actions, chances, strict=True)}
    of[explored.actions[0]] = of[explored.actions[explored.action]] = chosen
    return [ShownItem(item, of.get(item, 1.0)) for item in items]
