"""The fine-tuner's judge: what it does with models that are lost, slow or no longer asked, and after a break."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from consumers import finetune
from consumers.finetune import Trainer
from headrace.blobs import Blobs
from headrace.config import FinetuneSettings
from headrace.metrics import FinetuneMetrics
from headrace.topics import ALARMS
from learners.contest import NOTHING
from learners.deep import DeepModel, DeepSettings
from learners.evidence import Compared, Trained
from learners.evidence import decode as as_evidence
from learners.finetune import train
from learners.judgement import Listed
from learners.rounds import Rounds
from tests.stages import alarm, promoted, said, shop, started, trained


def judged(trainer: Trainer, fold: Rounds) -> list[Trained | Compared]:
    """Let the trainer judge as the loop does, and the fold hear it."""
    made = trainer.judge(fold, 0)
    for judgement in made:
        fold.absorb(judgement)
    return [as_evidence(judgement) for judgement in made]


def test_a_candidate_whose_blob_is_lost_is_refused(tmp_path: Path) -> None:
    fold, trainer = started(), Trainer(Blobs(tmp_path), FinetuneSettings(), FinetuneMetrics())
    shop(fold, 100)
    trained(fold, "model-lost")
    shop(fold, 20, trainer=trainer)
    (found,) = judged(trainer, fold)
    assert isinstance(found, Compared)
    assert found.worths["model-lost"] == found.worths[NOTHING]
    assert set(found.alone["model-lost"]) == {0.0}
    shop(fold, 40, trainer=trainer)
    assert [one.kind for one in said(fold)] == ["candidate", "refused"]


def test_a_champion_whose_blob_is_lost_is_followed_by_one_that_begins_anew(tmp_path: Path) -> None:
    settings = FinetuneSettings(first_passes=1, passes=1, width=8)
    fold, trainer = promoted(), Trainer(Blobs(tmp_path), settings, FinetuneMetrics())
    while not fold.due:
        shop(fold, 1)
    (found,) = judged(trainer, fold)
    assert isinstance(found, Trained)
    assert (found.lineage["parent"], found.retention, found.reasons) == ("", [], [])
    assert Blobs(tmp_path).get(found.blob)
    assert fold.candidate


def test_each_candidate_is_asked_how_fast_it_answers_about_items_that_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Sequence[str]] = []

    class Watched(DeepModel):
        def predict(self, prefixes: Sequence[Sequence[str]], n: int = 20) -> list[Listed]:
            asked.extend(prefixes)
            return super().predict(prefixes, n)

    monkeypatch.setattr(finetune, "DeepModel", Watched)
    monkeypatch.setattr(finetune, "latency_s_max", 0.0)
    fold, settings = started(), FinetuneSettings(first_passes=1, width=8)
    shop(fold, 100)
    (found,) = map(as_evidence, Trainer(Blobs(tmp_path), settings, FinetuneMetrics()).judge(fold, 0))
    assert isinstance(found, Trained)
    assert not fold.material.slices, "the first one: the holdout has none yet"
    (reason,) = found.reasons
    assert reason.startswith("one answer takes")
    assert {len(prefix) for prefix in asked} == {30}
    assert all(item.startswith("item-") for prefix in asked for item in prefix)


def test_only_models_that_may_be_asked_stay_in_memory(tmp_path: Path) -> None:
    fold = promoted()
    trainer = Trainer(Blobs(tmp_path), FinetuneSettings(), FinetuneMetrics())
    assert fold.champion
    trainer._models = dict.fromkeys([fold.champion.blob, "model-refused", "model-former"])
    fold.former.append("model-former")
    judged(trainer, fold)
    assert set(trainer._models) == {fold.champion.blob}


@pytest.mark.parametrize("trigger", ["volume", "time", "gain", "drift"])
def test_after_a_break_what_answered_before_takes_no_part(tmp_path: Path, trigger: str) -> None:
    settings = FinetuneSettings(first_passes=1, passes=1, width=8)
    fold, trainer = promoted(), Trainer(Blobs(tmp_path), settings, FinetuneMetrics())
    while not fold.due:
        shop(fold, 1)
    assert fold.champion
    champion = train(None, fold.material.window(), settings=DeepSettings(width=8), passes=1).model
    trainer._models[fold.champion.blob] = champion
    if trigger == "drift":
        fold.hear(ALARMS, alarm())  # whatever it is that makes a round due now
    fold.due = trigger if trigger != "drift" else "volume"
    (found,) = judged(trainer, fold)
    assert isinstance(found, Trained)
    made = DeepModel.from_bytes(Blobs(tmp_path).get(found.blob))
    assert len(made) >= len(champion)
    assert bool(made.ahead) == (trigger != "drift")
