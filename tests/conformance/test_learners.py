"""Every learner passes the checks that ship with the package, and the checks detect faulty learners."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest

from headrace.events import Data, Event, Item, at
from headrace.surface import Surface
from learners.checks import CHECKS, FAMILY_CHECKS, Problem, event, family, next_item
from learners.checks.event import stream
from learners.checks.family import (
    FamilyFold,
    check_declares_what_it_shows,
    check_learns_as_it_says,
    check_merges_as_it_says,
)
from learners.checks.problem import (
    check_finds_the_right_answer,
    check_inputs_stay,
    check_memory_is_bounded,
    check_predict_changes_nothing,
    check_round_trip,
    check_same_in_every_process,
)
from learners.demand.family import DemandFamily
from learners.desk.family import Desk
from learners.experiments.family import ExperimentsFamily
from learners.exploration.family import ExplorationFamily
from learners.exposure.family import ExposureFamily
from learners.families import families
from learners.family import Family, Mergeable, Merges, Moment, NoSettings
from learners.next_item.family import NextItemFamily
from learners.next_item.popularity import Popularity
from learners.next_item.revisits import Revisits
from learners.next_item.session_knn import SessionKnn
from learners.next_item.transitions import Transitions
from learners.placements.family import PlacementsFamily
from learners.profiles.family import ProfilesFamily
from learners.protocol import Context
from learners.purchase.family import PurchaseFamily
from learners.purchase.propensity import Propensity
from learners.rounds.family import Rounds
from learners.segments.family import SegmentsFamily
from learners.shop import Shop
from learners.stock.family import StockFamily
from learners.value.family import ValueFamily
from learners.value.shoppers import ORDERS
from tests.shards import next_item as next_item_of
from tests.shards import purchase, rounds


def rarely_goes_back(learner: Revisits) -> bool:
    """Return whether it learned that shoppers do not return to the last item, which the lesson never does."""
    _, (chance,) = learner.predict(Context([1], 0, 1, 0))
    return bool(chance < 0.05)


PROBLEMS = {
    "popularity": next_item(Popularity, items_max=64, leaders_max=8),
    "popularity_plain": next_item(Popularity, items_max=64, half_life_ms=None),
    "popularity_fast_decay": next_item(Popularity, items_max=64, half_life_ms=60_000),
    "transitions": next_item(Transitions, items_max=16, companions_max=4),
    "transitions_of_first_order": next_item(Transitions, items_max=16, companions_max=4, reach=1, backwards=0),
    "transitions_decayed": next_item(Transitions, items_max=16, companions_max=4, half_life_ms=120_000),
    "session_knn": next_item(SessionKnn, items_max=64, sessions_max=32, session_items_max=5, candidates_max=10, k=5),
    "session_knn_roomy": next_item(SessionKnn, sessions_max=2_048),
    "revisits": next_item(Revisits, rarely_goes_back, steps_max=5),
    "propensity": event(Propensity),
}


def knows_what_is_popular(fold: FamilyFold) -> bool:
    found = next_item_of(fold.shop).recommend("nobody", fold.shop.time_ms, 6)
    return any(item.startswith("bought-") for item, _ in found)


def knows_what_sells(fold: FamilyFold) -> bool:
    return knows(fold.shop, "bought") > 0.5 > knows(fold.shop, "left")


def knows(shop: Shop, category: str) -> float:
    """Return the probability that is given to a view of an item of a category."""
    time_ms = shop.time_ms + 86_400_000
    line = Item(f"{category}-0", item_category=category, price=10.0)
    view = Event("asks", "checks", "view_item", at(time_ms), Data([line]), "1.0", "asks", time_ms)
    chance = purchase(shop).propensity.predict(view)
    assert chance is not None
    return chance


def names_unknown_answers(fold: FamilyFold) -> bool:
    """Return whether all that is not held of the lesson's clicks was given up."""
    assert isinstance(fold.family, PlacementsFamily)
    return fold.family.attribution.outcomes == {"unknown": 40 - 16}


def clicks_on_answers() -> list[Event]:
    """Return a lesson of 40 clicks within a second, each of which names an answer that nobody logged."""
    lesson = [
        Event(
            f"click-{n}", "checks", "select_item", at(1_750_000_000_000 + n), Data([Item(f"item-{n}")]), "1.0",
            f"shopper-{n}", 1_750_000_000_000 + n,
        )
        for n in range(40)
    ]  # fmt: skip
    for n, one in enumerate(lesson):
        one.data.recommendation_id = f"answer-{n}"
    return lesson


def orders_paid_twice() -> list[Event]:
    """Return a lesson of 40 orders, each of which is sent twice."""
    lesson = [one for one in stream(400) if one.type == "purchase"][:40]
    assert len(lesson) == 40
    return [*lesson, *lesson]


def knows_who_has_ordered(fold: FamilyFold) -> bool:
    """Return whether the lesson's orders are known as what shoppers did before an experiment."""
    assert isinstance(fold.family, ExperimentsFamily)
    before, lesson = fold.family.before, orders_paid_twice()
    return all(before.of(one.shopper, one.time_ms)[1] > 0 for one in lesson)


def looked_at_the_newest_minute(fold: FamilyFold) -> bool:
    """Return whether it looked at the end of the lesson, which has no answers to learn from."""
    assert isinstance(fold.family, ExplorationFamily)
    return bool(fold.state()["families"]["exploration"]["looks"]["looked"] == fold.shop.time_ms // 60_000)


def knows_who_has_bought(fold: FamilyFold) -> bool:
    """Return whether each of the lesson's newest shoppers bought only if the lesson says so, and what it cost."""
    assert isinstance(fold.family, ProfilesFamily)
    known = {name: fold.family.shoppers.of(name) for name in fold.family.shoppers}
    money = [one.purchases.money if one and one.purchases else 0.0 for one in known.values()]
    return money == [10.0 * (int(name.removeprefix("shopper-")) % 2 == 0) for name in known]


def is_checked_again(fold: FamilyFold) -> bool:
    """Return whether those who were seen last are known as last checked."""
    assert isinstance(fold.family, SegmentsFamily)
    members = fold.family.members
    return len(members) == 16 and all(int(name.removeprefix("shopper-")) >= 0 for name in members)


def knows_what_is_turned_to(fold: FamilyFold) -> bool:
    """Return whether the popularity of each of the lesson's items is known."""
    assert isinstance(fold.family, ExposureFamily)
    items = {line.item_id for one in orders_paid_twice() for line in one.data.items}
    return len(fold.family.items) == len(items)


def counts_each_order_once(fold: FamilyFold) -> bool:
    """Return whether each of the lesson's orders is counted once."""
    assert isinstance(fold.family, ValueFamily)
    return float(fold.family.shoppers.in_use[:, ORDERS].sum()) == 40


def counts_each_piece_once(fold: FamilyFold) -> bool:
    """Return whether each of the lesson's pieces is counted once, in its week."""
    assert isinstance(fold.family, DemandFamily)
    fold.family.sales.apply()
    items = Counter(line.item_id for one in orders_paid_twice()[:40] for line in one.data.items)
    slots = {item: fold.family.sales.slot(item) for item in items}
    return all(
        slot is not None and sum(sold for _, sold, _ in fold.family.sales.course(slot, 60)) == items[item]
        for item, slot in slots.items()
    )


def knows_each_piece_as_sold(fold: FamilyFold) -> bool:
    """Return whether each of the lesson's pieces was sold once."""
    assert isinstance(fold.family, StockFamily)
    levels = fold.family.levels
    items = Counter(line.item_id for one in orders_paid_twice()[:40] for line in one.data.items)
    slots = {item: levels.slot(item) for item in items}
    return all(slot is not None and levels.sold_since[slot] == items[item] for item, slot in slots.items())


FAMILIES = {
    "desk": family(
        Desk,
        lambda fold: fold.shop.events == 40,
        orders_paid_twice(),
        orders_max=64,
        login_sessions_max=32,
        shoppers_max=16,
    ),
    "next_item": family(NextItemFamily, knows_what_is_popular, items_max=64, shoppers_max=16),
    "purchase": family(PurchaseFamily, knows_what_sells),
    "profiles": family(
        ProfilesFamily, knows_who_has_bought, reads=[Desk], shoppers_max=16, tastes_max=120, orders_max=8
    ),
    "segments": family(SegmentsFamily, is_checked_again, reads=[Desk, ProfilesFamily], shoppers_max=16, clusters_max=2),
    "placements": family(
        PlacementsFamily, names_unknown_answers, clicks_on_answers(), touches_max=64, held_max=16, groups_max=4
    ),
    "experiments": family(
        ExperimentsFamily,
        knows_who_has_ordered,
        orders_paid_twice(),
        [PlacementsFamily],
        shoppers_max=16,
        before_max=64,
        drafts_max=4,
    ),
    "exploration": family(
        ExplorationFamily,
        looked_at_the_newest_minute,
        orders_paid_twice(),
        [PlacementsFamily, ExperimentsFamily],
        open_max=16,
    ),
    "exposure": family(
        ExposureFamily, knows_what_is_turned_to, orders_paid_twice(), [Desk], items_max=100, scopes_max=4
    ),
    "shopper_value": family(
        ValueFamily, counts_each_order_once, orders_paid_twice(), [Desk], shoppers_max=100, orders_max=64, sample_max=16
    ),
    "demand": family(DemandFamily, counts_each_piece_once, orders_paid_twice(), [Desk, StockFamily], items_max=48),
    "stock": family(StockFamily, knows_each_piece_as_sold, orders_paid_twice(), [Desk], items_max=48),
    "rounds": family(
        Rounds, lambda fold: rounds(fold.shop).due == "start", items_max=64, shoppers_max=16, round_events=500
    ),
}


def test_every_family_of_ours_is_checked() -> None:
    assert set(FAMILIES) == {kind.name for kind in families()}


@pytest.mark.parametrize("check", [*CHECKS, *FAMILY_CHECKS], ids=lambda check: check.__name__)
@pytest.mark.parametrize("problem", FAMILIES.values(), ids=FAMILIES.keys())
def test_family(problem: Problem, check: Any) -> None:
    check(problem)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_learner(problem: Problem, check: Any) -> None:
    check(problem)


class LearnsInPredict(Popularity):
    """Changes its state in `predict`."""

    def predict(self, context: Context) -> Any:
        self.learn(context, 3)
        return super().predict(context)


class ExceedsItsBounds(Popularity):
    """Reports a maximum and exceeds it."""

    def bounds(self) -> dict[str, tuple[int, int]]:
        return {"items": (super().bounds()["items"][0], 30)}


class SharesItsState(Popularity):
    """Returns its own counts as state, not a copy."""

    def state(self) -> dict[str, Any]:
        state = super().state()
        return {**state, "counts": self._counts[: len(state["counts"])]}


class RestoresIncompletely(Popularity):
    """Loses its leaders' floor in a restart."""

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "RestoresIncompletely":
        return super().from_state({**state, "floor": 0.0})


class LearnsNothing(Popularity):
    """Ignores what it should learn."""

    def learn(self, context: Context, item: int) -> None:
        pass


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (LearnsInPredict, check_predict_changes_nothing),
        (ExceedsItsBounds, check_memory_is_bounded),
        (SharesItsState, check_inputs_stay),
        (RestoresIncompletely, check_round_trip),
        (LearnsNothing, check_finds_the_right_answer),
    ],
)
def test_checks_detect_faulty_learners(kind: type[Popularity], check: Any) -> None:
    with pytest.raises(AssertionError):
        check(next_item(kind, items_max=64, leaders_max=4))


def test_check_detects_hash_randomisation(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hashing_learner.py").write_text(
        "from learners.next_item.popularity import Popularity\n"
        "class Hashing(Popularity):\n"
        "    def learn(self, context, item):\n"
        "        super().learn(context, hash(str(item)) % 64)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from hashing_learner import Hashing  # type: ignore[import-not-found]  # written by this test

    with pytest.raises(AssertionError, match="depends on the process"):
        check_same_in_every_process(next_item(Hashing, items_max=64))


def test_check_detects_scores_that_are_not_finite() -> None:
    class NotFinite(Popularity):
        def predict(self, context: Context) -> Any:
            slots, scores = super().predict(context)
            return slots, np.full_like(scores, np.nan)

    with pytest.raises(AssertionError, match="finite"):
        check_round_trip(next_item(NotFinite, items_max=64))


class Counted(Mergeable):
    """Counts the events of each hour; halves of it add up."""

    name: ClassVar[str] = "counted"
    merges: ClassVar[Merges] = Merges("exactly", per_shopper="nothing", why="counts add up")
    surface: ClassVar[Surface] = Surface(doc="Counts events.", settings=NoSettings)

    def __init__(self, settings: NoSettings, reads: Mapping[str, Family]) -> None:
        self.counts = np.zeros(24, np.int64)

    def learn(self, event: Event, now: Moment) -> None:
        self.counts[event.time_ms // 3_600_000 % 24] += 1

    def state(self) -> dict[str, Any]:
        return {"counts": self.counts.copy()}

    def restore(self, state: dict[str, Any]) -> None:
        self.counts = state["counts"].copy()

    def merge(self, other: "Counted") -> None:
        self.counts += other.counts


class LosesOther(Counted):
    """Says that it merges exactly, and forgets the other half."""

    def merge(self, other: Counted) -> None:
        pass


class Unmerged(Family):
    """Says that it merges, and cannot."""

    name, merges, surface = "unmerged", Counted.merges, Counted.surface
    __init__, learn, state, restore = Counted.__init__, Counted.learn, Counted.state, Counted.restore


class Roughly(LosesOther):
    """Says that it merges approximately, within a bound that the half it forgets is beyond or within."""

    merges: ClassVar[Merges] = Merges("approximately", per_shopper="nothing", why="a test", bound=0.1)

    def difference(self, other: Counted) -> float:
        return float(1 - self.counts.sum() / other.counts.sum())


class RoughlyEnough(Roughly):
    """As `Roughly`, with a bound that holds."""

    merges: ClassVar[Merges] = Merges("approximately", per_shopper="nothing", why="a test", bound=0.9)


@pytest.mark.parametrize("kind", [Counted, RoughlyEnough])
def test_a_family_that_merges_as_it_says(kind: type[Family]) -> None:
    check_merges_as_it_says(family(kind, lambda fold: True))


@pytest.mark.parametrize("kind", [LosesOther, Unmerged, Roughly])
def test_a_family_that_does_not_merge_as_it_says_is_found(kind: type[Family]) -> None:
    with pytest.raises(AssertionError):
        check_merges_as_it_says(family(kind, lambda fold: True))


class Teaches(Counted):
    """Counts logins, and says so."""

    surface: ClassVar[Surface] = Surface(doc="Counts logins.", settings=NoSettings, teaches={"login": "a login"})

    def learn(self, event: Event, now: Moment) -> None:
        if event.type == "login":
            super().learn(event, now)


class TeachesInSecret(Teaches):
    """Counts logins, and does not say so."""

    surface: ClassVar[Surface] = Counted.surface


class TeachesNothing(Teaches):
    """Says that it learns from reviews, too, and does not."""

    surface: ClassVar[Surface] = Surface(
        doc="Counts logins.", settings=NoSettings, teaches={"login": "a login", "review": "a review"}
    )


def test_a_family_that_learns_as_it_says() -> None:
    check_learns_as_it_says(family(Teaches, lambda fold: True))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (TeachesInSecret, "teaches does not say what is learned from login"),
        (TeachesNothing, "teaches names review, from which nothing is learned"),
    ],
)
def test_a_family_that_does_not_learn_as_it_says_is_found(kind: type[Family], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_learns_as_it_says(family(kind, lambda fold: True))


class Undeclared(Counted):
    """Has scores that its surface does not declare."""

    def scores(self) -> NoSettings:
        return NoSettings()


def test_undeclared_scores_are_found() -> None:
    with pytest.raises(AssertionError, match="wanted scores if and only if"):
        check_declares_what_it_shows(family(Undeclared, lambda fold: True))


class FullWithoutBounds(Counted):
    """Declares a table as full by design that it does not have."""

    surface = Surface(doc="Counts events.", settings=NoSettings, full_by_design=("visits",))


def test_a_table_that_is_declared_full_and_does_not_exist_is_found() -> None:
    with pytest.raises(AssertionError, match="full_by_design: wanted bounded tables, found visits"):
        check_declares_what_it_shows(family(FullWithoutBounds, lambda fold: True))
