"""Demand: promotions move no level, and are expected when they are announced."""

import numpy as np
import pytest

from benchmarks.demand import promoted_shop, simulated_errors
from headrace.items import FOREVER_MS, ItemRecord
from headrace.state import decode, digest, encode
from headrace.surface import Now
from headrace.topics import DAY_MS
from learners.demand.family import DemandQuery
from learners.demand.occasions import Occasions
from learners.demand.promotions import Promotions
from learners.demand.sales import Sales

WEEK = 2_600


def begun(*items: str) -> Sales:
    sales = Sales(16)
    sales.turn(WEEK)
    for item in items:
        sales.enter(item)
    return sales


def sale(item: str, from_day: float, until_day: float | None) -> ItemRecord:
    until_ms = FOREVER_MS if until_day is None else round(until_day * DAY_MS)
    return ItemRecord(item, prices={"": 10.0}, sale_prices={"": 8.0}, sale_from_ms=round(from_day * DAY_MS),
                      sale_until_ms=until_ms)  # fmt: skip


def shares(promotions: Promotions, sales: Sales, weeks: int) -> list[float]:
    """Return the shares of days on sale of slot 0, from `WEEK` on."""
    found = promotions.factors(np.array([0]), WEEK + np.arange(weeks)[:, None], sales)
    if found is None:
        return [0.0] * weeks
    uplift = promotions.uplift(np.array([0]), sales)[0]
    return [round(float(one), 6) for one in (found[:, 0] - 1.0) / (uplift - 1.0) * 7]


def test_a_promotion_that_doubles_sales_is_expected_and_moves_no_level() -> None:
    shop = promoted_shop(weeks=34, items=24)
    without, _ = simulated_errors(shop, told=False, skipped=26)
    errors, family = simulated_errors(shop, skipped=26)
    assert errors.all[1] < 0.4 * without.all[1]
    assert errors.moved[1] < 0.1
    slots = np.arange(len(family.sales))
    planted = shop.rates.max(axis=0) / shop.rates.min(axis=0)
    learned = family.occasions.promotions.uplift(slots, family.sales)
    numbers = [int(family.sales.name(slot).removeprefix("item-")) for slot in slots.tolist()]
    assert np.mean(learned) == pytest.approx(np.mean(planted), rel=0.1)
    assert np.corrcoef(learned, planted[numbers])[0, 1] > 0.8
    on_sale = next(
        slot for slot in slots.tolist()
        if family.occasions.promotions.announced(family.sales.name(slot), family.sales.week, family.sales).all()
    )  # fmt: skip
    said = family.answer(DemandQuery(family.sales.name(on_sale)), Now(0)).assumes
    assert any("of the days that are forecast it is on sale" in one for one in said)


def test_a_stated_sale_counts_the_days_at_whose_noon_it_holds() -> None:
    sales, promotions = begun("boots"), Promotions(16)
    first = sales.first_day(WEEK)
    promotions.state_sale("boots", sale("boots", first + 2.4, first + 9.4), sales, first * DAY_MS)
    assert shares(promotions, sales, 3) == [5, 2, 0]
    promotions.state_sale("boots", ItemRecord("boots", prices={"": 10.0}), sales, round((first + 4) * DAY_MS))
    assert shares(promotions, sales, 3) == [2, 0, 0], "what was on sale before it was called off stays"


def test_a_line_below_the_regular_price_is_on_sale() -> None:
    sales = begun("boots")
    occasions = Occasions(sales)
    first = sales.first_day(WEEK)
    for day, price in ((1, 9.9), (2, 7.0), (4, 7.0)):
        occasions.buy("boots", first + day, 2.0, price, 10.0)
    assert shares(occasions.promotions, sales, 1) == [3], "from the first to the last of them"
    occasions.buy("boots", first - 3, 2.0, 7.0, 10.0)
    assert shares(occasions.promotions, sales, 1) == [3], "a late line is of no day of this week"


def test_without_promotions_no_factor_is_known() -> None:
    sales = begun("boots")
    occasions = Occasions(sales)
    occasions.buy("boots", sales.first_day(WEEK), 2.0, 10.0, 10.0)
    occasions.buy("boots", sales.first_day(WEEK), 2.0, None, None)
    assert occasions.each(np.array([0]), np.array([[WEEK]])) is None
    assert occasions.over(np.array([0]), np.array([WEEK]), 4) is None
    assert occasions.days(0) is None
    assert occasions.assumes(0) == []


def test_a_lasting_sale_is_no_surprise() -> None:
    """What is always on sale sells as it always did: its factor is the same in the past and ahead."""
    sales = begun("boots")
    occasions = Occasions(sales)
    occasions.hear(sale("boots", 0, None), sales.first_day(WEEK) * DAY_MS)
    for week in range(WEEK, WEEK + 6):
        for day in range(7):
            occasions.buy("boots", sales.first_day(week) + day, 3.0, 8.0, 10.0)
            sales.buy("boots", 1, sales.first_day(week) + day, 3.0, 8.0)
        sales.turn(week + 1)
        occasions.turn(week)
    found = occasions.each(np.array([0]), WEEK + np.arange(8)[:, None])
    assert found is not None
    assert found[:, 0] == pytest.approx(np.full(8, found[0, 0]))


def test_promotions_follow_their_items_and_are_restored() -> None:
    sales = begun("boots", "socks")
    occasions = Occasions(sales)
    first = sales.first_day(WEEK)
    occasions.hear(sale("socks", first, first + 7), first * DAY_MS)
    for item in ("boots", "socks"):
        sales.buy(item, 1, first, 3.0, 8.0)
    sales.turn(WEEK + 1)
    occasions.turn(WEEK)
    again = Occasions.from_state(decode(encode(occasions.state())), sales)
    assert digest(again.state()) == digest(occasions.state())
    before = again.each(np.array([1]), np.array([[WEEK]]))
    assert before is not None
    assert before[0, 0] > 1.5
    again.renumber(np.array([-1, 0], np.int32))
    assert again.promotions.state()["shares"][WEEK % 60].tolist() == [1.0]
