"""Variants: how the arms of experiments answer, and that rules hold for all of them."""

import random
from functools import cache
from typing import Any, get_args

import msgspec
import pytest

from headrace.events import Data, Event, Item, at
from headrace.experiments import Arm, Experiment, Ranker, record_of
from headrace.log.protocol import Record
from headrace.rules import AtMost, Pin, PriceLimits, RuleSet, Seen, Trade
from headrace.rules import record_of as rules_record_of
from headrace.surface import Now
from headrace.topics import EXPERIMENTS, RULES
from learners.deep.answering import AnsweringModel
from learners.deep.model import DeepModel, DeepSettings
from learners.next_item.answering import ItemList, Page
from learners.next_item.questions import ListQuery, PageList, PageQuery, RecommendationQuery, RerankQuery, SessionQuery
from learners.next_item.routes import ROUTES
from learners.shop import Shop
from tests.shards import next_item, online

START_MS = 1_736_121_600_000
ITEMS = [f"i{number:02d}" for number in range(40)]
CONTROL = Arm("control")
(RECOMMENDATIONS,) = (one for one in ROUTES if one.query is RecommendationQuery)


@cache
def deep(seed: int = 1) -> bytes:
    """Return a deep model with random weights."""
    model = DeepModel(DeepSettings(width=16, heads=2), seed)
    model.grow(ITEMS)
    return model.to_bytes()


class Asked:
    """A shop of 40 items in 8 brands that has learned, with a deep model, and runs one experiment."""

    def __init__(self, *arms: Arm, rules: RuleSet | None = None, kind: Any = "arms") -> None:
        self.shop: Shop = online()(None)
        luck = random.Random(3)
        for number in range(600):
            items = [Item(item, item_brand=f"b{int(item[1:]) % 8}", price=float(int(item[1:]) + 1)) for item in ITEMS]
            one = items[min(39, int(luck.expovariate(0.12)))]
            kind_ = "purchase" if number % 9 == 0 else "view_item"
            self.learn(f"s{number % 30}", one, number, kind_)
        self.shop.emit()
        self.model: AnsweringModel | None = AnsweringModel.from_bytes(deep())
        self.tried: dict[str, AnsweringModel] = {}
        if rules:
            record = rules_record_of("home", rules)
            assert self.shop.hear(RULES, Record(0, 1, 0, record.key, record.value)) is None
        self.experiment = Experiment(arms, state="running", kind=kind, placements=("home",))
        record = record_of("trial", self.experiment)
        assert self.shop.hear(EXPERIMENTS, Record(0, 2, 0, record.key, record.value)) is None

    def learn(self, shopper: str, item: Item, number: int, kind: Any) -> None:
        time_ms = START_MS + 60_000 * number
        event = Event(f"e{number}", "test", kind, at(time_ms), Data([item]), "1.0", shopper, time_ms)
        if self.shop.prepare(event):
            self.shop.learn(event, 0, number)

    def of_arm(self, name: str) -> str:
        """Return a shopper of the arm."""
        arms = self.experiment.arms
        shoppers = (f"s{number}" for number in range(30))
        return next(one for one in shoppers if arms[self.experiment.arm_of("trial", one) or 0].name == name)

    def now(self, clock_s: float = 0.0) -> Now:
        return Now(self.shop.time_ms, "id", self.model, clock_s=clock_s, tried=self.tried)

    def ask(
        self, shopper: str, placement: str = "home", *, n: int = 10, clock_s: float = 0.0
    ) -> ItemList:  # fmt: skip
        asked = RecommendationQuery(shopper=shopper, n=n, placement=placement)
        return next_item(self.shop).answering.recommend(asked, self.now(clock_s))


def names(found: ItemList) -> list[str]:
    return [one.item_id for one in found.items]


def test_only_shoppers_of_the_arm_at_its_placement_get_its_answers() -> None:
    asked = Asked(CONTROL, Arm("new", ranker="popular"))
    new, control = asked.of_arm("new"), asked.of_arm("control")
    assert asked.ask(new).experiments == {"trial": "new"}
    assert asked.ask(control).experiments == {"trial": "control"}
    assert asked.ask(new, "cart").experiments == {}
    assert names(asked.ask(control)) == names(asked.ask(control, "cart"))
    assert names(asked.ask(new)) != names(asked.ask(new, "cart"))


@pytest.mark.parametrize("ranker", [one for one in get_args(Ranker) if one])
def test_each_ranker_answers_in_its_own_way_and_fills_up(ranker: Any) -> None:
    asked = Asked(CONTROL, Arm("new", ranker=ranker))
    shopper = asked.of_arm("new")
    found = asked.ask(shopper, n=20)
    assert len({*names(found)}) == 20
    assert names(found) != names(asked.ask(shopper, "cart", n=20))
    scores = [one.score for one in found.items if one.score]
    assert scores == sorted(scores, reverse=True)
    assert all(one.reason.text for one in found.items)
    again = asked.ask(shopper, n=20, clock_s=1.0)
    assert (names(again), names(asked.ask(shopper, n=20, clock_s=1.1))) == (names(found), names(found))


@pytest.mark.parametrize("without", [("deep",), ("popularity", "transitions", "revisits"), ("session_knn", "deep")])
def test_a_blend_without_learners_answers_as_if_there_were_none(without: Any) -> None:
    asked = Asked(CONTROL, Arm("new", without=without))
    shopper = asked.of_arm("new")
    found = asked.ask(shopper)
    if without == ("deep",):
        asked.model = None
        assert names(found) == names(asked.ask(shopper, "cart"))
    told = {one.reason.code for one in found.items}
    codes = {
        "deep": "taste", "transitions": "viewed_together", "revisits": "viewed_before",
        "session_knn": "similar_visits",
    }  # fmt: skip
    assert not told & {codes[name] for name in without if name in codes}


def test_an_arm_may_use_another_model_than_the_promoted_one() -> None:
    asked = Asked(CONTROL, Arm("former", ranker="deep", model="r2", blob="model-2"))
    former, control, other = asked.of_arm("former"), asked.of_arm("control"), AnsweringModel.from_bytes(deep(2))
    found = asked.ask(former)
    assert (found.experiments, found.model) == ({}, ""), (
        "as without the experiment, as long as its model is not at hand"
    )
    assert names(found) == names(asked.ask(former, "cart"))
    asked.tried = {"model-2": other}
    found = asked.ask(former)
    assert (found.experiments, found.model) == ({"trial": "former"}, "r2")
    (shown,) = RECOMMENDATIONS.shows(found)  # type: ignore[misc]
    assert shown.model == "r2"
    again = asked.ask(former, clock_s=1.0)
    assert (names(again), again.model) == (names(found), "r2")
    assert names(asked.ask(former, clock_s=1.1)) == names(found), "what is kept for a moment is of the same model"
    for shopper in (former, control):
        assert asked.ask(shopper, "cart").model == ""
    assert (asked.ask(control).experiments, asked.ask(control).model) == ({"trial": "control"}, "")
    promoted = Asked(CONTROL, Arm("former", ranker="deep"))
    promoted.model = other
    assert names(promoted.ask(former)) == names(found), "as if the other model were promoted"
    assert names(found) != names(Asked(CONTROL, Arm("former", ranker="deep")).ask(former))


def test_models_may_be_drafted_against_each_other() -> None:
    asked = Asked(CONTROL, Arm("former", model="r2", blob="model-2"), kind="interleaved")
    assert asked.ask("s1").experiments == {}
    asked.tried = {"model-2": AnsweringModel.from_bytes(deep(2))}
    assert {*asked.ask("s1").experiments["trial"]} <= {*"AB-"}


def test_rules_of_an_arm_hold_beside_those_of_the_placement() -> None:
    asked = Asked(
        CONTROL, Arm("new", rules=RuleSet(price=PriceLimits(max=20), hidden=("i01",))), rules=RuleSet(hidden=("i00",))
    )
    new, control = (names(asked.ask(asked.of_arm(name), n=15)) for name in ("new", "control"))
    assert "i00" not in {*new, *control}
    assert "i01" not in new
    assert all(int(item[1:]) < 20 for item in new)
    assert any(int(item[1:]) >= 20 for item in control)


def test_reranking_and_visits_obey_the_arm() -> None:
    asked = Asked(CONTROL, Arm("new", ranker="popular"))
    answering, shopper = next_item(asked.shop).answering, asked.of_arm("new")
    items = ["i30", "i02", "i11", "unknown", "i00"]
    found = answering.rerank(RerankQuery(shopper=shopper, items=items, n=5, placement="home"), asked.now())
    popular = names(answering.popular(ListQuery(n=40), asked.now()))
    assert names(found) == [*sorted(["i30", "i02", "i11", "i00"], key=_place(popular)), "unknown"]
    assert found.experiments == {"trial": "new"}
    visit = answering.recommend_in_visit(SessionQuery(shopper=shopper, placement="home", n=5), asked.now())
    assert visit.experiments == {"trial": "new"}
    assert answering.recommend_in_visit(SessionQuery(placement="home"), asked.now()).experiments == {}


def _place(ranking: list[str]) -> Any:
    return lambda item: ranking.index(item) if item in ranking else len(ranking)


def test_an_interleaved_list_obeys_the_rules_and_says_whose_its_items_are() -> None:
    rules = RuleSet(at_most=AtMost(brand=2), pinned=(Pin("i05", 3),), hidden=("i02",), seen=Seen(leave_out=False))
    asked = Asked(CONTROL, Arm("new", ranker="popular"), rules=rules, kind="interleaved")
    firsts = set()
    for number in range(30):
        found = asked.ask(f"s{number}", n=9)
        teams = found.experiments["trial"]
        items = names(found)
        assert len(items) == len({*items}) == len(teams) == 9
        assert items[2] == "i05"
        assert "i02" not in items
        brands = [int(item[1:]) % 8 for item in items if item != "i05"]
        assert max(brands.count(one) for one in brands) <= 2
        assert abs(teams.count("A") - teams.count("B")) <= 3
        firsts.add(teams[0])
    assert firsts <= {"A", "B"}


def test_the_draw_of_an_interleaved_list_is_the_answers_own() -> None:
    asked = Asked(CONTROL, Arm("new", ranker="popular"), kind="interleaved")
    answering, found = next_item(asked.shop).answering, set()
    for number in range(12):
        query = RecommendationQuery(shopper="s1", n=6, placement="home")
        one = answering.recommend(query, asked.now()._replace(id=f"answer-{number}"))
        again = answering.recommend(query, asked.now()._replace(id=f"answer-{number}"))
        assert (names(one), one.experiments) == (names(again), again.experiments)
        found.add(one.experiments["trial"][0])
    assert found == {"A", "B"}


def test_what_an_answer_shows_says_its_arms() -> None:
    asked = Asked(CONTROL, Arm("new", ranker="popular"))
    route = next(one for one in next_item(asked.shop).surface.routes if one.shows and "{shopper}" in one.path)
    assert route.shows is not None
    (shown,) = route.shows(asked.ask(asked.of_arm("new")))
    assert shown.experiments == {"trial": "new"}


def test_a_stopped_experiment_changes_nothing() -> None:
    asked = Asked(CONTROL, Arm("new", ranker="popular"))
    shopper = asked.of_arm("new")
    stopped = record_of("trial", msgspec.structs.replace(asked.experiment, state="stopped"))
    assert asked.shop.hear(EXPERIMENTS, Record(0, 9, 0, stopped.key, stopped.value)) is None
    found = asked.ask(shopper)
    assert found.experiments == {}
    assert names(found) == names(asked.ask(shopper, "cart"))


def test_a_page_has_lists_of_several_placements() -> None:
    asked = Asked(CONTROL, Arm("new", ranker="popular"))
    lists = [PageList(kind="recommended", placement="home", n=4), PageList(kind="recommended", placement="cart", n=4)]
    shopper = asked.of_arm("new")
    page = next_item(asked.shop).answering.page(PageQuery(shopper=shopper, lists=lists), asked.now())
    assert isinstance(page, Page)
    assert [one.experiments for one in page.lists] == [{"trial": "new"}, {}]


def test_an_arm_can_trade_relevance() -> None:
    diverse = Arm("diverse", rules=RuleSet(trade=Trade(0.7, diversity=1)))
    shop = Asked(CONTROL, diverse)
    control, traded = (shop.ask(shop.of_arm(name)) for name in ("control", "diverse"))
    assert control.rules.relevance_kept is None
    assert 0.7 <= (traded.rules.relevance_kept or 0) < 1
    brands = [len({one.brand for one in found.items}) for found in (control, traded)]
    assert brands[0] < brands[1] == 8


def test_what_two_arms_have_drafted_is_not_traded_again() -> None:
    rules = RuleSet(trade=Trade(0.7, diversity=1))
    shop = Asked(CONTROL, Arm("popular", ranker="popular"), rules=rules, kind="interleaved")
    assert shop.ask("s1").rules.relevance_kept is None
