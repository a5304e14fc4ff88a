"""The deep model in NumPy: it answers one prefix at a time, without torch, which takes seconds and hundreds of MiB.

It reads the bytes that `learners.deep.model.DeepModel` writes; its probabilities are those of `DeepModel.predict` up to
rounding (docs/decisions/0031-answers-without-torch.md). The network is described in `learners.deep.network`.

Letters of shapes: L items of a prefix, D width, H heads.
"""

import math
from collections.abc import Sequence
from typing import Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from learners.deep import artifact
from learners.deep.artifact import ITEMS, NETWORK, Contents
from learners.deep.retrieval import Retrieval, indexed_from
from learners.deep.vocabulary import Vocabulary
from learners.protocol import Listed

Floats: TypeAlias = NDArray[np.float32]
_NORM_EPSILON: Final = 1e-5


class AnsweringModel(Vocabulary):
    """A trained model that answers. `predict` changes nothing, so that several threads may call it at once, but not
    beside `add_late_items`.

    Args:
        index_from: see `learners.deep.retrieval.indexed_from`.
    """

    def __init__(self, contents: Contents, *, index_from: int = indexed_from) -> None:
        super().__init__(contents.vocabulary, contents.row)
        self.settings = contents.settings
        self._weights = {name.removeprefix(NETWORK): weight for name, weight in contents.weights.items()}
        units = _normalised(self._weights.pop(ITEMS))
        self._retrieval = Retrieval(units, contents.settings.temperature, index_from=index_from)

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
        approximate (`learners.deep.retrieval`).
        """
        return [self._predict(self.rows(prefix)[-self.settings.context :], n) for prefix in prefixes]

    def _predict(self, rows: list[int], n: int) -> Listed:
        if not rows:
            return [], np.zeros(0, np.float32)
        best, probabilities = self._retrieval.nearest(self._session(rows), n)
        return self.named(best.tolist()), probabilities

    def _session(self, rows: list[int]) -> Floats:
        """Return (D,): the session's vector after the last item."""
        items = self._retrieval.units[rows]
        step = np.arange(len(rows))
        back = step[:, None] - step
        x = items * math.sqrt(items.shape[1])
        for layer in range(self.settings.layers):
            x = self._block(f"blocks.{layer}", x, back)
        query, key = self._projected("pool", self._norm("norm", x), heads=1)
        weights = self._attention("pool", query[:, -1:], key, back[-1:])
        return _normalised(weights[0, 0] @ items)

    def _block(self, name: str, x: Floats, back: NDArray[np.int64]) -> Floats:
        """Map (L, D) to (L, D): one layer (`learners.deep.network.Block`)."""
        query, key, value = self._projected(
            f"{name}.attention", self._norm(f"{name}.norm_attention", x), self.settings.heads
        )
        gathered = self._attention(f"{name}.attention", query, key, back) @ value
        x = x + self._linear(f"{name}.out", gathered.transpose(1, 0, 2).reshape(x.shape))
        return x + self._linear(
            f"{name}.mix.2", _gelu(self._linear(f"{name}.mix.0", self._norm(f"{name}.norm_mix", x)))
        )

    def _projected(self, name: str, x: Floats, heads: int) -> Floats:
        """Return queries, keys and, if the attention has them, values: (2 or 3, H, L, D / H)."""
        length, width = x.shape
        parts = self._linear(f"{name}.project", x).reshape(length, -1, heads, width // heads)
        return parts.transpose(1, 2, 0, 3)

    def _attention(self, name: str, query: Floats, key: Floats, back: NDArray[np.int64]) -> Floats:
        """Return the attention weights of each query over the positions up to its own.

        Args:
            back: how many steps before each query's position each key's position is.

        Shapes:
            query: (H, Q, D / H), key: (H, L, D / H), back: (Q, L); returns (H, Q, L), rows sum to 1
        """
        logits = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[2])
        bias = self._weights[f"{name}.recency"][:, np.maximum(back, 0)]
        return _softmax(np.where(back < 0, np.float32(-math.inf), logits + bias))

    def _linear(self, name: str, x: Floats) -> Floats:
        mapped: Floats = x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return mapped

    def _norm(self, name: str, x: Floats) -> Floats:
        centred = x - x.mean(axis=1, keepdims=True)
        scaled: Floats = centred / np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + _NORM_EPSILON)
        return scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]

    def _unit_vectors(self) -> Floats:
        return self._retrieval.units

    def _place(self, rows: list[int], vectors: Floats) -> None:
        self._retrieval.place(rows, vectors)


def _normalised(x: Floats) -> Floats:
    """Return rows of unit length; a row of zeros stays as it is."""
    unit: Floats = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    return unit


def _softmax(x: Floats) -> Floats:
    """Return probabilities along the last axis."""
    powers: Floats = np.exp(x - x.max(axis=-1, keepdims=True))
    powers /= powers.sum(axis=-1, keepdims=True)
    return powers


def _gelu(x: Floats) -> Floats:
    """Return x times the normal distribution function of x.

    Source: Abramowitz & Stegun, Handbook of Mathematical Functions, 7.1.26; its error is at most 1.5e-7, as large as
    that of a sum in float32. NumPy has no error function.
    """
    z = np.abs(x) * math.sqrt(0.5)
    t = 1 / (1 + 0.3275911 * z)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    tail = 0.5 * series * np.exp(-z * z)  # the distribution function of -|x|
    product: Floats = x * np.where(x < 0, tail, 1 - tail)
    return product


def load_to_answer(data: bytes) -> AnsweringModel:
    """Return a model that answers. Raises StateUnreadable as `AnsweringModel.from_bytes`."""
    return AnsweringModel.from_bytes(data)
