"""The shop's fold: recommendations, scores, alarms and its state."""

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

import headrace
from headrace.announcement import Announcement
from headrace.errors import StateUnreadable
from headrace.events import Data, Event, Item, at
from headrace.log.protocol import Outgoing, Record
from headrace.shard.blobs import Blobs
from headrace.shard.intake import Intake
from headrace.shard.journal import FamilyStamp, Stamp
from headrace.state import State, decode, digest, encode
from headrace.surface import Surface
from learners.family import NoSettings, Part
from learners.next_item.browsing import Browsing
from learners.next_item.family import RANKED, NextItemFamily, NextItemSettings
from learners.next_item.judge import NextItemJudge
from learners.next_item.members import KINDS
from learners.next_item.popularity import Popularity
from learners.protocol import BLEND, DEEP, Context
from learners.purchase.family import PurchaseFamily
from learners.shop import MakeShop, Shop, score_every_events
from tests.shards import ONLINE, next_item, next_item_judge, online

START_MS = 1_736_121_600_000
SMALL = online(NextItemSettings(items_max=64, shoppers_max=20))


def event(number: int, shopper: str, item: str, type_: Any = "view_item") -> Event:
    time_ms = START_MS + 1_000 * number
    line = Item(item, item_category=f"c{len(item)}", price=1.0 + len(item))
    return Event(f"e{number}", "test", type_, at(time_ms), Data([line]), "1.0", shopper, time_ms)


def walk(shop: Shop, count: int, judge: NextItemJudge | None = None, first: int = 0) -> list[Outgoing]:
    """Let shoppers walk: after item n mostly comes n + 1. Return the outputs."""
    found, rng, at_item = [], random.Random(first), dict[str, int]()
    for number in range(first, first + count):
        shopper = f"s{rng.randrange(8)}"
        item = (at_item.get(shopper, rng.randrange(20)) + (1 if rng.random() < 0.9 else 5)) % 20
        at_item[shopper] = item
        one = event(number, shopper, f"i{item}")
        if judge:
            judge.observe(next_item(shop), one, 0, number)
        shop.learn(one, 0, number)
        if number % 50 == 49:
            for data in judge.judge(next_item(shop), 0) if judge else ():
                shop.absorb(NextItemFamily.name, data)
            found += shop.emit()
    return found


def test_a_shopper_never_seen_gets_popular_items() -> None:
    shop = SMALL()
    for number in range(60):
        shop.learn(event(number, f"s{number}", "hit" if number % 2 else f"i{number % 7}"), 0, number)
    found = next_item(shop).recommend("nobody", shop.time_ms, 5)
    assert found[0][0] == "hit"
    assert len(found) == 5
    assert len({item for item, _ in found}) == 5


def test_a_late_event_of_somebody_changes_nobody_elses_answer() -> None:
    shop = SMALL()
    walk(shop, 200)
    now, before = shop.time_ms, next_item(shop).recommend("s1", shop.time_ms, 5)
    intake = Intake()
    for number in range(9):
        one = event(number, "s1", "i1")
        one.own_ms = now
        assert intake.admit(one, now)
    late = event(9, "late", "i3", "login")
    late.own_ms = now - 300 * 86_400_000
    assert intake.admit(late, now)
    shop.learn(late, 0, 200)
    assert shop.time_ms == now
    assert next_item(shop).recommend("s1", shop.time_ms, 5) == before


def test_items_that_are_known_send_nobody_away() -> None:
    browsing = Browsing(items_max=16, shoppers_max=20)
    for number in range(320):
        browsing.learn(event(number, f"s{number // 3}", f"i{number % 16}"))
    assert browsing.catalogue.admitted == 16
    assert browsing.catalogue.bounds()["items"] == (16, 16)


def test_an_empty_shop_recommends_nothing() -> None:
    assert next_item(SMALL()).recommend("nobody", 0, 5) == []


def test_what_comes_next_is_learned_and_what_was_seen_left_out(tmp_path: Path) -> None:
    shop = SMALL()
    walk(shop, 2_000, next_item_judge(Blobs(tmp_path), fixed=1.0))
    for number, item in enumerate(("i3", "i4"), start=5_000):
        shop.learn(event(number, "ann", item), 0, number)
    found = [item for item, _ in next_item(shop).recommend("ann", shop.time_ms, 10)]
    assert found[0] == "i5"
    assert not {"i3", "i4"} & set(found)
    assert len(found) == 10


def test_recommending_changes_nothing() -> None:
    shop = SMALL()
    walk(shop, 300)
    before = digest(shop.state())
    for name in ("s1", "nobody", ""):
        next_item(shop).recommend(name, shop.time_ms, 20)
        next_item(shop).recommend(name, shop.time_ms + 10**9, 100)
    assert digest(shop.state()) == before


def test_scores_come_every_thousand_events_and_tell_each_learner(tmp_path: Path) -> None:
    shop = SMALL()
    outputs = walk(shop, 2 * score_every_events, next_item_judge(Blobs(tmp_path), fixed=1.0))
    written = [msgspec.json.decode(one.value or b"") for one in outputs if one.topic == "scores"]
    scored = [one for one in written if one["family"] == "next_item"]
    assert [one["events"] for one in scored] == [1_000, 2_000]
    assert len({one["id"] for one in scored}) == 2
    assert [one["family"] for one in written] == [
        "stock",
        "next_item",
        "purchase",
        "profiles",
        "segments",
        "shopper_value",
        "demand",
    ] * 2
    ranking = scored[-1]["scores"]["ranking"]
    assert set(ranking) == set(RANKED)
    assert ranking["blend"]["judged"] == ranking["popularity"]["judged"] > 1_500
    assert ranking["deep"] == {"judged": 0, "window": {}, "whole": {}}
    assert ranking["transitions"]["window"]["mrr@20"] > 2 * ranking["popularity"]["window"]["mrr@20"]
    assert ranking["blend"]["window"]["mrr@20"] > 0.6


def test_alarms_have_an_id_that_follows_from_their_cause() -> None:
    shop = SMALL()
    outputs = []
    for number in range(14_000):
        price = (10.0 if number < 10_000 else 90.0) + number % 7
        one = event(number, f"s{number % 15}", f"i{number % 20}")
        one.data.items[0].price, one.time_ms = price, START_MS + 100_000 * number
        shop.learn(one, 2, number)
        outputs += shop.emit()
    alarms = [msgspec.json.decode(one.value or b"") for one in outputs if one.topic == "alarms"]
    assert {alarm["detector"] for alarm in alarms} == {"price", "price_change"}
    for alarm in alarms:
        assert 10_000 < alarm["events"] <= 14_000
        assert alarm["id"] == f"{alarm['detector']}/2/{alarm['events'] - 1}"
    assert shop.alarms == {**dict.fromkeys(shop.alarms, 0), "price": 1, "price_change": 1}
    assert alarms[0]["moved"][0]["value"] in ("c2", "c3")


def heard(shop: Shop, kind: Any, blob: str) -> None:
    one = Announcement(
        id="finetune/1", kind=kind, round=1, at_events=0, due_events=0, time_ms=0, version="r1", blob=blob
    ).record()
    shop.hear("models", Record(0, 0, 0, one.key, one.value))


def test_only_promotions_and_rollbacks_change_the_champion() -> None:
    shop = SMALL()
    for kind in ("schedule", "candidate", "refused", "failed", "proposed"):
        heard(shop, kind, "model-aa")
        assert next_item(shop).champion is None
    heard(shop, "promoted", "model-aa")
    assert next_item(shop).champion is not None
    heard(shop, "rolled_back", "")
    assert next_item(shop).champion is None
    shop.hear("models", Record(0, 0, 0, None, b"noise"))


@pytest.mark.parametrize("damaged", [False, True])
def test_judging_goes_on_without_a_champion_whose_blob_is_lost(tmp_path: Path, damaged: bool) -> None:
    shop, blob = SMALL(), f"model-{'0' * 64}"
    if damaged:
        (tmp_path / blob).write_bytes(b"not these")
    heard(shop, "promoted", blob)
    walk(shop, 200, next_item_judge(Blobs(tmp_path), fixed=1.0))
    assert next_item(shop).ranking[BLEND].judged > 100
    assert next_item(shop).ranking[DEEP].judged == 0


def test_tables_stay_within_their_bounds() -> None:
    shop = online(items_max=32, shoppers_max=10)(None)
    for number in range(300):
        shop.learn(event(number, f"s{number % 90}", f"i{number * 13 % 90}"), 0, number)
        for table, (used, most) in shop.bounds().items():
            assert used <= most, table
    assert shop.bounds()["catalogue_items"][0] > 16


@pytest.mark.parametrize("events", [0, 1_234])
def test_state_survives_the_wire_and_continues(tmp_path: Path, events: int) -> None:
    shop = SMALL()
    walk(shop, events, next_item_judge(Blobs(tmp_path), fixed=0.5))
    heard(shop, "promoted", "model-aa")
    next_item(shop).champion = None
    shop.emit()
    again = SMALL(*stamped(shop))
    assert (again.stamp, again.renewed) == (shop.stamp, {})
    judges = [next_item_judge(Blobs(tmp_path), fixed=0.5) for _ in range(2)]
    outputs = [walk(one, 1_000, judge, first=events) for one, judge in zip((shop, again), judges, strict=True)]
    assert outputs[0] == outputs[1] != []
    assert digest(again.state()) == digest(shop.state())
    assert next_item(again).recommend("s1", again.time_ms, 20) == next_item(shop).recommend("s1", shop.time_ms, 20)


def stamped(shop: Shop) -> tuple[State, Stamp]:
    """Return a shop's state as a snapshot brings it back, and its stamp."""
    return decode(encode(shop.state())), shop.stamp


def test_a_stamp_names_what_shapes_the_state() -> None:
    small = SMALL().stamp
    assert small.headrace == headrace.__version__
    assert small.families["next_item"].settings == {
        "items_max": 64, "shoppers_max": 20, "bought_max": 500_000, "seen_max": 500_000
    }  # fmt: skip
    assert small.families["next_item"].parts["catalogue"] == 1
    assert small == online(items_max=64, shoppers_max=20, judge_seed=7, recommendations_max=5)().stamp
    assert small != Shop(ONLINE.kinds).stamp
    assert set(SMALL.only(["purchase"])().stamp.families) == {"desk", "purchase", "shopper_value", "demand", "stock"}
    assert Shop(ONLINE.kinds).stamp == SMALL(None, Shop(ONLINE.kinds).stamp).stamp, "a fold that begins with a stamp"


def test_a_state_has_the_settings_of_its_stamp_until_others_are_adopted() -> None:
    shop = SMALL()
    spread(shop, 300)
    wide = online(items_max=512, shoppers_max=500, recommendations_max=7)
    again = wide(*stamped(shop))
    assert (again.stamp, again.renewed) == (shop.stamp, {})
    assert next_item(again).settings.recommendations_max == 7, "not a setting on which the state depends"
    assert digest(again.state()) == digest(shop.state())
    adopted = wide.adopt(again)
    assert adopted.stamp == wide().stamp
    assert adopted.renewed == {
        "next_item.items_max": "set from 64 to 512", "next_item.shoppers_max": "set from 20 to 500",
    }  # fmt: skip
    assert {table: used for table, (used, _) in adopted.bounds().items()} == {
        table: used for table, (used, _) in shop.bounds().items()
    }
    assert wide.adopt(adopted) is adopted
    spread(adopted, 200, first=300)
    assert adopted.bounds()["catalogue_items"][0] > 64
    narrow = SMALL.adopt(adopted)
    for table, (used, most) in narrow.bounds().items():
        assert used <= most, table
    assert recent_items(narrow) == recent_items(adopted)[-64:]
    spread(narrow, 100, first=500)


class Reader(PurchaseFamily):
    """Reads purchases, and declares nothing of its own."""

    name = "reader"
    reads = ("purchase",)
    surface = Surface(doc="Reads.", settings=NoSettings)


def test_families_that_refer_to_one_another_are_folded_anew_together() -> None:
    make = MakeShop((*ONLINE.kinds, Reader))
    for name in ("purchase", "reader"):
        assert list(make.only([name])().families) == ["desk", "stock", "purchase", "shopper_value", "demand", "reader"]
    assert list(make.only(["next_item"])().families) == ["desk", "stock", "next_item", "shopper_value", "demand"]


def test_a_stamp_with_a_setting_that_is_no_longer_admitted_has_the_configured_one() -> None:
    shop = SMALL()
    spread(shop, 300)
    state, stamp = stamped(shop)
    refused = FamilyStamp({"items_max": 1 << 21, "shoppers_max": 20}, stamp.families["next_item"].parts)
    again = SMALL(state, Stamp("0.3.0", {**stamp.families, "next_item": refused}))
    assert digest(again.state()) == digest(shop.state())


def spread(shop: Shop, count: int, first: int = 0) -> None:
    """Let many shoppers view many items."""
    for number in range(first, first + count):
        shop.learn(event(number, f"s{number % 90}", f"i{number * 13 % 190}"), 0, number)
    shop.emit()


def recent_items(shop: Shop) -> list[str]:
    """Return the items of a shop's catalogue, the least recently seen first."""
    return list(next_item(shop).browsing.catalogue.state()["recent"])


def test_a_new_member_begins_empty_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Newest(Popularity):
        name = "newest"

    shop = SMALL()
    walk(shop, 1_200, next_item_judge(Blobs(tmp_path), fixed=0.5))
    state, stamp = stamped(shop)
    kinds = {**KINDS, "newest": Newest}
    monkeypatch.setattr("learners.next_item.browsing.KINDS", kinds)
    monkeypatch.setattr("learners.next_item.family.KINDS", kinds)
    monkeypatch.setattr("learners.next_item.family.RANKED", (*kinds, DEEP, BLEND))
    monkeypatch.setattr(NextItemFamily, "parts", {**NextItemFamily.parts, "newest": Part(needs=("catalogue",))})
    again = SMALL(state, stamp)
    assert (again.renewed, again.begun) == ({"next_item.newest": "begun empty: it is new"}, {"next_item"})
    before, now = next_item(shop), next_item(again)
    assert digest(now.browsing.members["session_knn"].state()) == digest(before.browsing.members["session_knn"].state())
    weights = {**before.blend.weights(), "newest": now.blend.weights()["newest"]}
    assert now.blend.weights() == pytest.approx(weights)
    assert now.blend.weights()["newest"] > 0
    walk(again, 300, next_item_judge(Blobs(tmp_path), fixed=0.5), first=1_200)
    assert now.ranking["newest"].judged > 0
    assert now.browsing.members["newest"].bounds()["items"][0] > 0


def test_an_older_part_is_migrated_and_a_newer_one_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = SMALL()
    walk(shop, 600)
    state, stamp = stamped(shop)
    version = PurchaseFamily.parts["propensity"].version
    steps = {version: lambda old: {**old, "added": 1}, version + 1: lambda old: {**old, "added": old["added"] + 1}}
    newest = version + 2

    seen: list[State] = []
    monkeypatch.setattr(PurchaseFamily, "restore", lambda self, kept: seen.append(kept))
    monkeypatch.setattr(PurchaseFamily, "parts", {**PurchaseFamily.parts, "propensity": Part(newest, steps)})
    again = SMALL(state, stamp)
    assert again.renewed == {"purchase.propensity": f"migrated from version {version} to {newest}"}
    assert again.begun == set()
    assert seen[0]["propensity"] == {**state["families"]["purchase"]["propensity"], "added": 2}
    late = {version + 1: steps[version + 1]}
    monkeypatch.setattr(PurchaseFamily, "parts", {**PurchaseFamily.parts, "propensity": Part(newest, late)})
    said = f"begun empty: version {version} cannot be migrated to {newest}"
    assert SMALL(state, stamp).renewed == {"purchase.propensity": said}
    newer = Stamp("9.1", {**stamp.families, "purchase": FamilyStamp({}, {"propensity": newest + 1})})
    wanted = rf"wanted version {newest} or older.* found {newest + 1}, which headrace 9.1 wrote"
    with pytest.raises(StateUnreadable, match=wanted):
        SMALL(state, newer)


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
    again = Browsing(items_max=32, shoppers_max=10)
    again.restore(decode(encode(browsing.state())))
    for number in range(100, 150):
        one = event(number, f"s{number % 13}", f"i{number * 7 % 60}")
        assert again.learn(one) == browsing.learn(one)
    assert digest(again.state()) == digest(browsing.state())
