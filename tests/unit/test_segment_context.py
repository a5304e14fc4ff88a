"""Segments as context: rules for some shoppers alone, experiments among them, and choices that know them."""

import json
from contextlib import closing
from typing import Any

import msgspec
import pytest

from headrace.errors import Misconfigured
from headrace.events import Data, Event, Item, Rejection, at
from headrace.experiments import Arm, Experiment, Explore, objection
from headrace.experiments import record_of as experiment_record_of
from headrace.impressions import Impression, ShownItem
from headrace.impressions import decode as decode_impression
from headrace.impressions import record_of as impression_record_of
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Record
from headrace.policies import FEATURES, features_of
from headrace.rules import RuleSet, decode
from headrace.rules import record_of as rules_record_of
from headrace.segments import AnyName, Segment, SegmentRules
from headrace.segments import record_of as segments_record_of
from headrace.state import decode as state_from
from headrace.state import digest, encode
from headrace.surface import Now
from headrace.topics import EXPERIMENTS, IMPRESSIONS, RULES, SEGMENTS
from learners.desk.family import Desk
from learners.experiments.family import ExperimentsFamily
from learners.exploration.course import Course, Open
from learners.exploration.memory import Memory, keys_of
from learners.next_item.answering import ItemList
from learners.next_item.questions import ExplanationQuery, RecommendationQuery, RerankQuery
from learners.next_item.routes import ROUTES
from learners.placements.family import PlacementsFamily
from learners.shop import Shop
from learners.value.family import ValueFamily
from learners.value.shoppers import GRADE
from operators.experiments import state_experiment
from operators.segments import check_named, still_named
from tests.shards import ONLINE, next_item

START = 1_750_000_000_000
BUYERS = {"buyer": "orders >= 2", "looker": 'orders < 1 and not segment("buyer")'}
ITEMS = [f"i{number}" for number in range(8)]


def stated(**fields: Any) -> RuleSet:
    return msgspec.convert(fields, RuleSet)


class Asked:
    """The online shard's fold, with the shoppers `bob` who buys and `liz` who looks, that is asked for lists."""

    def __init__(self, **segments: str) -> None:
        self.shop = Shop(ONLINE.kinds)
        self.count, self.time_ms = 0, START
        self.hear(SEGMENTS, segments_record_of(
            SegmentRules(segments={name: Segment(where) for name, where in (segments or BUYERS).items()})
        ))  # fmt: skip
        for number, item in enumerate(ITEMS):
            for visitor in range(12 - number):
                self.do("view_item", f"s{number}-{visitor}", item)
        for _ in range(2):
            self.do("purchase", "bob", "x")
        self.do("view_item", "liz", "x")

    def hear(self, topic: str, made: Any) -> Rejection | None:
        self.count += 1
        return self.shop.hear(topic, Record(0, self.count, 0, made.key, made.value))

    def rules(self, placement: str = "home", **fields: Any) -> None:
        assert self.hear(RULES, rules_record_of(placement, stated(**fields))) is None

    def run(self, *arms: Arm, **fields: Any) -> Experiment:
        one = msgspec.convert({"arms": [msgspec.to_builtins(arm) for arm in arms], "state": "running",
                               "placements": ["home"], **fields}, Experiment)  # fmt: skip
        assert self.hear(EXPERIMENTS, experiment_record_of("trial", one)) is None
        return one

    def do(self, kind: Any, shopper: str, item: str) -> None:
        self.count += 1
        self.time_ms += 60_000
        data = Data([Item(item, price=10.0)], transaction_id=f"t{self.count}" if kind == "purchase" else "")
        event = Event(f"e{self.count}", "test", kind, at(self.time_ms), data, "1.0", shopper, self.time_ms)
        if self.shop.prepare(event):
            self.shop.learn(event, 0, self.count)
        self.shop.emit()

    def now(self, **fields: Any) -> Now:
        return Now(self.time_ms, "id", segments=self.shop, **fields)

    def ask(self, shopper: str, placement: str = "home", **fields: Any) -> ItemList:
        query = RecommendationQuery(shopper=shopper, n=9, placement=placement)
        return next_item(self.shop).answering.recommend(query, self.now(**fields))

    def items(self, shopper: str, placement: str = "home", **fields: Any) -> list[str]:
        return [one.item_id for one in self.ask(shopper, placement, **fields).items]


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ({"when": [{"rules": {"hidden": ["a"]}}]}, "wanted segments in `in` or `not_in`, found none - at `$.when[0]`"),
        (
            {"when": [{"in": ["A"], "not_in": ["A"], "rules": {"hidden": ["a"]}}]},
            "wanted each segment in `in` or in `not_in`, found 'A' in both - at `$.when[0]`",
        ),
        ({"when": [{"in": ["A"]}]}, "missing required field `rules` - at `$.when[0]`"),
        ({"when": [{"in": ["A"], "rules": {}}]}, "rules: wanted a rule, found none - at `$.when[0]`"),
        ({"when": [{"in": ["Gold"], "rules": {"hidden": ["a"]}}]}, "at `$.when[0].in[0]`"),
        ({"when": [{"in": ["A"], "rules": {"price": {"min": 9, "max": 1}}}]}, "at `$.when[0].rules.price`"),
        (
            {"when": [{"in": ["A"], "rules": {"when": [{"in": ["B"], "rules": {"hidden": ["a"]}}]}}]},
            "rules: wanted rules without `when`, found one within another - at `$.when[0]`",
        ),
        (
            {"when": [{"in": ["A"], "rules": {"exposure": {"brand_max": 0.3}}}]},
            "rules: wanted rules of single answers, found bounds of the exposure over all of them - at `$.when[0]`",
        ),
    ],
)
def test_rules_for_segments_that_cannot_be_are_refused_with_their_place(document: Any, found: str) -> None:
    rejected = decode(Record(0, 0, 0, b"home", json.dumps(document).encode()))
    assert isinstance(rejected, Rejection)
    assert found in rejected.detail


def test_rules_hold_for_the_shoppers_of_their_segments() -> None:
    asked = Asked()
    asked.rules(
        hidden=["i0"],
        when=[
            {"in": ["buyer"], "rules": {"hidden": ["i1"], "pinned": [{"item": "i7", "place": 1}]}},
            {"not_in": ["buyer"], "rules": {"boosted": [{"items": ["i5"], "factor": 100}], "hidden": ["i2"]}},
            {"in": ["looker"], "rules": {"pinned": [{"item": "i6", "place": 2}]}},
        ],
    )
    asked.rules("cart", hidden=["i3"])
    bob, liz, nobody = asked.ask("bob"), asked.ask("liz"), asked.ask("stranger")
    assert bob.items[0].item_id == "i7"
    assert not {"i0", "i1"} & {one.item_id for one in bob.items}
    assert {"i2", "i3"} <= {one.item_id for one in bob.items}
    assert liz.items[1].item_id == "i6"
    assert not {"i0", "i2"} & {one.item_id for one in liz.items}
    assert "i1" in {one.item_id for one in liz.items}
    assert (bob.segments, liz.segments, nobody.segments) == (["buyer"], ["looker"], [])
    assert not {"i0", "i2"} & {one.item_id for one in nobody.items}  # in no segment, and so not among buyers
    assert [one.item_id for one in nobody.items][1] != "i6"
    assert asked.ask("bob", "cart").segments == []
    assert "i0" in asked.items("bob", "cart")
    # The same from lists that are kept for a moment.
    for _ in range(2):
        assert asked.items("bob", clock_s=1.0) == [one.item_id for one in bob.items]
        assert asked.items("liz", clock_s=1.0) == [one.item_id for one in liz.items]
    asked.do("purchase", "liz", "x")
    asked.do("purchase", "liz", "x")
    assert asked.ask("liz").segments == ["buyer"]
    assert asked.items("liz")[0] == "i7"


def test_rules_for_segments_hold_at_every_placement_and_for_reranked_and_explained_lists() -> None:
    asked = Asked()
    asked.rules("*", when=[{"in": ["buyer"], "rules": {"hidden": ["i1"]}}])
    asked.rules("home", hidden=["i2"], when=[{"in": ["buyer"], "rules": {"hidden": ["i3"]}}])
    assert not {"i1", "i2", "i3"} & {*asked.items("bob")}
    assert {"i1", "i3"} <= {*asked.items("liz")}
    assert "i1" not in asked.items("bob", "cart")
    answering = next_item(asked.shop).answering
    query = RerankQuery(shopper="bob", items=["i1", "i4", "i3"], placement="home")
    assert [one.item_id for one in answering.rerank(query, asked.now()).items] == ["i4"]
    told = answering.explain(ExplanationQuery(shopper="bob", placement="home", n=5), asked.now())
    assert {one.item_id for one in told.items if one.left_out_by == "hidden"} >= {"i1", "i2", "i3"}


def test_an_answer_tells_of_segments_that_there_are_not() -> None:
    asked = Asked()
    asked.rules(when=[{"in": ["buyer", "gone", "c7", "A"], "rules": {"hidden": ["i1"]}}])
    assert asked.ask("liz").rules.unknown_segments == ["gone", "c7"]
    assert asked.ask("bob").rules.unknown_segments == ["gone", "c7"]
    assert asked.ask("bob", "cart").rules.unknown_segments == []
    asked.hear(SEGMENTS, segments_record_of(SegmentRules(segments={"gone": Segment("orders >= 1")})))
    asked.do("view_item", "liz", "i1")
    assert asked.ask("bob").rules.unknown_segments == ["buyer", "c7"]
    assert asked.ask("bob").segments == ["gone"]


def test_classes_are_segments() -> None:
    asked = Asked()
    asked.rules(when=[{"in": ["A"], "rules": {"pinned": [{"item": "i7", "place": 1}]}}])
    assert asked.items("bob")[0] != "i7"
    value = asked.shop.families["shopper_value"]
    assert isinstance(value, ValueFamily)
    place = value.shoppers.place("bob")
    assert place is not None
    value.shoppers.rows[place, GRADE] = 1  # as the weekly classing does
    assert asked.ask("bob").segments == ["buyer", "A"]
    assert asked.items("bob")[0] == "i7"


def test_an_experiment_is_for_its_segments_alone() -> None:
    asked = Asked()
    hides = Arm("hides", rules=stated(hidden=["i0"], when=[{"in": ["looker"], "rules": {"hidden": ["i3"]}}]))
    one = asked.run(Arm("control", share=0.001), hides, segments={"not_in": ["looker"]})
    shopper = next(name for name in ("bob", "b2", "b3", "b4", "b5") if one.arm_of("trial", name) == 1)
    for _ in range(2):
        asked.do("purchase", shopper, "x")
    assert asked.ask(shopper).experiments == {"trial": "hides"}
    assert asked.ask(shopper).segments == ["buyer"]
    assert "i0" not in asked.items(shopper)
    assert asked.ask("liz").experiments == {}
    assert "i0" in asked.items("liz")
    free = msgspec.structs.replace(one, segments=None)
    assert "wanted segments as it was" in objection("trial", free, {"trial": one})
    # Rules of an arm may be for segments, too.
    asked = Asked()
    asked.run(Arm("control", share=0.001), hides)
    looker = next(name for name in (f"n{number}" for number in range(99)) if one.arm_of("trial", name) == 1)
    asked.do("view_item", looker, "x")
    assert not {"i0", "i3"} & {*asked.items(looker)}
    assert "i3" in asked.items("nobody-yet")


def test_impressions_have_the_segments_that_an_answer_depends_on() -> None:
    asked = Asked()
    asked.rules(when=[{"in": ["buyer"], "rules": {"hidden": ["i1"]}}])
    route = next(one for one in ROUTES if one.query is RecommendationQuery)
    assert route.shows is not None
    (shown,) = route.shows(asked.ask("bob"))
    assert shown.segments == ["buyer"]
    made = Impression("r1", 0, "/v1/x", [*shown.items], segments=list(shown.segments))
    again = decode_impression(Record(0, 0, 0, None, impression_record_of(made).value))
    assert again == made
    plain = impression_record_of(Impression("r1", 0, "/v1/x", [])).value
    assert plain is not None
    assert b"segments" not in plain


class Counted:
    """A shop that counts what came of an experiment."""

    def __init__(self, shop: Shop | None = None) -> None:
        self.shop = shop or Shop((Desk, PlacementsFamily, ExperimentsFamily))
        self.count = 0
        self.shop.now.time_ms = START

    @property
    def family(self) -> ExperimentsFamily:
        family = self.shop.families["experiments"]
        assert isinstance(family, ExperimentsFamily)
        return family

    def run(self, **fields: Any) -> None:
        made = experiment_record_of("home", Experiment((Arm("control"), Arm("new")), state="running", **fields))
        assert self.shop.hear(EXPERIMENTS, Record(0, 1, START, made.key, made.value)) is None

    def show(self, shopper: str, *segments: str) -> None:
        self.count += 1
        course = self.family.courses["home"]
        number = course.experiment.arm_of("home", shopper)
        assert number is not None
        arms = {"home": course.experiment.arms[number].name}
        made = Impression(
            f"r{self.count}", 0, "/v1/x", [ShownItem("a")], "home", "", shopper, experiments=arms,
            segments=list(segments), device="web",
        )  # fmt: skip
        assert self.shop.hear(IMPRESSIONS, Record(0, 0, START, None, impression_record_of(made).value)) is None

    def by_segment(self) -> dict[tuple[str, str], int]:
        report = self.family.courses["home"].look(START + 60_000)
        return {(one.segment, one.value): sum(one.compared.shoppers) for one in report.segments}


def test_a_report_is_broken_down_by_segment_and_class() -> None:
    story = Counted()
    story.run()
    for number in range(90):
        names = ["buyer", "A"] if number % 3 == 0 else ["looker", "buyer", "C", "c4"] if number % 3 == 1 else []
        story.show(f"s{number}", *names)
        story.show(f"s{number}", "looker")  # who enters counts for the segments of the first answer
    found = story.by_segment()
    assert found[("segment", "buyer")] == 60
    assert (found[("segment", "looker")], found[("class", "A")], found[("class", "C")]) == (30, 30, 30)
    assert found[("device", "web")] == 90
    assert not [name for name in found if name[1] == "c4"]
    kept = state_from(encode(story.shop.state()))
    again = Counted(Shop((Desk, PlacementsFamily, ExperimentsFamily)))
    again.shop.restore(kept, story.shop.stamp)
    for one in (story, again):
        one.count = 1_000
        one.show("late", "buyer", "B")
        one.family.courses["home"].leave_out("s0")
    assert again.by_segment() == story.by_segment()
    assert again.by_segment()[("segment", "buyer")] == 60
    assert digest(again.shop.state()) == digest(story.shop.state())


def test_a_report_tells_few_segments_apart() -> None:
    story = Counted()
    story.run()
    for number in range(100):
        story.show(f"s{number}", *[f"g{(number + more) % 20}" for more in range(3)])
    found = {value: count for (kind, value), count in story.by_segment().items() if kind == "segment"}
    assert len(found) == 7
    assert found["other"] <= 100  # each shopper counts once
    assert sum(found.values()) < 300


EXPLORE = Explore(rankers=("recommended", "trending"), segments=("buyer", "A"), floor=0.1, window_minutes=1)


def test_choices_know_the_segments_that_their_arm_names() -> None:
    asked = Asked()
    one = asked.run(Arm("control", share=0.001), Arm("new", explore=EXPLORE))
    shopper = next(name for name in (f"b{number}" for number in range(99)) if one.arm_of("trial", name) == 1)
    for inside in (0.0, 1.0):
        found = asked.ask(shopper)
        assert found.explored is not None
        context = dict(zip(features_of(EXPLORE), found.explored.context, strict=True))
        assert (context["segment/buyer"], context["segment/A"]) == (inside, 0.0)
        for _ in range(2):
            asked.do("purchase", shopper, "x")


def test_what_is_best_for_a_segment_is_learned_of_it() -> None:
    plain = [1.0] + [0.0] * (len(FEATURES) - 1)
    course, blind = Course("home", "new", EXPLORE), Course("home", "new", msgspec.structs.replace(EXPLORE, segments=()))
    for number in range(4_000):
        action, buyer = number % 2, float(number % 4 > 1)
        rewarded = number % 8 < 4 and action == int(buyer)
        time_ms = START + number * 100
        for each, context in ((course, [*plain, buyer, 0.0]), (blind, plain)):
            answer = Open(time_ms, number, action, 2, 0.5, context, 0)
            assert each.show(f"r{number}", answer)
            if rewarded:
                each.reward(f"r{number}", time_ms)
            assert list(each.settle(time_ms + 60_001))
    means = course.posterior.parameters(START + 500_000).means
    for buyer in (0.0, 1.0):
        best = int((means @ [*plain, buyer, 0.0]).argmax())
        assert best == int(buyer)
    unknowing = blind.posterior.parameters(START + 500_000).means @ plain
    assert unknowing[0] == pytest.approx(unknowing[1], abs=0.02)
    policy = course.look(START + 500_000, 1)
    assert policy is not None
    assert policy.features == features_of(EXPLORE)
    assert not course.show("short", Open(START, 1, 0, 2, 0.5, plain, 0))


def test_what_was_learned_without_segments_helps_an_arm_that_names_some() -> None:
    memory, plain = Memory(), [1.0] + [0.0] * (len(FEATURES) - 1)
    (first, second), size = keys_of(EXPLORE), len(features_of(EXPLORE))
    for number in range(300):
        memory.learn(first, [*plain, 1.0, 0.0], 0.0, START + number)  # of another arm with segments of its own
        memory.learn(second, plain, 1.0, START + number)
    course = Course("home", "new", EXPLORE)
    memory.tell(course.posterior, keys_of(EXPLORE), START + 300)
    means = course.posterior.parameters(START + 300).means
    assert means.shape == (2, size)
    assert (means @ [*plain, 1.0, 0.0]).argmax() == 1


def logged(*records: Any) -> MemoryLog:
    log = MemoryLog()
    log.create()
    with closing(log.appender()) as appender:
        for record in records:
            appender.append(record)
    return log


def test_a_segment_that_is_not_stated_is_told_before_anything_is_written() -> None:
    log = logged(segments_record_of(SegmentRules(segments={"loyal": Segment("orders >= 3")})))
    good = stated(when=[{"in": ["loyal", "A"], "not_in": ["c9"], "rules": {"hidden": ["a"]}}])
    check_named(log, "home", good.wrong_segments)
    bad = stated(when=[{"in": ["A"], "not_in": ["loyl"], "rules": {"hidden": ["a"]}}])
    with pytest.raises(Misconfigured, match=r"home: wanted loyal, a cluster such as c1, .* found 'loyl'; did you mean"):
        check_named(log, "home", bad.wrong_segments)
    arms = (Arm("control"), Arm("new", rules=bad), Arm("explores", explore=Explore(slot=2, segments=("gold",))))
    one = msgspec.convert({"arms": msgspec.to_builtins(arms), "segments": {"in": ["silver"]}}, Experiment)
    places = ["$.segments.in[0]", "$.arms[1].rules.when[0].not_in[0]", "$.arms[2].explore.segments[0]"]
    assert [text.rpartition(" - at ")[2].strip("`") for text in one.wrong_segments(["loyal"])] == places
    check_named(logged(), "home", stated(when=[{"in": ["A"], "rules": {"hidden": ["a"]}}]).wrong_segments)
    with pytest.raises(Misconfigured, match="wanted a cluster such as c1, or a class A, B or C, found 'loyl'"):
        check_named(logged(), "home", bad.wrong_segments)


def test_it_is_told_who_names_segments_that_are_gone() -> None:
    rules = stated(when=[{"in": ["loyal"], "rules": {"hidden": ["a"]}}])
    log = logged(
        segments_record_of(SegmentRules(segments={"loyal": Segment("orders >= 3")})), rules_record_of("home", rules)
    )
    one = msgspec.convert({"arms": [{"name": "a"}, {"name": "b"}], "segments": {"in": ["loyal"]}}, Experiment)
    state_experiment(log, "trial", one)
    assert still_named(log) == []
    with closing(log.appender()) as appender:
        appender.append(segments_record_of(SegmentRules()))
    assert [text.partition(": wanted")[0] for text in still_named(log)] == ["the rules of home", "the experiment trial"]


def test_a_segment_by_rule_has_no_name_of_a_cluster_or_a_class() -> None:
    for name in ("c1", "c999999999", "A", "Loyal"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"segments": {name: {"where": "orders >= 1"}}}, SegmentRules)
    for name in ("c", "c1x", "carts", "a"):
        msgspec.convert({"segments": {name: {"where": "orders >= 1"}}}, SegmentRules)
    for name in ("c1", "A", "loyal"):
        assert msgspec.convert(name, AnyName) == name
