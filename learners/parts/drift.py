"""Drift detection: distances of the inputs with adaptive thresholds, and tests for a rise of a loss's mean.

Detectors have `observe`, which returns an alarm or None (some return a list). All are pure and bounded.
"""

from math import log2, sqrt
from typing import Final, NamedTuple, Self
from zlib import crc32

import numpy as np
from msgspec import Struct

from headrace.log.protocol import Record, decode_json
from headrace.state import State
from learners.parts.adwin import Adwin
from learners.parts.page_hinkley import PageHinkley

window_views: Final = 1_500
"""Views of one window of inputs. The views of one visit are similar, so smaller windows are mostly noise."""
warmup_windows: Final = 5
"""Distances from which the usual distance is estimated before the first alarm."""
memory: Final = 0.1
"""Weight of the newest window in the reference and in the usual distance."""
recent: Final = 0.01
"""Weight of the newest loss in the running mean that decides whether the loss rose or fell."""
settling_windows: Final = 2
"""Windows between two alarms, so that the new reference is based on more than one window."""
deviations: Final = 3.0
"""The threshold's distance from the usual distance, in standard deviations."""
spread_min: Final = 0.15
"""Least standard deviation, as a share of the usual distance: estimates from few windows are unreliable."""
DISTANCES: Final = ("popularity", "price", "category", "unseen_items")
"""Detectors of `InputDrift`."""
LOSS_TESTS: Final = ("adwin", "page_hinkley")
"""Detectors of each `LossDrift`."""


class Alarm(NamedTuple):
    """A detector's alarm: its score and the threshold that the score exceeded."""

    detector: str
    score: float
    threshold: float


class _AlarmRecord(Struct):
    detector: str
    detail: str = ""


def alarm_detector(record: Record) -> str:
    """Return which detector noticed a drift by a record of `alarms`; "" if it tells of something else, in `detail`."""
    found = decode_json(record.value, _AlarmRecord)
    return found.detector if found and not found.detail and found.detector != "flood" else ""


class Distance:
    """Compares the histogram of each window with an exponentially weighted reference, by Hellinger distance.

    The threshold is dynamic: the exponentially weighted mean of past distances plus `deviations` of their standard
    deviations. After an alarm the window is the new reference. On streams, distances with dynamic thresholds raise far
    fewer false alarms than hypothesis tests, whose power grows with the sample until any difference is significant.
    """

    def __init__(self, name: str, bins: int) -> None:
        self.name = name
        self.score = self.threshold = 0.0
        self._counts = [0.0] * bins  # a list: one element of an array takes longer to change
        self._reference = np.zeros(bins)
        self._windows = self._distances = 0  # numbers of windows in the reference, of distances in the usual one
        self._mean = self._square = 0.0

    def count(self, bin_: int) -> None:
        """Count one value of the current window."""
        self._counts[bin_] += 1

    def observe(self) -> Alarm | None:
        """End the window; return an alarm if it is far from the reference."""
        total = sum(self._counts)
        if not total:
            return None
        window, self._counts = np.array(self._counts) / total, [0.0] * len(self._counts)
        self._windows += 1
        if self._windows == 1:
            self._reference = window
            return None
        self.score = float(sqrt(max(0.0, 1 - np.sqrt(window * self._reference).sum())))
        spread = sqrt(max(0.0, self._square - self._mean**2))
        chance = sqrt(1 / (8 * total))  # expected distance by chance alone, for two bins and this number of values
        usual = self._mean + deviations * max(spread, spread_min * self._mean, chance)
        self.threshold = usual if self._distances else 1.0
        ready = self._distances >= warmup_windows and self._windows > settling_windows
        if ready and self.score > self.threshold:
            self._reference, self._windows = window, 1  # the usual distance is kept
            return Alarm(self.name, self.score, self.threshold)
        self._reference += max(memory, 1 / (self._windows - 1)) * (window - self._reference)
        self._distances += 1
        weight = max(memory, 1 / self._distances)
        self._mean += weight * (self.score - self._mean)
        self._square += weight * (self.score**2 - self._square)
        return None

    def state(self) -> State:
        """Return the window, the reference and the statistics of past distances."""
        return {
            "name": self.name, "score": self.score, "threshold": self.threshold, "counts": np.array(self._counts),
            "reference": self._reference.copy(), "windows": self._windows, "distances": self._distances,
            "mean": self._mean, "square": self._square,
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a detector that continues exactly where `state` was taken."""
        detector = cls(state["name"], len(state["counts"]))
        detector.score, detector.threshold = state["score"], state["threshold"]
        detector._counts, detector._reference = state["counts"].tolist(), state["reference"].copy()
        detector._windows, detector._distances = state["windows"], state["distances"]
        detector._mean, detector._square = state["mean"], state["square"]
        return detector


class InputDrift:
    """Detects drift of views: of items (by hash), prices, categories and the share of items not seen before."""

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
        """Add a view; return the alarms if the view completes a window."""
        self._popularity.count(crc32(item.encode()) & 255)
        if category:
            self._category.count(crc32(category.encode()) & 63)
        if price:
            self._price.count(min(63, max(0, int(4 * log2(price)) + 16)))
        self._unseen.count(unseen)
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
    """Detects a rise of the mean of a prequential loss in [0, 1], by ADWIN and by Page-Hinkley.

    ADWIN detects a fall too, but an improvement raises no alarm.

    Args:
        block: number of losses whose mean each observed value is. With many losses, blocks reduce the detectors' cost;
            an alarm comes later by at most a block, and short changes are a little harder to detect.
    """

    def __init__(self, name: str, *, block: int = 1) -> None:
        self.name, self.block = name, block
        self._adwin = Adwin()
        self._recent = 0.0
        # A miss (0 or 1) swings the sums by about its variance over twice delta, 5: chance alone does not reach 50.
        # Over means of blocks the sums are that much smaller.
        self._page_hinkley = PageHinkley(delta=0.02, threshold=50.0 / block, values_min=-(-200 // block))

    @property
    def mean(self) -> float:
        """The loss's mean since the last change that ADWIN detected."""
        return self._adwin.mean

    def observe(self, loss: float) -> list[Alarm]:
        """Add a loss, or the mean of a block of losses; return the alarms."""
        alarms = []
        before = self._adwin.mean
        self._recent += recent * self.block * (loss - self._recent)
        if self._adwin.observe(loss) and self._recent > before:
            alarms.append(Alarm(f"{self.name}_adwin", before, self._adwin.delta))
        if self._page_hinkley.observe(loss):
            alarms.append(Alarm(f"{self.name}_page_hinkley", loss, self._page_hinkley.threshold))
        return alarms

    def state(self) -> State:
        """Return both detectors."""
        return {
            "name": self.name, "block": self.block, "adwin": self._adwin.state(), "recent": self._recent,
            **self._page_hinkley.state(),
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a detector that continues exactly where `state` was taken."""
        drift = cls(state["name"], block=state["block"])
        drift._adwin, drift._recent = Adwin.from_state(state["adwin"]), state["recent"]
        drift._page_hinkley.restore(state)
        return drift
