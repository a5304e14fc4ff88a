"""Names: how alike items are called. Whoever buys a "red retrospot cup" often takes a "red retrospot plate", too."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, Self
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from headrace.state import State

buckets: Final = 1 << 16
"""Hash buckets of words; bounds what is kept of them."""
words_max: Final = 8
"""First different words of a name that count."""
_none: Final = buckets
"""Where a name has no more words."""
_tiny: Final = 1e-12


class Names:
    """Keeps the words of each item's newest name, by slot, and in how many names each word is.

    Alike are two names by the cosine of their words, each weighted by the logarithm of how few names have it (idf).

    >>> names = Names()
    >>> for slot, name in enumerate(["Red retrospot cup", "RED RETROSPOT PLATE", "blue plate", "lamp"]):
    ...     names.learn(slot, name)
    >>> names.alike([0, 2, 3], [1]).round(2).tolist()
    [[0.51], [0.29], [0.0]]

    Source: Salton & Buckley, "Term-weighting approaches in automatic text retrieval" (1988).
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[int, ...]] = {}
        self._words = np.full((1024, words_max), _none, np.int32)
        self._counts = np.zeros(buckets + 1, np.int32)  # the last is no word
        self._of_word = np.zeros(buckets + 1)  # all 0 but within `alike`

    def __bool__(self) -> bool:
        return bool(self._kept)

    def learn(self, slot: int, name: str) -> None:
        """Take in an item's name; "" says nothing."""
        words = words_of(name)
        if words and self._kept.get(slot) != words:
            self.forget([slot])
            self._put(slot, words)

    def _put(self, slot: int, words: tuple[int, ...]) -> None:
        self._kept[slot] = words
        if slot >= len(self._words):
            more = max(slot + 1, 2 * len(self._words)) - len(self._words)
            self._words = np.pad(self._words, ((0, more), (0, 0)), constant_values=_none)
        self._words[slot, : len(words)] = words
        self._counts[list(words)] += 1

    def alike(self, asked: Sequence[int] | NDArray[np.int64], others: Sequence[int]) -> NDArray[np.float64]:
        """Return how alike the names of items are to those of others, from 0 (or unknown) to 1.

        Shapes:
            returns (len(asked), len(others))
        """
        mine, theirs = self._rows(asked), self._rows(others)
        weights, their_weights = self._weights(mine), self._weights(theirs)
        found = np.empty((len(mine), len(theirs)))
        for column, (row, its) in enumerate(zip(theirs, their_weights, strict=True)):
            self._of_word[row] = its
            found[:, column] = (self._of_word[mine] * weights).sum(axis=1)
            self._of_word[row] = 0.0
        return found

    def _weights(self, rows: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return the weight of each word, those of a name of length 1 together."""
        weights = np.log((1 + len(self._kept)) / np.maximum(self._counts[rows], 1)) * (rows != _none)
        return np.asarray(weights / np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), _tiny))

    def _rows(self, slots: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int32]:
        asked = np.asarray(slots, np.int64)
        rows = np.full((len(asked), words_max), _none, np.int32)
        known = (asked >= 0) & (asked < len(self._words))
        rows[known] = self._words[asked[known]]
        return rows

    def forget(self, slots: Sequence[int]) -> None:
        """Drop the names of these slots: other items will have them."""
        for slot in slots:
            if words := self._kept.pop(slot, None):
                self._counts[list(words)] -= 1
                self._words[slot] = _none

    def state(self) -> State:
        """Return the words by slot."""
        kept = sorted(self._kept.items())
        return {"slots": [slot for slot, _ in kept], "words": [list(words) for _, words in kept]}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Return names that continue exactly where `state` was taken."""
        names = cls()
        for slot, words in zip(state["slots"], state["words"], strict=True):
            names._put(slot, tuple(words))
        return names


@lru_cache(maxsize=1 << 16)
def words_of(name: str) -> tuple[int, ...]:
    """Return the buckets of a name's first different words; digits alone are no word.

    >>> len(words_of("Pack of 72 cake cases, CAKE"))
    4
    """
    words = dict.fromkeys(re.findall(r"[^\W\d_]{2,}", name.casefold()))
    return tuple(dict.fromkeys(crc32(word.encode()) % buckets for word in words))[:words_max]
