"""The judge of fine-tuning rounds: has candidates trained in a child process, and lets the models predict new events.

A round begins with the judgement `Began`, at which the fold sets apart what the round trains on. At the next commit the
judge gives this to a child process (`learners.rounds.worker`), and the fold goes on. Once the child has ended, a commit
carries its result. The fold knows from `Began` to `Trained` that a round is trained, so a process that is killed
meanwhile starts the child again when it restarts.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

import headrace
from headrace.artifacts import Artifacts
from headrace.child import ChildProcess, Ended, Running, remove_leftovers
from headrace.errors import BlobMissing
from headrace.events import Event
from learners.deep import newest_share
from learners.family import Judging
from learners.rounds import evidence
from learners.rounds.contest import NO_MODEL, blend_score, reciprocal_rank
from learners.rounds.evidence import Began, Compared, Trained
from learners.rounds.family import Observed, Rounds
from learners.rounds.job import MODEL as MODEL
from learners.rounds.job import RUN, Job, Known, Sequences, Training, answers_of, reciprocal_ranks
from learners.rounds.settings import RoundsSettings

data_digits: Final = 16
"""Length of the digest of a round's training data in its lineage."""
if TYPE_CHECKING:  # it imports torch
    from learners.deep.model import DeepModel

Start: TypeAlias = Callable[[bytes], Running]
"""Starts the work on an encoded `Job`. Raises OSError if it cannot."""
compared_max: Final = 2_000
"""Most events scored at one commit, its first ones; bounds the duration of a commit after a round."""
grace_s: Final = 300.0
"""Time, in seconds, that a child has beside training: to import torch, to load, check and store models. After it and
`train_s_max` the child is killed and the round has failed."""


class RoundsJudge:
    """Has candidates trained and checked, and scores the predictions of the models.

    Torch is imported by a thread once there is something to train or to compare. Until then nothing is compared.

    Args:
        start: starts the work on a job; by default in a child process.
    """

    judged: int = 0

    def __init__(self, judging: Judging, *, start: Start | None = None) -> None:
        self._settings: RoundsSettings = judging.settings
        self._seconds, self._report, self._log = judging.seconds, judging.report, judging.log
        self._models: Artifacts[DeepModel] = judging.artifacts
        self._observed: list[Observed] = []
        key = f"round-{hashlib.sha256(os.fsencode(self._models.blobs.folder.absolute())).hexdigest()[:12]}"
        for folder in remove_leftovers(key):
            self._log("leftovers of a killed round removed", folder=str(folder))
        limit_s = self._settings.train_s_max + grace_s
        self._start: Start = start or partial(ChildProcess, RUN, key=key, limit_s=limit_s)
        self._job: Job | None = None
        self._child: Running | None = None
        self._torch = self._device = ""  # the version and the device, once they are known
        self._report("headrace_round_training_max_seconds", limit_s)

    @property
    def inclusion(self) -> float:
        """0, because this judge does not sample: models are compared on the first events of an entry."""
        return 0.0

    def observe(self, fold: Rounds, event: Event, partition: int, offset: int) -> None:
        """Keep a step of the event as a question to the models that are compared."""
        observing = fold.comparing and self._models.prepared and len(self._observed) < compared_max
        if observing and (found := fold.observe(event)):
            self._observed.append(found)

    def judge(self, fold: Rounds, lag: int) -> list[bytes]:
        """Score the observed steps; begin a round that is due, start its child, or take the child's result."""
        self._models.retain(fold.lineup.loaded_blobs())
        if not ((fold.comparing or self._child or self._has_work(fold)) and self._prepared()):
            return []
        found: list[Began | Trained | Compared] = list(self._compare(fold))
        if self._job is None and self._is_due(fold):
            found.append(self._began(fold))
        elif self._job is None and (job := self._next_job(fold)):
            found += self._begin(fold, job)
        elif self._job and self._child and (ended := self._child.poll()):
            found.append(self._end(self._job, ended))
        for model in self._models.loaded():
            fold.browsing.add_late_items_to(model)
        return [evidence.encode(one) for one in found]

    def ready(self, fold: Rounds) -> bool:
        """Whether `judge` has something to begin or to take, although no event came."""
        if self._child:
            return self._child.poll() is not None
        return self._has_work(fold) and self._prepared()

    @staticmethod
    def _has_work(fold: Rounds) -> bool:
        return fold.training is not None or (not fold.lineup.candidate and bool(fold.due or fold.lineup.proposed))

    def _prepared(self) -> bool:
        """Return whether torch can be used; begin to import it, and see what it runs on."""
        if not self._torch and self._models.prepare():
            import torch

            torch.set_num_threads(min(self._settings.threads, os.cpu_count() or 1))
            self._torch, self._device = str(torch.__version__), self._settings.device
            if self._device == "auto":
                self._device = "cuda" if torch.cuda.is_available() else "cpu"
            self._report("headrace_torch_info", 1, self._torch, self._device)
        return bool(self._torch)

    def close(self) -> None:
        """End the child, if there is one. Its round is trained again after the restart."""
        if self._child:
            self._child.close()
        self._job = self._child = None

    @staticmethod
    def _is_due(fold: Rounds) -> bool:
        return bool(fold.due) and fold.training is None and fold.lineup.candidate is None

    def _compare(self, fold: Rounds) -> Sequence[Compared]:
        """Return the scores of the blend with each contestant and without a model, and those of each contestant alone.

        A model whose blob is lost scores as if absent: the blend's score is that without a model, its own score 0.
        """
        observed, self._observed = self._observed, []
        if not observed:
            return []
        questions, asked = [one.question for one in observed], [(one.question, one.lists) for one in observed]
        blend_scores = {NO_MODEL: [blend_score(lists, None, question) for question, lists in asked]}
        alone = {
            name: [reciprocal_rank(lists[name], question.item) for question, lists in asked]
            for name in observed[0].lists
        }
        for blob in {one.blob: None for one in fold.lineup.contestants()}:
            model = self._models.get(blob)
            if model is None:
                blend_scores[blob], alone[blob] = blend_scores[NO_MODEL], [0.0] * len(questions)
                continue
            answers = answers_of(model, questions)
            pairs = zip(asked, answers, strict=True)
            blend_scores[blob] = [blend_score(lists, answer, question) for (question, lists), answer in pairs]
            alone[blob] = reciprocal_ranks(answers, questions)
        visits = [one.visit for one in observed]
        return [Compared(blend_scores, alone, [one.shopper for one in visits], [one.session for one in visits])]

    def _began(self, fold: Rounds) -> Began:
        """Return the begin of the round that is due."""
        champion = fold.lineup.champion
        parent = champion if champion and self._models.get(champion.blob) else None
        return Began(
            trigger=fold.due,
            parent=parent.version if parent else "",
            parent_blob=parent.blob if parent else "",
            events=fold.schedule.log_range(),
            seed=fold.round,
            share=1.0 if fold.drifted else newest_share,
        )

    def _next_job(self, fold: Rounds) -> Job | None:
        """Return what a child is to do now: train the round that has begun, or check the proposed model."""
        if fold.training:
            return self._training_job(fold, fold.training)
        proposed = fold.lineup.proposed
        if proposed and fold.lineup.candidate is None:
            return self._job_of(fold, "proposed", {"proposed": proposed.version}, blob=proposed.blob)
        return None

    def _training_job(self, fold: Rounds, began: Began) -> Job:
        sequences: list[tuple[str, ...]] = fold.training_set.in_training()
        rehearsal = fold.training_set.rehearsal
        passes = self._settings.passes if began.parent_blob else self._settings.first_passes
        rehearsed: list[tuple[str, ...]] = []
        if began.parent_blob:
            count = int(len(sequences) * self._settings.rehearsal_share) * passes
            rehearsed = rehearsal.draw(count, seed=began.seed)
        else:  # without a champion to start from, all sessions are new to the model
            sequences = [*rehearsal.draw(len(rehearsal), seed=began.seed), *sequences]
        lineage: dict[str, str | int | float | list[str]] = {
            "parent": began.parent,
            "events": began.events,
            "sequences": len(sequences),
            "rehearsed": len(rehearsed),
            "seed": self._settings.seed + began.seed,
            "torch": self._torch,
            "device": self._device,
        }
        items = fold.browsing.catalogue.items()
        data = hashlib.sha256(msgspec.msgpack.encode((sequences, rehearsed))).hexdigest()
        lineage |= {"data": data[:data_digits], "headrace": headrace.__version__}
        training = Training(
            parent=began.parent_blob,
            sequences=Sequences.of(sequences),
            rehearsed=Sequences.of(rehearsed),
            known=Known.of(items, fold.browsing.attributes_of(items)),
            passes=passes,
            share=began.share,
            seed=self._settings.seed + began.seed,
            device=self._device,
        )
        return self._job_of(fold, began.trigger, lineage, training=training)

    def _job_of(
        self,
        fold: Rounds,
        trigger: str,
        lineage: dict[str, str | int | float | list[str]],
        *,
        training: Training | None = None,
        blob: str = "",
    ) -> Job:
        return Job(
            folder=str(self._models.blobs.folder.absolute()),
            trigger=trigger,
            settings=self._settings,
            lineage=lineage,
            champion=fold.lineup.champion.blob if fold.lineup.champion else "",
            slices=[slice_ for slice_ in fold.training_set.slices if slice_],
            slices_shoppers=[shoppers for shoppers in fold.training_set.slices_shoppers if shoppers],
            training=training,
            blob=blob,
        )

    def _begin(self, fold: Rounds, job: Job) -> list[Trained]:
        """Start a child; if that is not possible, return the failure."""
        try:
            self._child = self._start(msgspec.msgpack.encode(job))
        except OSError as error:
            return [self._end(job, Ended(None, f"it cannot be started: {error}"))]
        # The data is in the child's file: here only what the result needs is kept.
        self._job = msgspec.structs.replace(job, training=None, slices=[], slices_shoppers=[])
        if job.training:
            self._log("training", round=fold.round + 1, trigger=job.trigger, **job.lineage)
            self._report("headrace_round_training_timestamp_seconds", self._child.started_ms / 1000)
        return []

    def _end(self, job: Job, ended: Ended) -> Trained:
        """Return the result of a job; whatever the child left instead of one is a failure with a reason."""
        self.close()
        self._report("headrace_round_training_timestamp_seconds", 0)
        found, reason = None, ended.reason
        if ended.output is not None:
            try:
                found = evidence.decode(ended.output)
            except msgspec.MsgspecError as error:
                reason = f"its result cannot be read: {error}"
        if isinstance(found, Trained) and found.blob and not found.reasons:
            try:
                self._models.blobs.renew(found.blob)  # the child has put it; see `headrace.shard.blobs.Blobs.sweep`
            except BlobMissing as error:
                found, reason = None, str(error)
        if not isinstance(found, Trained):
            self._log("the child process failed", trigger=job.trigger, reason=reason)
            kind = "check" if job.blob else "training"
            return Trained(job.blob, job.trigger, [f"the process of the {kind} failed: {reason}"], [], job.lineage)
        if "tokens" in found.lineage:
            self._report("headrace_round_triggers_total", 1, found.trigger)
            self._report("headrace_round_duration_seconds", found.lineage["seconds"])
            self._report("headrace_round_tokens_total", found.lineage["tokens"])
            self._report("headrace_round_loss_nats", found.lineage["loss"])
        if not found.reasons:
            self._models.get(found.blob)  # loaded now, so that it learns of late items from here on
        return found
