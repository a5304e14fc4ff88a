"""The fine-tuner's memory of the stream: the newest sequences, and a bounded sample of earlier ones.

A sequence is one session of a shopper: item ids in order. `Window` has the newest sequences, on which a round trains.
`Rehearsal` has a sample of the past, weighted towards recent sequences, which each round mixes in against forgetting. A
sequence that leaves the window moves to the rehearsal, so that none is in both. Both are folds: typed state, event
time, no global random state.
"""

import hashlib
import heapq
import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, Self

import numpy as np

from headrace.state import State

sequence_items_max: Final = 200
"""Newest items kept per sequence. Most sessions are far shorter, and the network uses 50."""


class StoredSequence(NamedTuple):
    """One sequence and the event time of its last item."""

    items: tuple[str, ...]
    time_ms: int


class Window:
    """The newest sequences, at most `sequences_max`, in order of arrival."""

    def __init__(self, sequences_max: int = 50_000) -> None:
        assert sequences_max >= 1, "a window holds at least one sequence"
        self.sequences_max = sequences_max
        self._kept: deque[StoredSequence] = deque()

    def __len__(self) -> int:
        return len(self._kept)

    def learn(self, sequence: Sequence[str], time_ms: int) -> StoredSequence | None:
        """Add a sequence; return the oldest one if it was evicted, so that the rehearsal can learn it."""
        self._kept.append(StoredSequence(tuple(sequence[-sequence_items_max:]), time_ms))
        return self._kept.popleft() if len(self._kept) > self.sequences_max else None

    def sequences(self) -> list[tuple[str, ...]]:
        """Return the sequences, oldest first."""
        return [kept.items for kept in self._kept]

    def drain(self) -> list[StoredSequence]:
        """Empty the window and return its sequences, oldest first. Called after a round has trained on them."""
        drained = list(self._kept)
        self._kept.clear()
        return drained

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the number of sequences and the maximum."""
        return {"window_sequences": (len(self._kept), self.sequences_max)}

    def state(self) -> State:
        """Return the window's sequences and its maximum."""
        return {"sequences_max": self.sequences_max, "kept": packed(self._kept)}

    @classmethod
    def from_state(cls, state: State, sequences_max: int | None = None) -> Self:
        """Return a window that continues exactly where `state` was taken, by default with its maximum.

        It may hold more than a lower maximum; `shrink` drops the rest.
        """
        window = cls(sequences_max or state["sequences_max"])
        window._kept.extend(unpacked(state["kept"]))
        return window

    def shrink(self) -> list[StoredSequence]:
        """Drop and return the oldest sequences beyond the maximum, so that the rehearsal can learn them."""
        return [self._kept.popleft() for _ in range(len(self._kept) - self.sequences_max)]


class Rehearsal:
    """A seeded sample of at most `sequences_max` past sequences, without replacement, weighted towards recent ones.

    A sequence's weight halves with every `half_life_ms` of age. All weights shrink by the same factor over time, so
    each sequence has one constant priority, the logarithm of its weight plus a Gumbel variate. The sample consists of
    the sequences with the highest priorities.

    Source: Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006), algorithm A-Res, in logarithms
    (their key u ** (1 / w) orders like log w - log(-log u)); Cormode et al., "Forward decay" (ICDE 2009), for weights
    by age. The variate is computed from a hash of the seed and the sequence's number, so no generator state is stored.
    """

    def __init__(self, seed: int, sequences_max: int = 50_000, half_life_ms: int = 30 * 86_400_000) -> None:
        assert sequences_max >= 1, "a rehearsal holds at least one sequence"
        assert half_life_ms >= 1, "a half-life is positive"
        self.seed, self.sequences_max, self.half_life_ms = seed, sequences_max, half_life_ms
        self.seen = 0
        self._heap: list[tuple[float, int, StoredSequence]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def learn(self, sequence: Sequence[str], time_ms: int) -> None:
        """Add a past sequence. If the sample is full, the sequence with the lowest priority is dropped."""
        entry = (self._priority(time_ms), self.seen, StoredSequence(tuple(sequence[-sequence_items_max:]), time_ms))
        self.seen += 1
        if len(self._heap) < self.sequences_max:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def draw(self, n: int, seed: int) -> list[tuple[str, ...]]:
        """Return n distinct sequences of the sample (all of them if there are fewer), in random order.

        Equal seeds draw equal sequences from equal samples.
        """
        kept = [entry[2].items for entry in self._in_order()]
        chosen = np.random.default_rng(seed).permutation(len(kept))[:n]
        return [kept[i] for i in chosen.tolist()]

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the number of sequences and the maximum."""
        return {"rehearsal_sequences": (len(self._heap), self.sequences_max)}

    def state(self) -> State:
        """Return the sample and its settings; equal samples have equal states, whatever their history."""
        entries = self._in_order()
        return {
            "seed": self.seed,
            "sequences_max": self.sequences_max,
            "half_life_ms": self.half_life_ms,
            "seen": self.seen,
            "priorities": np.array([entry[0] for entry in entries], np.float64),
            "numbers": np.array([entry[1] for entry in entries], np.int64),
            "kept": packed(entry[2] for entry in entries),
        }

    @classmethod
    def from_state(cls, state: State, *, seed: int | None = None, sequences_max: int | None = None) -> Self:
        """Return a rehearsal that continues exactly where `state` was taken.

        Args:
            seed, sequences_max: from now on; the state's by default. A lower maximum keeps the highest priorities.
        """
        seed = state["seed"] if seed is None else seed
        rehearsal = cls(seed, sequences_max or state["sequences_max"], state["half_life_ms"])
        rehearsal.seen = state["seen"]
        priorities, numbers = state["priorities"].tolist(), state["numbers"].tolist()
        rehearsal._heap = list(zip(priorities, numbers, unpacked(state["kept"]), strict=True))
        heapq.heapify(rehearsal._heap)
        while len(rehearsal._heap) > rehearsal.sequences_max:
            heapq.heappop(rehearsal._heap)
        return rehearsal

    def _priority(self, time_ms: int) -> float:
        word = hashlib.blake2b(f"{self.seed}/{self.seen}".encode(), digest_size=8).digest()
        uniform = (int.from_bytes(word, "little") + 0.5) / 2**64
        # 1 - 2**-65 rounds to 1, whose logarithm is 0: the smallest double keeps the priority finite.
        exponential = max(-math.log(uniform), 5e-324)
        return time_ms / self.half_life_ms * math.log(2) - math.log(exponential)

    def _in_order(self) -> list[tuple[float, int, StoredSequence]]:
        """Return the entries ordered by number, because the heap's own order depends on its history."""
        return sorted(self._heap, key=lambda entry: entry[1])


def packed(kept: Iterable[StoredSequence]) -> State:
    """Return sequences as arrays over a vocabulary, so that each distinct id is stored once."""
    sequences = list(kept)
    flat = [item for one in sequences for item in one.items]
    vocabulary = sorted(set(flat))
    code = {item: i for i, item in enumerate(vocabulary)}
    return {
        "vocabulary": vocabulary,
        "items": np.array([code[item] for item in flat], np.int32),
        "lengths": np.array([len(one.items) for one in sequences], np.int32),
        "times_ms": np.array([one.time_ms for one in sequences], np.int64),
    }


def unpacked(state: dict[str, Any]) -> list[StoredSequence]:
    """Return the sequences that `packed` stored."""
    vocabulary, items = state["vocabulary"], state["items"].tolist()
    kept, start = [], 0
    for length, time_ms in zip(state["lengths"].tolist(), state["times_ms"].tolist(), strict=True):
        kept.append(StoredSequence(tuple(vocabulary[i] for i in items[start : start + length]), time_ms))
        start += length
    return kept
