"""The work of a round's child process: trains a candidate, or takes a proposed model, and checks it.

The judge gives it a `Job` and gets a `Trained`, both in MessagePack. It reads models from the folder of blobs, and puts
the trained one there. `headrace.child` runs it in a process of its own, so that the fold goes on meanwhile, and all
memory that training took is freed at its end.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np
import torch
from msgspec import Struct

from headrace.errors import BlobCorrupt, BlobMissing, StateUnreadable
from headrace.shard.blobs import Blobs
from learners.deep.model import DeepModel, DeepSettings, load_to_train
from learners.deep.train import NotFinite, TrainResult, train
from learners.next_item.attributes import ItemAttributes
from learners.next_item.judgement import list_length, without_item
from learners.protocol import Listed, Question, context_max
from learners.rounds import evidence
from learners.rounds.contest import reciprocal_rank
from learners.rounds.evidence import Trained
from learners.rounds.gate import Rule
from learners.rounds.rehearsal import StoredSequence, packed, unpacked
from learners.rounds.retention import RetentionRule
from learners.rounds.settings import RoundsSettings

RUN: Final = "learners.rounds.worker:run"
"""The work as `headrace.child` names it."""
MODEL: Final = "model"
"""Kind of the blobs that hold models."""
latency_s_max: Final = 0.1
"""Longest time in which a fit model answers one shopper."""


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


_decoder: Final = msgspec.msgpack.Decoder(Job)


def run(data: bytes, seconds: Callable[[], float]) -> bytes:
    """Do a job; return the evidence. See `headrace.child.Work`."""
    return evidence.encode(work(_decoder.decode(data), seconds))


def work(job: Job, seconds: Callable[[], float]) -> Trained:
    """Do a job.

    Args:
        seconds: a monotonic clock.

    Raises:
        BrokenWorld: the parent cannot be read, or the model cannot be written.
    """
    blobs, lineage, blob = Blobs(job.folder), dict(job.lineage), job.blob
    torch.set_num_threads(job.settings.threads)
    if job.training:
        began = seconds()
        try:
            result = _train(job.training, job.settings, lineage, blobs, seconds)
        except NotFinite as error:
            return Trained("", job.trigger, [str(error)], [], lineage)
        if not result.tokens:
            reason = "no sequence of two items to learn from"
            if result.stopped:
                reason = f"the time limit, {job.settings.train_s_max:g} s (train_s_max), was over before the first step"
            return Trained("", job.trigger, [reason], [], lineage)
        if result.stopped:
            lineage["stopped"] = f"after {job.settings.train_s_max:g} s (train_s_max)"
        blob = blobs.put(MODEL, result.model.to_bytes())
        lineage |= {"tokens": result.tokens, "loss": result.loss, "seconds": round(seconds() - began, 3)}
    return _check(job, blob, lineage, blobs, seconds)


def _train(
    training: Training,
    settings: RoundsSettings,
    lineage: dict[str, str | int | float | list[str]],
    blobs: Blobs,
    seconds: Callable[[], float],
) -> TrainResult:
    end = seconds() + settings.train_s_max
    known = set(training.known.items)
    return train(
        load_to_train(blobs.get(training.parent)) if training.parent else None,
        training.sequences.items(),
        rehearsal=training.rehearsed.items(),
        settings=DeepSettings(width=settings.width),
        seed=training.seed,
        device=training.device,
        passes=training.passes,
        share=training.share,
        learning_rate=settings.learning_rate,
        keep=known.__contains__,
        attributes_of=training.known.lookup(),
        stop=lambda: seconds() > end,
        lineage={key: value for key, value in lineage.items() if key != "torch"},
    )


def _check(
    job: Job,
    blob: str,
    lineage: dict[str, str | int | float | list[str]],
    blobs: Blobs,
    seconds: Callable[[], float],
) -> Trained:
    """Return why a model is unfit, if it is, and the scores of it and of the champion on the retention slices."""
    try:
        model = load_to_train(blobs.get(blob))
    except (BlobMissing, BlobCorrupt, StateUnreadable) as error:
        return Trained(blob, job.trigger, [str(error)], [], lineage)
    reasons = model.check()
    if not reasons:
        reasons = _too_slow(model, seconds)
    retention: list[tuple[list[float], list[float]]] = []
    if not reasons and (champion := _champion(job.champion, blobs)):
        for slice_ in job.slices:
            before, after = (reciprocal_ranks(answers_of(one, slice_), slice_) for one in (champion, model))
            retention.append((before, after))
    return Trained(
        blob, job.trigger, reasons, retention, lineage, job.settings.gate_records_max, rule=Rule(),
        retention_rule=RetentionRule(), retention_shoppers=job.slices_shoppers if retention else [],
    )  # fmt: skip


def _champion(blob: str, blobs: Blobs) -> DeepModel | None:
    """Return the champion; None if there is none, or its blob is lost."""
    try:
        return load_to_train(blobs.get(blob)) if blob else None
    except (BlobMissing, BlobCorrupt, StateUnreadable):
        return None


def _too_slow(model: DeepModel, seconds: Callable[[], float]) -> list[str]:
    context, took_s = model.items[:context_max], []  # the longest possible input, of known items
    for _ in range(4):  # the first answer warms up
        began = seconds()
        model.predict([context], list_length)
        took_s.append(seconds() - began)
    if min(took_s) <= latency_s_max:
        return []
    return [f"one answer takes {min(took_s):.3f} s, more than {latency_s_max} s"]


def answers_of(model: DeepModel, questions: Sequence[Question]) -> list[Listed]:
    """Return a model's list for each question, without the item viewed last."""
    answers = model.predict([question.prefix for question in questions], list_length + 1)
    return [without_item(answer, question.last) for answer, question in zip(answers, questions, strict=True)]


def reciprocal_ranks(answers: Sequence[Listed], questions: Sequence[Question]) -> list[float]:
    """Return the reciprocal rank of the true item in each answer."""
    return [reciprocal_rank(answer, question.item) for answer, question in zip(answers, questions, strict=True)]
