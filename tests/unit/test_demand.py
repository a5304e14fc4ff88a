"""Demand: what is counted by week, what is learned from it, and what is answered."""

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from headrace.events import Data, Event, EventType, Item, at
from headrace.log.protocol import Record
from headrace.state import decode, digest, encode
from headrace.surface import FamilyScores, Now, Unknown
from headrace.topics import DAY_MS, ITEMS
from learners.checks.family import FamilyFold
from learners.demand.family import DemandFamily, DemandQuery, DemandSettings, TotalsQuery
from learners.demand.forecaster import HORIZONS, Forecaster
from learners.demand.model import LEVELS, MEDIAN, quantile_weights
from learners.demand.page import sections
from learners.demand.sales import NO_SLOT, Sales, number_of, weeks_max
from learners.desk.family import Desk
from learners.stock.family import StockFamily

MONDAY_MS = 1_735_516_800_000
"""2024-12-30, a Monday."""


def fold(**settings: Any) -> FamilyFold:
    return FamilyFold(DemandFamily, [Desk, StockFamily, DemandFamily], DemandSettings(**settings), None)


def demand_of(one: FamilyFold) -> DemandFamily:
    assert isinstance(one.family, DemandFamily)
    return one.family


def order(
    day: float, shopper: str, *lines: tuple[str, float], transaction: str = "", kind: EventType = "purchase"
) -> Event:
    time_ms = MONDAY_MS + round(day * DAY_MS)
    data = Data([Item(item, price=2.0, quantity=pieces) for item, pieces in lines])
    data.transaction_id = transaction
    return Event(f"{kind}-{shopper}-{day}", "test", kind, at(time_ms), data, "1.0", shopper, time_ms)


def course(one: FamilyFold, item: str) -> list[float]:
    sales = demand_of(one).sales
    sales.apply()
    slot = sales.slot(item)
    assert slot is not None
    return [sold for _, sold, _ in sales.course(slot, weeks_max)]


def shop_of(weeks: int, items: int = 60, seed: int = 5, **settings: Any) -> FamilyFold:
    """Return a fold of orders of items of which each sells at a rate of its own, item-0 the least."""
    draw, one = np.random.default_rng(seed), fold(**settings)
    for day in range(7 * weeks):
        pieces = draw.poisson(np.linspace(0.3, 12.0, items))
        lines = [(f"item-{n}", float(count)) for n, count in enumerate(pieces) if count]
        one.learn(order(day, f"shopper-{day}", *lines))
    return one


@pytest.fixture(scope="module")
def grown() -> FamilyFold:
    return shop_of(24)


def test_pieces_are_counted_in_the_week_in_which_they_were_bought() -> None:
    one = fold()
    for event in (order(0, "a", ("boots", 2)), order(6.9, "b", ("boots", 1)), order(7, "a", ("boots", 4))):
        one.learn(event)
    one.learn(order(22, "c", ("socks", 1)))
    one.learn(order(8, "c", ("boots", 1)))  # it is late
    assert course(one, "boots") == [3, 5, 0, 0]


def test_what_is_returned_is_taken_back_in_the_week_in_which_it_was_bought() -> None:
    one = fold()
    one.learn(order(0, "a", ("boots", 3), transaction="o-1"))
    one.learn(order(8, "a", ("boots", 2), transaction="o-2"))
    one.learn(order(9, "b", ("boots", 9)))
    one.learn(order(15, "a", ("boots", 4), kind="refund"))
    assert course(one, "boots") == [1, 9, 0], "the newest line first, and no other buyer's"
    one.learn(order(16, "a", ("boots", 5), kind="refund"))
    assert course(one, "boots") == [0, 9, 0]
    assert demand_of(one).sales.uncounted == 4, "more than was bought"


def test_one_huge_order_teaches_no_more_than_a_multiple_of_the_usual_line() -> None:
    sales = Sales(8)
    sales.turn(100)
    slot, day = sales.enter("boots"), sales.first_day(100)
    sales.record(np.full(20, slot), np.full(20, day), np.full(20, 5.0))
    assert sales.cap(slot) == pytest.approx(8 * 5.0, abs=0.01)
    sales.record(np.array([slot]), np.array([day]), np.array([5_000.0]))
    pieces, lines, _ = sales.before(np.array([slot]), np.array([101]), 1)
    assert pieces[0, 0] == pytest.approx(100 + 40, abs=0.01)
    assert lines[0, 0] == 21
    assert sales.sold(np.array([slot]), np.array([100])) == [5_100], "what is judged is all of it"


def test_a_huge_order_moves_the_forecast_of_its_item_little(grown: FamilyFold) -> None:
    other = FamilyFold(DemandFamily, grown.kinds, grown.settings, grown.state())
    other.learn(order(7 * 24 - 1, "wholesale", ("item-30", 5_000.0)))
    usual, moved = (
        demand_of(one) for one in (FamilyFold(DemandFamily, grown.kinds, grown.settings, grown.state()), other)
    )
    for one in (usual, moved):
        one.forecaster.turn(one.sales.week + 1)
    before, after = (one.demand("item-30", 7) for one in (usual, moved))
    assert before is not None
    assert after is not None
    assert after.quantiles[MEDIAN] == pytest.approx(before.quantiles[MEDIAN], rel=0.5)


def test_items_that_have_not_sold_for_longest_are_forgotten() -> None:
    one = fold(items_max=10)
    for n in range(10):
        one.learn(order(7 * n, "a", (f"item-{n}", n + 1)))
    one.learn(order(71, "a", ("item-0", 1), ("item-new", 3)))
    sales = demand_of(one).sales
    assert len(sales) == 9
    assert sales.slot("item-1") is None
    assert sales.slot("item-2") is None
    assert course(one, "item-new")[-1] == 3
    assert course(one, "item-0") == [1, *[0] * 9, 1]
    assert sales.forgotten == 2
    one.learn(order(72, "a", ("item-new", 2), kind="refund"))
    assert course(one, "item-new")[-1] == 1, "lines follow their item to another slot"


def test_forecasts_follow_what_items_sell(grown: FamilyFold) -> None:
    family = demand_of(grown)
    for n in (20, 40, 59):
        rate = 7 * float(np.linspace(0.3, 12.0, 60)[n])
        found = family.demand(f"item-{n}", 7)
        assert found is not None
        assert found.mean == pytest.approx(rate, rel=0.25)
        assert found.quantiles[MEDIAN] == pytest.approx(rate, rel=0.25)
        assert np.all(np.diff(found.quantiles) >= 0)
        assert found.quantiles[0] < rate < found.quantiles[-1]


def test_what_is_expected_grows_with_the_days(grown: FamilyFold) -> None:
    found = [demand_of(grown).demand("item-50", days) for days in (1, 7, 10, 14, 28, 56)]
    assert all(found)
    means = [one.mean for one in found if one]
    assert means == sorted(means)
    assert means[-1] == pytest.approx(2 * means[-2])
    month, two = found[-2], found[-1]
    assert month
    assert two
    assert two.quantiles[-1] - two.mean == pytest.approx(np.sqrt(2) * (month.quantiles[-1] - month.mean))


def test_intervals_cover_what_they_say_and_forecasts_beat_the_last_week(grown: FamilyFold) -> None:
    scores = demand_of(grown).scores()
    assert [one.weeks for one in scores.horizons] == list(HORIZONS)
    for one in scores.horizons:
        assert one.error < one.simple["last week"]
        assert 0.8 < one.covered < 0.97, "300 forecasts; the intervals of four weeks overlap"
    assert sum(count for count, _ in scores.horizons[0].classes.values()) == scores.horizons[0].forecasts


def test_before_anything_is_learned_nothing_is_expected() -> None:
    one = fold()
    with pytest.raises(Unknown, match="item boots: wanted one that has been sold or that the shop states, found none"):
        demand_of(one).answer(DemandQuery("boots"), Now(MONDAY_MS))
    one.learn(order(0, "a", ("boots", 2)))
    one.learn(order(7, "a", ("socks", 2)))
    assert demand_of(one).demand("boots", 7) is None
    answer = demand_of(one).answer(DemandQuery("boots"), Now(MONDAY_MS))
    assert (answer.expected, answer.days) == ([], [])
    assert [(week.begins, week.sold) for week in answer.history] == [("2024-12-30", 2.0), ("2025-01-06", 0.0)]
    again = demand_of(one).answer(DemandQuery("socks"), Now(MONDAY_MS))
    assert again.history[-1].sold == 2, "lines that wait to be applied are told"
    assert answer.assumes == ["Nothing is expected yet: that takes some weeks of sales."]


def test_an_answer_says_what_is_expected_by_weeks_and_days(grown: FamilyFold) -> None:
    family = demand_of(grown)
    answer = family.answer(DemandQuery("item-40", weeks=4), Now(0))
    assert len(answer.history) == 4
    assert [one.weeks for one in answer.expected] == list(HORIZONS)
    for one in answer.expected:
        assert one.low <= one.median <= one.high
    assert len(answer.days) == 7
    assert sum(day.mean for day in answer.days) == pytest.approx(answer.expected[0].mean, abs=0.05)
    assert any("teaches only that many" in said for said in answer.assumes)


def stated(item: str, availability: str, **fields: Any) -> Record:
    value = {"id": item, "availability": availability, **fields}
    return Record(0, 0, 0, item.encode(), msgspec.json.encode(value))


def test_weeks_without_stock_are_scaled_up() -> None:
    one = fold()
    for day in range(70):
        if day == 56:
            one.shop.hear(ITEMS, stated("boots", "out_of_stock"))
        if not 56 <= day < 63:
            one.learn(order(day, "a", ("boots", 2)))
        else:
            one.learn(order(day, "a", ("socks", 2)))
        if day == 63:
            one.shop.hear(ITEMS, stated("boots", "in_stock"))
    family = demand_of(one)
    slot = family.sales.slot("boots")
    assert slot is not None
    away = [share for _, _, share in family.sales.course(slot, 4)]
    assert away == pytest.approx([0, 0, 1, 0], abs=0.15)
    assert family.demand("boots", 7) is None
    from learners.demand.features import history_of

    history, _ = history_of(family.sales, np.array([slot]), np.array([family.sales.week]))
    assert history[-1, 0] == pytest.approx(14, abs=1.5), "as if it had been there"


def test_after_a_jump_forecasts_follow_within_weeks() -> None:
    one = shop_of(20)
    draw = np.random.default_rng(8)
    for day in range(140, 140 + 28):
        pieces = 3 * draw.poisson(np.linspace(0.3, 12.0, 60))
        one.learn(order(day, f"later-{day}", *((f"item-{n}", float(count)) for n, count in enumerate(pieces) if count)))
    one.learn(order(168, "x", ("item-1", 1)))
    found = demand_of(one).demand("item-59", 7)
    assert found is not None
    assert found.quantiles[MEDIAN] > 2 * 84


def test_a_restored_fold_continues_and_other_periods_begin_anew(grown: FamilyFold) -> None:
    state = decode(encode(grown.state()))
    again = FamilyFold(DemandFamily, grown.kinds, grown.settings, state)
    assert digest(again.state()) == digest(grown.state())
    daily = FamilyFold(DemandFamily, grown.kinds, DemandSettings(period_days=1), state)
    assert len(demand_of(daily).sales) == 0


def test_arrays_can_be_simulated_without_events() -> None:
    sales = Sales(64)
    forecaster, draw = Forecaster(sales), np.random.default_rng(2)
    slots = np.array([sales.enter(f"item-{n}") for n in range(64)])
    for week in range(500, 530):
        forecaster.turn(week)
        days = np.full(64, sales.first_day(week))
        sales.record(slots, days, draw.poisson(6.0, 64).astype(np.float64))
    found = forecaster.expected(slots, 7.0)
    assert found is not None
    assert found.quantiles.shape == (64, len(LEVELS))
    assert float(found.mean.mean()) == pytest.approx(6.0, rel=0.1)


def test_a_forecast_of_an_item_that_is_forgotten_is_not_judged() -> None:
    one = shop_of(18, items=30)
    forecaster = demand_of(one).forecaster
    moved = np.arange(len(forecaster.sales), dtype=np.int32)
    moved[3] = NO_SLOT
    forecaster.renumber(moved)
    assert forecaster.pending
    assert all((pending.slots == NO_SLOT).sum() <= 1 for pending in forecaster.pending)
    forecaster.turn(forecaster.sales.week + 1)
    assert forecaster.judged[0][-1].counts[0].sum() == 29


def test_quantiles_of_a_regression_are_those_of_the_rows() -> None:
    from learners.demand.features import FEATURES

    draw = np.random.default_rng(1)
    design = np.zeros((4_000, len(FEATURES)))
    design[:, 0], design[:, FEATURES.index("constant")] = 1.0, 1.0
    target = draw.exponential(1.0, 4_000)
    for level in (0.1, 0.5, 0.9):
        found = design @ quantile_weights(design, target, np.ones(4_000), level, None)
        assert float(np.mean(target < found)) == pytest.approx(level, abs=0.02)


def test_buyers_have_numbers() -> None:
    assert number_of("anna") != number_of("ben")


def records(one: FamilyFold) -> Iterator[FamilyScores]:
    yield FamilyScores(one.shop.events, one.shop.time_ms, demand_of(one).scores(), {})


def test_the_page_shows_errors_and_intervals(grown: FamilyFold) -> None:
    found = sections(list(records(grown)))
    assert [one.title for one in found] == ["The shop", "How good the forecasts are", "Intervals, one week ahead"]
    assert sections(list(records(fold()))) == []
    for chart in DemandFamily.surface.charts:
        assert chart.lines
        assert set(chart.lines(demand_of(grown).scores())) >= {"1 ahead", "1 ahead, best simple method"}
    assert DemandFamily.surface.quality
    assert DemandFamily.surface.quality.of(demand_of(grown).scores()) == demand_of(grown).scores().horizons[0].error
    assert {labels for labels, _ in demand_of(grown).series()} >= {("1", "error"), ("4", "covered")}


def test_a_new_item_is_expected_to_sell_as_its_neighbours_did() -> None:
    one = shop_of(20)
    for n, item in enumerate([f"new-{n}" for n in range(12)] + ["other"]):
        category = "lamps" if item != "other" else "shoes"
        value = {"id": item, "product_type": category, "price": "20 EUR", "availability": "in_stock"}
        one.shop.hear(ITEMS, Record(0, 0, 0, item.encode(), msgspec.json.encode(value)))
        for day in range(140, 161):
            one.learn(order(day, f"b-{day}-{n}", (item, 5.0)))
    one.learn(order(169, "last", ("item-3", 1)))
    value = {"id": "lamp", "product_type": "lamps", "price": "25 EUR"}
    one.shop.hear(ITEMS, Record(0, 0, 0, b"lamp", msgspec.json.encode(value)))
    family = demand_of(one)
    found = family.demand("lamp", 7)
    assert found is not None
    assert found.mean == pytest.approx(35, abs=0.5)
    answer = family.answer(DemandQuery("lamp"), Now(0))
    assert answer.expected[0].median == 35
    assert "12 new items of its category and a similar price" in answer.assumes[1]
    value["price"] = "900 EUR"
    one.shop.hear(ITEMS, Record(0, 0, 0, b"lamp", msgspec.json.encode(value)))
    assert "12 new items of its category sold" in family.answer(DemandQuery("lamp"), Now(0)).assumes[1]
    value["product_type"] = "hats"
    one.shop.hear(ITEMS, Record(0, 0, 0, b"lamp", msgspec.json.encode(value)))
    assert "13 new items of the shop" in family.answer(DemandQuery("lamp"), Now(0)).assumes[1]


def test_categories_and_items_add_up_to_the_shop() -> None:
    one = shop_of(20)
    for n in range(60):
        value = {"id": f"item-{n}", "product_type": "odd" if n % 2 else "even"}
        one.shop.hear(ITEMS, Record(0, 0, 0, f"item-{n}".encode(), msgspec.json.encode(value)))
    family = demand_of(one)
    found = family.totals(TotalsQuery(), Now(0))
    assert found.shop is not None
    assert [(total.category, total.items) for total in found.categories] == [("odd", 30), ("even", 30)]
    for place, ahead in enumerate(found.shop.expected):
        assert sum(total.expected[place].mean for total in found.categories) == pytest.approx(ahead.mean, abs=0.02)
        assert ahead.low < ahead.mean < ahead.high
    items = [family.demand(f"item-{n}", 7) for n in range(60)]
    assert sum(item.mean for item in items if item) == pytest.approx(found.shop.expected[0].mean, abs=0.02)
    rate = 7 * float(np.linspace(0.3, 12.0, 60).sum())
    assert found.shop.expected[0].mean == pytest.approx(rate, rel=0.1)
    assert demand_of(fold()).totals(TotalsQuery(), Now(0)).shop is None


def test_a_history_that_is_loaded_after_live_events_is_known_and_a_stray_line_is_none() -> None:
    one = fold()
    one.learn(order(140, "live", ("boots", 1)))
    sales = demand_of(one).sales
    one.learn(order(7, "wrong clock", ("boots", 1)))
    sales.apply()
    assert sales.known == 0
    for day in range(139):
        one.learn(order(day, f"old-{day}", *((f"item-{n}", 2) for n in range(20))))
    for buyer in ("live", "other"):  # the second order learns what the first one began
        one.learn(order(147, buyer, ("boots", 1)))
    assert sales.known == 21
    assert demand_of(one).forecaster.learned
    assert demand_of(one).demand("item-3", 7) is not None


def test_periods_without_any_sale_count_as_out_of_stock_where_the_item_was() -> None:
    one = fold(period_days=1)
    for day in range(10):
        one.learn(order(day, "a", ("boots", 2)))
    one.shop.hear(ITEMS, stated("boots", "out_of_stock"))
    one.learn(order(14.5, "a", ("socks", 2)))
    sales = demand_of(one).sales
    slot = sales.slot("boots")
    assert slot is not None
    assert [round(away, 1) for _, _, away in sales.course(slot, 6)] == [1.0, 1.0, 1.0, 1.0, 1.0, 0.0]


def test_a_level_that_is_sold_counts_as_out_of_stock_until_another_is_stated() -> None:
    one, levelled = fold(), {"price": "2 EUR"}
    one.learn(order(0, "a", ("boots", 1)))
    one.shop.hear(ITEMS, stated("boots", "in_stock", quantity=20, **levelled))
    for day in range(1, 30):
        sold = day <= 10 or day >= 17  # the shelf is empty from day 10 on: 3 days of one week, and 3 of the next
        one.learn(order(day, f"buyer-{day}", ("boots", 2) if sold else ("socks", 2)))
        if day == 16:
            one.shop.hear(ITEMS, stated("boots", "in_stock", quantity=1_000, **levelled))
    sales = demand_of(one).sales
    slot = sales.slot("boots")
    assert slot is not None
    assert [round(away, 3) for _, _, away in sales.course(slot, 5)] == [0, round(4 / 7, 3), round(2 / 7, 3), 0, 0]


def test_what_sells_days_after_its_level_was_sold_is_there_from_that_day_on() -> None:
    one = fold()
    one.learn(order(0, "a", ("boots", 1)))
    one.shop.hear(ITEMS, stated("boots", "in_stock", quantity=4))
    for day in range(1, 21):
        one.learn(order(day, f"buyer-{day}", ("boots", 2) if day <= 2 or day >= 6 else ("socks", 1)))
    sales = demand_of(one).sales
    slot = sales.slot("boots")
    assert slot is not None
    assert [round(away, 3) for _, _, away in sales.course(slot, 3)] == [round(4 / 7, 3), 0, 0]


def test_a_late_event_does_not_date_a_stock_out_back() -> None:
    one = fold()
    for day in range(30):
        one.learn(order(day, "a", ("boots", 2)))
    one.learn(order(2, "late", ("boots", 1)))
    one.shop.hear(ITEMS, stated("boots", "out_of_stock"))
    one.learn(order(36, "a", ("socks", 2)))
    sales = demand_of(one).sales
    slot = sales.slot("boots")
    assert slot is not None
    assert [away for _, _, away in sales.course(slot, 6)] == [0, 0, 0, 0, 1, 0]


def test_the_first_sale_on_a_weekday_is_answered() -> None:
    one = fold(period_days=1)
    for day in (day for day in range(26) if day % 7 < 5):
        one.learn(order(day, f"b-{day}", *((f"item-{n}", 2) for n in range(60))))
    one.learn(order(26, "saturday", ("item-0", 1)))
    answer = demand_of(one).answer(DemandQuery("item-1"), Now(0))
    assert [day.mean for day in answer.days] == [answer.expected[0].mean]


def test_an_item_may_sell_in_many_lines_a_week() -> None:
    sales = Sales(4)
    sales.turn(500)
    slot, count = sales.enter("boots"), 40_000
    sales.record(np.full(count, slot), np.full(count, sales.first_day(500)), np.ones(count))
    _, lines, _ = sales.before(np.array([slot]), np.array([501]), 1)
    assert lines.tolist() == [[count]]


def test_a_fraction_that_is_returned_leaves_nothing() -> None:
    sales = Sales(4)
    sales.turn(500)
    sales.buy("cloth", 1, sales.first_day(500), 0.1, None)
    sales.give_back("cloth", 1, 0.1)
    _, lines, _ = sales.before(np.array([0]), np.array([501]), 1)
    assert (lines.tolist(), sales.uncounted) == ([[0]], 0)


def test_a_shop_all_of_whose_sales_were_taken_back_goes_on_without_rows_to_learn_from() -> None:
    sales = Sales(4)
    forecaster = Forecaster(sales)
    for week in range(500, 540):
        forecaster.begin(week)
        forecaster.proceed()
        sales.buy("boots", week, sales.first_day(week), 2.0, None)
        sales.give_back("boots", week, 2.0)
    forecaster.turn(540)
    assert not forecaster.learned


def test_tables_have_no_room_for_more_items_than_the_maximum_and_one() -> None:
    sales = Sales(1_100)
    for n in range(1_101):
        sales.enter(f"item-{n}")
    assert sales._pieces.shape[1] == 1_101


def test_what_the_shop_no_longer_sells_is_in_no_total_and_an_answer_says_so() -> None:
    one = shop_of(16)
    before = demand_of(one).totals(TotalsQuery(), Now(0)).shop
    one.shop.hear(ITEMS, stated("item-59", "in_stock", retired=True))
    one.shop.hear(ITEMS, stated("item-58", "out_of_stock"))
    after = demand_of(one).totals(TotalsQuery(), Now(0)).shop
    assert before is not None
    assert after is not None
    assert (before.items, after.items) == (60, 59)
    assert after.expected[0].mean < before.expected[0].mean - 50
    said = [" ".join(demand_of(one).answer(DemandQuery(f"item-{n}"), Now(0)).assumes) for n in (57, 58, 59)]
    assert ["out of stock: this" in one for one in said] == [False, True, False]
    assert ["no longer sells" in one for one in said] == [False, False, True]


def test_a_week_is_learned_with_the_events_after_its_beginning_and_a_restored_state_goes_on() -> None:
    one, other = shop_of(20), fold()
    forecaster = demand_of(one).forecaster
    forecaster.finish()
    before = [weights.copy() for weights in forecaster.weights if weights is not None]
    day, steps = 140, 0
    one.learn(order(day, "first", ("item-3", 2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("learners.demand.forecaster._rows_together", 1)
        while demand_of(one).state()["forecaster"]["steps_left"]:
            steps += 1
            if steps == 5:
                other = FamilyFold(DemandFamily, [Desk, StockFamily, DemandFamily], DemandSettings(), one.state())
            one.learn(order(day, f"buyer-{steps}", ("item-3", 2)))
            if steps >= 5:
                other.learn(order(day, f"buyer-{steps}", ("item-3", 2)))
    assert steps == len(HORIZONS) * (len(LEVELS) + 1) + 1
    assert digest(other.state()) == digest(one.state())
    after = [weights for weights in forecaster.weights if weights is not None]
    assert len(after) == len(before) == len(HORIZONS)
    assert all((old != new).any() for old, new in zip(before, after, strict=True))
