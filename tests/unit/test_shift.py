"""Shifts: no alarm without change, an early one that names what moved after a change, and silences."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from copy import deepcopy
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import drift as stated
from headrace.events import Data, Event, Item, Rejection, at
from headrace.log.protocol import Record
from headrace.state import decode, digest, encode
from learners.next_item.judgement import Judgement, packed_vectors, vector_length
from learners.next_item.watching import DETECTORS, Watching, event_block_min, from_version_2
from learners.parts.drift import Alarm
from learners.parts.features import Levels, Shares, Vectors, group_values_min
from learners.parts.monitor import Monitor, Silences, block_values_max, silences_max, warmup_ms
from learners.parts.shift import LongSums, Sums, long_blocks, long_step, window_blocks

DAY_MS = 86_400_000
EVENT_MS = 300_000
START_MS = 1_736_121_600_000


class Shop:
    """A stationary shop of 200 items in 12 categories, whose weekends prefer the first ones; `changed` alters it."""

    def __init__(self, seed: int = 0, *, weekend: float = 0.3) -> None:
        self._rng, self._weekend = np.random.default_rng(seed), weekend
        self._slots: dict[str, int] = {}
        self._seen: set[str] = set()
        self.number, self.watching = 0, Watching()

    def events(self, count: int, change: Callable[[Event], None] = lambda event: None) -> list[tuple[int, Alarm]]:
        """Watch events; return the alarms, each with the number of events of this call before it."""
        found = []
        rng = self._rng
        items, chances = (rng.zipf(1.5, count) % 200).tolist(), rng.random((count, 5)).tolist()
        for before, (item, chance) in enumerate(zip(items, chances, strict=True)):
            time_ms = START_MS + self.number * EVENT_MS
            weekend = time_ms // DAY_MS % 7 in (2, 3)
            if weekend and chance[0] < self._weekend:
                item = item % 16 * 12
            price = round(float(5 + item % 40) * (0.9 if chance[1] < 0.1 else 1.0), 2)
            line = Item(f"item-{item}", item_category=f"category-{item % 12}", item_brand=f"b{item % 7}", price=price)
            data = Data([line], device="mobile" if chance[2] < 0.6 else "desktop", country="NL")
            shopper = f"s{int(chance[4] * (self.number + 100))}"
            event = Event(f"{self.number}", "s", "view_item", at(time_ms), data, "1.0", shopper, time_ms, time_ms)
            if chance[3] > 0.8:
                event.type = "add_to_cart"
            change(event)
            line = event.data.items[0]
            slot = self._slots.get(line.item_id)
            found += [
                (before, one) for one in self.watching.observe(event, slot, returning=event.shopper in self._seen)
            ]
            self._slots.setdefault(line.item_id, len(self._slots))
            self._seen.add(event.shopper)
            self.number += 1
        return found


STABLE = 12_000
"""Six weeks of events."""
SOON = (window_blocks + 1) * event_block_min


@cache
def _settled(seed: int) -> Shop:
    shop = Shop(seed)
    assert shop.events(STABLE) == []
    return shop


def settled(seed: int = 1) -> Shop:
    """Return a shop after six weeks without an alarm."""
    return deepcopy(_settled(seed))


def alarms_of(found: Iterable[tuple[int, Alarm]]) -> dict[str, Alarm]:
    """Return the first alarm of each detector."""
    alarms: dict[str, Alarm] = {}
    for _, alarm in found:
        alarms.setdefault(alarm.detector, alarm)
    return alarms


@pytest.mark.parametrize("seed", range(3))
def test_a_weekly_season_raises_no_alarm(seed: int) -> None:
    assert _settled(seed).number == STABLE


def surge(event: Event) -> None:
    if int(event.id) % 25 == 0:
        event.data.items[0] = Item("item-191", item_category="category-11", price=36.0)


def dearer(event: Event) -> None:
    line = event.data.items[0]
    if line.item_category in ("category-1", "category-2") and line.price:
        line.price *= 1.4


def only_phones(event: Event) -> None:
    event.data.device = "mobile" if int(event.id) % 20 else "desktop"


def abroad(event: Event) -> None:
    event.data.country = "NL" if int(event.id) % 3 else "BE"


def no_carts(event: Event) -> None:
    event.type = "view_item"


def new_items(event: Event) -> None:
    if int(event.id) % 4 == 0:
        event.data.items[0].item_id = f"new-{event.id}"


def swapped(event: Event) -> None:
    line = event.data.items[0]
    if line.item_category == "category-5":
        line.item_id = f"item-{(int(line.item_id[5:]) + 96) % 192}"


def newcomers(event: Event) -> None:
    event.shopper = f"newcomer-{event.id}"


@pytest.mark.parametrize(
    ("detector", "change", "moved"),
    [
        ("item_peak", surge, "item-191"),
        ("price_change", dearer, "category-1"),
        ("device", only_phones, "mobile"),
        ("country", abroad, "BE"),
        ("event_type", no_carts, "add_to_cart"),
        ("new_items", new_items, "new-"),
        ("category_items", swapped, "category-5"),
        ("returning", newcomers, "new"),
    ],
)
def test_a_change_is_noticed_soon_and_named(detector: str, change: Callable[[Event], None], moved: str) -> None:
    shop = settled()
    found = shop.events(SOON, change)
    alarm = alarms_of(found)[detector]
    assert alarm.score > alarm.threshold > 0
    assert any(one.value.startswith(moved) for one in alarm.moved)
    assert all(one.before != one.now for one in alarm.moved)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_change_of_few_views_is_noticed_in_the_long_window(seed: int) -> None:
    def rises(event: Event) -> None:
        if int(event.id) % 150 == 0:
            event.data.items[0] = Item("item-191", item_category="category-11", price=36.0)

    found = settled(seed).events((long_blocks + long_step + 1) * event_block_min, rises)
    assert alarms_of(found)["item_peak"].moved[0].value == "item-191"
    assert min(before for before, _ in found) > 2 * SOON


def test_a_long_window_is_looked_at_every_few_blocks_once_it_is_full() -> None:
    sums = LongSums(10)
    looked = [number for number in range(1, 40) if sums.take({"boots": 1}, 0.01, usual=True)]
    first = long_blocks + window_blocks + long_step - 1
    assert looked == list(range(first, 40, long_step))
    again = LongSums(10)
    again.restore(decode(encode(sums.state())))
    assert [again.take({"boots": 1}, 0.01, usual=True) for _ in range(4)] == [
        sums.take({"boots": 1}, 0.01, usual=True) for _ in range(4)
    ]


def test_a_price_change_is_told_once_and_by_how_much() -> None:
    shop = settled()
    found = [alarm for _, alarm in shop.events(STABLE // 2, dearer) if alarm.detector == "price_change"]
    assert len(found) == 1, "the items' usual prices follow: that is no second change"
    assert {one.value for one in found[0].moved} >= {"category-1", "category-2"}
    told = next(one for one in found[0].moved if one.value == "category-2")
    assert abs(told.before) < 0.05
    assert 0.02 < told.now < 0.45, "its window has views from before, too"


def test_after_an_alarm_the_new_shares_are_the_reference() -> None:
    shop = settled()
    found = [alarm.detector for _, alarm in shop.events(STABLE, only_phones)]
    assert found == ["device"]
    assert [alarm.detector for _, alarm in shop.events(2 * SOON)] == ["device"], "so is the way back a change"


def test_no_alarm_before_a_week_has_passed() -> None:
    shop = Shop(4)
    shop.events(int(warmup_ms / EVENT_MS) - 1_000)
    assert shop.events(900, only_phones) == []


def silence(from_ms: int, until_ms: int, detector: str = "*") -> Record:
    one = stated.Silence(detector, from_ms, until_ms, "Black Friday", "ann")
    record = stated.record_of(one)
    return Record(0, 0, 0, record.key, record.value)


def test_a_silenced_sale_is_written_down_and_leaves_no_trace() -> None:
    shop, length = settled(), 5_000
    now_ms = START_MS + shop.number * EVENT_MS
    assert shop.watching.silences.hear(silence(now_ms, now_ms + length * EVENT_MS), now_ms) is None
    found = shop.events(length, only_phones)
    assert {(alarm.detector, alarm.silenced) for _, alarm in found} == {("device", "Black Friday")}
    assert shop.events(STABLE // 2) == [], "what follows is compared with the time before the sale"
    assert alarms_of(shop.events(SOON, only_phones))["device"].silenced == ""


def test_a_silence_of_one_detector_leaves_the_others_alone() -> None:
    shop = settled()
    now_ms = START_MS + shop.number * EVENT_MS
    shop.watching.silences.hear(silence(now_ms, now_ms + DAY_MS * 30, "country"), now_ms)

    def both(event: Event) -> None:
        abroad(event)
        only_phones(event)

    found = alarms_of(shop.events(SOON, both))
    assert {name: bool(alarm.silenced) for name, alarm in found.items()} == {"country": True, "device": False}


def test_state_continues_exactly_at_any_event() -> None:
    whole, parts = Shop(7), Shop(7)
    whole.watching.silences.hear(silence(START_MS + DAY_MS, START_MS + 2 * DAY_MS), 0)
    parts.watching.silences.hear(silence(START_MS + DAY_MS, START_MS + 2 * DAY_MS), 0)
    for count, change in ((6_000, surge), (1_234, dearer), (777, only_phones), (1_500, surge)):
        kept = decode(encode(parts.watching.state()))
        parts.watching = Watching()
        parts.watching.restore(kept)
        assert parts.events(count, change) == whole.events(count, change)
        assert digest(parts.watching.state()) == digest(whole.watching.state())


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 900), min_size=1, max_size=6), st.integers(0, 3))
def test_digests_do_not_depend_on_when_a_state_was_taken(counts: list[int], seed: int) -> None:
    whole, parts = Shop(seed), Shop(seed)
    for count in counts:
        parts.events(count, new_items)
        kept = decode(encode(parts.watching.state()))
        parts.watching = Watching()
        parts.watching.restore(kept)
        whole.events(count, new_items)
    assert digest(parts.watching.state()) == digest(whole.watching.state())


def test_what_leaves_the_catalogue_is_forgotten() -> None:
    shop = Shop(8)
    shop.events(2_000)
    known = list(shop.watching.items)
    assert shop.watching.category_of(known[0])
    shop.watching.forget(known[:2])
    assert list(shop.watching.items) == known[2:]
    assert shop.watching.category_of(known[0]) == ""
    again = Watching()
    again.restore(shop.watching.state())
    assert digest(again.state()) == digest(shop.watching.state())


def test_an_item_that_has_just_come_is_no_peak() -> None:
    shop = settled()

    def comes(event: Event) -> None:
        if int(event.id) % 25 == 0:
            event.data.items[0] = Item("newcomer", item_category="category-11", price=36.0)

    week = int(7 * DAY_MS / EVENT_MS)
    assert not {"item_peak", "category_items"} & alarms_of(shop.events(week, comes)).keys()


def test_silences_outlive_detectors() -> None:
    watching = Watching()
    watching.silences.hear(silence(0, DAY_MS), 0)
    again = Watching()
    again.restore(from_version_2({"silences": watching.silences.state(), "events": {"of": "other detectors"}}))
    assert again.silences.why(("item",), 5) == "Black Friday"


def test_watched_detectors_are_those_that_are_declared() -> None:
    shop = Watching()
    assert tuple(shop.watched()) == DETECTORS
    assert all(one.threshold == 0 for one in shop.watched().values())
    watched = settled().watching.watched()
    silent = {"confidence", "taste"}  # these need judgements
    assert {name for name, one in watched.items() if not one.threshold} == silent
    assert all(0 <= one.score < (one.threshold or 1) for one in watched.values())


def test_one_shopper_is_no_crowd() -> None:
    shop = settled()

    def bot(event: Event) -> None:
        if int(event.id) % 4 == 0:
            event.shopper, event.data.items[0] = "bot", Item("item-191", item_category="category-11", price=36.0)

    found = alarms_of(shop.events(2 * SOON, bot))
    assert not {"item", "item_peak", "category", "category_peak"} & found.keys()


def test_a_block_of_a_large_shop_ends_before_its_hour() -> None:
    shares = Shares("x", stability=True)
    monitor = Monitor((shares,), values_min=10)
    for number in range(3 * block_values_max):
        shares.count(["a"])
        monitor.observe(number // 100, Silences())
    assert len(shares._sums._blocks) == 3
    small = Monitor((Shares("y", stability=True),), values_min=10)
    for number in range(100):
        small.observe(number, Silences())
    assert small._count == 100, "an hour has not passed"


@pytest.mark.parametrize("stability", [True, False])
def test_distances_are_those_of_their_definition(stability: bool) -> None:
    before, now = {"a": 60, "b": 30, "c": 10}, {"a": 30, "b": 60, "d": 10}
    shares = Shares("x", stability=stability)
    for counts in (before, now):
        for _ in range(window_blocks):
            for value, count in counts.items():
                shares.count([value] * count)
            shares.end(0.0, ready=False, usual=True, time_ms=0)
    names, least = "abcd", 0.5 / 600
    p = np.array([before.get(name, 0) / 100 for name in names])
    q = np.array([now.get(name, 0) / 100 for name in names])
    if stability:
        p, q = np.maximum(p, least), np.maximum(q, least)
        wanted = np.sqrt(((q - p) * np.log(q / p)).sum())
    else:
        m = (p + q) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = [np.where(one > 0, one * np.log2(one / m), 0).sum() for one in (p, q)]
        wanted = np.sqrt(sum(parts) / 2)
    assert shares.watches[0].score == pytest.approx(wanted)


def test_wassersteins_distance_is_by_how_much_values_moved() -> None:
    rng = np.random.default_rng(0)
    levels = Levels("x", 0.0, 10.0, least=0.0, bins=200)
    for shift in (0.0, 0.7):
        for _ in range(window_blocks):
            for value in rng.normal(4, 1, 400).tolist():
                levels.add([value + shift], ["all"])
            levels.end(0.0, ready=False, usual=True, time_ms=0)
    assert levels.watches[0].score == pytest.approx(0.7, abs=0.08)


def test_groups_with_few_values_are_not_named() -> None:
    rng = np.random.default_rng(1)
    levels = Levels("x", 0.0, 10.0, least=0.1)
    found: list[Alarm] = []
    for number in range(40):
        shift = 2.0 * (number > 30)
        for place, value in enumerate(rng.normal(4, 1, 200).tolist()):
            levels.add([value + shift], ["many" if place else ""])
        if number in (5, 35):
            levels.add([9.0], ["few"])
        found += levels.end(0.02, ready=True, usual=True, time_ms=0)
    assert [[one.value for one in alarm.moved] for alarm in found[:1]] == [["many"]]
    assert group_values_min > 1


@pytest.mark.parametrize("turned", [False, True])
def test_vectors_that_turn_are_noticed(turned: bool) -> None:
    rng = np.random.default_rng(2)
    centre = rng.normal(size=(3, 24))
    vectors = Vectors("taste", vector_length)
    found: list[Alarm] = []
    for number in range(60):
        late = turned and number >= 50
        groups = rng.choice(3, 80, p=[0.1, 0.1, 0.8] if late else [0.4, 0.4, 0.2])
        drawn = centre[groups] + rng.normal(size=(80, 24))
        packed = packed_vectors((drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32))
        for group, vector in zip(groups.tolist(), packed, strict=True):
            vectors.add(vector, f"group-{group}", "m1")
        found += vectors.end(0.02, ready=True, usual=True, time_ms=0)
    assert bool(found) == turned
    if turned:
        assert found[0].moved[0].value == "group-2"
        assert found[0].moved[0].now > found[0].moved[0].before


def test_vectors_of_another_model_begin_anew() -> None:
    vectors = Vectors("taste", vector_length)
    for origin in ("m1", "m2"):
        for _ in range(20):
            for _ in range(80):
                vectors.add(bytes([50 if origin == "m1" else 206] * vector_length), "", origin)
            assert vectors.end(0.02, ready=True, usual=True, time_ms=0) == []


def test_judgements_are_watched() -> None:
    watching = Watching()
    rng = np.random.default_rng(3)
    found: list[Alarm] = []
    for number in range(20_000):
        confidence = float(np.clip(rng.normal(0.4 if number < 16_000 else 0.2, 0.1), 0.01, 0.99))
        one = Judgement(
            0, number, 0, START_MS + number * EVENT_MS, 1, 1.0, "m1", "boots", ["boots"], {}, {"blend": 1},
            confidence=confidence,
        )  # fmt: skip
        found += watching.observe_judgement(one, 0)
    assert [alarm.detector for alarm in found] == ["confidence"]
    assert found[0].score > found[0].threshold


def test_a_shop_whose_first_blocks_had_nothing_of_a_kind_has_no_distance_yet() -> None:
    categories = Shares("categories")
    for _ in range(2 * window_blocks):  # such as orders, before the first views
        assert categories.end(0.01, ready=True, usual=True, time_ms=0) == []
    categories.count(["shoes"])
    assert categories.end(0.01, ready=True, usual=True, time_ms=0) == []
    assert categories.watches[0].score == 0.0


def test_a_full_reference_keeps_its_larger_half() -> None:
    sums = Sums(100)
    for block in range(window_blocks + 3):
        sums.block = {f"{n}-{block}": 1 for n in range(60)} | {"a": 50}
        sums.end(0.01, usual=True)
    names = list(sums.reference_names())
    assert len(names) <= 101
    assert sums.reference_share("a") == pytest.approx(50 / 110, rel=0.05)
    assert sums.reference_share("") > 0.2


def test_weights_of_a_long_stream_stay_finite() -> None:
    sums = Sums(10)
    for _ in range(6_000):
        sums.block = {"a": 3, "b": 1}
        sums.end(0.05, usual=True)
    assert sums.reference_share("a") == pytest.approx(0.75)
    assert sums.reference_size == pytest.approx(4 * (2 - 0.05) / 0.05, rel=0.01)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (b"*", b"", "empty"),
        (b"*", b"{", "not_json"),
        (b"*", json.dumps({"detector": "*", "from_ms": 0, "until_ms": 9, "why": ""}).encode(), "schema"),
        (b"*", json.dumps({"detector": "A b", "from_ms": 0, "until_ms": 9, "why": "x"}).encode(), "schema"),
        (b"price", json.dumps({"detector": "*", "from_ms": 0, "until_ms": 9, "why": "x"}).encode(), "key_mismatch"),
        (None, json.dumps({"detector": "*", "from_ms": 0, "until_ms": 9, "why": "x"}).encode(), "key_mismatch"),
        (b"*", b'"' + b"x" * 2_000_000 + b'"', "too_large"),
        (b"*", b'{"detector": "\xff"}', "bad_utf8"),
    ],
)
def test_what_states_no_silence_is_rejected(key: bytes | None, value: bytes, reason: str) -> None:
    found = Silences().hear(Record(0, 0, 0, key, value), 0)
    assert isinstance(found, Rejection)
    assert found.reason == reason


def test_silences_are_bounded_and_those_that_are_over_make_room() -> None:
    silences = Silences()
    for number in range(silences_max):
        assert silences.hear(silence(0, 100, f"d{number}"), 0) is None
    assert silences.hear(silence(0, 100, "more"), 50) is not None
    assert silences.hear(silence(100, 200, "more"), 100) is None
    assert silences.why(("more",), 150) == "Black Friday"
    assert silences.why(("d1",), 99) == ""


SCORES = """
import numpy as np
from learners.parts.features import Shares
rng, shares = np.random.default_rng(0), [Shares("a", stability=True), Shares("b", peak=True)]
for _ in range(20):
    for value in rng.integers(0, 300, 900).tolist():
        for one in shares:
            one.count([f"value-{value}"])
    print([(one.end(0.01, ready=False, usual=True, time_ms=0), one.watches[0].score) for one in shares])
"""


def test_what_is_watched_does_not_depend_on_the_hashes_of_texts() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", SCORES], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1
