"""Drift: has the world changed? Distances of the inputs with thresholds that adapt, and change of a loss's mean.

Detectors have one verb more than learners, `observe`, and answer with an alarm or None. All are pure and bounded.
"""

from math import log2, sqrt
from typing import Final, NamedTuple, Self
from zlib import crc32

import numpy as np
from msgspec import Struct
from river.drift import PageHinkley

from headrace.log import Record, told
from headrace.state import State
from learners.adwin import Adwin

window_views: Final = 1_500
"""Views of one window of inputs. A visit's views are much alike, so that smaller windows are mostly noise."""
warmup_windows: Final = 5
"""Distances to learn what is usual from, before the first alarm."""
memory: Final = 0.1
"""Weight of the newest window in the reference and in the usual distance."""
recent: Final = 0.01
"""Weight of the newest loss in the mean that says whether the loss rose or fell."""
settling_windows: Final = 2
"""Windows after an alarm before the next one: the new reference is then more than a single window."""
deviations: Final = 3.0
"""How far above the usual distance, in standard deviations, a window must lie."""
spread_min: Final = 0.15
"""The standard deviation counts as at least this share of the usual distance: few windows tell little about it."""
DISTANCES: Final = ("popularity", "price", "category", "unseen_items")
"""Detectors of `InputDrift`."""
LOSS_TESTS: Final = ("adwin", "page_hinkley")
"""Detectors of each `LossDrift`."""


class Alarm(NamedTuple):
    """A detector's word that something changed: its score and the threshold that the score passed."""

    detector: str
    score: float
    threshold: float


class _Told(Struct):
    detector: str


def alarmed(record: Record) -> str:
    """Return which detector noticed a drift by a record of `alarms`; "" if it tells of something else."""
    found = told(record.value, _Told)
    return found.detector if found and found.detector != "flood" else ""


class Distance:
    """Compares the histogram of each window with a fading reference, by Hellinger distance.

    The threshold is dynamic: the fading mean of past distances plus `deviations` of their fading standard deviations.
    An alarm makes the window the new reference. On streams, distances with dynamic thresholds raise far fewer false
    alarms than hypothesis tests, whose power grows with the sample until any difference is significant.
    """

    def __init__(self, name: str, bins: int) -> None:
        self.name = name
        self.score = self.threshold = 0.0
        self._counts = np.zeros(bins)
        self._reference = np.zeros(bins)
        self._windows = self._distances = 0  # in the reference; in the usual distance
        self._mean = self._square = 0.0

    def count(self, bin_: int) -> None:
        """Count one value of the current window."""
        self._counts[bin_] += 1

    def observe(self) -> Alarm | None:
        """End the window; return an alarm if it lies far from the reference."""
        total = self._counts.sum()
        if not total:
            return None
        window, self._counts = self._counts / total, np.zeros(len(self._counts))
        self._windows += 1
        if self._windows == 1:
            self._reference = window
            return None
        self.score = float(sqrt(max(0.0, 1 - np.sqrt(window * self._reference).sum())))
        spread = sqrt(max(0.0, self._square - self._mean**2))
        chance = sqrt(1 / (8 * total))  # what chance alone does to the distance of two bins of so many values
        usual = self._mean + deviations * max(spread, spread_min * self._mean, chance)
        self.threshold = usual if self._distances else 1.0
        ready = self._distances >= warmup_windows and self._windows > settling_windows
        if ready and self.score > self.threshold:
            self._reference, self._windows = window, 1  # what was usual before stays usual
            return Alarm(self.name, self.score, self.threshold)
        self._reference += max(memory, 1 / (self._windows - 1)) * (window - self._reference)
        self._distances += 1
        weight = max(memory, 1 / self._distances)
        self._mean += weight * (self.score - self._mean)
        self._square += weight * (self.score**2 - self._square)
        return None

    def state(self) -> State:
        """Return window, reference and usual distances."""
        return {
            "name": self.name, "score": self.score, "threshold": self.threshold, "counts": self._counts.copy(),
            "reference": self._reference.copy(), "windows": self._windows, "distances": self._distances,
            "mean": self._mean, "square": self._square,
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a detector that continues exactly where `state` was taken."""
        detector = cls(state["name"], len(state["counts"]))
        detector.score, detector.threshold = state["score"], state["threshold"]
        detector._counts, detector._reference = state["counts"], state["reference"]
        detector._windows, detector._distances = state["windows"], state["distances"]
        detector._mean, detector._square = state["mean"], state["square"]
        return detector


class InputDrift:
    """Watches what is viewed: which items (by hash), prices, categories, and how many were never seen before."""

    def __init__(self) -> None:
        self._popularity = Distance("popularity", 256)
        self._price = Distance("price", 64)
        self._category = Distance("category", 64)
        self._unseen = Distance("unseen_items", 2)
        self._views = 0

    @property
    def distances(self) -> tuple[Distance, ...]:
        """The four detectors."""
        return self._popularity, self._price, self._category, self._unseen

    def observe(self, item: str, category: str, price: float | None, *, unseen: bool) -> list[Alarm]:
        """Take a view; return the alarms of the window that it ends, if it ends one."""
        self._popularity.count(crc32(item.encode()) & 255)
        if category:
            self._category.count(crc32(category.encode()) & 63)
        if price:
            self._price.count(min(63, max(0, int(4 * log2(price)) + 16)))
        self._unseen.count(int(unseen))  # a bool would be a mask, not a place
        self._views += 1
        if self._views < window_views:
            return []
        self._views = 0
        return [alarm for distance in self.distances if (alarm := distance.observe())]

    def state(self) -> State:
        """Return all detectors."""
        return {"views": self._views, "distances": [distance.state() for distance in self.distances]}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a detector that continues exactly where `state` was taken."""
        drift = cls()
        drift._views = state["views"]
        drift._popularity, drift._price, drift._category, drift._unseen = map(Distance.from_state, state["distances"])
        return drift


class LossDrift:
    """Watches a prequential loss in [0, 1] for a rise of its mean, by ADWIN and by Page-Hinkley.

    ADWIN sees a fall as well, but learners that get better are no reason for an alarm.

    Args:
        block: losses whose mean each value is. A caller that has many losses pays the detectors once per block, for an
            alarm that is later by at most a block and a little less sense for short changes.
    """

    def __init__(self, name: str, *, block: int = 1) -> None:
        self.name, self.block = name, block
        self._adwin = Adwin()
        self._recent = 0.0
        self._page_hinkley = _page_hinkley(block)

    @property
    def mean(self) -> float:
        """The loss's mean since ADWIN saw the last change."""
        return self._adwin.mean

    def observe(self, loss: float) -> list[Alarm]:
        """Take a loss, or the mean of a block of them; return alarms."""
        alarms = []
        before = self._adwin.mean
        self._recent += recent * self.block * (loss - self._recent)
        if self._adwin.observe(loss) and self._recent > before:
            alarms.append(Alarm(f"{self.name}_adwin", before, self._adwin.delta))
        self._page_hinkley.update(loss)
        if self._page_hinkley.drift_detected:
            alarms.append(Alarm(f"{self.name}_page_hinkley", loss, self._page_hinkley.threshold))
            self._page_hinkley = _page_hinkley(self.block)
        return alarms

    def state(self) -> State:
        """Return both detectors."""
        sums = self._page_hinkley
        return {
            "name": self.name, "block": self.block, "adwin": self._adwin.state(), "recent": self._recent,
            "count": sums._x_mean.n, "mean": sums._x_mean._mean, "increase": sums._sum_increase,
            "decrease": sums._sum_decrease, "lowest": sums._min_increase, "highest": sums._max_decrease,
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a detector that continues exactly where `state` was taken."""
        drift = cls(state["name"], block=state["block"])
        drift._adwin, drift._recent = Adwin.from_state(state["adwin"]), state["recent"]
        sums = drift._page_hinkley
        sums._x_mean.n, sums._x_mean._mean = state["count"], state["mean"]
        sums._sum_increase, sums._sum_decrease = state["increase"], state["decrease"]
        sums._min_increase, sums._max_decrease = state["lowest"], state["highest"]
        return drift


def _page_hinkley(block: int) -> PageHinkley:
    # A miss (0 or 1) swings the sums by about its variance over twice delta, 5: chance alone does not reach 50. Over
    # means of blocks the sums are that much smaller.
    return PageHinkley(min_instances=-(-200 // block), delta=0.02, threshold=50.0 / block, mode="up")
