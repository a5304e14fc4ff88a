"""The job of a round's child process, as the judge states it, and what both do alike. Without torch.

`learners.rounds.worker` does the job.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from msgspec import Struct

from learners.next_item.attributes import ItemAttributes
from learners.next_item.judgement import list_length, without_item
from learners.protocol import Listed, Question
from learners.rounds.contest import reciprocal_rank
from learners.rounds.rehearsal import StoredSequence, packed, unpacked
from learners.rounds.settings import RoundsSettings

if TYPE_CHECKING:  # it imports torch
    from learners.deep.model import DeepModel

RUN: Final = "learners.rounds.worker:run"
"""The work as `headrace.child` names it."""
MODEL: Final = "model"
"""Kind of the blobs that hold models."""


class Sequences(Struct, frozen=True):
    """Sequences of items, each distinct item stored once.

    >>> Sequences.of([("b", "a"), ("a",)]).items()
    [('b', 'a'), ('a',)]
    """

    vocabulary: list[str]
    codes: bytes
    lengths: bytes

    @classmethod
    def of(cls, sequences: Sequence[Sequence[str]]) -> "Sequences":
        """Return these sequences in this form."""
        found = packed(StoredSequence(tuple(one), 0) for one in sequences)
        return cls(found["vocabulary"], found["items"].tobytes(), found["lengths"].tobytes())

    def items(self) -> list[tuple[str, ...]]:
        """Return the sequences."""
        lengths = np.frombuffer(self.lengths, np.int32)
        found = unpacked(
            {
                "vocabulary": self.vocabulary,
                "items": np.frombuffer(self.codes, np.int32),
                "lengths": lengths,
                "times_ms": np.zeros(len(lengths), np.int64),
            }
        )
        return [one.items for one in found]


class Known(Struct, frozen=True):
    """The items of the catalogue and their attributes, in the same order (`learners.next_item.attributes`)."""

    items: list[str]
    categories: bytes
    prices: bytes

    @classmethod
    def of(cls, items: list[str], attributes: ItemAttributes) -> "Known":
        """Return these items in this form."""
        return cls(items, attributes.categories.tobytes(), attributes.prices.tobytes())

    def lookup(self) -> Callable[[Sequence[str]], ItemAttributes]:
        """Return what looks up the attributes of items; those of an unknown item are unknown."""
        row = {item: number for number, item in enumerate(self.items)}
        categories = np.append(np.frombuffer(self.categories, np.uint32), np.uint32(0))
        prices = np.append(np.frombuffer(self.prices, np.float32), np.float32(np.nan))

        def attributes_of(items: Sequence[str]) -> ItemAttributes:
            rows = np.array([row.get(item, len(row)) for item in items], np.int64)
            return ItemAttributes(categories[rows], prices[rows])

        return attributes_of


class Training(Struct, frozen=True):
    """What a round trains on, and how. `parent` is the blob of the model from which it starts, "" if there is none."""

    parent: str
    sequences: Sequences
    rehearsed: Sequences
    known: Known
    passes: int
    share: float
    seed: int
    device: str


class Job(Struct, frozen=True):
    """What a child does: train, or take the model `blob` if there is nothing to train on; then check the model.

    `champion` is the blob of the model that it is compared with on the `slices` of the holdout, "" if there is none;
    `slices_shoppers` has a number for the shopper of each question of these.
    `lineage` is what is known of the model's origin so far.
    """

    folder: str
    trigger: str
    settings: RoundsSettings
    lineage: dict[str, str | int | float | list[str]]
    champion: str
    slices: list[list[Question]]
    slices_shoppers: list[list[int]]
    training: Training | None = None
    blob: str = ""


def answers_of(model: "DeepModel", questions: Sequence[Question]) -> list[Listed]:
    """Return a model's list for each question, without the item viewed last."""
    answers = model.predict([question.prefix for question in questions], list_length + 1)
    return [without_item(answer, question.last) for answer, question in zip(answers, questions, strict=True)]


def reciprocal_ranks(answers: Sequence[Listed], questions: Sequence[Question]) -> list[float]:
    """Return the reciprocal rank of the true item in each answer."""
    return [reciprocal_rank(answer, question.item) for answer, question in zip(answers, questions, strict=True)]
