"""A judgement: what the models said before they learned, beside what happened.

On the wire a record of `judgements` is a list of them in MessagePack. Judgements are made beside the fold (they need
torch) and written to the log; the blend's weights and all prequential scores of rankings follow from them alone.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from learners.learner import Scores
from learners.traits import TRAITS

listed: Final = 50
"""Best candidates of each member that the blend sees and a judgement keeps."""
record_bytes_max: Final = 800_000
"""Most bytes of one record, unless one judgement is larger (150 KB at most): below the largest that the log takes."""
_ARRAY_32: Final = 0xDD
"""MessagePack's mark of an array whose size follows in four bytes."""


Listed: TypeAlias = "tuple[list[str], NDArray[np.float32]]"
"""A ranked list: item ids, best first, and their scores."""


class Judgement(Struct, array_like=True, frozen=True):
    """One prediction of a shopper's next item, and the item that came.

    `partition`, `offset` and `step` say which step of which event; `inclusion` with which probability it was judged;
    `prefix` how many items the current session held. `scores` has, for each member that answered, one little-endian
    float32 per candidate, 0 where the candidate is not in the member's list. `ranks` has each member's rank of the item
    that came, and the blend's, from 1; 0 says that it was not among the first `learners.prequential.ranks_max`. `model`
    is the deep model's version, or "". `traits` has one byte per candidate and trait, candidate by candidate;
    records of another version may have none, or others.
    """

    partition: int
    offset: int
    step: int
    time_ms: int
    prefix: int
    inclusion: float
    model: str
    item: str
    candidates: list[str]
    scores: dict[str, bytes]
    ranks: dict[str, int]
    traits: bytes = b""

    def lists(self) -> dict[str, Scores]:
        """Return each member's scored candidates, as numbers into `candidates`."""
        found = {}
        for name, data in self.scores.items():
            values = np.frombuffer(data, "<f4")
            slots = np.flatnonzero(values > 0).astype(np.int32)
            found[name] = Scores(slots, values[slots])
        return found

    def described(self) -> NDArray[np.uint8] | None:
        """Return the candidates' traits, where the record has those that are told today.

        Shapes:
            returns (len(candidates), len(TRAITS))
        """
        shape = len(self.candidates), len(TRAITS)
        return np.frombuffer(self.traits, np.uint8).reshape(shape) if len(self.traits) == math.prod(shape) else None

    def target(self) -> int:
        """Return the number of the item that came, or -1 if no member listed it."""
        return self.candidates.index(self.item) if self.item in self.candidates else -1


_decoder = msgspec.msgpack.Decoder(list[Judgement])
_encoder = msgspec.msgpack.Encoder()


def encode(judgements: Iterable[Judgement]) -> list[bytes]:
    """Return the wire form of judgements, in as many records as it takes.

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
        msgspec.MsgspecError: the bytes are none.
    """
    return _decoder.decode(data)


class Pooled(Struct, frozen=True):
    """The members' lists over one set of candidates. `lists` holds numbers into `candidates`."""

    candidates: list[str]
    lists: dict[str, Scores]

    def packed(self) -> dict[str, bytes]:
        """Return each member's scores as a judgement keeps them."""
        packed = {}
        for name, (slots, values) in self.lists.items():
            row = np.zeros(len(self.candidates), "<f4")
            row[slots] = values
            packed[name] = row.tobytes()
        return packed

    def rank(self, name: str, item: str) -> int:
        """Return the rank of an item in a member's list, ties counted against it; 0 if it is not listed."""
        return rank_of(self.lists[name], self.candidates, item)


def pool(lists: Mapping[str, Listed]) -> Pooled:
    """Bring lists of items, each with scores above 0, over one set of candidates, in order of first mention.

    >>> pool({"a": (["x", "y"], np.float32([2, 1])), "b": (["y"], np.float32([5]))}).candidates
    ['x', 'y']
    """
    numbers: dict[str, int] = {}
    found = {}
    for name, (items, values) in lists.items():
        slots = np.array([numbers.setdefault(item, len(numbers)) for item in items], np.int32)
        found[name] = Scores(slots, values)
    return Pooled(list(numbers), found)


def without(ranked: Listed, item: str) -> Listed:
    """Return the first `listed` of a ranked list, less one item ("" is none).

    >>> without((["a", "b"], np.float32([0.6, 0.4])), "a")[0]
    ['b']
    """
    items, scores = ranked
    if item in items:
        place = items.index(item)
        items, scores = items[:place] + items[place + 1 :], np.delete(scores, place)
    return items[:listed], scores[:listed]


def rank_of(scores: Scores, candidates: list[str], item: str) -> int:
    """Return the rank of an item among scored candidates, ties counted against it; 0 if it has no score."""
    if item not in candidates:
        return 0
    found = np.flatnonzero(scores.slots == candidates.index(item))
    return int(np.count_nonzero(scores.scores >= scores.scores[found[0]])) if len(found) else 0
