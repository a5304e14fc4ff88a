"""Running sums over shoppers: hand-computed, replaced, removed, merged, and as a state."""

import pytest

from headrace import state as states
from learners.experiments.moments import Moments


def of(*shoppers: tuple[float, float, float]) -> Moments:
    moments = Moments()
    for y, d, x in shoppers:
        moments.add(y, d, x)
    return moments


def test_the_sums_are_those_of_the_shoppers() -> None:
    assert of((3.0, 2.0, 5.0), (0.0, 1.0, 4.0)) == Moments(2, 1, 3.0, 3.0, 9.0, 9.0, 5.0, 41.0, 6.0, 15.0, 14.0)


def test_a_replaced_shopper_counts_with_the_new_totals_only() -> None:
    moments = of((3.0, 2.0, 5.0), (0.0, 1.0, 4.0))
    moments.replace(0.0, 1.0, 7.0, 3.0, 4.0)
    moments.replace(3.0, 2.0, 0.0, 2.0, 5.0)
    assert moments == of((0.0, 2.0, 5.0), (7.0, 3.0, 4.0))
    assert moments.nonzero == 1


def test_a_removed_shopper_leaves_nothing() -> None:
    moments = of((3.0, 2.0, 5.0), (1.0, 1.0, 4.0))
    moments.remove(3.0, 2.0, 5.0)
    assert moments == of((1.0, 1.0, 4.0))
    moments.remove(1.0, 1.0, 4.0)
    assert moments == Moments()


def test_there_must_be_a_shopper_to_remove() -> None:
    with pytest.raises(ValueError, match="wanted at least 1 in the arm, found 0"):
        Moments().remove(1.0)


def test_merged_sums_are_those_over_both() -> None:
    moments = of((3.0, 2.0, 5.0))
    moments.merge(of((1.0, 1.0, 4.0), (2.0, 1.0, 0.0)))
    assert moments == of((3.0, 2.0, 5.0), (1.0, 1.0, 4.0), (2.0, 1.0, 0.0))


def test_a_state_is_flat_and_comes_back() -> None:
    moments = of((3.0, 2.0, 5.0), (0.0, 1.0, 4.0))
    state = states.decode(states.encode({"sums": moments.state()}))["sums"]
    assert state == [2, 1, 3.0, 3.0, 9.0, 9.0, 5.0, 41.0, 6.0, 15.0, 14.0]
    assert Moments.from_state(state) == moments
    with pytest.raises(ValueError, match="wanted 11 sums, found 10"):
        Moments.from_state(state[1:])
