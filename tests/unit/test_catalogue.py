"""The catalogue: slots are stable and bounded, and reused only after their item was evicted."""

import pytest

from headrace.state import decode, encode
from learners.next_item.catalogue import Catalogue


def test_slots_are_assigned_in_order_and_kept() -> None:
    catalogue = Catalogue(items_max=10)
    assert [catalogue.admit(item) for item in "abcab"] == [0, 1, 2, 0, 1]
    assert [catalogue.slot(item) for item in "cbz"] == [2, 1, None]
    assert catalogue.item(2) == "c"
    assert len(catalogue) == 3


def test_the_least_recently_seen_items_are_evicted() -> None:
    catalogue = Catalogue(items_max=32)
    for n in range(32):
        catalogue.admit(f"item-{n}")
    catalogue.admit("item-0")  # now the most recently seen
    assert catalogue.evict("item-0") == [], "it already has a slot"
    assert catalogue.evict("x") == [1, 2]
    assert catalogue.slot("item-1") is None
    assert catalogue.slot("item-0") == 0
    assert [catalogue.admit("x"), catalogue.admit("y"), catalogue.admit("z") if catalogue.evict("z") else None][:2] == [
        1,
        2,
    ]
    assert catalogue.item(1) == "x"
    assert catalogue.bounds()["items"][1] == 32


def test_no_item_is_evicted_while_there_are_free_slots() -> None:
    catalogue = Catalogue(items_max=2)
    catalogue.admit("a")
    assert catalogue.evict("b") == []


def test_a_full_catalogue_admits_no_new_item() -> None:
    catalogue = Catalogue(items_max=1)
    catalogue.admit("a")
    assert catalogue.admit("a") == 0
    with pytest.raises(AssertionError, match="evict"):
        catalogue.admit("b")


def test_a_restored_catalogue_continues_identically() -> None:
    catalogue = Catalogue(items_max=32)
    for n in range(100):
        catalogue.evict(f"item-{n * 7 % 60}")
        catalogue.admit(f"item-{n * 7 % 60}")
    again = Catalogue.from_state(decode(encode(catalogue.state())))
    for n in range(100):
        assert catalogue.evict(f"item-{n}") == again.evict(f"item-{n}")
        assert catalogue.admit(f"item-{n}") == again.admit(f"item-{n}")
    assert again.state() == catalogue.state()


def test_since_returns_the_items_admitted_after_a_count(monkeypatch: pytest.MonkeyPatch) -> None:
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
        assert one.since(0)[0] == "a"  # "b" was evicted
        assert one.since(16) == ["item-13"]
    assert encode(again.state()) == encode(catalogue.state())
