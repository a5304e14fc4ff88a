"""Exposure is measured by brand, seller and popularity, and a rule bounds it over many answers, by what folds say."""

import json
import random
from typing import Any

import numpy as np
import pytest

from headrace.events import Data, Event, Item, Rejection, at
from headrace.experiments import Arm, Experiment
from headrace.experiments import record_of as experiment_record_of
from headrace.exposures import Exposure, Steered, decode, record_of
from headrace.impressions import Impression, ShownItem
from headrace.impressions import record_of as impression_record_of
from headrace.log.protocol import Outgoing, Record
from headrace.rules import ExposureBounds, RuleSet, Trade
from headrace.rules import record_of as rules_record_of
from headrace.state import decode as decode_state
from headrace.state import digest, encode
from headrace.surface import Now
from headrace.topics import EXPERIMENTS, EXPOSURES, IMPRESSIONS, ITEMS, RULES
from learners.exposure.family import ExposureFamily, PlacementExposure
from learners.exposure.scope import Bounds, Kind
from learners.next_item.exposure import Exposures, exposures_max
from learners.next_item.questions import RecommendationQuery
from learners.parts.gini import gini
from learners.shop import MakeShop, Shop
from tests.shards import FINETUNE, ONLINE, next_item

START_MS, MINUTE_MS = 1_736_121_600_000, 60_000
ITEMS_COUNT, BRANDS = 48, 6


def exposure(shop: Shop) -> ExposureFamily:
    family = shop.families["exposure"]
    assert isinstance(family, ExposureFamily)
    return family


class Loop:
    """The two default shards and a server between them; what one writes, the other hears, a minute later.

    Items of lower numbers are more popular. Item n is of brand n % 6, unless brands are given, and of seller n % 3.
    """

    def __init__(self, brand: Any = lambda number: number % BRANDS) -> None:
        self.online, self.finetune = Shop(ONLINE.kinds), Shop(FINETUNE.kinds)
        self.luck, self.count, self.offset, self.time_ms = random.Random(7), 0, 0, START_MS
        self.said: list[Exposure] = []
        for number in range(ITEMS_COUNT):
            stated = {"brand": f"Brand {brand(number)}", "external_seller_id": f"s{number % 3}"}
            self.hear(ITEMS, Outgoing(ITEMS, f"i{number}".encode(), json.dumps(stated).encode()))
        for _ in range(500):
            self.view(MINUTE_MS // 10)

    def hear(self, topic: str, made: Outgoing) -> None:
        self.offset += 1
        record = Record(0, self.offset, self.time_ms, made.key, made.value)
        for shop in (self.online, self.finetune):
            if topic in shop._hear:
                assert shop.hear(topic, record) is None

    def view(self, passed_ms: int = 0, item: str = "", **data: Any) -> None:
        self.time_ms += passed_ms
        self.count += 1
        item = item or f"i{min(ITEMS_COUNT - 1, int(self.luck.expovariate(0.08)))}"
        for shop in (self.online, self.finetune):
            event = Event(
                f"e{self.count}", "t", "view_item", at(self.time_ms), Data([Item(item)], **data), "1.0",
                f"s{self.count // 2}", self.time_ms,
            )  # fmt: skip
            if shop.prepare(event):
                shop.learn(event, 0, self.count)

    def answer(self, placement: str = "home", shopper: str = "") -> list[str]:
        asked = RecommendationQuery(shopper=shopper or f"s{self.luck.randrange(100, 200)}", n=8, placement=placement)
        found = next_item(self.online).answering.recommend(asked, Now(self.time_ms, "id"))
        names = [one.item_id for one in found.items]
        self.offset += 1
        shown = Impression(
            f"r{self.offset}", self.time_ms, "/v1/x", [ShownItem(name) for name in names], placement,
            shopper=asked.shopper, experiments=found.experiments,
        )  # fmt: skip
        self.hear(IMPRESSIONS, impression_record_of(shown))
        return names

    def minute(self, answers: int = 50, placement: str = "home") -> None:
        for _ in range(answers):
            self.answer(placement)
        self.view(MINUTE_MS)
        self.pass_on()

    def pass_on(self) -> None:
        for shop in (self.online, self.finetune):
            for made in shop.emit():
                if made.topic == EXPOSURES:
                    said = decode(Record(0, 0, 0, made.key, made.value))
                    assert isinstance(said, Exposure)
                    self.said.append(said)
                    self.hear(EXPOSURES, made)

    def rules(self, placement: str = "home", **rules: Any) -> None:
        self.hear(RULES, rules_record_of(placement, RuleSet(**rules)))

    def at(self, placement: str = "home") -> PlacementExposure:
        return next(one for one in exposure(self.finetune).scores().placements if one.placement == placement)

    def shares(self, minutes: int, by: str, placement: str = "home") -> dict[str, float]:
        """Return the shares of the exposure in so many minutes from now."""
        self.minute(placement=placement)
        kind = exposure(self.finetune).scopes[placement, "", ""].kinds[by]
        before = {name: group.total for name, group in kind.groups.items()}
        for _ in range(minutes):
            self.minute(placement=placement)
        more = {name: group.total - before.get(name, 0.0) for name, group in kind.groups.items()}
        return {name: value / sum(more.values()) for name, value in more.items()}


def test_what_an_answer_shows_counts_by_place_brand_seller_and_popularity() -> None:
    loop = Loop()
    names = loop.answer()
    loop.view(MINUTE_MS)
    found, weights = loop.at(), [1 / np.log2(2 + place) for place in range(len(names))]
    for given, name_of, count in ((found.brands, "brand {}", BRANDS), (found.sellers, "s{}", 3)):
        wanted: dict[str, float] = {}
        for name, weight in zip(names, weights, strict=True):
            group = name_of.format(int(name[1:]) % count)
            wanted[group] = wanted.get(group, 0.0) + weight / sum(weights)
        assert {one.name: one.share for one in given} == pytest.approx(
            dict(sorted(wanted.items(), key=lambda one: -one[1])[:5])
        )
    assert found.answers == 1
    assert sum(one.share for one in found.popularity) == pytest.approx(1)
    assert sum(one.merit for one in found.popularity) == pytest.approx(1)
    assert 0 < found.gini["brand"] < 1


def test_the_most_popular_items_get_more_exposure_than_they_are_turned_to() -> None:
    loop = Loop()
    for _ in range(3):
        loop.minute()
    hundredth, tenth, rest = loop.at().popularity
    assert (hundredth.name, tenth.name, rest.name) == ("1 %", "10 %", "rest")
    assert hundredth.share + tenth.share > hundredth.merit + tenth.merit


def test_what_shoppers_turn_to_because_an_answer_led_them_is_not_what_a_brand_merits() -> None:
    loop = Loop()
    loop.answer()
    loop.view(MINUTE_MS)
    before = exposure(loop.finetune).merits["brand"].shares()
    for _ in range(300):
        loop.view(1, "i47", recommendation_id="r1")
    loop.view(MINUTE_MS)
    after = exposure(loop.finetune).merits["brand"].shares()
    assert after["brand 5"] == pytest.approx(before["brand 5"], abs=0.01)


@pytest.mark.slow
def test_a_brand_s_share_of_many_answers_stays_within_the_rule() -> None:
    """Without the rule, a brand of the most popular items has more than half of the exposure."""
    loop = Loop(lambda number: 0 if number < 8 else 1 + number % 5)
    assert loop.shares(10, "brand")["brand 0"] > 0.5
    loop.rules(exposure=ExposureBounds(brand_max=0.3))
    loop.shares(20, "brand")
    later = loop.shares(30, "brand")
    assert later["brand 0"] == pytest.approx(0.3, abs=0.02)
    assert max(later.values()) < 0.32
    assert loop.shares(10, "brand", placement="elsewhere")["brand 0"] > 0.5, "other placements are as they were"
    loop.rules()
    loop.minute()
    assert loop.shares(10, "brand")["brand 0"] > 0.5, "without the rule, nothing is steered"


@pytest.mark.slow
def test_each_seller_gets_at_least_a_part_of_what_it_merits() -> None:
    loop = Loop()
    for _ in range(2_000):  # sellers merit the same, but one has so many items that each is little known
        seller = loop.luck.randrange(3)
        loop.view(200, f"i{seller + 3 * loop.luck.randrange(16 if seller == 2 else 3)}")
    merits = exposure(loop.finetune).merits["seller"].shares()
    before = loop.shares(10, "seller")
    worst = min(merits, key=lambda name: before.get(name, 0.0) / merits[name])
    least = 0.95
    assert before.get(worst, 0.0) < 0.85 * merits[worst]
    loop.rules(exposure=ExposureBounds(seller_merit_min=least))
    loop.shares(20, "seller")
    later, merits = loop.shares(20, "seller"), exposure(loop.finetune).merits["seller"].shares()
    assert all(later[name] > least * merits[name] - 0.02 for name in merits if name)


@pytest.mark.slow
def test_relevance_is_traded_for_those_who_are_shown_less_than_they_merit() -> None:
    loop = Loop(lambda number: 0 if number < 8 else 1)
    loop.minute()
    before = loop.shares(5, "brand")["brand 1"]
    loop.rules(trade=Trade(0.6, exposure=1))
    loop.minute()
    after = loop.shares(5, "brand")["brand 1"]
    assert all(one.factor == 1 for said in loop.said for one in said.brands.values())
    assert after > before + 0.03


@pytest.mark.slow
def test_an_arm_that_bounds_exposure_is_steered_by_what_it_shows_itself() -> None:
    loop = Loop(lambda number: 0 if number < 8 else 1 + number % 5)
    arms = (Arm("control"), Arm("fair", rules=RuleSet(exposure=ExposureBounds(brand_max=0.3))))
    made = Experiment(arms, state="running", placements=("home",))
    loop.hear(EXPERIMENTS, experiment_record_of("trial", made))
    for _ in range(30):
        loop.minute()
    kinds = exposure(loop.finetune).scopes["home", "trial", "fair"].kinds
    before = kinds["brand"].groups["brand 0"].total, kinds["brand"].total
    for _ in range(20):
        loop.minute()
    after = kinds["brand"].groups["brand 0"].total, kinds["brand"].total
    assert (after[0] - before[0]) / (after[1] - before[1]) == pytest.approx(0.3, abs=0.03)
    shown = {arm: [loop.answer(shopper=shopper) for shopper in _of(made, arm)] for arm in (0, 1)}
    first = [sum(int(name[1:]) < 8 for names in shown[arm] for name in names) / len(shown[arm]) for arm in (0, 1)]
    assert first[0] > first[1] + 1
    assert {(said.experiment, said.arm) for said in loop.said} == {("trial", "fair")}


def _of(experiment: Experiment, arm: int) -> list[str]:
    return [f"s{number}" for number in range(100, 140) if experiment.arm_of("trial", f"s{number}") == arm]


@pytest.mark.parametrize("answers", [3, 50, 400])
@pytest.mark.parametrize("bound", [0.1, 0.3, 0.6])
def test_a_bound_holds_on_average_whatever_the_traffic_and_whatever_the_answers(answers: int, bound: float) -> None:
    """A group has 70 % of the exposure: the better of two scores that vary decides, and one has its multiplier."""
    rng, kind = np.random.default_rng(3), Kind(86_400_000)
    shares = list[float]()
    for minute in range(1, 1_201 if answers == 3 else 401):
        factor = kind.groups["a"].factor if "a" in kind.groups else 1.0
        wins = rng.lognormal(0.74, 1.0, answers) * factor > rng.lognormal(0.0, 1.0, answers)
        kind.show("a", float(wins.sum()))
        kind.show("b", float(answers - wins.sum()))
        kind.look(minute * MINUTE_MS, answers, {}, Bounds(most=bound))
        shares.append(float(wins.mean()))
    assert np.mean(shares[:5]) > bound
    assert np.mean(shares[len(shares) // 2 :]) == pytest.approx(bound, abs=0.02)


@pytest.mark.slow
def test_folds_agree_and_go_on_from_their_states() -> None:
    loop = Loop(lambda number: 0 if number < 8 else 1 + number % 5)
    loop.rules(exposure=ExposureBounds(brand_max=0.3, seller_merit_min=0.5))
    for _ in range(5):
        loop.minute()
    answer = loop.answer(shopper="s1")
    loop.online.emit()
    loop.finetune.emit()
    for kinds, name in ((ONLINE.kinds, "online"), (FINETUNE.kinds, "finetune")):
        shop: Shop = getattr(loop, name)
        again = MakeShop(kinds)(None)
        again.restore(decode_state(encode(shop.state())), shop.stamp)
        assert digest(again.state()) == digest(shop.state())
        setattr(loop, name, again)
    assert loop.answer(shopper="s1") == answer
    assert "brand 0" in loop.said[-1].brands


def test_what_cannot_be_read_is_rejected_and_steers_nothing() -> None:
    said = Exposures()
    for value in (b"", b"[]", b'{"brands": {"a": [0.5, 2]}}', b'{"brands": {"a": [-1]}}', b"\xff"):
        assert isinstance(said.hear(Record(0, 0, 0, b"home", value)), Rejection)
    assert said.of("home").factor("a", "") == 1
    for number in range(exposures_max + 1):
        made = record_of(Exposure(f"p{number}", brands={"a": Steered(0.5)}))
        assert said.hear(Record(0, 0, 0, made.key, made.value)) is None
    assert (said.of("p0").factor("a", ""), said.of("p1").factor("a", "")) == (1, 0.5)
    assert said.bounds() == {"exposures_said": (exposures_max, exposures_max)}


def test_groups_of_a_kind_are_bounded_and_those_that_are_steered_stay() -> None:
    kind = Kind(86_400_000)
    kind.show("steered", 1e6)
    kind.look(1, 100, {}, Bounds(most=0.1))
    for minute in range(2, 5):
        for number in range(400):
            kind.show(f"g{minute}-{number}", 1.0)
        kind.look(minute * MINUTE_MS, 100, {}, Bounds(most=0.1))
    assert len(kind) == 500
    assert "steered" in kind.groups
    assert gini(kind.shares().values()) > 0.5
