"""Forward decay: exponential decay by event time that leaves existing counts unchanged.

Instead of shrinking all counts at each event, newer events get a greater weight, 2 ** (age of the stream in
half-lives). Ratios, and so every ranking and share, are those of exponential decay. Before the weights grow too large
for floats, `advance` returns a factor by which the owner scales its counts down, and the stream's age restarts at 0.
"""

from typing import Final

from headrace.state import State
from learners.parts.portable import power_of_two

_half_lives_max: Final = 60.0
_weight_half_lives_max: Final = 1_000.0


class Decay:
    """The weight of an event by its time. Without a half-life every weight is 1 (plain counts).

    >>> decay = Decay(1_000)
    >>> decay.advance(0), decay.weight(0), decay.weight(2_000), decay.weight(-1_000)
    (1.0, 1.0, 4.0, 0.5)
    >>> decay.advance(70_000) == 0.5**70, decay.weight(70_000)
    (True, 1.0)
    """

    __slots__ = ("_origin_ms", "half_life_ms")

    def __init__(self, half_life_ms: int | None) -> None:
        assert half_life_ms is None or half_life_ms > 0, "a half-life is above 0, or None for plain counts"
        self.half_life_ms = half_life_ms
        self._origin_ms: int | None = None

    def advance(self, time_ms: int) -> float:
        """Return the factor by which the owner must scale all its counts before it counts this event."""
        if self.half_life_ms is None:
            return 1.0
        if self._origin_ms is None:
            self._origin_ms = time_ms
        half_lives = (time_ms - self._origin_ms) / self.half_life_ms
        if half_lives <= _half_lives_max:
            return 1.0
        self._origin_ms = time_ms
        return power_of_two(-half_lives)

    def weight(self, time_ms: int) -> float:
        """Return the weight of an event; call `advance` first.

        The weight of a very late event may be 0. For times far in the future it is bounded, so that it stays finite.
        """
        if self.half_life_ms is None or self._origin_ms is None:
            return 1.0
        return power_of_two(min((time_ms - self._origin_ms) / self.half_life_ms, _weight_half_lives_max))

    def state(self) -> State:
        """Return the half-life and the origin."""
        return {"half_life_ms": self.half_life_ms, "origin_ms": self._origin_ms}

    @classmethod
    def from_state(cls, state: State) -> "Decay":
        """Return the decay that `state` was taken from."""
        decay = cls(state["half_life_ms"])
        decay._origin_ms = state["origin_ms"]
        return decay
