"""Choices: the steps that carts, wishlists and orders taught, so that a removal or a refund can take them back."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, Self

import numpy as np

from headrace.state import State

choices_max: Final = 100_000
"""Most steps that can be taken back; the oldest are final."""
TAKEN_BACK_BY: Final = frozenset({"remove_from_cart", "refund"})
"""Events that take choices back."""


class Choices:
    """By shopper and item, the shop time at which a choice was learned as a step, and whether the item was ordered.

    What was ordered is taken back by a refund alone: shops empty the cart after an order.

    Most are none: an item of the session that is then bought was learned when it was viewed, and is not unlearned.
    """

    def __init__(self) -> None:
        self._choices: OrderedDict[tuple[str, int], tuple[int, bool]] = OrderedDict()

    def note(self, shopper: str, slot: int, time_ms: int, *, ordered: bool) -> None:
        """Note that a choice was learned as a step."""
        self._choices[shopper, slot] = time_ms, ordered
        if len(self._choices) > choices_max:
            self._choices.popitem(last=False)

    def order(self, shopper: str, slot: int) -> None:
        """Note that an item was ordered."""
        if choice := self._choices.get((shopper, slot)):
            self._choices[shopper, slot] = choice[0], True

    def take(self, shopper: str, slot: int, *, ordered: bool) -> int | None:
        """Forget a choice; return when it was learned, None if it is not known.

        Args:
            ordered: also one that was ordered.
        """
        choice = self._choices.get((shopper, slot))
        if choice is None or choice[1] > ordered:
            return None
        del self._choices[shopper, slot]
        return choice[0]

    def move(self, from_shopper: str, to_shopper: str, slots: Iterable[int]) -> None:
        """Move choices of one shopper to another."""
        for slot in slots:
            if choice := self._choices.pop((from_shopper, slot), None):
                self._choices[to_shopper, slot] = choice

    def forget(self, slots: Iterable[int]) -> None:
        """Drop the choices of these slots."""
        gone = set(slots)
        for key in [key for key in self._choices if key[1] in gone]:
            del self._choices[key]

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the number of choices and the maximum."""
        return {"steps": (len(self._choices), choices_max)}

    def state(self) -> State:
        """Return all choices, oldest first."""
        return {
            "shoppers": [shopper for shopper, _ in self._choices],
            "slots": np.array([slot for _, slot in self._choices], np.int32),
            "times_ms": np.array([time_ms for time_ms, _ in self._choices.values()], np.int64),
            "ordered": [ordered for _, ordered in self._choices.values()],
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return choices that continue exactly where `state` was taken."""
        choices = cls()
        keys = zip(state["shoppers"], state["slots"].tolist(), strict=True)
        values = zip(state["times_ms"].tolist(), state["ordered"], strict=True)
        choices._choices.update(zip(keys, values, strict=True))
        return choices
