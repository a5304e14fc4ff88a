"""Demand: public holidays of the country that the shop names."""

import sys

import numpy as np
import pytest

from headrace.errors import Misconfigured
from headrace.state import decode, digest, encode
from learners.demand.days_off import DaysOff, of_country
from learners.demand.family import DemandFamily, DemandSettings
from learners.demand.sales import Sales
from learners.desk.family import Desk
from learners.shop import Shop
from learners.stock.family import StockFamily


def day_of(date: str) -> int:
    return int((np.datetime64(date, "D") - np.datetime64(0, "D")).astype(int))


def closed(country: str, until: str) -> tuple[DaysOff, Sales]:
    """Return what a shop learned from 2023 on that sells 10 a day, nothing on British holidays, 15 before them."""
    days_off, sales = DaysOff(country), Sales(16)
    sales.enter("boots")
    off = set(of_country("GB", [2023, 2024, 2025]))
    for day in range(day_of("2023-01-02"), day_of(until)):
        week = sales.week_of(day)
        if week > sales.week:
            ended = sales.week
            sales.turn(week)
            if ended >= 0:
                days_off.turn(sales, ended)
        pieces = 0.0 if day in off else 15.0 if day + 1 in off else 10.0
        if pieces:
            days_off.buy(day, pieces)
            sales.buy("boots", 1, day, pieces, 1.0)
    return days_off, sales


def test_the_days_are_those_of_the_country_and_of_its_part() -> None:
    assert of_country("GB", [2025])[-2:] == [day_of("2025-12-25"), day_of("2025-12-26")]
    assert day_of("2025-01-06") in of_country("DE-BY", [2025])
    assert day_of("2025-01-06") not in of_country("DE", [2025])


@pytest.mark.parametrize("country", ["XX", "DE-XX", "Germany", "-"])
def test_an_unknown_country_is_told_at_the_start(country: str) -> None:
    with pytest.raises(Misconfigured, match=r"demand\.country: wanted a country of ISO 3166.*found '" + country):
        Shop([Desk, StockFamily, DemandFamily], {DemandFamily.name: DemandSettings(country=country)})


def test_a_country_without_the_library_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "holidays", None)
    Shop([Desk, StockFamily, DemandFamily], {})
    with pytest.raises(Misconfigured, match=r"install headrace\[holidays\]"):
        Shop([Desk, StockFamily, DemandFamily], {DemandFamily.name: DemandSettings(country="GB")})


def test_what_sells_on_holidays_and_before_them_is_learned() -> None:
    days_off, sales = closed("GB", "2025-04-14")
    holiday, before = days_off.factors
    assert holiday < 0.15
    assert 1.3 < before < 1.5
    # Good Friday is the 18th of April.
    week = sales.week_of(day_of("2025-04-18"))
    found = days_off.of_weeks(np.array([[week], [week - 2]]), sales)
    assert found is not None
    assert found[:, 0] == pytest.approx([(5 + holiday + before) / 7, 1.0], rel=0.04)


def test_nothing_is_learned_without_a_country_or_holidays() -> None:
    for country, until in (("", "2023-12-31"), ("GB", "2023-02-20")):
        days_off, sales = closed(country, until)
        assert days_off.of_weeks(np.array([[sales.week]]), sales) is None
        assert days_off.factors.tolist() == [1.0, 1.0]


def test_holidays_are_restored_and_begin_anew_with_another_country() -> None:
    days_off, sales = closed("GB", "2024-06-01")
    state = decode(encode(days_off.state()))
    again = DaysOff.from_state(state, "GB")
    assert digest(again.state()) == digest(days_off.state())
    for one in (again, days_off):
        one.buy(day_of("2024-06-01"), 3.0)
        sales.turn(sales.week_of(day_of("2024-06-10")))
        one.turn(sales, sales.week - 2)
    assert digest(again.state()) == digest(days_off.state())
    other = DaysOff.from_state(state, "FR")
    assert other.country == "FR"
    assert not other.sums.any()
    assert other.bounds()["holidays"][0] == 0
