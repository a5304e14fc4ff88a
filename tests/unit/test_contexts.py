"""Contexts: the newest items of the newest shoppers, in sessions, and the steps of events."""

from typing import Any

import pytest

from headrace.events import Data, Event, Item, at
from headrace.state import decode, encode
from learners.family import Move
from learners.next_item.contexts import CLOCKLESS, Contexts, session_gap_ms, steps
from learners.protocol import context_max


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


def test_a_late_event_does_not_set_the_session_back() -> None:
    contexts = Contexts()
    for item, time_ms in enumerate((session_gap_ms, session_gap_ms // 2, 2 * session_gap_ms)):
        contexts.push("ann", item, time_ms)
    context = contexts.context("ann", 3 * session_gap_ms)
    assert (list(context.items), context.start) == ([0, 1, 2], 0)


def test_a_pause_ends_a_named_session_too() -> None:
    contexts = Contexts()
    contexts.push("ann", 1, 0, "s1")
    contexts.push("ann", 2, session_gap_ms, "s1")
    assert contexts.context("ann", 2 * session_gap_ms, "s1").start == 0
    assert contexts.context("ann", 2 * session_gap_ms + 1, "s1").start == 2
    assert contexts.context("ann", session_gap_ms, "s2").start == 2


def test_where_times_are_made_up_only_names_separate_sessions() -> None:
    contexts = Contexts()
    contexts.push("ann", 1, 0, "s1", CLOCKLESS)
    contexts.push("ann", 2, 9 * session_gap_ms, "s1", CLOCKLESS)
    assert contexts.context("ann", 99 * session_gap_ms, "s1", CLOCKLESS).start == 0
    assert contexts.context("ann", 9 * session_gap_ms, "s2", CLOCKLESS).start == 2


def test_sessions_in_turn_have_a_trail_each() -> None:
    contexts = Contexts()
    for time_ms, (item, name) in enumerate([(1, "desk"), (4, "phone"), (2, "desk"), (5, "phone"), (3, "desk")]):
        contexts.push("bob", item, time_ms, name)
    found = {name: contexts.context("bob", 9, name) for name in ("desk", "phone")}
    assert {name: list(one.items[one.start :]) for name, one in found.items()} == {"desk": [1, 2, 3], "phone": [4, 5]}
    assert found["desk"].session != found["phone"].session
    newest = contexts.newest("bob", 9)
    assert list(newest.items[newest.start :]) == [1, 2, 3]


def test_a_name_that_appears_after_the_first_event_is_no_new_session() -> None:
    contexts = Contexts()
    contexts.push("ann", 1, 0)
    contexts.push("ann", 2, 1, "s1")
    context = contexts.context("ann", 2, "s1")
    assert (list(context.items), context.start) == ([1, 2], 0)
    assert contexts.context("ann", 2, "s2").start == 2


def test_pauses_are_of_the_shoppers_own_clock_while_learning_and_of_the_shops_for_answers() -> None:
    contexts, off = Contexts(), 5 * session_gap_ms
    contexts.push("ann", 1, 0, own_ms=off)
    contexts.push("ann", 2, 10, own_ms=off + 10)
    assert contexts.context("ann", 20, own_ms=off + 20).start == 0
    assert contexts.context("ann", 20, own_ms=off + session_gap_ms + 11).start == 2
    assert contexts.newest("ann", 10 + session_gap_ms).start == 0
    assert contexts.newest("ann", 11 + session_gap_ms).start == 2
    contexts.push("ann", 3, 30, own_ms=40)  # the clock was set right
    contexts.push("ann", 4, 40, own_ms=50)
    assert contexts.context("ann", 50, own_ms=40 + session_gap_ms).start == 0


def test_a_moved_session_joins_what_the_other_shopper_knows_and_can_be_moved_back() -> None:
    contexts = Contexts()
    contexts.push("ann", 7, 0, "old")
    for item in (1, 2):
        contexts.push("guest", item, 2 * session_gap_ms, "s")
    number = contexts.context("guest", 2 * session_gap_ms, "s").session
    assert contexts.move(Move("guest", "ann", "s")) == (number, [1, 2])
    joined = contexts.newest("ann", 2 * session_gap_ms)
    assert (list(joined.items), joined.start, joined.session) == ([7, 1, 2], 1, number)
    assert list(contexts.newest("guest", 2 * session_gap_ms).items) == []
    assert contexts.move(Move("ann", "guest", "s", taken_back=True)) == (number, [1, 2])
    back = contexts.newest("guest", 2 * session_gap_ms)
    assert (list(back.items), back.start) == ([1, 2], 0)
    assert list(contexts.newest("ann", 2 * session_gap_ms).items) == [7]
    assert contexts.move(Move("nobody", "ann", "s")) is None


def test_without_a_session_id_the_current_session_continues() -> None:
    contexts = Contexts()
    contexts.push("ann", 1, 0, "s1")
    contexts.push("ann", 2, 10, "s2")
    asked = contexts.context("ann", 20)
    assert (list(asked.items), asked.start) == ([1, 2], 1)
    contexts.push("ann", 3, 20)  # a purchase that the shop's server sent
    contexts.push("ann", 4, 30, "s2")
    assert contexts.context("ann", 40, "s2").start == 1
    assert contexts.context("ann", 31 + session_gap_ms).start == 4


def test_each_session_has_its_own_number() -> None:
    contexts = Contexts()
    numbers = []
    for shopper, time_ms in (("ann", 0), ("bob", 0), ("ann", 10**9), ("bob", 1)):
        contexts.push(shopper, 1, time_ms)
        numbers.append(contexts.context(shopper, time_ms).session)
    assert numbers == [0, 1, 2, 1]


def test_the_start_of_a_session_shifts_when_older_items_are_dropped() -> None:
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


def test_a_returned_context_does_not_change() -> None:
    contexts = Contexts()
    contexts.push("ann", 1, 0)
    before = contexts.context("ann", 0)
    contexts.push("ann", 2, 0)
    contexts.forget([1])
    assert list(before.items) == [1]


def test_forgotten_slots_are_dropped_from_all_contexts() -> None:
    contexts = Contexts()
    for slot, time_ms in ((1, 0), (2, 1), (1, 10**9), (3, 10**9)):
        contexts.push("ann", slot, time_ms)
    contexts.forget([1])
    context = contexts.context("ann", 10**9)
    assert (list(context.items), context.start) == ([2, 3], 1)


def test_state_survives_serialisation_and_continues() -> None:
    contexts = Contexts(shoppers_max=5)
    for n in range(200):
        contexts.push(f"s{n % 7}", n % 11, n * session_gap_ms // 3, "x" if n % 3 == 0 else "")
    again = Contexts.from_state(decode(encode(contexts.state())), shoppers_max=5)
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
