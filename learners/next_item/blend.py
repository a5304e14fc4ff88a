"""The blend: merges the candidates of several members into one ranking, with weights learned online.

It learns from judgements (candidates that the members returned before the next item was known), not from events;
`consumers.online` makes the judgements. A member that is missing, returns nothing or returns invalid scores is ignored.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headrace.state import State
from learners.next_item.equal import EqualKeys
from learners.next_item.members import TRUST
from learners.next_item.traits import TRAITS
from learners.parts import portable
from learners.protocol import Scores, top

TraitLookup: TypeAlias = Callable[[NDArray[np.int32]], NDArray[np.uint8]]
"""Returns the traits of slots, as `learners.next_item.traits` tells them. Shapes: (C,) to (C, len(TRAITS))."""
Elementwise: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]

_lengths: Final = (1, 2, 3, 4, 6, 10)
"""Session lengths at which the next length group begins; below the first one, the session is empty."""
_length_groups: Final = len(_lengths) + 1
_features: Final = ("share", "log", "reciprocal_rank", "present")
_floor: Final = 1e-4
"""Scores are divided by the member's best one; lower quotients are raised to this value."""
_log_floor: Final = float(portable.log(np.array([_floor]))[0])
_sharpness: Final = 4.0
"""Initial utility of the best candidate of a member with full trust, relative to an item on no list."""
_units: Final = 64
"""Width of the hidden layer."""
_initial_deviation: Final = 0.35
"""Standard deviation of the initial weights into the hidden layer."""
_linear_rate: Final = 2.0
"""Factor on the learning rate of the linear weights: they are few, and their initial values are far from the final."""
_weight_max: Final = 50.0
_averaged: Final = 0.1, 1_000
"""Steps over which weights are averaged: this share of all steps so far, at most this many."""
_tiny: Final = 1e-30
_BETAS: Final = 0.9, 0.999


class _Layers(NamedTuple):
    """The weights, as views into one flat array.

    Of `linear` and `bias`, row 0 is shared by all length groups; each further row is added for one group.

    Shapes:
        linear: (1 + groups, F); hidden: (F, units); bias: (1 + groups, units); output: (units,)
    """

    linear: NDArray[np.float64]
    hidden: NDArray[np.float64]
    bias: NDArray[np.float64]
    output: NDArray[np.float64]

    @classmethod
    def of(cls, flat: NDArray[np.float64], inputs: int) -> "_Layers":
        """Split a flat array into the layers."""
        shapes = ((1 + _length_groups, inputs), (inputs, _units), (1 + _length_groups, _units), (_units,))
        parts = np.split(flat, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
        return cls(*(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)))

    @staticmethod
    def size(inputs: int) -> int:
        """Return the number of weights."""
        return (1 + _length_groups) * inputs + inputs * _units + (1 + _length_groups) * _units + _units


class _Joined(NamedTuple):
    """Scores of several members, one after another, because numpy's cost is per call.

    Shapes:
        places: numbers of the members (M,); sizes: (M,), of sum N; slots, values: (N,)
    """

    places: list[int]
    sizes: NDArray[np.int64]
    slots: NDArray[np.int32]
    values: NDArray[np.float64]

    @classmethod
    def of(cls, found: Mapping[int, Scores]) -> "_Joined":
        """Join at least one member's scores, by the members' numbers; none are empty."""
        slots, values = zip(*found.values(), strict=True)
        sizes = np.array([len(one) for one in slots], np.int64)
        return cls(list(found), sizes, np.concatenate(slots), np.concatenate(values, dtype=np.float64))

    def valid(self) -> bool:
        """Return whether `_valid` holds for each member's scores."""
        peaks = np.maximum.reduceat(self.values, np.cumsum(self.sizes) - self.sizes)
        return bool(self.slots.min() >= 0 and peaks.min() > 0 and np.isfinite(self.values).all())


class _ForwardPass(NamedTuple):
    """The result of a forward pass. Shapes: inputs (C, F), hidden (C, units), probabilities (C,)."""

    inputs: NDArray[np.float64]
    hidden: NDArray[np.float64]
    probabilities: NDArray[np.float64]


class _PredictingWeights(NamedTuple):
    """The weights of one length group.

    The last two units are the linear part and its negative, so that all units can be rectified, as
    x = max(x, 0) - max(-x, 0).

    Shapes:
        units: (F, units + 2); biases: (units + 2,); output: (units + 2,)
    """

    units: NDArray[np.float64]
    biases: NDArray[np.float64]
    output: NDArray[np.float64]


class Judged(NamedTuple):
    """What a blend says of candidates, until it learns again.

    Shapes:
        slots: (C,), ascending; inputs: (C, F)
    """

    blend: "Blend"
    slots: NDArray[np.int32]
    inputs: NDArray[np.float64]
    group: int

    def scores(self) -> Scores:
        """Return for each candidate the probability that it comes next."""
        return self.blend._probabilities(self.slots, self.inputs, self.group)

    def decisive(self, items: Sequence[int]) -> list[str]:
        """Return for each of these candidates the member without which its utility would be lowest; "" if none is."""
        return self.blend._decisive(self.inputs[np.searchsorted(self.slots, items)], self.group) if items else []

    def parts(self, items: Sequence[int]) -> list[dict[str, float]]:
        """Return for each of these candidates by how much its utility would be lower without each member, in nats.

        `traits` is what is known of the item itself. Of who says nothing of it, nothing is said. The network is not
        linear, so parts need not add up.
        """
        return self.blend._parts(self.inputs[np.searchsorted(self.slots, items)], self.group) if items else []


class Blend:
    """A small network that ranks the union of the members' candidates.

    The features of a candidate are, per member and all within [0, 1]: its share of the member's scores, the logarithm
    of its score (scaled so that the best one has 1 and a missing one 0), its reciprocal rank (ties count as last) and
    whether it is present; then the traits of the item. A candidate's utility is linear in the features, with weights
    that depend on the session's length, plus the output of one hidden layer, which is 0 before the first step. The
    probabilities are the softmax of the utilities.

    Each judgement is one step of Adam on the cross-entropy. The learning rate is constant, so the blend never stops
    adapting; inputs within [0, 1] bound the gradient. Predictions use the average of the weights over the newest
    steps, so a few judgements change them little. Per group of session lengths the blend also counts how often the
    true item is among the candidates. It multiplies the softmax by this frequency, so that a score is the probability
    that the item comes next.

    What it learns is the same on every processor; what it predicts, which is no part of its state, may differ in the
    last bits.

    Not promised: a score for items that no member returned.

    Args:
        members: names, in the order of the features.
        learning_rate: Adam's.
        fading: factor on past hit counts at each step.
        candidates_max: best candidates used of each member.
        seed: of the initial weights.

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
        self._member_inputs = len(self.members) * len(_features)
        inputs = self._member_inputs + len(TRAITS)
        self._flat = np.zeros(_Layers.size(inputs))
        self._rates = np.full_like(self._flat, learning_rate)
        self._layers = _Layers.of(self._flat, inputs)
        self._average = np.zeros_like(self._flat)
        self._average_layers = _Layers.of(self._average, inputs)
        self._equal = EqualKeys()
        self._predicting: dict[int, _PredictingWeights] = {}  # by length group, made of the average until it changes
        self._slopes = np.zeros_like(self._flat)  # scratch space of `_gradient`: splitting an array takes long
        self._slope_layers = _Layers.of(self._slopes, inputs)
        trust = self._layers.linear[0, : self._member_inputs].reshape(len(self.members), len(_features))
        trust[:, _features.index("log")] = [_sharpness * TRUST.get(name, 1.0) for name in members]
        _Layers.of(self._rates, inputs).linear[:] *= _linear_rate
        # Random weights and biases make the hidden units differ; the output weights start at 0.
        rng = np.random.default_rng(seed)
        self._layers.hidden[:] = _initial_deviation * rng.normal(size=self._layers.hidden.shape)
        self._layers.bias[0] = _initial_deviation * np.abs(rng.normal(size=_units))
        self._average[:] = self._flat
        self._first_moment, self._second_moment = np.zeros_like(self._flat), np.zeros_like(self._flat)
        self._steps = 0
        self._hits = np.full(_length_groups, 1.0)
        self._tries = np.full(_length_groups, 2.0)

    def predict(
        self, candidates: Mapping[str, Scores], context_length: int, traits: TraitLookup | None = None
    ) -> Scores:
        """Return for each candidate the probability that it comes next. Changes nothing.

        Args:
            candidates: the members' scored candidates, by name. Members may be missing; unknown names are ignored.
            context_length: items of the current session so far.
            traits: returns the candidates' traits; None if they are unknown.
        """
        return self.judge(candidates, context_length, traits).scores()

    def judge(
        self, candidates: Mapping[str, Scores], context_length: int, traits: TraitLookup | None = None
    ) -> "Judged":
        """Return what the blend says of candidates; the arguments are those of `predict`."""
        joined = self._joined(candidates)
        if joined is None:
            return Judged(self, np.empty(0, np.int32), np.empty((0, 0)), 0)
        slots, inputs = self._inputs(joined, traits, np.log)
        return Judged(self, slots, inputs, _length_group(context_length))

    def learn(
        self,
        candidates: Mapping[str, Scores],
        context_length: int,
        item: int,
        traits: TraitLookup | None = None,
    ) -> None:
        """Learn that `item` came next after the members returned `candidates`; arguments as in `predict`."""
        joined = self._joined(candidates)
        group = _length_group(context_length)
        listed = joined is not None and item in joined.slots
        self._hits[group] = self.fading * self._hits[group] + listed
        self._tries[group] = self.fading * self._tries[group] + 1.0
        if joined is not None and listed:
            slots, inputs = self._inputs(joined, traits, portable.log)
            forward = _forward(self._layers, inputs, group)
            error = forward.probabilities
            error[np.searchsorted(slots, item)] -= 1.0
            self._step(self._gradient(forward, error, group))

    def _probabilities(self, slots: NDArray[np.int32], inputs: NDArray[np.float64], group: int) -> Scores:
        if not len(slots):
            return Scores(slots, np.empty(0, np.float32))
        utility = self._predicted_utility(inputs, group)
        odds = np.exp(utility - utility.max())
        odds /= odds.sum()
        odds *= self._hits[group] / self._tries[group]
        return Scores(slots, np.maximum(odds, _tiny).astype(np.float32))

    def _decisive(self, inputs: NDArray[np.float64], group: int) -> list[str]:
        """Return for each candidate the member without which its utility would be lowest. Shape: inputs (C, F)"""
        members, count = len(self.members), len(inputs)
        without = np.repeat(inputs[None], 1 + members, axis=0)
        features = without[:, :, : self._member_inputs].reshape(1 + members, count, members, -1, copy=False)
        for place in range(members):
            features[place, :, place] = 0.0
        lost = self._predicted_utility(without.reshape((1 + members) * count, -1), group).reshape(1 + members, count)
        least = lost[:-1].argmin(axis=0)
        falls = lost[least, np.arange(count)] < lost[-1]
        return [self.members[place] if fall else "" for place, fall in zip(least.tolist(), falls.tolist(), strict=True)]

    def _parts(self, inputs: NDArray[np.float64], group: int) -> list[dict[str, float]]:
        whole, size = self._predicted_utility(inputs, group), len(_features)
        columns = {name: slice(place * size, (place + 1) * size) for place, name in enumerate(self.members)}
        columns["traits"] = slice(self._member_inputs, None)
        parts = [dict[str, float]() for _ in inputs]
        for name, of in columns.items():
            without = inputs.copy()
            without[:, of] = 0.0
            lost = whole - self._predicted_utility(without, group)
            for place in np.flatnonzero(inputs[:, of].any(axis=1)).tolist():
                parts[place][name] = round(float(lost[place]), 4)
        return parts

    def _predicted_utility(self, inputs: NDArray[np.float64], group: int) -> NDArray[np.float64]:
        """Return the candidates' utilities by the averaged weights, with one matrix product. Shapes: (C, F) to (C,)."""
        if group not in self._predicting:
            linear, hidden, bias, output = self._average_layers
            into = _PredictingWeights(
                np.empty((len(hidden), _units + 2)), np.zeros(_units + 2), np.array([0.0] * _units + [1.0, -1.0])
            )
            into.units[:, :_units], into.biases[:_units], into.output[:_units] = (
                hidden,
                bias[0] + bias[1 + group],
                output,
            )
            into.units[:, _units] = linear[0] + linear[1 + group]
            np.negative(into.units[:, _units], out=into.units[:, _units + 1])
            self._predicting[group] = into
        weights, biases, output = self._predicting[group]
        units = inputs @ weights
        units += biases
        np.maximum(units, 0.0, out=units)
        utility: NDArray[np.float64] = units @ output
        return utility

    def _gradient(self, forward: _ForwardPass, error: NDArray[np.float64], group: int) -> NDArray[np.float64]:
        """Return the gradient of the cross-entropy, until the next call.

        Args:
            error: its gradient with respect to the utilities. Shape: (C,)
        """
        self._slopes.fill(0.0)
        linear, hidden, bias, output = self._slope_layers
        rows = [0, 1 + group]
        before = np.empty((len(error), _units + 1))
        np.multiply(error[:, None] * self._layers.output, forward.hidden > 0, out=before[:, :_units])
        before[:, _units] = error
        slopes = portable.product(forward.inputs.T, before)
        hidden[:], linear[rows] = slopes[:, :_units], slopes[:, _units]
        bias[rows] = before[:, :_units].sum(axis=0)
        output[:] = portable.product(error, forward.hidden)
        return self._slopes

    def _step(self, gradient: NDArray[np.float64]) -> None:
        one, two = _BETAS
        self._steps += 1
        self._first_moment += (1.0 - one) * (gradient - self._first_moment)
        self._second_moment += (1.0 - two) * (gradient * gradient - self._second_moment)
        size = np.sqrt(self._second_moment / (1.0 - two**self._steps)) + 1e-8
        self._flat -= self._rates * (self._first_moment / (1.0 - one**self._steps)) / size
        np.clip(self._flat, -_weight_max, _weight_max, out=self._flat)
        share, most = _averaged
        self._average += (self._flat - self._average) / min(max(1.0, share * self._steps), most)
        self._predicting.clear()

    def _joined(self, candidates: Mapping[str, Scores]) -> _Joined | None:
        """Return the best candidates of the members whose scores are valid, None if there are no such members."""
        found = {place: candidates[member] for place, member in enumerate(self.members) if member in candidates}
        most = self.candidates_max
        if found and all(0 < len(slots) == len(values) <= most for slots, values in found.values()):  # nearly always
            joined = _Joined.of(found)
            if joined.valid():
                return joined
        found = {place: self._best(scores) for place, scores in found.items() if _valid(scores)}
        return _Joined.of(found) if found else None

    def _inputs(
        self, joined: _Joined, traits: TraitLookup | None, log: Elementwise
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return the union of the members' candidates, in ascending order, and the features of each.

        Shapes:
            slots: (C,), inputs: (C, M * F + len(TRAITS))
        """
        is_last = self._equal.last_places(joined.slots) == np.arange(len(joined.slots))
        slots, index = joined.slots[is_last], joined.slots.astype(np.intp)
        if int(slots.max()) < len(slots):  # all numbers from 0 on, as indices of candidates are
            slots = np.arange(len(slots), dtype=np.int32)
        else:
            slots.sort()
            index = np.searchsorted(slots, joined.slots)
        inputs = np.zeros((len(slots), self._member_inputs + len(TRAITS)))
        features = inputs[:, : self._member_inputs].reshape(len(slots), len(self.members), len(_features), copy=False)
        features[index, np.repeat(joined.places, joined.sizes)] = _member_features(joined.values, joined.sizes, log)
        if traits is not None:
            inputs[:, self._member_inputs :] = traits(slots) / 255
        return slots, inputs

    def _best(self, scores: Scores) -> Scores:
        return scores if len(scores.slots) <= self.candidates_max else top(scores, self.candidates_max)

    def weights(self) -> dict[str, float]:
        """Return each member's influence, for reports.

        It is the utility that an item gains when only this member ranks it first, in nats, mean over length groups.
        """
        alone = np.zeros((1 + len(self.members), len(self.members), len(_features)))
        alone[range(1, 1 + len(self.members)), range(len(self.members))] = 1.0
        inputs = np.pad(alone.reshape(len(alone), -1), ((0, 0), (0, len(TRAITS))))
        utility = np.zeros(len(alone))
        for group in range(_length_groups):
            utility += _utility(self._average_layers, inputs, group, np.matmul)[0] / _length_groups
        return dict(zip(self.members, (utility[1:] - utility[0]).tolist(), strict=True))

    def state(self) -> State:
        """Return weights, Adam's moments and hit counts."""
        return {
            "members": list(self.members),
            "learning_rate": self.learning_rate,
            "fading": self.fading,
            "candidates_max": self.candidates_max,
            "weights": self._flat.copy(),
            "average": self._average.copy(),
            "first": self._first_moment.copy(),
            "second": self._second_moment.copy(),
            "steps": self._steps,
            "hits": self._hits.copy(),
            "tries": self._tries.copy(),
        }

    @classmethod
    def from_state(cls, state: State, members: Sequence[str] | None = None) -> Self:
        """Return a blend that continues exactly where `state` was taken.

        Args:
            members: those of the blend; the state's by default. A member that the state lacks has its initial weights,
                and those of a member that is not named are dropped.
        """
        names = ("learning_rate", "fading", "candidates_max")
        kept = list(state["members"])
        blend = cls(kept if members is None else members, **{name: state[name] for name in names})
        for name, into in (
            ("weights", blend._flat), ("average", blend._average),
            ("first", blend._first_moment), ("second", blend._second_moment),
        ):  # fmt: skip
            blend._take(kept, state[name], into)
        blend._steps = state["steps"]
        blend._hits, blend._tries = state["hits"].copy(), state["tries"].copy()
        return blend

    def _take(self, members: Sequence[str], flat: NDArray[np.float64], into: NDArray[np.float64]) -> None:
        """Copy the weights of a blend of `members`, as far as the two have the same inputs."""
        size, others = len(_features), len(members) * len(_features) + len(TRAITS)
        old, new = _Layers.of(flat, others), _Layers.of(into, self._member_inputs + len(TRAITS))
        pairs = [(members.index(name), place) for place, name in enumerate(self.members) if name in members]
        spans = [(slice(a * size, (a + 1) * size), slice(b * size, (b + 1) * size)) for a, b in pairs]
        for its, mine in (*spans, (slice(others - len(TRAITS), None), slice(self._member_inputs, None))):
            new.linear[:, mine], new.hidden[mine] = old.linear[:, its], old.hidden[its]
        new.bias[:], new.output[:] = old.bias, old.output


def _forward(layers: _Layers, inputs: NDArray[np.float64], group: int) -> _ForwardPass:
    """Run the network on candidates, to learn from it: with the same bits on every processor."""
    utility, hidden = _utility(layers, inputs, group, portable.product)
    odds = portable.exp(utility - utility.max())
    return _ForwardPass(inputs, hidden, odds / odds.sum())


def _utility(
    layers: _Layers,
    inputs: NDArray[np.float64],
    group: int,
    product: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the candidates' utilities and hidden activations. Shapes: inputs (C, F) to (C,), (C, units)."""
    linear, hidden_weights, bias, output = layers
    units = product(inputs, np.column_stack([hidden_weights, linear[0] + linear[1 + group]]))
    hidden = np.maximum(units[:, :_units] + (bias[0] + bias[1 + group]), 0.0)
    return units[:, _units] + product(hidden, output), hidden


def _length_group(context_length: int) -> int:
    """Return the number, from 0, of the group of sessions of this length."""
    return sum(context_length >= length for length in _lengths)


def _valid(scores: Scores) -> bool:
    """Return whether a member's scores can be used: not empty, finite, some above 0, slots not negative."""
    slots, values = scores
    return (
        0 < len(values) == len(slots)
        and bool(slots.min() >= 0)
        and bool(values.max() > 0)
        and bool(np.isfinite(values).all())
    )


def _member_features(values: NDArray[np.float64], sizes: NDArray[np.int64], log: Elementwise) -> NDArray[np.float64]:
    """Return the features that follow from members' scores. The scores are concatenated, `sizes` of each member.

    Shapes:
        values: (N,), sizes: (valid members,); returns (N, F)
    """
    last = np.cumsum(sizes)
    starts = last - sizes
    member = np.repeat(np.arange(len(sizes)), sizes)
    peak = np.maximum(values / np.maximum.reduceat(values, starts)[member], _floor)
    rises = peak[1:] > peak[:-1]
    rises[last[:-1] - 1] = False
    order = np.lexsort((-peak, member)) if rises.any() else None  # members' lists are best first, judgements' are not
    ordered, ends_tie = peak if order is None else peak[order], np.ones(len(values), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=ends_tie[:-1])
    ends_tie[last - 1] = True
    ends = ends_tie.nonzero()[0]
    tied = ends + 1
    tied[1:] -= tied[:-1].copy()  # numbers of equal scores, which have the last rank of them
    rank = np.repeat(ends, tied)
    if order is not None:
        ranks = np.empty(len(values), np.int64)
        ranks[order] = rank
        rank = ranks
    found = np.ones((len(values), len(_features)))
    found[:, 0] = peak / np.add.reduceat(peak, starts)[member]
    found[:, 1] = 1.0 - log(peak) / _log_floor
    found[:, 2] = 1.0 / (rank - starts[member] + 1)
    return found
