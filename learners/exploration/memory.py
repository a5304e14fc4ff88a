"""Memory: what is known of choices from all explorations, and from arms with one ranker, so that none begins anew.

Kept by reward and choice, with a half-life of its own. Of answers of arms with one ranker, the context is what the
impression tells of it; what it does not (the visit, the page) counts as 0.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, Self

from headrace.experiments import RECOMMENDED, Experiment, Explore
from headrace.impressions import Impression
from headrace.policies import FEATURES, PHONES, of_time
from learners.exploration.posterior import Posterior
from learners.next_item.routes import RANKED

half_life_ms: Final = 30 * 86_400_000
known_max: Final = 128
"""Most choices that are remembered; those of which nothing was learned for the longest time are forgotten first."""
begin_answers_max: Final = 200.0
"""Most answers that the memory of a choice counts as when an exploration begins."""
arms_window_ms: Final = 30 * 60_000
"""Time in which an answer of an arm with one ranker may be clicked."""


class Plain(NamedTuple):
    """An answer of one ranker."""

    action: str
    context: list[float]


def keys_of(explore: Explore) -> list[str]:
    """Return under which names the actions of an arm are remembered.

    >>> keys_of(Explore(rankers=("recommended", "new"), reward="cart")), keys_of(Explore(slot=3, candidates=2))
    (['cart/recommended', 'cart/new'], ['click/slot 3/1', 'click/slot 3/2'])
    """
    where = f"slot {explore.slot}/" if explore.slot else ""
    return [f"{explore.reward}/{where}{action}" for action in explore.actions]


def plain(shown: Impression, stated: Iterable[tuple[Experiment, str]], time_ms: int) -> Plain | None:
    """Return an answer as one of a single ranker, None if it is not.

    Args:
        stated: the experiments that it was part of, and the arms.
        time_ms: the shop's time of the answer.
    """
    rankers = set[str]()
    for experiment, name in stated:
        arm = next((one for one in experiment.arms if one.name == name), None)
        if arm is None or experiment.kind != "arms" or arm.explore or arm.rules or arm.without or arm.model:
            return None
        if arm.ranker:
            rankers.add(arm.ranker)
    if len(rankers) > 1 or shown.route not in RANKED:
        return None
    phone, deep = float(shown.device in PHONES), float(bool(shown.model))
    context = [1.0, 0.0, 0.0, 0.0, phone, *of_time(time_ms), 0.0, deep]
    return Plain(rankers.pop() if rankers else RECOMMENDED, context)


class Memory:
    """A regression for each reward and choice."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Posterior] = OrderedDict()

    def learn(self, key: str, context: Sequence[float], reward: float, time_ms: int) -> None:
        """Learn the reward of one answer. What an arm knows beside `FEATURES`, others do not: it is left out."""
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Posterior(1, len(FEATURES), half_life_ms=half_life_ms)
            if len(self._known) > known_max:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        known.learn(0, context[: len(FEATURES)], reward, time_ms)

    def tell(self, posterior: Posterior, keys: Sequence[str], time_ms: int) -> None:
        """Let a posterior that has learned nothing begin with what is known of its actions."""
        for action, key in enumerate(keys):
            if known := self._known.get(key):
                posterior.begin(action, known, time_ms, answers_max=begin_answers_max)

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the number of choices and the maximum."""
        return {"remembered_choices": (len(self._known), known_max)}

    def state(self) -> list[Any]:
        """Return all that is known, what was learned of least recently first."""
        return [[key, one.state()] for key, one in self._known.items()]

    @classmethod
    def from_state(cls, state: list[Any]) -> Self:
        """Return a memory that continues where `state` was taken."""
        found = cls()
        found._known.update((key, Posterior.from_state(one)) for key, one in state)
        return found
