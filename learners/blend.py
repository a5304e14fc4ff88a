"""The blend: one ranking out of several members' candidates, with weights learned from what shoppers did next.

It learns from judgements (candidates that were given before the true item was known), not from events: who makes those
is `consumers.online`. Its members may be missing, silent or mad; what they say then changes nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headrace.state import State
from learners.learner import Scores, top
from learners.traits import TRAITS

TRUST: Final[Mapping[str, float]] = {
    "popularity": 0.1,
    "transitions": 0.5,
    "session_knn": 1.0,
    "revisits": 0.5,
    "deep": 1.0,
}
"""How far the members of the live system are believed before anything was learned; others as far as 1."""

TellTraits: TypeAlias = Callable[[NDArray[np.int32]], NDArray[np.uint8]]
"""Returns the traits of slots, as `learners.traits` tells them. Shapes: (C,) to (C, len(TRAITS))."""

_lengths: Final = (1, 2, 3, 4, 6, 10)
"""Session lengths at which the next context begins; below the first, the session is empty."""
_contexts: Final = len(_lengths) + 1
_features: Final = ("share", "log", "reciprocal_rank", "present")
_floor: Final = 1e-4
"""A score below this part of its member's best one counts as this part."""
_log_floor: Final = float(np.log(_floor))
_sharpness: Final = 4.0
"""Initial utility of being the best candidate of a member that is fully believed, against being on no list."""
_units: Final = 64
"""Width of the hidden layer."""
_spread: Final = 0.35
"""Standard deviation of the first weights into it."""
_straight_rate: Final = 2.0
"""How much faster than the others the straight weights learn: there are few, and they begin far from where they end."""
_weight_max: Final = 50.0
_averaged: Final = 0.1, 1_000
"""Steps over which weights are averaged: this share of all steps so far, at most so many."""
_tiny: Final = 1e-30
_BETAS: Final = 0.9, 0.999


class _Layers(NamedTuple):
    """The weights, as views into one flat array. Row 0 holds for all contexts, the others are what each adds to it.

    Shapes:
        straight: (1 + contexts, F); into: (F, units); bias: (1 + contexts, units); out: (units,)
    """

    straight: NDArray[np.float64]
    into: NDArray[np.float64]
    bias: NDArray[np.float64]
    out: NDArray[np.float64]

    @classmethod
    def of(cls, flat: NDArray[np.float64], inputs: int) -> "_Layers":
        """Divide a flat array into the layers."""
        shapes = ((1 + _contexts, inputs), (inputs, _units), (1 + _contexts, _units), (_units,))
        parts = np.split(flat, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
        return cls(*(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)))

    @staticmethod
    def size(inputs: int) -> int:
        """Return how many weights there are."""
        return (1 + _contexts) * inputs + inputs * _units + (1 + _contexts) * _units + _units


class _Thought(NamedTuple):
    """What came out of a forward pass. Shapes: inputs (C, F), hidden (C, units), chances (C,)."""

    inputs: NDArray[np.float64]
    hidden: NDArray[np.float64]
    chances: NDArray[np.float64]


class Blend:
    """A small network that ranks the union of the members' candidates by what each member says of a candidate.

    Of each candidate it sees, per member and all within [0, 1]: its share of the member's scores, its score by
    logarithm (1 for the best one, 0 for none), one over its rank (ties count as last) and whether it is there at all;
    beside these the item's traits. A candidate's utility is linear in these, with weights that depend on the
    session's length, plus what one hidden layer makes of them together; chances are the softmax of the utilities.
    Before anything was learned, the hidden layer says nothing. Each judgement is one step of Adam down the gradient of
    the cross-entropy, at a constant rate, so that it never stops adapting; inputs within [0, 1] bound the gradient.
    Answers come from the average of the weights over the newest steps, which no few judgements sway. A second number
    per context, how often the true item is among the candidates at all, scales the answer, so that it is the
    probability that the item comes next.

    Not promised: anything about items that no member names.

    Args:
        members: names, in the order of the features.
        learning_rate: size of a step.
        fading: factor by which past hits count less at each step.
        candidates_max: best candidates that are taken of each member.
        seed: of the first weights.

    Source: Kingma & Ba, "Adam", ICLR 2015; listwise softmax loss: Cao et al., "Learning to rank: from pairwise approach
    to listwise approach", ICML 2007.

    >>> blend = Blend(("a", "b"))
    >>> ranked = {
    ...     "a": Scores(np.array([1, 2], np.int32), np.array([3.0, 2.0], np.float32)),
    ...     "b": Scores(np.array([2, 3], np.int32), np.array([0.3, 0.1], np.float32)),
    ... }
    >>> top(blend.predict(ranked, 1), 3).slots.tolist()
    [2, 1, 3]
    >>> for _ in range(100):
    ...     blend.learn(ranked, 1, 1)
    >>> top(blend.predict(ranked, 1), 3).slots.tolist()
    [1, 2, 3]
    """

    def __init__(
        self,
        members: Sequence[str] = tuple(TRUST),
        *,
        learning_rate: float = 1e-3,
        fading: float = 0.9999,
        candidates_max: int = 50,
        seed: int = 0,
    ) -> None:
        self.members = tuple(members)
        self.learning_rate = learning_rate
        self.fading = fading
        self.candidates_max = candidates_max
        self._said = len(self.members) * len(_features)
        inputs = self._said + len(TRAITS)
        self._flat = np.zeros(_Layers.size(inputs))
        self._rates = np.full_like(self._flat, learning_rate)
        self._layers = _Layers.of(self._flat, inputs)
        self._average = np.zeros_like(self._flat)
        self._average_layers = _Layers.of(self._average, inputs)
        trust = self._layers.straight[0, : self._said].reshape(len(self.members), len(_features))
        trust[:, _features.index("log")] = [_sharpness * TRUST.get(name, 1.0) for name in members]
        _Layers.of(self._rates, inputs).straight[:] *= _straight_rate
        # Weights into the layer, and a threshold per unit, so that units differ; what they say starts at nothing.
        draw = np.random.default_rng(seed)
        self._layers.into[:] = _spread * draw.normal(size=self._layers.into.shape)
        self._layers.bias[0] = _spread * np.abs(draw.normal(size=_units))
        self._average[:] = self._flat
        self._first, self._second = np.zeros_like(self._flat), np.zeros_like(self._flat)
        self._steps = 0
        self._hits = np.full(_contexts, 1.0)
        self._tries = np.full(_contexts, 2.0)

    def predict(
        self, candidates: Mapping[str, Scores], context_length: int, traits: TellTraits | None = None
    ) -> Scores:
        """Return the probability of each candidate of the union to come next. Changes nothing.

        Args:
            candidates: what the members said; some may be missing. Other names are ignored.
            context_length: items of the current session so far.
            traits: tells those of the candidates; None where nothing is known.
        """
        slots, inputs = self._describe(candidates, traits)
        if not len(slots):
            return Scores(slots, np.empty(0, np.float32))
        context = _context(context_length)
        chances = _think(self._average_layers, inputs, context).chances * (self._hits[context] / self._tries[context])
        return Scores(slots, np.maximum(chances, _tiny).astype(np.float32))

    def learn(
        self,
        candidates: Mapping[str, Scores],
        context_length: int,
        item: int,
        traits: TellTraits | None = None,
    ) -> None:
        """Learn that `item` came next, where the members said `candidates`; see `predict`."""
        slots, inputs = self._describe(candidates, traits)
        context = _context(context_length)
        true = np.flatnonzero(slots == item)
        self._hits[context] = self.fading * self._hits[context] + len(true)
        self._tries[context] = self.fading * self._tries[context] + 1.0
        if len(true):
            thought = _think(self._layers, inputs, context)
            error = thought.chances
            error[true[0]] -= 1.0
            self._step(self._gradient(thought, error, context))

    def _gradient(self, thought: _Thought, error: NDArray[np.float64], context: int) -> NDArray[np.float64]:
        """Return the gradient of the cross-entropy; `error` (C,) is its gradient by the utilities."""
        gradient = np.zeros_like(self._flat)
        straight, into, bias, out = _Layers.of(gradient, thought.inputs.shape[1])
        rows = [0, 1 + context]
        straight[rows] = error @ thought.inputs
        before = error[:, None] * self._layers.out * (thought.hidden > 0)
        into[:] = thought.inputs.T @ before
        bias[rows] = before.sum(axis=0)
        out[:] = error @ thought.hidden
        return gradient

    def _step(self, gradient: NDArray[np.float64]) -> None:
        one, two = _BETAS
        self._steps += 1
        self._first += (1.0 - one) * (gradient - self._first)
        self._second += (1.0 - two) * (gradient * gradient - self._second)
        size = np.sqrt(self._second / (1.0 - two**self._steps)) + 1e-8
        self._flat -= self._rates * (self._first / (1.0 - one**self._steps)) / size
        np.clip(self._flat, -_weight_max, _weight_max, out=self._flat)
        share, most = _averaged
        self._average += (self._flat - self._average) / min(max(1.0, share * self._steps), most)

    def _describe(
        self, candidates: Mapping[str, Scores], traits: TellTraits | None
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return the union of the sane members' best candidates, and what each member says of each beside its traits.

        Shapes:
            slots: (C,), inputs: (C, M * F + len(TRAITS))
        """
        said = [(place, candidates[member]) for place, member in enumerate(self.members) if member in candidates]
        said = [(place, self._best(scores)) for place, scores in said if _sane(scores)]
        if not said:
            return np.empty(0, np.int32), np.empty((0, self._said + len(TRAITS)))
        # All members at once, one after the other in flat arrays: numpy's cost is per call.
        sizes = [len(scores.slots) for _, scores in said]
        slots, index = _union(np.concatenate([scores.slots for _, scores in said]))
        values = np.concatenate([scores.scores for _, scores in said]).astype(np.float64)
        inputs = np.zeros((len(slots), self._said + len(TRAITS)))
        features = inputs[:, : self._said].reshape(len(slots), len(self.members), len(_features), copy=False)
        features[index, np.repeat([place for place, _ in said], sizes)] = _say(values, np.array(sizes))
        if traits is not None:
            inputs[:, self._said :] = traits(slots) / 255
        return slots, inputs

    def _best(self, scores: Scores) -> Scores:
        return scores if len(scores.slots) <= self.candidates_max else top(scores, self.candidates_max)

    def weights(self) -> dict[str, float]:
        """Return, for people, what each member's word is worth: the utility of being its best candidate and on no other
        list, over being on no list, in nats, in the mean over contexts."""
        alone = np.zeros((1 + len(self.members), len(self.members), len(_features)))
        alone[range(1, 1 + len(self.members)), range(len(self.members))] = 1.0
        inputs = np.pad(alone.reshape(len(alone), -1), ((0, 0), (0, len(TRAITS))))
        utility = np.zeros(len(alone))
        for context in range(_contexts):
            utility += _utility(self._average_layers, inputs, context)[0] / _contexts
        return dict(zip(self.members, (utility[1:] - utility[0]).tolist(), strict=True))

    def state(self) -> State:
        """Return weights, their moments and hit counts."""
        return {
            "members": list(self.members),
            "learning_rate": self.learning_rate,
            "fading": self.fading,
            "candidates_max": self.candidates_max,
            "weights": self._flat.copy(),
            "average": self._average.copy(),
            "first": self._first.copy(),
            "second": self._second.copy(),
            "steps": self._steps,
            "hits": self._hits.copy(),
            "tries": self._tries.copy(),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a blend that continues exactly where `state` was taken."""
        names = ("learning_rate", "fading", "candidates_max")
        blend = cls(state["members"], **{name: state[name] for name in names})
        blend._flat[:], blend._average[:] = state["weights"], state["average"]
        blend._first, blend._second = state["first"].copy(), state["second"].copy()
        blend._steps = state["steps"]
        blend._hits, blend._tries = state["hits"].copy(), state["tries"].copy()
        return blend


def _think(layers: _Layers, inputs: NDArray[np.float64], context: int) -> _Thought:
    """Return what the network makes of candidates."""
    utility, hidden = _utility(layers, inputs, context)
    odds = np.exp(utility - utility.max())
    return _Thought(inputs, hidden, odds / odds.sum())


def _utility(
    layers: _Layers, inputs: NDArray[np.float64], context: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return candidates' utilities, and what their hidden layer says. Shapes: inputs (C, F) to (C,), (C, units)."""
    straight, into, bias, out = layers
    hidden = np.maximum(inputs @ into + (bias[0] + bias[1 + context]), 0.0)
    return inputs @ (straight[0] + straight[1 + context]) + hidden @ out, hidden


def _context(context_length: int) -> int:
    """Return the number of the context of sessions of this length, from 0."""
    return sum(context_length >= length for length in _lengths)


def _sane(scores: Scores) -> bool:
    """Tell whether a member said anything that can be used."""
    slots, values = scores
    return (
        0 < len(values) == len(slots)
        and bool(slots.min() >= 0)
        and bool(values.max() > 0)
        and bool(np.isfinite(values).all())
    )


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
