"""Shifts: whether what a shop sees is still distributed as it was, and what moved if it is not.

Values are counted in blocks. The newest blocks are the window, which slides by one block; what leaves it goes to the
reference, where a block loses half of its weight in a week. Each feature has a distance between the two that suits it,
and a threshold that follows from the distances so far: hypothesis tests are over-sensitive on streams, and a distance
that is large every weekend is usual. No alarm is raised before a week of the shop's time has passed.

Window and reference are samples of n and m values. By chance alone a distance is about proportional to
sqrt(1 / n + 1 / m), so usual distances are kept in this unit: a reference that begins anew is a small sample, and
raises no alarm by that.

A shift of few values is too small for the window; single values are also looked for in a long one of the same blocks.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from heapq import nlargest
from math import fsum, inf, sqrt
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from headrace.state import State

window_blocks: Final = 6
"""Blocks of the window."""
long_blocks: Final = 18
"""Blocks of the long window."""
long_step: Final = 3
"""Blocks from one look at the long window to the next."""
warmup_distances: Final = 6
"""Distances from which the usual one is estimated before the first alarm."""
deviations: Final = 3.5
"""The threshold's distance from the usual distance, in standard deviations."""
spread_min: Final = 0.1
"""Least standard deviation, as a share of the usual distance: estimates from few distances are unreliable."""
_rescaled_from: Final = 1e100


class Usual:
    """The usual distance and its spread, exponentially weighted; a threshold follows from them."""

    __slots__ = ("_count", "_mean", "_square")

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._square = 0.0

    @property
    def threshold(self) -> float:
        """The distance above which one is unusual; infinite before enough distances."""
        if self._count < warmup_distances:
            return inf
        spread = sqrt(max(0.0, self._square - self._mean * self._mean))
        return self._mean + deviations * max(spread, spread_min * self._mean)

    def learn(self, distance: float, fading: float) -> None:
        """Add a distance; the former ones lose this share of their weight."""
        self._count += 1
        weight = max(fading, 1 / self._count)
        self._mean += weight * (distance - self._mean)
        self._square += weight * (distance * distance - self._square)

    def state(self) -> State:
        """Return the estimates."""
        return {"count": self._count, "mean": self._mean, "square": self._square}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return estimates that continue exactly where `state` was taken."""
        usual = cls()
        usual._count, usual._mean, usual._square = state["count"], state["mean"], state["square"]
        return usual


class Sums:
    """Sums by name in the running block, the window and the reference.

    What is added is whole, so the window's sums are exact in whatever order blocks join and leave it. The reference
    fades: each block has a larger weight than the one before, and sums are divided by the newest one.

    Args:
        names_max: names in the reference. Beyond, the smaller half is joined under "".
        blocks: of the window.

    Attributes:
        window: the sums in the window; size: the sum of these.
        full: whether the window has all of its blocks, and the reference six at least, not all of them empty.
    """

    def __init__(self, names_max: int, blocks: int = window_blocks) -> None:
        self._names_max, self._blocks_max = names_max, blocks
        self.block: dict[str, int] = {}
        self.window: dict[str, int] = {}
        self.size = 0
        self._blocks: deque[tuple[dict[str, int], bool]] = deque()  # those of the window; whether each was usual
        self._reference: dict[str, float] = {}
        self._referred = 0  # number of blocks in the reference
        self._weight = 1.0  # of the newest one
        self._total = self._squares = 0.0  # of the reference's weights, and of their squares

    @property
    def full(self) -> bool:
        return len(self._blocks) == self._blocks_max and self._referred >= window_blocks and self._squares > 0

    @property
    def reference_size(self) -> float:
        """The number of equally weighted values with the information of the reference (Kish)."""
        return self._total * self._total / self._squares if self._squares else 0.0

    def reference(self, name: str) -> float:
        """Return the reference's sum of a name, in weights of its newest block."""
        return self._reference.get(name, 0.0) / self._weight

    def reference_share(self, name: str) -> float:
        """Return the share of a name in the reference."""
        return self._reference.get(name, 0.0) / self._total

    def shares(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the shares of each name of the window, in the window and in the reference. Shapes: (names,)"""
        now = np.fromiter(self.window.values(), np.float64, len(self.window))
        return now / self.size, self.reference_shares(self.window)

    def reference_shares(self, names: Iterable[str]) -> NDArray[np.float64]:
        """Return the shares of names in the reference. Shapes: (names,)"""
        found = self._reference.get
        return np.array([found(name, 0.0) for name in names]) / self._total

    def reference_names(self) -> Iterator[str]:
        """Yield the names of the reference."""
        return iter(self._reference)

    def end(self, fading: float, *, usual: bool) -> None:
        """End the block: it joins the window, and the window's oldest one the reference if that was usual."""
        self._blocks.append((self.block, usual))
        self._join(self.block)
        self.block = {}
        if len(self._blocks) > self._blocks_max:
            block, usual = self._blocks.popleft()
            self._leave(block)
            if usual:
                self._fade_in(block, fading)

    def _join(self, block: Mapping[str, int]) -> None:
        window = self.window
        for name, amount in block.items():
            window[name] = window.get(name, 0) + amount
        self.size += sum(block.values())

    def _leave(self, block: Mapping[str, int]) -> None:
        window = self.window
        for name, amount in block.items():
            left = window.pop(name, 0) - amount
            if left:
                window[name] = left
        self.size -= sum(block.values())

    def begin_anew(self) -> None:
        """Forget all: the next window, which has nothing of the time before, becomes the reference."""
        self._reference, self._referred = {}, 0
        self._weight, self._total, self._squares = 1.0, 0.0, 0.0
        self.forget_window()

    def forget_window(self) -> None:
        """Forget the window and the running block."""
        self.block, self.window, self.size = {}, {}, 0
        self._blocks.clear()

    def _fade_in(self, block: Mapping[str, int], fading: float) -> None:
        self._referred += 1
        self._weight /= 1 - fading
        weight, reference, total = self._weight, self._reference, sum(block.values())
        for name, amount in block.items():
            reference[name] = reference.get(name, 0.0) + weight * amount
        self._total += weight * total
        self._squares += weight * weight * total
        if len(reference) > self._names_max:
            kept = nlargest(self._names_max // 2, ((sum_, name) for name, sum_ in reference.items() if name))
            dropped = fsum(reference.values()) - fsum(sum_ for sum_, _ in kept)
            self._reference = {**{name: sum_ for sum_, name in kept}, "": dropped}
        if weight > _rescaled_from:
            self._reference = {name: sum_ / weight for name, sum_ in self._reference.items()}
            self._total, self._squares, self._weight = self._total / weight, self._squares / weight**2, 1.0

    def state(self) -> State:
        """Return all sums."""
        return {
            "block": _packed(self.block),
            "blocks": [[_packed(block), usual] for block, usual in self._blocks],
            "reference": _packed(self._reference),
            "referred": self._referred, "weight": self._weight, "total": self._total, "squares": self._squares,
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""
        self.block, self.window, self.size = _unpacked(state["block"]), {}, 0
        self._blocks = deque((_unpacked(block), usual) for block, usual in state["blocks"])
        for block, _ in self._blocks:
            self._join(block)
        self._reference = _unpacked(state["reference"])
        self._referred = state["referred"]
        self._weight, self._total, self._squares = state["weight"], state["total"], state["squares"]


class LongSums(Sums):
    """The sums of a long window beside those of a window of `window_blocks`, over the same blocks.

    A change of few values, as within a small category, is a few standard deviations in the window and twice as many in
    the long one, while what is expected by chance is as large in both. Looking costs as much as at the window, so that
    is done every few blocks.
    """

    def __init__(self, names_max: int) -> None:
        super().__init__(names_max, long_blocks)
        self._until_look = long_step

    def take(self, block: dict[str, int], fading: float, *, usual: bool) -> bool:
        """End a block, which the other sums end as well; return whether to look."""
        self.block = block
        self.end(fading, usual=usual)
        if not self.full or not self.size:
            return False
        self._until_look -= 1
        if self._until_look:
            return False
        self._until_look = long_step
        return True

    def forget_window(self) -> None:
        """Forget the window."""
        super().forget_window()
        self._until_look = long_step

    def state(self) -> State:
        """Return all sums."""
        return {**super().state(), "until_look": self._until_look}

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""
        super().restore(state)
        self._until_look = state["until_look"]


def _packed(sums: Mapping[str, float]) -> State:
    # In which order names came, and whether a sum of 0 has one, depends on what was counted together.
    names = sorted(name for name, sum_ in sums.items() if sum_)
    return {"names": names, "sums": np.array([sums[name] for name in names])}


def _unpacked(state: State) -> dict[str, Any]:
    return dict(zip(state["names"], state["sums"].tolist(), strict=True))


class Watch:
    """A distance that a detector watches: the newest one, the usual one, and the threshold, 0 until there is one."""

    def __init__(self, name: str, least: float = 0.0) -> None:
        self.name, self._least = name, least
        self.score = self.threshold = 0.0
        self._usual = Usual()

    def observe(
        self, score: float, unit: float, fading: float, *, ready: bool, usual: bool, chance: float = 0.0
    ) -> bool:
        """Take a distance; return whether it is too large. One that is not becomes part of the usual one.

        Args:
            unit: what the distance is proportional to by chance.
            chance: the largest distance, in this unit, that can be expected by chance.
        """
        threshold = max(self._least, max(chance, self._usual.threshold) * unit)
        self.score, self.threshold = score, threshold if threshold < inf else 0.0
        if ready and score > threshold:
            return True
        if usual:
            self._usual.learn(score / unit, fading)
        return False

    def state(self) -> State:
        """Return the complete state."""
        return {"score": self.score, "threshold": self.threshold, "usual": self._usual.state()}

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""
        self.score, self.threshold = state["score"], state["threshold"]
        self._usual = Usual.from_state(state["usual"])
