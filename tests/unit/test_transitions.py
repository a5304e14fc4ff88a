"""Transitions: shares of companions by distance and direction, ties, bounds."""

import pytest

from learners.next_item.transitions import Transitions
from learners.protocol import Context, top


def markov() -> Transitions:
    """Return a first-order chain."""
    return Transitions(reach=1, backwards=0)


def after(*items: int, start: int = 0, time_ms: int = 0) -> Context:
    return Context(items, start, 0, time_ms)


def test_counts_what_follows_the_last_item() -> None:
    learner = markov()
    for context, item in ((after(9, 1), 2), (after(1), 2), (after(1), 3), (after(2, 1), 2)):
        learner.learn(context, item)
    slots, scores = top(learner.predict(after(5, 1)), 9)
    assert slots.tolist() == [2, 3]
    assert scores.tolist() == pytest.approx([0.75, 0.25], rel=1e-2)


def test_uses_several_items_and_weights_nearer_ones_more() -> None:
    learner = Transitions(reach=3, step_back=0.5, backwards=0, smoothing=0)
    learner.learn(after(9, 1, 2, 3), 4)  # weights: 3 -> 4 has 1, 2 -> 4 has 1/2, 1 -> 4 has 1/4; 9 is too far
    learner.learn(after(2), 5)
    assert not len(learner.predict(after(9)).slots)
    slots, scores = top(learner.predict(after(2)), 9)
    assert slots.tolist() == [5, 4]
    assert scores.tolist() == pytest.approx([2 / 3, 1 / 3], rel=1e-2)
    # After 2, 1: the only companion of 1 is 4; those of 2, with half the weight, are 5 and 4 as above.
    slots, scores = top(learner.predict(after(2, 1)), 9)
    assert slots.tolist() == [4, 5]
    assert scores.tolist() == pytest.approx([(1 + 1 / 6) / 1.5, (1 / 3) / 1.5], rel=1e-2)


def test_preceding_items_are_companions_too() -> None:
    learner = Transitions(reach=1, backwards=0.5)
    learner.learn(after(1), 2)
    learner.learn(after(2), 3)
    slots, scores = top(learner.predict(after(2)), 9)
    assert slots.tolist() == [3, 1]
    assert scores.tolist() == pytest.approx([2 / 3, 1 / 3], rel=1e-2)


def test_smoothing_reduces_the_weight_of_items_with_low_counts() -> None:
    learner = Transitions(step_back=0.5, backwards=0, smoothing=1)
    for _ in range(3):
        learner.learn(after(1), 5)
    learner.learn(after(2), 6)
    # Item 1, one step back, has half the weight, times 3 / (3 + 1); the last item 2 has weight 1, times 1 / (1 + 1).
    slots, scores = top(learner.predict(after(1, 2)), 9)
    assert dict(zip(slots.tolist(), scores.tolist(), strict=True)) == pytest.approx({6: 4 / 7, 5: 3 / 7}, rel=1e-2)


def test_smoothing_has_more_effect_as_counts_decay() -> None:
    for half_life_ms, best in ((None, 5), (1_000, 6)):
        learner = Transitions(half_life_ms=half_life_ms, smoothing=1)
        learner.learn(after(1), 5)
        learner.learn(after(2, time_ms=20_000), 6)
        # 1 is the last item, but its count may have decayed to a millionth.
        assert top(learner.predict(after(2, 1, time_ms=20_000)), 1).slots.tolist() == [best]


def test_smoothing_is_scaled_like_current_counts() -> None:
    learner = Transitions(half_life_ms=1_000, smoothing=1)
    learner.learn(after(9), 8)  # long before
    learner.learn(after(1, time_ms=20_000), 5)
    for _ in range(9):
        learner.learn(after(2, time_ms=20_000), 6)
    # Item 1 keeps half its weight, and 2, one step back, nine tenths.
    assert top(learner.predict(after(2, 1, time_ms=20_000)), 1).slots.tolist() == [6]


def test_familiar_companions_have_more_weight() -> None:
    learner = Transitions(familiar=2)
    for item in (5, 5, 5, 6, 6):
        learner.learn(after(1), item)
    assert top(learner.predict(after(9, 1, start=1)), 9).slots.tolist() == [5, 6]
    slots, scores = top(learner.predict(after(6, 1, start=1)), 9)
    assert slots.tolist() == [6, 5]
    assert scores.tolist() == pytest.approx([4 / 7, 3 / 7], rel=1e-2)
    # An item of this session is not familiar.
    assert top(learner.predict(after(9, 6, 1, start=1)), 1).slots.tolist() == [5]


def test_nothing_is_counted_across_sessions() -> None:
    learner = Transitions()
    learner.learn(after(1, start=1), 2)
    learner.learn(after(1), 3)
    assert learner.predict(after(1)).slots.tolist() == [3]
    assert not len(learner.predict(after(1, start=1)).slots)


def test_ties_go_to_the_newest_companion_but_frequency_comes_first() -> None:
    learner = Transitions()
    for item in (5, 5, 2, 3, 2, 4, 3):
        learner.learn(after(1), item)
    # 2, 3 and 5 twice, 4 once; last seen 3, then 2, then 5.
    assert top(learner.predict(after(1)), 9).slots.tolist() == [3, 2, 5, 4]


def test_a_half_life_favours_newer_companions() -> None:
    learner = Transitions(half_life_ms=1_000)
    for item in (2, 2, 2):
        learner.learn(after(1, time_ms=0), item)
    learner.learn(after(1, time_ms=2_000), 3)
    assert top(learner.predict(after(1)), 1).slots.tolist() == [3]


def test_counts_decay_correctly_after_rescaling() -> None:
    """After a number of half-lives all counts are rescaled."""
    learner = Transitions(half_life_ms=1_000, smoothing=1)
    for time_ms, item in ((0, 2), (0, 2), (59_000, 3), (61_000, 4)):
        learner.learn(after(1, time_ms=time_ms), item)
    again = Transitions.from_state(learner.state())
    for one in (learner, again):
        one.learn(after(1, time_ms=62_000), 5)
        slots, shares = one.predict(after(1, time_ms=62_000))
        found = dict(zip(slots.tolist(), shares.tolist(), strict=True))
        assert found == pytest.approx({2: 0, 3: 0.125 / 1.625, 4: 0.5 / 1.625, 5: 1 / 1.625}, rel=2e-3, abs=1e-12)


def test_rare_old_companions_are_dropped_first() -> None:
    learner = Transitions(companions_max=3)
    for item in (7, 7, 8, 9, 10, 11, 12):
        learner.learn(after(1), item)
    assert sorted(learner.predict(after(1)).slots.tolist()) == [7, 11, 12]


def test_a_frequent_companion_is_kept_among_many_new_ones() -> None:
    learner = Transitions(companions_max=3)
    for item in (7, 7, 8, 8, 9, 9, *range(20, 60)):
        learner.learn(after(1), item)
    assert top(learner.predict(after(1)), 3).slots.tolist() == [9, 8, 7]


def test_the_least_recently_updated_item_is_dropped() -> None:
    learner = Transitions(items_max=2, backwards=0)
    for last in (1, 2, 1, 3):
        learner.learn(after(last), 5)
    assert [len(learner.predict(after(last)).slots) for last in (1, 2, 3)] == [1, 0, 1]


def test_forget_drops_an_item_and_its_use_as_companion() -> None:
    learner = markov()
    for last, item in ((1, 2), (2, 1), (3, 2), (3, 1)):
        learner.learn(after(last), item)
    learner.forget([2])
    assert learner.predict(after(3)).slots.tolist() == [1]
    assert not len(learner.predict(after(1)).slots)
    assert not len(learner.predict(after(2)).slots)
