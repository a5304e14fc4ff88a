"""What real shops send: inputs after public reports that once went wrong, from the log to the answers.

Each is written here as a shop's producers would send it, and learned by the online shard's loop.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from headrace.log.memory import MemoryLog
from headrace.log.protocol import Outgoing
from headrace.shard.blobs import Blobs
from headrace.shard.checks import check_covered, check_folds
from headrace.shard.loop import Loop, LoopSettings
from headrace.shard.turn import Turn
from headrace.state import digest
from headrace.topics import EVENTS
from learners.shop import Shop
from tests.shards import ONLINE, next_item, online, purchase

START = datetime(2026, 3, 1, 10, tzinfo=UTC)
SIX = [f"i{n}" for n in range(1, 7)]

Sent = dict[str, Any]


def sent(kind: str, shopper: str, after_s: float, *items: str, **data: Any) -> Sent:
    """Return an event as a producer sends it."""
    lines = [{"item_id": item, "price": 5.0} for item in items]
    when = (START + timedelta(seconds=after_s)).isoformat()
    return {
        "specversion": "1.0", "source": "shop/web", "type": kind, "subject": shopper, "time": when,
        "data": {**data, **({"items": lines} if lines else {})},
    }  # fmt: skip


def crowd(shoppers: int = 30, items: Iterable[str] = tuple(SIX), gap_s: float = 5.0) -> Iterator[Sent]:
    """Yield the visits of shoppers one after another, who all view the same items."""
    views = [(f"c{n}", item) for n in range(shoppers) for item in items]
    for number, (shopper, item) in enumerate(views):
        yield sent("view_item", shopper, number * gap_s, item)


def later(after_s: float, count: int = 300) -> Iterator[Sent]:
    """Yield the events of somebody who comes much later, so that the shop's time goes on."""
    for number in range(count):
        yield sent("login", "late", after_s + number)


class Outcome:
    """What became of the events: the fold, and the counts of all turns."""

    def __init__(self, shop: Shop, turns: list[Turn]) -> None:
        self.shop = shop
        self.learned, self.unused, self.lines_dropped, self.duplicates = (
            sum(getattr(turn, name) for turn in turns) for name in ("learned", "unused", "lines_dropped", "duplicates")
        )
        self.rejected: Counter[str] = Counter()
        for turn in turns:
            self.rejected.update(turn.rejected)

    def recommended(self, shopper: str, n: int = 20) -> list[str]:
        return [item for item, _ in next_item(self.shop).recommend(shopper, self.shop.time_ms, n)]

    def base_rate(self) -> float | None:
        return purchase(self.shop).probability.scores("whole").get("base_rate")


Learn = Callable[..., Outcome]


@pytest.fixture
def learn(tmp_path: Path) -> Learn:
    """Return what learns events by the online shard's loop, and checks that a fold of its journal gives the same.

    Several arguments are published one after another, each once the shard has learned those before.
    """

    def learn_(*waves: Iterable[Sent]) -> Outcome:
        log, blobs, turns, count = MemoryLog(), Blobs(tmp_path / "blobs"), list[Turn](), 0
        log.create()
        settings = LoopSettings(commit_interval_s=0.0, idle_wait_s=0.0)
        with closing(Loop(log, blobs, ONLINE.shard, make=online(), settings=settings)) as loop:
            loop.on_turn = turns.append
            for wave in waves:
                with closing(log.appender()) as appender:
                    for one in wave:
                        count += 1
                        document = json.dumps({"id": f"e{count}", **one}).encode()
                        appender.append(Outgoing(EVENTS, (one["subject"] or "x").encode(), document))
                deadline = time.monotonic() + 60
                while sum(turn.records for turn in turns) < count:
                    assert time.monotonic() < deadline
                    loop.step()
            loop.run(lambda: True)
            check_covered(log, ONLINE.shard)
            again = check_folds(log, blobs, ONLINE.shard, make=online())
            assert digest(again.fold.state()) == digest(loop.fold.state())
            return Outcome(loop.fold, turns)

    return learn_


# Clocks


def anna(after_s: float) -> list[Sent]:
    return [sent("view_item", "anna", after_s + 5 * number, item) for number, item in enumerate(("i1", "i2", "i3"))]


@pytest.mark.parametrize("ahead_s", [120, 59 * 60 + 55, 7 * 3_600, 400 * 86_400])
def test_a_fast_phone_of_one_shopper_does_not_end_the_visits_of_others(learn: Learn, ahead_s: int) -> None:
    with_it = learn([*crowd(), *anna(905), sent("view_item", "skewed", 920 + ahead_s, "i6")])
    without = learn([*crowd(), *anna(905)])
    assert with_it.recommended("anna") == without.recommended("anna") == ["i4", "i5", "i6"]
    assert with_it.recommended("skewed")[-1] != "i6"


@pytest.mark.parametrize("ahead_s", [7 * 3_600, 20 * 86_400])
def test_one_event_far_ahead_expires_no_labels(learn: Learn, ahead_s: int) -> None:
    views = [sent("view_item", f"b{n}", n, f"p{n % 10}") for n in range(300)]
    purchases = [sent("purchase", f"b{n}", 400 + n, f"p{n % 10}") for n in range(300)]
    far = sent("view_item", "far", 350 + ahead_s, "p0")
    found = learn([*views, far, *purchases, *later(30_000)])
    assert found.base_rate() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("fast_s", [120, 3_600, -3_600])
def test_views_by_the_phones_clock_and_purchases_by_the_servers_are_sales(learn: Learn, fast_s: int) -> None:
    events = []
    for n in range(200):
        events.append(sent("view_item", f"b{n}", 10 * n + fast_s, f"p{n % 10}"))
        events.append(sent("purchase", f"b{n}", 10 * n + 60, f"p{n % 10}"))
    assert learn([*events, *later(30_000)]).base_rate() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("slow_s", [1_900, 3_600, -3_600])
def test_a_phone_with_another_clock_than_the_server_brings_nothing_back(learn: Learn, slow_s: int) -> None:
    phone = [sent("view_item", "amy", 905 + 5 * n - slow_s, item) for n, item in enumerate(("i1", "i2", "i3"))]
    found = learn([*crowd(), *phone, sent("purchase", "amy", 925, "i3"), sent("view_item", "amy", 930 - slow_s, "i4")])
    assert sorted(found.recommended("amy")) == ["i5", "i6"]


def test_a_clock_that_is_set_right_and_an_event_that_was_sent_late_bring_nothing_back(learn: Learn) -> None:
    seen = zip((905 - 5_400, 910 - 5_400, 915), ("i1", "i2", "i3"), strict=True)
    late = [
        sent("view_item", "bob", 905, "i1"),
        sent("view_item", "bob", -4_500, "i2"),
        sent("view_item", "bob", 910, "i3"),
    ]
    found = learn([*crowd(), *(sent("view_item", "ann", after_s, item) for after_s, item in seen), *late])
    assert sorted(found.recommended("ann")) == sorted(found.recommended("bob")) == ["i4", "i5", "i6"]


def test_history_that_is_loaded_into_a_live_shop_closes_nobodys_views(learn: Learn) -> None:
    views = [sent("view_item", f"b{n}", n, f"p{n % 10}") for n in range(300)]
    month_ago = [sent("view_item", f"old-{n}", n - 30 * 86_400, "p0") for n in range(60)]
    purchases = [sent("purchase", f"b{n}", 400 + n, f"p{n % 10}") for n in range(300)]
    found = learn(views, month_ago, purchases, later(30_000))
    rate = found.base_rate()
    assert rate is not None
    assert rate > 0.8, "300 of 360 were bought"


# The published contract


def test_null_is_absent_for_what_is_optional(learn: Learn) -> None:
    names = ("item_name", "item_brand", "item_category", "price", "quantity", "index", "item_list_id", "propensity")
    events = [sent("view_item", f"s-{name}", n, "a") for n, name in enumerate(names)]
    for one, name in zip(events, names, strict=True):
        one["data"]["items"][0][name] = None
    of_data = ["session_id", "currency", "value", "transaction_id", "coupon", "search_term", "rating", "made_up"]
    events += [sent("view_item", f"d-{name}", n, "a", **{name: None}) for n, name in enumerate(of_data)]
    events.append({**sent("view_item", "x", 9, "a"), "subject": None})
    found = learn(events)
    assert (found.learned, found.rejected) == (17, {})


def test_a_line_that_cannot_be_used_costs_the_line(learn: Learn) -> None:
    order = sent("purchase", "s1", 1, "carrots", "bread", "tv", "gift-wrap")
    for line, quantity in zip(order["data"]["items"], (1.85, 1, 1.0, 0), strict=True):
        line["quantity"] = quantity
    order["data"]["items"].append(None)
    found = learn([order, *crowd(1)])
    assert (found.learned, found.lines_dropped, found.rejected) == (7, 2, {})
    assert next_item(found.shop).browsing.catalogue.slot("tv") is not None
    assert next_item(found.shop).browsing.catalogue.slot("gift-wrap") is None


def test_a_leap_second_and_whole_numbers_with_a_point_are_valid(learn: Learn) -> None:
    leap = {**sent("view_item", "leap", 0, "a"), "time": "2016-12-31T23:59:60Z"}
    whole = sent("view_item", "whole", 1, "a")
    whole["data"]["items"][0] |= {"quantity": 2.0, "index": 0.0}
    assert learn([leap, whole]).rejected == {}


# Visits


def test_what_was_seen_in_a_visit_never_comes_back_however_long_it_is(learn: Learn) -> None:
    items = [f"v{n:02}" for n in range(60)]
    views = [sent("view_item", "anna", 10_000 + 5 * n, item) for n, item in enumerate(items[:58])]
    found = learn([*crowd(16, items), *views, sent("purchase", "buyer", 10_300, *items)])
    assert sorted(found.recommended("anna")) == ["v58", "v59"]
    assert found.recommended("buyer") == []
    assert found.recommended("stranger") != []


def test_two_devices_of_one_shopper_are_one_visit(learn: Learn) -> None:
    views = [("desk", "i1"), ("phone", "i4"), ("desk", "i2"), ("phone", "i5"), ("desk", "i3")]
    bob = [sent("view_item", "bob", 1_000 + 5 * n, item, session_id=name) for n, (name, item) in enumerate(views)]
    found = learn([*crowd(), *bob])
    assert found.recommended("bob") == ["i6"]
    context = next_item(found.shop).browsing.contexts.newest("bob", found.shop.time_ms)
    assert next_item(found.shop).browsing.ids(context.items[context.start :]) == ["i1", "i2", "i3"]


def test_a_visit_ends_by_the_shops_time(learn: Learn) -> None:
    found = learn([*crowd(), *anna(905), *later(905 + 3_600)])
    assert found.shop.time_ms > (START.timestamp() + 4_500) * 1_000
    assert {"i1", "i2", "i3"} & set(found.recommended("anna"))


def test_what_is_no_step_keeps_a_visit_open(learn: Learn) -> None:
    steps = [sent("view_item", "anna", 905, "i1"), *(sent("begin_checkout", "anna", 905 + 1_500 * n) for n in (1, 2))]
    others = [sent("login", f"u{n}", 905 + 10 * n) for n in range(1, 420)]
    found = learn(
        sorted([*crowd(), *steps, *others, sent("view_item", "anna", 5_000, "i2")], key=lambda one: one["time"])
    )
    assert sorted(found.recommended("anna")) == ["i3", "i4", "i5", "i6"]


def test_a_long_visit_of_a_guest_goes_along(learn: Learn) -> None:
    items = [f"v{n:02}" for n in range(60)]
    visit = [
        sent("view_item", "guest", 10_000 + n, item, session_id="S") for n, item in enumerate([*items[:58], "v03"])
    ]
    found = learn([*crowd(16, items), *visit], [sent("login", "user", 10_100, session_id="S")])
    assert sorted(found.recommended("user")) == ["v58", "v59"]


# GA4


def test_placeholders_are_missing_values(learn: Learn) -> None:
    views = [sent("view_item", f"u{n}", n, "(not set)" if n % 12 == 0 else f"p{n % 7}") for n in range(240)]
    for one in views[::5]:
        one["data"]["items"][0]["item_category"] = "(other)"
    mixed = sent("purchase", "buyer", 400, "p1", "(not set)", transaction_id="(not set)")
    found = learn([*views, mixed, {**mixed, "subject": "other"}])
    assert (found.learned, found.unused, found.lines_dropped, found.rejected) == (222, 20, 2, {})
    assert "(not set)" not in found.recommended("stranger")
    assert next_item(found.shop).browsing.attributes_of(["p1"]).categories[0] == 0


def test_a_ga4_stream_as_it_comes_is_no_flood(learn: Learn) -> None:
    kinds = ("page_view", "scroll", "user_engagement", "session_start", "first_visit", "view_item", "click")
    events = [
        sent(kind, f"u{n % 50}", n, *(["p1"] if kind == "view_item" else []), engagement_time_msec="17")
        for n, kind in enumerate(kinds * 1_000)
    ]
    found = learn(events)
    assert (found.learned, found.unused, found.rejected) == (1_000, 6_000, {})


def test_placeholders_of_numbers_are_missing_values(learn: Learn) -> None:
    order = sent("purchase", "zoe", 0, "a", currency="(not set)", value="(not set)", transaction_id="T")
    order["data"]["items"][0] |= {"price": "(not set)", "quantity": "(other)"}
    assert (found := learn([order])).rejected == {}
    assert found.learned == 1


def test_a_shops_own_event_names_are_dead_letters_but_no_flood(learn: Learn) -> None:
    events = [
        sent(kind, f"u{n % 50}", n, "p1") for n, kind in enumerate(("size_selected", "gtm.js", "view_item") * 3_000)
    ]
    found = learn(events)
    assert (found.learned, found.rejected) == (3_000, {"unknown_event": 6_000})


def test_an_order_page_that_is_loaded_again_is_one_purchase(learn: Learn) -> None:
    pages = [sent("purchase", "zoe", 900 + day * 86_400, "i9", transaction_id="T-77", value=5.0) for day in range(4)]
    found = learn([*crowd(20), *pages])
    assert (found.learned, found.unused) == (121, 3)
    assert found.recommended("stranger")[-1] == "i9"
    assert purchase(found.shop).propensity._shoppers["zoe"].purchases == 1


# Shoppers


def test_one_bot_does_not_lead_for_strangers(learn: Learn) -> None:
    events = []
    for n in range(3_000):
        events += [sent("view_item", "bot", n + i / 3, item) for i, item in enumerate(("bot-a", "bot-b"))]
        if n % 150 == 0:
            events += [sent("view_item", f"h{n}", n + i / 10, item) for i, item in enumerate("cde", 7)]
    found = learn(events)
    assert set(found.recommended("stranger", 3)) == {"c", "d", "e"}


def test_refunds_take_back_what_the_sales_taught(learn: Learn) -> None:
    events = []
    for n in range(40):
        events += [
            sent("view_item", f"b{n}", 100 * n, "bad-shoe"),
            sent("view_item", f"g{n}", 100 * n + 5, "good-shoe"),
            sent("purchase", f"b{n}", 100 * n + 10, "bad-shoe", transaction_id=f"T{n}"),
            sent("refund", f"b{n}", 100 * n + 50, *(["bad-shoe"] if n % 2 else []), transaction_id=f"T{n}"),
        ]
    found = learn([*events, *later(40_000, 100)])
    assert found.base_rate() == pytest.approx(0.0, abs=1e-9)


def test_a_refund_takes_back_the_count_of_what_was_bought_without_a_view(learn: Learn) -> None:
    orders = [sent("purchase", f"b{n}", 10 * n, "returned", transaction_id=f"T{n}") for n in range(40)]
    refunds = [sent("refund", f"b{n}", 500 + n, "returned", transaction_id=f"T{n}") for n in range(40)]
    found = learn([*orders, *crowd(3), *refunds])
    assert "returned" not in found.recommended("stranger")
    assert "returned" in learn([*orders, *crowd(3)]).recommended("stranger", 1)


def test_what_was_ordered_stays_though_the_shop_empties_the_cart(learn: Learn) -> None:
    events = []
    for n in range(40):
        for kind in ("add_to_cart", "purchase", "remove_from_cart"):
            events.append(sent(kind, f"b{n}", 30 * n, "sold"))
    assert learn([*events, *crowd(3)]).recommended("stranger", 1) == ["sold"]


def test_one_of_two_orders_that_is_refunded_leaves_the_other(learn: Learn) -> None:
    events = []
    for n in range(40):
        events.append(sent("view_item", f"b{n}", 100 * n, "x"))
        events += [sent("purchase", f"b{n}", 100 * n + k, "x", transaction_id=f"T{n}-{k}") for k in (10, 20)]
        events.append(sent("refund", f"b{n}", 100 * n + 30, transaction_id=f"T{n}-10"))
    assert learn([*events, *later(40_000, 100)]).base_rate() == pytest.approx(1.0)


def test_what_is_removed_from_the_cart_counts_no_longer(learn: Learn) -> None:
    added = [sent("add_to_cart", f"b{n}", 10 * n, "removed") for n in range(40)]
    removed = [sent("remove_from_cart", f"b{n}", 10 * n + 5, "removed") for n in range(40)]
    found = learn([*added, *crowd(3), *removed])
    assert "removed" not in found.recommended("stranger")
    assert purchase(found.shop).propensity._shoppers["b0"].carts == 0


def guest_views(shopper: str = "guest-77") -> list[Sent]:
    return [sent("view_item", shopper, 1_000 + n, item, session_id="S9") for n, item in enumerate(("i1", "i2", "i3"))]


def test_a_guest_who_logs_in_takes_the_visit_along(learn: Learn) -> None:
    login = sent("login", "user-5", 1_010, session_id="S9")
    found = learn([*crowd(), *guest_views()], [login])
    known = learn([*crowd(), *guest_views("user-5")])
    assert found.recommended("user-5") == known.recommended("user-5") == ["i4", "i5", "i6"]
    assert len(found.recommended("guest-77")) == 6, "the guest is a stranger again"


def test_a_guests_view_leads_to_the_shoppers_purchase(learn: Learn) -> None:
    count = range(40)
    views = [sent("view_item", f"guest-{n}", n, "shoe", session_id=f"S{n}") for n in count]
    logins = [sent("login", f"user-{n}", 100 + n, session_id=f"S{n}") for n in count]
    purchases = [sent("purchase", f"user-{n}", 200 + n, "shoe", session_id=f"S{n}") for n in count]
    assert learn(views, logins, purchases, later(40_000, 100)).base_rate() == pytest.approx(1.0)


def test_a_login_may_be_learned_before_the_guests_events(learn: Learn) -> None:
    found = learn([*crowd(), sent("login", "user-5", 1_010, session_id="S9")], guest_views())
    assert found.recommended("user-5") == ["i4", "i5", "i6"]


def test_a_wrong_login_is_taken_back(learn: Learn) -> None:
    login = sent("login", "user-5", 1_010, session_id="S9")
    undone = sent("login_undone", "user-5", 1_020, session_id="S9")
    more = sent("view_item", "guest-77", 1_030, "i4", session_id="S9")
    found = learn([*crowd(), *guest_views()], [login], [undone], [more])
    assert sorted(found.recommended("guest-77")) == ["i5", "i6"]
    assert len(found.recommended("user-5")) == 6
    chances = purchase(found.shop).propensity.visit_chances
    assert sorted(one.item_id for one in chances("guest-77", found.shop.time_ms)) == SIX[:4]
    assert chances("user-5", found.shop.time_ms) == []
