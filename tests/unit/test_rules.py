"""Rules: what a record may state, and what each rule leaves out of an answer."""

import json
from typing import Any

import pytest

from headrace.events import Data, Event, Item, Rejection, at
from headrace.log.protocol import Record
from headrace.rules import EVERY, RuleSet, StatedRules, decode, merged, record_of
from headrace.state import decode as decode_state
from headrace.state import digest, encode
from headrace.surface import Now
from headrace.topics import ITEMS, RULES
from learners.family import Move
from learners.next_item.answering import ItemList
from learners.next_item.family import NextItemFamily, NextItemSettings
from learners.next_item.history import ItemTimes, shopper_items_max
from learners.next_item.questions import RecommendationQuery
from learners.next_item.rulebook import placements_max
from learners.shop import Shop
from tests.shards import ONLINE, next_item

START_MS = 1_736_121_600_000
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
CATEGORIES = ("Shoes > Boots", "shoes/sandals", "Hats", "")


class Asked:
    """A shop that hears items and rules and learns events, and is asked for recommendations."""

    def __init__(self, **settings: Any) -> None:
        self.settings = {"next_item": NextItemSettings(**settings)}
        self.shop = Shop(ONLINE.kinds, self.settings)
        self.count = self.offset = 0
        self.time_ms = START_MS

    @property
    def family(self) -> NextItemFamily:
        return next_item(self.shop)

    def state_item(self, item: str, **fields: Any) -> None:
        self.shop.hear(ITEMS, Record(0, 0, 0, item.encode(), json.dumps(fields).encode()))

    def state_rules(self, placement: str = EVERY, /, **rules: Any) -> Rejection | None:
        self.offset += 1
        return self.shop.hear(RULES, Record(0, self.offset, 0, placement.encode(), json.dumps(rules).encode()))

    def learn(self, shopper: str, *items: str | Item, kind: Any = "view_item", **data: Any) -> None:
        self.time_ms += MINUTE_MS
        self.count += 1
        lines = [Item(one) if isinstance(one, str) else one for one in items]
        event = Event(
            f"e{self.count}", "test", kind, at(self.time_ms), Data(lines, **data), "1.0", shopper, self.time_ms
        )
        if self.shop.prepare(event):
            self.shop.learn(event, 0, self.count)
        self.shop.emit()

    def answer(self, shopper: str = "stranger", n: int = 20, **more: Any) -> ItemList:
        return self.family.answering.recommend(
            RecommendationQuery(shopper=shopper, n=n, **more), Now(self.time_ms, "id")
        )

    def items(self, shopper: str = "stranger", n: int = 20, **query: Any) -> list[str]:
        return [one.item_id for one in self.answer(shopper, n, **query).items]


@pytest.fixture(scope="module")
def learned() -> Asked:
    """Return a shop with the items i0 to i7, i0 being the most popular, of 4 categories, 2 brands and 8 prices."""
    shop = Asked()
    for number in range(8):
        line = Item(f"i{number}", "", f"Brand {number % 2}", CATEGORIES[number % 4], 10.0 * (number + 1))
        for visitor in range(12 - number):
            shop.learn(f"s{number}-{visitor}", line)
    return shop


@pytest.fixture
def shop(learned: Asked) -> Asked:
    """Return a shop that has learned what `learned` has, and may be changed."""
    shop = Asked()
    shop.shop.restore(learned.shop.state(), learned.shop.stamp)
    shop.count, shop.time_ms = learned.count, learned.time_ms
    return shop


ALL = [f"i{number}" for number in range(8)]


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ({}, ALL),
        ({"hidden": ["i0", "i3"]}, ["i1", "i2", "i4", "i5", "i6", "i7"]),
        ({"categories": {"only": ["shoes"]}}, ["i0", "i1", "i4", "i5"]),
        ({"categories": {"only": ["SHOES / boots", "Hats"]}}, ["i0", "i2", "i4", "i6"]),
        ({"categories": {"never": ["Shoes"]}}, ["i2", "i3", "i6", "i7"]),
        ({"categories": {"only": ["Shoes"], "never": ["Shoes > Boots"]}}, ["i1", "i5"]),
        ({"brands": {"only": ["brand 1"]}}, ["i1", "i3", "i5", "i7"]),
        ({"brands": {"never": ["BRAND 1"]}}, ["i0", "i2", "i4", "i6"]),
        ({"price": {"min": 30, "max": 50}}, ["i2", "i3", "i4"]),
        ({"at_most": {"brand": 2}}, ["i0", "i1", "i2", "i3"]),
        ({"at_most": {"category": 1}}, ["i0", "i1", "i2", "i3", "i7"]),
        ({"pinned": [{"item": "i7", "place": 2}]}, ["i0", "i7", "i1", "i2", "i3", "i4", "i5", "i6"]),
        ({"pinned": [{"item": "i7", "place": 1}], "hidden": ["i7"]}, ALL[:7]),
        ({"pinned": [{"item": "unheard-of", "place": 1}]}, ALL),
        ({"pinned": [{"item": "i0", "place": 30}]}, ALL),
        ({"pinned": [{"item": "i0", "place": 15}]}, [*ALL[1:], "i0"]),
        ({"boosted": [{"items": ["i7"], "factor": 90}]}, ["i7", *ALL[:7]]),
        ({"boosted": [{"brands": ["Brand 1"], "factor": 50}]}, [*ALL[1::2], *ALL[::2]]),
        ({"boosted": [{"categories": ["Hats"], "factor": 50}]}, ["i2", "i6", *ALL[:2], *ALL[3:6], "i7"]),
    ],
)
def test_a_rule_leaves_in_an_answer_what_it_says(shop: Asked, rules: dict[str, Any], left: list[str]) -> None:
    assert shop.state_rules(**rules) is None
    assert shop.items() == left


def test_an_item_without_a_price_or_a_category_cannot_be_shown_to_be_allowed(shop: Asked) -> None:
    shop.learn("ann", "bare")
    shop.state_rules(price={"max": 1_000_000})
    assert "bare" not in shop.items()
    shop.state_rules(price={}, categories={"never": ["Shoes"]})
    assert "bare" in shop.items()


def test_what_the_shop_states_of_an_item_counts_before_what_events_say(shop: Asked) -> None:
    shop.state_rules(brands={"only": ["Stated"]}, price={"max": 5})
    assert shop.items() == []
    shop.state_item("i6", brand="Stated", price="4 EUR")
    assert shop.items() == ["i6"]
    shop.state_item("i6", brand="Stated", price="4 EUR", availability="out_of_stock")
    assert (shop.items(), shop.answer().rules.left_nothing) == ([], ["brands", "out_of_stock"])


def test_an_item_that_nobody_viewed_is_answered_last_unless_it_is_pinned(shop: Asked) -> None:
    shop.state_item("new", title="New")
    assert shop.items() == [*ALL, "new"]
    shop.state_rules(pinned=[{"item": "new", "place": 1}])
    assert shop.items(n=2) == ["new", "i0"]
    shop.state_item("new", title="New", availability="out_of_stock")
    assert shop.items(n=2) == ["i0", "i1"]


def test_relevance_is_traded_for_margin_and_the_answer_says_what_is_kept(shop: Asked) -> None:
    assert shop.answer(n=4).rules.relevance_kept is None
    shop.state_item("i4", cost_of_goods_sold=1)
    shop.state_item("i6", cost_of_goods_sold="69 EUR")  # a price of 70, but a margin of 1
    shop.state_rules(trade={"relevance_min": 1, "margin": 1})
    assert (shop.items(n=4), shop.answer(n=4).rules.relevance_kept) == (ALL[:4], 1.0)
    shop.state_rules(trade={"relevance_min": 0.8, "margin": 1})
    answer = shop.answer(n=4)
    assert "i4" in [one.item_id for one in answer.items]
    assert 0.8 <= (answer.rules.relevance_kept or 0) < 1
    shop.state_item("i4", availability="out_of_stock", cost_of_goods_sold=1)
    assert "i4" not in shop.items(n=4)


@pytest.fixture
def stocked(shop: Asked) -> Asked:
    """Return a shop that has sold two i0 a day, of which few are left, and of i7 are many."""
    shop.state_item("i0", quantity=62)
    shop.state_item("i7", quantity=10_000)
    for day in range(31):
        if day < 30:
            shop.learn(f"buyer-{day}", Item("i0", quantity=2), kind="purchase", transaction_id=f"t{day}")
        shop.learn(f"buyer-{day}", Item("i7"), kind="purchase", transaction_id=f"u{day}")
        shop.time_ms += DAY_MS
    return shop


def test_what_will_soon_be_sold_out_is_left_out_or_demoted(stocked: Asked) -> None:
    shop = stocked
    before = shop.items()
    assert "i0" in before
    shop.state_rules(stock={"least_days": 3})
    assert shop.items() == [item for item in before if item != "i0"], (
        "of the others no level is stated, or many are there"
    )
    assert shop.answer().rules.left_out["stock"] == 1
    shop.state_item("i0", quantity=500)
    assert shop.items() == before
    shop.state_item("i0", quantity=3)
    shop.state_rules(stock={"least_days": 3, "demote": 0.01})
    assert shop.items() == [*(item for item in before if item != "i0"), "i0"]
    shop.state_rules(stock={"least_days": 0.5})
    assert shop.items() == before
    shop.learn("ann", Item("i0", quantity=3), kind="purchase", transaction_id="last")
    assert "i0" not in shop.items(), "none is left, whatever the record says"


def test_relevance_is_traded_for_what_is_plentiful(stocked: Asked) -> None:
    assert stocked.items(n=1) == ["i7"] or stocked.items(n=2)[0] == "i0"
    stocked.state_rules(hidden=["i7"])
    assert stocked.items(n=1) == ["i0"]
    stocked.state_item("i1", quantity=100_000)
    stocked.learn("bob", Item("i1"), kind="purchase", transaction_id="one")
    stocked.time_ms += DAY_MS
    stocked.learn("bob", Item("i2"))
    stocked.state_rules(hidden=["i7"], trade={"relevance_min": 0.05, "stock": 1})
    assert stocked.items(n=1) == ["i1"]


def test_relevance_is_traded_for_items_that_are_new(shop: Asked) -> None:
    shop.time_ms += 2 * DAY_MS
    for visitor in range(4):
        shop.learn(f"new-{visitor}", "i8")
    assert shop.items(n=3)[0] != "i8"
    shop.state_rules(trade={"relevance_min": 0.3, "freshness": 1, "fresh_days": 1})
    assert shop.items(n=3)[0] == "i8"
    shop.state_rules(trade={"relevance_min": 0.3, "freshness": 1, "fresh_days": 3650})
    assert shop.items(n=3)[0] != "i8", "over ten years nothing is new"


def test_relevance_is_traded_for_diversity(shop: Asked) -> None:
    shop.state_rules(boosted=[{"brands": ["Brand 0"], "factor": 100}])
    assert shop.items(n=4) == ALL[::2]
    shop.state_rules(boosted=[{"brands": ["Brand 0"], "factor": 100}], trade={"relevance_min": 0.5, "diversity": 1})
    found = shop.items(n=4)
    assert {"i0", "i1"} <= {*found}
    assert len({number % 4 for number in map(int, (item[1:] for item in found))}) > 2, "of other categories, too"


def test_what_was_bought_comes_back_after_days_and_after_a_refund(shop: Asked) -> None:
    for item in ("i1", "i2", "i3"):
        shop.learn("ann", item, kind="purchase", transaction_id=item)
    shop.time_ms += HOUR_MS
    assert {"i1", "i2", "i3"} < set(shop.items("ann")), "without a rule, only what was just bought is left out"
    shop.state_rules(bought={})
    assert shop.items("ann") == ["i0", *ALL[4:]]
    assert shop.answer("ann").rules.left_out == {"bought": 3}
    shop.learn("ann", kind="refund", transaction_id="i2")
    assert "i2" in shop.items("ann")
    assert "i2" in shop.items("bob")
    shop.time_ms += 40 * DAY_MS
    shop.state_rules(bought={"again_after_days": 41})
    assert "i1" not in shop.items("ann")
    shop.state_rules(bought={"again_after_days": 40})
    assert "i1" in shop.items("ann")
    shop.state_rules(bought={"leave_out": False})
    assert "i1" in shop.items("ann")


def test_an_item_of_two_orders_is_bought_as_long_as_one_is_not_refunded(shop: Asked) -> None:
    shop.state_rules(bought={})
    for order in ("a", "b"):
        shop.learn("ann", "i1", kind="purchase", transaction_id=order)
    shop.time_ms += DAY_MS
    shop.learn("ann", kind="refund", transaction_id="a")
    assert "i1" not in shop.items("ann")
    shop.learn("ann", kind="refund", transaction_id="b")
    assert "i1" in shop.items("ann")


def test_what_was_seen_is_left_out_for_the_visit_for_hours_or_not_at_all(shop: Asked) -> None:
    shop.learn("ann", "i0")
    assert "i0" not in shop.items("ann")
    shop.state_rules(seen={"leave_out": False})
    assert "i0" in shop.items("ann")
    shop.state_rules(seen={"within_hours": 2})
    shop.time_ms += HOUR_MS
    assert "i0" not in shop.items("ann"), "the visit has ended, the hours have not"
    shop.time_ms += HOUR_MS
    assert "i0" in shop.items("ann")


def test_a_login_takes_along_what_the_guest_bought(shop: Asked) -> None:
    shop.state_rules(bought={})
    shop.learn("guest", "i1", kind="purchase", transaction_id="t", session_id="v")
    shop.learn("ann", kind="login", session_id="v")
    shop.time_ms += DAY_MS
    assert "i1" not in shop.items("ann")
    assert "i1" in shop.items("guest")


def test_a_placement_has_its_own_rules_and_inherits_what_they_do_not_state(shop: Asked) -> None:
    shop.state_rules(hidden=["i0"], price={"max": 40})
    shop.state_rules("cart", hidden=["i1"], at_most={"brand": 1})
    assert shop.items() == shop.items(placement="unheard-of") == ["i1", "i2", "i3"]
    assert shop.items(placement="cart") == ["i2", "i3"]
    shop.state_rules("cart", price={})
    answer = shop.answer(placement="cart", n=5)
    assert (answer.placement, answer.rules.version) == ("cart", 3)
    assert [one.item_id for one in answer.items] == ALL[1:6]
    shop.shop.hear(RULES, Record(0, 9, 0, b"cart", None))
    assert (shop.items(placement="cart"), shop.answer(placement="cart").rules.version) == (["i1", "i2", "i3"], 1)
    shop.shop.hear(RULES, Record(0, 10, 0, b"*", b""))
    assert shop.answer(placement="cart").rules.version is None


def test_an_answer_says_what_each_rule_left_out_and_which_left_nothing(shop: Asked) -> None:
    shop.state_rules(hidden=["i0"], price={"max": 20})
    found = shop.answer(exclude=["i1,i2"])
    assert found.items == []
    assert found.rules.left_out == {"exclude": 2, "hidden": 1, "price": 5}
    assert found.rules.left_nothing == ["exclude", "hidden", "price"]
    assert Asked().answer().rules.left_nothing == [], "an empty shop has nothing that could be left out"


def test_a_list_is_filled_from_the_whole_catalogue(shop: Asked) -> None:
    rare = Item("rare", item_category="Rare")
    shop.learn("s", rare)
    for number in range(200):
        for visitor in range(2):
            shop.learn(f"v{number}-{visitor}", f"crowd-{number}")
    assert "rare" not in shop.items(n=100)
    shop.state_rules(categories={"only": ["Rare"]})
    assert shop.items(n=1) == ["rare"]


def test_rules_and_what_was_bought_are_part_of_the_state(shop: Asked) -> None:
    shop.state_rules(bought={}, pinned=[{"item": "i5", "place": 1}])
    shop.state_rules("cart", hidden=["i1"])
    shop.learn("ann", "i2", kind="purchase", transaction_id="t")
    state, stamp = decode_state(encode(shop.shop.state())), shop.shop.stamp
    again = Shop(ONLINE.kinds, shop.settings)
    again.restore(state, stamp)
    assert digest(again.state()) == digest(shop.shop.state())
    before = [shop.answer("ann", placement=name) for name in ("", "cart")]
    shop.shop = again
    assert [shop.answer("ann", placement=name) for name in ("", "cart")] == before


def test_rules_of_too_many_placements_are_rejected_and_the_others_stay(shop: Asked) -> None:
    for number in range(placements_max):
        assert shop.state_rules(f"p{number}", hidden=["i0"]) is None
    rejected = shop.state_rules("one-more", hidden=["i1"])
    assert rejected is not None
    assert "64 placements" in rejected.detail
    assert shop.state_rules("p0", hidden=["i1"]) is None
    assert "i0" not in shop.items(placement="p1")
    assert "i0" in shop.items(placement="p0")


def test_what_is_bought_is_bounded_and_the_shopper_who_bought_least_recently_goes_first() -> None:
    times = ItemTimes(entries_max=3)
    for time_ms, (shopper, item) in enumerate([("ann", "a"), ("bob", "b"), ("ann", "c"), ("eve", "d")]):
        times.note(shopper, item, time_ms)
    assert (times.use(), times.after("bob", None), times.after("ann", None)) == ((3, 3), [], ["a", "c"])
    one = ItemTimes(entries_max=5_000)
    for number in range(shopper_items_max + 1):
        one.note("ann", f"i{number}", number)
    assert one.use()[0] == shopper_items_max
    assert "i0" not in one.after("ann", None)


def test_a_login_that_is_taken_back_moves_the_session_s_items_alone() -> None:
    family = next_item(Shop(ONLINE.kinds))
    for item in ("a", "b"):
        family.history.bought.note("ann", item, 1)
    family.history.move(Move("ann", "guest", "v", taken_back=True), ["b", "c"])
    assert family.history.bought.after("ann", None) == ["a"]
    assert family.history.bought.after("guest", None) == ["b"]


@pytest.mark.parametrize(
    ("document", "wanted"),
    [
        ("{", "not_json"),
        ("[]", "Expected `object`, got `array`"),
        ('{"hiden": []}', "unknown field `hiden`"),
        ('{"price": {"min": 9, "max": 3}}', "wanted min of at most max, found 9 and 3 - at `$.price`"),
        ('{"price": {"min": -1}}', "at `$.price.min`"),
        ('{"at_most": {"brand": 0}}', "at `$.at_most.brand`"),
        ('{"pinned": [{"item": "a", "place": 1}, {"item": "b", "place": 1}]}', "wanted each place once, found 1 twice"),
        (
            '{"pinned": [{"item": "a", "place": 1}, {"item": "a", "place": 2}]}',
            "wanted each item once, found 'a' twice",
        ),
        ('{"boosted": [{"factor": 2}]}', "wanted items, categories or brands, found none - at `$.boosted[0]`"),
        ('{"boosted": [{"factor": 0, "items": ["a"]}]}', "at `$.boosted[0].factor`"),
        ('{"trade": {"margin": 1}}', "missing required field `relevance_min`"),
        ('{"trade": {"relevance_min": 1.5, "margin": 1}}', "at `$.trade.relevance_min`"),
        ('{"trade": {"relevance_min": 0.9}}', "wanted a weight of margin, freshness, diversity, exposure or stock"),
        ('{"bought": {"leave_out": false, "again_after_days": 3}}', "at `$.bought`"),
        ('{"categories": {"only": [" > "]}}', "at `$.categories.only[0]`"),
        ('{"brands": {"only": [" "]}}', "at `$.brands.only[0]`"),
    ],
)
def test_a_document_that_cannot_be_used_says_where(document: str, wanted: str) -> None:
    found = decode(Record(0, 0, 0, b"cart", document.encode()))
    assert isinstance(found, Rejection)
    assert wanted in f"{found.reason}: {found.detail}"


@pytest.mark.parametrize(
    ("key", "reason"), [(None, "key_missing"), (b"", "key_missing"), (b"a b", "key_invalid"), (b"\xff", "bad_utf8")]
)
def test_the_key_is_a_placement_s_name(key: bytes | None, reason: str) -> None:
    found = decode(Record(0, 0, 0, key, b"{}"))
    assert isinstance(found, Rejection)
    assert found.reason == reason


def test_what_is_written_is_what_is_read() -> None:
    rules = merged(RuleSet(by="ann", why="sale", hidden=("a",)), RuleSet())
    record = record_of("cart", rules)
    assert decode(Record(0, 5, 0, record.key, record.value)) == StatedRules("cart", 5, rules)
    assert record_of(EVERY, None).value is None
