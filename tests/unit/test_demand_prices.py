"""Demand: what sells at another regular price."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from benchmarks.demand import priced_shop, promoted_shop, simulated_errors
from headrace.log.protocol import Record
from headrace.state import decode, digest, encode
from headrace.surface import Now
from headrace.topics import ITEMS
from learners.checks.family import FamilyFold
from learners.demand.family import DemandFamily, DemandQuery
from learners.demand.newcomers import Likeness
from learners.demand.occasions import Occasions
from learners.demand.prices import Prices, doubted_max, ratio_max, sample_max
from learners.demand.sales import Sales
from learners.desk.family import Desk
from learners.stock.family import StockFamily

WEEK = 2_600
SLOT = np.array([0])


class Shelf:
    """One item, "boots", whose weeks are sold one after the other; what is stated may be changed between them."""

    def __init__(self, elasticity: float = 1.0) -> None:
        self.sales, self.stated, self.elasticity = Sales(16), Likeness(), elasticity
        self.sales.turn(WEEK)
        self.occasions = Occasions(self.sales, lambda item: self.stated)

    @property
    def prices(self) -> Prices:
        return self.occasions.prices

    def week(self, *lines: float | None, pieces: float = 1.0) -> None:
        """Sell lines at prices, and begin the next week."""
        sales, first = self.sales, self.sales.first_day(self.sales.week)
        for n, price in enumerate(lines):
            self.occasions.buy("boots", first + n % 7, pieces, price, self.stated.price)
            sales.buy("boots", 1, first + n % 7, pieces, price)
        sales.turn(sales.week + 1)
        self.occasions.turn(sales.week - 1)
        self.prices.elasticity[:] = self.elasticity

    def state(self, price: float | None) -> None:
        self.stated = Likeness(price=price)
        self.prices.state_price(0, price)

    def factors(self, weeks: int) -> list[float]:
        """Return the factors of the newest weeks, the running one last."""
        asked = self.sales.week - np.arange(weeks - 1, -1, -1)[:, None]
        found = self.prices.factors(SLOT, asked, np.zeros(1, np.int64), self.sales)
        return [1.0] * weeks if found is None else found[:, 0].tolist()


def learned(elasticities: Sequence[float], **sizes: int) -> tuple[dict[str, float], Prices]:
    """Return the elasticity of each category, and of the shop under "", in a simulated shop."""
    _, family = simulated_errors(priced_shop(elasticities, **sizes), skipped=1_000)
    prices, names = family.occasions.prices, family.occasions.seasons.categories()
    return dict(zip(["", *names], prices.elasticity[1].tolist(), strict=False)), prices


def test_a_price_that_changes_what_sells_is_expected_and_moves_no_level() -> None:
    shop = priced_shop((1.5,), weeks=36, items=32)
    without, _ = simulated_errors(shop, prices=False, skipped=26)
    errors, family = simulated_errors(shop, skipped=26)
    assert errors.all[1] < 0.6 * without.all[1]
    assert errors.moved[1] < 0.4 * without.moved[1]
    assert family.occasions.prices.elasticity[1, 0] == pytest.approx(1.5, abs=0.25)
    said = [text for n in range(32) for text in family.answer(DemandQuery(f"item-{n}"), Now(0)).assumes]
    elasticity = family.occasions.prices.elasticity[1, 0]
    assert any(f"times as much is expected (elasticity {elasticity:.2f})" in text for text in said)


def test_categories_have_elasticities_of_their_own() -> None:
    found, _ = learned((0.5, 1.0, 2.0, 3.0), weeks=60)
    own = [found[f"category-{n}"] for n in range(4)]
    assert own == pytest.approx([0.5, 1.0, 2.0, 3.0], abs=0.5)
    assert own == sorted(own)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_prices_without_effect_change_nothing(seed: int) -> None:
    found, prices = learned((0.0,), weeks=40, items=24, seed=seed)
    assert set(found.values()) == {0.0}
    assert prices.errors[0, 1, 0] > 200, "prices changed"


def test_sales_that_nobody_states_are_no_prices() -> None:
    _, family = simulated_errors(promoted_shop(weeks=40, items=32), told=False, skipped=1_000)
    prices = family.occasions.prices
    assert prices.errors[0, 0, 0] > 200
    assert not prices.elasticity.any()


def test_before_a_price_changes_or_without_prices_nothing_is_known() -> None:
    shelf = Shelf(elasticity=0.0)
    for prices in ([None], [0.0], [], [10.0], [10.0]):
        shelf.week(*prices)
    assert shelf.factors(5) == [1.0] * 5
    assert not shelf.prices.errors.any()


def test_the_price_of_a_week_is_that_of_most_lines() -> None:
    shelf = Shelf()
    shelf.week(10.0, 10.0, 10.0)
    shelf.week(8.0, 10.0, 10.0, 3.0, 10.0, None, 0.0)
    shelf.week(20.0)
    assert shelf.factors(4) == pytest.approx([2.0, 2.0, 1.0, 1.0])


def test_lines_on_sale_teach_no_regular_price() -> None:
    shelf = Shelf()
    shelf.state(10.0)
    shelf.week(10.0)
    shelf.week(6.0, 6.0, 6.0)
    assert shelf.factors(3) == [1.0, 1.0, 1.0]


def test_a_stated_price_counts_before_a_line_is_sold_at_it() -> None:
    shelf = Shelf(elasticity=2.0)
    shelf.state(10.0)
    for _ in range(3):
        shelf.week(10.0, 10.0)
    shelf.state(5.0)
    assert shelf.factors(4) == pytest.approx([0.25, 0.25, 0.25, 1.0]), "the history is what sells at the lower price"
    shelf.week()
    assert shelf.factors(3) == pytest.approx([0.25, 1.0, 1.0]), "it held from when it was stated"
    shelf.state(None)
    assert shelf.factors(1) == [1.0]


def test_a_ratio_is_bounded() -> None:
    shelf = Shelf()
    for price in (2.0, 6.0, 18.0, 54.0):
        shelf.week(price)
    assert shelf.factors(5) == pytest.approx([ratio_max, ratio_max, 3.0, 1.0, 1.0])


def test_a_fault_of_unit_is_no_change_of_price() -> None:
    shelf = Shelf()
    shelf.week(10.0)
    for _ in range(doubted_max - 1):
        shelf.week(1_000.0)
    assert shelf.factors(doubted_max) == [1.0] * doubted_max
    shelf.week(12.0)
    assert shelf.factors(3) == pytest.approx([1.2, 1.0, 1.0]), "the fault is over"
    for _ in range(doubted_max):
        shelf.week(1_200.0)
    shelf.week(1_320.0)
    assert shelf.factors(4) == pytest.approx([1.1, 1.1, 1.0, 1.0]), "the unit is another one from then on"


def test_a_stated_fault_of_unit_is_no_change_of_price() -> None:
    shelf = Shelf()
    shelf.state(10.0)
    shelf.week(10.0)
    shelf.state(1_000.0)
    assert shelf.factors(2) == [1.0, 1.0]


def test_a_price_that_is_stated_for_the_first_time_is_no_change() -> None:
    shelf = Shelf()
    for _ in range(3):
        shelf.week(12.0)
    shelf.state(10.0)
    assert shelf.factors(3) == [1.0] * 3, "it may be one without tax"
    shelf.week(12.0)
    assert shelf.factors(4) == [1.0] * 4
    shelf.state(11.0)
    assert shelf.factors(2) == pytest.approx([1.1, 1.0])


def test_of_many_lines_a_few_are_remembered() -> None:
    shelf = Shelf()
    for n in range(10_000):
        shelf.occasions.buy("boots", shelf.sales.first_day(WEEK), 1.0, 10.0 + n / 10_000, None)
    lines = shelf.prices._lines["boots"]
    assert len(lines.prices) < sample_max
    assert lines.median == pytest.approx(10.5, abs=0.1)


def test_a_late_line_is_of_no_price_now() -> None:
    shelf = Shelf()
    shelf.week(10.0)
    shelf.occasions.buy("boots", shelf.sales.first_day(WEEK), 1.0, 20.0, None)
    assert shelf.occasions.bounds()["priced"] == (0, 16)


def test_prices_follow_their_items_and_are_restored() -> None:
    shelf = Shelf()
    shelf.week(10.0)
    shelf.week(20.0)
    shelf.occasions.buy("boots", shelf.sales.first_day(shelf.sales.week), 1.0, 20.0, None)
    again = Prices.from_state(decode(encode(shelf.prices.state())))
    assert digest(again.state()) == digest(shelf.prices.state())
    asked = np.array([[WEEK], [WEEK + 1]])
    found = again.factors(SLOT, asked, np.zeros(1, np.int64), shelf.sales)
    assert found is not None
    assert found[:, 0] == pytest.approx([2.0, 1.0])
    again.renumber(np.array([-1], np.int32), Sales(16))
    assert again.bounds(16)["priced"] == (0, 16)
    assert again.factors(SLOT, asked, np.zeros(1, np.int64), shelf.sales) is None


def stated(item: str, price: str) -> Record:
    value: dict[str, Any] = {"id": item, "price": price}
    return Record(0, 0, 0, item.encode(), msgspec.json.encode(value))


def test_a_price_of_another_currency_is_not_known() -> None:
    fold = FamilyFold(DemandFamily, [Desk, StockFamily, DemandFamily], None, None)
    fold.shop.hear(ITEMS, stated("boots", "10 EUR"))
    one = fold.family
    assert isinstance(one, DemandFamily)
    assert one._likeness("boots") == Likeness(price=10.0)
    fold.shop.hear(ITEMS, stated("boots", "1000 JPY"))
    assert one._likeness("boots") == Likeness()
