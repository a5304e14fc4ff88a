"""Clusters: groups of similar shoppers that follow how shoppers change, and keep their names with their members.

Each shopper who is checked moves the nearest centre a little (mini-batch k-means). Once a week of the shop's time, a
sample of the shoppers is clustered again, by Lloyd's algorithm from the present centres, and from new ones by
k-means++, which are taken only where they are clearly better. A new cluster inherits the name of the one most of whose
members it has; of two that merge, the one that brings more members keeps its name. A cluster without an heir ends, one
without a former self is born.

Source: D. Sculley, "Web-scale k-means clustering", WWW 2010 (rates by centre); D. Arthur and S. Vassilvitskii,
"k-means++: The advantages of careful seeding", SODA 2007; M. Spiliopoulou et al., "MONIC: modeling and monitoring
cluster transitions", KDD 2006 (a cluster survives in the one that has most of its members; here clusters overlap in a
sample of the same shoppers, and no age is used).
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from math import fsum, sqrt
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.state import State
from learners.parts.portable import product
from learners.segments.features import FEATURES

refit_ms: Final = 7 * 86_400_000
"""Shop time between two clusterings of the sample."""
sample_max: Final = 2_048
"""Shoppers in the sample: those checked last."""
sample_min: Final = 256
"""Least shoppers that are clustered."""
lloyd_steps: Final = 20
better_min: Final = 0.95
"""New centres are taken if their squared distances are below this share of those from the present centres."""
learned_max: Final = 2_000
"""A centre is a mean of about this number of the newest shoppers."""
changes_max: Final = 64
"""Newest changes of clusters that are remembered."""
distance_max: Final = 5.0
"""Deviations from the mean, in standard deviations, above which a feature counts as this many."""

_ONES: Final = np.ones(len(FEATURES))
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Told(NamedTuple):
    """What became of a cluster: its number, into which one most of its members went, and its share of the sample."""

    kind: Literal["born", "ended", "merged"]
    number: int
    into: int
    share: float


class Clusters:
    """The clusters of a shop's shoppers.

    Shapes: n shoppers of the sample, k clusters, d features.

    Args:
        clusters_max: k.

    Attributes:
        numbers: the number of each cluster, by which it is known for ever.
        counts: fits so far, and clusters that were born, ended and merged.
        changes: what became of clusters, with the shop's time (ms) of each; the newest last.
    """

    def __init__(self, *, clusters_max: int) -> None:
        self.clusters_max = clusters_max
        self.numbers: list[int] = []
        self.counts = {"fits": 0, "born": 0, "ended": 0, "merged": 0}
        self.changes: deque[tuple[int, Told]] = deque(maxlen=changes_max)
        self._centres: Floats = np.zeros((0, len(FEATURES)))  # standardised
        self._learned: list[int] = []
        self._mean, self._scale = np.zeros(len(FEATURES)), np.ones(len(FEATURES))
        self._sample: OrderedDict[str, list[float]] = OrderedDict()  # checked last, last
        self._fitted_ms: int | None = None
        self._next = 1

    def standardised(self, features: Sequence[float]) -> Floats:
        """Return features in standard deviations from their mean."""
        found: Floats = (np.array(features) - self._mean) / self._scale
        return _clipped(found)

    def of(self, features: Sequence[float]) -> int:
        """Return the number of the cluster whose centre is nearest, 0 before there are clusters."""
        if not self.numbers:
            return 0
        return self.numbers[_nearest(self._centres, self.standardised(features))]

    def learn(self, shopper: str, features: list[float]) -> int:
        """Learn from a shopper who is checked; return the number of the shopper's cluster, 0 if there is none."""
        self._sample[shopper] = features
        self._sample.move_to_end(shopper)
        if len(self._sample) > sample_max:
            self._sample.popitem(last=False)
        if not self.numbers:
            return 0
        point = self.standardised(features)
        place = _nearest(self._centres, point)
        self._learned[place] = count = min(self._learned[place] + 1, learned_max)
        self._centres[place] += (point - self._centres[place]) / count
        return self.numbers[place]

    def forget(self, shopper: str) -> None:
        """Forget a shopper who is no longer known."""
        self._sample.pop(shopper, None)

    def is_due(self, time_ms: int) -> bool:
        """Return whether the sample is to be clustered."""
        if len(self._sample) < sample_min:
            return False
        # The shop's time may return to long before.
        return self._fitted_ms is None or abs(time_ms - self._fitted_ms) >= refit_ms

    def fit(self, time_ms: int) -> list[Told]:
        """Cluster the sample; return what became of clusters."""
        rows = np.array(list(self._sample.values()))
        former = [_nearest(self._centres, self.standardised(row)) for row in rows.tolist()] if self.numbers else []
        present = self._centres * self._scale + self._mean
        self._fitted_ms = time_ms
        self.counts["fits"] += 1
        self._standardise(rows)
        points = _clipped((rows - self._mean) / self._scale)
        draw = np.random.Generator(np.random.PCG64(self.counts["fits"]))
        best = lloyd(points, spread(points, self.clusters_max, draw))
        if len(present) == self.clusters_max:
            kept = lloyd(points, _clipped((present - self._mean) / self._scale))
            best = best if best.squares < better_min * kept.squares else kept
        sizes = np.bincount(best.places, minlength=self.clusters_max)
        told = self._name(former, best.places, sizes)
        self._centres = best.centres
        self._learned = np.minimum(np.maximum(sizes, 1), learned_max).tolist()
        for one in told:
            self.counts[one.kind] += 1
            self.changes.append((time_ms, one))
        return told

    def _standardise(self, rows: Floats) -> None:
        count = len(rows)
        for column, values in enumerate(rows.T.tolist()):
            mean = fsum(values) / count
            self._mean[column] = mean
            self._scale[column] = sqrt(fsum((value - mean) ** 2 for value in values) / count) or 1.0

    def _name(self, former: Sequence[int], places: Ints, sizes: Ints) -> list[Told]:
        """Give each new cluster the number of its former self, or a new one."""
        count, old = len(places), list(self.numbers)
        overlaps = np.zeros((len(old), self.clusters_max), np.int64)
        for was, place in zip(former, places.tolist(), strict=False):
            overlaps[was, place] += 1
        heirs = dict[int, list[int]]()  # of each new cluster, the former ones most of whose members it has
        told = list[Told]()
        for was in range(len(old)):
            total = int(overlaps[was].sum())
            into = int(overlaps[was].argmax())
            if 2 * int(overlaps[was, into]) > total:
                heirs.setdefault(into, []).append(was)
            else:
                told.append(Told("ended", old[was], 0, total / count))
        numbers = [0] * self.clusters_max
        for into, found in heirs.items():
            first = max(found, key=lambda was: (int(overlaps[was, into]), -old[was]))
            numbers[into] = old[first]
            told += [
                Told("merged", old[was], old[first], int(overlaps[was].sum()) / count) for was in found if was != first
            ]
        for place in range(self.clusters_max):
            if not numbers[place]:
                numbers[place], self._next = self._next, self._next + 1
                told.append(Told("born", numbers[place], 0, int(sizes[place]) / count))
        self.numbers = numbers
        return told

    def described(self) -> list[tuple[int, list[tuple[str, float]]]]:
        """Return each cluster's number, and the features by which its centre differs most from the mean.

        The differences are in standard deviations.
        """
        found = []
        for number, centre in zip(self.numbers, self._centres.tolist(), strict=True):
            ranked = sorted(zip(FEATURES, centre, strict=True), key=lambda one: -abs(one[1]))
            found.append((number, [(name, round(off, 2)) for name, off in ranked[:3]]))
        return found

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the number of shoppers in the sample, and of changes, and the maxima."""
        return {"sample": (len(self._sample), sample_max), "changes": (len(self.changes), changes_max)}

    def state(self) -> State:
        """Return the complete state."""
        return {
            "numbers": list(self.numbers), "counts": dict(self.counts), "next": self._next,
            "fitted_ms": self._fitted_ms, "centres": self._centres.copy(), "learned": list(self._learned),
            "mean": self._mean.copy(), "scale": self._scale.copy(), "shoppers": list(self._sample),
            "features": np.array(list(self._sample.values())).reshape(-1, len(FEATURES)),
            "changes": [[time_ms, *one] for time_ms, one in self.changes],
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken; with other clusters than now, they are fitted anew."""
        self._next, self.counts = state["next"], dict(state["counts"])
        self.changes = deque(((time_ms, Told(*one)) for time_ms, *one in state["changes"]), maxlen=changes_max)
        self._sample = OrderedDict(zip(state["shoppers"], state["features"].tolist(), strict=True))
        if len(state["numbers"]) != self.clusters_max:
            return
        self.numbers, self._fitted_ms = list(state["numbers"]), state["fitted_ms"]
        self._centres, self._learned = state["centres"].copy(), list(state["learned"])
        self._mean, self._scale = state["mean"].copy(), state["scale"].copy()


class Fit(NamedTuple):
    """A clustering: the centres (k, d), the place of each point's centre (n), and the sum of squared distances."""

    centres: Floats
    places: Ints
    squares: float


def _nearest(centres: Floats, point: Floats) -> int:
    """Return the place of the centre that is nearest; the first of equal ones."""
    off = centres - point
    return int(product(off * off, _ONES).argmin())


def _clipped(points: Floats) -> Floats:
    """Return standardised features, none of which is too far from the mean."""
    return np.minimum(np.maximum(points, -distance_max), distance_max)


def _distances(points: Floats, centres: Floats) -> Floats:
    """Return squared distances (n, k), added in the order of the features, so that all processors agree."""
    found = np.zeros((len(points), len(centres)))
    for column in range(points.shape[1]):
        found += np.square(points[:, column : column + 1] - centres[None, :, column])
    return found


def spread(points: Floats, count: int, draw: np.random.Generator) -> Floats:
    """Return centres to begin with, far from each other (k-means++)."""
    chosen = [int(draw.random() * len(points))]
    nearest = _distances(points, points[chosen])[:, 0]
    while len(chosen) < count:
        sums = np.cumsum(nearest)
        place = int(np.searchsorted(sums, draw.random() * sums[-1], side="right"))
        chosen.append(min(place, len(points) - 1))
        nearest = np.minimum(nearest, _distances(points, points[chosen[-1:]])[:, 0])
    return points[chosen].copy()


def lloyd(points: Floats, centres: Floats) -> Fit:
    """Return the clustering to which centres move; one without points moves to the point that is farthest."""
    places: Ints = np.zeros(len(points), np.int64)
    for step in range(lloyd_steps):
        distances = _distances(points, centres)
        found = distances.argmin(1)
        if step and bool((found == places).all()):
            break
        places = found
        sizes = np.bincount(places, minlength=len(centres))
        sums = np.stack([np.bincount(places, column, len(centres)) for column in points.T], axis=1)
        centres = sums / np.maximum(sizes, 1)[:, None]
        own = distances[np.arange(len(points)), places]
        for place in np.flatnonzero(sizes == 0).tolist():
            farthest = int(own.argmax())
            centres[place], own[farthest] = points[farthest], 0.0
    distances = _distances(points, centres)
    places = distances.argmin(1)
    return Fit(centres, places, fsum(distances[np.arange(len(points)), places].tolist()))
