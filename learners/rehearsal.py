"""What the fine-tuner remembers of the stream: the newest sequences, and a bounded sample of all that came before.

A sequence is what one shopper did in one go: item ids in order. `Window` holds the newest ones, what a round trains on;
`Rehearsal` holds a sample of the past that favours the recent, mixed into every round against forgetting. A sequence
that leaves the window goes to the rehearsal, so that none is in both. Both are folds: typed state, event time, no
global chance.
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
"""Newest items of one sequence that are kept; a session is far shorter, and a network looks at 50."""


class Kept(NamedTuple):
    """One sequence and the event time of its last item."""

    items: tuple[str, ...]
    time_ms: int


class Window:
    """The newest sequences, at most `sequences_max`, in the order in which they came."""

    def __init__(self, sequences_max: int = 50_000) -> None:
        assert sequences_max >= 1, "a window holds at least one sequence"
        self.sequences_max = sequences_max
        self._kept: deque[Kept] = deque()

    def __len__(self) -> int:
        return len(self._kept)

    def learn(self, sequence: Sequence[str], time_ms: int) -> Kept | None:
        """Take in a sequence; return the oldest one where it had to go, for the rehearsal to learn."""
        self._kept.append(Kept(tuple(sequence[-sequence_items_max:]), time_ms))
        return self._kept.popleft() if len(self._kept) > self.sequences_max else None

    def sequences(self) -> list[tuple[str, ...]]:
        """Return the sequences, oldest first."""
        return [kept.items for kept in self._kept]

    def drain(self) -> list[Kept]:
        """Empty the window and return what was in it, oldest first: a round has trained on it, it is the past now."""
        drained = list(self._kept)
        self._kept.clear()
        return drained

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return how many sequences are held and the maximum."""
        return {"window_sequences": (len(self._kept), self.sequences_max)}

    def state(self) -> State:
        """Return all that the window knows."""
        return {"sequences_max": self.sequences_max, "kept": _packed(self._kept)}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a window that continues exactly where `state` was taken."""
        window = cls(state["sequences_max"])
        window._kept.extend(_unpacked(state["kept"]))
        return window


class Rehearsal:
    """A seeded sample of at most `sequences_max` past sequences, without replacement, the recent favoured.

    A sequence's weight halves with every `half_life_ms` of age. All weights shrink alike as time goes on, so each
    sequence gets one priority for ever, the logarithm of its weight plus a Gumbel variate, and the sample is those of
    highest priority.

    Source: Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006), algorithm A-Res, in logarithms
    (their key u ** (1 / w) orders like log w - log(-log u)); Cormode et al., "Forward decay" (ICDE 2009), for weights
    by age. The variate comes from a hash of the seed and the sequence's number, so that no generator's state needs
    keeping.
    """

    def __init__(self, seed: int, sequences_max: int = 50_000, half_life_ms: int = 30 * 86_400_000) -> None:
        assert sequences_max >= 1, "a rehearsal holds at least one sequence"
        assert half_life_ms >= 1, "a half-life is positive"
        self.seed, self.sequences_max, self.half_life_ms = seed, sequences_max, half_life_ms
        self.seen = 0
        self._heap: list[tuple[float, int, Kept]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def learn(self, sequence: Sequence[str], time_ms: int) -> None:
        """Take in a sequence of the past, which may push another one out or find no room itself."""
        entry = (self._priority(time_ms), self.seen, Kept(tuple(sequence[-sequence_items_max:]), time_ms))
        self.seen += 1
        if len(self._heap) < self.sequences_max:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def draw(self, n: int, seed: int) -> list[tuple[str, ...]]:
        """Return n different sequences of the sample (all of them where there are fewer), in random order.

        Equal seeds draw equal sequences from equal memories.
        """
        kept = [entry[2].items for entry in self._in_order()]
        chosen = np.random.default_rng(seed).permutation(len(kept))[:n]
        return [kept[i] for i in chosen.tolist()]

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return how many sequences are held and the maximum."""
        return {"rehearsal_sequences": (len(self._heap), self.sequences_max)}

    def state(self) -> State:
        """Return all that the rehearsal knows; equal memories have equal states, however they came about."""
        entries = self._in_order()
        return {
            "seed": self.seed,
            "sequences_max": self.sequences_max,
            "half_life_ms": self.half_life_ms,
            "seen": self.seen,
            "priorities": np.array([entry[0] for entry in entries], np.float64),
            "numbers": np.array([entry[1] for entry in entries], np.int64),
            "kept": _packed(entry[2] for entry in entries),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a rehearsal that continues exactly where `state` was taken."""
        rehearsal = cls(state["seed"], state["sequences_max"], state["half_life_ms"])
        rehearsal.seen = state["seen"]
        priorities, numbers = state["priorities"].tolist(), state["numbers"].tolist()
        rehearsal._heap = list(zip(priorities, numbers, _unpacked(state["kept"]), strict=True))
        heapq.heapify(rehearsal._heap)
        return rehearsal

    def _priority(self, time_ms: int) -> float:
        word = hashlib.blake2b(f"{self.seed}/{self.seen}".encode(), digest_size=8).digest()
        uniform = (int.from_bytes(word, "little") + 0.5) / 2**64
        # 1 - 2**-65 rounds to 1, whose logarithm is 0: the smallest double keeps the priority finite.
        exponential = max(-math.log(uniform), 5e-324)
        return time_ms / self.half_life_ms * math.log(2) - math.log(exponential)

    def _in_order(self) -> list[tuple[float, int, Kept]]:
        """Return the entries by number: the heap's own order depends on its history."""
        return sorted(self._heap, key=lambda entry: entry[1])


def _packed(kept: Iterable[Kept]) -> State:
    """Return sequences as arrays: each different id is written once."""
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


def _unpacked(state: dict[str, Any]) -> list[Kept]:
    vocabulary, items = state["vocabulary"], state["items"].tolist()
    kept, start = [], 0
    for length, time_ms in zip(state["lengths"].tolist(), state["times_ms"].tolist(), strict=True):
        kept.append(Kept(tuple(vocabulary[i] for i in items[start : start + length]), time_ms))
        start += length
    return kept
