"""Equal arms are told apart no more often than alpha, however often one looks; different ones are told apart."""

from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.experiments import (
    Growth,
    Play,
    Sums,
    at_once,
    click,
    clicks,
    conversion,
    estimates,
    growing,
    judge,
    noise,
    order_value,
    revenue,
)  # fmt: skip
from learners.experiments.boundary import critical
from learners.experiments.difference import Rule, difference, harm
from learners.experiments.moments import Moments

alpha = 0.05
runs = 400
three_errors = 3 * (alpha * (1 - alpha) / runs) ** 0.5
"""Three standard errors of a share of runs whose probability is alpha: 0.033."""


def share(ends: NDArray[np.float64]) -> float:
    return float((ends > 0).any(axis=0).mean())


@pytest.mark.parametrize(
    "play",
    [
        pytest.param(at_once(clicks, 0.5, 40, 60), id="clicks, covariate"),
        pytest.param(at_once(partial(conversion, rate=0.05), 0.1, 80, 60), id="conversion, 10 % in the arm"),
        pytest.param(at_once(partial(revenue, sigma=2.0), 0.1, 80, 60), id="heavy tails, 10 % in the arm"),
    ],
)
def test_false_alarms_stay_below_alpha_where_the_test_for_one_look_fails(play: Play) -> None:
    looked = judge(play(np.random.default_rng(3), runs), runs, Rule(alpha=alpha, shoppers_planned=1_200), 0.1)
    for ends in looked.ours.ends:
        assert (ends > 0).mean() < alpha / 2 + three_errors
    assert share(looked.ours.ends) < alpha + three_errors
    assert (looked.guard_rail.ends > 0).mean(axis=1).max() < alpha + three_errors
    assert share(looked.z.ends) > 0.2, "the simulation can show false alarms"


@pytest.mark.parametrize(
    "growth",
    [
        pytest.param(Growth(noise, shoppers=300), id="independent gains"),
        pytest.param(Growth(order_value, refunds=0.3, shoppers=300), id="refunds"),
        pytest.param(Growth(click, rates_shape=1.0, is_ratio=True, shoppers=300), id="click-through"),
    ],
)
def test_false_alarms_stay_below_alpha_where_outcomes_grow(growth: Growth) -> None:
    play = growing(growth, events=1_500, looks=50)
    looked = judge(play(np.random.default_rng(4), runs), runs, Rule(alpha=alpha, shoppers_planned=150), 0.1)
    assert share(looked.ours.ends) < alpha + three_errors
    assert share(looked.z.ends) > 0.2


def test_a_better_arm_is_found_sooner_with_a_covariate() -> None:
    needed = []
    for covariate in (False, True):
        play = at_once(partial(clicks, effect=0.2, covariate=covariate), 0.5, 40, 60)
        looked = judge(play(np.random.default_rng(5), 200), 200, Rule(alpha=alpha, shoppers_planned=1_000), 0.1)
        lower, higher = looked.ours.ends
        assert (lower > 0).sum() == 0
        needed.append(float(np.where(higher > 0, higher, 2_400).mean()))
        assert (higher > 0).mean() > (0.9 if covariate else 0.7)
    assert needed[1] < 0.85 * needed[0]


def test_a_brownian_motion_leaves_the_boundary_with_a_probability_of_at_most_alpha() -> None:
    """Over ten thousand times the first time. It is alpha in the limit of all times, so a third must be used here."""
    random, times = np.random.default_rng(6), np.geomspace(0.1, 1_000, 600)
    steps = random.normal(size=(4_000, len(times))) * np.sqrt(np.diff(times, prepend=0.0))
    outside = np.abs(np.cumsum(steps, axis=1)) > critical(times, 0.2) * np.sqrt(times)
    found = outside.any(axis=1).mean()
    assert 0.2 / 3 < found < 0.2 + 3 * (0.2 * 0.8 / 4_000) ** 0.5


@pytest.mark.parametrize("covariate", [False, True])
def test_the_simulated_estimates_are_those_of_the_module(covariate: bool) -> None:
    random, sums = np.random.default_rng(7), Sums(3)
    arm = random.random((400, 3)) < 0.3
    outcomes = clicks(random, arm, 0.3, covariate)
    d = random.integers(1, 4, arm.shape).astype(np.float64)
    sums.add(arm, outcomes.y, d, outcomes.x)
    at, rule = estimates(sums.values), Rule(shoppers_planned=400, alpha=0.3)
    looked = judge(iter([sums]), 3, rule, 0.1, harm_max=0.05)
    for run in range(3):
        control, tried = (Moments.from_state(sums.values[:, number, run].tolist()) for number in (0, 1))
        found = difference(control, tried, rule)
        assert found.difference == pytest.approx(at.values[1, run] - at.values[0, run])
        assert found.first_variance == pytest.approx(400 * at.variances[:, run].sum() / at.without[run] ** 2)
        assert found.decided == bool((looked.ours.ends[:, run] > 0).any())
        assert harm(control, tried, rule, harm_max=0.05).proved == bool(looked.guard_rail.ends[0, run] > 0)
