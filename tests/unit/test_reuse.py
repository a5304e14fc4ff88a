"""What answers reuse is bounded, lasts for a moment, and is named only as far as somebody reads."""

import numpy as np

from learners.next_item.kept import Kept, Moment, reuse_s, sweep_s
from learners.next_item.ranking import Pool, named_at_once


def test_a_table_holds_what_its_size_allows_and_drops_what_may_not_be_reused_first() -> None:
    kept = Kept[int](100)
    for key in range(20):
        kept.put(key, key, Moment(1, 1.0), size=5)
    assert kept.use() == (100, 100)
    late = Moment(2, 1.0 + reuse_s + sweep_s)
    kept.put("new", 7, late, size=5)
    assert (kept.use(), kept.get("new", late), kept.get(3, late)) == ((5, 100), 7, None)
    kept.put("new", 8, late, size=6)
    assert (kept.use(), kept.get("new", late)) == ((6, 100), 8), "a key has one value"
    kept.put("huge", 9, late, size=101)
    assert kept.get("huge", late) is None
    kept.clear()
    assert (kept.use(), kept.get("new", late)) == ((0, 100), None)


def test_of_more_than_it_holds_asked_for_in_turn_a_part_is_found_again() -> None:
    kept, now, hits = Kept[int](100), Moment(1, 1.0), 0
    for _ in range(10):
        for key in range(130):
            if kept.get(key, now) is None:
                kept.put(key, key, now)
            else:
                hits += 1
    assert kept.use()[0] <= 100
    assert hits > 0.2 * 10 * 130, "dropping the oldest would find none"


def test_a_value_lasts_as_long_as_what_it_follows_from() -> None:
    kept = Kept[str](10)
    kept.put("list", "of old candidates", Moment(5, 9.0), made=Moment(4, 8.8))
    assert kept.get("list", Moment(5, 8.8 + reuse_s)) == "of old candidates"
    assert kept.get("list", Moment(5, 8.9 + reuse_s)) is None


def test_a_pool_is_a_list_whose_items_are_named_when_they_are_read() -> None:
    asked = list[int]()

    def name(keys: np.ndarray[tuple[int], np.dtype[np.int32]]) -> list[str]:
        asked.extend(keys.tolist())
        return [f"item-{key}" for key in keys.tolist()]

    keys = np.arange(100, 0, -1, dtype=np.int32)
    pool = Pool(keys, np.linspace(1, 0, 100, dtype=np.float32), name)
    assert next(iter(pool)) == ("item-100", 1.0)
    assert pool.key("item-99") == 99
    assert len(asked) == named_at_once, "no more than what is near it"
    assert (pool.key("item-3"), pool.key("item-0")) == (3, None)
    assert [item for item, _ in pool] == [f"item-{key}" for key in keys.tolist()] == [item for item, _ in pool[:100]]
    assert (len(pool), pool[99][0], asked) == (100, "item-1", keys.tolist()), "and each once"
