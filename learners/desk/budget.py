"""The budget of a shopper: how much one of them may teach in a day of what all shoppers share."""

from itertools import islice
from typing import Final

from headrace.events import Event
from headrace.sampling import fraction
from headrace.state import State

day_ms: Final = 86_400_000


class Budget:
    """Counts each shopper's steps of the day, and picks the events that count.

    Up to `full` steps a day all events count. After n steps an event counts with probability (full / n) ** 2, so that
    all later ones together count for less than the first ones, and after `most` steps none does. The event's id
    decides, so every shard and every replay picks the same ones.

    Args:
        full, most: steps a day.
        shoppers_max: most shoppers of a day; above it, those that came first count anew.
    """

    def __init__(self, *, full: int, most: int, shoppers_max: int) -> None:
        self.full, self.most, self.shoppers_max = full, most, shoppers_max
        self._day = 0
        self._steps: dict[str, int] = {}

    def take(self, event: Event) -> bool:
        """Count the steps of an event, one for each line; return whether the event counts."""
        day = event.time_ms // day_ms
        if day != self._day:
            self._day, self._steps = day, {}
        steps = self._steps.get(event.shopper, 0)
        if not steps and len(self._steps) >= self.shoppers_max:
            for shopper in list(islice(self._steps, max(1, self.shoppers_max // 16))):
                del self._steps[shopper]
        self._steps[event.shopper] = steps + (len(event.data.items) or 1)
        if steps < self.full:
            return True
        return steps < self.most and fraction(event.id, 0, "budget") < (self.full / steps) ** 2

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the number of the day's shoppers and the maximum."""
        return {"shoppers_today": (len(self._steps), self.shoppers_max)}

    def state(self) -> State:
        """Return the day and the steps of its shoppers, in the order of their first."""
        return {"day": self._day, "shoppers": list(self._steps), "steps": list(self._steps.values())}

    def restore(self, state: State) -> None:
        """Continue where `state` was taken; of more shoppers than the maximum, with those that came last."""
        self._day = state["day"]
        self._steps = dict(list(zip(state["shoppers"], state["steps"], strict=True))[-self.shoppers_max :])
