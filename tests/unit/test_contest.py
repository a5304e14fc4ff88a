"""Blend scores, trials and watches; whole contests are tested with the rounds and with planted candidates."""

import json

import numpy as np
import pytest

from headrace.state import State, decode, encode
from learners.next_item.members import KINDS
from learners.protocol import Listed, Question
from learners.rounds.contest import Trial, Watch, blend_score, reciprocal_rank
from learners.rounds.gate import Rule
from learners.rounds.session_gate import Visit

QUESTION = Question(["x", "y"], "y", "true")
NONE: dict[str, float] = dict.fromkeys(KINDS, 0.0)


def ranked(*items: str) -> Listed:
    return list(items), np.linspace(1, 0.1, len(items), dtype=np.float32)


def empty() -> Listed:
    return [], np.zeros(0, np.float32)


FAST = {"popularity": ranked("a", "b"), "session_knn": ranked("b", "true", "c")}


def test_the_blend_score_depends_on_the_models_list() -> None:
    without = blend_score(FAST, None, QUESTION)
    assert without == 1 / 2
    assert blend_score(FAST, ranked("true", "c"), QUESTION) == 1
    assert blend_score(FAST, empty(), QUESTION) == without
    assert blend_score(FAST, ranked(*"defghijk"), QUESTION) < without, "a model with a wrong list does harm"


def test_evidence_has_the_same_order_after_a_restart() -> None:
    trial = Trial()
    trial.observe(0.5, 0.5, {"live": 0.1, "before": 0.2}, {"popularity": 0.1, "markov": 0.2})
    again = Trial.from_state(decode(encode(trial.state())))
    assert json.dumps(again.evidence()) == json.dumps(trial.evidence())


def test_an_item_on_no_list_scores_0() -> None:
    assert blend_score(FAST, ranked("d"), QUESTION._replace(item="other")) == 0
    assert blend_score({name: empty() for name in KINDS}, None, QUESTION) == 0
    assert (reciprocal_rank(ranked("a", "b"), "b"), reciprocal_rank(empty(), "b")) == (1 / 2, 0)


def test_a_trial_with_one_of_two_proofs_ends_as_undecided() -> None:
    trial = Trial()
    assert [trial.observe(0.9, 0.0, {"nothing": 0.1}, NONE) for _ in range(100)] == [None] * 100
    verdict = trial.expire()
    assert (verdict.kind, verdict.reason) == ("refuse", "undecided")


def test_a_fallback_that_proves_worse_is_dropped() -> None:
    watch = Watch()
    watch.add("nothing")
    watch.add("predecessor")
    for _ in range(60):
        assert watch.observe(0.5, {"nothing": 0.1, "predecessor": 0.5}) is None
    assert ("nothing" in watch, "predecessor" in watch) == (False, True)
    found = [watch.observe(0.5, {"nothing": 0.1, "predecessor": 0.9}) for _ in range(60)]
    name, verdict = next(one for one in found if one)
    assert (name, verdict.kind, verdict.mean_difference > 0) == ("predecessor", "rollback", True)


def test_the_rival_is_the_one_with_the_best_mean_so_far() -> None:
    """A candidate between the two is refused, whichever of them is better."""
    for better, other in (("nothing", "champion"), ("champion", "nothing")):
        trial = Trial()
        found = [trial.observe(0.5, 0.9, {other: 0.1, better: 0.9}, NONE) for _ in range(60)]
        verdict = next(one for one in found if one)
        assert (verdict.kind, verdict.reason) == ("refuse", "worse")
        assert trial.evidence()["worth"] == pytest.approx({other: 0.1, better: 0.9, "candidate": 0.5})


def old_gate(*, probation: bool) -> State:
    """Return the state of a gate as 0.3.0 wrote it, after three predictions with a difference of 0.1."""
    stakes = np.array([0.02, 0.04, 0.08, 0.16, 0.32, 0.64])
    return {
        "probation": probation, "alpha_better": 0.05, "alpha_worse": 0.05, "events_max": 20_000, "events": 3,
        "summed": 0.30000000000000004, "wealth": 3 * np.log1p([0.1 * stakes, -0.1 * stakes]), "verdict": None,
    }  # fmt: skip


def test_a_trial_of_0_3_0_is_read_and_continues_by_rule_1() -> None:
    state = {
        "worth": old_gate(probation=False), "alone": old_gate(probation=False),
        "worths": {"nothing": [0.6, 3.0], "candidate": [0.9, 3.0]},
        "alones": {"popularity": [0.6, 3.0], "candidate": [0.6, 3.0]},
    }  # fmt: skip
    old, new = Trial.from_state(decode(encode(state))), Trial()
    for _ in range(3):
        new.observe(0.3, 0.2, {"nothing": 0.2}, {"popularity": 0.2})
    assert set(old.state()) == set(state)
    verdicts = []
    for trial in (old, new):
        found = [trial.observe(0.5, 0.5, {"nothing": 0.1}, {"popularity": 0.1}) for _ in range(40)]
        verdicts.append(next(one for one in found if one))
    assert verdicts[0] == verdicts[1]
    assert old.evidence()["worth"] == pytest.approx(new.evidence()["worth"])
    assert (verdicts[0].kind, verdicts[0].interval) == ("promote", None)


def test_a_watch_of_0_3_0_is_read_and_continues_by_rule_1() -> None:
    watch = Watch.from_state(decode(encode({"nothing": old_gate(probation=True)})))
    assert watch.state()["nothing"]["events"] == 3
    watch.add("predecessor", Rule())  # begun by a newer candidate
    again = Watch.from_state(decode(encode(watch.state())))
    assert (set(again.state()["nothing"]), "rule" in again.state()["predecessor"]) == (
        set(old_gate(probation=True)),
        True,
    )
    found = [again.observe(0.1, {"nothing": 0.5, "predecessor": 0.1}, Visit(n, 0)) for n in range(60)]
    name, verdict = next(one for one in found if one)
    assert (name, verdict.kind, verdict.interval) == ("nothing", "rollback", None)


def test_a_trial_by_rule_2_needs_both_proofs_and_survives_serialisation() -> None:
    trial = Trial(Rule())
    for number in range(400):
        assert trial.observe(0.9, 0.3, {"nothing": 0.1}, {"popularity": 0.6}, Visit(number, 0)) is None
        if number == 200:
            trial = Trial.from_state(decode(encode(trial.state())))
    found = [trial.observe(0.9, 0.6, {"nothing": 0.1}, {"popularity": 0.6}, Visit(n, 1)) for n in range(900)]
    verdict = next(one for one in found if one)
    assert verdict.kind == "promote"
    assert verdict.interval is not None
    assert set(trial.evidence()["worth"]) == {"nothing", "candidate"}
    assert trial.evidence()["alone"]["popularity"] == pytest.approx(0.6), "own scores are not scaled by the share"


def test_a_trial_by_rule_2_ends_as_undecided_or_weak() -> None:
    trial = Trial(Rule())
    for number in range(50):
        trial.observe(0.5, 0.5, {"nothing": 0.5}, {"popularity": 0.5}, Visit(number, 0))
    assert trial.expire()[:2] == ("refuse", "undecided")
    weak = Trial(Rule())
    found = [weak.observe(0.5, 0.0, {"nothing": 0.5}, {"popularity": 0.9}, Visit(n, 0)) for n in range(90)]
    assert next(one for one in found if one)[:2] == ("refuse", "weak")
