"""The deep model in NumPy: it answers one prefix at a time, without torch, which takes seconds and hundreds of MiB.

It reads the bytes that `learners.deep.model.DeepModel` writes; its probabilities are those of `DeepModel.predict` up to
rounding (docs/decisions/0031-answers-without-torch.md). The network is described in `learners.deep.network`.

The network is causal, and positions enter only as distances, so what it computes for an item depends only on the items
up to it. A visit that grows costs only its new items (`learners.deep.visits`). When the oldest item leaves the context,
all items are computed again.

Each norm subtracts the mean of a row and divides by its standard deviation. Here, the weights are such that whatever is
added to a row has mean 0, so that no mean need be subtracted, and that what follows a norm takes rows of unit length.

Letters of shapes: L items of a prefix, N of them new, D width, H heads, C context.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from learners.deep import artifact
from learners.deep.artifact import ITEMS, NETWORK, Contents
from learners.deep.retrieval import Retrieval, indexed_from
from learners.deep.visits import Visits
from learners.deep.vocabulary import Vocabulary
from learners.protocol import Listed

Floats: TypeAlias = NDArray[np.float32]
_NORM_EPSILON: Final = 1e-5
_LENGTH_MIN: Final = 1e-12
_ZERO, _ONE, _MINUS_HALF = np.float32(0), np.float32(1), np.float32(-0.5)
_TAIL_SCALE: Final = np.float32(0.3275911 * math.sqrt(0.5))
_TAIL_FIRST, *_TAIL_OTHERS = (
    np.float32(0.5 * coefficient) for coefficient in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
)
"""The activation's constants, in float32: NumPy converts a Python float at each operation. See `_gelu`."""
sessions_max: Final = 8_192
"""Most sessions of which vectors and answers are remembered; then they are all forgotten."""
together_max: Final = 16
"""Most sessions that are computed at once: what they take in between then stays near the processor."""
kept_max: Final = 100
"""Longest answer that is remembered."""
_NONE: Final[Listed] = [], np.zeros(0, np.float32)


class _Linear(NamedTuple):
    """A linear layer, its weight ready for the product. Shapes: weight (from, to), bias (to,)."""

    weight: Floats
    bias: Floats

    def __call__(self, x: Floats) -> Floats:
        mapped: Floats = x @ self.weight
        mapped += self.bias
        return mapped


class _Block(NamedTuple):
    """One layer (`learners.deep.network.Block`). The projection and the first mixing layer include their norm.

    `project` returns queries, keys and values. `bias` is that of each query's position for each key's.

    Shapes:
        bias: (H, C, C), for C positions of the context; minus infinity for keys after the query
    """

    project: _Linear
    bias: Floats
    out: _Linear
    widen: _Linear
    narrow: _Linear


class _Pool(NamedTuple):
    """The last attention, of the newest item to all items, which has no values.

    The product of a query and a key is linear in the row of the key, so that rows need not be mapped to keys; what all
    keys have in common does not change the weights.

    Shapes:
        bias: (C,), by steps back
    """

    query: _Linear
    bias: Floats


class _Session:
    """What is known of a session: its vector (D,), and the last answer for it, with the length that was asked for.

    Answers are those for `placed` calls of `_place`.
    """

    __slots__ = ("listed", "most", "placed", "vector")

    def __init__(self, vector: Floats) -> None:
        self.vector, self.placed = vector, -1
        self.listed = 0, _NONE
        self.most: tuple[int, np.float32] | None = None  # the row of the most probable item, and its probability


class _Visit(NamedTuple):
    """A visit that is computed: the rows of its items, an array for all that is computed of them, and which of the rows
    of several visits are its new ones."""

    rows: tuple[int, ...]
    buffer: Floats
    new: slice


class AnsweringModel(Vocabulary):
    """A trained model that answers. `predict` changes nothing, so that several threads may call it at once, but not
    beside `add_late_items`.

    Args:
        index_from: see `learners.deep.retrieval.indexed_from`.
    """

    def __init__(self, contents: Contents, *, index_from: int = indexed_from) -> None:
        super().__init__(contents.vocabulary, contents.row)
        self.settings = contents.settings
        weights = {name.removeprefix(NETWORK): weight for name, weight in contents.weights.items()}
        units = _normalised(weights.pop(ITEMS))
        self._retrieval = Retrieval(units, contents.settings.temperature, index_from=index_from)
        self._blocks = [self._block(weights, f"blocks.{layer}") for layer in range(self.settings.layers)]
        self._pool = self._pool_of(weights)
        # Of each item: the keys and values of each layer, and its row behind the last layer.
        self._visits = Visits((2 * self.settings.layers + 1) * self.settings.width, self.settings.context)
        self._sessions: dict[tuple[int, ...], _Session] = {}
        self._placed = 0

    def _block(self, weights: Mapping[str, Floats], name: str) -> _Block:
        width, recency = self.settings.width, weights[f"{name}.attention.recency"]
        step = np.arange(recency.shape[1])
        back = step[:, None] - step
        bias = np.where(back < 0, np.float32(-math.inf), recency[:, np.maximum(back, 0)])
        project = _linear(weights, f"{name}.attention.project", norm=f"{name}.norm_attention")
        for part in project:  # scale the logits by scaling the queries
            part[..., :width] /= math.sqrt(width // len(recency))
        return _Block(
            project, bias, _centred(_linear(weights, f"{name}.out")),
            _linear(weights, f"{name}.mix.0", norm=f"{name}.norm_mix"), _centred(_linear(weights, f"{name}.mix.2")),
        )  # fmt: skip

    def _pool_of(self, weights: Mapping[str, Floats]) -> _Pool:
        width = self.settings.width
        weight, bias = _linear(weights, "pool.project", norm="norm")
        keys = weight[:, width:].T / np.float32(math.sqrt(width))
        return _Pool(_Linear(weight[:, :width] @ keys, bias[:width] @ keys), weights["pool.recency"][0])

    @classmethod
    def from_bytes(cls, data: bytes, *, index_from: int = indexed_from) -> Self:
        """Return the model that `DeepModel.to_bytes` wrote. Verify the blob's hash before.

        Raises:
            StateUnreadable: see `learners.deep.artifact.read`.
        """
        return cls(artifact.read(data, to_train=False), index_from=index_from)

    def predict(self, prefixes: Sequence[Sequence[str]], n: int = 20) -> list[Listed]:
        """Return, for each prefix (oldest item first), the n most probable next items, best first, with probabilities.

        Unknown items are skipped; a prefix without a known item has an empty answer. Items of the prefix may be
        recommended again. Of equally probable items the one with the lower row comes first. Of many items the answer is
        approximate (`learners.deep.retrieval`). Answers are only to be read: they are remembered.
        """
        return [self._predict(self.rows(prefix)[-self.settings.context :], n) for prefix in prefixes]

    def among(self, prefix: Sequence[str], items: Sequence[str]) -> Listed:
        """Return some items, those that are known, the most probable first, with their probabilities among all."""
        rows, known = self.rows(prefix)[-self.settings.context :], self.rows(items)
        if not rows or not known:
            return _NONE
        session, units = self._session(rows), self._retrieval.units
        if session.most is None:
            (best,), (probability,) = self._retrieval.nearest(session.vector, 1)
            session.most = int(best), probability
        best, probability = session.most
        above = (units[known] - units[best]) @ session.vector / np.float32(self.settings.temperature)
        probabilities: Floats = probability * np.exp(above)
        order = np.argsort(-probabilities, kind="stable")
        return self.named([known[place] for place in order.tolist()]), probabilities[order]

    def similar(self, item: str, n: int) -> list[tuple[str, float]]:
        """Return the n items whose vectors are nearest to an item's, each with its cosine, best first.

        None if the item is unknown.
        """
        rows = self.rows([item])
        if not rows:
            return []
        units = self._retrieval.units
        best, _ = self._retrieval.nearest(units[rows[0]], n + 1)
        near = [row for row in best.tolist() if row != rows[0]][:n]
        return list(zip(self.named(near), (units[near] @ units[rows[0]]).tolist(), strict=True))

    def _predict(self, rows: list[int], n: int) -> Listed:
        if not rows:
            return _NONE
        session = self._session(rows)
        length, listed = session.listed
        if length != n:
            best, probabilities = self._retrieval.nearest(session.vector, n)
            listed = self.named(best.tolist()), probabilities
            if n <= kept_max:
                session.listed = n, listed
        return listed

    def prepare(self, prefixes: Sequence[Sequence[str]]) -> None:
        """Compute together what answers after several prefixes need, so that they are quicker than one by one."""
        asked = dict.fromkeys(tuple(self.rows(prefix)[-self.settings.context :]) for prefix in prefixes)
        self._learn([rows for rows in asked if rows and rows not in self._sessions])

    def _session(self, rows: list[int]) -> _Session:
        """Return what is known of a session after the last item. A page asks for several lists of one session."""
        key = tuple(rows)
        if key not in self._sessions:
            self._learn([key])
        found = self._sessions[key]
        if found.placed != self._placed:
            found.placed, found.listed, found.most = self._placed, (0, _NONE), None
        return found

    def _learn(self, sessions: Sequence[tuple[int, ...]]) -> None:
        """Remember the vectors of sessions, distinct and not empty, that are not known yet."""
        if len(self._sessions) + len(sessions) > sessions_max:
            self._sessions.clear()
        for start in range(0, len(sessions), together_max):
            some = sessions[start : start + together_max]
            self._sessions.update(zip(some, map(_Session, self._computed(some)), strict=True))

    def _computed(self, sessions: Sequence[tuple[int, ...]]) -> list[Floats]:
        """Return the vectors of sessions. What is the same for each row is computed for all new rows at once.

        Shapes:
            returns (D,) each
        """
        width, units = self.settings.width, self._retrieval.units
        visits, rows = list[_Visit](), list[int]()
        for session in sessions:
            known, buffer = self._visits.begun(session)
            visits.append(_Visit(session, buffer, slice(len(rows), len(rows) + len(session) - known)))
            rows += session[known:]
        x = units.take(rows, axis=0) * np.float32(math.sqrt(width))
        x -= np.add.reduce(x, axis=1, keepdims=True) / np.float32(width)
        for layer, block in enumerate(self._blocks):
            x = self._mapped(block, x, visits, slice(2 * layer * width, 2 * (layer + 1) * width))
        last = _scaled(x)
        vectors = []
        for rows_of, buffer, new in visits:
            length = len(rows_of)
            computed = buffer[:length, -width:]
            computed[length - (new.stop - new.start) :] = last[new]
            logits = computed @ self._pool.query(computed[-1])
            logits += self._pool.bias[length - 1 :: -1]
            self._visits.keep(rows_of, buffer)
            vector: Floats = _softmax(logits) @ units.take(rows_of, axis=0)
            vector /= max(math.sqrt(vector @ vector), _LENGTH_MIN)
            vectors.append(vector)
        return vectors

    def _mapped(self, block: _Block, x: Floats, visits: "Sequence[_Visit]", place: slice) -> Floats:
        """Return one layer's output for the new items, and put their keys and values behind those of the others.

        Args:
            place: that of the layer's keys and values in what is computed of a visit.

        Shapes:
            x: (N, D); returns (N, D)
        """
        width, heads = x.shape[1], self.settings.heads
        parts = block.project(_scaled(x))
        gathered = np.empty_like(x)
        for rows, buffer, new in visits:
            length, count = len(rows), new.stop - new.start
            keys_and_values = buffer[:length, place]
            keys_and_values[length - count :] = parts[new, width:]
            query = parts[new, :width].reshape(count, heads, -1).transpose(1, 0, 2)
            key, value = keys_and_values.reshape(length, 2, heads, width // heads).transpose(1, 2, 0, 3)
            logits = query @ key.transpose(0, 2, 1)
            logits += block.bias[:, length - count : length, :length]
            found = _softmax(logits) @ value
            gathered[new] = found.transpose(1, 0, 2).reshape(count, width)
        x = x + block.out(gathered)
        x += block.narrow(_gelu(block.widen(_scaled(x))))
        return x

    def _unit_vectors(self) -> Floats:
        return self._retrieval.units

    def _place(self, rows: list[int], vectors: Floats) -> None:
        known, trained = len(self._retrieval.units), len(self.items)
        if min(rows) < known:  # late items have moved, and with them the vectors of sessions that have one
            self._sessions = {key: one for key, one in self._sessions.items() if max(key) < trained}
            self._visits.drop_from(trained)
        self._placed += 1
        self._retrieval.place(rows, vectors)


def _linear(weights: Mapping[str, Floats], name: str, *, norm: str = "") -> _Linear:
    """Return a linear layer; one with a norm takes rows of unit length."""
    weight, bias = weights[f"{name}.weight"].T, weights[f"{name}.bias"]
    if norm:
        bias = bias + weights[f"{norm}.bias"] @ weight
        weight = (weights[f"{norm}.weight"] * np.float32(math.sqrt(len(weight))))[:, None] * weight
    return _Linear(np.array(weight, order="C"), np.array(bias))


def _centred(linear: _Linear) -> _Linear:
    """Return a layer whose output is that of another, minus its mean."""
    weight, bias = linear
    return _Linear(weight - weight.mean(axis=1, keepdims=True), bias - bias.mean())


def _scaled(x: Floats) -> Floats:
    """Return rows of mean 0 at unit length, those that are nearly 0 at less, as in a norm."""
    squares = np.vecdot(x, x)
    squares += _NORM_EPSILON * x.shape[1]
    scaled: Floats = x / np.sqrt(squares, out=squares)[:, None]
    return scaled


def _normalised(x: Floats) -> Floats:
    """Return rows of unit length; a row of zeros stays as it is."""
    unit: Floats = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), _LENGTH_MIN)
    return unit


def _softmax(x: Floats) -> Floats:
    """Replace logits by probabilities along the last axis."""
    x -= np.maximum.reduce(x, axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= np.add.reduce(x, axis=-1, keepdims=True)
    return x


def _gelu(x: Floats) -> Floats:
    """Return x times the normal distribution function of x, which is max(x, 0) - |x| times that of -|x|.

    Source: Abramowitz & Stegun, Handbook of Mathematical Functions, 7.1.26; its error is at most 1.5e-7, as large as
    that of a sum in float32. NumPy has no error function.
    """
    size: Floats = np.abs(x)
    t: Floats = size * _TAIL_SCALE
    t += _ONE
    np.reciprocal(t, out=t)
    tail: Floats = t * _TAIL_FIRST  # the distribution function of -|x|
    for coefficient in _TAIL_OTHERS:
        tail += coefficient
        tail *= t
    np.square(size, out=t)
    t *= _MINUS_HALF
    tail *= np.exp(t, out=t)
    tail *= size
    product: Floats = np.maximum(x, _ZERO)
    product -= tail
    return product


def load_to_answer(data: bytes) -> AnsweringModel:
    """Return a model that answers. Raises StateUnreadable as `AnsweringModel.from_bytes`."""
    return AnsweringModel.from_bytes(data)
