"""Transitions: shares of companions, near ones and backwards; recency among equals, bounds."""

import pytest

from learners.learner import Context, top
from learners.transitions import Transitions


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


def test_looks_back_over_some_items_and_counts_nearer_ones_more() -> None:
    learner = Transitions(reach=3, step_back=0.5, backwards=0, doubt=0)
    learner.learn(after(9, 1, 2, 3), 4)  # 3 -> 4 by 1, 2 -> 4 by 1/2, 1 -> 4 by 1/4; 9 is too far
    learner.learn(after(2), 5)
    assert not len(learner.predict(after(9)).slots)
    slots, scores = top(learner.predict(after(2)), 9)
    assert slots.tolist() == [5, 4]
    assert scores.tolist() == pytest.approx([2 / 3, 1 / 3], rel=1e-2)
    # After 2, 1: of 1 all companions are 4; of 2, one step back and so half as much, 5 and 4 as above.
    slots, scores = top(learner.predict(after(2, 1)), 9)
    assert slots.tolist() == [4, 5]
    assert scores.tolist() == pytest.approx([(1 + 1 / 6) / 1.5, (1 / 3) / 1.5], rel=1e-2)


def test_what_came_before_is_a_companion_too() -> None:
    learner = Transitions(reach=1, backwards=0.5)
    learner.learn(after(1), 2)
    learner.learn(after(2), 3)
    slots, scores = top(learner.predict(after(2)), 9)
    assert slots.tolist() == [3, 1]
    assert scores.tolist() == pytest.approx([2 / 3, 1 / 3], rel=1e-2)


def test_an_item_of_which_little_was_counted_has_less_of_a_say() -> None:
    learner = Transitions(step_back=0.5, backwards=0, doubt=1)
    for _ in range(3):
        learner.learn(after(1), 5)
    learner.learn(after(2), 6)
    # One step back 1 has half the weight, of which 3 in 3 + 1 count; the last item 2 has 1 in 1 + 1 of its own.
    slots, scores = top(learner.predict(after(1, 2)), 9)
    assert dict(zip(slots.tolist(), scores.tolist(), strict=True)) == pytest.approx({6: 4 / 7, 5: 3 / 7}, rel=1e-2)


def test_doubt_grows_as_counts_fade() -> None:
    for half_life_ms, best in ((None, 5), (1_000, 6)):
        learner = Transitions(half_life_ms=half_life_ms, doubt=1)
        learner.learn(after(1), 5)
        learner.learn(after(2, time_ms=20_000), 6)
        # 1 is the item looked at, but what was counted of it may have faded to a millionth.
        assert top(learner.predict(after(2, 1, time_ms=20_000)), 1).slots.tolist() == [best]


def test_doubt_is_as_large_as_what_is_counted_now() -> None:
    learner = Transitions(half_life_ms=1_000, doubt=1)
    learner.learn(after(9), 8)  # long before
    learner.learn(after(1, time_ms=20_000), 5)
    for _ in range(9):
        learner.learn(after(2, time_ms=20_000), 6)
    # Half of 1's say is left, and nine tenths of what 2 has one step back.
    assert top(learner.predict(after(2, 1, time_ms=20_000)), 1).slots.tolist() == [6]


def test_what_the_shopper_knows_from_earlier_sessions_weighs_more() -> None:
    learner = Transitions(familiar=2)
    for item in (5, 5, 5, 6, 6):
        learner.learn(after(1), item)
    assert top(learner.predict(after(9, 1, start=1)), 9).slots.tolist() == [5, 6]
    slots, scores = top(learner.predict(after(6, 1, start=1)), 9)
    assert slots.tolist() == [6, 5]
    assert scores.tolist() == pytest.approx([4 / 7, 3 / 7], rel=1e-2)
    # An item of this session is no news.
    assert top(learner.predict(after(9, 6, 1, start=1)), 1).slots.tolist() == [5]


def test_nothing_follows_across_sessions() -> None:
    learner = Transitions()
    learner.learn(after(1, start=1), 2)
    learner.learn(after(1), 3)
    assert learner.predict(after(1)).slots.tolist() == [3]
    assert not len(learner.predict(after(1, start=1)).slots)


def test_of_equal_followers_the_newest_is_best_and_never_above_a_more_frequent_one() -> None:
    learner = Transitions()
    for item in (5, 5, 2, 3, 2, 4, 3):
        learner.learn(after(1), item)
    # 2, 3 and 5 twice, 4 once; last seen 3, then 2, then 5.
    assert top(learner.predict(after(1)), 9).slots.tolist() == [3, 2, 5, 4]


def test_a_half_life_lets_the_newer_follower_win() -> None:
    learner = Transitions(half_life_ms=1_000)
    for item in (2, 2, 2):
        learner.learn(after(1, time_ms=0), item)
    learner.learn(after(1, time_ms=2_000), 3)
    assert top(learner.predict(after(1)), 1).slots.tolist() == [3]


def test_counts_fade_alike_however_far_time_goes_on() -> None:
    """Past a number of half-lives all counts are scaled anew."""
    learner = Transitions(half_life_ms=1_000, doubt=1)
    for time_ms, item in ((0, 2), (0, 2), (59_000, 3), (61_000, 4)):
        learner.learn(after(1, time_ms=time_ms), item)
    again = Transitions.from_state(learner.state())
    for one in (learner, again):
        one.learn(after(1, time_ms=62_000), 5)
        slots, shares = one.predict(after(1, time_ms=62_000))
        found = dict(zip(slots.tolist(), shares.tolist(), strict=True))
        assert found == pytest.approx({2: 0, 3: 0.125 / 1.625, 4: 0.5 / 1.625, 5: 1 / 1.625}, rel=2e-3, abs=1e-12)


def test_rare_old_followers_are_dropped_first() -> None:
    learner = Transitions(companions_max=3)
    for item in (7, 7, 8, 9, 10, 11, 12):
        learner.learn(after(1), item)
    assert sorted(learner.predict(after(1)).slots.tolist()) == [7, 11, 12]


def test_a_frequent_follower_is_kept_among_many_new_ones() -> None:
    learner = Transitions(companions_max=3)
    for item in (7, 7, 8, 8, 9, 9, *range(20, 60)):
        learner.learn(after(1), item)
    assert top(learner.predict(after(1)), 3).slots.tolist() == [9, 8, 7]


def test_the_item_learned_from_longest_ago_makes_room() -> None:
    learner = Transitions(items_max=2, backwards=0)
    for last in (1, 2, 1, 3):
        learner.learn(after(last), 5)
    assert [len(learner.predict(after(last)).slots) for last in (1, 2, 3)] == [1, 0, 1]


def test_forgets_an_item_on_both_sides() -> None:
    learner = markov()
    for last, item in ((1, 2), (2, 1), (3, 2), (3, 1)):
        learner.learn(after(last), item)
    learner.forget([2])
    assert learner.predict(after(3)).slots.tolist() == [1]
    assert not len(learner.predict(after(1)).slots)
    assert not len(learner.predict(after(2)).slots)
