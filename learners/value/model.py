"""The model of value: what shoppers of past moments did afterwards, as sums, and the predictions that follow.

Each matured moment gives sums of products of its design and its targets. Ridge regression is solved from the sums of
all moments that are kept, the newer ones weighing more. Targets are comparable among moments: the rank of a shopper's
spend within the moment, the root of the spend and of the orders, each relative to the moment's mean, and whether there
was an order. What the scores mean is learned anew each time from the newest matured moments: the mean outcome by score,
made monotone, and its quantiles.

Truth of the far horizon is 91 days old. Moments whose near horizon is over but whose far one is still open teach the
near model, which helps the far one twice: its scores are added to those of the far model, and its chance of a purchase
is the hazard of a model of survival in discrete time, in which the shopper grows older without buying.

Source: Hoerl and Kennard, "Ridge regression", Technometrics 1970; Zadrozny and Elkan, "Transforming classifier scores
into accurate multiclass probability estimates", KDD 2002 (isotonic calibration); Ayer et al., "An empirical
distribution function for sampling with incomplete information", 1955 (pooling of adjacent violators); Cox, "Regression
models and life-tables", JRSS B 1972, section 6, and Singer and Willett, "It's about time: using discrete-time survival
analysis", Journal of Educational Statistics 1993 (hazards in discrete time, with features that change and shoppers
whose time is not over).
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from learners.parts import portable
from learners.value.features import width
from learners.value.shoppers import Floats

TARGETS: Final = ("spend rank", "spend root", "orders root", "purchase")
"""What each horizon's regression predicts, in order."""
shrinkage: Final = 0.05
"""Weight of the ridge, relative to the number of rows: each scaled feature has the variance 1."""
_edges: Final = np.concatenate([np.arange(0.0, 0.96, 0.05), [0.975, 0.99, 1.0]])
"""Edges of the bins by score, as shares of the rows; the highest scores, which matter most, have finer ones."""
_rows_of_bin: Final = 30
low_quantile, high_quantile = 0.1, 0.9


class Outcome(NamedTuple):
    """What shoppers did within a horizon: grains spent and orders, less what was returned. Shapes: (R,)"""

    spent: Floats
    orders: Floats


class Sums(NamedTuple):
    """Mean products of a moment's design with itself, and with its targets. Shapes: (width, width), (width, 4)"""

    square: Floats
    targets: Floats


def sums(design: NDArray[np.float32], outcome: Outcome, square: Floats | None = None) -> Sums:
    """Return the sums of a moment. Shapes: design (R, width), R above 0.

    Args:
        square: the products of the design with itself, where they are known.
    """
    turned = design.T.astype(np.float64)
    if square is None:
        square = portable.product(turned, design.astype(np.float64)) / len(design)
    return Sums(square, portable.product(turned, targets_of(outcome)) / len(design))


def targets_of(outcome: Outcome) -> Floats:
    """Return the targets. Shape (R, len(TARGETS))

    >>> targets_of(Outcome(np.array([0.0, 9.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0, 1.0]))).round(2).tolist()
    [[0.38, 0.0, 0.0, 0.0], [1.0, 3.0, 2.0, 1.0], [0.38, 0.0, 0.0, 0.0], [0.75, 1.0, 2.0, 1.0]]
    """
    roots = [np.sqrt(np.maximum(values, 0.0)) for values in outcome]
    means = [float(np.add.reduce(root)) / len(root) or 1.0 for root in roots]
    return np.stack(
        [ranks(outcome.spent), roots[0] / means[0], roots[1] / means[1], (outcome.orders > 0).astype(np.float64)],
        axis=1,
    )


def ranks(values: Floats) -> Floats:
    """Return the rank of each value as a share; equal values share their mean rank.

    >>> ranks(np.array([5.0, 1.0, 5.0, 7.0])).tolist()
    [0.625, 0.25, 0.625, 1.0]
    """
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[place] / len(values))


def solved(parts: Sequence[tuple[float, Sums]]) -> Floats:
    """Return the weights of a ridge regression, from the sums of moments and how much each counts.

    Shape (width, len(TARGETS)). The constant is not shrunk.
    """
    total = sum(weight for weight, _ in parts)
    square = np.zeros((width, width))
    targets = np.zeros((width, len(TARGETS)))
    for weight, one in parts:
        square += (weight / total) * one.square
        targets += (weight / total) * one.targets
    square[np.arange(1, width), np.arange(1, width)] += shrinkage
    return portable.solved(square, targets)


class Scale(NamedTuple):
    """What scores mean: the mean outcome, and its low and high quantile, at scores that rise. Shapes: (K,)"""

    scores: Floats
    means: Floats
    lows: Floats
    highs: Floats

    @classmethod
    def of(cls, scores: Floats, outcome: Floats) -> Self:
        """Return the scale of scored rows. Shapes: (R,); R is above 0."""
        ordered = np.sort(scores)
        edges = np.unique(ordered[np.rint(_edges[1:-1] * len(scores)).astype(np.int64)])
        place = np.searchsorted(edges, scores, side="right").astype(np.uint8)  # of equal scores, all are in one bin
        order = np.argsort(place, kind="stable")  # by counting, as there are few bins
        scores, outcome = scores[order], outcome[order]
        ends = np.cumsum(np.bincount(place, minlength=len(edges) + 1))
        bins: list[list[float]] = []  # rows, their mean score and outcome, and quantiles of the outcome
        start = 0
        for end in ends.tolist():
            if end == start or (end - start < _rows_of_bin and end < len(scores)):
                continue
            part = np.sort(outcome[start:end])
            count = end - start
            low, high = (float(part[min(count - 1, int(share * count))]) for share in (low_quantile, high_quantile))
            one = [float(count), _mean(scores[start:end]), _mean(part), low, high]
            start = end
            while bins and (bins[-1][2] >= one[2] or bins[-1][1] >= one[1]):
                before = bins.pop()
                both = before[0] + one[0]
                one = [both, *((before[0] * a + one[0] * b) / both for a, b in zip(before[1:], one[1:], strict=True))]
            bins.append(one)
        columns = np.array(bins).T
        return cls(columns[1], columns[2], np.maximum.accumulate(columns[3]), np.maximum.accumulate(columns[4]))

    def mean(self, scores: Floats) -> Floats:
        """Return the mean outcome at scores; beyond the highest it goes on rising, below the lowest it does not fall
        under the least outcome that is possible, 0."""
        return np.maximum(self._at(scores, self.means, beyond=True), 0.0)

    def interval(self, scores: Floats) -> tuple[Floats, Floats]:
        """Return the low and the high quantile at scores."""
        return self._at(scores, self.lows), self._at(scores, self.highs)

    def _at(self, scores: Floats, values: Floats, *, beyond: bool = False) -> Floats:
        if len(values) == 1:
            return np.full(len(scores), values[0])
        place = np.clip(np.searchsorted(self.scores, scores, side="right") - 1, 0, len(values) - 2)
        part = (scores - self.scores[place]) / (self.scores[place + 1] - self.scores[place])
        if not beyond:
            part = np.clip(part, 0.0, 1.0)
        return np.asarray(values[place] + part * (values[place + 1] - values[place]))

    def state(self) -> NDArray[np.float64]:
        """Return all of it. Shape (4, K)"""
        return np.stack(self)

    @classmethod
    def from_state(cls, state: NDArray[np.float64]) -> Self:
        """Return the scale that `state` was taken from."""
        return cls(*(one.copy() for one in state))


def _mean(values: Floats) -> float:
    return float(np.add.reduce(values)) / len(values)


class Expected(NamedTuple):
    """What is expected of shoppers within a horizon. Shapes: (S,); spend is in grains."""

    spend: Floats
    spend_low: Floats
    spend_high: Floats
    orders: Floats
    orders_low: Floats
    orders_high: Floats
    purchase: Floats

    @classmethod
    def joined(cls, parts: Sequence[Self | None]) -> Self | None:
        """Return one of all shoppers from those of some; None if nothing is expected."""
        known = [one for one in parts if one is not None]
        return cls(*map(np.concatenate, zip(*known, strict=True))) if known else None


class Model(NamedTuple):
    """The regression of one horizon, and what its scores mean.

    Attributes:
        scoring: weights of the scores of spend, orders and a purchase. Shape (width, 3)
    """

    scoring: Floats
    spend: Scale
    orders: Scale
    purchase: Scale

    @classmethod
    def of(cls, scoring: Floats, seen: Sequence[tuple[NDArray[np.float32], Outcome]]) -> Self:
        """Return the model of these weights, whose scores mean what was seen: designs, and what came of them."""
        scored = zip(*(_scores(scoring, design) for design, _ in seen), strict=True)
        spend, orders, purchase = (np.concatenate(found) for found in scored)
        spent, ordered = (np.concatenate(found) for found in zip(*(outcome for _, outcome in seen), strict=True))
        bought = (ordered > 0).astype(np.float64)
        return cls(scoring, Scale.of(spend, spent), Scale.of(orders, ordered), Scale.of(purchase, bought))

    def expected(self, design: NDArray[np.float32]) -> Expected:
        """Return what is expected of shoppers. Shape of the design: (S, width)"""
        spend, orders, purchase = _scores(self.scoring, design)
        return Expected(
            self.spend.mean(spend), *self.spend.interval(spend), self.orders.mean(orders),
            *self.orders.interval(orders), np.clip(self.purchase.mean(purchase), 0.0, 1.0),
        )  # fmt: skip

    def chance(self, design: NDArray[np.float32]) -> Floats:
        """Return the probability of a purchase. Shape (S,)"""
        return np.clip(self.purchase.mean(_scores(self.scoring, design)[2]), 0.0, 1.0)

    def state(self) -> dict[str, Any]:
        """Return all of it."""
        return {
            "scoring": self.scoring.copy(), "spend": self.spend.state(), "orders": self.orders.state(),
            "purchase": self.purchase.state(),
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Return the model that `state` was taken from."""
        scales = (Scale.from_state(state[name]) for name in ("spend", "orders", "purchase"))
        return cls(state["scoring"].copy(), *scales)


root_share: Final = 0.3
"""What the root of the spend counts beside its rank: it tells large spenders apart, of whom ranks say little."""


def scoring(weights: Floats, near: Floats | None = None) -> Floats:
    """Return the weights of the scores of spend, orders and a purchase, from those of the targets. Shape (width, 3)

    Args:
        near: those of a shorter horizon, whose outcomes are newer; its scores of spend and of a purchase are added.
    """
    rank, root, orders, purchase = weights.T
    found = np.stack([rank + root_share * root, orders, purchase], axis=1)
    return found if near is None else found + near * np.array([1.0, 0.0, 1.0])


def _scores(weights: Floats, design: NDArray[np.float32]) -> Floats:
    """Return the scores by which spend, orders and chances of a purchase are ordered. Shape (3, S)"""
    return portable.product(design.astype(np.float64), weights).T


_odds_max: Final = 199.0


def bought_within(hazards: Sequence[Floats]) -> Floats:
    """Return the probability of a purchase in any of some periods, from the hazard in each. Shapes: (S,)

    A hazard is the probability of a purchase in a period of those who have not bought in the periods before.

    >>> bought_within([np.array([0.5]), np.array([0.2])]).tolist()
    [0.6]
    """
    kept = np.ones(len(hazards[0]))
    for hazard in hazards:
        kept *= 1.0 - hazard
    return 1.0 - kept


def between(left: Floats, right: Floats) -> Floats:
    """Return the probabilities whose log-odds are the mean of those of two. Shapes: (S,)

    >>> between(np.array([0.5, 0.9]), np.array([0.5, 0.5])).round(3).tolist()
    [0.5, 0.75]
    """
    least = 1.0 / (1.0 + _odds_max)
    left, right = (np.clip(one, least, 1.0 - least) for one in (left, right))
    odds = np.sqrt(left / (1.0 - left) * (right / (1.0 - right)))
    return np.asarray(odds / (1.0 + odds))
