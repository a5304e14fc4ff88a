"""The desk: orders, logins, currencies, and how much one shopper counts."""

from collections.abc import Sequence
from typing import Any

import pytest

from headrace.events import Data, Event, EventType, Item, at
from headrace.state import decode, encode
from learners.desk.budget import Budget
from learners.desk.currency import Currency
from learners.desk.family import Desk, DeskSettings
from learners.desk.joins import Joins, idle_ms_max, late_ms_max
from learners.desk.orders import Orders
from learners.desk.renames import Renames
from learners.family import Moment, Move

NOW = 1_736_121_600_000


def event(
    kind: EventType, shopper: str = "ann", items: Sequence[str] = (), time_ms: int = NOW, number: int = 0, **data: Any
) -> Event:
    payload = Data([Item(item, price=10.0) for item in items], **data)
    return Event(f"e{number}", "shop", kind, at(time_ms), payload, "1.0", shopper, time_ms, time_ms)


def ids(one: Event) -> list[str]:
    return [line.item_id for line in one.data.items]


def again(part: Any, **settings: Any) -> Any:
    """Return what continues from a part's state."""
    return type(part).from_state(decode(encode({"part": part.state()}))["part"], **settings)


def test_a_transaction_is_bought_once_whatever_its_page_does() -> None:
    orders = Orders(orders_max=9)
    first, reloaded, more = (
        event("purchase", items=items, transaction_id="T") for items in (["a", "b"], ["b", "a"], ["b", "c"])
    )
    assert orders.buy(first)
    orders = again(orders, orders_max=9)
    assert not orders.buy(reloaded)
    assert orders.buy(more)
    assert ids(more) == ["c"], "a part of a large order"
    assert not orders.buy(event("purchase", "phone", ["b"], transaction_id="T")), "opened on another device"
    assert orders.buy(event("purchase", "bob", ["a", "x"], transaction_id="T")), "another order of the same number"
    for _ in range(2):
        assert orders.buy(event("purchase", items=["a"])), "without a number, each is an order"


def test_a_refund_returns_what_was_bought_and_each_line_once() -> None:
    orders = Orders(orders_max=9)
    orders.buy(event("purchase", items=["a", "b", "c"], transaction_id="T"))
    one, whole, repeated = (event("refund", items=items, transaction_id="T") for items in (["b"], [], []))
    assert orders.refund(one)
    assert orders.refund(whole)
    assert (ids(one), ids(whole)) == (["b"], ["a", "c"])
    assert not orders.refund(repeated)
    assert not orders.buy(event("purchase", items=["a"], transaction_id="T")), "its page was loaded after the refund"
    orders.buy(event("purchase", "guest", ["d"], transaction_id="V"))
    returned = event("refund", "customer-7", transaction_id="V")
    assert again(orders, orders_max=9).refund(returned)
    assert (returned.shopper, ids(returned)) == ("guest", ["d"]), "it is the buyer's, whoever sends it"
    unknown = event("refund", items=["x"], transaction_id="U")
    assert orders.refund(unknown)
    assert ids(unknown) == ["x"]
    whole = event("refund", transaction_id="W")
    assert orders.refund(whole)
    assert ids(whole) == [], "its purchase may come later"
    assert not orders.refund(event("refund")), "nobody knows of what"


def lines(*items: tuple[str, float]) -> list[Item]:
    return [Item(item, quantity=quantity) for item, quantity in items]


def test_a_line_is_returned_once_its_last_piece_is() -> None:
    orders = Orders(orders_max=9)
    bought = event("purchase", transaction_id="T")
    bought.data.items = lines(("a", 3), ("b", 1))
    assert orders.buy(bought)
    for is_new, kept in ((True, []), (True, []), (True, ["a"]), (False, [])):
        part = event("refund", transaction_id="T")
        part.data.items = lines(("a", 1))
        assert orders.refund(part) == is_new
        assert ids(part) == kept
    rest = event("refund", transaction_id="T")
    assert orders.refund(rest)
    assert ids(rest) == ["b"]


@pytest.mark.parametrize("sender", ["ann", "backoffice"])
def test_a_refund_that_comes_before_its_purchase_undoes_it(sender: str) -> None:
    orders = Orders(orders_max=9)
    orders.refund(event("refund", sender, ["a"], transaction_id="T"))
    orders.refund(event("refund", sender, transaction_id="U"))
    orders = again(orders, orders_max=9)
    bought = event("purchase", items=["a", "b"], transaction_id="T")
    assert orders.buy(bought)
    assert ids(bought) == ["b"]
    assert not orders.buy(event("purchase", items=["a"], transaction_id="U"))


def test_orders_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learners.desk.orders.lines_max", 5)
    orders = Orders(orders_max=3)
    for number in range(5):
        orders.buy(event("purchase", items=[f"i{number}"], transaction_id=str(number)))
    assert orders.bounds() == {"orders": (3, 3), "order_lines": (3, 5)}
    assert not orders.buy(event("purchase", items=["i4"], transaction_id="4"))
    assert orders.buy(event("purchase", items=["i0"], transaction_id="0")), "forgotten"
    orders.buy(event("purchase", items=list("abcd"), transaction_id="large"))
    assert orders.bounds()["order_lines"][0] <= 5
    assert again(orders, orders_max=1).bounds()["orders"] == (1, 1)


def test_a_login_joins_the_guest_who_began_the_session() -> None:
    joins = Joins(sessions_max=9)
    assert joins.follow(event("view_item", "guest", session_id="s")) is None
    assert joins.follow(event("login", "ann", session_id="s")) == Move("guest", "ann", "s")
    joins = again(joins, sessions_max=9)
    later = event("view_item", "guest", session_id="s")
    assert joins.follow(later) is None
    assert later.shopper == "ann"
    other = event("view_item", "guest", session_id="s2")
    assert joins.follow(other) is None
    assert other.shopper == "guest", "another session is nobody's yet"
    assert joins.follow(event("login_undone", "ann", session_id="s")) == Move("ann", "guest", "s", taken_back=True)
    back = event("view_item", "guest", session_id="s")
    assert joins.follow(back) is None
    assert back.shopper == "guest"


def test_events_of_the_guest_that_arrive_after_the_login_follow_it() -> None:
    joins = Joins(sessions_max=9)
    joins.follow(event("login", "ann", session_id="s"))
    late = event("view_item", "guest", session_id="s", time_ms=NOW + late_ms_max)
    late.own_ms = NOW - 1
    assert joins.follow(late) is None
    assert late.shopper == "ann"
    later = event("view_item", "guest", session_id="s", time_ms=NOW + late_ms_max + 1)
    assert joins.follow(later) is None
    assert later.shopper == "ann", "the guest is known now"
    for after_ms, own_ms in ((late_ms_max + 1, NOW - 1), (1, NOW + 1)):
        joins = Joins(sessions_max=9)
        joins.follow(event("login", "bob", session_id="t"))
        stranger = event("view_item", "eve", session_id="t", time_ms=NOW + after_ms)
        stranger.own_ms = own_ms
        assert joins.follow(stranger) is None
        assert stranger.shopper == "eve", "it comes too late, or was after the login: somebody else"


def test_who_logged_in_before_keeps_what_is_theirs() -> None:
    joins = Joins(sessions_max=9)
    for shopper, after_ms in (("ann", 0), ("bob", 1_000)):
        assert joins.follow(event("login", shopper, session_id="s", time_ms=NOW + after_ms)) is None
    bought = event("purchase", "ann", ["a"], session_id="s", time_ms=NOW + 2_000)
    assert joins.follow(bought) is None
    assert bought.shopper == "ann"


@pytest.mark.parametrize(
    "before",
    [
        [event("view_item", "one", session_id="s"), event("view_item", "two", session_id="s")],
        [event("view_item", "one", session_id="s"), event("login", "one", session_id="s")],
        [event("view_item", "one", session_id="s", time_ms=NOW - idle_ms_max - 1)],
        [event("view_item", "one", session_id="other")],
        [event("view_item", "one")],
    ],
    ids=["a name that two use", "another shopper's", "of another visit", "another session", "no session"],
)
def test_a_login_joins_nobody_else(before: list[Event]) -> None:
    joins = Joins(sessions_max=9)
    for one in before:
        assert joins.follow(one) is None
    assert joins.follow(event("login", "ann", session_id="s")) is None


def test_sessions_are_bounded() -> None:
    joins = Joins(sessions_max=3)
    for number in range(9):
        joins.follow(event("view_item", f"s{number}", session_id=str(number)))
    assert joins.bounds() == {"sessions": (3, 3)}
    assert joins.follow(event("login", "ann", session_id="0")) is None
    assert again(joins, sessions_max=2).bounds() == {"sessions": (2, 2)}


def test_a_shoppers_steps_count_less_and_less_and_then_not_at_all() -> None:
    budget = Budget(full=20, most=200, shoppers_max=9)
    counted = [budget.take(event("view_item", "bot", ["a"], number=number)) for number in range(600)]
    assert all(counted[:20])
    assert 5 <= sum(counted[20:200]) <= 31, "20 * 20 * (1 / 20 - 1 / 200) = 18 are expected"
    assert not any(counted[200:])
    assert budget.take(event("view_item", "ann", ["a"])), "others are not concerned"
    assert budget.take(event("view_item", "bot", ["a"], time_ms=NOW + 86_400_000)), "nor is the next day"


def test_each_line_of_an_invoice_is_a_step() -> None:
    budget = Budget(full=20, most=200, shoppers_max=9)
    assert budget.take(event("purchase", "dealer", [str(n) for n in range(300)]))
    assert not budget.take(event("purchase", "dealer", ["x"]))


def test_the_shoppers_of_a_day_are_bounded() -> None:
    budget = Budget(full=1, most=2, shoppers_max=32)
    for number in range(100):
        budget.take(event("view_item", f"s{number}", ["a"]))
    used, most = budget.bounds()["shoppers_today"]
    assert used <= most == 32


def test_amounts_of_other_currencies_are_converted_or_dropped() -> None:
    currency = Currency("EUR", {"usd": 0.5})
    found = []
    for name in ("EUR", "USD", "usd", "JPY", ""):
        one = event("purchase", items=["a"], currency=name, value=10.0)
        currency.convert(one)
        found.append((one.data.items[0].price, one.data.value))
    assert found == [(10.0, 10.0), (5.0, 5.0), (5.0, 5.0), (None, None), (10.0, 10.0)]
    assert currency.dropped == 1


def test_without_a_setting_the_first_currency_is_the_shops() -> None:
    currency = Currency("", {})
    for name, price in (("SEK", 10.0), ("EUR", None)):
        one = event("view_item", items=["a"], currency=name)
        currency.convert(one)
        assert one.data.items[0].price == price
        currency = again(currency, shop="", rates={})
    assert again(currency, shop="EUR", rates={}).state()["shop"] == "EUR", "a setting wins"


def test_the_desk_prepares_events_for_all() -> None:
    desk, now = Desk(DeskSettings(currency="EUR", day_steps_full=1, day_steps_max=1), {}), Moment({})
    paid = event("purchase", items=["a"], transaction_id="T", currency="USD")
    assert desk.prepare(paid, now)
    assert (paid.counts, paid.data.items[0].price) == (True, None)
    assert not desk.prepare(event("purchase", items=["a"], transaction_id="T"), now)
    view = event("view_item", items=["b"])
    assert desk.prepare(view, now)
    assert not view.counts
    assert desk.prepare(event("login", "guest-not", session_id="s"), now)
    assert now.moves == []
    assert dict(desk.dropped()) == {(): 1}


def test_a_renamed_shopper_keeps_the_name_under_which_everything_is_remembered() -> None:
    desk, now = Desk(DeskSettings(renames_max=2), {}), Moment({})
    assert not desk.prepare(event("shopper_renamed", "p2", former_shopper="p1"), now), "nobody else learns of it"
    assert not desk.prepare(event("shopper_renamed", "p3", former_shopper="p2"), now)
    kept = Desk(DeskSettings(renames_max=2), {})
    kept.restore(decode(encode(desk.state())))
    viewed = event("view_item", "p3", ["a"])
    assert kept.prepare(viewed, now)
    assert viewed.shopper == "p1"
    assert kept.renamed("p2") == "p1"
    kept.prepare(event("shopper_renamed", "q2", former_shopper="q1"), now)
    assert (kept.renamed("p3"), kept.renamed("p2")) == ("p1", "p2"), "the one used longest ago is forgotten"


def test_of_several_former_names_the_one_that_was_used_is_kept() -> None:
    renames = Renames(shoppers_max=9)
    renames.note("p1", "p2")
    for former in ("p1", "p2"):  # as a gateway notes them, which does not know which of them were used
        renames.note(former, "p3")
    assert renames.name("p3") == "p1"
    for former in ("q1", "q2"):  # not seen while the second one was in use
        renames.note(former, "q3")
    assert renames.name("q3") == "q1"
    renames.note("p3", "p1")
    assert (renames.name("p1"), renames.name("p3")) == ("p1", "p1"), "a circle is ignored"


@pytest.mark.parametrize(
    ("consent", "learned"), [(None, False), ([], False), (["analytics"], False), (["marketing", "analytics"], True)]
)
def test_without_the_wanted_consent_nothing_is_learned(consent: Any, learned: bool) -> None:
    bought: dict[str, Any] = {"items": ["a"], "transaction_id": "T", "session_id": "s"}
    strict, now = Desk(DeskSettings(consent="marketing"), {}), Moment({})
    assert strict.prepare(event("purchase", **bought, consent=consent), now) == learned
    assert bool(strict.orders.bounds()["orders"][0]) == learned
    assert Desk(DeskSettings(), {}).prepare(event("purchase", **bought, consent=consent), now)
