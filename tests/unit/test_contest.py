"""What a model is worth to the blend; the contest itself is tested with the rounds and with planted candidates."""

import json

import numpy as np
import pytest

from headrace.state import decode, encode
from learners.browsing import KINDS, Question
from learners.contest import Trial, Watch, reciprocal_rank, worth
from learners.judgement import Listed

QUESTION = Question(["x", "y"], "y", "true")
NONE: dict[str, float] = dict.fromkeys(KINDS, 0.0)


def ranked(*items: str) -> Listed:
    return list(items), np.linspace(1, 0.1, len(items), dtype=np.float32)


def silent() -> Listed:
    return [], np.zeros(0, np.float32)


FAST = {"popularity": ranked("a", "b"), "session_knn": ranked("b", "true", "c")}


def test_a_model_is_worth_what_the_blend_makes_of_it() -> None:
    without = worth(FAST, None, QUESTION)
    assert without == 1 / 2
    assert worth(FAST, ranked("true", "c"), QUESTION) == 1
    assert worth(FAST, silent(), QUESTION) == without
    assert worth(FAST, ranked(*"defghijk"), QUESTION) < without, "a model that says other things does harm"


def test_evidence_is_written_in_the_same_order_after_a_restart() -> None:
    trial = Trial()
    trial.observe(0.5, 0.5, {"live": 0.1, "before": 0.2}, {"popularity": 0.1, "markov": 0.2})
    again = Trial.from_state(decode(encode(trial.state())))
    assert json.dumps(again.evidence()) == json.dumps(trial.evidence())


def test_what_nobody_lists_is_worth_nothing() -> None:
    assert worth(FAST, ranked("d"), QUESTION._replace(item="other")) == 0
    assert worth({name: silent() for name in KINDS}, None, QUESTION) == 0
    assert (reciprocal_rank(ranked("a", "b"), "b"), reciprocal_rank(silent(), "b")) == (1 / 2, 0)


def test_a_trial_without_the_second_proof_ends_as_undecided() -> None:
    trial = Trial()
    assert [trial.observe(0.9, 0.0, {"nothing": 0.1}, NONE) for _ in range(100)] == [None] * 100
    verdict = trial.expire()
    assert (verdict.kind, verdict.reason) == ("refuse", "undecided")


def test_a_rival_that_proves_worse_stands_by_no_longer() -> None:
    watch = Watch()
    watch.add("nothing")
    watch.add("predecessor")
    for _ in range(60):
        assert watch.observe(0.5, {"nothing": 0.1, "predecessor": 0.5}) is None
    assert ("nothing" in watch, "predecessor" in watch) == (False, True)
    found = [watch.observe(0.5, {"nothing": 0.1, "predecessor": 0.9}) for _ in range(60)]
    name, verdict = next(one for one in found if one)
    assert (name, verdict.kind, verdict.mean_difference > 0) == ("predecessor", "rollback", True)


def test_the_rival_is_who_has_done_best_so_far() -> None:
    """One that is between the two is refused whichever of them is the better."""
    for better, other in (("nothing", "champion"), ("champion", "nothing")):
        trial = Trial()
        found = [trial.observe(0.5, 0.9, {other: 0.1, better: 0.9}, NONE) for _ in range(60)]
        verdict = next(one for one in found if one)
        assert (verdict.kind, verdict.reason) == ("refuse", "worse")
        assert trial.evidence()["worth"] == pytest.approx({other: 0.1, better: 0.9, "candidate": 0.5})
