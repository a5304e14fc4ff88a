"""Purchase intent: which visits end with a purchase, one drawn moment of each, bounded, and answered over HTTP."""

import math
from typing import Any

import pytest

from headrace.events import Data, Event, Item, at
from headrace.state import digest
from headrace.surface import Now, Unknown
from learners.family import Move
from learners.parts.rows import Row
from learners.purchase import visits as module
from learners.purchase.family import IntentAnswer, PurchaseFamily, PurchaseQuery
from learners.purchase.visits import COLUMNS, SETTINGS, Visits, idle_ms
from learners.shop import Shop
from tests.shards import purchase

START_MS = 1_736_121_600_000
CARTS = COLUMNS.numbers.index("items in the cart")


def event(number: int, shopper: str, kind: Any, minutes: float, item: str = "i1", session: str = "") -> Event:
    time_ms = START_MS + int(minutes * 60_000)
    data = Data([Item(item, item_category="c", price=10.0)], session_id=session)
    return Event(f"e{number}", "test", kind, at(time_ms), data, "1.0", shopper, time_ms)


class Labels(Visits):
    """Notes what was learned."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Row, bool]] = []

    def label(self, row: Row, bought: bool) -> tuple[float, float]:
        self.found.append((row, bought))
        return super().label(row, bought)


def labels(*steps: tuple[str, str, float], **more: str) -> Labels:
    visits = Labels()
    for number, (shopper, kind, minutes) in enumerate(steps):
        visits.learn(event(number, shopper, kind, minutes, **more), 0.1)
    return visits


def test_a_visit_is_learned_once_when_it_ends() -> None:
    visits = labels(("ann", "view_item", 0), ("ann", "add_to_cart", 1), ("ann", "purchase", 2), ("bob", "search", 3))
    assert [bought for _, bought in visits.found] == [True]
    visits.learn(event(9, "eve", "search", 33), 0.0)
    assert len(visits.found) == 1, "a pause of half an hour is still a visit"
    visits.learn(event(10, "eve", "search", 33.1), 0.0)
    assert [bought for _, bought in visits.found] == [True, False]


def test_what_follows_a_purchase_is_another_visit_and_a_purchase_alone_teaches_nothing() -> None:
    visits = labels(
        ("ann", "purchase", 0), ("ann", "view_item", 1), ("ann", "purchase", 2), ("ann", "view_item", 3),
        ("bob", "search", 60),
    )  # fmt: skip
    assert [bought for _, bought in visits.found] == [True, False]
    orders = COLUMNS.numbers.index("earlier orders")
    assert [row.numbers[orders] for row, _ in visits.found] == [1.0, 2.0]


def test_another_session_is_another_visit_and_refunds_belong_to_none() -> None:
    visits = Labels()
    for number, (kind, session) in enumerate([("search", "a"), ("search", ""), ("search", "b"), ("refund", "c")]):
        visits.learn(event(number, "ann", kind, number, session=session), 0.0)
    assert [bought for _, bought in visits.found] == [False]
    assert visits.bounds()["visits"][0] == 1


def test_each_moment_of_a_visit_is_equally_likely_the_one_that_is_learned() -> None:
    visits = Labels()
    for visit in range(1_200):
        for step in range(4):
            visits.learn(event(4 * visit + step, f"s{visit}", "view_item", 60 * visit + step, f"i{step}"), 0.0)
    seen = [row.numbers[0] for row, _ in visits.found]
    for views in (1.0, 2.0, 3.0, 4.0):
        assert seen.count(views) / len(seen) == pytest.approx(0.25, abs=0.04)


def test_what_does_not_count_for_all_shoppers_is_not_learned() -> None:
    visits = Labels()
    for number in range(5):
        one = event(number, "bot", "view_item", number, f"i{number}")
        one.counts = number != 3
        visits.learn(one, 0.0)
    visits.learn(event(9, "ann", "search", 90), 0.0)
    assert visits.found == []


def test_a_row_says_what_was_known_and_nothing_of_later() -> None:
    visits = labels(("ann", "view_item", 0), ("ann", "view_item", 1), ("ann", "add_to_cart", 2), ("ann", "search", 3))
    found = visits.intent("ann", START_MS + 4 * 60_000)
    assert found is not None
    assert found.known["views"] == 2
    assert found.known["items viewed again"] == 1
    assert found.known["items in the cart"] == found.known["searches"] == 1
    assert found.known["minutes"] == 4
    assert found.known["chance of the items"] == pytest.approx(0.1), "the same item is bought once"
    visits.learn(event(9, "ann", "purchase", 5), 0.0)
    ((row, _),) = visits.found
    assert row.numbers[COLUMNS.numbers.index("earlier orders")] == 0


def test_a_login_moves_the_running_visit() -> None:
    visits = labels(("guest", "view_item", 0), ("guest", "add_to_cart", 1), session="s")
    visits.move(Move("guest", "ann", "other"))
    assert visits.intent("ann", START_MS + 60_000) is None
    visits.move(Move("guest", "ann", "s"))
    assert visits.intent("guest", START_MS + 60_000) is None
    found = visits.intent("ann", START_MS + 60_000)
    assert found is not None
    assert found.known["items in the cart"] == 1
    visits.learn(event(9, "ann", "purchase", 2, session="s"), 0.0)
    assert [bought for _, bought in visits.found] == [True]
    visits.move(Move("ann", "guest", "s", taken_back=True))  # the visit is over


def test_tables_keep_their_maxima(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "visits_max", 3)
    monkeypatch.setattr(module, "shoppers_max", 3)
    visits = Labels()
    for number in range(300):
        visits.learn(event(number, f"s{number % 4}", "view_item" if number % 3 else "purchase", number), 0.1)
        for name, (used, maximum) in visits.bounds().items():
            assert used <= maximum, name
    assert visits.found


def test_an_event_from_the_future_does_not_hold_up_the_others() -> None:
    visits = labels(("odd", "search", 600), ("ann", "search", 0), ("bob", "search", 40), ("bob", "search", 41))
    assert len(visits.found) == 1


def shop_of(count: int) -> Shop:
    """Return a shop in which visits with something in the cart end with a purchase, others do not."""
    shop, number = Shop((PurchaseFamily,)), 0
    for visit in range(count):
        carted = visit % 3 == 0
        kinds = ["add_to_cart", "view_item"] if carted else ["view_item", "search"]
        for step, kind in enumerate([*kinds, "purchase"] if carted else kinds):
            shop.learn(event(number, f"s{visit}", kind, 50 * visit + step, f"i{visit % 7}"), 0, number)
            number += 1
    return shop


def asked(shop: Shop, shopper: str) -> IntentAnswer:
    return purchase(shop).intent(PurchaseQuery(shopper), Now(shop.time_ms))


def test_it_answers_with_reasons_and_is_calibrated() -> None:
    count = SETTINGS.first + 400
    shop = shop_of(count)
    shop.learn(event(90_000, "ann", "add_to_cart", 50 * count), 0, 90_000)
    shop.learn(event(90_001, "bob", "view_item", 50 * count), 0, 90_001)
    before = digest(shop.state())
    ann, bob = asked(shop, "ann"), asked(shop, "bob")
    assert digest(shop.state()) == before
    assert ann.probability > 0.8 > 0.2 > bob.probability
    assert ann.answered_by == "visit"
    assert ann.learned == count
    assert ann.base_rate == pytest.approx(1 / 3, abs=0.01)
    assert ann.events == 1
    names = [one.name for one in ann.reasons]
    assert "items in the cart" in names[:2]
    assert ann.base is not None
    shown = ann.base + sum(one.adds for one in ann.reasons)
    assert 1 / (1 + math.exp(-shown)) == pytest.approx(ann.raw["visit"], abs=0.02)
    scores = purchase(shop).scores().intent
    assert scores is not None
    assert scores.window["visit"]["auc"] > 0.8 > scores.window["items"]["auc"]


def test_items_answer_until_enough_visits_were_learned() -> None:
    shop = shop_of(60)
    shop.learn(event(90_000, "ann", "view_item", 3_000), 0, 90_000)
    found = asked(shop, "ann")
    assert (found.answered_by, found.reasons, found.base) == ("items", [], None)


def test_who_is_not_here_is_unknown() -> None:
    shop = shop_of(10)
    with pytest.raises(Unknown, match="wanted a shopper who is visiting"):
        asked(shop, "nobody")
    shop.learn(event(90_000, "ann", "view_item", 500), 0, 90_000)
    assert asked(shop, "ann").events == 1
    with pytest.raises(Unknown):
        purchase(shop).intent(PurchaseQuery("ann"), Now(shop.time_ms + idle_ms + 1))


def test_the_state_is_the_same_however_entries_are_cut_and_continues_after_a_restart() -> None:
    whole, cut = Shop((PurchaseFamily,)), Shop((PurchaseFamily,))
    for number in range(700):
        kind = ("view_item", "search", "add_to_cart", "purchase", "view_item")[number * 7 % 5]
        one = event(number, f"s{number % 23}", kind, number * 3, f"i{number % 9}")
        whole.learn(one, 0, number)
        cut.learn(one, 0, number)
        if number % 50 == 0:
            cut.emit()
        if number == 400:
            again = Shop((PurchaseFamily,))
            again.restore(cut.state(), cut.stamp)
            cut = again
    whole.emit()
    cut.emit()
    assert digest(whole.state()) == digest(cut.state())
