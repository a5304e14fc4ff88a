"""The probability of a label, learned row by row: rows of numbers and names, of which nothing is known beforehand.

The first rows are kept as they are; when there are enough, they decide how rows become features, are learned in their
order, and dropped. From then on each row is learned when its label comes.

A number is taken as the logarithm of its size, standardised. Beside it stand whether it is 0, and where it lies among
the values that are not: a hinge at each of some quantiles, so that its effect may bend. A name has a feature for each
of its first values. One flag, that which says most about the label, may change what all else means: every feature is
there twice, once for all rows and once for those with the flag.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from headrace.state import State
from learners.parts import portable
from learners.parts.laplace import Floats, LaplaceRegression

HINGES: Final = tuple(round(0.05 + 0.1 * n, 2) for n in range(10))
"""Quantiles of the values that are not 0, at which a number's effect may bend."""
_flag_shares: Final = (0.02, 0.98)
"""A flag is kept if between these shares of the first rows are 0."""
_values_min: Final = 20
"""Values that are not 0 from which quantiles are taken."""
_deviations_max: Final = 8.0
"""Numbers further from the mean count as if they were so far."""
_per_thousand: Final = 1_000.0
INTERCEPT: Final = ""
"""The group of the constant feature."""


class Columns(NamedTuple):
    """The names of a row's numbers and of its names, in order."""

    numbers: tuple[str, ...]
    names: tuple[str, ...] = ()


class Row(NamedTuple):
    """One row. Numbers are finite; a name that is "" is not known."""

    numbers: tuple[float, ...]
    names: tuple[str, ...] = ()


class RowSettings(NamedTuple):
    """How rows are learned.

    Attributes:
        first: rows that decide how rows become features.
        levels_max: values of each name that are told apart, the first ones.
        variance, intercept_variance: of the weights before anything is learned.
        noise: what each row adds to them, see `LaplaceRegression`.
        hinges: quantiles at which a number's effect may bend.
        gated: whether the most telling flag changes what all else means.
    """

    first: int = 1_000
    levels_max: int = 16
    variance: float = 0.1
    intercept_variance: float = 25.0
    noise: float = 1e-5
    hinges: tuple[float, ...] = HINGES
    gated: bool = True


class _Number(NamedTuple):
    """How a number becomes features."""

    factor: float
    mean: float
    deviation: float
    flag: bool
    hinges: tuple[float, ...]


class Encoding:
    """Turns rows into features, as the first rows decided. It learns only further values of names (`admit`).

    Attributes:
        groups: for each feature, the number or name from which it is made.
        usual: the mean features of the first rows.
    """

    def __init__(
        self, columns: Columns, numbers: Sequence[_Number], levels: Sequence[Mapping[str, int]], gate: int,
        levels_max: int, usual: Floats | None = None,
    ) -> None:  # fmt: skip
        self._columns, self._numbers, self._gate, self._levels_max = columns, list(numbers), gate, levels_max
        self._levels = [dict(one) for one in levels]
        self.groups = [INTERCEPT]
        self._flags: list[tuple[int, int]] = []  # place of the feature, place of the number
        linear, places, knots = list[int](), list[int](), list[float]()
        for place, (name, one) in enumerate(zip(columns.numbers, self._numbers, strict=True)):
            linear.append(len(self.groups))
            self.groups.append(name)
            if one.flag:
                self._flags.append((len(self.groups), place))
                self.groups.append(name)
            places += [place] * len(one.hinges)
            knots += one.hinges
        self._bent_from = len(self.groups)
        self._bent, self._knots = np.array(places, np.int64), np.array(knots, np.float64)
        self.groups += [columns.numbers[place] for place in places]
        self._levels_from = len(self.groups)
        for name in columns.names:
            self.groups += [name] * levels_max
        self._single = len(self.groups)
        if gate >= 0:
            self.groups += self.groups[1:]
        self._factors = np.array([one.factor for one in self._numbers])
        self._means = np.array([one.mean for one in self._numbers])
        self._deviations = np.array([one.deviation for one in self._numbers])
        self._linear = np.array(linear, np.int64)
        self.usual = np.zeros(len(self.groups)) if usual is None else usual.copy()

    @classmethod
    def of(cls, columns: Columns, rows: Sequence[Row], labels: Sequence[bool], settings: RowSettings) -> Self:
        """Return the encoding that the first rows decide."""
        values = np.array([row.numbers for row in rows], np.float64)
        numbers, gate, telling = list[_Number](), -1, 0.0
        place = 1
        for column in values.T:
            one = _number(column, settings.hinges)
            numbers.append(one)
            place += 1
            if one.flag:
                told = _information(column != 0, np.array(labels, np.bool_))
                if settings.gated and told > telling:
                    gate, telling = place, told
                place += 1
        encoding = cls(columns, numbers, [{} for _ in columns.names], gate, settings.levels_max)
        for row in rows:
            encoding.admit(row)
        encoding.usual = np.add.reduce([encoding.features(row) for row in rows], axis=0) / len(rows)
        return encoding

    def admit(self, row: Row) -> None:
        """Tell the values of a row's names apart from now on, if there is room."""
        for name, levels in zip(row.names, self._levels, strict=True):
            if name and name not in levels and len(levels) < self._levels_max:
                levels[name] = len(levels)

    def features(self, row: Row) -> Floats:
        """Return the features of a row. Shape (len(groups),)."""
        values = np.array(row.numbers)
        sizes = portable.log(1.0 + np.abs(values) * self._factors)
        sizes = np.where(values < 0, -sizes, sizes)
        standard = np.clip((sizes - self._means) / self._deviations, -_deviations_max, _deviations_max)
        found = np.zeros(len(self.groups))
        found[0] = 1.0
        found[self._linear] = standard
        for feature, place in self._flags:
            found[feature] = row.numbers[place] != 0
        found[self._bent_from : self._levels_from] = np.maximum(standard[self._bent] - self._knots, 0.0)
        start = self._levels_from
        for name, levels in zip(row.names, self._levels, strict=True):
            level = levels.get(name)
            if level is not None:
                found[start + level] = 1.0
            start += self._levels_max
        if self._gate >= 0 and found[self._gate]:
            found[self._single :] = found[1 : self._single]
        return found

    @property
    def gate(self) -> str:
        """The number whose flag changes what all else means; "" if none does."""
        return self.groups[self._gate] if self._gate >= 0 else ""

    @property
    def levels(self) -> int:
        """How many values of names are told apart."""
        return sum(map(len, self._levels))

    def state(self) -> State:
        """Return the complete state."""
        return {
            "numbers": [[*one[:4], list(one.hinges)] for one in self._numbers],
            "levels": [list(one) for one in self._levels],
            "gate": self._gate, "levels_max": self._levels_max, "usual": self.usual.copy(),
        }  # fmt: skip

    @classmethod
    def from_state(cls, columns: Columns, state: State) -> Self:
        """Return an encoding that continues exactly where `state` was taken."""
        numbers = [
            _Number(factor, mean, deviation, flag, tuple(hinges))
            for factor, mean, deviation, flag, hinges in state["numbers"]
        ]
        levels = [{name: place for place, name in enumerate(one)} for one in state["levels"]]
        return cls(columns, numbers, levels, state["gate"], state["levels_max"], state["usual"])


def _number(column: Floats, quantiles: Sequence[float]) -> _Number:
    """Return how a number becomes features, from its values in the first rows. Shape (R,)."""
    size = np.abs(column)
    # A share of which only the logarithm near 1 would be seen is told in thousandths.
    factor = _per_thousand if size.max() <= 1 and bool((size != np.rint(size)).any()) else 1.0
    sizes = portable.log(1.0 + size * factor)
    sizes = np.where(column < 0, -sizes, sizes)
    mean = float(np.add.reduce(sizes)) / len(sizes)
    deviation = float(np.sqrt(np.add.reduce((sizes - mean) ** 2) / len(sizes))) or 1.0
    zeros = float(np.count_nonzero(column == 0)) / len(column)
    others = sizes[column != 0]
    hinges: tuple[float, ...] = ()
    if len(others) > _values_min:
        hinges = tuple(((np.unique(np.quantile(others, quantiles)) - mean) / deviation).tolist())
    return _Number(factor, mean, deviation, _flag_shares[0] < zeros < _flag_shares[1], hinges)


def _information(flag: NDArray[np.bool_], label: NDArray[np.bool_]) -> float:
    """Return the mutual information of a flag and the label, in nats. Shapes: (R,)

    >>> a = np.array([True, True, False, False])
    >>> round(_information(a, a), 4), _information(a, np.array([True, False, True, False]))
    (0.6931, 0.0)
    """
    found = 0.0
    for one in (False, True):
        for other in (False, True):
            both = int(np.count_nonzero((flag == one) & (label == other))) / len(flag)
            apart = int(np.count_nonzero(flag == one)) * int(np.count_nonzero(label == other)) / len(flag) ** 2
            if both:
                found += both * portable.log(np.array([both / apart])).item()
    return found


class Reasons(NamedTuple):
    """Why a row has its probability: the log-odds of usual rows, and what each number and name adds. They sum up."""

    base: float
    parts: dict[str, float]


class RowLearner:
    """Learns the probability of a label from rows. Memory is bounded by the first rows, and the square of the features.

    >>> learner = RowLearner(Columns(("views",)), RowSettings(first=200))
    >>> for n in range(400):
    ...     given = learner.learn(Row((float(n % 8),)), n % 8 > 4)
    >>> learner.probability(Row((1.0,))) < 0.1 < 0.9 < learner.probability(Row((7.0,)))
    True
    """

    def __init__(self, columns: Columns, settings: RowSettings) -> None:
        self.columns, self.settings = columns, settings
        self.encoding: Encoding | None = None
        self._model: LaplaceRegression | None = None
        self._rows: list[Row] = []
        self._labels: list[bool] = []
        self.learned = 0
        """Rows that were learned."""

    @property
    def width_max(self) -> int:
        """Most features."""
        numbers, names = len(self.columns.numbers), len(self.columns.names)
        single = numbers * (2 + len(self.settings.hinges)) + names * self.settings.levels_max
        return 1 + single * (1 + self.settings.gated)

    @property
    def has_begun(self) -> bool:
        """Whether enough rows were learned for a probability that depends on the row."""
        return self.encoding is not None

    def probability(self, row: Row) -> float:
        """Return the probability of the label; until enough rows were learned, the share of those that had it."""
        if self._model is None or self.encoding is None:
            return (sum(self._labels) + 1.0) / (len(self._labels) + 2.0)
        return self._model.belief(self.encoding.features(row)).probability

    def reasons(self, row: Row) -> Reasons | None:
        """Return why a row has its probability; None until enough rows were learned."""
        if self._model is None or self.encoding is None:
            return None
        features, usual = self.encoding.features(row), self.encoding.usual
        scale = self._model.belief(features).scale
        base = scale * float(np.add.reduce(self._model.weights * usual))
        parts = dict.fromkeys((*self.columns.numbers, *self.columns.names), 0.0)
        for group, amount in zip(
            self.encoding.groups, (self._model.weights * (features - usual)).tolist(), strict=True
        ):
            if group:
                parts[group] += scale * amount
        return Reasons(base, parts)

    def learn(self, row: Row, label: bool) -> float:
        """Learn a row whose label is known; return the probability that it was given before."""
        assert all(map(isfinite, row.numbers)), f"wanted finite numbers, found {row.numbers}"
        self.learned += 1
        if self._model is None or self.encoding is None:
            given = self.probability(row)
            self._rows.append(row)
            self._labels.append(label)
            if len(self._rows) >= self.settings.first:
                self._begin()
            return given
        self.encoding.admit(row)
        return self._model.learn(self.encoding.features(row), label).probability

    def _begin(self) -> None:
        """Let the first rows decide the features, and learn them."""
        self.encoding = Encoding.of(self.columns, self._rows, self._labels, self.settings)
        prior = np.full(len(self.encoding.groups), self.settings.variance)
        prior[0] = self.settings.intercept_variance
        self._model = LaplaceRegression(prior, noise=self.settings.noise)
        for row, label in zip(self._rows, self._labels, strict=True):
            self._model.learn(self.encoding.features(row), label)
        self._rows, self._labels = [], []

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        levels = self.encoding.levels if self.encoding else 0
        return {
            "first_rows": (len(self._rows), self.settings.first),
            "levels": (levels, len(self.columns.names) * self.settings.levels_max),
            "features": (self._model.width if self._model else 0, self.width_max),
        }

    def state(self) -> State:
        """Return the complete state."""
        return {
            "learned": self.learned,
            "rows": [[list(row.numbers), list(row.names)] for row in self._rows],
            "labels": list(self._labels),
            "encoding": self.encoding.state() if self.encoding else None,
            "model": self._model.state() if self._model else None,
        }

    @classmethod
    def from_state(cls, state: State, columns: Columns, settings: RowSettings) -> Self:
        """Return a learner that continues exactly where `state` was taken."""
        learner = cls(columns, settings)
        learner.learned = state["learned"]
        learner._rows = [Row(tuple(numbers), tuple(names)) for numbers, names in state["rows"]]
        learner._labels = list(state["labels"])
        if state["model"] is not None:
            learner.encoding = Encoding.from_state(columns, state["encoding"])
            learner._model = LaplaceRegression.from_state(state["model"])
        return learner
