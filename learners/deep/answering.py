"""The deep model in NumPy: it answers one prefix at a time, without torch, which takes seconds and hundreds of MiB.

It reads the bytes that `learners.deep.model.DeepModel` writes; its probabilities are those of `DeepModel.predict` up to
rounding (docs/decisions/0031-answers-without-torch.md). The network is described in `learners.deep.network`.

Letters of shapes: L items of a prefix, D width, H heads, C context.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from learners.deep import artifact
from learners.deep.artifact import ITEMS, NETWORK, Contents
from learners.deep.retrieval import Retrieval, indexed_from
from learners.deep.vocabulary import Vocabulary
from learners.protocol import Listed

Floats: TypeAlias = NDArray[np.float32]
_NORM_EPSILON: Final = 1e-5
sessions_max: Final = 8_192
"""Most sessions of which vectors and answers are remembered; then they are all forgotten."""
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


class _Attention(NamedTuple):
    """The projection to queries, keys and, in blocks, values, and the bias of each query's position for each key's.

    Shapes:
        bias: (H, C, C), for C positions of the context; minus infinity for keys after the query
    """

    project: _Linear
    bias: Floats


class _Block(NamedTuple):
    """One layer (`learners.deep.network.Block`). The projection and the first mixing layer include their norm."""

    attention: _Attention
    out: _Linear
    widen: _Linear
    narrow: _Linear


class _Session:
    """What is known of a session: its vector (D,), and the last answer for it, with the length that was asked for.

    Answers are those for `placed` calls of `_place`.
    """

    __slots__ = ("listed", "most", "placed", "vector")

    def __init__(self, vector: Floats) -> None:
        self.vector, self.placed = vector, -1
        self.listed = 0, _NONE
        self.most: tuple[int, np.float32] | None = None  # the row of the most probable item, and its probability


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
        self._blocks = [
            _Block(
                self._attention(weights, f"{name}.attention", f"{name}.norm_attention"),
                _linear(weights, f"{name}.out"),
                _linear(weights, f"{name}.mix.0", norm=f"{name}.norm_mix"),
                _linear(weights, f"{name}.mix.2"),
            )
            for name in (f"blocks.{layer}" for layer in range(self.settings.layers))
        ]
        self._pool = self._attention(weights, "pool", "norm")
        self._sessions: dict[tuple[int, ...], _Session] = {}
        self._placed = 0

    @staticmethod
    def _attention(weights: Mapping[str, Floats], name: str, norm: str) -> _Attention:
        recency = weights[f"{name}.recency"]
        step = np.arange(recency.shape[1])
        back = step[:, None] - step
        bias = np.where(back < 0, np.float32(-math.inf), recency[:, np.maximum(back, 0)])
        project, heads = _linear(weights, f"{name}.project", norm=norm), len(recency)
        width = project.weight.shape[0]
        for part in project:  # scale the logits by scaling the queries
            part[..., :width] /= math.sqrt(width // heads)
        return _Attention(project, bias)

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

    def similar(self, item: str, n: int) -> list[str]:
        """Return the n items whose vectors are nearest to an item's by cosine, best first; none if it is unknown."""
        rows = self.rows([item])
        if not rows:
            return []
        best, _ = self._retrieval.nearest(self._retrieval.units[rows[0]], n + 1)
        return self.named([row for row in best.tolist() if row != rows[0]][:n])

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

    def _session(self, rows: list[int]) -> _Session:
        """Return what is known of a session after the last item. A page asks for several lists of one session."""
        key = tuple(rows)
        found = self._sessions.get(key)
        if found is None:
            if len(self._sessions) >= sessions_max:
                self._sessions.clear()
            found = self._sessions[key] = _Session(self._computed(rows))
        if found.placed != self._placed:
            found.placed, found.listed, found.most = self._placed, (0, _NONE), None
        return found

    def _computed(self, rows: list[int]) -> Floats:
        items = self._retrieval.units[rows]
        x = items * math.sqrt(items.shape[1])
        for block in self._blocks:
            x = self._mapped(block, x)
        parts = self._pool.project(_standardised(x))
        width = x.shape[1]
        logits = parts[:, width:] @ parts[-1, :width]
        logits += self._pool.bias[0, len(rows) - 1, : len(rows)]
        return _normalised(_softmax(logits) @ items)

    def _mapped(self, block: _Block, x: Floats) -> Floats:
        """Map (L, D) to (L, D): one layer."""
        length, width = x.shape
        heads = self.settings.heads
        parts = block.attention.project(_standardised(x)).reshape(length, 3, heads, width // heads)
        query, key, value = parts.transpose(1, 2, 0, 3)
        logits = query @ key.transpose(0, 2, 1)
        logits += block.attention.bias[:, :length, :length]
        gathered = _softmax(logits) @ value
        x = x + block.out(gathered.transpose(1, 0, 2).reshape(length, width))
        x += block.narrow(_gelu(block.widen(_standardised(x))))
        return x

    def _unit_vectors(self) -> Floats:
        return self._retrieval.units

    def _place(self, rows: list[int], vectors: Floats) -> None:
        known, trained = len(self._retrieval.units), len(self.items)
        if min(rows) < known:  # late items have moved, and with them the vectors of sessions that have one
            self._sessions = {key: one for key, one in self._sessions.items() if max(key) < trained}
        self._placed += 1
        self._retrieval.place(rows, vectors)


def _linear(weights: Mapping[str, Floats], name: str, *, norm: str = "") -> _Linear:
    """Return a linear layer; with a norm, the scale and the shift behind its standardisation are part of it."""
    weight, bias = weights[f"{name}.weight"].T, weights[f"{name}.bias"]
    if norm:
        bias = bias + weights[f"{norm}.bias"] @ weight
        weight = weights[f"{norm}.weight"][:, None] * weight
    return _Linear(np.array(weight, order="C"), np.array(bias))


def _standardised(x: Floats) -> Floats:
    """Return rows with mean 0 and variance 1."""
    width = np.float32(x.shape[1])
    centred: Floats = x - (x.sum(axis=1) / width)[:, None]
    variance = np.einsum("ij,ij->i", centred, centred) / width
    centred /= np.sqrt(variance + np.float32(_NORM_EPSILON))[:, None]
    return centred


def _normalised(x: Floats) -> Floats:
    """Return rows of unit length; a row of zeros stays as it is."""
    unit: Floats = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    return unit


def _softmax(x: Floats) -> Floats:
    """Replace logits by probabilities along the last axis."""
    x -= x.max(axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=-1, keepdims=True)
    return x


def _gelu(x: Floats) -> Floats:
    """Return x times the normal distribution function of x, which is max(x, 0) - |x| times that of -|x|.

    Source: Abramowitz & Stegun, Handbook of Mathematical Functions, 7.1.26; its error is at most 1.5e-7, as large as
    that of a sum in float32. NumPy has no error function.
    """
    size: Floats = np.abs(x)
    t: Floats = size * np.float32(0.3275911 * math.sqrt(0.5))
    t += 1
    np.reciprocal(t, out=t)
    tail: Floats = t * np.float32(0.5 * 1.061405429)  # the distribution function of -|x|
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        tail += 0.5 * coefficient
        tail *= t
    np.square(size, out=t)
    t *= -0.5
    tail *= np.exp(t, out=t)
    tail *= size
    product: Floats = np.maximum(x, 0) - tail
    return product


def load_to_answer(data: bytes) -> AnsweringModel:
    """Return a model that answers. Raises StateUnreadable as `AnsweringModel.from_bytes`."""
    return AnsweringModel.from_bytes(data)
