"""The blend: one ranking out of several members' candidates, with weights learned from what shoppers did next.

It learns from judgements (candidates that were given before the true item was known), not from events: who makes those
is `consumers.online`. Its members may be missing, silent or mad; what they say then changes nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from headrace.state import State
from learners.learner import Scores, top

TRUST: Final[Mapping[str, float]] = {
    "popularity": 0.1,
    "transitions": 0.5,
    "session_knn": 1.0,
    "revisits": 0.5,
    "deep": 1.0,
}
"""How far the members of the live system are believed before anything was learned; others as far as 1."""

_lengths: Final = (1, 2, 3, 4, 6, 10)
"""Session lengths at which the next set of weights begins; below the first, the session is empty."""
_features: Final = ("share", "log", "reciprocal_rank", "present")
_floor: Final = 1e-4
"""A score below this part of its member's best one counts as this part."""
_log_floor: Final = float(np.log(_floor))
_sharpness: Final = 4.0
"""Initial utility of being the best candidate of a member that is fully believed, against being on no list."""
_weight_max: Final = 50.0
_tiny: Final = 1e-30


class Blend:
    """A softmax over the union of the members' candidates, linear in what each member says of a candidate.

    Of each candidate it sees, per member and all within [0, 1]: its share of the member's scores, its score by
    logarithm (1 for the best one, 0 for none), one over its rank (ties count as last) and whether it is there at all.
    A weight is the sum of one for all contexts and one for sessions of about this length. Learning is one step down
    the gradient of the cross-entropy, by AdaGrad with slowly fading sums, so that it never stops adapting; features
    within [0, 1] bound the gradient. A second number per context, how often the true item is among the candidates at
    all, scales the answer, so that it is the probability that the item comes next.

    Not promised: anything about items that no member names.

    Args:
        members: names, in the order of the weights' rows.
        learning_rate: first step's size.
        fading: factor by which past gradients and hits count less at each step.
        candidates_max: best candidates that are taken of each member.

    Source: Duchi, Hazan and Singer, "Adaptive subgradient methods", JMLR 12, 2011; listwise softmax loss: Cao et al.,
    "Learning to rank: from pairwise approach to listwise approach", ICML 2007.

    >>> blend = Blend(("a", "b"))
    >>> ranked = {
    ...     "a": Scores(np.array([1, 2], np.int32), np.array([3.0, 2.0], np.float32)),
    ...     "b": Scores(np.array([2, 3], np.int32), np.array([0.3, 0.1], np.float32)),
    ... }
    >>> top(blend.predict(ranked, 1), 3).slots.tolist()
    [2, 1, 3]
    >>> for _ in range(20):
    ...     blend.learn(ranked, 1, 1)
    >>> top(blend.predict(ranked, 1), 3).slots.tolist()
    [1, 2, 3]
    """

    def __init__(
        self,
        members: Sequence[str] = tuple(TRUST),
        *,
        learning_rate: float = 0.1,
        fading: float = 0.9999,
        candidates_max: int = 50,
    ) -> None:
        self.members = tuple(members)
        self.learning_rate = learning_rate
        self.fading = fading
        self.candidates_max = candidates_max
        shape = (1 + len(_lengths) + 1, len(self.members), len(_features))
        # Row 0 holds for all contexts, the others are what each context adds to it.
        self._weights = np.zeros(shape)
        self._weights[0, :, _features.index("log")] = [_sharpness * TRUST.get(name, 1.0) for name in members]
        self._squares = np.full(shape, 0.1)
        self._hits = np.full(shape[0] - 1, 1.0)
        self._tries = np.full(shape[0] - 1, 2.0)

    def predict(self, candidates: Mapping[str, Scores], context_length: int) -> Scores:
        """Return the probability of each candidate of the union to come next. Changes nothing.

        Args:
            candidates: what the members said; some may be missing. Other names are ignored.
            context_length: items of the current session so far.
        """
        slots, features = self._describe(candidates)
        if not len(slots):
            return Scores(slots, np.empty(0, np.float32))
        row = _row(context_length)
        chances = self._softmax(features, row) * (self._hits[row - 1] / self._tries[row - 1])
        return Scores(slots, np.maximum(chances, _tiny).astype(np.float32))

    def learn(self, candidates: Mapping[str, Scores], context_length: int, item: int) -> None:
        """Learn that `item` came next, where the members said `candidates`."""
        slots, features = self._describe(candidates)
        row = _row(context_length)
        true = np.flatnonzero(slots == item)
        self._hits[row - 1] = self.fading * self._hits[row - 1] + len(true)
        self._tries[row - 1] = self.fading * self._tries[row - 1] + 1.0
        if not len(true):
            return
        error = self._softmax(features, row)
        error[true[0]] -= 1.0
        gradient = (error @ features.reshape(len(features), -1)).reshape(features.shape[1:])
        rows = [0, row]
        self._squares[rows] = self.fading * self._squares[rows] + gradient * gradient
        stepped = self._weights[rows] - self.learning_rate * gradient / np.sqrt(self._squares[rows])
        self._weights[rows] = np.clip(stepped, -_weight_max, _weight_max)

    def _softmax(self, features: NDArray[np.float64], row: int) -> NDArray[np.float64]:
        weights = (self._weights[0] + self._weights[row]).ravel()
        utility = features.reshape(len(features), -1) @ weights
        odds = np.exp(utility - utility.max())
        return np.asarray(odds / odds.sum())

    def _describe(self, candidates: Mapping[str, Scores]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return the union of the sane members' best candidates and what each member says of each.

        Shapes:
            slots: (C,), features: (C, M, F)
        """
        said = [(place, candidates[member]) for place, member in enumerate(self.members) if member in candidates]
        said = [(place, self._best(scores)) for place, scores in said if _sane(scores)]
        if not said:
            return np.empty(0, np.int32), np.empty((0, len(self.members), len(_features)))
        # All members at once, one after the other in flat arrays: numpy's cost is per call.
        sizes = [len(scores.slots) for _, scores in said]
        slots, index = _union(np.concatenate([scores.slots for _, scores in said]))
        values = np.concatenate([scores.scores for _, scores in said]).astype(np.float64)
        features = np.zeros((len(slots), len(self.members), len(_features)))
        features[index, np.repeat([place for place, _ in said], sizes)] = _say(values, np.array(sizes))
        return slots, features

    def _best(self, scores: Scores) -> Scores:
        return scores if len(scores.slots) <= self.candidates_max else top(scores, self.candidates_max)

    def weights(self) -> dict[str, dict[str, float]]:
        """Return, for people, each member's weight for each feature in the mean over contexts."""
        mean = self._weights[0] + self._weights[1:].mean(axis=0)
        return {
            member: dict(zip(_features, row, strict=True))
            for member, row in zip(self.members, mean.tolist(), strict=True)
        }

    def state(self) -> State:
        """Return weights, sums of squared gradients and hit counts."""
        return {
            "members": list(self.members),
            "learning_rate": self.learning_rate,
            "fading": self.fading,
            "candidates_max": self.candidates_max,
            "weights": self._weights.copy(),
            "squares": self._squares.copy(),
            "hits": self._hits.copy(),
            "tries": self._tries.copy(),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a blend that continues exactly where `state` was taken."""
        names = ("learning_rate", "fading", "candidates_max")
        blend = cls(state["members"], **{name: state[name] for name in names})
        blend._weights, blend._squares = state["weights"].copy(), state["squares"].copy()
        blend._hits, blend._tries = state["hits"].copy(), state["tries"].copy()
        return blend


def _row(context_length: int) -> int:
    """Return the row of weights that sessions of this length add."""
    return 1 + sum(context_length >= length for length in _lengths)


def _sane(scores: Scores) -> bool:
    """Tell whether a member said anything that can be used."""
    values = scores.scores
    return 0 < len(values) == len(scores.slots) and bool(values.max() > 0) and bool(np.isfinite(values).all())


def _union(slots: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the distinct slots in order, and the place of each given slot among them."""
    order = np.argsort(slots, kind="stable")
    ordered = slots[order]
    first = np.ones(len(slots), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    index = np.empty(len(slots), np.int64)
    index[order] = np.cumsum(first) - 1
    return ordered[first], index


def _say(values: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the features of candidates; the members' scores follow one another, `sizes` of each.

    Shapes:
        values: (N,), sizes: (members that speak,); returns (N, F)
    """
    starts = np.cumsum(sizes) - sizes
    member = np.repeat(np.arange(len(sizes)), sizes)
    peak = np.maximum(values / np.maximum.reduceat(values, starts)[member], _floor)
    share = peak / np.add.reduceat(peak, starts)[member]
    order = np.lexsort((-peak, member))
    ends_tie = np.ones(len(values), np.bool_)
    ends_tie[:-1] = (peak[order][1:] != peak[order][:-1]) | (member[1:] != member[:-1])
    ends = np.flatnonzero(ends_tie)
    rank = np.empty(len(values))
    rank[order] = np.repeat(ends, np.diff(ends, prepend=-1)) - starts[member] + 1
    return np.stack((share, 1.0 - np.log(peak) / _log_floor, 1.0 / rank, np.ones(len(values))), axis=1)
