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


def test_counts_that_are_rescaled_again_and_again_give_the_shares_of_counts_that_fade() -> None:
    revisits, hits, tries = Revisits(fading=0.5), 0.1, 1.0
    for n in range(2_000):
        returns = n % 3 == 0
        revisits.learn(Context((7,), 0, 1, 0), 7 if returns else 9)
        hits, tries = hits * 0.5 + returns, tries * 0.5 + 1.0
    assert revisits.state()["weight"] < 1e101
    assert revisits.predict(Context((7,), 0, 2, 0)).scores.tolist() == pytest.approx([hits / tries])
    long_ago = revisits.predict(Context((5, 7), 0, 2, 0))
    assert dict(zip(long_ago.slots.tolist(), long_ago.scores.tolist(), strict=True))[5] == pytest.approx(0.1)
