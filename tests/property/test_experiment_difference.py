"""Differences between any two arms, when exchanged and in another unit; interleaved lists of any two rankings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.experiments.difference import Rule, difference, harm
from learners.experiments.interleaving import interleave
from learners.experiments.moments import Moments

SHOPPER = st.tuples(st.integers(0, 40).map(float), st.integers(1, 5).map(float), st.integers(0, 30).map(float))
ARM = st.lists(SHOPPER, min_size=4, max_size=40)
RULE = Rule(shoppers_planned=100, shoppers_min=2, nonzero_min=1.0)


def of(shoppers: list[tuple[float, float, float]], unit: float = 1.0) -> Moments:
    moments = Moments()
    for y, d, x in shoppers:
        moments.add(unit * y, d, x)
    return moments


@given(ARM, ARM)
def test_exchanged_arms_have_the_opposite_difference(
    one: list[tuple[float, float, float]], other: list[tuple[float, float, float]]
) -> None:
    found, mirrored = difference(of(one), of(other), RULE), difference(of(other), of(one), RULE)
    assert found.difference is not None
    assert mirrored.difference == pytest.approx(-found.difference, rel=1e-6, abs=1e-9)
    assert (found.low is None) == (mirrored.low is None)
    if found.low is not None and found.high is not None:
        assert found.low <= found.difference <= found.high
        assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low), rel=1e-6, abs=1e-9)
        assert mirrored.p_value == pytest.approx(found.p_value, rel=1e-6)
        assert 0 < found.variance_ratio <= 1


@given(ARM, ARM)
def test_a_unit_scales_what_is_absolute_and_nothing_else(
    one: list[tuple[float, float, float]], other: list[tuple[float, float, float]]
) -> None:
    """Exactly, as the unit is a power of two. An outcome of 2 is added: in one unit only, all may be yes or no."""
    one, other = [(2.0, 1.0, 0.0), *one], [(2.0, 1.0, 0.0), *other]
    found, scaled = difference(of(one), of(other), RULE), difference(of(one, 64.0), of(other, 64.0), RULE)
    for name in ("relative", "relative_low", "relative_high", "p_value", "decided", "variance_ratio"):
        assert getattr(scaled, name) == getattr(found, name)
    for name in ("control", "arm", "difference", "low", "high"):
        before = getattr(found, name)
        assert getattr(scaled, name) == (None if before is None else 64 * before)
    assert harm(of(one, 64.0), of(other, 64.0), RULE) == harm(of(one), of(other), RULE)


ITEMS = st.lists(st.sampled_from([f"item {place}" for place in range(30)]), unique=True)


@given(ITEMS, ITEMS, st.integers(0, 40), st.text())
def test_interleaved_lists_have_each_item_once_and_fair_teams(
    first: list[str], second: list[str], length: int, seed: str
) -> None:
    items, teams = interleave(first, second, length, seed)
    assert len(items) == len(teams) == len(set(items)) == min(length, len({*first, *second}))
    assert set(items) <= {*first, *second}
    picked = teams.rstrip("-")
    assert "-" not in picked
    for place in range(0, len(picked), 2):
        assert picked[place : place + 2] in ("AB", "BA", "A", "B")
    for place, team in enumerate(picked):
        ranking = first if team == "A" else second
        assert items[place] == next(item for item in ranking if item not in items[:place]), "each picks its best"
