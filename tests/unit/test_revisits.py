"""Revisits: probabilities by steps back."""

import pytest

from learners.next_item.revisits import Revisits
from learners.protocol import Context


def test_learns_how_far_shoppers_return() -> None:
    learner = Revisits(fading=1.0)
    for n in range(1_000):
        learner.learn(Context([1, 2, 3], 0, n, 0), 2 if n % 4 == 0 else 9)
    slots, probabilities = learner.predict(Context([7, 8, 9], 0, 0, 0))
    assert dict(zip(slots.tolist(), probabilities.tolist(), strict=True)) == pytest.approx(
        {9: 0, 8: 0.25, 7: 0}, abs=1e-3
    )


def test_uses_only_this_session_and_an_items_newest_position() -> None:
    learner = Revisits()
    assert learner.predict(Context([1, 2, 3, 2], 1, 0, 0)).slots.tolist() == [2, 3]
    assert not len(learner.predict(Context([1, 2], 2, 0, 0)).slots)
