"""The catalogue: slots are stable, bounded, and reused only after they were forgotten."""

import pytest

from headrace.state import decode, encode
from learners.catalogue import Catalogue


def test_slots_are_given_in_order_and_kept() -> None:
    catalogue = Catalogue(items_max=10)
    assert [catalogue.admit(item) for item in "abcab"] == [0, 1, 2, 0, 1]
    assert [catalogue.slot(item) for item in "cbz"] == [2, 1, None]
    assert catalogue.item(2) == "c"
    assert len(catalogue) == 3


def test_the_items_seen_longest_ago_leave() -> None:
    catalogue = Catalogue(items_max=32)
    for n in range(32):
        catalogue.admit(f"item-{n}")
    catalogue.admit("item-0")  # seen again just now
    assert catalogue.evict("item-0") == [], "it has its place"
    assert catalogue.evict("x") == [1, 2]
    assert catalogue.slot("item-1") is None
    assert catalogue.slot("item-0") == 0
    assert [catalogue.admit("x"), catalogue.admit("y"), catalogue.admit("z") if catalogue.evict("z") else None][:2] == [
        1,
        2,
    ]
    assert catalogue.item(1) == "x"
    assert catalogue.bounds()["items"][1] == 32


def test_nothing_leaves_while_there_is_room() -> None:
    catalogue = Catalogue(items_max=2)
    catalogue.admit("a")
    assert catalogue.evict("b") == []


def test_a_full_catalogue_admits_nothing_new() -> None:
    catalogue = Catalogue(items_max=1)
    catalogue.admit("a")
    assert catalogue.admit("a") == 0
    with pytest.raises(AssertionError, match="evict"):
        catalogue.admit("b")


def test_state_survives_the_wire_and_continues() -> None:
    catalogue = Catalogue(items_max=32)
    for n in range(100):
        catalogue.evict(f"item-{n * 7 % 60}")
        catalogue.admit(f"item-{n * 7 % 60}")
    again = Catalogue.from_state(decode(encode(catalogue.state())))
    for n in range(100):
        assert catalogue.evict(f"item-{n}") == again.evict(f"item-{n}")
        assert catalogue.admit(f"item-{n}") == again.admit(f"item-{n}")
    assert again.state() == catalogue.state()


def test_it_names_the_items_that_came_since(monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = Catalogue(items_max=16)
    for item in ("a", "b", "a", "c"):
        catalogue.admit(item)
    assert catalogue.admitted == 3
    assert [catalogue.since(n) for n in (0, 2, 3)] == [["a", "b", "c"], ["c"], []]
    again = Catalogue.from_state(decode(encode(catalogue.state())))
    for one in (catalogue, again):
        for n in range(14):
            one.evict(f"item-{n}")
            one.admit(f"item-{n}")
        assert one.since(0)[0] == "a"  # "b" has left
        assert one.since(16) == ["item-13"]
    assert encode(again.state()) == encode(catalogue.state())
