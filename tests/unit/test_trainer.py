"""The fine-tuner's judge with models that are lost, slow or no longer needed, and after drift."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from headrace.shard.blobs import Blobs
from headrace.topics import ALARMS
from learners.deep.model import DeepModel, DeepSettings
from learners.deep.train import train
from learners.next_item.attributes import ItemAttributes
from learners.protocol import Listed
from learners.rounds import worker
from learners.rounds.contest import NO_MODEL
from learners.rounds.evidence import Began, Compared, Trained
from learners.rounds.evidence import decode as as_evidence
from learners.rounds.job import Job, Known, Sequences, Training
from learners.rounds.judge import MODEL, RoundsJudge
from learners.rounds.settings import RoundsSettings
from tests.shards import RoundsFold, judge_all, rounds_judge
from tests.stages import alarm, announcements, learn_views, promoted, started, trained


def judged(trainer: RoundsJudge, fold: RoundsFold) -> list[Began | Trained | Compared]:
    """Let the trainer judge as the loop does, and the fold absorb the judgements, to the end of a round that is due."""
    return [as_evidence(judgement) for judgement in judge_all(trainer, fold.family, fold.absorb)]


def test_a_candidate_whose_blob_is_lost_is_refused(tmp_path: Path) -> None:
    fold, trainer = started(), rounds_judge(Blobs(tmp_path), RoundsSettings())
    learn_views(fold, 100)
    trained(fold, "model-lost")
    learn_views(fold, 20, trainer=trainer)
    (found,) = judged(trainer, fold)
    assert isinstance(found, Compared)
    assert found.blend_scores["model-lost"] == found.blend_scores[NO_MODEL]
    assert set(found.own_scores["model-lost"]) == {0.0}
    learn_views(fold, 40, trainer=trainer)
    assert [one.kind for one in announcements(fold)] == ["candidate", "refused"]


def test_a_champion_whose_blob_is_lost_is_followed_by_one_trained_from_scratch(tmp_path: Path) -> None:
    settings = RoundsSettings(first_passes=1, passes=1, width=8)
    fold, trainer = promoted(), rounds_judge(Blobs(tmp_path), settings)
    while not fold.due:
        learn_views(fold, 1)
    began, found = judged(trainer, fold)
    assert isinstance(began, Began)
    assert isinstance(found, Trained)
    assert (found.lineage["parent"], found.retention, found.reasons) == ("", [], [])
    assert Blobs(tmp_path).get(found.blob)
    assert fold.candidate


@pytest.mark.parametrize(
    ("settings", "sequences", "reason"),
    [
        (RoundsSettings(train_s_max=0.5), [("a", "b")], "the time limit, 0.5 s (train_s_max), was over before"),
        (RoundsSettings(), [("a",), ("b",)], "no sequence of two items to learn from"),
    ],
)
def test_a_round_without_a_step_tells_why(
    tmp_path: Path, settings: RoundsSettings, sequences: list[tuple[str, ...]], reason: str
) -> None:
    found = worker.work(job_of(tmp_path, settings, sequences), itertools.count().__next__)
    assert (found.blob, len(found.reasons)) == ("", 1)
    assert found.reasons[0].startswith(reason)
    assert "tokens" not in found.lineage


def test_a_round_that_the_time_limit_cut_short_tells_so(tmp_path: Path) -> None:
    settings = RoundsSettings(train_s_max=1.5, width=8)
    sequences = [(f"a{n}", f"b{n}") for n in range(2_000)]
    found = worker.work(job_of(tmp_path, settings, sequences), itertools.count().__next__)  # one step, then it is late
    assert found.lineage["stopped"] == "after 1.5 s (train_s_max)"
    assert 0 < int(str(found.lineage["tokens"])) < 2_000
    whole = worker.work(job_of(tmp_path, RoundsSettings(width=8), sequences[:10]), lambda: 0.0)
    assert "stopped" not in whole.lineage


def job_of(folder: Path, settings: RoundsSettings, sequences: Sequence[tuple[str, ...]]) -> Job:
    """Return a job: to train on these sequences, without a champion."""
    items = sorted({item for sequence in sequences for item in sequence})
    unknown = ItemAttributes(np.zeros(len(items), np.uint32), np.full(len(items), np.nan, np.float32))
    training = Training(
        parent="", sequences=Sequences.of(sequences), rehearsed=Sequences.of([]),
        known=Known.of(items, unknown), passes=1, share=1.0, seed=1, device="cpu",
    )  # fmt: skip
    return Job(str(folder), "start", settings, {}, "", [], [], training)


def test_the_latency_of_each_candidate_is_measured_on_items_that_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Sequence[str]] = []

    class Watched(DeepModel):
        def predict(self, prefixes: Sequence[Sequence[str]], n: int = 20) -> list[Listed]:
            asked.extend(prefixes)
            return super().predict(prefixes, n)

    monkeypatch.setattr(worker, "load_to_train", Watched.from_bytes)
    monkeypatch.setattr(worker, "latency_s_max", 0.0)
    fold, settings = started(), RoundsSettings(first_passes=1, width=8)
    learn_views(fold, 100)
    found = judged(rounds_judge(Blobs(tmp_path), settings), fold)[-1]
    assert isinstance(found, Trained)
    assert found.retention == []
    (reason,) = found.reasons
    assert reason.startswith("one answer takes")
    assert {len(prefix) for prefix in asked} == {30}
    assert all(item.startswith("item-") for prefix in asked for item in prefix)


def test_only_models_that_are_needed_stay_in_memory(tmp_path: Path) -> None:
    fold = promoted()
    trainer = rounds_judge(Blobs(tmp_path), RoundsSettings())
    assert fold.champion
    for blob in (fold.champion.blob, "model-refused", "model-former"):
        trainer._models.add(blob, DeepModel(DeepSettings(width=8), 1))
    fold.former.append("model-former")
    judged(trainer, fold)
    assert set(trainer._models._loaded) == {fold.champion.blob}


@pytest.mark.parametrize("trigger", ["volume", "time", "gain", "drift"])
def test_after_drift_the_mean_over_rounds_is_not_used(tmp_path: Path, trigger: str) -> None:
    settings = RoundsSettings(first_passes=1, passes=1, width=8)
    fold, trainer = promoted(), rounds_judge(Blobs(tmp_path), settings)
    while not fold.due:
        learn_views(fold, 1)
    assert fold.champion
    champion = train(None, fold.training_set.window(), settings=DeepSettings(width=8), passes=1).model
    fold.lineup.champion = replace(fold.champion, blob=Blobs(tmp_path).put(MODEL, champion.to_bytes()))
    if trigger == "drift":
        fold.hear(ALARMS, alarm())  # a round may be due by any trigger now
    fold.family.due = trigger if trigger != "drift" else "volume"
    found = judged(trainer, fold)[-1]
    assert isinstance(found, Trained)
    made = DeepModel.from_bytes(Blobs(tmp_path).get(found.blob))
    assert len(made) >= len(champion)
    assert bool(made.training_offsets) == (trigger != "drift")
