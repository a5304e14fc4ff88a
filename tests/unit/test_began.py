"""From `Began` to `Trained`: what the fold sets apart, keeps and learns meanwhile; children that bring no result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.child import Ended
from headrace.shard.blobs import Blobs
from headrace.state import digest
from headrace.topics import ALARMS
from learners.family import Judging
from learners.rounds.evidence import Began, Trained
from learners.rounds.evidence import decode as as_evidence
from learners.rounds.evidence import encode as as_judgement
from learners.rounds.judge import RoundsJudge, Start
from learners.rounds.settings import RoundsSettings
from tests.shards import InProcess, RoundsFold, judge_all, rounds_judge
from tests.stages import RULES, alarm, announcements, decided, learn_views, promoted, started, trained


def begin(fold: RoundsFold) -> None:
    fold.absorb(as_judgement(Began(fold.due)))


def due() -> RoundsFold:
    fold = started()
    learn_views(fold, 100)
    assert fold.due == "start"
    return fold


def test_a_journal_without_begun_rounds_folds_to_the_same_state() -> None:
    with_begin, without = due(), due()
    begin(with_begin)
    for fold in (with_begin, without):
        trained(fold, trigger="start")
        learn_views(fold, 10)
        decided(fold, 0.5, nothing=0.1)
        fold.emit()
    assert digest(with_begin.state()) == digest(without.state())


def test_what_comes_while_a_round_trains_is_the_next_ones() -> None:
    fold = due()
    window = [tuple(one) for one in fold.training_set.window()]
    rehearsed = len(fold.training_set.rehearsal)
    begin(fold)
    assert (fold.due, fold.training) == ("", Began("start"))
    assert fold.training_set.in_training() == window
    assert fold.training_set.window() == []
    learn_views(fold, 250)
    assert fold.due == "", "one round at a time"
    assert fold.training_set.in_training() == window
    later = [tuple(one) for one in fold.training_set.window()]
    assert sum(map(len, later)) > 100
    assert len(fold.training_set.rehearsal) == rehearsed
    trained(fold, trigger="start", reasons=("unfit",))
    assert fold.training is None
    assert fold.training_set.in_training() == []
    assert len(fold.training_set.rehearsal) == rehearsed + len(window)
    assert [tuple(one) for one in fold.training_set.window()] == later
    (refused,) = announcements(fold)
    assert refused.due_events == fold.seen + 1, "the next round is due at once"
    learn_views(fold, 1)
    assert fold.due == "volume"


def test_a_round_and_a_verdict_are_overdue_by_the_records_since_they_were_due() -> None:
    fold = started()
    learn_views(fold, 100)
    assert fold.overdue == 0
    learn_views(fold, 30)
    assert fold.overdue == 30
    begin(fold)
    learn_views(fold, 130)
    assert fold.overdue == 0, "a round is trained"
    trained(fold)
    learn_views(fold, 50)
    assert fold.overdue == 0, "the gate is not over"
    learn_views(fold, 20)
    assert fold.overdue == 20, "no verdict came, because no model was compared"


def test_a_restart_knows_what_is_trained_and_continues() -> None:
    fold = due()
    begin(fold)
    learn_views(fold, 30)
    fold.emit()
    again = fold.again()
    assert again.training == fold.training
    assert again.training_set.in_training() == fold.training_set.in_training() != []
    assert digest(again.state()) == digest(fold.state())
    for one in (fold, again):
        learn_views(one, 20)
        trained(one, trigger="start")
        learn_views(one, 10)
    assert announcements(again) == announcements(fold) != []
    assert digest(again.state()) == digest(fold.state())


def test_sessions_in_training_are_bounded() -> None:
    fold = RoundsFold(RoundsSettings(round_events=100, window_max=5, holdout_share=0.0))
    learn_views(fold, 300)
    begin(fold)
    learn_views(fold, 300)
    assert fold.family.bounds()["training_sequences"] == (5, 5)


def test_drift_while_a_round_trains_triggers_another_one() -> None:
    fold = promoted()
    learn_views(fold, 90)
    begin(fold)
    learn_views(fold, 10)
    fold.hear(ALARMS, alarm())
    learn_views(fold, 10)
    trained(fold, "model-bb", trigger="volume")
    decided(fold, 0.8, champion=0.3)
    assert fold.drifted, "the candidate was trained on what was before the drift"
    learn_views(fold, 40)
    assert fold.due == "drift"


def judge_with(folder: Path, start: Start, log: Callable[..., None]) -> RoundsJudge:
    usual = rounds_judge(Blobs(folder), RULES)
    return RoundsJudge(Judging(RULES, usual._models, usual._seconds, log, log), start=start)


def failing(ended: Ended) -> Start:
    class Brings(InProcess):
        def __init__(self, data: bytes) -> None:
            pass

        def poll(self) -> Ended | None:
            return ended

    return Brings


def refuses(data: bytes) -> Any:
    raise OSError(28, "No space left on device")


LOST = as_judgement(Trained(f"model-{'0' * 64}", "start", [], [], {"tokens": 1, "loss": 1.0, "seconds": 1.0}))


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (failing(Ended(None, "it was killed by SIGSEGV")), "it was killed by SIGSEGV"),
        (failing(Ended(b"rubbish")), "its result cannot be read: "),
        (failing(Ended(b"")), "its result cannot be read: "),
        (failing(Ended(as_judgement(Began("start")))), ""),
        (failing(Ended(LOST)), "blob model-0000"),
        (refuses, "it cannot be started: [Errno 28] No space left on device"),
    ],
)
def test_whatever_a_child_leaves_instead_of_a_result_is_a_failed_round(
    tmp_path: Path, start: Start, reason: str
) -> None:
    fold, told = due(), list[str]()
    trainer = judge_with(tmp_path, start, lambda event, *_, **__: told.append(event))
    began, found = map(as_evidence, judge_all(trainer, fold.family, fold.absorb))
    assert isinstance(began, Began)
    assert isinstance(found, Trained)
    assert found.reasons[0].startswith(f"the process of the training failed: {reason}")
    (failed,) = announcements(fold)
    assert (failed.kind, failed.trigger, failed.reason) == ("failed", "start", found.reasons[0])
    assert "the child process failed" in told
    assert (fold.training, fold.due, trainer.ready(fold.family)) == (None, "", False)
    learn_views(fold, 100)
    assert fold.due == "volume", "rounds continue"


def test_a_round_that_was_interrupted_is_trained_by_the_next_process(tmp_path: Path) -> None:
    settings = RoundsSettings(first_passes=1, width=8)
    fold = due()
    begin(fold)
    again = fold.again()
    trainer = rounds_judge(Blobs(tmp_path), settings)
    assert trainer.ready(again.family)
    (found,) = map(as_evidence, judge_all(trainer, again.family, again.absorb))
    assert isinstance(found, Trained)
    assert (found.reasons, found.lineage["sequences"]) == ([], len(fold.training_set.in_training()))
    assert again.candidate
