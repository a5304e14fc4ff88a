"""Forecasts of demand: learned and judged at the beginning of each week, with intervals that correct themselves.

What an interval is said to cover is compared each week with what it covered, for each class of items by their level,
and the levels of the quantiles that are its ends are moved against the difference. So intervals cover what they say
after the shop has changed, too. The quantiles that are told stay the model's: corrected so, they had a larger loss.

Source: Gibbs and Candes, "Adaptive conformal inference under distribution shift", NeurIPS 2021 (the update, here of
each end, and from many items a week); Romano, Patterson and Candes, "Conformalized quantile regression", NeurIPS
2019; Tille, "Sampling algorithms", 2006, chapter 7 (systematic sampling with unequal probabilities).
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from learners.demand.features import FEATURES, Features, features_of, history_of, simple_forecasts
from learners.demand.model import LEVELS, MEDIAN, half_life, mean_weights, pinball, quantile_weights, target_max
from learners.demand.occasions import Occasions
from learners.demand.sales import NO_SLOT, Floats, Sales, Slots, weeks_max
from learners.parts.portable import power_of_two, product

HORIZONS: Final = (1, 2, 4)
"""Weeks ahead for which demand is learned."""
EDGES: Final = (1.0, 5.0, 20.0, 100.0)
"""Levels, in pieces a week, between the classes of items."""
CLASSES: Final = ("under 1", "1 to 5", "5 to 20", "20 to 100", "100 and more")
"""Classes of items by their level."""
SIMPLE: Final = ("last week", "mean of 8", "median of 8", "smoothed .2")
"""The simple methods beside which forecasts are judged."""
COVERED: Final = 0.9
"""What the intervals are to cover."""
taught_max: Final = 26
"""Newest weeks from which is learned."""
history_min: Final = 8
"""Weeks of history that a row needs."""
rows_min: Final = 200
"""Rows that a model needs."""
rows_max: Final = 12_288
"""Most rows from which is learned: of more, a sample, in which items that sell more are more likely to be."""
judged_max: Final = 16_384
"""Most items whose forecasts are judged; of more, evenly spaced ones."""
judged_weeks_max: Final = 13
"""Newest weeks whose forecasts are compared with what came."""
factor_half_life: Final = 4.0
"""Weeks after which a week counts half in what all items together sold by what was expected."""
factor_prior: Final = 2.0
"""Weeks in which exactly that was sold that are added to them."""
factor_max: Final = 2.0
"""The largest factor, and by one the smallest."""
unknown_error: Final = 0.2
"""The relative error of the whole shop of a week that is added to those that are known."""
_below: Final = (1.0 - COVERED) / 2
"""The share of what comes that is to be below the interval, unless the interval begins at 0."""
_rows_together: Final = 16_384
"""Rows of the regressions that are learned with one event."""
_rate: Final = 0.3
"""How far a level moves for each unit by which a week's coverage missed it."""
_class_prior: Final = 50.0
"""Rows of a class at which the rate is half: in few rows coverage is mostly chance."""
_absent_max: Final = 0.1
"""Weeks in which an item was out of stock for more than this share teach nothing and are not judged."""


MEAN: Final = len(LEVELS)
"""The number of the regression of the mean, which is the last one of a horizon."""
_REGRESSIONS: Final = len(LEVELS) + 1


class Demand(NamedTuple):
    """What is expected of an item within some days, in pieces: the mean, and the quantiles of `LEVELS`."""

    days: float
    mean: float
    quantiles: Floats


class Forecast(NamedTuple):
    """What is expected of items within a time, in pieces. Shapes: mean (S,), quantiles (S, len(LEVELS))"""

    mean: Floats
    quantiles: Floats


class Pending(NamedTuple):
    """Forecasts whose truth is not known yet.

    Shapes: slots, low, high, groups, mean (S,), quantiles (S, len(LEVELS)), simple (len(SIMPLE), S). `low` and `high`
    are the ends of the interval, `groups` the numbers of the classes, `mean` is not reconciled.
    """

    week: int
    horizon: int
    slots: NDArray[np.int32]
    quantiles: Floats
    low: Floats
    high: Floats
    groups: NDArray[np.int32]
    simple: Floats
    mean: Floats


class Judged(NamedTuple):
    """How good the forecasts of a week were.

    Attributes:
        week: the first week that was forecast.
        sums: pieces that were sold, and that were missed by the median and by each simple method: absolute errors.
            Shape (2 + len(SIMPLE),)
        pinball: the sum of pinball losses of the quantiles. Shape (len(LEVELS),)
        counts: forecasts by class, and how many of them were covered. Shape (2, len(CLASSES))
        expected: the sums of the medians and of the means, which are not reconciled. Shape (2,)
    """

    week: int
    sums: Floats
    pinball: Floats
    counts: Floats
    expected: Floats


class Lesson(NamedTuple):
    """The rows from which a week's regressions are learned.

    Shapes: design (R, len(FEATURES)), weight (R,), targets (len(HORIZONS), R). Targets are in levels of the item, NaN
    where they are not known.
    """

    design: Floats
    weight: Floats
    targets: Floats


class Forecaster:
    """Learns what items will sell, from `Sales`.

    A week begins with `begin`, which judges; `proceed` then learns the regressions a few at a time, and forecasts at
    last. So no event has to wait for all of them. Until then the regressions of the week before hold. `turn` does all
    at once.

    Args:
        sales: is turned by `turn`.
        occasions: of these sales.

    Attributes:
        weights: of the quantiles of `LEVELS` and of the mean, by horizon. Shape (len(LEVELS) + 1, len(FEATURES))
        ends: the levels of the quantiles that are the ends of intervals. Shape (len(HORIZONS), len(CLASSES), 2)
        judged: of each horizon, the newest weeks.
    """

    def __init__(self, sales: Sales, occasions: Occasions | None = None) -> None:
        self.sales = sales
        self.occasions = occasions or Occasions(sales)
        self.weights: list[Floats | None] = [None] * len(HORIZONS)
        self.ends = np.tile(np.array([_below, 1.0 - _below]), (len(HORIZONS), len(CLASSES), 1))
        self.pending: list[Pending] = []
        self.judged: list[list[Judged]] = [[] for _ in HORIZONS]
        self._lesson: Lesson | None = None
        self._learning: Floats | None = None  # of the horizon that is being learned, the new weights
        self._steps_left = 0

    @property
    def learned(self) -> bool:
        """Whether anything is expected."""
        return self.weights[0] is not None

    def turn(self, week: int) -> None:
        """Begin a week: judge what was forecast of the weeks that are over, learn from them, and forecast the next."""
        self.begin(week)
        self.finish()

    def begin(self, week: int, turned: Callable[[], None] | None = None) -> None:
        """Begin a week: judge what was forecast of the weeks that are over, and gather the rows to learn from.

        Args:
            turned: is called between, when the weeks that are over are in the ring, those without sales included.
        """
        sales = self.sales
        if week <= sales.week:
            return
        self.finish()
        ended = sales.week
        sales.turn(week)
        if turned is not None:
            turned()
        if ended != NO_SLOT:
            self.occasions.turn(ended)
        for one in [one for one in self.pending if one.week + one.horizon <= week]:
            self._judge(one)
        self.pending = [one for one in self.pending if one.week + one.horizon > week]
        self._lesson = self._gathered()
        self._steps_left = len(HORIZONS) * _REGRESSIONS + 1

    def proceed(self) -> None:
        """Do some of what is left of a week's work: regressions of about `_rows_together` rows, at least one."""
        rows = 1 if self._lesson is None else len(self._lesson.design)
        for _ in range(max(1, _rows_together // rows)):
            if not self._steps_left:
                return
            self._step()

    def finish(self) -> None:
        """Do all that is left of a week's work."""
        while self._steps_left:
            self._step()

    def _step(self) -> None:
        """Learn a regression or, after the last one, forecast."""
        number = len(HORIZONS) * _REGRESSIONS + 1 - self._steps_left
        self._steps_left -= 1
        if self._lesson is None or not self._steps_left:
            self._lesson, self._steps_left = None, 0
            self._forecast()
        else:
            self._regress(self._lesson, *divmod(number, _REGRESSIONS))

    def _judge(self, one: Pending) -> None:
        sales, place = self.sales, HORIZONS.index(one.horizon)
        if one.week <= sales.week - weeks_max:
            return
        slots, weeks = one.slots.astype(np.int64), np.full(len(one.slots), one.week)
        there = slots != NO_SLOT
        there[there] = sales.absent(slots[there], weeks[there], one.horizon) <= _absent_max
        if not there.any():
            return
        truth = sales.sold(slots[there], weeks[there], one.horizon)
        quantiles, low, high, groups = (values[there] for values in (one.quantiles, one.low, one.high, one.groups))
        errors = [np.abs(truth - guess) for guess in (quantiles[:, MEDIAN], *one.simple[:, there])]
        covered = (low <= truth) & (truth <= high)
        counts = np.bincount(groups, minlength=len(CLASSES)).astype(np.float64)
        inside = np.bincount(groups, covered, len(CLASSES))
        self.judged[place].append(
            Judged(
                one.week,
                np.array([float(np.add.reduce(values)) for values in (truth, *errors)]),
                np.array(
                    [
                        float(np.add.reduce(pinball(truth, guess, level)))
                        for guess, level in zip(quantiles.T, LEVELS, strict=True)
                    ]
                ),
                np.stack([counts, inside]),
                np.array([float(np.add.reduce(quantiles[:, MEDIAN])), float(np.add.reduce(one.mean[there]))]),
            )
        )
        del self.judged[place][:-judged_weeks_max]
        rate = _rate * counts / (counts + _class_prior)
        shares = (np.bincount(groups, part, len(CLASSES)) for part in (truth < low, truth <= low, covered))
        under, up_to, share = (one / np.maximum(counts, 1.0) for one in shares)
        # Of whole pieces an end has many levels, so it is wrong only beyond them.
        wrong = np.maximum(_below - up_to, 0.0) - np.maximum(under - _below, 0.0)
        ends = self.ends[place]
        ends[:, 0] = np.clip(ends[:, 0] + rate * wrong, 0.25 * _below, 2.0 * _below)
        ends[:, 1] = np.clip(ends[:, 1] + rate * (COVERED - share), 0.75, 0.995)

    def _gathered(self) -> Lesson | None:
        """Return the rows from which is learned, None without any."""
        sales = self.sales
        first = max(sales.began + history_min, sales.week - taught_max)
        weeks = np.arange(first, sales.week)
        means = sales.means()
        if not len(weeks) or not np.any(means > 0):
            return None
        drawn = [_sample(means, rows_max // len(weeks), (0.618034 * week) % 1.0) for week in weeks.tolist()]
        slots = np.concatenate([one for one, _ in drawn])
        inclusion = np.concatenate([one for _, one in drawn])
        row_weeks = np.repeat(weeks, [len(one) for one, _ in drawn])
        found = features_of(sales, slots, row_weeks, self.occasions.each)
        age = sales.week - 1 - row_weeks
        fading = np.array([power_of_two(-n / half_life) for n in range(taught_max)])[age]
        targets = np.full((len(HORIZONS), len(slots)), np.nan)
        for target, horizon in zip(targets, HORIZONS, strict=True):
            known = (found.level > 0) & (row_weeks + horizon <= sales.week)
            known[known] = sales.absent(slots[known], row_weeks[known], horizon) <= _absent_max
            level = found.level[known]
            target[known] = np.minimum(
                self._ordinary(slots[known], row_weeks[known], horizon) / (horizon * level), target_max
            )
        return Lesson(found.design, found.level * fading / inclusion, targets)

    def _ordinary(self, slots: Slots, weeks: NDArray[np.int64], horizon: int) -> Floats:
        """Return what was sold, as it would be without occasions."""
        sold, held = self.sales.sold(slots, weeks, horizon), self.occasions.over(slots, weeks, horizon)
        return sold if held is None else sold / held

    def _regress(self, lesson: Lesson, place: int, number: int) -> None:
        """Learn the regression of a quantile, or of the mean, of a horizon."""
        known = ~np.isnan(lesson.targets[place])
        count = int(np.count_nonzero(known))
        if count < rows_min:
            return
        design, target, weight = lesson.design[known], lesson.targets[place, known], lesson.weight[known]
        weight = weight * (count / float(np.add.reduce(weight)))
        if self._learning is None:
            self._learning = np.zeros((_REGRESSIONS, len(FEATURES)))
        if number == MEAN:
            self._learning[number] = mean_weights(design, target, weight)
        else:
            before = self.weights[place]
            start = None if before is None else before[number]
            self._learning[number] = quantile_weights(design, target, weight, LEVELS[number], start)
        if number == _REGRESSIONS - 1:
            self.weights[place], self._learning = self._learning, None

    def _raw(self, found: Features, place: int) -> Forecast | None:
        """Return what the model says of features, in pieces, before its quantiles are corrected."""
        weights = self.weights[place]
        if weights is None:
            return None
        scale = HORIZONS[place] * found.level
        ratios = [product(found.design, one) for one in weights]
        ratios[MEDIAN] = np.clip(ratios[MEDIAN], found.least, found.most)
        quantiles = np.sort(np.maximum(np.stack(ratios[:-1], axis=1), 0.0), axis=1)
        return Forecast(np.maximum(ratios[-1], 0.0) * scale, quantiles * scale[:, None])

    def factor(self, place: int) -> tuple[float, float]:
        """Return what the shop sold by the sum of the means that were expected, lately, and how far off a week is.

        The second is the root of the mean square of relative errors. Means times the factor add up to what the shop
        sells: so forecasts of items, categories and the shop are coherent, and follow what moves all of them.
        """
        judged = self.judged[place]
        weights = [power_of_two((one.week - self.sales.week) / factor_half_life) for one in judged]
        sold = sum(weight * float(one.sums[0]) for weight, one in zip(weights, judged, strict=True))
        expected = sum(weight * float(one.expected[1]) for weight, one in zip(weights, judged, strict=True))
        total = sum(weights)
        if not total or not expected:
            return 1.0, unknown_error
        prior = factor_prior * expected / total
        factor = min(max((sold + prior) / (expected + prior), 1.0 / factor_max), factor_max)
        wrong = [
            weight * (float(one.sums[0]) / max(1.0, factor * float(one.expected[1])) - 1.0) ** 2
            for weight, one in zip(weights, judged, strict=True)
        ]
        return factor, float(np.sqrt((sum(wrong) + unknown_error**2) / (total + 1.0)))

    def _read(self, raw: Floats, groups: NDArray[Any], levels: Floats) -> Floats:
        """Return quantiles at levels by class. Shapes: raw (S, len(LEVELS)), levels (len(CLASSES),), result (S,)"""
        low = np.maximum(2.0 * raw[:, 0] - raw[:, 2], 0.0)
        high = raw[:, -1] + 2.0 * (raw[:, -1] - raw[:, -2])
        values = np.concatenate([low[:, None], raw, high[:, None]], axis=1)
        knots = np.array([0.0, *LEVELS, 1.0])
        place = np.searchsorted(knots, levels, side="right") - 1
        share = (levels - knots[place]) / (knots[place + 1] - knots[place])
        rows = np.arange(len(raw))
        left, right = values[rows, place[groups]], values[rows, place[groups] + 1]
        return np.asarray(left + share[groups] * (right - left))

    def _features(self, slots: Slots) -> Features:
        """Return the features of items at the beginning of this week."""
        return features_of(self.sales, slots, np.full(len(slots), self.sales.week), self.occasions.each)

    def _of_horizon(self, found: Features, place: int, slots: Slots) -> tuple[Forecast, Floats, Floats] | None:
        """Return the forecast of a horizon, and the ends of its interval."""
        raw = self._raw(found, place)
        if raw is None:
            return None
        held = self.occasions.over(slots, np.full(len(slots), self.sales.week), HORIZONS[place])
        if held is not None:
            raw = Forecast(raw.mean * held, raw.quantiles * held[:, None])
        groups = groups_of(found.level)
        low, high = (self._read(raw.quantiles, groups, levels) for levels in self.ends[place].T)
        low = np.minimum(low, raw.quantiles[:, MEDIAN])
        # Pieces are whole: if the low end is below 1, none is within the interval.
        return Forecast(raw.mean * self.factor(place)[0], raw.quantiles), np.floor(low), high

    def _forecast(self) -> None:
        sales = self.sales
        if not self.learned:
            return
        slots = np.flatnonzero(sales.means() > 0)
        slots = slots[:: -(-len(slots) // judged_max) or 1]
        weeks = np.full(len(slots), sales.week)
        found = self._features(slots)
        simple = simple_forecasts(history_of(sales, slots, weeks)[0])
        groups = groups_of(found.level).astype(np.int32)
        for place, horizon in enumerate(HORIZONS):
            made = self._of_horizon(found, place, slots)
            if made is not None:
                beside = horizon * np.stack([simple[name] for name in SIMPLE])
                forecast, low, high = made
                mean = forecast.mean / self.factor(place)[0]
                self.pending.append(
                    Pending(
                        sales.week, horizon, slots.astype(np.int32), forecast.quantiles, low, high, groups, beside, mean
                    )
                )

    def expected(self, slots: Slots, days: float) -> Forecast | None:
        """Return what is expected of items within the next days, from what was sold until this week's beginning.

        Between the horizons it is interpolated. Within less than the first and beyond the last the mean grows with the
        days, and the distance of quantiles from it with their square root. None before anything is learned.

        Args:
            days: above 0.
        """
        found = self._features(slots)
        made = [self._of_horizon(found, place, slots) for place in range(len(HORIZONS))]
        known = [
            (float(horizon * self.sales.period_days), one[0])
            for horizon, one in zip(HORIZONS, made, strict=True)
            if one is not None
        ]
        return _within(known, days) if known else None

    def intervals(self, slots: Slots) -> list[tuple[int, Forecast, Floats, Floats]]:
        """Return, for each horizon that is learned: its weeks, the forecast, and the ends of the intervals."""
        found = self._features(slots)
        made = [self._of_horizon(found, place, slots) for place in range(len(HORIZONS))]
        return [(horizon, *one) for horizon, one in zip(HORIZONS, made, strict=True) if one is not None]

    def renumber(self, moved: NDArray[np.int32]) -> None:
        """Follow items to other slots, by former slot; forecasts of those that have none any more are not judged."""
        moved = np.append(moved, np.int32(NO_SLOT))  # `NO_SLOT` is the last, too
        self.pending = [one._replace(slots=moved[one.slots]) for one in self.pending]

    def state(self) -> dict[str, Any]:
        """Return all of it, the sales aside."""
        return {
            "weights": [None if one is None else one.copy() for one in self.weights],
            "lesson": None if self._lesson is None else [one.copy() for one in self._lesson],
            "learning": None if self._learning is None else self._learning.copy(), "steps_left": self._steps_left,
            "ends": self.ends.copy(),
            "pending": [[one.week, one.horizon, *(values.copy() for values in one[2:])] for one in self.pending],
            "judged": [
                [[one.week, *(values.copy() for values in one[1:])] for one in judged] for judged in self.judged
            ],
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any], sales: Sales, occasions: Occasions | None = None) -> Self:
        """Return what continues where `state` was taken."""
        found = cls(sales, occasions)
        found.weights = [None if one is None else one.copy() for one in state["weights"]]
        lesson, learning = state["lesson"], state["learning"]
        found._lesson = None if lesson is None else Lesson(*(one.copy() for one in lesson))
        found._learning, found._steps_left = None if learning is None else learning.copy(), state["steps_left"]
        found.ends = state["ends"].copy()
        found.pending = [Pending(*one) for one in state["pending"]]
        found.judged = [[Judged(*one) for one in judged] for judged in state["judged"]]
        return found


def groups_of(level: Floats) -> NDArray[np.int64]:
    """Return the numbers of the classes of items, by their level.

    >>> groups_of(np.array([0.2, 5.0, 700.0])).tolist()
    [0, 2, 4]
    """
    return np.asarray(np.searchsorted(np.array(EDGES), level, side="right"))


def _sample(sizes: Floats, count: int, phase: float) -> tuple[Slots, Floats]:
    """Return about `count` places above 0, and the probability with which each was drawn, which rises with its size.

    All are drawn, if they are few.

    >>> places, probability = _sample(np.array([0.0, 1.0, 1.0, 8.0, 1.0, 1.0]), 3, 0.3)
    >>> places.tolist(), probability.tolist()
    ([2, 3, 5], [0.5, 1.0, 0.5])
    """
    there = np.flatnonzero(sizes > 0)
    if len(there) <= count:
        return there, np.ones(len(there))
    values = sizes[there]
    scale = count / float(np.add.reduce(values))
    for _ in range(8):
        sure = scale * values >= 1.0
        rest = float(np.add.reduce(values[~sure]))
        if rest <= 0:
            break
        scale = (count - int(np.count_nonzero(sure))) / rest
    probability = np.minimum(scale * values, 1.0)
    steps = np.floor(np.concatenate([[0.0], np.cumsum(probability)]) + phase)
    drawn = np.diff(steps) > 0
    return there[drawn], probability[drawn]


def _within(known: Sequence[tuple[float, Forecast]], days: float) -> Forecast:
    """Return the forecast of some days from those of horizons, the shortest first."""
    first, last = known[0], known[-1]
    if days <= first[0] or days >= last[0]:
        base, one = first if days <= first[0] else last
        mean = one.mean * (days / base)
        spread = (one.quantiles - one.mean[:, None]) * np.sqrt(days / base)
        return Forecast(mean, np.maximum(mean[:, None] + spread, 0.0))
    place = next(n for n, (longer, _) in enumerate(known) if days <= longer)
    (left_days, left), (right_days, right) = known[place - 1], known[place]
    share = (days - left_days) / (right_days - left_days)
    return Forecast(*(a + share * (b - a) for a, b in zip(left, right, strict=True)))
