"""The most probable next items by a session's vector: among all items or, of many items, by an index.

The probability of an item is the softmax of its cosine to the session's vector, divided by a temperature. With fewer
than `indexed_from` trained items all items are scored, which is exact. With more, an index (a hierarchical navigable
small world graph, by usearch) returns the session's neighbours among the trained items, and their cosines are computed
exactly. Late items are few and move, so they are not in the index: all of them are scored. The index never changes
(docs/decisions/0033-retrieval-from-many-items.md).

The softmax needs the sum Z of w = exp(cosine / temperature) over all items. With R, the k neighbours and the late
items, and S, a uniform sample of the trained items that is drawn before any question, Z is estimated by

    sum of w over R  +  N / m * sum of w over S without R,

N being the number of items outside R, and m the number of those in S. Given m, S without R is a uniform sample of the
items outside R, so the estimate is unbiased. If the search was exact, no item outside R weighs more than the least
neighbour, which weighs at most the neighbours' sum divided by k. So the variance of the second term is at most
N / m * (sum over R) / k * (sum outside R), and the relative standard deviation of the estimate is at most
sqrt(N / (m k)) / 2. Measured errors are far smaller, because most items outside R weigh almost nothing.

A search in a graph can end in a part of it that is far from the session. The sample shows it: if it says that at least
as many other items are nearer than the farthest neighbour as there are neighbours, all items are scored.

Source: Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using hierarchical navigable
small world graphs", IEEE TPAMI 2020.

Letters of shapes: D width, V trained items, G late items, K neighbours, S sampled items.
"""

import threading
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from learners.deep.vocabulary import SPARE_ROWS

Floats: TypeAlias = NDArray[np.float32]
Rows: TypeAlias = NDArray[np.int64]

indexed_from: Final = 65_536
"""Least number of trained items that are indexed. To score fewer takes about as long as to search for them."""
neighbours: Final = 200
"""Number of neighbours that the index returns. It compares rounded vectors: the best of many are the best of all."""
listed_max: Final = 100
"""Longest answer from the index; for a longer one all items are scored."""
connectivity: Final = 16
"""Links of an item in the index."""
expansion_add: Final = 128
"""Candidates that are kept while an item is added to the index."""
expansion_search: Final = 256
"""Candidates that are kept during a search."""
sample_size: Final = 4_096


class Retrieval:
    """The vectors of a model's items, and their search. `nearest` changes nothing, so that several threads may call it
    at once, but not beside `place`.

    The index is built in one thread, in the order of the rows, and the sample has a fixed seed. So a vocabulary has the
    same answers in every process, on processors of one kind.

    Args:
        units: (V, D), vectors of unit length.
        temperature: divisor of the cosines, at least `learners.deep.settings.temperature_min`.
        index_from: see `indexed_from`.

    Attributes:
        units: (V + G, D), vectors of unit length; late ones may be shorter.
    """

    def __init__(self, units: Floats, temperature: float, *, index_from: int = indexed_from) -> None:
        self.units = self._buffer = units
        self._temperature = temperature
        self._index = _Index(units) if len(units) >= index_from else None

    def nearest(self, session: Floats, n: int) -> tuple[Rows, Floats]:
        """Return the rows of the n most probable items, best first, and their probabilities.

        Of equally probable items the one with the lower row comes first. Fewer are returned only if there are no more.

        Shapes:
            session: (D,), of unit length; returns (min(n, V + G),) twice
        """
        found = self._nearest_by_index(self._index, session, n) if self._index and n <= listed_max else None
        if found is not None:
            return found
        powers = self._powers(self.units, session)
        best = _best(powers, n)
        return best, _divided(powers[best], powers.sum(dtype=np.float64))

    def _nearest_by_index(self, index: "_Index", session: Floats, n: int) -> tuple[Rows, Floats] | None:
        """Return what `nearest` returns, None if the search failed."""
        near = index.search(session)
        if len(near) < min(n, index.size):
            return None
        powers = self._powers(self.units[near], session)
        sampled = self._powers(index.sample, session)[index.sampled_outside(near)]
        each = (index.size - len(near)) / max(1, len(sampled))  # the items for which a sampled one stands
        if each * np.count_nonzero(sampled > powers.min()) >= len(near):
            return None
        powers = np.concatenate([powers, self._powers(self.units[index.size :], session)])
        total = powers.sum(dtype=np.float64) + each * sampled.sum(dtype=np.float64)
        rows = np.concatenate([near, np.arange(index.size, len(self.units))])
        best = _best(powers, n)
        return rows[best], _divided(powers[best], total)

    def place(self, rows: list[int], vectors: Floats) -> None:
        """Set the vectors of late items; rows that follow the existing ones are added.

        Shapes:
            rows: N in ascending order, vectors: (N, D)
        """
        units, size = self.units, max(len(self.units), rows[-1] + 1)
        if len(self._buffer) < size:
            self._buffer = np.concatenate(
                [units, np.empty((size - len(units) + SPARE_ROWS, units.shape[1]), np.float32)]
            )
        self._buffer[rows] = vectors
        self.units = self._buffer[:size]

    def _powers(self, units: Floats, session: Floats) -> Floats:
        # A cosine is at most 1 and the temperature at least 0.03, so that a power fits into float32.
        powers: Floats = np.exp(units @ session / np.float32(self._temperature))
        return powers


class _Index:
    """An index of vectors, and a uniform sample of them. It does not change.

    Attributes:
        size: number of vectors.
        sample: (S, D).
    """

    def __init__(self, units: Floats) -> None:
        from usearch.index import Index  # its import takes as long as a small model's first answer

        self.size, width = units.shape
        # One byte per dimension: it takes less memory than float16 and is quicker; `nearest` corrects the order that
        # rounding changes.
        self._index: Any = Index(
            ndim=width, metric="ip", dtype="i8", connectivity=connectivity, expansion_add=expansion_add,
            expansion_search=expansion_search, enable_key_lookups=False,
        )  # fmt: skip
        self._index.add(np.arange(self.size, dtype=np.uint64), units, threads=1)
        self._searching = threading.Lock()  # searches in one index share their scratch space
        chosen = np.random.default_rng(0).choice(self.size, min(sample_size, self.size), replace=False)
        self.sample = units[chosen]
        self._place = np.full(self.size, -1, np.int16)
        self._place[chosen] = np.arange(len(chosen))

    def search(self, session: Floats) -> Rows:
        """Return the rows of the session's neighbours, in ascending order: (K,)."""
        with self._searching:
            found = self._index.search(session, neighbours, threads=1).keys
        return np.sort(found.astype(np.int64))

    def sampled_outside(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which vectors of the sample are not among these rows: (S,)."""
        outside = np.ones(len(self.sample), np.bool_)
        places = self._place[rows]
        outside[places[places >= 0]] = False
        return outside


def _best(powers: Floats, n: int) -> Rows:
    """Return the indices of the n largest values, largest first; of equal ones the lower index comes first."""
    n = min(n, len(powers))
    least = np.partition(powers, -n)[-n]
    found = np.flatnonzero(powers >= least)  # more than n if some are equal
    return found[np.argsort(-powers[found], kind="stable")[:n]]


def _divided(powers: Floats, total: np.float64) -> Floats:
    return (powers / total).astype(np.float32)
