"""Judgements: what the models predicted before they learned a step, and the item that came next.

On the wire a record of `judgements` is a list of them in MessagePack. Judgements are made outside the fold, because
they need torch, and written to the log. The blend's weights and all prequential ranking scores follow from them alone.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from learners.next_item.traits import TRAITS
from learners.protocol import Listed, Scores

list_length: Final = 50
"""Number of best candidates of each member that the blend receives and a judgement stores."""
record_bytes_max: Final = 16_000
"""Most bytes of one record unless a single judgement is larger (150 KB at most).

About four judgements, which are learned in a millisecond: between two records, a server that follows can answer."""
_ARRAY_32: Final = 0xDD
"""MessagePack's type byte of an array whose size follows in four bytes."""


vector_length: Final = 16
"""Numbers of a packed vector."""


class Judgement(Struct, array_like=True, frozen=True):
    """One prediction of a shopper's next item, and the true item.

    Attributes:
        partition, offset, step: identify the event and its step.
        inclusion: the probability with which the event was judged.
        session_length: the number of items in the session so far.
        scores: for each member that answered, one little-endian float32 per candidate, 0 for candidates that are not in
            the member's list.
        ranks: each member's and the blend's rank of the true item, from 1; 0 if it was not among the first
            `learners.parts.prequential.ranks_max`.
        model: the deep model's version, or "".
        traits: one byte per candidate and trait, candidate by candidate. Records of other versions may have none or
            different ones.
        confidence: the blend's probability of its best candidate; 0 in records of older versions.
        vector: the deep model's vector of the session, as `packed_vectors` makes it; b"" without a model.
    """

    partition: int
    offset: int
    step: int
    time_ms: int
    session_length: int
    inclusion: float
    model: str
    item: str
    candidates: list[str]
    scores: dict[str, bytes]
    ranks: dict[str, int]
    traits: bytes = b""
    confidence: float = 0.0
    vector: bytes = b""

    def lists(self) -> dict[str, Scores]:
        """Return each member's scored candidates; slots are indices into `candidates`."""
        found = {}
        for name, data in self.scores.items():
            values = np.frombuffer(data, "<f4")
            slots = np.flatnonzero(values > 0).astype(np.int32)
            found[name] = Scores(slots, values[slots])
        return found

    def trait_matrix(self) -> NDArray[np.uint8] | None:
        """Return the candidates' traits, or None if the record's traits are not those of this version.

        Shapes:
            returns (len(candidates), len(TRAITS))
        """
        shape = len(self.candidates), len(TRAITS)
        return np.frombuffer(self.traits, np.uint8).reshape(shape) if len(self.traits) == math.prod(shape) else None

    def target(self) -> int:
        """Return the index of the true item in `candidates`, or -1 if no member listed it."""
        return self.candidates.index(self.item) if self.item in self.candidates else -1


_decoder = msgspec.msgpack.Decoder(list[Judgement])
_encoder = msgspec.msgpack.Encoder()


def encode(judgements: Iterable[Judgement]) -> list[bytes]:
    """Return the wire form of judgements, as one or more records.

    >>> encode([])
    []
    """
    records: list[bytes] = []
    parts: list[bytes] = []
    size = 0
    for part in map(_encoder.encode, judgements):
        if parts and size + len(part) > record_bytes_max:
            records.append(_record(parts))
            parts, size = [], 0
        parts.append(part)
        size += len(part)
    return [*records, _record(parts)] if parts else records


def _record(parts: Sequence[bytes]) -> bytes:
    return b"".join([_ARRAY_32.to_bytes(1, "big"), len(parts).to_bytes(4, "big"), *parts])


def decode(data: bytes) -> list[Judgement]:
    """Return the judgements of one record.

    Raises:
        msgspec.MsgspecError: the bytes are not a list of judgements.
    """
    return _decoder.decode(data)


class Pooled(Struct, frozen=True):
    """The members' lists over one set of candidates. The slots of `lists` are indices into `candidates`."""

    candidates: list[str]
    lists: dict[str, Scores]

    def packed(self) -> dict[str, bytes]:
        """Return each member's scores in the form that a judgement stores."""
        packed = {}
        for name, (slots, values) in self.lists.items():
            row = np.zeros(len(self.candidates), "<f4")
            row[slots] = values
            packed[name] = row.tobytes()
        return packed

    def rank(self, name: str, item: str) -> int:
        """Return the rank of an item in a member's list, the worst rank of a tie; 0 if it is not in the list."""
        return rank_of(self.lists[name], self.candidates, item)


def pool(lists: Mapping[str, Listed]) -> Pooled:
    """Merge lists of items with scores above 0 into one set of candidates, in order of first occurrence.

    >>> pool({"a": (["x", "y"], np.float32([2, 1])), "b": (["y"], np.float32([5]))}).candidates
    ['x', 'y']
    """
    numbers: dict[str, int] = {}
    found = {}
    for name, (items, values) in lists.items():
        slots = np.array([numbers.setdefault(item, len(numbers)) for item in items], np.int32)
        found[name] = Scores(slots, values)
    return Pooled(list(numbers), found)


def packed_vectors(vectors: NDArray[np.float32]) -> list[bytes]:
    """Return unit vectors, projected at random, as `vector_length` signed bytes each, of a standard deviation of 32.

    Shapes:
        vectors: (N, D)
    """
    signs = np.random.default_rng(0).choice(np.array([-32, 32], np.float32), (vectors.shape[1], vector_length))
    return [row.tobytes() for row in np.clip(np.rint(vectors @ signs), -127, 127).astype(np.int8)]


def without_item(ranked: Listed, item: str) -> Listed:
    """Return the first `list_length` entries of a ranked list without one item ("" removes nothing).

    >>> without_item((["a", "b"], np.float32([0.6, 0.4])), "a")[0]
    ['b']
    """
    items, scores = ranked
    if item in items:
        place = items.index(item)
        items, scores = items[:place] + items[place + 1 :], np.delete(scores, place)
    return items[:list_length], scores[:list_length]


def rank_of(scores: Scores, candidates: list[str], item: str) -> int:
    """Return the rank of an item among scored candidates, the worst rank of a tie; 0 if it has no score."""
    if item not in candidates:
        return 0
    found = np.flatnonzero(scores.slots == candidates.index(item))
    return int(np.count_nonzero(scores.scores >= scores.scores[found[0]])) if len(found) else 0
