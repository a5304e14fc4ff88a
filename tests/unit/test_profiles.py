"""Profiles: what each event says of a shopper, what a login and a refund change, what is forgotten."""

import json
import random
from typing import Any

import pytest

from headrace.events import Data, Event, Item, at
from headrace.log.protocol import Record
from headrace.state import decode, digest, encode
from headrace.surface import Now, Unknown
from headrace.topics import TRAITS as STATED
from learners.desk.family import Desk
from learners.profiles.family import Profile, ProfileQuery, ProfilesFamily, ProfilesSettings
from learners.profiles.record import tastes_full
from learners.profiles.shoppers import half_life_ms
from learners.profiles.traits import KINDS, TRAITS, Leanings, Taste
from learners.shop import Shop

START, MINUTE, HOUR, DAY = 1_736_121_600_000, 60_000, 3_600_000, 86_400_000  # a Monday, 0:00 UTC


class Story:
    """A desk and profiles to which a test tells what happens."""

    def __init__(self, **bounds: int) -> None:
        self.settings = ProfilesSettings(**bounds)
        self.shop = self.empty()
        self.count = 0

    def empty(self) -> Shop:
        return Shop([Desk, ProfilesFamily], {"profiles": self.settings})

    @property
    def family(self) -> ProfilesFamily:
        found = self.shop.families["profiles"]
        assert isinstance(found, ProfilesFamily)
        return found

    def do(self, kind: Any, *lines: Item, who: str = "ann", after: int = 0, **data: Any) -> None:
        """Let something happen; `after` is how long after the start, in milliseconds."""
        time_ms = START + after
        self.count += 1
        event = Event(
            f"e{self.count}", "web", kind, at(time_ms), Data(list(lines), **data), "1.0", who, time_ms, time_ms
        )
        if self.shop.prepare(event):
            self.shop.learn(event, 0, self.count)

    def buy(self, order: str, *lines: Item, **rest: Any) -> None:
        self.do("purchase", *lines, transaction_id=order, **rest)

    def profile(self, who: str = "ann", after: int = 0, most: int = 10) -> Profile:
        now = Now(START + after, known_as=lambda name: self.shop.known_as([name]))
        return self.family.answer(ProfileQuery(who, most), now)

    def value(self, trait: str, who: str = "ann", after: int = 0) -> float | None:
        return self.profile(who, after).traits[trait].value

    def restored(self) -> "Story":
        other = Story()
        other.settings, other.count = self.settings, self.count
        other.shop = other.empty()
        other.shop.restore(decode(encode(self.shop.state())), self.shop.stamp)
        return other


def shares(found: list[Taste]) -> dict[str, float]:
    return {one.value: one.share for one in found}


def test_tastes_are_shares_of_the_evidence() -> None:
    story = Story()
    for _ in range(3):
        story.do("view_item", Item("a", item_category="Toys", item_brand="Acme", price=10.0))
    story.do("add_to_cart", Item("b", item_category="Games", item_brand="Acme", price=20.0))
    story.do("view_item", Item("c"))
    found = story.profile()
    assert shares(found.tastes["category"]) == {"Games": 0.5, "Toys": 0.5}, "a cart counts as three views"
    assert shares(found.tastes["brand"]) == {"Acme": 1.0}
    assert shares(found.tastes["price"]) == {"16-32": 0.5, "8-16": 0.5}
    toys = next(one for one in found.tastes["category"] if one.value == "Toys")
    assert (toys.evidence, toys.since_ms) == (3, START)
    assert toys.confidence == round(6 / (6 + 5), 4)
    assert set(found.tastes) <= set(KINDS)


def test_tastes_decay() -> None:
    story = Story()
    story.do("view_item", Item("a", item_category="Toys"))
    story.do("view_item", Item("b", item_category="Games"), after=half_life_ms)
    tastes = {one.value: one for one in story.profile(after=half_life_ms).tastes["category"]}
    assert (tastes["Toys"].share, tastes["Games"].share) == (round(1 / 3, 4), round(2 / 3, 4))
    later = {one.value: one for one in story.profile(after=2 * half_life_ms).tastes["category"]}
    assert later["Toys"].share == tastes["Toys"].share, "time alone changes no share"
    assert later["Toys"].confidence < tastes["Toys"].confidence, "but evidence becomes old"


def test_weights_stay_finite_over_decades() -> None:
    story = Story()
    for month in range(120):
        story.do("view_item", Item("a", item_category="Toys", price=1.0), after=month * half_life_ms)
    (toys,) = story.profile(after=119 * half_life_ms).tastes["category"]
    assert (toys.share, toys.evidence) == (1.0, 120)
    assert toys.confidence == pytest.approx(2 / (2 + 5), abs=1e-3), "1 + 1/2 + 1/4 + ..."


def test_orders_give_recency_frequency_and_money() -> None:
    story = Story()
    for number, day in enumerate((0, 10, 30)):
        story.buy(f"o{number}", Item("a", price=5.0, quantity=2), Item("b", price=10.0), after=day * DAY)
    found = story.profile(after=40 * DAY).traits
    wanted = {
        "seen_days": 10.0, "known_days": 40.0, "visits": 3.0, "orders": 3.0, "order_days": 10.0, "order_gap_days": 15.0,
        "money": 60.0, "order_value": 20.0, "order_units": 3.0, "orders_per_month": 2.25, "orders_per_visit": 1.0,
        "refunded_share": 0.0, "promoted_share": 0.0,
    }  # fmt: skip
    assert {name: found[name].value for name in wanted} == wanted
    assert found["order_gap_spread"].value == pytest.approx(50**0.5, abs=1e-4)
    assert (found["order_gap_days"].evidence, found["order_gap_days"].confidence) == (2, 0.5)
    assert (found["order_value"].evidence, found["order_value"].since_ms) == (3, START)
    assert set(found) == set(TRAITS)


def test_what_is_not_known_is_null_without_confidence() -> None:
    story = Story()
    story.do("login")
    found = story.profile().traits
    assert {name for name, one in found.items() if one.value is None} == {
        "order_days", "order_gap_days", "order_gap_spread", "order_value", "order_units", "orders_per_month",
        "refunded_share", "price_level", "lowered_share", "promoted_share",
    }  # fmt: skip
    assert all(one.confidence == one.evidence == 0 for one in found.values() if one.value is None)


def test_an_order_in_parts_is_one_and_a_page_that_is_loaded_again_none() -> None:
    story = Story()
    story.buy("o1", Item("a", price=5.0))
    story.buy("o1", Item("b", price=7.0), after=MINUTE)
    story.buy("o1", Item("b", price=7.0), after=2 * MINUTE)
    assert (story.value("orders"), story.value("money")) == (1.0, 12.0)


def test_an_order_without_prices_has_its_value() -> None:
    story = Story()
    story.buy("o1", Item("a"), Item("b", quantity=3), value=20.0)
    assert story.value("money") == 20.0
    story.do("refund", Item("b", quantity=3), transaction_id="o1")
    assert (story.value("money"), story.value("orders")) == (5.0, 1.0)


def test_a_refund_takes_back_what_was_paid() -> None:
    story = Story()
    story.buy("o1", Item("a", price=5.0), Item("b", price=7.0, quantity=2), coupon="SPRING")
    story.do("refund", Item("b", quantity=2), transaction_id="o1", who="desk", after=DAY)
    assert (story.value("money"), story.value("orders"), story.value("refunded_share")) == (5.0, 1.0, round(14 / 19, 4))
    story.do("refund", transaction_id="o1", after=2 * DAY)
    assert (story.value("money"), story.value("orders")) == (0.0, 0.0)
    assert story.profile().traits["promoted_share"].value is None
    assert story.value("seen_days", after=3 * DAY) == 3.0, "a refund is no visit"


def test_a_refund_of_an_order_that_is_not_remembered_takes_back_what_it_states() -> None:
    story = Story(orders_max=1)
    story.buy("o1", Item("a", price=5.0))
    story.buy("o2", Item("b", price=7.0))
    story.do("refund", Item("a", price=5.0), transaction_id="o1")
    assert (story.value("money"), story.value("orders")) == (7.0, 2.0)
    story.do("refund", Item("z", price=50.0), transaction_id="o9")
    assert story.value("money") == 0.0, "never below 0"


def test_rhythm_device_and_channel_are_of_visits() -> None:
    story = Story()
    for minute in (0, 5, 10):
        story.do("view_item", Item("a"), after=9 * HOUR + minute * MINUTE, device="mobile")
    story.do("view_item", Item("a"), after=DAY + 21 * HOUR)
    tastes = story.profile(after=2 * DAY).tastes
    assert {one.value: one.evidence for one in tastes["hour"]} == {"9": 1, "21": 1}
    assert {one.value: one.evidence for one in tastes["weekday"]} == {"Mon": 1, "Tue": 1}
    assert {one.value: one.evidence for one in tastes["device"]} == {"mobile": 1}
    assert {one.value: one.evidence for one in tastes["channel"]} == {"web": 2}


def test_a_visit_ends_after_a_pause_or_with_its_session() -> None:
    story = Story()
    story.do("view_item", Item("a"), session_id="s1")
    story.do("search", search_term="x", after=20 * MINUTE, session_id="s1")
    found = story.profile().visit
    assert found is not None
    assert (found.session_id, found.events, found.views, found.searches) == ("s1", 2, 1, 1)
    story.do("add_to_cart", Item("a"), after=21 * MINUTE, session_id="s2", device="tablet")
    found = story.profile().visit
    assert found is not None
    assert (found.session_id, found.events, found.carts, found.device) == ("s2", 1, 1, "tablet")
    story.do("view_item", Item("a"), after=52 * MINUTE, session_id="s2")
    assert story.value("visits") == 3.0


def test_price_level_is_relative_to_the_category() -> None:
    story = Story()
    for number in range(20):
        story.do("view_item", Item(f"i{number}", item_category="Toys", price=10.0), who=f"s{number}")
    story.do("view_item", Item("dear", item_category="Toys", price=20.0), who="rich")
    story.do("view_item", Item("cheap", item_category="Toys", price=5.0), who="poor")
    level = story.value("price_level", "rich")
    assert level == pytest.approx(2.0, abs=1e-3)
    assert (story.value("price_level", "poor") or 9) < 0.55
    assert story.value("price_level", "s19") == 1.0


def test_promotions_and_lowered_prices_are_counted() -> None:
    story = Story()
    for number in range(10):
        story.buy(f"o{number}", Item("a", price=10.0), who=f"s{number}")
    story.buy("p1", Item("a", price=8.0), coupon="TEN")
    story.do("select_promotion", promotion_id="sale", after=DAY)
    story.buy("p2", Item("a", price=10.0), after=DAY + MINUTE)
    story.buy("p3", Item("a", price=10.0), after=3 * DAY)
    assert story.value("promoted_share") == round(2 / 3, 4)
    assert story.value("lowered_share") == round(1 / 3, 4)


def test_a_login_takes_along_what_the_guest_did() -> None:
    story = Story()
    story.do("view_item", Item("a", item_category="Toys"), who="guest", session_id="s1")
    story.do("login", session_id="s1", after=MINUTE)
    story.do("view_item", Item("b", item_category="Toys"), session_id="s1", after=2 * MINUTE)
    found = story.profile()
    assert found.tastes["category"][0].evidence == 2
    assert (found.traits["visits"].value, found.since_ms) == (1.0, START)
    with pytest.raises(Unknown):
        story.profile("guest")


def test_a_login_leaves_the_guests_other_visits_and_orders() -> None:
    story = Story()
    story.do("view_item", Item("a", item_category="Toys"), who="guest", session_id="s0")
    story.buy("o1", Item("a", price=5.0), who="guest", session_id="s1", after=DAY)
    story.do("login", session_id="s1", after=DAY + MINUTE)
    assert story.value("visits", "guest") == 1.0
    assert (story.value("money", "guest"), story.value("money")) == (5.0, 0.0), "orders are of who placed them"
    assert story.value("visits") == 1.0


def test_a_login_that_is_taken_back_gives_the_guest_the_visit() -> None:
    story = Story()
    story.do("view_item", Item("z", item_category="Games"), session_id="old")
    story.do("view_item", Item("a", item_category="Toys"), who="guest", session_id="s1", after=DAY)
    story.do("login", session_id="s1", after=DAY + MINUTE)
    assert shares(story.profile(after=DAY).tastes["category"])["Toys"] > 0
    story.do("login_undone", session_id="s1", after=DAY + 2 * MINUTE)
    assert "Toys" in shares(story.profile("guest", after=DAY).tastes["category"])
    assert set(shares(story.profile(after=DAY).tastes["category"])) == {"Games"}


def test_what_the_shop_states_is_shown_beside_what_was_learned() -> None:
    story = Story()
    value = json.dumps({"time": "2025-01-06T00:00:00Z", "traits": {"plan": "gold"}}).encode()
    assert story.shop.hear(STATED, Record(0, 0, START, b"bob", value)) is None
    found = story.profile("bob")
    assert (found.stated, found.traits, found.visit) == ({"plan": "gold"}, {}, None)
    story.do("login", who="bob")
    assert story.profile("bob").stated == {"plan": "gold"}
    with pytest.raises(Unknown, match="wanted a shopper of an event"):
        story.profile("nobody")


def test_the_shopper_seen_longest_ago_is_forgotten_first() -> None:
    story = Story(shoppers_max=2)
    for number, who in enumerate(("ann", "bob", "ann", "eve")):
        story.do("view_item", Item("a"), who=who, after=number * MINUTE)
    assert list(story.family.shoppers) == ["ann", "eve"]
    story = Story(tastes_max=8)
    for number, who in enumerate(("ann", "bob", "eve")):
        story.do("view_item", Item("a", item_category="Toys"), who=who, after=number * MINUTE)
    assert list(story.family.shoppers) == ["bob", "eve"], "each has four tastes"
    assert story.family.bounds()["profiles_tastes"] == (8, 8)


def test_leanings_are_the_shares_and_tops_of_the_tastes_those_of_the_visit_included() -> None:
    story = Story()
    story.do("view_item", Item("a", item_category="A=B", item_brand="Acme"))
    for _ in range(3):
        story.do("view_item", Item("b", item_category="Toys"), after=DAY)
    seen = story.family.seen("ann", START + DAY)
    assert seen is not None
    found, told = Leanings(seen), story.profile(after=DAY).tastes
    assert {one.value: round(found.share("category", one.value), 4) for one in told["category"]} == shares(
        told["category"]
    )
    assert (found.top("category"), found.top("brand"), found.top("device")) == ("Toys", "Acme", None)
    assert (found.share("category", "A"), found.share("device", "mobile")) == (0.0, 0.0)


@pytest.mark.parametrize("restart", [False, True])
def test_orders_of_a_forgotten_shopper_are_forgotten(restart: bool) -> None:
    story = Story(shoppers_max=2)
    story.buy("1", Item("a", price=5.0), Item("b", price=7.0))
    if restart:
        story.do("view_item", Item("a"), who="cat", after=HOUR)
        story.settings = ProfilesSettings(shoppers_max=1)
        story = story.restored()
    else:
        for who in ("bob", "cat"):
            story.do("view_item", Item("a"), who=who, after=HOUR)
    assert story.family.bounds()["profiles_orders"][0] == story.family.bounds()["profiles_order_lines"][0] == 0
    story.buy("2", Item("a", price=5.0), after=2 * HOUR)
    story.do("refund", transaction_id="1", after=3 * HOUR)
    assert story.value("orders") == 1, "the order that counts is another one"
    story.do("refund", transaction_id="2", after=4 * HOUR)
    assert (story.value("orders"), story.value("money")) == (0, 0.0)


def test_one_shopper_has_a_bounded_number_of_tastes() -> None:
    story = Story()
    for number in range(1_000):
        category = "kept" if number % 4 == 0 else f"c{number}"
        story.do("view_item", Item("a", item_category=category, item_brand=f"b{number}"), after=number * HOUR)
    known = story.family.shoppers.of("ann")
    assert known is not None
    assert known.size <= 2 * tastes_full
    assert story.profile(after=1_000 * HOUR, most=1).tastes["category"][0].value == "kept"
    assert story.family.bounds()["profiles_tastes"][0] == known.size


def random_events(seed: int, count: int) -> list[tuple[Any, ...]]:
    """Return what happens to a few shoppers: steps, orders, refunds, logins and logins that are taken back."""
    luck, found = random.Random(seed), list[tuple[Any, ...]]()
    for number in range(count):
        who = luck.choice(["ann", "bob", "guest-1", "guest-2"])
        session = luck.choice(["s1", "s2", "s3", ""])
        line = Item(
            f"i{luck.randrange(9)}", item_category=luck.choice(["", "x", "y"]), item_brand=luck.choice(["", "b"]),
            price=luck.choice([None, 1.0, 9.5]),
        )  # fmt: skip
        kind = luck.choice(
            ["view_item", "view_item", "add_to_cart", "purchase", "refund", "login", "login_undone", "search"]
        )
        order = f"o{luck.randrange(12)}" if kind in ("purchase", "refund") else ""
        found.append((kind, line, who, number * luck.choice([MINUTE, 20 * MINUTE, HOUR]), session, order))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_a_restored_state_goes_on_alike_and_counts_stay_right(seed: int) -> None:
    story, after = Story(shoppers_max=3, tastes_max=60, orders_max=5), 0
    happened = random_events(seed, 300)
    other = None
    for number, (kind, line, who, step, session, order) in enumerate(happened):
        after = max(after, step)
        for one in (story, *((other,) if other else ())):
            one.do(kind, line, who=who, after=after, session_id=session, transaction_id=order)
        if number % 60 == 17:
            other = story.restored()
        known = [story.family.shoppers.of(name) for name in story.family.shoppers]
        assert story.family.bounds()["profiles_tastes"][0] == sum(one.size for one in known if one)
        assert all(one.purchases.money >= 0 for one in known if one and one.purchases)
        assert all(one.purchases.orders >= 0 for one in known if one and one.purchases)
    assert other is not None
    assert digest(other.shop.state()) == digest(story.shop.state())
