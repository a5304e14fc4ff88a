"""The shop's fold: recommendations, scores, alarms and its state."""

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consumers.judge import ShopJudge
from headrace.blobs import Blobs
from headrace.events import Data, Event, Item, at
from headrace.log import Outgoing, Record
from headrace.state import decode, digest, encode
from learners.announcement import Announcement
from learners.browsing import KINDS, Browsing
from learners.learner import Context
from learners.shop import BLEND, DEEP, DETECTORS, RANKED, Shop, ShopSettings, score_every_events

START_MS = 1_736_121_600_000
SMALL = ShopSettings(items_max=64, shoppers_max=20)


def event(number: int, shopper: str, item: str, type_: Any = "view_item") -> Event:
    time_ms = START_MS + 1_000 * number
    line = Item(item, item_category=f"c{len(item)}", price=1.0 + len(item))
    return Event(f"e{number}", "test", type_, at(time_ms), Data([line]), "1.0", shopper, time_ms)


def walk(shop: Shop, count: int, judge: ShopJudge | None = None, first: int = 0) -> list[Outgoing]:
    """Let shoppers walk: after item n mostly comes n + 1. Return the outputs."""
    found, rng, at_item = [], random.Random(first), dict[str, int]()
    for number in range(first, first + count):
        shopper = f"s{rng.randrange(8)}"
        item = (at_item.get(shopper, rng.randrange(20)) + (1 if rng.random() < 0.9 else 5)) % 20
        at_item[shopper] = item
        one = event(number, shopper, f"i{item}")
        if judge:
            judge.observe(shop, one, 0, number)
        shop.learn(one, 0, number)
        if number % 50 == 49:
            for data in judge.judge(shop, 0) if judge else ():
                shop.absorb(data)
            found += shop.emit()
    return found


def test_a_shopper_never_seen_gets_popular_items() -> None:
    shop = Shop(SMALL)
    for number in range(60):
        shop.learn(event(number, f"s{number}", "hit" if number % 2 else f"i{number % 7}"), 0, number)
    found = shop.recommend("nobody", shop.time_ms, 5)
    assert found[0][0] == "hit"
    assert len(found) == 5
    assert len({item for item, _ in found}) == 5


def test_a_late_event_of_somebody_changes_nobody_elses_answer() -> None:
    shop = Shop(SMALL)
    walk(shop, 200)
    now, before = shop.time_ms, shop.recommend("s1", shop.time_ms, 5)
    late = event(0, "late", "i3", "login")
    late.time_ms = START_MS - 300 * 86_400_000
    shop.learn(late, 0, 200)
    assert shop.time_ms == now
    assert shop.recommend("s1", shop.time_ms, 5) == before


def test_items_that_are_known_send_nobody_away() -> None:
    browsing = Browsing(items_max=16, shoppers_max=20)
    for number in range(320):
        browsing.learn(event(number, f"s{number // 3}", f"i{number % 16}"))
    assert browsing.catalogue.admitted == 16
    assert browsing.catalogue.bounds()["items"] == (16, 16)


def test_an_empty_shop_recommends_nothing() -> None:
    assert Shop(SMALL).recommend("nobody", 0, 5) == []


def test_what_comes_next_is_learned_and_what_was_seen_left_out(tmp_path: Path) -> None:
    shop = Shop(SMALL)
    walk(shop, 2_000, ShopJudge(Blobs(tmp_path), fixed=1.0))
    for number, item in enumerate(("i3", "i4"), start=5_000):
        shop.learn(event(number, "ann", item), 0, number)
    found = [item for item, _ in shop.recommend("ann", shop.time_ms, 10)]
    assert found[0] == "i5"
    assert not {"i3", "i4"} & set(found)
    assert len(found) == 10


def test_recommending_changes_nothing() -> None:
    shop = Shop(SMALL)
    walk(shop, 300)
    before = digest(shop.state())
    for name in ("s1", "nobody", ""):
        shop.recommend(name, shop.time_ms, 20)
        shop.recommend(name, shop.time_ms + 10**9, 100)
    assert digest(shop.state()) == before


def test_scores_come_every_thousand_events_and_tell_each_learner(tmp_path: Path) -> None:
    shop = Shop(SMALL)
    outputs = walk(shop, 2 * score_every_events, ShopJudge(Blobs(tmp_path), fixed=1.0))
    scored = [msgspec.json.decode(one.value or b"") for one in outputs if one.topic == "scores"]
    assert [one["events"] for one in scored] == [1_000, 2_000]
    assert len({one["id"] for one in scored}) == 2
    ranking = scored[-1]["ranking"]
    assert set(ranking) == set(RANKED)
    assert ranking["blend"]["judged"] == ranking["popularity"]["judged"] > 1_500
    assert ranking["deep"] == {"judged": 0, "window": {}, "whole": {}}
    assert ranking["transitions"]["window"]["mrr@20"] > 2 * ranking["popularity"]["window"]["mrr@20"]
    assert ranking["blend"]["window"]["mrr@20"] > 0.6


def test_alarms_have_an_id_that_follows_from_their_cause() -> None:
    shop = Shop(SMALL)
    outputs = []
    for number in range(34_000):
        price = 10.0 + number % 7 if number < 30_000 else 90.0 + number % 7
        one = event(number, f"s{number % 15}", f"i{number % 20}")
        one.data.items[0].price = price
        shop.learn(one, 2, number)
        outputs += shop.emit()
    alarms = [msgspec.json.decode(one.value or b"") for one in outputs if one.topic == "alarms"]
    assert [alarm["detector"] for alarm in alarms] == ["price"]
    (alarm,) = alarms
    assert 30_000 < alarm["events"] <= 34_000
    assert alarm["id"] == f"price/2/{alarm['events'] - 1}"
    assert shop.alarms == {**dict.fromkeys(DETECTORS, 0), "price": 1}


def heard(shop: Shop, kind: Any, blob: str) -> None:
    one = Announcement(
        id="f/1", kind=kind, round=1, at_events=0, due_events=0, time_ms=0, version="r1", blob=blob
    ).record()
    shop.hear("models", Record(0, 0, 0, one.key, one.value))


def test_only_promotions_and_rollbacks_change_the_champion() -> None:
    shop = Shop(SMALL)
    for kind in ("schedule", "candidate", "refused", "failed", "proposed"):
        heard(shop, kind, "model-aa")
        assert shop.champion is None
    heard(shop, "promoted", "model-aa")
    assert shop.champion is not None
    heard(shop, "rolled_back", "")
    assert shop.champion is None
    shop.hear("models", Record(0, 0, 0, None, b"noise"))


@pytest.mark.parametrize("damaged", [False, True])
def test_judging_goes_on_without_a_champion_whose_blob_is_lost(tmp_path: Path, damaged: bool) -> None:
    shop, blob = Shop(SMALL), f"model-{'0' * 64}"
    if damaged:
        (tmp_path / blob).write_bytes(b"not these")
    heard(shop, "promoted", blob)
    walk(shop, 200, ShopJudge(Blobs(tmp_path), fixed=1.0))
    assert shop.scores()["ranking"][BLEND]["judged"] > 100
    assert shop.scores()["ranking"][DEEP]["judged"] == 0


def test_tables_stay_within_their_bounds() -> None:
    shop = Shop(ShopSettings(items_max=32, shoppers_max=10))
    for number in range(300):
        shop.learn(event(number, f"s{number % 90}", f"i{number * 13 % 90}"), 0, number)
        for table, (used, most) in shop.bounds().items():
            assert used <= most, table
    assert shop.bounds()["catalogue_items"][0] > 16


@pytest.mark.parametrize("events", [0, 1_234])
def test_state_survives_the_wire_and_continues(tmp_path: Path, events: int) -> None:
    shop = Shop(SMALL)
    walk(shop, events, ShopJudge(Blobs(tmp_path), fixed=0.5))
    heard(shop, "promoted", "model-aa")
    shop.champion = None
    shop.emit()
    again = Shop.from_state(decode(encode(shop.state())))
    assert again.versions == shop.versions
    judges = [ShopJudge(Blobs(tmp_path), fixed=0.5) for _ in range(2)]
    outputs = [walk(one, 1_000, judge, first=events) for one, judge in zip((shop, again), judges, strict=True)]
    assert outputs[0] == outputs[1] != []
    assert digest(again.state()) == digest(shop.state())
    assert again.recommend("s1", again.time_ms, 20) == shop.recommend("s1", shop.time_ms, 20)


def test_other_bounds_are_another_fold() -> None:
    assert Shop(SMALL).versions != Shop().versions


def test_browsing_steps_are_what_learning_takes() -> None:
    browsing, rng = Browsing(items_max=32, shoppers_max=10), random.Random(1)
    for number in range(150):
        kind = rng.choice(["view_item", "view_item", "purchase", "login"])
        one = event(number, f"s{rng.randrange(15)}", f"i{rng.randrange(60)}", kind)
        if kind == "purchase":
            one.data.items.append(Item(f"i{rng.randrange(60)}"))
        before = digest(browsing.state())
        found = browsing.steps(one)
        assert digest(browsing.state()) == before
        assert browsing.learn(one) == [step.item for step in found]
        if found:
            context = browsing.contexts.context(one.shopper, one.time_ms)
            learned = browsing.ids(context.items)[-len(found) :]
            assert learned == [step.item for step in found][-len(learned) :]
    assert list(browsing.members) == list(KINDS)


def test_browsing_steps_of_a_long_invoice_have_the_contexts_that_learning_has(monkeypatch: pytest.MonkeyPatch) -> None:
    browsing = Browsing(items_max=128, shoppers_max=10)
    for number in range(100):
        browsing.learn(event(number, f"s{number}", f"i{number}"))
    invoice = event(100, "ann", "i0", "purchase")
    invoice.data.items += [Item(f"i{number}") for number in range(1, 100)]
    learned: list[Context] = []
    monkeypatch.setattr(browsing.members["popularity"], "learn", lambda context, slot: learned.append(context))
    steps = browsing.steps(invoice)
    assert browsing.learn(invoice) == [f"i{number}" for number in range(100)]
    assert [list(step.context.items) for step in steps] == [list(context.items) for context in learned]
    assert [step.context.start for step in steps] == [context.start for context in learned]


def test_browsing_state_survives_the_wire() -> None:
    browsing = Browsing(items_max=32, shoppers_max=10)
    for number in range(100):
        browsing.learn(event(number, f"s{number % 13}", f"i{number * 7 % 60}"))
    again = Browsing.from_state(decode(encode(browsing.state())))
    for number in range(100, 150):
        one = event(number, f"s{number % 13}", f"i{number * 7 % 60}")
        assert again.learn(one) == browsing.learn(one)
    assert digest(again.state()) == digest(browsing.state())
