"""The test of planned shares: hand-computed evidence, false alarms, defects, ramps, state."""

import numpy as np
import pytest

from headrace import state as states
from learners.experiments.sample_ratio import SampleRatio, prior_shoppers


def test_the_evidence_is_the_product_of_predictive_probabilities_over_planned_shares() -> None:
    ratio, prior = SampleRatio([0.2, 0.8]), prior_shoppers
    ratio.add(0)
    assert ratio.evidence == pytest.approx(1.0), "the first shopper is predicted by the plan itself"
    ratio.add(0)
    second = (0.2 * prior + 1) / (prior + 1) / 0.2
    assert ratio.evidence == pytest.approx(second)
    ratio.add(1)
    assert ratio.evidence == pytest.approx(second * (0.8 * prior / (prior + 2) / 0.8))
    assert ratio.evidence_max == pytest.approx(second)
    assert ratio.p_value == pytest.approx(1 / second)


def test_the_order_of_shoppers_does_not_matter() -> None:
    one, other = SampleRatio([0.3, 0.7]), SampleRatio([0.3, 0.7])
    arms = [0] * 40 + [1] * 60
    for arm, mirrored in zip(arms, reversed(arms), strict=True):
        one.add(arm)
        other.add(mirrored)
    assert one.evidence == pytest.approx(other.evidence, rel=1e-12)


def alarm_share(planned: list[float], actual: list[float], shoppers: int, runs: int, alpha: float) -> float:
    """Return the share of runs with an alarm at any time."""
    random = np.random.default_rng(5)
    alarms = 0
    for _ in range(runs):
        ratio = SampleRatio(planned)
        for arm in random.choice(len(planned), shoppers, p=actual).tolist():
            ratio.add(arm)
        alarms += ratio.p_value <= alpha
    return alarms / runs


def test_false_alarms_stay_below_alpha_and_a_defect_is_found() -> None:
    alpha, runs = 0.1, 200
    # Of runs with a probability of 0.1, three standard errors are 0.064.
    assert alarm_share([0.1, 0.3, 0.6], [0.1, 0.3, 0.6], 3_000, runs, alpha) < alpha + 0.064
    assert alarm_share([0.5, 0.5], [0.45, 0.55], 3_000, 20, alpha) > 0.9


def test_a_ramp_is_no_defect() -> None:
    """First a tenth of all shoppers take part, then all: the arms' proportions stay."""
    random, ratio = np.random.default_rng(3), SampleRatio([0.5, 0.25, 0.25])
    for traffic in (0.1, 1.0):
        for place in random.random(8_000).tolist():
            if place < traffic:
                ratio.add(0 if place < traffic / 2 else 1 if place < traffic * 0.75 else 2)
    assert ratio.p_value > 0.05


def test_the_evidence_stays_finite() -> None:
    ratio = SampleRatio([0.5, 0.5])
    for _ in range(20_000):
        ratio.add(0)
    assert ratio.evidence == ratio.evidence_max == 1e300
    assert ratio.p_value == pytest.approx(1e-300)


def test_a_state_goes_on_exactly() -> None:
    whole, random = SampleRatio([0.4, 0.6]), np.random.default_rng(1)
    arms = random.integers(0, 2, 500).tolist()
    for arm in arms[:200]:
        whole.add(arm)
    half = SampleRatio.from_state(states.decode(states.encode(whole.state())))
    for arm in arms[200:]:
        whole.add(arm)
        half.add(arm)
    assert half.state() == whole.state()


@pytest.mark.parametrize("shares", [[1.0], [0.5, 0.6], [0.0, 1.0], [-0.5, 1.5]])
def test_shares_must_be_above_0_and_sum_to_1(shares: list[float]) -> None:
    with pytest.raises(ValueError, match="shares: wanted at least two above 0 that sum to 1, found"):
        SampleRatio(shares)
