"""The fine-tuner: folds what shoppers did, trains candidates in bounded rounds, and lets them face the champion.

Training runs inside the commit at which a round is due, in this process alone: events wait in the log meanwhile, and
what they hold is what the candidate is then tested on. Killed during a round, it starts from the last commit and trains
again.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog
import torch

from consumers.model import read_model
from headrace.blobs import Blobs
from headrace.config import FinetuneSettings
from headrace.errors import BlobCorrupt, BlobMissing, StateUnreadable
from headrace.events import Event
from headrace.log import Log
from headrace.loop import Loop, LoopSettings, Turn
from headrace.metrics import FinetuneMetrics
from headrace.state import State
from headrace.topics import ALARMS, EVENTS, MODELS, partitions_of
from learners import evidence
from learners.browsing import Question
from learners.contest import NOTHING, reciprocal_rank, worth
from learners.deep import DeepModel, DeepSettings
from learners.evidence import Compared, Trained
from learners.finetune import NotFinite, TrainResult, newest_share, train
from learners.judgement import Listed, listed, without
from learners.learner import context_max
from learners.rounds import Rounds, RoundSettings

SHARD: Final = "finetune"
SOURCES: Final = partitions_of(EVENTS)
SIDES: Final = [*partitions_of(ALARMS), *partitions_of(MODELS)]
MODEL: Final = "model"
"""Kind of the blobs that hold models."""
compared_max: Final = 2_000
"""Events scored at one commit, the first ones; bounds how long a commit takes after a round."""
latency_s_max: Final = 0.1
"""A model that answers one shopper more slowly than this is unfit to serve."""


class MakeRounds:
    """Builds the fine-tuner's fold from a state, or anew."""

    def __init__(self, settings: FinetuneSettings) -> None:
        # Of equal names, equal meanings: each rule that has a setting is that setting.
        self._settings = RoundSettings(**settings.model_dump(include=set(RoundSettings.__struct_fields__)))

    def __call__(self, state: State | None) -> Rounds:
        return Rounds(self._settings) if state is None else Rounds.from_state(state)


class Trainer:
    """The fine-tuner's judge: trains, checks, and lets models predict what came."""

    def __init__(self, blobs: Blobs, settings: FinetuneSettings, metrics: FinetuneMetrics) -> None:
        self._blobs, self._settings, self._metrics = blobs, settings, metrics
        self._device = settings.device
        if self._device == "auto":
            self._device = "cuda" if torch.cuda.is_available() else "cpu"
        metrics.torch(str(torch.__version__), self._device)
        self._models: dict[str, DeepModel | None] = {}
        self._observed: list[tuple[Question, dict[str, Listed]]] = []
        self._say = structlog.get_logger()

    def observe(self, fold: Rounds, event: Event, partition: int, offset: int) -> None:
        """Keep what came next for the models that are being compared."""
        if fold.comparing and len(self._observed) < compared_max and (found := fold.observe(event)):
            self._observed.append(found)

    def judge(self, fold: Rounds, lag: int) -> list[bytes]:
        """Score what was observed; train if a round is due, or check a proposed model."""
        self._models = {name: model for name, model in self._models.items() if name in fold.standing_blobs()}
        found: list[Trained | Compared] = list(self._compare(fold))
        if fold.candidate is None:
            if fold.due:
                found.append(self._train(fold))
            elif fold.proposed:
                found.append(self._check(fold, fold.proposed.blob, "proposed", {"proposed": fold.proposed.version}))
        for model in filter(None, self._models.values()):
            fold.browsing.introduce(model)
        return [evidence.encode(one) for one in found]

    def _compare(self, fold: Rounds) -> Sequence[Compared]:
        """Say what the blend is worth with each model that stands in the contest, and without any.

        A model that is lost answers nothing: the blend is worth as much as without, and alone it is worth nothing.
        """
        observed, self._observed = self._observed, []
        if not observed:
            return []
        worths = {NOTHING: [worth(lists, None, question) for question, lists in observed]}
        alone = {
            name: [reciprocal_rank(lists[name], question.item) for question, lists in observed]
            for name in observed[0][1]
        }
        questions = [question for question, _ in observed]
        for blob in {one.blob: None for one in (fold.candidate, fold.champion, fold.predecessor) if one}:
            model = self._model(blob)
            if model is None:
                worths[blob], alone[blob] = worths[NOTHING], [0.0] * len(questions)
                continue
            answers = _answers(model, questions)
            pairs = zip(observed, answers, strict=True)
            worths[blob] = [worth(lists, answer, question) for (question, lists), answer in pairs]
            alone[blob] = _reciprocal_ranks(answers, questions)
        return [Compared(worths, alone)]

    def _train(self, fold: Rounds) -> Trained:
        began = time.monotonic()
        sequences, rehearsal = fold.material.window(), fold.material.rehearsal
        parent = self._model(fold.champion.blob) if fold.champion else None
        passes = self._settings.passes if parent else self._settings.first_passes
        if parent:
            count = int(len(sequences) * self._settings.rehearsal_share) * passes
            rehearsed = rehearsal.draw(count, seed=fold.round)
        else:  # without a champion to start from, the past is as new as the present
            sequences, rehearsed = [*rehearsal.draw(len(rehearsal), seed=fold.round), *sequences], []
        lineage: dict[str, str | int | float | list[str]] = {
            "parent": fold.champion.version if fold.champion and parent else "",
            "events": fold.log_range(),
            "sequences": len(sequences),
            "rehearsed": len(rehearsed),
            "seed": self._settings.seed + fold.round,
            "torch": str(torch.__version__),
            "device": self._device,
        }
        self._say.info("training", round=fold.round + 1, trigger=fold.due, **lineage)
        try:
            result = train(
                parent,
                sequences,
                rehearsal=rehearsed,
                settings=DeepSettings(width=self._settings.width),
                seed=self._settings.seed + fold.round,
                device=self._device,
                passes=passes,
                share=1.0 if fold.broken else newest_share,
                learning_rate=self._settings.learning_rate,
                keep=lambda item: fold.browsing.catalogue.slot(item) is not None,
                describe=fold.browsing.known_of,
                stop=_deadline(self._settings.train_s_max),
                lineage={key: value for key, value in lineage.items() if key != "torch"},
            )
        except NotFinite as error:
            return Trained("", fold.due, [str(error)], [], lineage)
        if not result.tokens:
            return Trained("", fold.due, ["no sequence of two items to learn from"], [], lineage)
        return self._keep(fold, result, lineage, time.monotonic() - began)

    def _keep(
        self, fold: Rounds, result: TrainResult, lineage: dict[str, str | int | float | list[str]], duration_s: float
    ) -> Trained:
        blob = self._blobs.put(MODEL, result.model.to_bytes())
        lineage |= {"tokens": result.tokens, "loss": result.loss, "seconds": round(duration_s, 3)}
        self._metrics.trained(fold.due, duration_s, result.tokens, result.loss)  # type: ignore[arg-type]  # a Trigger
        return self._check(fold, blob, fold.due, lineage)

    def _check(
        self, fold: Rounds, blob: str, trigger: str, lineage: dict[str, str | int | float | list[str]]
    ) -> Trained:
        """Say why a model is unfit, and how it and the champion do on older slices of the holdout."""
        try:
            model = DeepModel.from_bytes(self._blobs.get(blob))
        except (BlobMissing, BlobCorrupt, StateUnreadable) as error:
            return Trained(blob, trigger, [str(error)], [], lineage)
        reasons = model.check()
        slices = [slice_ for slice_ in fold.material.slices if slice_]
        if not reasons:
            reasons = _too_slow(model)
        retention = []
        if not reasons and fold.champion and (champion := self._model(fold.champion.blob)):
            for slice_ in slices:
                before, after = (_reciprocal_ranks(_answers(one, slice_), slice_) for one in (champion, model))
                retention.append((before, after))
        self._models[blob] = model
        return Trained(blob, trigger, reasons, retention, lineage, self._settings.gate_events_max)

    def _model(self, blob: str) -> DeepModel | None:
        if blob not in self._models:
            self._models[blob] = read_model(self._blobs, blob, to_train=True)
        return self._models[blob]


def _answers(model: DeepModel, questions: Sequence[Question]) -> list[Listed]:
    answers = model.predict([question.prefix for question in questions], listed + 1)
    return [without(answer, question.last) for answer, question in zip(answers, questions, strict=True)]


def _reciprocal_ranks(answers: Sequence[Listed], questions: Sequence[Question]) -> list[float]:
    return [reciprocal_rank(answer, question.item) for answer, question in zip(answers, questions, strict=True)]


def _too_slow(model: DeepModel) -> list[str]:
    context, took_s = model.items[:context_max], []  # as long as can be, of items that it knows
    for _ in range(4):  # the first answer warms up
        began = time.perf_counter()
        model.predict([context], listed)
        took_s.append(time.perf_counter() - began)
    if min(took_s) <= latency_s_max:
        return []
    return [f"one answer takes {min(took_s):.3f} s, more than {latency_s_max} s"]


def _deadline(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def run(log: Log, blobs: Blobs, settings: FinetuneSettings, metrics: FinetuneMetrics, stop: threading.Event) -> None:
    """Run the fine-tuner's shard until `stop` is set.

    Raises:
        BrokenWorld: see `headrace.errors`; calling again goes on from the last commit.
    """
    torch.set_num_threads(min(settings.threads, os.cpu_count() or 1))
    trainer = Trainer(blobs, settings, metrics)
    loop = Loop(
        log,
        blobs,
        SHARD,
        make=MakeRounds(settings),
        sources=SOURCES,
        sides=SIDES,
        judge=trainer,
        settings=LoopSettings(
            commit_interval_s=settings.commit_interval_s,
            snapshot_interval_s=settings.snapshot_interval_s,
            flood_share=settings.flood_share,
        ),
        quarantine=False,  # the online shard, which reads the same events, does that
    )
    loop.on_turn = _Teller(metrics, loop.fold, blobs)
    try:
        structlog.get_logger().info("folding", shard=SHARD, entry=loop.number, seen=loop.fold.seen)
        loop.run(stop.is_set)
        structlog.get_logger().info("stopped", shard=SHARD, entry=loop.number, seen=loop.fold.seen)
    finally:
        loop.close()


class _Teller:
    """Tells Prometheus what each turn did and how rounds ended; drops models that nobody needs any more."""

    def __init__(self, metrics: FinetuneMetrics, fold: Rounds, blobs: Blobs) -> None:
        self._metrics, self._fold, self._blobs = metrics, fold, blobs
        self._ends, self._ended_ns = dict(fold.ends), time.time_ns()

    def __call__(self, turn: Turn) -> None:
        self._metrics.turn(turn)
        self._metrics.champion_round.set(self._fold.champion.round if self._fold.champion else 0)
        ends = dict(self._fold.ends)
        if ends != self._ends:
            for outcome, count in ends.items():
                for _ in range(count - self._ends.get(outcome, 0)):
                    self._metrics.decided(outcome, time.time_ns() // 1_000_000)  # type: ignore[arg-type]  # an Outcome
            # What an operator proposed while a round trained is heard of in the next turn, and the commit of this one
            # may yet fail: of what came since the verdict before, nothing is deleted.
            self._blobs.sweep(MODEL, self._fold.kept_blobs(), before_ns=self._ended_ns)
            self._ends, self._ended_ns = ends, time.time_ns()
