"""The family of value: what it learns from purchases and returns, and what it must not know."""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from datetime import datetime
from typing import get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import ValidationError, convert

from headrace import events
from headrace.events import Data, Event, EventType, Item
from headrace.log.protocol import Record
from headrace.pages import Calibration, Course, Figures, Listing
from headrace.shopper_classes import decode
from headrace.state import decode as decode_state
from headrace.state import digest
from headrace.state import encode as encode_state
from headrace.surface import FamilyScores, Now, Unknown
from headrace.topics import DAY_MS, SHOPPER_CLASSES
from learners.checks.family import FamilyFold
from learners.desk.family import Desk
from learners.value import page
from learners.value.family import Repair, RetentionQuery, ValueFamily, ValueQuery, ValueSettings, retention_rows
from learners.value.items import Items
from learners.value.leaving import TEXTS
from learners.value.model import Scale, between, bought_within, solved, sums, targets_of
from learners.value.orders import Line, Orders
from learners.value.shoppers import LAST, NO_ITEM, ORDERS, RETURNED, SPENDS, SPENT, Shoppers, grain
from learners.value.snapshots import Horizons, Snapshot
from tests.declared import untranslated

START = 18_000 * DAY_MS


def event(kind: EventType, shopper: str, day: float, lines: Sequence[Item] = (), transaction: str = "") -> Event:
    time_ms = START + round(day * DAY_MS)
    data = Data(list(lines), transaction_id=transaction)
    made = Event(f"{kind}-{shopper}-{day}-{transaction}", "tests", kind, events.at(time_ms), data, "1.0", shopper)
    made.time_ms = made.own_ms = time_ms
    return made


def fold(**bounds: int) -> FamilyFold:
    return FamilyFold(ValueFamily, [Desk, ValueFamily], ValueSettings(**bounds), None)


def value_of(one: FamilyFold) -> ValueFamily:
    assert isinstance(one.family, ValueFamily)
    return one.family


def learned(stream: Iterable[Event], **bounds: int) -> FamilyFold:
    one = fold(**bounds)
    for each in stream:
        one.learn(each)
    return one


def shop(days: int, shoppers: int = 120, seed: int = 3) -> list[Event]:
    """Return orders of shoppers of whom some order weekly, some monthly, and every fourth stops some day."""
    draw = np.random.default_rng(seed)
    found = []
    for n in range(shoppers):
        gap, day = (7.0, 20.0, 45.0)[n % 3], float(draw.uniform(0, 20))
        last = 40.0 + n * 37 % 160 if n % 4 == 0 else float(days)
        while day < min(last, days):
            lines = [Item(f"item-{draw.integers(30)}", price=float(draw.integers(5, 50) + 20 * (n % 3)))]
            found.append(event("purchase", f"shopper-{n}", day, lines, f"order-{n}-{day:.3f}"))
            day += float(draw.uniform(0.5, 1.5)) * gap
    return sorted(found, key=lambda one: one.time_ms)


@pytest.fixture(scope="module")
def year() -> list[Event]:
    return shop(300)


@pytest.fixture(scope="module")
def grown(year: list[Event]) -> FamilyFold:
    return learned(year, sample_max=200)


def test_who_orders_often_is_expected_to_order_and_who_stopped_is_not(grown: FamilyFold) -> None:
    now = Now(START + 300 * DAY_MS)
    weekly, gone = (value_of(grown).answer(ValueQuery(f"shopper-{n}"), now) for n in (3, 12))
    (soon, later), (_, gone_later) = weekly.expected, gone.expected
    assert (soon.days, later.days) == (30, 91)
    assert soon.orders > 2 < later.orders
    assert later.orders > soon.orders
    assert later.purchase > 0.9
    assert gone_later.purchase < 0.2
    assert later.spend_low <= later.spend <= 2 * later.spend_high
    assert later.spend > 10 * gone_later.spend


def test_predictions_are_scored_when_their_outcomes_are_known(grown: FamilyFold) -> None:
    scores = value_of(grown).scores()
    assert [one.days for one in scores.horizons] == [30, 91]
    for one in scores.horizons:
        assert one.correlation > 0.5
        assert one.auc is not None
        assert one.auc > 0.7
        assert one.calibration_error < 0.15
        assert sum(each.rows for each in one.reliability) == one.rows


WEEKLY = ValueSettings(near_days=7, far_days=28, sample_max=200)


def test_other_horizons_are_learned_and_named(year: list[Event]) -> None:
    one = FamilyFold(ValueFamily, [Desk, ValueFamily], WEEKLY, None)
    told = []
    for each in year:
        one.learn(each)
        told += [
            decode(Record(0, 0, 0, sent.key, sent.value)) for sent in one.shop.emit() if sent.topic == SHOPPER_CLASSES
        ]
    family = value_of(one)
    assert {record.days for record in told if record} == {28}
    assert [each.days for each in family.scores().horizons] == [7, 28] == list(family.scores().days)
    now = Now(START + 300 * DAY_MS)
    soon, later = family.answer(ValueQuery("shopper-3"), now).expected
    assert (soon.days, later.days) == (7, 28)
    assert 0.5 < soon.orders < later.orders < 6, "who orders weekly"
    assert family.retention(RetentionQuery(), now).days == 28
    assert {labels[0] for labels, _ in family.series()} == {"7d", "28d"}
    assert len(family.snapshots) == family.snapshots_max == 4 + 9
    found = page.sections([FamilyScores(1, START, family.scores(), {})])
    assert [one.title for one in found[1:3]] == ["Within 7 days", "Within 28 days"]
    assert untranslated(found, "zh") == set()


def test_a_state_of_other_horizons_keeps_the_shoppers_and_learns_outcomes_anew(
    grown: FamilyFold, year: list[Event]
) -> None:
    one = FamilyFold(ValueFamily, [Desk, ValueFamily], WEEKLY, grown.state())
    family, before = value_of(one), value_of(grown)
    now, query = Now(START + 300 * DAY_MS), ValueQuery("shopper-3")
    found, known = family.answer(query, now), before.answer(query, now)
    assert (found.spent, found.orders, found.value_class) == (known.spent, known.orders, known.value_class)
    assert found.expected == []
    assert family.retention(RetentionQuery(), now).shoppers == []
    assert family.scores().repairs == before.scores().repairs
    for each in shop(400)[len(year) :]:
        one.learn(each)
    days = [snapshot.day for snapshot in family.snapshots]
    assert days == list(range(days[0], days[0] + 7 * len(days), 7)), "no Monday is taken up when it has passed"
    assert days[0] > year[-1].time_ms // DAY_MS
    assert [each.days for each in family.answer(query, Now(START + 400 * DAY_MS)).expected] == [7, 28]
    assert digest(FamilyFold(ValueFamily, [Desk, ValueFamily], WEEKLY, one.state()).state()) == digest(one.state())


def test_horizons_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValidationError, match="far_days: wanted at least twice near_days, 60, found 59"):
        convert({"near_days": 30, "far_days": 59}, ValueSettings)


def test_the_page_shows_classes_and_how_far_predictions_can_be_trusted(grown: FamilyFold) -> None:
    family = value_of(grown)
    scores = [FamilyScores(n, START + (100 + n) * DAY_MS, family.scores(), {}) for n in (0, 100)]
    found = page.sections(scores)
    assert untranslated(found, "zh") == set()
    assert [one.title for one in found] == [
        "Classes A, B and C", "Within 30 days", "Within 91 days", "Truth that came late"
    ]  # fmt: skip
    figures, classes = found[0].drawn
    assert isinstance(figures, Figures)
    assert isinstance(classes, Listing)
    assert figures.figures[0].value == 120
    rows = {row[0]: row[1:] for row in classes.rows}
    assert {name: row[0] for name, row in rows.items()} == family.classes()
    assert sum(row[1] for row in rows.values()) == pytest.approx(1)
    assert rows["A"][3] == pytest.approx(0.8, abs=0.06)
    assert sum(row[3] for row in rows.values()) == pytest.approx(1)
    calibration, listing, over = found[1].drawn
    assert isinstance(calibration, Calibration)
    assert isinstance(listing, Listing)
    assert isinstance(over, Course)
    assert sum(one.predictions for one in calibration.points) == figures.figures[2].value
    assert listing.rows[0][1] == family.scores().horizons[0].correlation


def test_the_page_says_what_is_not_known_yet() -> None:
    nobody = [FamilyScores(0, START, value_of(fold()).scores(), {})]
    assert page.sections(nobody) == []
    one = learned([event("purchase", "ann", 0.0, [Item("a", price=2.0)], "t")])
    few = [FamilyScores(1, START, value_of(one).scores(), {})]
    classes, repairs = page.sections(few)
    (listing,) = repairs.drawn
    assert isinstance(listing, Listing)
    assert [row[0] for row in listing.rows] == [page.REPAIRED[one] for one in get_args(Repair)]
    assert untranslated([classes, repairs], "zh") == set()
    assert "Nobody has a class yet" in classes.about
    assert len(classes.drawn) == 1


def test_what_was_expected_of_classes_stays_with_the_state(grown: FamilyFold) -> None:
    family = value_of(grown)
    spend = family.scores().spend
    assert spend["A"] > spend["B"] > spend["C"] > 0
    other = value_of(fold(sample_max=200))
    other.restore(decode_state(encode_state(family.state())))
    assert other.scores().spend == spend


def test_nothing_of_the_future_is_in_a_snapshot(year: list[Event]) -> None:
    """Features taken on a day are the same whatever happens later; the outcomes are not."""
    later = [deepcopy(one) for one in year]
    for one in later:
        if one.time_ms >= START + 200 * DAY_MS:
            one.shopper = f"shopper-{119 - int(one.shopper.split('-')[1])}"
            one.data.items[0].price = 1.0
    found = [value_of(learned(stream, sample_max=200)) for stream in (year, later)]
    before = 0
    for one, other in zip(*(family.snapshots for family in found), strict=True):
        if one.day * DAY_MS <= START + 200 * DAY_MS:
            assert np.array_equal(one.values, other.values)
            assert np.array_equal(one.places, other.places)
            assert np.array_equal(one.guessed, other.guessed, equal_nan=True)
            before += 1
    assert before > 5
    outcomes = [[one.outcome(0)[1].spent.sum() for one in family.snapshots if one.known(0)] for family in found]
    assert outcomes[0] != outcomes[1]


@given(cuts=st.lists(st.integers(1, 700), max_size=4))
@settings(max_examples=5, deadline=None)
def test_the_state_does_not_depend_on_batches_or_restarts(cuts: list[int]) -> None:
    stream = shop(250, 40)
    whole, parts = learned(stream, sample_max=30), fold(sample_max=30)
    start = 0
    for cut in [*sorted(cuts), len(stream)]:
        for one in stream[start:cut]:
            parts.learn(one)
        start = max(start, cut)
        state = decode_state(encode_state(parts.state()))
        parts = FamilyFold(ValueFamily, parts.kinds, parts.settings, state)
    assert digest(parts.family.state()) == digest(whole.family.state())


def test_a_return_makes_outcomes_what_they_would_have_been() -> None:
    """An order that is returned after its outcome was learned leaves the learned outcomes, bit for bit, without it."""
    stream = shop(240)
    extra = event("purchase", "shopper-1", 130.5, [Item("large", price=900.0, quantity=2)], "extra")
    returned = event("refund", "shopper-1", 239.9, [Item("large", price=900.0, quantity=2)], "extra")
    without = value_of(learned(stream, sample_max=200))
    bought = value_of(learned(sorted([*stream, extra], key=lambda one: one.time_ms), sample_max=200))
    repaired = value_of(learned(sorted([*stream, extra, returned], key=lambda one: one.time_ms), sample_max=200))
    assert repaired.repairs["outcomes"] > 5
    differ = 0
    for a, b, c in zip(without.snapshots, bought.snapshots, repaired.snapshots, strict=True):
        assert np.array_equal(a.notes, c.notes, equal_nan=True)
        differ += not np.array_equal(a.notes, b.notes, equal_nan=True)
        for horizon in range(2):
            if c.known(horizon):
                x, y = a.outcome(horizon)[1], c.outcome(horizon)[1]
                assert np.array_equal(targets_of(x), targets_of(y))
    assert differ > 5


def test_an_order_that_arrives_late_makes_outcomes_what_they_would_have_been() -> None:
    """An order that is told 70 days after it was placed counts in the weeks in which it was placed, bit for bit."""
    stream = shop(240)
    extra = event("purchase", "shopper-1", 130.5, [Item("large", price=900.0)], "extra")
    in_time = value_of(learned(sorted([*stream, extra], key=lambda one: one.time_ms), sample_max=200))
    arrives = next(n for n, one in enumerate(stream) if one.time_ms > START + 200.5 * DAY_MS)
    late = value_of(learned([*stream[:arrives], extra, *stream[arrives:]], sample_max=200))
    without = value_of(learned(stream, sample_max=200))
    assert late.repairs["late_orders"] == 1
    assert in_time.repairs["late_orders"] == 0
    differ = 0
    for a, b, c in zip(in_time.snapshots, late.snapshots, without.snapshots, strict=True):
        assert np.array_equal(a.notes, b.notes, equal_nan=True)
        differ += not np.array_equal(a.notes, c.notes, equal_nan=True)
    assert differ > 5


def test_a_cancellation_months_later_is_an_order_that_never_was() -> None:
    """A refund that names an order and no lines takes all of it back, from outcomes and from the shopper's spend."""
    stream = shop(240)
    extra = event("purchase", "shopper-1", 130.5, [Item("x", price=40.0, quantity=3), Item("y", price=9.0)], "extra")
    cancelled = event("refund", "shopper-1", 239.9, (), "extra")
    without = value_of(learned(stream, sample_max=200))
    repaired = value_of(learned(sorted([*stream, extra, cancelled], key=lambda one: one.time_ms), sample_max=200))
    for one, other in zip(without.snapshots, repaired.snapshots, strict=True):
        assert np.array_equal(one.notes, other.notes, equal_nan=True)
    a, b = (family.shoppers.rows[family.shoppers.place("shopper-1") or 0] for family in (without, repaired))
    assert (a[SPENT], a[ORDERS]) == (b[SPENT], b[ORDERS])
    assert b[RETURNED] == round(129.0 / grain)


def test_open_snapshots_teach_the_far_horizon(year: list[Event]) -> None:
    """Where the model of 30 days expects no purchase, the chance of one within 91 days is lower."""
    family = value_of(learned(year, sample_max=200))
    place, now = np.array([family.shoppers.place("shopper-4") or 0]), START + 300 * DAY_MS
    (_, usual), near = family.expected(place, now), family.models[0]
    assert usual is not None
    assert near is not None
    family.models[0] = near._replace(purchase=near.purchase._replace(means=np.zeros_like(near.purchase.means)))
    _, none = family.expected(place, now)
    assert none is not None
    assert none.purchase[0] < usual.purchase[0] - 0.1
    assert none.spend[0] == usual.spend[0]


def test_no_less_is_expected_within_a_longer_time(grown: FamilyFold) -> None:
    family = value_of(grown)
    places = np.arange(len(family.shoppers))
    for day in (250, 300, 420):
        near, far = family.expected(places, START + day * DAY_MS)
        assert near is not None
        assert far is not None
        for less, more in zip(near, far, strict=True):
            assert np.all(less <= more)


def test_hazards_of_periods_make_the_probability_of_all() -> None:
    draw = np.random.default_rng(5)
    hazards = draw.uniform(0, 1, (3, 200))
    assert bought_within(list(hazards)) == pytest.approx(1 - np.prod(1 - hazards, axis=0))
    left, right = hazards[0] * 0.98 + 0.01, hazards[1] * 0.98 + 0.01
    logit = (np.log(left / (1 - left)) + np.log(right / (1 - right))) / 2
    assert between(left, right) == pytest.approx(1 / (1 + np.exp(-logit)))


def test_items_tell_what_sells_now_and_what_newcomers_buy() -> None:
    items = Items(16)
    old, new = items.buy(["old", "new"], 100, first=False)
    for day in range(200):
        items.buy(["old"] if day < 100 else ["new"], 100 + day, first=day >= 100)
    bought = np.array([[NO_ITEM, old], [NO_ITEM, new], [old, new], [NO_ITEM, NO_ITEM]], np.int32)
    told = items.telling(bought, 300.0)
    assert told[0, 0] < told[1, 0]
    assert told[0, 1] < told[1, 1]
    assert told[2] == pytest.approx((told[0] + told[1]) / 2)
    assert told[3].tolist() == [0.0, 0.0]


def test_the_items_bought_least_are_forgotten_and_counts_stay_finite() -> None:
    items = Items(16)
    for n in range(17):
        items.buy([f"i{n}"], 100, first=True)
    for n in range(17):
        if n not in (5, 9, 10):
            items.buy([f"i{n}"], 20_000, first=False)  # 442 half-lives later
    moved = items.fit()
    assert moved is not None
    assert (len(items), items.forgotten) == (14, 3)
    assert np.flatnonzero(moved == NO_ITEM).tolist() == [5, 9, 10]
    shoppers = Shoppers(2)
    shoppers.buy("ann", START, 1.0, 2, 2.0, [4, 5, 6], continues=False)
    shoppers.renumber(moved)
    assert shoppers.items[0, -4:].tolist() == [NO_ITEM, 4, NO_ITEM, 5]
    again = Items.from_state(items.state(), 16)
    told = [one.telling(shoppers.items[:1], 20_001.0) for one in (items, again)]
    assert np.array_equal(told[0], told[1])
    assert np.isfinite(told[0]).all()


def test_a_return_restores_the_sums_of_a_shopper() -> None:
    pair = [Item("a", price=10.0), Item("b", price=5.0, quantity=3)]
    first = event("purchase", "ann", 0, [Item("c", price=7.0)], "o1")
    order, whole = event("purchase", "ann", 10, pair, "o2"), event("refund", "ann", 50, (), "o2")
    with_return = value_of(learned([first, order, whole]))
    without = value_of(learned([first]))
    row, expected = with_return.shoppers.rows[0], without.shoppers.rows[0]
    assert row[SPENT] == expected[SPENT] == round(7.0 / grain)
    assert row[ORDERS] == expected[ORDERS] == 1
    assert row[RETURNED] == round(25.0 / grain)
    faded = 0.5 ** (50 / 182)
    assert row[SPENDS][0] == pytest.approx(expected[SPENDS][0] * faded)


@pytest.mark.parametrize(
    ("refund", "left"),
    [
        (event("refund", "ann", 5, [Item("b", quantity=1)], "o"), 20.0),
        (event("refund", "ann", 5, (), "o"), 0.0),
        (event("refund", "ann", 5, [Item("b", quantity=2, price=5.0)]), 15.0),
        (event("refund", "ann", 5, [Item("b", quantity=9)], "o"), 10.0),
        (event("refund", "ann", 5, [Item("unheard of", price=4.0)]), 21.0),
        (event("refund", "nobody", 5, [Item("b", price=4.0)]), 25.0),
    ],
)  # fmt: skip
def test_what_a_return_is_worth(refund: Event, left: float) -> None:
    bought = event("purchase", "ann", 0, [Item("a", price=10.0), Item("b", price=5.0, quantity=3)], "o")
    family = value_of(learned([bought, refund]))
    assert family.shoppers.rows[0, SPENT] * grain == pytest.approx(left)


def test_an_order_is_counted_once_however_often_and_in_how_many_parts_it_is_sent() -> None:
    first = event("purchase", "ann", 0, [Item("a", price=10.0)], "o")
    more = event("purchase", "ann", 0.01, [Item("b", price=5.0)], "o")
    family = value_of(learned([first, first, more]))
    row = family.shoppers.rows[0]
    assert (row[ORDERS], row[SPENT] * grain) == (1, pytest.approx(15.0))


def test_who_has_returned_everything_does_not_stay_in_a_class(year: list[Event]) -> None:
    one = learned(year, sample_max=200)
    family = value_of(one)
    who = next(name for n in range(120) if family.segments_of(name := f"shopper-{n}", 0) == ["A"])
    orders = dict.fromkeys(each.data.transaction_id for each in year if each.shopper == who)
    for n, transaction in enumerate(orders):
        one.learn(event("refund", who, 301 + n / 1_000, transaction=transaction))
    one.shop.emit()
    for day in range(302, 312):
        one.learn(event("login", who, day))
    assert family.segments_of(who, 0) == ["C"]
    told = [decode(Record(0, 0, 0, each.key, each.value)) for each in one.shop.emit()]
    assert [(each.before, each.class_, each.spend) for each in told if each and each.shopper == who] == [
        ("A", "C", 0.0)
    ]


def test_without_prices_there_are_no_classes() -> None:
    stream = shop(200)
    for each in stream:
        each.data.items = [Item(line.item_id) for line in each.data.items]
    one = learned(stream, sample_max=200)
    assert value_of(one).classes() == {"A": 0, "B": 0, "C": 0}
    found = value_of(one).answer(ValueQuery("shopper-3"), Now(START + 200 * DAY_MS))
    assert found.expected[1].orders > 2


@pytest.mark.parametrize("kind", ["view_item", "purchase"])
def test_history_that_is_loaded_after_a_live_event_teaches(year: list[Event], kind: EventType) -> None:
    live = event(kind, "tester", 5_000, [Item("a", price=1.0)], "live")
    one = learned([live, event("login", "tester", 5_008), *deepcopy(year)], sample_max=200)
    days = [snapshot.day - START // DAY_MS for snapshot in value_of(one).snapshots]
    assert len(days) == 22
    assert days[-1] > 290
    assert all(value_of(one).models)


@pytest.mark.parametrize("restart", [False, True])
def test_orders_of_a_forgotten_buyer_are_forgotten(restart: bool) -> None:
    def bought(who: str, day: float, order: str) -> Event:
        return event("purchase", who, day, [Item(f"item-{order}", price=5.0)], order)

    if restart:
        before = learned([bought("ann", 0, "1"), bought("bob", 1, "2")], shoppers_max=2)
        state = decode_state(encode_state(before.state()))
        one = FamilyFold(ValueFamily, [Desk, ValueFamily], ValueSettings(shoppers_max=1), state)
    else:
        one = learned([bought("ann", 0, "1"), bought("bob", 1, "2")], shoppers_max=1)
    assert value_of(one).bounds()["value_orders"][0] == 1
    for each in (bought("ann", 2, "3"), event("refund", "ann", 3, transaction="1")):
        one.learn(each)
    found = value_of(one).answer(ValueQuery("ann"), Now(START + 4 * DAY_MS))
    assert (found.orders, found.spent) == (1, 5.0), "the order that counts is another one"


def test_the_buyer_whose_last_order_is_longest_ago_is_forgotten() -> None:
    stream = [event("purchase", name, n, [Item("a", price=1.0)], f"o{n}") for n, name in enumerate("abac")]
    family = value_of(learned(stream, shoppers_max=2))
    assert [family.knows(name) for name in "abc"] == [True, False, True]
    assert family.bounds()["value_shoppers"] == (2, 2)
    with pytest.raises(Unknown, match="wanted one who has bought"):
        family.answer(ValueQuery("b"), Now(START))


def test_a_shopper_who_was_forgotten_has_no_outcome() -> None:
    shoppers = Shoppers(1)
    shoppers.buy("ann", START, 100.0, 1, 1.0, [], continues=False)
    snapshot = Snapshot.take(START // DAY_MS + 1, shoppers, Items(9), 10, Horizons())
    assert snapshot is not None
    shoppers.buy("bob", START + 9 * DAY_MS, 900.0, 1, 1.0, [], continues=False)
    assert snapshot.note(shoppers) == 1
    there, outcome = snapshot.outcome(0)
    assert (there.tolist(), len(outcome.spent)) == ([False], 0)


def test_a_sample_is_taken_of_more_shoppers_and_is_another_one_each_week() -> None:
    shoppers = Shoppers(500)
    for n in range(500):
        shoppers.buy(f"s{n}", START, 100.0, 1, 1.0, [], continues=False)
    taken = [Snapshot.take(START // DAY_MS + week * 7, shoppers, Items(9), 50, Horizons()) for week in (1, 1, 2)]
    first, again, other = (set(one.places.tolist()) for one in taken if one is not None)
    assert len(first) == 50
    assert first == again
    assert len(first & other) < 25


def test_classes_are_told_once_and_change_only_clearly(year: list[Event]) -> None:
    one = fold(sample_max=200)
    told = []
    for each in year:
        each = deepcopy(each)
        if one.shop.prepare(each):
            one.shop.learn(each, 0, one.offset)
        told += [record for record in one.shop.emit() if record.topic == SHOPPER_CLASSES]
    records = [decode(Record(0, 0, 0, record.key, record.value)) for record in told]
    last: dict[str, str] = {}
    for found in records:
        assert found is not None
        assert found.before == last.get(found.shopper, "") != found.class_
        last[found.shopper] = found.class_
    family = value_of(one)
    assert set(last.values()) == {"A", "B", "C"}
    assert family.classes()["A"] < family.classes()["A"] + family.classes()["B"] + family.classes()["C"] == len(last)
    assert len(records) < 4 * len(last)


def test_the_retention_list_names_who_was_worth_much_and_stopped(grown: FamilyFold) -> None:
    family = value_of(grown)
    found = family.retention(RetentionQuery(5), Now(START + 300 * DAY_MS))
    assert 0 < len(found.shoppers) <= 5
    risks = [one.at_risk for one in found.shoppers]
    assert risks == sorted(risks, reverse=True)
    for one in found.shoppers:
        assert one.purchase < 0.5
        assert one.reasons
        assert one.best_day.day >= "2020-02-08"
    stopped = [int(one.shopper.split("-")[1]) % 4 == 0 for one in found.shoppers]
    assert all(stopped)
    assert any("ordered every" in reason.text for one in found.shoppers for reason in one.reasons)


def test_the_retention_list_as_a_table_says_what_the_answer_says(grown: FamilyFold) -> None:
    found = value_of(grown).retention(RetentionQuery(5), Now(START + 300 * DAY_MS))
    names, *rows = retention_rows(msgspec.structs.asdict(found))
    assert len(rows) == len(found.shoppers) == 5
    for row, one in zip(rows, found.shoppers, strict=True):
        told = dict(zip(names, row, strict=True))
        assert (told["shopper"], told["at_risk"], told["best_day"]) == (one.shopper, one.at_risk, one.best_day.day)
        assert told["days"] == found.days == 91
        assert told["reasons"].split("; ") == [each.code for each in one.reasons]
        assert datetime.fromisoformat(told["last_order"]).timestamp() == one.last_order_ms // 1000
        for reason in one.reasons:
            assert reason.text == TEXTS[reason.code].format(**reason.values)
            assert reason.text in told["why"]
        assert (one.best_day.weekday is None) != (str(one.best_day.weekday) in one.best_day.why)
        assert one.best_day.code == ("overdue" if "overdue" in one.best_day.why else "due")


def test_who_buys_again_leaves_the_retention_list(year: list[Event]) -> None:
    one = learned(year, sample_max=200)
    query, now = RetentionQuery(5), Now(START + 300 * DAY_MS)
    first = value_of(one).retention(query, now).shoppers[0].shopper
    for n in range(3):
        one.learn(event("purchase", first, 299.9 + n / 100, [Item("a", price=30.0)], f"back-{n}"))
    assert first not in [each.shopper for each in value_of(one).retention(query, now).shoppers]


def test_a_scale_rises_and_covers_what_it_has_seen() -> None:
    draw = np.random.default_rng(0)
    scores = draw.normal(size=4_000)
    outcome = np.exp(scores + draw.normal(size=4_000))
    scale = Scale.of(scores, outcome)
    asked = np.sort(draw.normal(size=500))
    means, (lows, highs) = scale.mean(asked), scale.interval(asked)
    assert (np.diff(means) >= 0).all()
    assert (lows <= highs).all()
    low, high = scale.interval(scores)
    assert 0.75 < np.mean((low <= outcome) & (outcome <= high)) < 0.85
    assert scale.mean(scores).mean() == pytest.approx(outcome.mean(), rel=0.1)


def test_the_solution_is_that_of_ridge_regression() -> None:
    from learners.value.features import width
    from learners.value.model import Outcome, shrinkage

    draw = np.random.default_rng(1)
    design = np.concatenate([np.ones((300, 1)), draw.normal(size=(300, width - 1))], axis=1)
    outcome = Outcome(draw.exponential(size=300), draw.poisson(1.0, 300).astype(np.float64))
    found = solved([(1.0, sums(design, outcome))])
    penalty = np.diag([0.0] + [shrinkage] * (width - 1))
    wanted = np.linalg.solve(design.T @ design / 300 + penalty, design.T @ targets_of(outcome) / 300)
    assert found == pytest.approx(wanted, abs=1e-5)


def test_remembered_orders_are_bounded() -> None:
    orders = Orders(orders_max=3, lines_max=4)
    for n in range(5):
        orders.buy("ann", f"o{n}", n, {"a": (5.0, 1.0), "b": (5.0, 1.0)}, 10.0)
    assert orders.bounds() == {"orders": (2, 3), "order_lines": (4, 4)}
    (found,) = orders.give_back("ann", "o0", [Line("a", 5.0, 1.0)], None)
    assert found.bought_ms == 4, "an order that is not remembered: the newest with the item"


def test_a_buyer_who_comes_back_was_seen() -> None:
    stream = [event("purchase", "ann", 0, [Item("a", price=1.0)], "o"), event("view_item", "ann", 3, [Item("a")])]
    row = value_of(learned(stream)).shoppers.rows[0]
    assert row[LAST] == START / DAY_MS < row[LAST + 1]
