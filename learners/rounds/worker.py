"""The work of a round's child process: trains a candidate, or takes a proposed model, and checks it.

The judge gives it a `Job` and gets a `Trained`, both in MessagePack. It reads models from the folder of blobs, and puts
the trained one there. `headrace.child` runs it in a process of its own, so that the fold goes on meanwhile, and all
memory that training took is freed at its end.
"""

from collections.abc import Callable
from typing import Final

import msgspec
import torch

from headrace.errors import BlobCorrupt, BlobMissing, StateUnreadable
from headrace.shard.blobs import Blobs
from learners.deep.model import DeepModel, DeepSettings, load_to_train
from learners.deep.train import NotFinite, TrainResult, train
from learners.next_item.judgement import list_length
from learners.protocol import context_max
from learners.rounds import evidence
from learners.rounds.evidence import Trained
from learners.rounds.gate import Rule
from learners.rounds.job import MODEL, Job, Training, answers_of, reciprocal_ranks
from learners.rounds.retention import RetentionRule
from learners.rounds.settings import RoundsSettings

latency_s_max: Final = 0.1
"""Longest time in which a fit model answers one shopper."""
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
