"""The simulated shop: reproducible bytes, valid events, drifts on schedule, and a correct ground truth."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
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
STABLE = SimulationSettings(seed=3, events=12_000, items=300, shoppers=500, days=14.0, drifts=())


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


@pytest.mark.parametrize(
    ("settings", "digest"),
    [
        (SMALL, "ed1061df4971c6176f4867fc2f3e033c"),
        (msgspec.structs.replace(SMALL, drifts=(), outages=0.2, new_items=0.5), "fe272a2fafaf5a7efc5a30ad2deb18da"),
    ],
)
def test_settings_that_release_0_3_0_knew_give_its_bytes(settings: SimulationSettings, digest: str) -> None:
    assert "season" not in settings.plain()
    total = sha256()
    for record in run(settings):
        total.update(b"%s %s %s\n" % (record.topic.encode(), record.key, record.value))
    assert total.hexdigest()[:32] == digest


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


STOCKED = msgspec.structs.replace(STABLE, stocked=0.6)


def test_nobody_buys_more_than_the_warehouse_has() -> None:
    on_hand: dict[str, int] = {}
    stated = 0
    ran_out, received = set(), 0
    for record in run(STOCKED):
        value = json.loads(record.value)
        if record.topic == ITEMS and "quantity" in value:
            stated += 1
            item = value["id"]
            assert value["quantity"] >= on_hand.get(item, 0) if item in on_hand else value["quantity"] >= 2
            received += value["quantity"] - on_hand.get(item, value["quantity"])
            on_hand[item] = value["quantity"]
            if not value["quantity"]:
                ran_out.add(item)
                assert value["availability"] == "out_of_stock"
        elif record.topic == EVENTS and value["type"] == "purchase":
            for line in value["data"]["items"]:
                if line["item_id"] in on_hand:
                    on_hand[line["item_id"]] -= line.get("quantity", 1)
                    assert on_hand[line["item_id"]] >= 0
    assert stated > 500
    assert len(ran_out) > 20
    assert received > 100
    assert 0.5 * STOCKED.items < len(on_hand) < 0.8 * STOCKED.items


def test_promotions_are_stated_before_events_have_their_prices() -> None:
    stated: dict[str, dict[str, Any]] = {}
    promoted = 0
    for record in run(STOCKED):
        value = json.loads(record.value)
        if record.topic == ITEMS:
            stated[value["id"]] = value
        elif record.topic == EVENTS and value["type"] == "view_item":
            line, time_ms = value["data"]["items"][0], record.time_ms
            known = stated[line["item_id"]]
            first, last = (
                datetime.fromisoformat(one).timestamp() * 1000 for one in known["sale_price_effective_date"].split("/")
            )
            assert time_ms < last
            on = time_ms >= first
            promoted += on
            assert line["price"] == known["sale_price" if on else "price"]
    assert promoted > 500


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


def with_drift(kind: Any, at: float, until: float, strength: float) -> SimulationSettings:
    return msgspec.structs.replace(STABLE, drifts=(Drift(kind, at, until, strength),))


def viewed(settings: SimulationSettings, start: int, end: int) -> list[Any]:
    """Return the items of the views among events start to end."""
    return [event.data.items[0] for event in events(settings)[start:end] if event.type == "view_item"]


def share(found: list[Any], wanted: Callable[[Any], bool]) -> float:
    return sum(wanted(item) for item in found) / len(found)


def begun(settings: SimulationSettings) -> dict[str, Any]:
    (drift,) = truth(settings, "drift")
    return drift


def assert_same_until(settings: SimulationSettings, number: int) -> None:
    pairs = zip(events(settings)[:number], events(STABLE), strict=False)
    assert all((a.time_ms, a.shopper, a.data) == (b.time_ms, b.shopper, b.data) for a, b in pairs)


def test_an_incremental_drift_replaces_the_structure_step_by_step() -> None:
    settings = with_drift("incremental", 0.3, 0.8, 1.0)
    start, end = begun(settings)["event_number"], round(0.8 * STABLE.events)
    third = (end - start) // 3
    found = [recall(settings, start, begin, begin + third) for begin in (start - third, *range(start, end - 2, third))]
    assert found[0] > found[1] > found[2] > found[3]
    assert recall(settings, start, end, STABLE.events) < 0.6 * found[0]
    assert "items" not in begun(settings)


def test_a_local_drift_changes_one_category_and_nothing_else() -> None:
    settings = with_drift("local", 0.5, 0.5, 1.0)
    drift = begun(settings)
    (home,), start = drift["categories"], drift["event_number"]
    assert_same_until(settings, start)
    before, after = viewed(settings, 0, start), viewed(settings, start, STABLE.events)
    assert {item.item_category for item in before + after if item.item_id in drift["items"]} == {home}
    assert share(after, lambda item: item.item_category == home) == pytest.approx(
        share(before, lambda item: item.item_category == home), abs=0.02
    )
    counts = [Counter(item.item_id for item in found) for found in (before, after)]

    def moved(own: bool) -> float:
        names = {item.item_id for item in before + after if (item.item_category == home) == own}
        shares = [np.array([count[name] for name in names]) for count in counts]
        return float(np.abs(shares[0] / shares[0].sum() - shares[1] / shares[1].sum()).sum() / 2)

    assert moved(own=True) > 2 * moved(own=False)


def test_a_local_drift_with_a_strength_above_one_raises_the_views_of_one_category() -> None:
    settings = with_drift("local", 0.5, 0.5, 4.0)
    drift = begun(settings)
    (home,), start = drift["categories"], drift["event_number"]
    assert "items" not in drift
    assert_same_until(settings, start)
    before = share(viewed(settings, 0, start), lambda item: item.item_category == home)
    after = share(viewed(settings, start, STABLE.events), lambda item: item.item_category == home)
    assert 2 * before < after < 4.5 * before


def test_a_surge_brings_visits_to_one_item_and_its_category_for_a_time() -> None:
    settings = with_drift("surge", 0.5, 0.75, 0.2)
    drift = begun(settings)
    (item,), (home,), start = drift["items"], drift["categories"], drift["event_number"]
    assert_same_until(settings, start)
    found = events(settings)
    end = next(n for n, event in enumerate(found) if event.time_ms >= drift["until_ms"])
    shares, homes = [], []
    for begin, stop in ((0, start), (start, end), (end, len(found))):
        sessions: dict[str, bool] = defaultdict(bool)
        for event in found[begin:stop]:
            if event.type == "view_item":
                sessions[event.data.session_id] |= event.data.items[0].item_id == item
        shares.append(sum(sessions.values()) / len(sessions))
        homes.append(share(viewed(settings, begin, stop), lambda seen: seen.item_category == home))
    assert shares[0] < 0.05 > shares[2] - 0.01
    assert 0.14 < shares[1] - shares[0] < 0.26
    assert homes[1] > homes[0] + 0.02
    lists = {event.data.recommendation_id for event in found if event.type == "view_item_list"}
    assert {event.data.recommendation_id for event in found if event.type == "view_item"} <= {"", *lists}


def test_a_wave_of_new_items_appears_at_once_and_is_viewed() -> None:
    settings = with_drift("new_items", 0.5, 0.5, 0.1)
    drift = begun(settings)
    wave, start = set(drift["items"]), drift["event_number"]
    assert len(wave) == round(0.1 * STABLE.items)
    assert_same_until(settings, start)
    assert {count for count, item in items(settings) if item.id in wave} == {start}
    assert not share(viewed(settings, 0, start), lambda item: item.item_id in wave)
    assert 0.05 < share(viewed(settings, start, STABLE.events), lambda item: item.item_id in wave) < 0.25


def test_at_weekends_half_of_the_categories_is_viewed_more_every_week() -> None:
    settings = msgspec.structs.replace(STABLE, season=1.0)
    assert settings.plain()["season"] == 1.0
    counts: defaultdict[tuple[int, bool], Counter[str]] = defaultdict(Counter)
    for event in events(settings):
        if event.type == "view_item":
            moment = datetime.fromtimestamp(event.time_ms / 1000, UTC)
            week = (event.time_ms - STABLE.start_ms) // (7 * 86_400_000)
            counts[week, moment.weekday() >= 5][event.data.items[0].item_category] += 1

    def shares(week: int, weekend: bool) -> dict[str, float]:
        found = counts[week, weekend]
        return {home: count / found.total() for home, count in found.items()}

    rises = [{home: value / shares(week, False)[home] for home, value in shares(week, True).items()} for week in (0, 1)]
    favoured = sorted(rises[0], key=rises[0].__getitem__)[len(rises[0]) // 2 :]
    for rise in rises:
        more = np.mean([rise[home] for home in favoured])
        less = np.mean([value for home, value in rise.items() if home not in favoured])
        assert 1.4 < more / less < 2.4


@pytest.mark.parametrize(
    ("kind", "at", "until", "strength", "season"),
    [("incremental", 0.0, 1.0, 1.0, 0.0), ("local", 0.0, 0.0, 1.0, 0.0), ("local", 0.0, 0.0, 3.0, 1.0),
     ("surge", 0.0, 1.0, 0.3, 0.0), ("new_items", 0.0, 0.0, 0.5, 0.0)],
)  # fmt: skip
def test_the_truth_is_calibrated_in_each_drift(
    kind: Any, at: float, until: float, strength: float, season: float
) -> None:
    drifts = (Drift(kind, at, until, strength),)
    check_truth(msgspec.structs.replace(FULL_TRUTH, drifts=drifts, season=season), low=0.55)


def test_the_truth_is_calibrated() -> None:
    check_truth(FULL_TRUTH)


def check_truth(settings: SimulationSettings, low: float = 0.7) -> None:
    best = truth(settings, "best")
    assert [step["event_id"] for step in best] == [event.id for event in events(settings) if event.type == "view_item"]
    expected = sum(step["recall_at_20"] for step in best) / len(best)
    assert low < expected < 0.9
    assert sum(step["rank"] <= 20 for step in best) / len(best) == pytest.approx(expected, abs=0.04)
    assert min(step["purchase"] for step in best) > 0
    assert max(step["purchase"] for step in best) < 1
    by_id = {event.id: event for event in events(settings)}
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
        ({"drifts": (Drift("surge", 0.5, 0.6, 1.5),)}, "strength of drift surge: wanted a share"),
        ({"drifts": (Drift("new_items", 0.5, 0.5, 1.5),)}, "share"),
        ({"drifts": (Drift("incremental", 0.5, 0.5),)}, "wanted `until` after `at`"),
        ({"drifts": (Drift("surge", 0.5, 0.5),)}, "wanted `until` after `at`"),
        ({"season": 1.5}, "season"),
        ({"churners": 1.5}, "churners"),
        ({"churners": 0.4, "big_spenders": 0.3, "returners": 0.3}, "wanted at most a share of 0.9 .*, found 1"),
    ],
)
def test_rejects_invalid_settings(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(Misconfigured, match=message):
        simulate(MemoryLog(), msgspec.structs.replace(SMALL, **wrong))


PLANTED = SimulationSettings(
    seed=3, events=20_000, items=300, shoppers=800, days=42.0, churners=0.15, big_spenders=0.1, returners=0.1
)


def members(settings: SimulationSettings) -> dict[str, dict[str, Any]]:
    """Return the truth about each shopper."""
    return {one["shopper"]: one for one in truth(settings, "shopper")}


def of_group(settings: SimulationSettings, group: str, *kinds: str) -> list[Event]:
    known = members(settings)
    return [one for one in events(settings) if one.type in kinds and known.get(one.shopper, {}).get("group") == group]


def test_groups_have_their_shares_and_the_truth_names_who_is_in_them() -> None:
    known = members(PLANTED)
    bots = {one["shopper"] for one in truth(PLANTED, "bot")}
    assert {one.shopper for one in events(PLANTED)} <= known.keys() | bots
    counts = Counter(one["group"] for one in known.values())
    assert counts["churner"] == pytest.approx(0.15 * len(known), rel=0.3)
    assert counts["big_spender"] == pytest.approx(0.1 * len(known), rel=0.35)
    assert counts["returner"] == pytest.approx(0.1 * len(known), rel=0.35)
    assert all(set(one["brands"]) < {f"brand-{number:02d}" for number in range(40)} for one in known.values())
    assert truth(SMALL, "shopper") == []


def test_churners_come_no_more_after_their_time() -> None:
    known = members(PLANTED)
    assert {"stops_ms" in one for one in known.values() if one["group"] != "churner"} == {False}
    begins: dict[str, tuple[str, int]] = {}
    for one in events(PLANTED):
        begins.setdefault(one.data.session_id, (one.shopper, one.time_ms))
    last = dict(begins.values())
    late = [last[name] - one["stops_ms"] for name, one in known.items() if "stops_ms" in one and name in last]
    assert len(late) > 80
    assert max(late) < 60_000, "a visit that begins then has its first event some seconds later"
    others = [PLANTED.end_ms - last[name] for name, one in known.items() if one["group"] != "churner" and name in last]
    before = [-one for one in late]
    assert np.median(before) < np.median(others), "before it, they come as often"


def test_big_spenders_spend_much_and_returners_send_it_back_days_later() -> None:
    spent, back, orders = {}, {}, {}
    for group in ("big_spender", "returner", "other"):
        bought = of_group(PLANTED, group, "purchase")
        orders[group] = {one.data.transaction_id: one for one in bought}
        spent[group] = sum(one.data.value or 0 for one in bought) / len(bought)
        returned = of_group(PLANTED, group, "refund")
        back[group] = sum(one.data.value or 0 for one in returned) / sum(one.data.value or 0 for one in bought)
    assert spent["big_spender"] > 3 * spent["other"]
    assert spent["other"] < spent["returner"] < 2.5 * spent["other"], "who is planted fills the cart more"
    assert back["returner"] > 0.3 > 4 * back["other"]
    for one in of_group(PLANTED, "returner", "refund"):
        order = orders["returner"][one.data.transaction_id]
        assert 4 <= (one.time_ms - order.time_ms) / 86_400_000 <= 18
        assert {line.item_id for line in one.data.items} <= {line.item_id for line in order.data.items}


def short(settings: SimulationSettings) -> SimulationSettings:
    return msgspec.structs.replace(settings, events=1)


def test_groups_are_drawn_apart_from_the_shop() -> None:
    """The same items at the same prices, and the same shoppers: only what members do differs."""
    without = msgspec.structs.replace(PLANTED, churners=0.0, big_spenders=0.0, returners=0.0)
    assert [one.value for one in run(PLANTED) if one.topic == ITEMS][: PLANTED.items] == [
        one.value for one in run(without) if one.topic == ITEMS
    ][: PLANTED.items]
    first = PLANTED.shoppers // 5
    of_few, of_all = (list(members(one).values())[:first] for one in (short(PLANTED), PLANTED))
    assert [(one["shopper"], one["group"]) for one in of_few] == [(one["shopper"], one["group"]) for one in of_all]


@pytest.mark.parametrize(
    "settings",
    [
        SimulationSettings(events=1, items=100, shoppers=10),
        SimulationSettings(events=1_500, items=100, shoppers=10, new_items=1.0, bots=1.0),
        SimulationSettings(events=1_500, items=100, shoppers=10_000, new_items=0.0, bots=0.0, drifts=(), sampled=0.0),
        SimulationSettings(
            events=3_000,
            items=100,
            shoppers=10,
            new_items=1.0,
            season=1.0,
            outages=1.0,
            sampled=0.2,
            drifts=(
                Drift("local", 0.0, 0.0, 10.0),
                Drift("new_items", 0.1, 0.1, 1.0),
                Drift("incremental", 0.1, 0.4, 1.0),
                Drift("local", 0.4, 0.4, 1.0),
                Drift("surge", 0.5, 0.7, 1.0),
                Drift("recurring", 0.8, 0.9),
            ),
        ),
        SimulationSettings(events=1_500, items=100, shoppers=10, churners=0.9),
    ],
)
def test_extreme_settings_run(settings: SimulationSettings) -> None:
    assert len(events(settings)) == settings.events
