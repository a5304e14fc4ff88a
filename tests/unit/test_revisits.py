"""Revisits: chances by steps back."""

import pytest

from learners.learner import Context
from learners.revisits import Revisits


def test_learns_how_far_shoppers_go_back() -> None:
    learner = Revisits(fading=1.0)
    for n in range(1_000):
        learner.learn(Context([1, 2, 3], 0, n, 0), 2 if n % 4 == 0 else 9)
    slots, chances = learner.predict(Context([7, 8, 9], 0, 0, 0))
    assert dict(zip(slots.tolist(), chances.tolist(), strict=True)) == pytest.approx({9: 0, 8: 0.25, 7: 0}, abs=1e-3)


def test_looks_at_this_session_alone_and_at_an_items_newest_place() -> None:
    learner = Revisits()
    assert learner.predict(Context([1, 2, 3, 2], 1, 0, 0)).slots.tolist() == [2, 3]
    assert not len(learner.predict(Context([1, 2], 2, 0, 0)).slots)
