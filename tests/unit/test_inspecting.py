"""What a fold knows of items and shoppers: one by one, and in pages that have each entry once."""

from typing import Any

import pytest

from headrace.events import Data, Event, Item, at
from headrace.items import ItemRecord
from headrace.state import digest
from headrace.surface import Now, Refused, Unknown
from learners.desk.family import Desk, DeskSettings
from learners.family import Moment, Move
from learners.next_item.family import NextItemFamily, NextItemSettings
from learners.next_item.history import History, from_version_2
from learners.next_item.inspecting import (
    AudienceQuery,
    HistoryQuery,
    ItemsQuery,
    KnownItemQuery,
    ShopperQuery,
    ShoppersQuery,
)

TIME_MS = 1_750_000_000_000
NOW = Now(TIME_MS)


def event(type_: Any, shopper: str, items: list[str], time_ms: int) -> Event:
    data = Data([Item(item) for item in items])
    return Event(f"{type_}-{time_ms}", "shop", type_, at(time_ms), data, "1.0", shopper, time_ms, time_ms)


def family(*did: tuple[str, str, str]) -> NextItemFamily:
    """Return a family with a desk, which has learned events of shoppers: type, shopper and item."""
    desk = Desk(DeskSettings(), {})
    found = NextItemFamily(NextItemSettings(), {Desk.name: desk})
    for number, (type_, shopper, item) in enumerate(did):
        found.learn(event(type_, shopper, [item], TIME_MS + number), Moment({}))
    return found


DID = (
    ("view_item", "bob", "boots"), ("add_to_cart", "bob", "boots"), ("purchase", "bob", "boots"),
    ("view_item", "ann", "hat"), ("add_to_wishlist", "ann", "hat"), ("view_item", "ann", "boots"),
)  # fmt: skip


def test_an_item_has_what_is_stated_before_what_lines_say() -> None:
    shop = family(*DID)
    assert shop.desk is not None
    shop.desk.assortment.note(ItemRecord("boots", "Red boots", "Acme", "shoes", {"": 9.5}), TIME_MS - 5)
    found = shop.inspecting.item(KnownItemQuery(item="boots"), NOW)
    assert (found.name, found.brand, found.category, found.price) == ("Red boots", "Acme", "shoes", 9.5)
    assert (found.stated, found.available, found.retired, found.first_ms) == (True, True, False, TIME_MS - 5)
    assert found.popularity == pytest.approx(2, abs=0.01)  # a cart and an order of what was viewed count no further
    only_viewed = shop.inspecting.item(KnownItemQuery(item="hat"), NOW)
    assert (only_viewed.name, only_viewed.price, only_viewed.stated) == ("", None, False)
    with pytest.raises(Unknown):
        shop.inspecting.item(KnownItemQuery(item="never"), NOW)


def test_pages_of_items_have_each_once_in_the_order_of_ids() -> None:
    shop = family(*(("view_item", "ann", f"item-{number % 17:02}") for number in range(40)))
    assert shop.desk is not None
    found, after = list[str](), ""
    while True:
        page = shop.inspecting.items(ItemsQuery(n=5, after=after), NOW)
        found += [one.item_id for one in page.items]
        if not (after := page.next):
            break
        # What comes meanwhile is in a later page if it belongs there.
        shop.desk.assortment.note(ItemRecord("item-99", "New"), TIME_MS)
    assert found == [f"item-{number:02}" for number in range(17)] + ["item-99"]
    assert [one.item_id for one in shop.inspecting.items(ItemsQuery(words="ITEM new"), NOW).items] == ["item-99"]
    assert shop.inspecting.items(ItemsQuery(words="item -0", n=2), NOW).next == "item-01"
    assert shop.inspecting.items(ItemsQuery(words="nothing"), NOW).items == []


def test_a_search_looks_at_a_bounded_number_of_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learners.next_item.inspecting.search_items_max", 10)
    shop = family(*(("view_item", "ann", f"item-{number:02}") for number in range(17)))
    first = shop.inspecting.items(ItemsQuery(words="16"), NOW)
    assert (first.items, first.next) == ([], "item-09")
    second = shop.inspecting.items(ItemsQuery(words="16", after=first.next), NOW)
    assert ([one.item_id for one in second.items], second.next) == (["item-16"], "")


def test_a_shopper_has_what_was_done_with_which_items() -> None:
    shop = family(*DID)
    assert shop.desk is not None
    shop.desk.profiles.note("ann", {"plan": "gold"})
    ann = shop.inspecting.shopper(ShopperQuery(shopper="ann"), NOW)
    assert ann.traits == {"plan": "gold"}
    assert ann.visit == ["hat", "boots"]
    assert [(one.item_id, one.times, one.newest_ms) for one in ann.seen] == [
        ("boots", 1, TIME_MS + 5), ("hat", 2, TIME_MS + 4)
    ]  # fmt: skip
    assert [one.item_id for one in ann.wished] == ["hat"]
    assert ann.carted == ann.bought == []
    bob = shop.inspecting.shopper(ShopperQuery(shopper="bob", n=1), NOW)
    assert [one.item_id for one in bob.carted] == [one.item_id for one in bob.bought] == ["boots"]
    shop.learn(event("remove_from_cart", "bob", ["boots"], TIME_MS), Moment({}))
    assert shop.inspecting.shopper(ShopperQuery(shopper="bob"), NOW).carted == []
    with pytest.raises(Unknown):
        shop.inspecting.shopper(ShopperQuery(shopper="eve"), NOW)


def test_pages_of_shoppers_have_those_of_events_and_of_traits() -> None:
    shop = family(*DID)
    assert shop.desk is not None
    shop.desk.profiles.note("zoe", {"plan": "gold"})
    first = shop.inspecting.shoppers(ShoppersQuery(n=2), NOW)
    assert [(one.shopper, one.seen, one.bought) for one in first.shoppers] == [("ann", 2, 0), ("bob", 1, 1)]
    last = shop.inspecting.shoppers(ShoppersQuery(n=2, after=first.next), NOW)
    assert ([(one.shopper, one.traits) for one in last.shoppers], last.next) == ([("zoe", {"plan": "gold"})], "")


@pytest.mark.parametrize("n", [1, 2, 3, 100])
def test_pages_of_what_was_done_have_each_entry_once(n: int) -> None:
    shop, found, after = family(*DID), list[tuple[str, str, str]](), ""
    while True:
        page = shop.inspecting.history(HistoryQuery(n=n, after=after), NOW)
        assert len(page.entries) <= n
        found += [(one.shopper, one.item_id, one.kind) for one in page.entries]
        if not (after := page.next):
            break
    assert found == [
        ("ann", "boots", "seen"), ("ann", "hat", "seen"), ("ann", "hat", "wished"),
        ("bob", "boots", "bought"), ("bob", "boots", "carted"), ("bob", "boots", "seen"),
    ]  # fmt: skip
    for text in ("?", "abc", "gaNh"):
        with pytest.raises(Refused):
            shop.inspecting.history(HistoryQuery(after=text), NOW)


def test_a_history_of_version_2_goes_on() -> None:
    bounds = {"bought_max": 9, "seen_max": 9, "items_max": 9}
    history = History(**bounds)
    history.learn(event("purchase", "ann", ["hat"], TIME_MS))
    old = {name: part for name, part in history.state().items() if name not in ("carted", "wished")}
    restored = History.from_state(from_version_2(old), **bounds)
    assert digest(restored.state()) == digest(history.state())
    restored.learn(event("add_to_cart", "ann", ["hat"], TIME_MS + 1))
    restored.move(Move("ann", "bob", ""), ())
    again = History.from_state(restored.state(), **bounds)
    assert again.carted.of("bob") == [("hat", TIME_MS + 1, 1)]
    assert again.bounds()["carted_items"] == (1, 9)


def test_an_audience_are_those_who_turned_to_an_item_the_newest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = family(*DID, ("view_item", "cid", "hat"), ("view_item", "ann", "boots"))
    found = shop.inspecting.audience(AudienceQuery(item="boots"), NOW)
    assert [(one.shopper, one.seen, one.bought, one.newest_ms - TIME_MS) for one in found.shoppers] == [
        ("ann", 2, 0, 7), ("bob", 3, 1, 2),
    ]  # fmt: skip
    assert found.looked_at == 3
    assert [one.shopper for one in shop.inspecting.audience(AudienceQuery(item="boots", n=1), NOW).shoppers] == ["ann"]
    monkeypatch.setattr("learners.next_item.inspecting.audience_shoppers_max", 1)
    assert shop.inspecting.audience(AudienceQuery(item="hat"), NOW).looked_at == 1
    with pytest.raises(Unknown):
        shop.inspecting.audience(AudienceQuery(item="never"), NOW)
