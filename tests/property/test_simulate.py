"""The simulated shop: the same bytes each time, valid events, drift when it was scheduled, and a truth that is true."""

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
from headrace.log import Record
from headrace.testing import MemoryLog
from headrace.topics import EVENTS, TRUTH, partitions_of
from producers.publisher import Numbered, Progress
from producers.scenario import Drift, ShopSettings
from producers.shop import MIXTURE, Shop
from producers.simulate import Simulation, simulate

SMALL = ShopSettings(seed=3, events=6_000, items=300, shoppers=500, days=14.0)
TOLD = ShopSettings(seed=5, events=2_500, items=300, shoppers=200, days=7.0, sampled=1.0, bots=0.0)
STREAM = ShopSettings(seed=1, events=30_000, items=800, shoppers=2_000, days=14.0)


@cache
def run(settings: ShopSettings) -> list[Numbered]:
    return list(Simulation(settings).records())


@cache
def events(settings: ShopSettings) -> list[Event]:
    out = []
    for record in run(settings):
        if record.topic == EVENTS:
            event = decode(Record(0, 0, settings.end_ms * 2, record.key, record.value))
            assert isinstance(event, Event), event
            out.append(event)
    return out


@cache
def truth(settings: ShopSettings, kind: str) -> list[dict[str, Any]]:
    records = [r for r in run(settings) if r.topic == TRUTH and r.key == kind.encode()]
    return [json.loads(record.value) for record in records]


def test_same_settings_same_bytes() -> None:
    assert run(SMALL) == list(Simulation(msgspec.structs.replace(SMALL)).records())
    other = list(Simulation(msgspec.structs.replace(SMALL, seed=4)).records())
    assert {record.value for record in run(SMALL)}.isdisjoint(record.value for record in other)


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


def test_drifts_happen_when_the_schedule_says() -> None:
    schedule, begun = truth(STREAM, "schedule"), truth(STREAM, "drift")
    assert [drift["drift"] for drift in schedule] == ["abrupt", "gradual", "recurring", "price"]
    assert [(drift["drift"], drift["at_ms"]) for drift in begun] == [
        (d["drift"], d["at_ms"]) for d in schedule[: len(begun)]
    ]
    found = events(STREAM)
    for drift in begun:
        n = drift["event_number"]
        assert found[n - 1].time_ms < drift["at_ms"] <= found[n].time_ms


def hits(settings: ShopSettings, frozen_at: int, start: int, end: int) -> float:
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


def test_a_model_that_does_not_adapt_loses_at_a_drift_and_is_right_again_when_the_past_recurs() -> None:
    abrupt, gradual, recurring, price = (drift["event_number"] for drift in truth(STREAM, "drift"))
    before = hits(STREAM, abrupt - 2_000, abrupt - 2_000, abrupt)
    after = hits(STREAM, abrupt - 2_000, abrupt, gradual)
    again = hits(STREAM, abrupt - 2_000, recurring, min(price, recurring + 2_500))
    assert after < 0.6 * before
    assert again > 1.5 * after
    assert hits(STREAM, STREAM.events, gradual - 2_000, gradual) > 1.2 * after, "one that adapts should recover"


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
    best = truth(TOLD, "best")
    assert [step["event_id"] for step in best] == [event.id for event in events(TOLD) if event.type == "view_item"]
    promised = sum(step["recall_at_20"] for step in best) / len(best)
    assert 0.7 < promised < 0.9
    assert sum(step["rank"] <= 20 for step in best) / len(best) == pytest.approx(promised, abs=0.04)
    assert min(step["purchase"] for step in best) > 0
    assert max(step["purchase"] for step in best) < 1
    by_id = {event.id: event for event in events(TOLD)}
    assert all(by_id[step["event_id"]].shopper == step["shopper"] for step in best)
    assert sum(MIXTURE) == pytest.approx(1.0)


@pytest.mark.parametrize("carted", [False, True])
def test_the_true_chances_are_those_of_the_draws(carted: bool) -> None:
    rng = np.random.default_rng(11)
    uniform, draws = rng.random, 30_000
    shop = Shop(msgspec.structs.replace(SMALL, items=120), rng)
    for _ in range(20):
        shop.arrive()
    shopper, structure = shop.shopper("anna", uniform), shop.structures[1]
    shopper.memory.extend([3, 5, 3, 130])
    theme, current = shopper.favourites.items[0], structure.themes[shopper.favourites.items[0]].items[0]

    def distance(item_of: Callable[[], int], chances: NDArray[np.float64]) -> float:
        assert chances.sum() == pytest.approx(1.0)
        counts = np.bincount([item_of() for _ in range(draws)], minlength=len(chances))
        return float(np.abs(counts / draws - chances).sum() / 2)

    chances = shop.following_chances(structure, shopper, theme, current, carted)
    assert distance(lambda: shop.following(structure, shopper, theme, current, carted, uniform), chances) < 0.03
    opening = shop.entry_chances(structure, shopper)
    favourite = shopper.favourites.draw
    assert distance(lambda: shop.entry(structure, shopper, favourite(uniform()), uniform), opening) < 0.03


def test_bots_are_fast_and_only_the_truth_names_them() -> None:
    bots = {bot["shopper"] for bot in truth(STREAM, "bot")}
    assert bots
    views: dict[str, list[int]] = defaultdict(list)
    for event in events(STREAM):
        if event.type == "view_item":
            views[event.data.session_id].append(event.time_ms)
    assert not any(b"bot" in record.value for record in run(STREAM) if record.topic == EVENTS)
    fast = {s for s, times in views.items() if len(times) >= 20 and times[-1] - times[0] < 1_300 * len(times)}
    assert {session.rsplit("-", 1)[0] for session in fast} <= bots


def test_a_killed_run_goes_on_with_nothing_twice() -> None:
    class Killed(Exception):
        pass

    def kill(progress: Progress) -> None:
        if progress.published >= 2_000:
            raise Killed

    def content(log: MemoryLog) -> list[list[bytes | None]]:
        return [
            [record.value for _, records in log.reader({place: 0}).read(100_000, 0.0) for record in records]
            for topic in (EVENTS, TRUTH)
            for place in partitions_of(topic)
        ]

    whole, cut = MemoryLog(), MemoryLog()
    whole.create()
    cut.create()
    assert simulate(whole, SMALL).published == SMALL.events
    with pytest.raises(Killed):
        simulate(cut, SMALL, progress=kill)
    again = simulate(cut, SMALL)
    assert (again.published, again.already) == (SMALL.events - 2_000, 2_000)
    assert content(cut) == content(whole)
    assert simulate(cut, SMALL).published == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"events": 0}, "events"),
        ({"items": 5}, "items"),
        ({"drifts": (Drift("abrupt", 0.5, 0.4),)}, "in order"),
        ({"drifts": (Drift("gradual", 0.2, 0.6), Drift("price", 0.5, 0.5))}, "without overlap"),
        ({"drifts": (Drift("abrupt", 0.5, 0.5, 2.0),)}, "share"),
        ({"drifts": (Drift("abrupt", 1.5, 1.6),)}, "drifts"),
    ],
)
def test_refuses_settings_that_make_no_shop(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(Misconfigured, match=says):
        simulate(MemoryLog(), msgspec.structs.replace(SMALL, **wrong))


@pytest.mark.parametrize(
    "settings",
    [
        ShopSettings(events=1, items=100, shoppers=10),
        ShopSettings(events=1_500, items=100, shoppers=10, new_items=1.0, bots=1.0),
        ShopSettings(events=1_500, items=100, shoppers=10_000, new_items=0.0, bots=0.0, drifts=(), sampled=0.0),
    ],
)
def test_extremes_run(settings: ShopSettings) -> None:
    assert len(events(settings)) == settings.events
