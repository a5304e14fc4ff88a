"""What a shop states of its items: it completes events, and decides which items answers may have."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from headrace.events import Data, Event, Item, at
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Outgoing, Record
from headrace.shard.blobs import Blobs
from headrace.shard.checks import check_folds
from headrace.shard.loop import Loop, LoopSettings
from headrace.state import decode, digest, encode
from headrace.surface import Now
from headrace.topics import ITEMS
from learners.desk.family import Desk, DeskSettings
from learners.families import FAMILIES
from learners.next_item.family import NextItemFamily
from learners.purchase.family import PurchaseFamily, PurchaseQuery
from learners.shop import Shop
from tests.shards import ONLINE, next_item, online, purchase, rounds

START_MS = 1_736_121_600_000
MINUTE_MS = 60_000


class Stream:
    """A shop that hears items and learns events, one a minute; families of both default shards."""

    def __init__(self, **settings: Any) -> None:
        self.shop = Shop(FAMILIES, {"desk": DeskSettings(**settings)})
        self.count = 0

    @property
    def desk(self) -> Desk:
        desk = self.shop.families["desk"]
        assert isinstance(desk, Desk)
        return desk

    def state_item(self, item: str, /, **fields: Any) -> None:
        self.hear(item, json.dumps(fields).encode())

    def hear(self, item: str, value: bytes | None) -> None:
        self.shop.hear(ITEMS, Record(0, 0, 0, item.encode(), value))

    def learn(self, shopper: str, *lines: Item, kind: Any = "view_item", **data: Any) -> Event:
        time_ms = START_MS + self.count * MINUTE_MS
        event = Event(f"e{self.count}", "test", kind, at(time_ms), Data(list(lines), **data), "1.0", shopper, time_ms)
        self.count += 1
        assert self.shop.prepare(event)
        self.shop.learn(event, 0, self.count)
        self.shop.emit()
        return event

    def answer(self, shopper: str = "stranger", n: int = 5) -> list[str]:
        return [item for item, _ in next_item(self.shop).recommend(shopper, self.shop.time_ms, n)]

    def again(self) -> None:
        """Go on with a shop that was restored from the bytes of this one's state."""
        state, stamp = decode(encode(self.shop.state())), self.shop.stamp
        self.shop = Shop(FAMILIES, {"desk": self.desk._settings})
        self.shop.restore(state, stamp)


@pytest.fixture
def stream() -> Stream:
    return Stream()


BOOTS = {"title": "Red boots", "brand": "Acme", "product_type": "shoes", "price": "50.00 EUR"}


@pytest.mark.parametrize("kind", ["view_item", "purchase", "add_to_cart", "view_item_list"])
def test_a_line_has_what_the_shop_states_where_the_event_states_nothing(stream: Stream, kind: str) -> None:
    stream.state_item("boots", **BOOTS)
    event = stream.learn("ann", Item("boots"), Item("boots", "Old boots", price=9.0), Item("hat"), kind=kind)
    complete, own, unknown = event.data.items
    assert complete == Item("boots", "Red boots", "Acme", "shoes", 50.0)
    assert own == Item("boots", "Old boots", "Acme", "shoes", 9.0)
    assert unknown == Item("hat")


def test_a_record_replaces_the_one_before(stream: Stream) -> None:
    stream.state_item("boots", **BOOTS)
    stream.state_item("boots", title="Blue boots")
    assert stream.learn("ann", Item("boots")).data.items == [Item("boots", "Blue boots")]


def test_a_level_alone_is_noted_and_is_nothing_new(stream: Stream) -> None:
    changed: list[str] = []
    stream.state_item("boots", **BOOTS, quantity=5)
    stream.desk.assortment.watch = changed.append
    before = stream.desk.stated("boots")
    for quantity, told in ((4, 0), (4, 0), (0, 1), (3, 2)):
        stream.state_item("boots", **BOOTS, quantity=quantity)
        found = stream.desk.stated("boots")
        assert before is not None
        assert found == replace(before, quantity=quantity, available=quantity > 0)
        assert len(changed) == told
    stream.again()
    assert stream.desk.stated("boots") == found


def test_a_line_without_a_price_has_that_of_the_sale_while_it_lasts(stream: Stream) -> None:
    sale = {"sale_price": 40, "sale_price_effective_date": "2025-01-06T00:01Z/2025-01-06T00:02Z"}
    stream.state_item("boots", price=50, **sale)
    assert at(START_MS).isoformat() == "2025-01-06T00:00:00+00:00"
    assert [stream.learn("ann", Item("boots")).data.items[0].price for _ in range(3)] == [50.0, 40.0, 50.0]


def test_a_line_s_price_is_in_the_shop_s_currency() -> None:
    stream = Stream(currency="EUR", rates={"USD": 0.5})
    stream.state_item("both", price={"USD": 30, "EUR": 20})
    stream.state_item("dollars", price="30 USD")
    stream.state_item("pounds", price="30 GBP")
    lines = [Item(name) for name in ("both", "dollars", "pounds")]
    found = stream.learn("ann", *lines, currency="USD").data
    assert ([line.price for line in found.items], found.currency) == ([20.0, 15.0, None], "EUR")
    # The amounts of a currency without a rate are dropped; the shop's own prices stand in for them.
    assert stream.learn("ann", Item("both", price=3_000.0), currency="JPY").data.items[0].price == 20.0


def test_without_a_setting_the_first_currency_stated_is_the_shop_s(stream: Stream) -> None:
    stream.state_item("boots", price="50 EUR")
    stream.state_item("hat", price="20 USD")
    assert [line.price for line in stream.learn("ann", Item("boots"), Item("hat")).data.items] == [50.0, None]


def test_an_item_that_is_out_of_stock_leaves_all_answers_and_comes_back(stream: Stream) -> None:
    for n in range(40):
        stream.learn(f"s{n}", Item("hit"))
        stream.learn(f"s{n}", Item(f"i{n % 4}"))
    assert stream.answer()[0] == "hit"
    stream.learn("ann", Item("i1"))
    assert "hit" in stream.answer("ann")
    stream.state_item("hit", availability="out_of_stock")
    assert "hit" not in stream.answer() + stream.answer("ann")
    assert len(stream.answer()) == 4
    stream.state_item("hit", availability="in_stock")
    assert stream.answer()[0] == "hit"
    stream.hear("hit", None)
    assert "hit" not in stream.answer()


def test_enough_items_are_answered_where_the_most_popular_ones_are_gone(stream: Stream) -> None:
    leaders = 100
    for n in range(leaders):
        for _ in range(2):
            stream.learn(f"s{n}", Item(f"popular-{n}"))
            stream.learn(f"s{n}", Item(f"popular-{(n + 1) % leaders}"))
    for n in range(5):
        stream.learn(f"t{n}", Item(f"rare-{n}"))
    for n in range(leaders):
        stream.hear(f"popular-{n}", None)
    assert sorted(stream.answer(n=20)) == [f"rare-{n}" for n in range(5)]


def test_scores_do_not_depend_on_what_is_available(stream: Stream) -> None:
    other = Stream()
    other.hear("hit", None)
    for n in range(20):
        for one in (stream, other):
            one.learn(f"s{n}", Item("hit"))
            one.learn(f"s{n}", Item(f"i{n % 4}"))
    assert digest(next_item(stream.shop).state()) == digest(next_item(other.shop).state())


def test_a_purchase_s_chance_is_given_for_available_items_alone(stream: Stream) -> None:
    stream.learn("ann", Item("boots"))
    stream.learn("ann", Item("hat"))

    def items() -> list[str]:
        found = purchase(stream.shop).answer(PurchaseQuery("ann"), Now(stream.shop.time_ms))
        return [one.item_id for one in found.items]

    assert items() == ["hat", "boots"]
    stream.state_item("hat", availability="out of stock")
    assert items() == ["boots"]


def test_a_family_without_a_desk_answers_with_every_item() -> None:
    shop = Shop([NextItemFamily, PurchaseFamily])
    shop.hear(ITEMS, Record(0, 0, 0, b"boots", None))
    event = Event("1", "test", "view_item", at(START_MS), Data([Item("boots")]), "1.0", "ann", START_MS)
    shop.learn(event, 0, 0)
    assert [item for item, _ in next_item(shop).recommend("bob", START_MS, 1)] == ["boots"]
    assert [one.item_id for one in purchase(shop).answer(PurchaseQuery("ann"), Now(START_MS)).items] == ["boots"]


def test_a_renamed_item_has_its_new_name_category_and_price_before_any_further_event(stream: Stream) -> None:
    stream.learn("ann", Item("lamp", "desk lamp", item_category="light", price=10.0))
    stream.learn("ann", Item("boots", "red boots", item_category="shoes", price=20.0))
    for browsing in (next_item(stream.shop).browsing, rounds(stream.shop).browsing):
        before = browsing.traits_of(["lamp"], ["boots"], 0, stream.shop.time_ms)
        assert before[0, 3] == before[0, 8] == 0
    stream.state_item("lamp", title="red boots", product_type="shoes", price=30.0)
    for browsing in (next_item(stream.shop).browsing, rounds(stream.shop).browsing):
        after = browsing.traits_of(["lamp"], ["boots"], 0, stream.shop.time_ms)
        assert after[0, 3] == 255, "the category is the last item's"
        assert after[0, 8] >= 254, "the name is the last item's"
        assert browsing.attributes_of(["lamp"]).prices.tolist() == [30.0]


def test_a_model_is_told_again_of_an_item_whose_category_is_stated(stream: Stream) -> None:
    stream.learn("ann", Item("lamp"))
    stream.learn("ann", Item("boots", item_category="shoes"))
    browsing = next_item(stream.shop).browsing
    told = browsing.catalogue.admitted
    stream.state_item("boots", title="Boots", product_type="shoes")
    stream.state_item("never-seen", product_type="light")
    assert browsing.catalogue.since(told) == []
    stream.state_item("lamp", product_type="light")
    assert browsing.catalogue.since(told) == ["lamp"]


def test_an_item_that_nobody_has_seen_is_answered_last(stream: Stream) -> None:
    stream.learn("ann", Item("boots"))
    stream.state_item("hat", title="Hat")
    assert stream.answer() == ["boots", "hat"]
    stream.state_item("hat", title="Hat", availability="out_of_stock")
    assert stream.answer() == ["boots"]


def test_a_restated_item_changes_nothing(stream: Stream) -> None:
    for name in ("boots", "hat", "lamp"):
        stream.state_item(name, **BOOTS)
    stream.learn("ann", Item("boots"))
    before = digest(stream.shop.state())
    for name in ("lamp", "hat", "boots"):
        stream.state_item(name, **BOOTS, condition="new")
    assert digest(stream.shop.state()) == before
    stream.state_item("hat", **BOOTS | {"brand": "Other"})
    assert digest(stream.shop.state()) != before


def test_the_items_changed_or_used_least_recently_are_forgotten() -> None:
    stream = Stream(items_max=3)
    for name in ("a", "b", "c"):
        stream.state_item(name, availability="out_of_stock")
    stream.learn("ann", Item("a"))
    stream.state_item("b", availability="out_of_stock", title="B")
    stream.state_item("d", availability="out_of_stock")
    assert [stream.desk.available(name) for name in ("a", "b", "c", "d")] == [False, False, True, False]
    assert stream.desk.bounds()["desk_items"] == (3, 3)


def test_a_whole_feed_is_heard_in_few_turns_and_every_fold_of_the_journal_hears_the_same(tmp_path: Path) -> None:
    log, blobs = MemoryLog(), Blobs(tmp_path)
    log.create()
    appender = log.appender()
    for n in range(12_000):
        value = json.dumps({"title": f"Item {n}", "price": n / 100, "availability": "out_of_stock"}).encode()
        appender.append(Outgoing(ITEMS, f"i{n}".encode(), value))
    appender.close()
    settings = LoopSettings(commit_interval_s=0.0, idle_wait_s=0.0, snapshot_interval_s=0.0)
    with closing(Loop(log, blobs, ONLINE.shard, make=online(), settings=settings)) as loop:
        desk = loop.fold.families["desk"]
        assert isinstance(desk, Desk)
        turns = 0
        while desk.available("i11999"):
            loop.step()
            turns += 1
        loop.run(lambda: True)
        loop.run(lambda: True)
    assert turns == 3
    follower = check_folds(log, blobs, ONLINE.shard, make=online())
    assert follower.fold.bounds()["desk_items"][0] == 12_000


def test_a_record_that_cannot_be_used_is_counted_and_changes_nothing(stream: Stream) -> None:
    stream.state_item("boots", **BOOTS)
    before = digest(stream.shop.state())
    for value in (b"noise", b"{", b'{"id": 5}'):
        stream.hear("boots", value)
    assert digest(stream.shop.state()) == before
    assert dict(stream.desk.rejections()) == {("not_json",): 2, ("schema",): 1}


def test_what_was_stated_outlives_a_restart(stream: Stream) -> None:
    stream.learn("ann", Item("boots"))
    stream.state_item("boots", **BOOTS, availability="out_of_stock")
    stream.state_item("hat", price={"USD": 30, "GBP": 20})
    before = digest(stream.shop.state())
    stream.again()
    assert digest(stream.shop.state()) == before
    assert stream.answer() == ["hat"]
    assert stream.learn("ann", Item("boots")).data.items == [Item("boots", "Red boots", "Acme", "shoes", 50.0)]


@pytest.mark.parametrize("availability", ["in_stock", "out_of_stock"])
def test_a_discontinued_item_leads_for_strangers_until_the_shop_states_it(stream: Stream, availability: str) -> None:
    """Viewed 400 times in ten hours, then never again: for a week it would lead, as no event tells that it is gone."""
    for n in range(600):
        stream.learn(f"u{n}", Item("gone" if n % 3 < 2 else f"x{n % 12}"))
    for n in range(150):
        stream.learn(f"v{n}", Item(f"x{n % 12}"))
    assert stream.answer()[0] == "gone"
    stream.state_item("gone", availability=availability)
    assert (stream.answer()[0] == "gone") == (availability == "in_stock")
    assert len(stream.answer()) == 5
