"""Placements: what counts for an answer, what is remembered, and what its metrics say."""

from collections.abc import Sequence
from typing import Any

import pytest

from headrace.events import Data, Event, Item, Rejection, at
from headrace.impressions import Impression, ShownItem, record_of
from headrace.log.protocol import Record
from headrace.metrics import ShardMetrics
from headrace.state import decode, digest, encode
from headrace.topics import IMPRESSIONS
from learners.desk.family import Desk
from learners.family import Moment, Move
from learners.placements.attribution import held_ms, window_ms
from learners.placements.family import PlacementScore, PlacementsFamily, PlacementsSettings, scored_groups_max
from learners.placements.tallies import Group, half_life_ms
from learners.shop import Shop
from tests.hostile import HOSTILE, wire

START = 1_750_000_000_000
ROUTE = "/v1/recommendations/{shopper}"


class Story:
    """A family to which a test tells what is shown and what happens."""

    def __init__(self, **bounds: int) -> None:
        self.settings = PlacementsSettings(**bounds)
        self.family, self.now, self._count = PlacementsFamily(self.settings, {}), Moment({}), 0
        self.now.time_ms = START

    def show(self, name: str, items: Sequence[str], placement: str = "home", model: str = "r1", after: int = 0) -> None:
        made = Impression(name, 0, ROUTE, [ShownItem(item) for item in items], placement, model)
        record = Record(0, 0, START + after, None, record_of(made).value)
        assert self.family.hear(IMPRESSIONS, record, self.now) is None

    def do(
        self, kind: Any, items: Sequence[str], name: str = "", *, who: str = "ann", after: int = 0, **data: Any
    ) -> None:
        self._count += 1
        lines = [Item(item, price=10.0, quantity=2) for item in items]
        time_ms = self.now.time_ms = START + after
        made = Data(lines, recommendation_id=name, **data)
        event = Event(f"e{self._count}", "test", kind, at(time_ms), made, "1.0", who, time_ms)
        event.counts = who != "bot"
        self.family.learn(event, self.now)

    def score(self, placement: str = "home", model: str = "r1") -> PlacementScore:
        return next(one for one in self.family.scores().groups if (one.placement, one.model) == (placement, model))

    @property
    def outcomes(self) -> dict[str, int]:
        return dict(self.family.attribution.outcomes)


def test_from_the_answer_to_the_revenue() -> None:
    story = Story()
    story.show("r1", ["a", "b", "c"])
    story.show("r2", ["a"])
    story.do("select_item", ["a"], "r1")
    story.do("view_item", ["a"], "r1")
    story.do("add_to_cart", ["a"], "r1")
    story.do("purchase", ["a", "z"])
    assert story.score() == PlacementScore(ROUTE, "home", "r1", 2, 4, 1, 1, 1, 1, 2.0, 20.0, 0.5)
    assert story.outcomes == {"attributed": 3, "repeated": 1}


def test_models_and_placements_are_told_apart() -> None:
    story = Story()
    for name, placement, model in (("r1", "home", "r1"), ("r2", "home", "r2"), ("r3", "cart", "r1")):
        story.show(name, ["a"], placement, model)
    story.do("select_item", ["a"], "r2")
    story.do("purchase", ["a"], who="bob", name="r3")
    assert [story.score(*group).clicks for group in (("home", "r1"), ("home", "r2"), ("cart", "r1"))] == [0, 1, 0]
    assert [story.score(*group).orders for group in (("home", "r1"), ("home", "r2"), ("cart", "r1"))] == [0, 0, 1]


def test_what_was_not_shown_is_no_click_of_it() -> None:
    story = Story()
    story.show("r1", ["a"])
    story.do("select_item", ["b"], "r1")
    story.do("purchase", ["b"])
    assert story.score().clicks == story.score().orders == 0
    assert story.outcomes == {"not_shown": 2}


def test_a_click_counts_for_a_day_and_an_order_for_a_day_after_the_click() -> None:
    story = Story()
    story.show("r1", ["a", "b"])
    story.do("select_item", ["a"], "r1", after=window_ms)
    story.do("select_item", ["b"], "r1", after=window_ms + 1)
    story.do("purchase", ["b"], after=window_ms + 2)
    story.do("purchase", ["a"], after=2 * window_ms)
    story.do("purchase", ["a"], after=2 * window_ms + 1)
    assert (story.score().clicks, story.score().orders) == (1, 1)
    assert story.outcomes == {"attributed": 2, "expired": 2}


def test_an_order_belongs_to_the_last_click_of_its_item_not_to_the_answer_that_it_names() -> None:
    story = Story()
    for name, placement in (("r1", "home"), ("r2", "cart"), ("r3", "mail")):
        story.show(name, ["a", "b"], placement)
    story.do("select_item", ["a"], "r1")
    story.do("select_item", ["a"], "r2")
    story.do("purchase", ["a", "b"], "r3")
    assert [(story.score(one).orders, story.score(one).units) for one in ("home", "cart", "mail")] == [
        (0, 0.0), (1, 2.0), (1, 2.0),
    ]  # fmt: skip


def test_another_shopper_s_click_is_not_this_one_s_order() -> None:
    story = Story()
    story.show("r1", ["a"])
    story.do("select_item", ["a"], "r1", who="bob")
    story.do("purchase", ["a"])
    assert story.score().orders == 0


def test_who_is_over_the_daily_budget_counts_not() -> None:
    story = Story()
    story.show("r1", ["a"])
    story.do("select_item", ["a"], "r1", who="bot")
    story.do("purchase", ["a"], "r1", who="bot")
    assert (story.score().clicks, story.score().orders, story.outcomes) == (0, 0, {})


def test_an_order_remembers_a_click_of_which_the_answer_is_forgotten() -> None:
    story = Story(answers_max=1)
    story.show("r1", ["a"])
    story.do("select_item", ["a"], "r1")
    story.show("r2", ["b"])
    story.do("purchase", ["a"])
    assert story.score().orders == 1
    story.do("select_item", ["a"], "r1")
    story.do("select_item", ["b"], "r2", after=held_ms + 1)
    assert story.outcomes["unknown"] == 1
    assert story.family.attribution.evictions()["answers"] == 1


def test_events_that_come_before_their_answer_are_held_for_a_while() -> None:
    story = Story()
    story.do("select_item", ["a"], "r1")
    story.do("purchase", ["a"])
    story.do("select_item", ["z"], "never")
    assert story.family.bounds()["placement_held_uses"] == (3, 10_000)
    story.show("r1", ["a"])
    assert (story.score().clicks, story.score().orders, story.outcomes) == (1, 1, {"attributed": 2})
    story.do("select_item", ["y"], "later", after=held_ms)
    assert story.family.bounds()["placement_held_uses"] == (2, 10_000)
    story.do("select_item", ["y"], "latest", after=held_ms + 1)
    assert story.family.bounds()["placement_held_uses"] == (2, 10_000)
    assert story.outcomes == {"attributed": 2, "unknown": 1}


def test_too_many_events_that_wait_give_up_the_first_ones() -> None:
    story = Story(held_max=2)
    for number in range(3):
        story.do("select_item", ["a"], f"r{number}")
    for number in range(3):
        story.show(f"r{number}", ["a"])
    assert story.score().clicks == 2
    assert story.outcomes == {"unknown": 1, "attributed": 2}
    assert story.family.attribution.evictions()["held_uses"] == 1


def test_an_answer_that_is_written_twice_counts_once() -> None:
    story = Story()
    story.show("r1", ["a"])
    story.do("select_item", ["a"], "r1")
    story.show("r1", ["a"])
    assert (story.score().answers, story.score().clicks) == (1, 1)


def test_a_guest_s_click_is_the_shopper_s_after_a_login_and_the_guest_s_again_after_it_is_taken_back() -> None:
    story = Story()
    story.show("r1", ["a", "b"])
    story.do("select_item", ["a"], "r1", who="guest", session_id="s1")
    story.do("select_item", ["b"], "r1", who="guest", session_id="s2")
    story.family.move(Move("guest", "ann", "s1"))
    assert (story.family.knows("ann"), story.family.knows("guest")) == (True, True)
    story.family.move(Move("ann", "guest", "s1", taken_back=True))
    assert (story.family.knows("ann"), story.family.knows("guest")) == (False, True)
    story.family.move(Move("guest", "ann", "s1"))
    story.do("purchase", ["a", "b"], who="ann")
    assert (story.score().orders, story.score().units) == (1, 2.0)


def test_click_through_follows_the_newest_answers() -> None:
    story = Story()
    story.show("old", ["a"])
    story.do("select_item", ["a"], "old")
    assert story.score().click_through == 1.0
    story.do("search", [], after=half_life_ms)
    story.show("new", ["a"], after=half_life_ms)
    assert story.score().click_through == pytest.approx(1 / 3)


@pytest.mark.parametrize("value", [*(wire(one).encode() for one in HOSTILE), b'{"recommendation_id": "r1"}'])
def test_what_is_no_impression_is_refused_and_changes_nothing(value: bytes) -> None:
    story = Story()
    before = digest(story.family.state())
    assert isinstance(story.family.hear(IMPRESSIONS, Record(0, 0, START, None, value), story.now), Rejection)
    assert digest(story.family.state()) == before


def test_tables_stay_within_their_bounds_and_a_restart_under_lower_ones_keeps_the_newest() -> None:
    story = Story(answers_max=10, touches_max=8, held_max=6, groups_max=3)
    for number in range(50):
        story.show(f"r{number}", ["a", "b"], f"p{number % 5}")
        story.do("select_item", ["a"], f"r{number}", who=f"s{number % 20}")
        story.do("add_to_cart", ["b"], f"unheard{number}", who=f"s{number % 20}")
        assert all(used <= most for used, most in story.family.bounds().values())
    assert all(count > 0 for count in story.family.attribution.evictions().values())
    fewer = PlacementsFamily(PlacementsSettings(answers_max=5, touches_max=4, held_max=3, groups_max=2), {})
    fewer.restore(decode(encode(story.family.state())))
    assert [used for used, _ in fewer.bounds().values()] == [5, 4, 3, 2]
    assert "r49" in fewer.attribution.answers
    assert [one.group.placement for one in fewer.attribution.tallies] == ["p3", "p4"]


def test_one_shopper_cannot_take_the_whole_table() -> None:
    story = Story(touches_max=5_000)
    for number in range(2_000):
        story.do("select_item", [f"i{number}"], "r1")
    assert story.family.bounds()["placement_touches"] == (1_000, 5_000)
    small = Story(touches_max=10)
    for number in range(20):
        small.do("select_item", [f"i{number}"], "r1")
    assert small.family.bounds()["placement_touches"] == (10, 10)


def test_prices_are_in_the_shop_s_currency_and_a_repeated_order_counts_once() -> None:
    shop = Shop((Desk, PlacementsFamily), {"desk": Desk.surface.settings(currency="EUR", rates={"USD": 0.5})})
    made = Impression("r1", 0, ROUTE, [ShownItem("a")], "home", "r1")
    shop.hear(IMPRESSIONS, Record(0, 0, START, None, record_of(made).value))
    for number in range(2):
        data = Data([Item("a", price=10.0)], currency="USD", transaction_id="t1", recommendation_id="r1")
        event = Event(f"e{number}", "test", "purchase", at(START), data, "1.0", "ann", START)
        if shop.prepare(event):
            shop.learn(event, 0, number)
    family = shop.families["placements"]
    assert isinstance(family, PlacementsFamily)
    (found,) = family.scores().groups
    assert (found.orders, found.units, found.revenue) == (1, 1.0, 5.0)


def test_metrics_tell_totals_and_forget_groups_that_are_evicted() -> None:
    story, metrics = Story(groups_max=2), ShardMetrics([PlacementsFamily.surface])
    declared = metrics.family_metrics
    declared.baseline(PlacementsFamily.surface, story.family)

    def exported() -> dict[str, float]:
        declared.read(PlacementsFamily.surface, story.family)
        (found,) = [one for one in metrics.registry.collect() if one.name == "headrace_placement_answers"]
        return {one.labels["placement"]: one.value for one in found.samples}

    story.show("r1", ["a"], "home")
    story.show("r2", ["a"], "home")
    story.show("r3", ["a"], "cart")
    assert exported() == {"home": 2, "cart": 1}
    (revenue,) = [one for one in metrics.registry.collect() if one.name == "headrace_placement_revenue"]
    assert {one.labels["placement"]: one.value for one in revenue.samples} == {"home": 0, "cart": 0}, "before any order"
    story.show("r4", ["a"], "mail")
    assert exported() == {"cart": 1, "mail": 1}
    story.show("r5", ["a"], "home")
    assert exported() == {"mail": 1, "home": 1}, "it begins anew"


def test_a_record_of_scores_has_the_groups_that_answered_last() -> None:
    story = Story()
    for number in range(scored_groups_max + 5):
        story.show(f"r{number}", ["a"], f"p{number}")
    assert [one.placement for one in story.family.scores().groups] == [f"p{n}" for n in range(24, 4, -1)]
    assert story.family.attribution.tallies.get(Group(ROUTE, "p0", "r1"))


def test_status_and_report_show_the_groups() -> None:
    story = Story()
    for name, placement, model in (("r1", "home", "r1"), ("r2", "", ""), ("r3", "home", "r2")):
        story.show(name, ["a"], placement, model)
    story.do("select_item", ["a"], "r3")
    scores = story.family.scores()
    surface = PlacementsFamily.surface
    assert [row[:4] for row in surface.tables[0].rows(scores)] == [
        ("home, r2", 1, 1.0, 1), (f"{ROUTE}, no model", 1, 0.0, 0), ("home, r1", 1, 0.0, 0),
    ]  # fmt: skip
    lines = surface.charts[0].lines
    assert lines
    assert lines(scores) == {"home": 1.0, ROUTE: 0.0}
