"""Popularity: shares, decay by event time, and correct leaders after every step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.next_item.popularity import Popularity
from learners.protocol import Context, top


def at(time_ms: int) -> Context:
    return Context((), 0, 0, time_ms)


def shares(learner: Popularity) -> dict[int, float]:
    slots, scores = learner.predict(at(0))
    return dict(zip(slots.tolist(), scores.tolist(), strict=True))


def test_a_count_halves_every_half_life() -> None:
    learner = Popularity(half_life_ms=1_000)
    learner.learn(at(0), 1)
    learner.learn(at(2_000), 2)
    assert shares(learner) == pytest.approx({2: 0.8, 1: 0.2})


def test_plain_counts_ignore_time() -> None:
    learner = Popularity(half_life_ms=None)
    for time_ms, item in ((0, 1), (10**12, 1), (5, 2), (7, 1)):
        learner.learn(at(time_ms), item)
    assert shares(learner) == pytest.approx({1: 0.75, 2: 0.25})


def test_a_long_silence_does_not_overflow() -> None:
    learner = Popularity(half_life_ms=1_000)
    learner.learn(at(0), 1)
    learner.learn(at(100_000_000_000), 2)
    learner.learn(at(0), 3)  # very late: its weight is 0
    assert shares(learner) == {2: 1.0}


def test_scaling_down_keeps_the_shares() -> None:
    often, once = Popularity(half_life_ms=1_000), Popularity(half_life_ms=1_000)
    for n in range(200):
        often.learn(at(n * 1_000), n % 3)
    for n in range(150, 200):
        once.learn(at(n * 1_000), n % 3)
    assert shares(often) == pytest.approx(shares(once), rel=1e-6)


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=300))
def test_leaders_have_the_highest_counts(steps: list[tuple[int, bool]]) -> None:
    learner = Popularity(half_life_ms=None, leaders_max=4)
    counts = np.zeros(31)
    for n, (item, forget) in enumerate(steps):
        if forget and n % 7 == 0:
            learner.forget([item])
            counts[item] = 0
        else:
            learner.learn(at(0), item)
            counts[item] += 1
    best = np.sort(counts[counts > 0])[::-1][:4]
    _, scores = top(learner.predict(at(0)), 4)
    np.testing.assert_allclose(scores * counts.sum(), best, rtol=1e-5)


def test_a_forgotten_slot_restarts_at_0() -> None:
    learner = Popularity(half_life_ms=None)
    for item in (1, 1, 1, 2):
        learner.learn(at(0), item)
    learner.forget([1, 900])
    learner.learn(at(0), 1)
    assert shares(learner) == pytest.approx({1: 0.5, 2: 0.5})
