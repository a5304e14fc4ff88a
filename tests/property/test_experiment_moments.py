"""However a shopper's totals came about, the running sums are those over the final totals."""

from hypothesis import given
from hypothesis import strategies as st

from learners.experiments.moments import Moments

AMOUNTS = st.floats(-10_000, 10_000).map(lambda amount: round(amount, 2)) | st.just(0.0)
TOTALS = st.tuples(AMOUNTS, st.integers(1, 50).map(float))
STEPS = st.lists(st.tuples(st.integers(0, 9), st.none() | TOTALS), max_size=80)
"""A shopper and the new totals; None removes the shopper."""
COVARIATES = [0.0, 1.5, -3.25, 1e4, 0.1, 7.0, 42.0, 0.3, 99.99, 2.0]


@given(STEPS)
def test_sums_are_those_over_the_final_totals(
    steps: list[tuple[int, tuple[float, float] | None]],
) -> None:
    moments, kept = Moments(), dict[int, tuple[float, float]]()
    largest = [0.0] * 11
    for shopper, totals in steps:
        x, old = COVARIATES[shopper], kept.pop(shopper, None)
        if totals is None:
            if old is not None:
                moments.remove(*old, x)
        elif old is None:
            moments.add(*totals, x)
        else:
            moments.replace(*old, *totals, x)
        if totals is not None:
            kept[shopper] = totals
        largest = [max(most, abs(one)) for most, one in zip(largest, moments.state(), strict=True)]
    wanted = Moments()
    for shopper, totals in kept.items():
        wanted.add(*totals, COVARIATES[shopper])
    assert (moments.n, moments.nonzero) == (wanted.n, wanted.nonzero)
    for found, exact, most in zip(moments.state(), wanted.state(), largest, strict=True):
        assert abs(found - exact) <= 1e-9 * most


@given(st.lists(st.tuples(TOTALS, st.integers(0, 9)), max_size=30), st.integers(0, 30))
def test_merged_parts_are_the_whole(shoppers: list[tuple[tuple[float, float], int]], parted_at: int) -> None:
    whole, first, second = Moments(), Moments(), Moments()
    for place, (totals, covariate) in enumerate(shoppers):
        for moments in (whole, first if place < parted_at else second):
            moments.add(*totals, COVARIATES[covariate])
    scale = [sum(abs(one) for one in parts) for parts in zip(first.state(), second.state(), strict=True)]
    first.merge(second)
    for found, exact, most in zip(first.state(), whole.state(), scale, strict=True):
        assert abs(found - exact) <= 1e-9 * (most + abs(exact))
