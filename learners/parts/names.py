"""Names: the similarity of item names. Shoppers who buy a "red retrospot cup" often buy a "red retrospot plate" too."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, Self
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from headrace.state import State

buckets: Final = 1 << 16
"""Hash buckets of words; bounds the memory for word counts."""
words_max: Final = 8
"""Distinct words of a name that are used, the first ones."""
_none: Final = buckets
"""Padding after a name's last word."""
_tiny: Final = 1e-12


class Names:
    """Keeps the words of each item's newest name, by slot, and the number of names that contain each word.

    The similarity of two names is the cosine of their words, weighted by inverse document frequency (IDF).

    >>> names = Names()
    >>> for slot, name in enumerate(["Red retrospot cup", "RED RETROSPOT PLATE", "blue plate", "lamp"]):
    ...     names.learn(slot, name)
    >>> names.similarity([0, 2, 3], [1]).round(2).tolist()
    [[0.51], [0.29], [0.0]]

    Source: Salton & Buckley, "Term-weighting approaches in automatic text retrieval" (1988).
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[int, ...]] = {}
        # The last row, which no slot has, is that of an item without a name.
        self._words = np.full((1025, words_max), _none, np.int32)
        self._counts = np.zeros(buckets + 1, np.int32)  # the last entry is the padding's
        # Each name's IDF weights, computed when they are asked for: they change whenever a name comes or goes.
        self._weights = np.zeros(self._words.shape)
        self._weighed = np.zeros(len(self._words), np.int64)  # the value of `_changes` when they were computed
        self._changes = 1
        self._codes = np.zeros(buckets + 1, np.intp)  # scratch space of `similarity`, otherwise all 0

    def __bool__(self) -> bool:
        return bool(self._kept)

    def learn(self, slot: int, name: str) -> None:
        """Learn an item's name; a name without words changes nothing."""
        words = words_of(name)
        if words and self._kept.get(slot) != words:
            self.forget([slot])
            self._put(slot, words)

    def _put(self, slot: int, words: tuple[int, ...]) -> None:
        self._kept[slot] = words
        self._changes += 1
        if slot >= len(self._words) - 1:
            more = max(slot + 2, 2 * len(self._words)) - len(self._words)
            self._words = np.pad(self._words, ((0, more), (0, 0)), constant_values=_none)
            self._weights, self._weighed = np.pad(self._weights, ((0, more), (0, 0))), np.pad(self._weighed, (0, more))
        self._words[slot, : len(words)] = words
        self._counts[list(words)] += 1

    def similarity(self, asked: Sequence[int] | NDArray[np.int64], others: Sequence[int]) -> NDArray[np.float64]:
        """Return the similarity of items' names to the names of others, from 0 (also if one is unknown) to 1.

        Shapes:
            returns (len(asked), len(others))
        """
        mine, theirs = self._rows(asked), self._rows(others)
        their_words, their_weights = self._words.take(theirs, axis=0), self._weights_of(theirs)
        # Their words are numbered, so that a small table has the weight of each in each of their names.
        flat = their_words.ravel()
        self._codes[flat] = np.arange(1, len(flat) + 1)
        self._codes[_none] = 0
        table = np.zeros((len(theirs), len(flat) + 1))
        table[np.arange(len(theirs))[:, None], self._codes.take(their_words)] = their_weights
        codes = self._codes.take(self._words.take(mine, axis=0).T)
        self._codes[flat] = 0
        found = np.zeros((len(theirs), len(mine)))
        shared = np.flatnonzero(codes.any(axis=0))  # names that share a word with one of theirs
        if len(shared):
            products = table.take(codes.take(shared, axis=1), axis=1) * self._weights_of(mine.take(shared)).T
            while products.shape[1] > 1:  # pairs of pairs, as numpy adds eight numbers in a row
                products = products[:, 0::2] + products[:, 1::2]
            found[:, shared] = products[:, 0]
        return found.T

    def _weights_of(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return IDF weights, each name's scaled to length 1."""
        old = self._weighed.take(rows) != self._changes
        if old.any():
            again = rows[old]
            words = self._words.take(again, axis=0)
            weights = np.log((1 + len(self._kept)) / np.maximum(self._counts.take(words), 1)) * (words != _none)
            weights /= np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), _tiny)
            self._weights[again], self._weighed[again] = weights, self._changes
        return self._weights.take(rows, axis=0)

    def _rows(self, slots: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of slots; -1 and slots without a row have the last one."""
        return np.minimum(np.asarray(slots, np.int64), len(self._words) - 1)

    def forget(self, slots: Sequence[int]) -> None:
        """Drop the names of these slots, which will be reused for other items."""
        for slot in slots:
            if words := self._kept.pop(slot, None):
                self._changes += 1
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
    """Return the buckets of a name's first distinct words. Numbers and single letters are no words.

    >>> len(words_of("Pack of 72 cake cases, CAKE"))
    4
    """
    words = dict.fromkeys(re.findall(r"[^\W\d_]{2,}", name.casefold()))
    return tuple(dict.fromkeys(crc32(word.encode()) % buckets for word in words))[:words_max]
