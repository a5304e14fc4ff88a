"""Features that are watched for a shift: shares of values, numbers by group, and vectors."""

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import nlargest
from math import fsum, log, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headrace.drift import Moved
from headrace.state import State
from learners.parts import portable
from learners.parts.drift import Alarm
from learners.parts.shift import LongSums, Sums, Watch, window_blocks

named_max: Final = 3
"""Most values that an alarm names."""
peak_min: Final = 4.5
"""Least threshold of a single value's deviation."""
divergence_min: Final = 0.02
stability_min: Final = 0.05
"""Least thresholds of Jensen-Shannon's distance and of the stability index: smaller ones are of no concern."""
chance_deviations: Final = 3.0
"""By how much more than the root of its degrees of freedom that of a chi-square is, about once in 5,000 times."""
divergence_of_chance: Final = 1 / sqrt(8 * log(2))
"""Jensen-Shannon's distance, in bits, for a root of a chi-square of 1 (the first term of its series)."""
few_values: Final = 512
"""With fewer values in the window, those that are gone are looked for."""
vectors_min: Final = 60
"""Least number of vectors in a window whose distance is computed."""
vector_scale: Final = 32.0
"""The size of a vector's numbers."""
counted_together: Final = 256
"""Values that are counted together: less work than each in its turn."""
level_unit: Final = 2**-20
"""Sums of levels are of whole multiples of this, so that they are exact."""
groups_max: Final = 512
"""Groups of which means are kept; further ones are joined."""
group_values_min: Final = 6
"""Least number of values of a group in the window that an alarm names."""


class Feature(ABC):
    """What a monitor watches, with one or two detectors.

    Attributes:
        watches: the detectors' distances.
    """

    watches: tuple[Watch, ...]

    @abstractmethod
    def end(self, fading: float, *, ready: bool, usual: bool, time_ms: int) -> list[Alarm]:
        """End a block; return the alarms. After one, the reference begins anew, unless the block was not usual."""

    @abstractmethod
    def forget_window(self) -> None:
        """Forget the window, because what it holds was not usual."""

    @abstractmethod
    def state(self) -> State:
        """Return the complete state."""

    @abstractmethod
    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""


class Shares(Feature):
    """The shares of values: items, categories, devices.

    The distance is Jensen-Shannon's (the root of the divergence, in bits) or, for few values, the population stability
    index. A second detector, `NAME_peak`, watches the largest deviation of one value, after the square root that makes
    the variance of counts the same for rare and frequent ones: one item that everybody views moves no distance over
    thousands of items.

    With `add`, a value counts once per shopper and block: one shopper is no crowd.

    Args:
        name: of the detector.
        least: distances up to this are of no concern.
        stability: use the population stability index.
        peak: watch single values, too.
        names_max: values of the reference.

    Source: Lin, "Divergence measures based on the Shannon entropy", IEEE Trans. Inf. Theory 37, 1991; Anscombe, "The
    transformation of Poisson, binomial and negative-binomial data", Biometrika 35, 1948.
    """

    def __init__(
        self, name: str, *, least: float = divergence_min, stability: bool = False, peak: bool = False,
        names_max: int = 4_096,
    ) -> None:  # fmt: skip
        self._distance = Watch(name, least)
        self._peak = Watch(f"{name}_peak", least=peak_min) if peak else None
        self.watches = (self._distance, self._peak) if self._peak else (self._distance,)
        self._stability = stability
        self._sums = Sums(names_max)
        self._long = LongSums(names_max) if peak else None
        self._counted: set[tuple[str, str]] = set()

    def add(self, values: Sequence[str], shoppers: Sequence[str]) -> None:
        """Count values of shoppers, each the first time in the block that a shopper has it, and none that is ""."""
        counted = self._counted
        fresh = [pair for pair in dict.fromkeys(zip(values, shoppers, strict=True)) if pair not in counted and pair[0]]
        counted.update(fresh)
        self.count([value for value, _ in fresh])

    def count(self, values: Iterable[str]) -> None:
        """Count values."""
        self.count_all(Counter(values))

    def count_all(self, numbers: Mapping[str, int]) -> None:
        """Count values, each so many times."""
        _add(self._sums.block, numbers)

    def end(self, fading: float, *, ready: bool, usual: bool, time_ms: int) -> list[Alarm]:
        """See `Feature.end`."""
        sums = self._sums
        self._counted.clear()
        long = self._long if self._long and self._long.take(sums.block, fading, usual=usual) else None
        sums.end(fading, usual=usual)
        size, reference_size = sums.size, sums.reference_size
        if not sums.full or not size:
            return []
        unit = sqrt(1 / size + 1 / reference_size)
        distance = self._stability_index(size) if self._stability else self._jensen_shannon()
        # Both distances grow with the root of a chi-square with a degree of freedom for each value but one.
        chance = sqrt(max(1, len(sums.window) - 1) - 0.5) + chance_deviations
        chance *= 1.0 if self._stability else divergence_of_chance
        unusual = self._distance.observe(distance, unit, fading, ready=ready, usual=usual, chance=chance)
        found = [self._distance] if unusual else []
        looked = [(one, *deviations_of(one)) for one in (sums, long) if one] if self._peak else []
        if self._peak:
            looked.sort(key=_highest, reverse=True)
            if self._peak.observe(_highest(looked[0]), 1.0, fading, ready=ready, usual=usual):
                found.append(self._peak)
        if not found:
            return []
        moved = most_moved(*(looked[0] if looked else (sums, *deviations_of(sums))))
        if usual:
            sums.begin_anew()
            if self._long:
                self._long.begin_anew()
        return [Alarm(watch.name, watch.score, watch.threshold, moved) for watch in found]

    def _jensen_shannon(self) -> float:
        now, before = self._sums.shares()
        both, known = now + before, before > 0
        terms = now * portable.log(2 * now / both)
        terms[known] += before[known] * portable.log(2 * before[known] / both[known])
        only_before = max(0.0, 1 - fsum(before.tolist()))  # each such value adds its share, in bits
        return sqrt(max(0.0, fsum(terms.tolist()) / log(2) + only_before) / 2)

    def _stability_index(self, size: int) -> float:
        sums, least = self._sums, 0.5 / size
        gone = (name for name in sums.reference_names() if name not in sums.window)
        now, before = sums.shares()
        shares = [
            *zip(now.tolist(), before.tolist(), strict=True), *((0.0, sums.reference_share(name)) for name in gone)
        ]  # fmt: skip
        bounded = ((max(least, now), max(least, before)) for now, before in shares)
        # Its root is proportional to the change, as the other distances are.
        return sqrt(fsum((now - before) * log(now / before) for now, before in bounded))

    def forget_window(self) -> None:
        """See `Feature.forget_window`."""
        self._sums.forget_window()
        if self._long:
            self._long.forget_window()
        self._counted.clear()

    def state(self) -> State:
        """See `Feature.state`."""
        long = {"long": self._long.state()} if self._long else {}
        return {
            "watches": [watch.state() for watch in self.watches], "sums": self._sums.state(), **long,
            "counted": [list(pair) for pair in sorted(self._counted)],
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """See `Feature.restore`."""
        for watch, kept in zip(self.watches, state["watches"], strict=True):
            watch.restore(kept)
        self._sums.restore(state["sums"])
        if self._long:
            self._long.restore(state["long"])
        self._counted = {(value, shopper) for value, shopper in state["counted"]}


def deviations_of(sums: Sums) -> tuple[list[str], NDArray[np.float64]]:
    """Return values, and by how many standard deviations of chance the window has more of each than the reference."""
    size, names = sums.size, list(sums.window)
    now, before = sums.shares()
    if len(names) < few_values:  # a value that is gone is not in the window
        gone = [name for name in sums.reference_names() if name not in sums.window]
        names += gone
        now = np.append(now, np.zeros(len(gone)))
        before = np.append(before, [sums.reference_share(name) for name in gone])
    scale = 2 / sqrt(1 + size / sums.reference_size)
    found = scale * (np.sqrt(now * size + 0.375) - np.sqrt(size * before + 0.375))
    if "" in names:
        found[names.index("")] = 0.0
    return names, found


def _highest(looked: tuple[Sums, list[str], NDArray[np.float64]]) -> float:
    return float(np.abs(looked[2]).max(initial=0.0))


def most_moved(sums: Sums, names: Sequence[str], found: NDArray[np.float64]) -> tuple[Moved, ...]:
    """Return the values that moved most, of those that `deviations_of` returned."""
    sizes = np.abs(found).tolist()
    most = nlargest(named_max, ((one, name) for one, name in zip(sizes, names, strict=True) if name))
    return tuple(
        Moved(name, sums.reference_share(name), sums.window.get(name, 0.0) / sums.size, "%") for _, name in most
    )


class Levels(Feature):
    """A number, and its mean by group, so that an alarm names the groups whose mean moved.

    The distance is Wasserstein's first, over bins of equal width: by how much values moved, in their unit.

    Args:
        least: distances up to this are of no concern, however unusual they are.
        low, high: where the first bin begins and the last ends; values beyond are counted there.
        passing: a shift passes by itself, so the reference stays; the next alarm comes once it has passed.
        shown: what a mean is told as, e.g. `exp` where the number is a logarithm; `unit` as in `Moved`.

    Source: Ramdas, Garcia Trillos & Cuturi, "On Wasserstein two-sample testing", Entropy 19, 2017.
    """

    def __init__(
        self, name: str, low: float, high: float, *, least: float, bins: int = 64, passing: bool = False,
        shown: Callable[[float], float] = float, unit: str = "",
    ) -> None:  # fmt: skip
        self._distance = Watch(name, least)
        self.watches = (self._distance,)
        self._low, self._width, self._bins, self._shown = low, (high - low) / bins, bins, shown
        self._passing, self._alarmed, self._unit = passing, False, unit
        self._places = [str(place) for place in range(bins)]
        self._values = Sums(bins + 1)
        self._groups: dict[str, None] = {}
        self._counts, self._totals = Sums(groups_max + 1), Sums(groups_max + 1)  # by group
        self._added: list[float] = []  # not counted yet
        self._added_of: list[str] = []

    def add(self, values: Sequence[float], of: Sequence[str]) -> None:
        """Add values, and the groups that they are of."""
        self._added += values
        self._added_of += of
        if len(self._added) >= counted_together:
            self._count()

    def _count(self) -> None:
        """Count what was added. It may be called at any time: the sums are the same."""
        values, of = self._added, self._added_of
        if not values:
            return
        self._added, self._added_of = [], []
        numbers = np.array(values)
        places = np.minimum(self._bins - 1, np.maximum(0, (numbers - self._low) / self._width)).astype(np.int64)
        _add(self._values.block, Counter(map(self._places.__getitem__, places.tolist())))
        known, others = self._groups, False
        for group in dict.fromkeys(of):
            if group not in known:
                if len(known) < groups_max:
                    known[group] = None
                else:
                    others = True
        groups = [group if group in known else "" for group in of] if others else of
        _add(self._counts.block, Counter(groups))
        totals = self._totals.block
        for group, amount in zip(groups, np.rint(numbers / level_unit).astype(np.int64).tolist(), strict=True):
            totals[group] = totals.get(group, 0) + amount

    def end(self, fading: float, *, ready: bool, usual: bool, time_ms: int) -> list[Alarm]:
        """See `Feature.end`."""
        self._count()
        parts = self._values, self._counts, self._totals
        for part in parts:
            part.end(fading, usual=usual and not self._alarmed)
        sums = self._values
        size = sums.size
        if not sums.full or not size:
            return []
        unit = sqrt(1 / size + 1 / sums.reference_size)
        before = now = distance = mean = square = 0.0
        for number, place in enumerate(self._places):
            share = sums.reference_share(place)
            before += share
            mean += number * share
            square += number * number * share
            now += sums.window.get(place, 0.0) / size
            distance += abs(now - before)
        # By chance the means differ like a normal deviate; the distance is hardly larger.
        chance = (sqrt(0.5) + chance_deviations) * sqrt(max(0.0, square - mean * mean)) * self._width
        distance *= self._width
        unusual = self._distance.observe(distance, unit, fading, ready=ready, usual=usual, chance=chance)
        passing, self._alarmed = self._alarmed, unusual and self._passing
        if not unusual or passing:
            return []
        moved = self._moved()
        if usual and not self._passing:
            for part in parts:
                part.begin_anew()
        return [Alarm(self._distance.name, self._distance.score, self._distance.threshold, moved)]

    def _moved(self) -> tuple[Moved, ...]:
        found = []
        for group, count in self._counts.window.items():
            reference = self._counts.reference(group)
            if group and count >= group_values_min and reference >= group_values_min / window_blocks:
                before = self._totals.reference(group) / reference * level_unit
                now = self._totals.window.get(group, 0) / count * level_unit
                found.append(
                    (abs(now - before) * sqrt(count), Moved(group, self._shown(before), self._shown(now), self._unit))
                )
        return tuple(moved for _, moved in nlargest(named_max, found, key=lambda one: (one[0], one[1].value)))

    def forget_window(self) -> None:
        """See `Feature.forget_window`."""
        self._added, self._added_of = [], []
        for part in (self._values, self._counts, self._totals):
            part.forget_window()

    def state(self) -> State:
        """See `Feature.state`."""
        self._count()
        return {
            "watches": [self._distance.state()], "values": self._values.state(), "counts": self._counts.state(),
            "totals": self._totals.state(), "groups": list(self._groups),
            "alarmed": self._alarmed,
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """See `Feature.restore`."""
        self._added, self._added_of = [], []
        self._distance.restore(state["watches"][0])
        self._values.restore(state["values"])
        self._counts.restore(state["counts"])
        self._totals.restore(state["totals"])
        self._groups = dict.fromkeys(state["groups"])
        self._alarmed = state["alarmed"]


def _add(sums: dict[str, int], numbers: Mapping[str, int]) -> None:
    for name, number in numbers.items():
        sums[name] = sums.get(name, 0) + number


class Vectors(Feature):
    """Vectors of one length, of numbers from -127 to 127: what a model makes of visits.

    The distance is the maximum mean discrepancy under the kernel (x y / s + 1)^2, which tells means and covariances
    apart. All sums are of integers, so they are the same on every processor. An alarm names the groups of vectors whose
    shares moved most.

    Source: Gretton et al., "A kernel two-sample test", JMLR 13, 2012.
    """

    def __init__(self, name: str, length: int) -> None:
        self._distance = Watch(name)
        self.watches = (self._distance,)
        self._pairs = np.triu_indices(length)
        self._weights = np.concatenate([np.full(length, 2.0), np.where(self._pairs[0] == self._pairs[1], 1.0, 2.0)])
        self._length = length
        self._origin = ""
        self._groups = Sums(groups_max)
        self._begin()

    def _begin(self) -> None:
        self._groups = Sums(groups_max)
        zero = np.zeros(self._length + len(self._pairs[0]))
        self._block, self._number = zero.copy(), 0
        self._blocks: deque[tuple[NDArray[np.float64], int, bool]] = deque()
        self._reference, self._reference_number, self._reference_squares = zero, 0.0, 0.0

    def add(self, vector: bytes, group: str, origin: str) -> None:
        """Add a vector, one signed byte per number. `origin` names the model; vectors of another one begin anew."""
        if origin != self._origin:
            self._origin = origin
            self._begin()
        x = np.frombuffer(vector, np.int8).astype(np.float64)
        if len(x) == self._length:
            self._block[: self._length] += x
            self._block[self._length :] += x[self._pairs[0]] * x[self._pairs[1]]
            self._number += 1
            block = self._groups.block
            block[group] = block.get(group, 0) + 1

    def end(self, fading: float, *, ready: bool, usual: bool, time_ms: int) -> list[Alarm]:
        """See `Feature.end`."""
        groups = self._groups
        groups.end(fading, usual=usual)
        self._blocks.append((self._block, self._number, usual))
        self._block, self._number = np.zeros_like(self._block), 0
        if len(self._blocks) > window_blocks:
            block, number, was_usual = self._blocks.popleft()
            if was_usual:
                self._fade_in(block, number, fading)
        number = sum(one for _, one, _ in self._blocks)
        if not groups.full or number < vectors_min or not self._reference_number:
            return []
        window = sum((block for block, *_ in self._blocks), np.zeros_like(self._block))
        difference = (window / number - self._reference / self._reference_number) / vector_scale
        difference[self._length :] /= vector_scale
        distance = sqrt(float((self._weights * difference * difference).sum()))
        unit = sqrt(1 / number + self._reference_squares / self._reference_number**2)
        if not self._distance.observe(distance, unit, fading, ready=ready, usual=usual):
            return []
        moved = most_moved(groups, *deviations_of(groups))
        if usual:
            self._begin()
        return [Alarm(self._distance.name, self._distance.score, self._distance.threshold, moved)]

    def _fade_in(self, block: NDArray[np.float64], number: int, fading: float) -> None:
        self._reference = self._reference * (1 - fading) + block
        self._reference_number = self._reference_number * (1 - fading) + number
        self._reference_squares = self._reference_squares * (1 - fading) ** 2 + number

    def forget_window(self) -> None:
        """See `Feature.forget_window`."""
        self._block, self._number = np.zeros_like(self._block), 0
        self._blocks.clear()
        self._groups.forget_window()

    def state(self) -> State:
        """See `Feature.state`."""
        return {
            "watches": [self._distance.state()], "origin": self._origin,
            "block": self._block.copy(), "number": self._number,
            "blocks": [[block, number, usual] for block, number, usual in self._blocks],
            "reference": self._reference, "reference_number": self._reference_number,
            "reference_squares": self._reference_squares, "groups": self._groups.state(),
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """See `Feature.restore`."""
        self._distance.restore(state["watches"][0])
        self._origin, self._block, self._number = state["origin"], state["block"].copy(), state["number"]
        self._blocks = deque((block, number, usual) for block, number, usual in state["blocks"])
        self._reference, self._reference_number = state["reference"], state["reference_number"]
        self._reference_squares = state["reference_squares"]
        self._groups.restore(state["groups"])
