"""Rehearsal rules: what each keeps, that all get equal tokens, and that rehearsal preserves the past."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import rehearsal_rules
from benchmarks.contestants import Tuning, named_sessions
from benchmarks.exemplars import (
    MEMORIES,
    Herding,
    HighestScored,
    Session,
    draw_sessions,
    hard,
    losses,
    session_vectors,
    surprising,
)
from benchmarks.periods import Periods
from benchmarks.rehearsal_rules import RULES, Trial, measure_rule, run
from benchmarks.rehearsers import Distillation, Rehearser, predictions
from headrace.errors import Misconfigured
from learners.deep.model import DeepModel, DeepSettings
from learners.deep.train import train
from tests.streams import language

pytestmark = pytest.mark.slow

small = DeepSettings(width=32, layers=1, heads=2, context=10, dropout=0.1)
sessions_max = 60


@pytest.fixture(scope="module")
def trial() -> Trial:
    """One language in periods 0 and 1, another one in later periods."""
    periods = Periods([language(150, seed, 1 if seed < 2 else 7) for seed in range(4)])
    return Trial(periods, 3, sessions_max=sessions_max, options={"settings": small, "first_passes": 6, "passes": 2})


@pytest.fixture(scope="module")
def model(trial: Trial) -> DeepModel:
    """A model trained on period 0."""
    return train(None, named_sessions(trial.periods, 0), settings=small, passes=6).model


def past(trial: Trial, period: int) -> tuple[list[Session], list[int]]:
    """Return a period's sessions and their times."""
    sessions = [tuple(session) for session in named_sessions(trial.periods, period)]
    return sessions, list(range(period * 10**9, period * 10**9 + len(sessions)))


def test_losses_are_those_of_the_probabilities(model: DeepModel) -> None:
    sessions = [tuple(model.items[:3]), (model.items[4], "nobody knows", model.items[5]), ("a", "b")]
    one, two, three = losses(model, sessions, chance=4.0).tolist()
    scores = model.score_all([sessions[0][:1], sessions[0][:2], sessions[1][:1]])
    row = {item: place for place, item in enumerate(model.items)}
    assert one == pytest.approx(np.mean([-math.log(scores[i, row[sessions[0][i + 1]]]) for i in (0, 1)]), rel=1e-4)
    assert two == pytest.approx((4.0 - math.log(scores[2, row[sessions[1][2]]])) / 2, rel=1e-4)
    assert three == 4.0


def test_session_vectors_are_those_before_the_last_item(model: DeepModel) -> None:
    session = tuple(model.items[:4])
    logits = torch.from_numpy(session_vectors(model, [session])) @ torch.nn.functional.normalize(model.table, dim=1).T
    found = torch.softmax(logits / small.temperature, dim=1).numpy()
    np.testing.assert_allclose(found, model.score_all([session[:3]]), rtol=1e-3)


@pytest.mark.parametrize("name", MEMORIES)
def test_every_memory_is_bounded_and_depends_on_its_seed(name: str, trial: Trial, model: DeepModel) -> None:
    one, two = (MEMORIES[name](3, sessions_max) for _ in range(2))
    shown: list[Session] = []
    before: DeepModel | None = None
    for period in range(3):
        sessions, times_ms = past(trial, period)
        for memory in (one, two):
            memory.learn(sessions, times_ms, before, model)
        shown, before = shown + sessions, model
        assert len(one.kept()) == (0 if name == "none" else sessions_max)
        assert one.kept() == two.kept()
        assert not Counter(one.kept()) - Counter(shown)


def test_the_highest_scores_of_each_round_are_kept(model: DeepModel) -> None:
    memory = HighestScored(lambda before, after, sessions: np.array([float(session[1]) for session in sessions]), 20)
    first: list[Session] = [("a", str(n)) for n in range(60)]
    second: list[Session] = [("a", str(n)) for n in range(60, 100)]
    memory.learn(first, [0] * 60, None, model)
    assert set(memory.kept()) == set(first[-20:])
    memory.learn(second, [1] * 40, model, model)
    # 60 and 40 were shown: 12 and 8 are kept, though the second round has higher scores.
    assert set(memory.kept()) == {*first[-12:], *second[-8:]}


def test_surprise_is_the_fall_of_the_loss_in_a_round(trial: Trial, model: DeepModel) -> None:
    sessions = named_sessions(trial.periods, 2)
    after = train(model, sessions, passes=4).model
    shown = [tuple(session) for session in sessions]
    gains = surprising(model, after, shown)
    assert gains.mean() > 0.3
    np.testing.assert_allclose(gains, losses(model, shown, math.log(len(after))) - hard(model, after, shown))
    np.testing.assert_allclose(surprising(model, model, shown), 0.0)
    # Without a model before the round, the loss before it is that of chance.
    np.testing.assert_allclose(surprising(None, after, shown), math.log(len(after)) - hard(None, after, shown))


def test_herding_keeps_items_by_their_frequency(trial: Trial, model: DeepModel) -> None:
    sessions, times_ms = past(trial, 0)
    memory = Herding(0, sessions_max)
    memory.learn(sessions, times_ms, None, model)
    every, held = (Counter(session[-1] for session in of) for of in (sessions, memory.kept()))
    assert sum(held.values()) == sessions_max
    for item, count in every.items():
        assert abs(held[item] - count * sessions_max / len(sessions)) < 1
    # A single exemplar of an item is the session that is nearest to the mean of the item's sessions.
    vectors = session_vectors(model, sessions)
    nearer = []
    for item in {item for item, count in held.items() if count == 1 and every[item] > 2}:
        of = vectors[[session[-1] == item for session in sessions]]
        (one,) = session_vectors(model, [session for session in memory.kept() if session[-1] == item])
        distances = np.square(of - of.mean(axis=0)).sum(axis=1)
        nearer.append(np.square(one - of.mean(axis=0)).sum() == pytest.approx(distances.min(), abs=1e-5))
    assert nearer
    assert all(nearer)


def test_recency_favours_the_newest_and_uniform_does_not(model: DeepModel) -> None:
    shares = {}
    for name in ("uniform", "recency"):
        newest = 0
        for seed in range(20):
            memory = MEMORIES[name](seed, 50)
            for period, time_ms in enumerate((0, 90 * 86_400_000)):
                memory.learn([(str(period), str(n)) for n in range(200)], [time_ms] * 200, model, model)
            newest += sum(session[0] == "1" for session in memory.kept())
        shares[name] = newest / 1000
    assert 0.4 < shares["uniform"] < 0.6
    assert shares["recency"] > 0.8


def test_drawn_sessions_have_the_wanted_size_and_repeat_only_after_all_were_drawn() -> None:
    kept: list[Session] = [("a", str(n)) for n in range(10)]
    assert len(set(draw_sessions(kept, 7, seed=1))) == len(draw_sessions(kept, 7, seed=1)) == 7
    many = draw_sessions(kept, 25, seed=1)
    assert len(many) == 25
    assert set(many[:10]) == set(many[10:20]) == set(kept)
    assert draw_sessions([], 5, seed=1) == []
    assert draw_sessions(kept, 0, seed=1) == []


def test_distillation_does_not_change_the_teacher_and_pulls_students_to_it(trial: Trial, model: DeepModel) -> None:
    sessions, _ = past(trial, 0)
    rows = torch.arange(len(model))
    moved = train(model, named_sessions(trial.periods, 2), passes=2).model
    sizes = []
    for student in (model, moved):
        penalty = Distillation(model, sessions, 1.0, steps=1)
        table = student.table.clone().requires_grad_()
        value = penalty(student, rows, table[: len(model)])
        assert penalty.tokens == predictions(sessions)
        torch.autograd.backward(value)
        assert table.grad is not None
        sizes.append((float(value.detach()), float(table.grad.norm())))
        assert float(penalty(student, rows, table)) == 0.0
    assert sizes[0][1] < 0.01 * sizes[1][1]
    assert sizes[0][0] < sizes[1][0]


def test_distilled_sessions_are_divided_among_all_steps(model: DeepModel) -> None:
    sessions = [(model.items[n], model.items[n + 1], model.items[n + 2]) for n in range(40)]
    penalty = Distillation(model, sessions, 1.0, steps=8)
    tokens = [0]
    for _ in range(8):
        penalty(model, torch.arange(len(model)), model.table)
        tokens.append(penalty.tokens)
    assert np.diff(tokens).tolist() == [10] * 8


def test_all_rules_get_equal_tokens_and_continue_from_one_model(trial: Trial, tmp_path: Path) -> None:
    result = run(trial, list(RULES), [0], tmp_path)
    by_rule = result["seeds"]["0"]
    assert {of["kept"] for name, of in by_rule.items() if name != "none"} == {sessions_max}
    assert len({of["periods"]["mrr@20"][0] for of in by_rule.values()}) == 1
    for name, of in by_rule.items():
        assert np.abs(np.array(of["tokens"]) - by_rule["recency"]["tokens"]).max() <= (
            15 if "distillation" in name else 5
        ), name
    by_hand = np.mean(by_rule["easy"]["periods"]["mrr@20"][1:])
    assert result["rules"]["easy"]["mrr@20"] == pytest.approx(by_hand)
    drop = np.array(by_rule["easy"]["periods"]["recall@20"]) - by_rule["easy"]["last"]["recall@20"]
    assert result["rules"]["easy"]["drop recall@20"] == pytest.approx(drop[:-1].mean())
    assert result["rules"]["easy"]["spread"]["mrr@20"] == 0.0
    # Figures are kept: nothing is measured again, not even the seconds.
    assert run(trial, list(RULES), [0], tmp_path) == result


def test_rehearsal_holds_on_to_a_language_that_is_no_longer_spoken() -> None:
    counts = (300, 40, 600, 40)
    periods = Periods([language(count, seed, 1 if seed < 2 else 7) for seed, count in enumerate(counts)])
    spoken = Trial(periods, 3, sessions_max=300, options={"settings": small, "passes": 6})
    first = train(None, named_sessions(periods, 0), settings=small, passes=12).model
    left = {}
    for name in ("none", "recency", "recency+distillation", "recency+ewc"):
        found = measure_rule(spoken, name, 0, first)
        assert found["periods"]["mrr@20"][0] > 0.25
        left[name] = found["last"]["mrr@20"][0]
    assert left.pop("none") + 0.02 < min(left.values())


def test_without_a_memory_the_newest_period_is_trained_on_more_often(trial: Trial, model: DeepModel) -> None:
    memory = MEMORIES["none"](0, sessions_max)
    contestant = Rehearser(Tuning(), model, memory, sessions_max, settings=small, passes=2)
    assert contestant.learn(trial.periods, 0, lambda share: None).tokens == 0
    cost = contestant.learn(trial.periods, 1, lambda share: None)
    mean = predictions(named_sessions(trial.periods, 0)) / len(named_sessions(trial.periods, 0))
    wanted = 2 * predictions(named_sessions(trial.periods, 1)) + sessions_max * mean
    assert wanted - 1 <= cost.tokens <= wanted + 5


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        (tmp_path / f"period_{number}.txt").write_text(language(30, number, 1))
    where = ["--data", str(tmp_path), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out.json")]
    where += ["--periods", "2", "--memory", "10"]
    rehearsal_rules.main([*where, "--rules", "none,recency", "--seed", "0,1"])
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["rules"].keys() == {"none", "recency"}
    assert written["seeds"].keys() == {"0", "1"}
    assert written["options"]["periods"] == [2]
    assert "Memory of 10 sessions" in capsys.readouterr().out
    for wrong in (["--rules", "nobody"], ["--memory", "0"], ["--sample", "0"], ["--periods", "1"], ["--seed", "a"]):
        with pytest.raises(Misconfigured, match=wrong[0]):
            rehearsal_rules.main([*where, *wrong])
