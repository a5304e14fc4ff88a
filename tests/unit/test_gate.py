"""The gate: verdicts of rule 1 on known streams, state."""

import math
from functools import partial

import numpy as np
import pytest

from headrace import state as states
from learners.deep.model import DeepModel, DeepSettings
from learners.rounds.gate import Gate, Verdict


def ranks(seed: int, count: int, shift: float) -> tuple[list[float], list[float]]:
    """Return reciprocal ranks of two noisy models; the second is better by about `shift` on average."""
    random = np.random.default_rng(seed)
    base = 1 / random.geometric(0.15, count)
    other = np.where(random.random(count) < 0.3, 1 / random.geometric(0.15, count), base)
    other = np.clip(other + np.where(random.random(count) < abs(shift) * 4, math.copysign(0.25, shift), 0), 0, 1)
    return base.tolist(), other.tolist()


def run(gate: Gate, champion: list[float], challenger: list[float]) -> Verdict | None:
    for pair in zip(champion, challenger, strict=True):
        if (verdict := gate.observe(*pair)) is not None:
            return verdict
    return None


@pytest.mark.parametrize("seed", range(5))
def test_a_better_model_is_promoted_within_a_few_thousand_predictions(seed: int) -> None:
    verdict = run(Gate(), *ranks(seed, 5000, 0.02))
    assert verdict is not None
    assert (verdict.kind, verdict.reason) == ("promote", "better")
    assert verdict.evidence >= 20
    assert verdict.mean_difference > 0


@pytest.mark.parametrize("seed", range(5))
def test_a_worse_model_is_refused_within_a_few_thousand_predictions(seed: int) -> None:
    verdict = run(Gate(), *ranks(seed, 5000, -0.02))
    assert verdict is not None
    assert (verdict.kind, verdict.reason) == ("refuse", "worse")


def test_shuffled_item_vectors_are_refused_quickly() -> None:
    # A model is compared with itself after the rows of its table were rotated by one half.
    settings = DeepSettings(width=16, layers=1, heads=1, context=4)
    champion, shuffled = DeepModel(settings, 1), DeepModel(settings, 1)
    items = [f"i{i}" for i in range(100)]
    champion.grow(items)
    shuffled.grow(items)
    shuffled.table = shuffled.table.roll(50, 0)
    shuffled.invalidate()
    assert shuffled.check() == []
    truth = champion.score_all([[item] for item in items]).argsort(axis=1)[:, -3]
    gate, verdict = Gate(), None
    for i, item in enumerate(items):
        found = []
        for model in (champion, shuffled):
            scores = model.score_all([[item]])[0]
            found.append(1 / float((scores >= scores[truth[i]]).sum()))
        verdict = gate.observe(*found)
    assert verdict is not None
    assert (verdict.kind, verdict.reason) == ("refuse", "worse")
    assert verdict.predictions < 100


def test_without_a_verdict_in_time_the_challenger_is_refused() -> None:
    gate = Gate(predictions_max=50)
    verdicts = [gate.observe(0.5, 0.5) for _ in range(60)]
    assert verdicts[:49] == [None] * 49
    assert verdicts[49] == Verdict("refuse", "undecided", 1.0, 50, 0.0)
    assert set(verdicts[50:]) == {verdicts[49]}


def test_on_probation_only_a_better_predecessor_is_restored() -> None:
    better, worse, same = (
        run(Gate(probation=True, predictions_max=5000), *ranks(1, 5000, s)) for s in (0.03, -0.03, 1e-9)
    )
    assert better is not None
    assert (better.kind, better.reason) == ("rollback", "better")
    assert worse is not None
    assert (worse.kind, worse.reason) == ("keep", "worse")
    assert same is not None
    assert same.kind == "keep"


def test_a_score_outside_its_range_fails_an_assertion() -> None:
    for pair in [(0.5, math.nan), (1.5, 0.5), (0.5, -0.1)]:
        with pytest.raises(AssertionError, match="outside"):
            Gate().observe(*pair)


def test_each_verdict_has_its_own_threshold() -> None:
    gate = partial(Gate, alpha_better=1e-4, alpha_worse=1e-2)
    better, worse = (run(gate(), [0.5] * 2000, [score] * 2000) for score in (0.75, 0.25))
    assert better is not None
    assert worse is not None
    assert (better.reason, worse.reason) == ("better", "worse")
    assert 1e4 <= better.evidence < 2e4
    assert 1e2 <= worse.evidence < 2e2


def test_a_verdict_does_not_overflow() -> None:
    gate = Gate(alpha_better=1e-200)
    verdict = run(gate, [0.0] * 2000, [1.0] * 2000)
    assert verdict is not None
    assert math.isfinite(verdict.evidence)


@pytest.mark.parametrize("at", [0, 7, 400])
def test_a_restored_gate_continues_identically(at: int) -> None:
    champion, challenger = ranks(3, 3000, 0.02)
    gate = Gate()
    run(gate, champion[:at], challenger[:at])
    again = Gate.from_state(states.decode(states.encode(gate.state())))
    assert run(gate, champion[at:], challenger[at:]) == run(again, champion[at:], challenger[at:]) is not None
    assert states.digest(gate.state()) == states.digest(again.state())
    assert states.digest(Gate.from_state(gate.state()).state()) == states.digest(gate.state())
