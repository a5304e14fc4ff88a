"""Demand: the yearly season of categories and of the shop."""

import numpy as np
import pytest

from headrace.state import decode, digest, encode
from learners.demand.seasons import Seasons, categories_max, factor_max, judged, recent, year

FIRST = 2_600


def grown(weeks: int, rise: float, seed: int = 1) -> Seasons:
    """Return the seasons after some weeks of two categories; the first sells more in four weeks of each year."""
    seasons, draw = Seasons(), np.random.default_rng(seed)
    columns = np.array([seasons.column("garden"), seasons.column("toys")])
    for number in range(weeks):
        factor = rise if 20 <= number % year < 24 else 1.0
        seasons.turn(
            FIRST + number, FIRST + number + 1, columns, np.array(draw.poisson([400.0 * factor, 300.0]), np.float64)
        )
    return seasons


def test_what_sold_more_a_year_ago_is_expected_to_do_so_again() -> None:
    seasons = grown(2 * year + 18, 3.0)
    assert seasons.strength > 0
    weeks = seasons.week + np.arange(8)[:, None]
    factors = seasons.factors(weeks, np.array([1, 2, 0]))
    assert factors is not None
    garden, toys, _ = factors.T.tolist()
    assert max(garden) == pytest.approx(3.0, rel=0.25)
    assert garden.index(max(garden)) in (2, 3, 4)
    assert max(toys) < 1.35, "300 pieces a week: a quarter of its season is that of the shop"
    assert factors.max() <= factor_max


def test_before_a_year_is_known_and_without_a_season_nothing_is_multiplied() -> None:
    for seasons in (grown(year + 4, 3.0), grown(2 * year + 18, 1.0)):
        assert seasons.strength == 0.0
        assert seasons.factors(seasons.week + np.arange(4)[:, None], np.array([1])) is None


def test_a_category_beyond_the_most_follows_the_shop() -> None:
    seasons = Seasons()
    columns = [seasons.column(f"category-{n}") for n in range(categories_max + 1)]
    assert columns[-1] == seasons.column("") == 0
    assert seasons.bounds() == {"categories": (categories_max, categories_max)}


def test_weeks_in_which_the_shop_sold_nothing_count() -> None:
    seasons = Seasons()
    column = np.array([seasons.column("toys")])
    seasons.turn(FIRST, FIRST + 1, column, np.array([100.0]))
    seasons.turn(FIRST + 1, FIRST + 5, column, np.array([100.0]))
    assert (seasons.began, seasons.week) == (FIRST + 1, FIRST + 5)
    assert seasons.strength == 0.0


def test_a_restored_season_continues() -> None:
    seasons = grown(year + recent + judged + 10, 3.0)
    again = Seasons.from_state(decode(encode(seasons.state())))
    assert digest(again.state()) == digest(seasons.state())
    for one in (seasons, again):
        one.turn(one.week, one.week + 1, np.array([1, 2]), np.array([500.0, 300.0]))
    assert digest(again.state()) == digest(seasons.state())
