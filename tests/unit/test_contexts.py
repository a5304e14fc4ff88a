"""Contexts: sessions of the newest items of the newest shoppers, and the steps of events."""

from typing import Any

import pytest

from headrace.events import Data, Event, Item, at
from headrace.state import decode, encode
from learners.contexts import Contexts, session_gap_ms, steps
from learners.learner import context_max


def event(type_: Any, *items: str) -> Event:
    return Event("1", "shop", type_, at(0), Data([Item(item) for item in items]), "1.0", "a")


def test_a_pause_begins_a_new_session() -> None:
    contexts = Contexts()
    contexts.push("ann", 1, 0)
    contexts.push("ann", 2, session_gap_ms)
    context = contexts.context("ann", 2 * session_gap_ms)
    assert (list(context.items), context.start) == ([1, 2], 0)
    between = contexts.context("ann", 2 * session_gap_ms + 1)
    assert (list(between.items), between.start) == ([1, 2], 2)
    contexts.push("ann", 3, 2 * session_gap_ms + 1)
    after = contexts.context("ann", 2 * session_gap_ms + 1)
    assert (list(after.items), after.start) == ([1, 2, 3], 2)
    assert after.session != context.session


def test_a_named_session_lasts_as_long_as_its_name() -> None:
    contexts = Contexts()
    contexts.push("ann", 1, 0, "s1")
    contexts.push("ann", 2, 9 * session_gap_ms, "s1")
    assert contexts.context("ann", 99 * session_gap_ms, "s1").start == 0
    assert contexts.context("ann", 9 * session_gap_ms, "s2").start == 2


def test_who_names_no_session_means_the_visit_that_goes_on() -> None:
    contexts = Contexts()
    contexts.push("ann", 1, 0, "s1")
    contexts.push("ann", 2, 10, "s2")
    asked = contexts.context("ann", 20)
    assert (list(asked.items), asked.start) == ([1, 2], 1)
    contexts.push("ann", 3, 20)  # a purchase that the shop's server tells of
    contexts.push("ann", 4, 30, "s2")
    assert contexts.context("ann", 40, "s2").start == 1
    assert contexts.context("ann", 31 + session_gap_ms).start == 4


def test_each_session_has_a_number_of_its_own() -> None:
    contexts = Contexts()
    numbers = []
    for shopper, time_ms in (("ann", 0), ("bob", 0), ("ann", 10**9), ("bob", 1)):
        contexts.push(shopper, 1, time_ms)
        numbers.append(contexts.context(shopper, time_ms).session)
    assert numbers == [0, 1, 2, 1]


def test_a_session_begins_where_it_began_when_older_items_make_room() -> None:
    contexts = Contexts()
    for number in range(context_max - 5):
        contexts.push("ann", number, 0)
    later = 10 * session_gap_ms
    for number in range(context_max + 5):
        contexts.push("ann", 1_000 + number, later)
        context = contexts.context("ann", later)
        assert list(context.items[context.start :])[-1] == 1_000 + number
        assert len(context.items) - context.start == min(number + 1, context_max)


def test_only_the_newest_items_and_shoppers_are_kept() -> None:
    contexts = Contexts(shoppers_max=2)
    for n in range(context_max + 10):
        contexts.push("ann", n, n)
    context = contexts.context("ann", context_max)
    assert list(context.items) == list(range(10, context_max + 10))
    assert context.start == 0
    contexts.push("bob", 1, 0)
    contexts.push("ann", 1, 0)
    contexts.push("eve", 1, 0)
    assert list(contexts.context("bob", 0).items) == []
    assert len(contexts.context("ann", 0).items) == context_max
    assert contexts.bounds() == {"shoppers": (2, 2)}


def test_a_context_given_out_stays_as_it_was() -> None:
    contexts = Contexts()
    contexts.push("ann", 1, 0)
    before = contexts.context("ann", 0)
    contexts.push("ann", 2, 0)
    contexts.forget([1])
    assert list(before.items) == [1]


def test_forgotten_slots_leave_all_contexts() -> None:
    contexts = Contexts()
    for slot, time_ms in ((1, 0), (2, 1), (1, 10**9), (3, 10**9)):
        contexts.push("ann", slot, time_ms)
    contexts.forget([1])
    context = contexts.context("ann", 10**9)
    assert (list(context.items), context.start) == ([2, 3], 1)


def test_state_survives_the_wire_and_continues() -> None:
    contexts = Contexts(shoppers_max=5)
    for n in range(200):
        contexts.push(f"s{n % 7}", n % 11, n * session_gap_ms // 3, "x" if n % 3 == 0 else "")
    again = Contexts.from_state(decode(encode(contexts.state())))
    for n in range(200, 230):
        for one in (contexts, again):
            one.push(f"s{n % 7}", n % 11, n * session_gap_ms // 3)
    assert encode(again.state()) == encode(contexts.state())


@pytest.mark.parametrize(
    ("shown", "session", "found"),
    [
        (event("view_item", "a"), [], ["a"]),
        (event("view_item", "a"), ["a"], []),
        (event("view_item", "a"), ["a", "b"], ["a"]),
        (event("select_item", "a", "a", "b"), [], ["a", "b"]),
        (event("purchase", "a", "b"), ["a"], ["b"]),
        (event("purchase", "a", "b", "a"), [], ["a", "b"]),
        (event("add_to_cart", "a"), ["a", "b"], []),
        (event("view_item_list", "a", "b"), [], []),
        (event("refund", "a"), [], []),
        (event("login"), [], []),
    ],
)
def test_steps(shown: Event, session: list[str], found: list[str]) -> None:
    assert steps(shown, session) == found
