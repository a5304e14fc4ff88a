"""Demand: what is expected of a new item, by its neighbours."""

import numpy as np
import pytest

from benchmarks.demand_newcomers import named_shop, newcomers
from learners.demand.newcomers import First, Likeness, first_weeks_of, neighbours_min, unlike
from learners.demand.sales import Sales

BEGAN = 2_600


def shop(*neighbours: tuple[Likeness, float]) -> tuple[Sales, list[Likeness]]:
    """Return the sales of neighbours that were first sold three weeks ago, and the pieces of each in that week."""
    sales = Sales(64)
    sales.turn(BEGAN)
    sales.turn(BEGAN + 5)
    for number, (_, pieces) in enumerate(neighbours):
        sales.buy(f"item-{number}", 1, sales.first_day(BEGAN + 5), pieces, None)
    sales.turn(BEGAN + 8)
    return sales, [likeness for likeness, _ in neighbours]


def first(own: Likeness, *neighbours: tuple[Likeness, float]) -> First:
    sales, known = shop(*neighbours)
    found = first_weeks_of(sales, 1, own, lambda slot: known[slot])
    assert found is not None
    return found


MIXED = [(Likeness("", 5.0, "red heart lamp"), 40.0)] * 10 + [(Likeness("", 5.0, "blue owl cup"), 4.0)] * 10


def test_neighbours_with_similar_names_count_most() -> None:
    found = first(Likeness("", 5.0, "small heart"), *MIXED)
    assert found.like == "at a similar price, most of all those with similar names,"
    assert found.mean > 35
    assert found.quantiles[3] == 40, "the median"
    assert first(Likeness("", 5.0, "owl"), *MIXED).mean < 8


@pytest.mark.parametrize("name", ["", "wooden spoon", "12 5"])
def test_a_name_that_no_neighbour_shares_changes_nothing(name: str) -> None:
    found = first(Likeness("", 5.0, name), *MIXED)
    assert (found.neighbours, found.like) == (20, "at a similar price")
    assert found.mean == pytest.approx(22)
    assert found.quantiles.tolist() == [4, 4, 4, 40, 40, 40, 40, 40]


def test_names_count_within_the_category_and_prices_before_the_shop() -> None:
    lamps = [(Likeness("lamps", 5.0, "red heart"), 40.0)] * neighbours_min
    cups = [(Likeness("cups", 90.0, "red owl"), 4.0)] * neighbours_min
    found = first(Likeness("cups", 5.0, "heart"), *lamps, *cups)
    assert (found.like, found.mean) == ("of its category", 4.0)
    assert first(Likeness("hats", 6.0), *lamps, *cups).like == "at a similar price"
    assert first(Likeness("hats", 1_000.0), *lamps, *cups).like == "of the shop"


def test_too_few_neighbours_say_nothing() -> None:
    sales, known = shop(*[(Likeness("", 5.0, "heart"), 4.0)] * (neighbours_min - 1))
    assert first_weeks_of(sales, 1, Likeness("", 5.0, "heart"), lambda slot: known[slot]) is None


def test_names_that_tell_save_errors_and_others_do_hardly_any_harm() -> None:
    assert 0 < unlike < 1
    for telling, most in ((True, 0.8), (False, 1.05)):
        found = newcomers(named_shop(telling, seed=21, length=50))
        for measure in ("error", "quantile_loss"):
            assert found["name"][measure] < most * found["nothing"][measure]
        assert found["name"]["items"] > 100
    assert np.isfinite(found["price"]["error"])
