"""The simulated shop: reproducible bytes, valid events, drifts on schedule, and a correct ground truth."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.errors import Misconfigured
from headrace.events import Event, decode
from headrace.items import ItemRecord
from headrace.items import decode as decode_item
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Record
from headrace.log.scan import partition_records
from headrace.topics import EVENTS, ITEMS, TRUTH, partitions_of
from producers.publisher import Progress
from producers.scenario import Drift, SimulationSettings
from producers.sequence import NumberedRecord
from producers.shop import MIXTURE, SimulatedShop
from producers.simulate import Simulation, simulate

SMALL = SimulationSettings(seed=3, events=6_000, items=300, shoppers=500, days=14.0)
FULL_TRUTH = SimulationSettings(seed=5, events=2_500, items=300, shoppers=200, days=7.0, sampled=1.0, bots=0.0)
STREAM = SimulationSettings(seed=1, events=30_000, items=800, shoppers=2_000, days=14.0)


@cache
def run(settings: SimulationSettings) -> list[NumberedRecord]:
    return list(Simulation(settings).records())


@cache
def events(settings: SimulationSettings) -> list[Event]:
    out = []
    for record in run(settings):
        if record.topic == EVENTS:
            event = decode(Record(0, 0, settings.end_ms * 2, record.key, record.value))
            assert isinstance(event, Event), event
            out.append(event)
    return out


@cache
def truth(settings: SimulationSettings, kind: str) -> list[dict[str, Any]]:
    records = [r for r in run(settings) if r.topic == TRUTH and r.key == kind.encode()]
    return [json.loads(record.value) for record in records]


def test_equal_settings_give_equal_bytes() -> None:
    assert run(SMALL) == list(Simulation(msgspec.structs.replace(SMALL)).records())
    other = list(Simulation(msgspec.structs.replace(SMALL, seed=4)).records())
    assert {record.value for record in run(SMALL)}.isdisjoint(record.value for record in other)


def items(settings: SimulationSettings) -> list[tuple[int, ItemRecord]]:
    """Return what a run states of items, each with the number of events before it."""
    found, count = [], 0
    for record in run(settings):
        count += record.topic == EVENTS
        if record.topic == ITEMS:
            item = decode_item(Record(0, 0, 0, record.key, record.value))
            assert isinstance(item, ItemRecord), item
            found.append((count, item))
    return found


def test_each_item_is_stated_before_its_first_event_as_events_describe_it() -> None:
    stated: dict[str, ItemRecord] = {}
    regular = 0
    for record in run(SMALL):
        if record.topic == ITEMS:
            item = decode_item(Record(0, 0, 0, record.key, record.value))
            assert isinstance(item, ItemRecord), item
            stated[item.id] = item
        elif record.topic == EVENTS:
            for line in events(SMALL)[record.number].data.items:
                known = stated[line.item_id]
                if line.item_name:
                    assert (line.item_name, line.item_brand, line.item_category) == (
                        known.title, known.brand, known.category,
                    )  # fmt: skip
                regular += line.price == known.prices["EUR"]
    assert 1.13 * SMALL.items < len(stated) <= 1.15 * SMALL.items, "the last ones may be added after the last event"
    assert regular > 0.7 * sum(len(event.data.items) for event in events(SMALL)), "the others are on promotion"


def test_items_are_stated_again_when_prices_drift() -> None:
    first: dict[str, ItemRecord] = {}
    factors = set()
    for _, item in items(SMALL):
        before = first.setdefault(item.id, item)
        if item is not before:
            factors.add(round(item.prices["EUR"] / before.prices["EUR"], 1))
        assert item.available
    assert factors == {1.4}


def test_items_go_out_of_stock_and_come_back_and_the_events_stay_the_same() -> None:
    with_outages = msgspec.structs.replace(SMALL, outages=0.2, drifts=())
    without = msgspec.structs.replace(SMALL, drifts=())
    gone: dict[str, int] = {}
    lengths = []
    for count, item in items(with_outages):
        if not item.available:
            gone[item.id] = count
        elif item.id in gone:
            lengths.append(count - gone[item.id])
    assert len(gone) == round(0.2 * SMALL.items)
    assert 0.8 * len(gone) < len(lengths) <= len(gone), "the last ones may come back after the last event"
    assert 0.05 * SMALL.events < sum(lengths) / len(lengths) < 0.2 * SMALL.events
    pairs = zip(events(with_outages), events(without), strict=True)
    assert all((a.id, a.time_ms, a.shopper, a.data) == (b.id, b.time_ms, b.shopper, b.data) for a, b in pairs)


def test_events_are_valid_numbered_and_in_time_order() -> None:
    found = events(SMALL)
    assert [event.id for event in found] == [f"sim-3-{n}" for n in range(SMALL.events)]
    times = [event.time_ms for event in found]
    assert times == sorted(times)
    assert times[0] >= SMALL.start_ms
    assert 0.8 < (times[-1] - SMALL.start_ms) / (SMALL.end_ms - SMALL.start_ms) < 1.25
    kinds = Counter(event.type for event in found)
    assert set(kinds) >= {
        "view_item", "view_item_list", "add_to_cart", "remove_from_cart", "begin_checkout", "purchase", "refund",
        "search", "view_promotion", "select_promotion", "login", "sign_up", "review",
    }  # fmt: skip
    bought = sum(len(event.data.items) for event in found if event.type == "purchase")
    assert 0.02 < bought / kinds["view_item"] < 0.06


def test_impressions_carry_propensities_and_views_echo_them() -> None:
    lists: dict[str, set[str]] = {}
    echoed = 0
    for event in events(SMALL):
        id_ = event.data.recommendation_id
        if event.type == "view_item_list":
            assert [item.index for item in event.data.items] == list(range(8))
            assert {item.propensity for item in event.data.items} <= {0.8, 0.2}
            lists[id_] = {item.item_id for item in event.data.items}
        elif id_:
            assert event.data.items[0].item_id in lists[id_]
            echoed += 1
    shown = [item for event in events(STREAM) if event.type == "view_item_list" for item in event.data.items]
    assert sum(item.propensity == 0.8 for item in shown) / len(shown) == pytest.approx(0.8, abs=0.02)
    assert echoed > 0.9 * len(lists)


def test_refunds_and_reviews_follow_purchases() -> None:
    bought: dict[str, Event] = {}
    refunds = 0
    for event in events(STREAM):
        if event.type == "purchase":
            assert event.data.transaction_id not in bought
            bought[event.data.transaction_id] = event
        elif event.type == "refund":
            purchase = bought[event.data.transaction_id]
            assert purchase.shopper == event.shopper
            assert event.data.items[0].item_id in {item.item_id for item in purchase.data.items}
            assert event.time_ms > purchase.time_ms
            refunds += 1
    assert refunds > 0


def test_new_items_and_new_shoppers_keep_arriving() -> None:
    first: dict[str, int] = {}
    shoppers: dict[str, int] = {}
    for n, event in enumerate(events(STREAM)):
        shoppers.setdefault(event.shopper, n)
        if event.type == "view_item":
            first.setdefault(event.data.items[0].item_id, n)
    arrived = [n for item, n in first.items() if int(item[5:]) >= STREAM.items]
    assert len(arrived) > 50
    assert max(arrived) > 0.9 * STREAM.events
    assert sum(n > STREAM.events // 2 for n in shoppers.values()) > 200


def test_drifts_begin_as_scheduled() -> None:
    schedule, begun = truth(STREAM, "schedule"), truth(STREAM, "drift")
    assert [drift["drift"] for drift in schedule] == ["abrupt", "gradual", "recurring", "price"]
    assert [(drift["drift"], drift["at_ms"]) for drift in begun] == [
        (d["drift"], d["at_ms"]) for d in schedule[: len(begun)]
    ]
    found = events(STREAM)
    for drift in begun:
        n = drift["event_number"]
        assert found[n - 1].time_ms < drift["at_ms"] <= found[n].time_ms


def recall(settings: SimulationSettings, frozen_at: int, start: int, end: int) -> float:
    """Return the recall@20 over events start to end of first-order transitions learned until `frozen_at`."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    last: dict[str, str] = {}
    hit = total = 0
    for n, event in enumerate(events(settings)):
        if event.type != "view_item":
            continue
        item, before = event.data.items[0].item_id, last.get(event.data.session_id)
        if before is not None and start <= n < end:
            hit += item in dict(counts[before].most_common(20))
            total += 1
        if before is not None and n < frozen_at:
            counts[before][item] += 1
        last[event.data.session_id] = item
    return hit / total


def test_a_model_that_does_not_adapt_loses_at_a_drift_and_recovers_when_the_old_structure_recurs() -> None:
    abrupt, gradual, recurring, price = (drift["event_number"] for drift in truth(STREAM, "drift"))
    before = recall(STREAM, abrupt - 2_000, abrupt - 2_000, abrupt)
    after = recall(STREAM, abrupt - 2_000, abrupt, gradual)
    again = recall(STREAM, abrupt - 2_000, recurring, min(price, recurring + 2_500))
    assert after < 0.6 * before
    assert again > 1.5 * after
    assert recall(STREAM, STREAM.events, gradual - 2_000, gradual) > 1.2 * after, "a model that adapts should recover"


def test_prices_jump_at_the_price_drift() -> None:
    price = truth(STREAM, "drift")[3]
    seen: dict[str, list[set[float]]] = defaultdict(lambda: [set(), set()])
    for event in events(STREAM):
        if event.type == "view_item":
            item = event.data.items[0]
            seen[item.item_id][event.time_ms >= price["at_ms"]].add(item.price or 0.0)
    ratios = [max(after) / max(before) for before, after in seen.values() if before and after]
    assert 0.25 < sum(ratio > 1.05 for ratio in ratios) / len(ratios) < 0.75


def test_the_truth_is_calibrated() -> None:
    best = truth(FULL_TRUTH, "best")
    assert [step["event_id"] for step in best] == [
        event.id for event in events(FULL_TRUTH) if event.type == "view_item"
    ]
    expected = sum(step["recall_at_20"] for step in best) / len(best)
    assert 0.7 < expected < 0.9
    assert sum(step["rank"] <= 20 for step in best) / len(best) == pytest.approx(expected, abs=0.04)
    assert min(step["purchase"] for step in best) > 0
    assert max(step["purchase"] for step in best) < 1
    by_id = {event.id: event for event in events(FULL_TRUTH)}
    assert all(by_id[step["event_id"]].shopper == step["shopper"] for step in best)
    assert sum(MIXTURE) == pytest.approx(1.0)


@pytest.mark.parametrize("carted", [False, True])
def test_the_true_probabilities_match_the_frequencies_of_the_draws(carted: bool) -> None:
    rng = np.random.default_rng(11)
    uniform, draws = rng.random, 30_000
    shop = SimulatedShop(msgspec.structs.replace(SMALL, items=120), rng)
    for _ in range(20):
        shop.add_new_item()
    shopper, structure = shop.shopper("anna", uniform), shop.structures[1]
    shopper.memory.extend([3, 5, 3, 130])
    theme, current = shopper.favourites.items[0], structure.themes[shopper.favourites.items[0]].items[0]

    def distance(item_of: Callable[[], int], chances: NDArray[np.float64]) -> float:
        assert chances.sum() == pytest.approx(1.0)
        counts = np.bincount([item_of() for _ in range(draws)], minlength=len(chances))
        return float(np.abs(counts / draws - chances).sum() / 2)

    chances = shop.next_chances(structure, shopper, theme, current, carted)
    assert distance(lambda: shop.draw_next(structure, shopper, theme, current, carted, uniform), chances) < 0.03
    opening = shop.first_chances(structure, shopper)
    favourite = shopper.favourites.draw
    assert distance(lambda: shop.draw_first(structure, shopper, favourite(uniform()), uniform), opening) < 0.03


def test_bots_are_fast_and_only_the_ground_truth_lists_them() -> None:
    bots = {bot["shopper"] for bot in truth(STREAM, "bot")}
    assert bots
    views: dict[str, list[int]] = defaultdict(list)
    for event in events(STREAM):
        if event.type == "view_item":
            views[event.data.session_id].append(event.time_ms)
    assert not any(b"bot" in record.value for record in run(STREAM) if record.topic == EVENTS)
    fast = {s for s, times in views.items() if len(times) >= 20 and times[-1] - times[0] < 1_300 * len(times)}
    assert {session.rsplit("-", 1)[0] for session in fast} <= bots


def test_a_killed_run_resumes_without_duplicates() -> None:
    class Killed(Exception):
        pass

    def kill(progress: Progress) -> None:
        if progress.published >= 2_000:
            raise Killed

    def content(log: MemoryLog) -> list[list[bytes | None]]:
        return [
            [record.value for record in partition_records(log, place)]
            for topic in (EVENTS, ITEMS, TRUTH)
            for place in partitions_of(topic)
        ]

    complete, interrupted = MemoryLog(), MemoryLog()
    complete.create()
    interrupted.create()
    assert simulate(complete, SMALL).published == SMALL.events
    with pytest.raises(Killed):
        simulate(interrupted, SMALL, progress=kill)
    again = simulate(interrupted, SMALL)
    assert again.published + again.already_published == SMALL.events
    assert 1_000 <= again.already_published <= 2_000, "the batch that was not committed is published again"
    assert content(interrupted) == content(complete)
    assert simulate(interrupted, SMALL).published == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"events": 0}, "events"),
        ({"items": 5}, "items"),
        ({"drifts": (Drift("abrupt", 0.5, 0.4),)}, "in order"),
        ({"drifts": (Drift("gradual", 0.2, 0.6), Drift("price", 0.5, 0.5))}, "without overlap"),
        ({"drifts": (Drift("abrupt", 0.5, 0.5, 2.0),)}, "share"),
        ({"drifts": (Drift("abrupt", 1.5, 1.6),)}, "drifts"),
    ],
)
def test_rejects_invalid_settings(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(Misconfigured, match=message):
        simulate(MemoryLog(), msgspec.structs.replace(SMALL, **wrong))


@pytest.mark.parametrize(
    "settings",
    [
        SimulationSettings(events=1, items=100, shoppers=10),
        SimulationSettings(events=1_500, items=100, shoppers=10, new_items=1.0, bots=1.0),
        SimulationSettings(events=1_500, items=100, shoppers=10_000, new_items=0.0, bots=0.0, drifts=(), sampled=0.0),
    ],
)
def test_extreme_settings_run(settings: SimulationSettings) -> None:
    assert len(events(settings)) == settings.events
