"""The window and the rehearsal: bounds, weights by age, and states that continue exactly."""

import numpy as np
import pytest

from headrace import state as states
from learners.rounds.rehearsal import Rehearsal, StoredSequence, Window, sequence_items_max

day_ms = 86_400_000


def filled(seed: int = 1, count: int = 3000, sequences_max: int = 300) -> Rehearsal:
    """Return a rehearsal that learned ten days of evenly spread sequences; each has its number as its only item."""
    rehearsal = Rehearsal(seed, sequences_max, half_life_ms=2 * day_ms)
    for i in range(count):
        rehearsal.learn([str(i)], 10 * day_ms * i // count)
    return rehearsal


def test_the_window_has_the_newest_judgements_and_hands_on_the_oldest() -> None:
    window = Window(3)
    left = [window.learn([f"a{i}", f"b{i}"], i) for i in range(5)]
    assert left == [None, None, None, StoredSequence(("a0", "b0"), 0), StoredSequence(("a1", "b1"), 1)]
    assert window.sequences() == [("a2", "b2"), ("a3", "b3"), ("a4", "b4")]
    assert window.bounds() == {"window_sequences": (3, 3)}
    assert [kept.time_ms for kept in window.drain()] == [2, 3, 4]
    assert len(window) == 0


def test_a_long_sequence_is_truncated_to_its_newest_items() -> None:
    window, rehearsal = Window(), Rehearsal(1)
    items = [str(i) for i in range(500)]
    window.learn(items, 0)
    rehearsal.learn(items, 0)
    assert window.sequences() == rehearsal.draw(1, 0) == [tuple(items[-sequence_items_max:])]


def test_the_sample_is_bounded_and_halves_with_age() -> None:
    ages = np.concatenate([[10 - int(s[0]) / 300 for s in filled(seed).draw(300, 0)] for seed in range(10)])
    assert len(ages) == 10 * 300
    # Two days make a factor of two. The newest are nearly all in the sample, which flattens the curve there.
    older, younger = np.sum((ages > 8) & (ages <= 10)), np.sum((ages > 6) & (ages <= 8))
    assert 1.6 < younger / older < 2.4
    assert filled().bounds() == {"rehearsal_sequences": (300, 300)}


def test_sequences_of_equal_age_have_equal_probability() -> None:
    counts = np.zeros(100)
    for seed in range(300):
        rehearsal = Rehearsal(seed, 20)
        for i in range(100):
            rehearsal.learn([str(i)], 5)
        for (item,) in rehearsal.draw(20, 0):
            counts[int(item)] += 1
    # 60 expected, binomial: standard deviation 6.9.
    assert abs(counts.mean() - 60) < 1e-9
    assert counts.min() > 60 - 4.5 * 6.9
    assert counts.max() < 60 + 4.5 * 6.9
    assert 4 < counts.std() < 10


def test_draws_are_seeded_without_replacement_and_bounded() -> None:
    rehearsal = filled()
    drawn = rehearsal.draw(100, 5)
    assert drawn == rehearsal.draw(100, 5) == filled().draw(100, 5)
    assert drawn != rehearsal.draw(100, 6)
    assert len(set(drawn)) == 100
    assert len(rehearsal.draw(1000, 5)) == 300
    assert Rehearsal(1).draw(10, 5) == []


@pytest.mark.parametrize("count", [0, 1, 299, 2500])
def test_state_continues_exactly(count: int) -> None:
    rehearsal, window = filled(count=count), Window(40)
    for i in range(count):
        window.learn(["x", str(i)], i)
    again = Rehearsal.from_state(states.decode(states.encode(rehearsal.state())))
    window_again = Window.from_state(states.decode(states.encode(window.state())))
    assert states.digest(again.state()) == states.digest(rehearsal.state())
    for i in range(50):
        for one in (rehearsal, again):
            one.learn(["y", str(i)], 11 * day_ms)
        assert window.learn(["z"], i) == window_again.learn(["z"], i)
    assert rehearsal.draw(200, 3) == again.draw(200, 3)
    assert states.digest(again.state()) == states.digest(rehearsal.state())
    assert states.digest(window_again.state()) == states.digest(window.state())
