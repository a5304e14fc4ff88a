"""Exploration: what is learned from choices left to chance, when it takes over, and what takes it back."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from headrace.events import Data, Event, Item, Rejection, at
from headrace.experiments import Arm, Experiment, Explore
from headrace.experiments import record_of as experiment_record_of
from headrace.impressions import Explored, Impression, ShownItem
from headrace.impressions import record_of as impression_record_of
from headrace.log.protocol import Record
from headrace.policies import FEATURES, Policy, decode
from headrace.rules import RuleSet
from headrace.sampling import fraction
from headrace.state import decode as state_from
from headrace.state import digest, encode
from headrace.topics import ALARMS, EXPERIMENTS, IMPRESSIONS, POLICIES
from learners.desk.family import Desk
from learners.experiments.family import ExperimentsFamily
from learners.exploration import course
from learners.exploration.course import Course, Open
from learners.exploration.family import ExplorationFamily, ExplorationSettings, look_every_ms, number_of
from learners.exploration.memory import arms_window_ms
from learners.family import AlarmRecord
from learners.next_item.exploring import Exploring
from learners.parts.policies import Chooser, Policies
from learners.placements.family import PlacementsFamily
from learners.shop import Shop

START = 1_750_000_000_000
KINDS = (Desk, PlacementsFamily, ExperimentsFamily, ExplorationFamily)
RANKERS = Explore(rankers=("recommended", "popular", "trending"), window_minutes=1, floor=0.1)
HERE = [1.0, 0.5, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0]
PHONE = [*HERE[:4], 1.0, *HERE[5:]]
Chance = Callable[[int, list[float]], float]


class Story:
    """A shop with an exploring arm, of which a test decides how its choices are rewarded."""

    def __init__(self, explore: Explore = RANKERS, shop: Shop | None = None, **settings: int) -> None:
        self.settings = {"exploration": msgspec.convert(settings, ExplorationSettings)}
        self.shop = shop or Shop(KINDS, self.settings)
        self.explore, self.policies = explore, Policies()
        self.time_ms = self.shop.now.time_ms = START
        self.count = 0
        self.stated, self.alarms, self.ended = list[Policy](), list[AlarmRecord](), 0

    @property
    def family(self) -> ExplorationFamily:
        family = self.shop.families["exploration"]
        assert isinstance(family, ExplorationFamily)
        return family

    def run(self, name: str = "home", state: Any = "running", explore: Explore | None = None) -> None:
        """State the experiment; None as its state removes it."""
        arms = (Arm("control"), Arm("new", explore=explore or self.explore))
        made = experiment_record_of(name, Experiment(arms, state=state) if state else None)
        assert self.shop.hear(EXPERIMENTS, Record(0, 1, self.time_ms, made.key, made.value)) is None
        self.settle()

    def show(self, context: list[float], name: str = "", **changes: Any) -> Explored:
        """Show an answer to a shopper of the arm, as servers do."""
        self.count += 1
        name = name or f"r{self.count}"
        actions = self.explore.actions
        chooser = self.policies.of("home", "new", self.explore)
        drawn = Exploring("home", "new", self.explore, chooser).draw(actions, context, name)
        shown = Impression(
            name, 0, "/v1/x", [ShownItem("a"), ShownItem("b")], "home", "", f"s{self.count % 997}",
            experiments={"home": "new"}, explored=replace(drawn, **changes),
        )  # fmt: skip
        self.hear(shown)
        return drawn

    def hear(self, shown: Impression) -> None:
        record = Record(0, 0, self.time_ms, None, impression_record_of(shown).value)
        assert self.shop.hear(IMPRESSIONS, record) is None

    def do(self, kind: Any, name: str = "", item: str = "a") -> None:
        self.count += 1
        lines = [] if kind == "search" else [Item(item, price=1.0)]
        data = Data(lines, recommendation_id=name, search_term="x" if kind == "search" else "")
        event = Event(f"e{self.count}", "test", kind, at(self.time_ms), data, "1.0", f"s{self.count % 997}")
        event.time_ms = event.own_ms = self.time_ms
        if self.shop.prepare(event):
            self.shop.learn(event, 0, self.count)

    def settle(self) -> None:
        """End a journal entry; hear what was stated, as servers do."""
        for one in self.shop.emit():
            record = Record(0, 0, self.time_ms, one.key, one.value)
            if one.topic == POLICIES:
                assert self.policies.hear(record) is None
                assert self.shop.hear(POLICIES, record) is None
                found = decode(record)
                assert not isinstance(found, Rejection)
                if found.policy is None:
                    self.ended += 1
                else:
                    self.stated.append(found.policy)
            elif one.topic == ALARMS:
                self.alarms.append(msgspec.json.decode(one.value or b"", type=AlarmRecord))

    def live(self, answers: int, chance: Chance, luck: str = "") -> float:
        """Show answers, every second to a phone, and reward them by chance; return the share that was rewarded."""
        rewarded = 0
        for number in range(answers):
            self.time_ms += 2_000
            context = PHONE if number % 2 else HERE
            name = f"{luck}{self.count}"
            drawn = self.show(context, name)
            if fraction(name, 3, "reward") < chance(drawn.action, context):
                rewarded += 1
                self.do("select_item", name)
            else:
                self.do("search")
            if number % 15 == 14:
                self.settle()
        return rewarded / answers

    @property
    def newest(self) -> Policy:
        return self.stated[-1]


def phones_like(action: int) -> Chance:
    """Return rewards of 30 %, but 80 % for an action on phones, where the others have 10 %."""
    return lambda chosen, context: 0.3 if not context[4] else 0.8 if chosen == action else 0.1


def test_from_the_present_ranking_to_what_is_learned_to_be_better() -> None:
    story = Story()
    story.run()
    first = story.newest
    assert (first.version, first.state, first.actions) == ("p1", "apprentice", RANKERS.rankers)
    before = story.live(200, phones_like(1))
    assert story.newest.state == "apprentice"
    story.live(1_300, phones_like(1))
    took_over = next(one for one in story.stated if one.state == "learned")
    last = story.stated[story.stated.index(took_over) - 1]
    assert last.agreement_min == 0.8
    assert took_over.reference == ""
    after = story.live(300, phones_like(1))
    assert after > 1.6 * before
    chooser = story.policies.of("home", "new", RANKERS)
    assert chooser is not None
    assert chooser.probabilities(PHONE).argmax() == 1
    assert story.newest.shares[1] > 0.15
    assert story.newest.rewards[1] > story.newest.rewards[0]
    assert len({one.version for one in story.stated}) == len(story.stated)
    times = [one.time_ms for one in story.stated]
    assert all(later - one >= look_every_ms - 30_000 for one, later in pairwise(times))


def test_without_an_apprenticeship_it_learns_at_once_and_forgets() -> None:
    life = Life(replace(RANKERS, agreement=0, half_life_days=0.02))
    assert life.policy.state == "learned"
    life.live(1_500, phones_like(1))
    assert Chooser(life.policy).probabilities(PHONE)[1] > 0.7
    life.live(2_500, phones_like(2))  # now it is another one
    assert Chooser(life.policy).probabilities(PHONE)[2] > 0.7


def test_a_reward_counts_within_its_window_once_and_whichever_came_first() -> None:
    story = Story(replace(RANKERS, window_minutes=2))
    story.run()
    for name in ("in", "late", "none", "twice"):
        story.show(HERE, name)
    story.show(HERE, "in")  # it is logged twice
    story.do("select_item", "early")
    story.show(HERE, "early")
    assert len(story.family.courses["home", "new"].open) == 5
    story.time_ms += 110_000
    story.do("select_item", "in")
    story.do("view_item", "twice", "b")
    story.do("select_item", "twice")
    story.time_ms += 20_000
    story.do("select_item", "late")
    story.settle()
    learned = story.family.courses["home", "new"]
    assert (learned.answers, len(learned.open)) == (5, 0)
    counts, rewards = learned.posterior.counts(story.time_ms)
    assert (counts.sum(), rewards.sum()) == (pytest.approx(5, abs=0.01), pytest.approx(3, abs=0.01))


@pytest.mark.parametrize(("reward", "kind"), [("click", "select_item"), ("cart", "add_to_cart"), ("order", "purchase")])
def test_what_is_a_reward_is_stated(reward: Any, kind: str) -> None:
    story = Story(replace(RANKERS, reward=reward))
    story.run()
    for name in ("select_item", "add_to_cart", "purchase"):
        story.show(HERE, name)
        story.do(name, name)
    rewarded = [name for name, one in story.family.courses["home", "new"].open.items() if one.rewarded]
    assert rewarded == [kind]
    story.time_ms += 61_000
    story.do("search")
    found = story.family.courses["home", "new"]
    assert found.answers == 3
    assert found.posterior.counts(story.time_ms)[1].sum() == pytest.approx(1, abs=0.01)


def test_what_does_not_fit_its_arm_is_counted_and_changes_nothing() -> None:
    story = Story(open_max=3)
    story.run()
    rare = {"probabilities": [0.99, 0.005, 0.005], "action": 1}
    for changes in ({"actions": ["a", "b", "c"]}, {"position": 2}, rare):
        story.show(HERE, **changes)
    story.show(HERE[:4])
    story.show([9.0, *HERE[1:]])
    assert story.family.unlearned["strays"] == 5
    story.hear(Impression("x", 0, "/v1/x", [], "home", "", "s1", experiments={"home": "other"}))
    story.hear(
        Impression("y", 0, "/v1/x", [], "home", "", "s1", explored=Explored("nobody", ["a", "b"], [0.5, 0.5], 0))
    )
    for _ in range(5):
        story.show(HERE)
    assert story.family.unlearned == {"strays": 5, "evicted": 2}
    assert story.family.bounds()["open_answers"] == (3, 3)


def test_a_fold_that_was_restored_in_between_goes_on_alike() -> None:
    stories = Story(), Story()
    for story in stories:
        story.run()
    for part in range(3):
        for story in stories:
            story.live(500, phones_like(1), f"{part}-")
        kept = stories[1]
        state = state_from(encode(kept.shop.state()))
        again = Shop(KINDS, kept.settings)
        again.restore(state, kept.shop.stamp)
        kept.shop = again
        assert digest(stories[0].shop.state()) == digest(again.state())
    assert stories[0].stated == stories[1].stated
    assert stories[0].newest.state == "learned"


class Life:
    """A course, and servers that follow it, without a shop around them."""

    def __init__(self, explore: Explore) -> None:
        self.course, self.time_ms, self.count = Course("home", "new", explore), START, 0
        self.stated: list[Policy] = []
        self.misled_by = -1
        self.look()

    @property
    def policy(self) -> Policy:
        return self.stated[-1]

    def look(self) -> None:
        stated = self.course.look(self.time_ms, len(self.stated) + 1)
        if stated is not None:
            self.stated.append(stated)
            # What is learned goes on alike from its state.
            self.course = Course.from_state(state_from(encode(self.course.state())))

    def live(self, answers: int, chance: Chance) -> None:
        """Answer every two seconds, half of the time to a phone, and look every half minute.

        While `misled_by` is an action, all that is learned is that this one is always rewarded, and others never are.
        """
        for number in range(answers):
            self.time_ms += 2_000
            self.count += 1
            name, context, actions = f"r{self.count}", PHONE if number % 2 else HERE, self.course.explore.actions
            drawn = Exploring("home", "new", self.course.explore, Chooser(self.policy)).draw(actions, context, name)
            chosen = drawn.action
            answer = Open(
                self.time_ms, self.count % 997, chosen, len(actions), drawn.probabilities[chosen], context,
                number_of(drawn.policy), fraction(name, 3, "reward") < chance(chosen, context),
            )  # fmt: skip
            assert self.course.show(name, answer)
            for settled in self.course.settle(self.time_ms):
                if self.misled_by >= 0:
                    true = float(settled.action == self.misled_by)
                    for _ in range(9):
                        self.course.posterior.learn(settled.action, settled.context, true, settled.time_ms)
            if number % 15 == 14:
                self.look()


def test_a_policy_that_is_worse_than_the_one_before_is_rolled_back_until_it_agrees_again() -> None:
    life = Life(replace(RANKERS, agreement=0, half_life_days=0.03))
    life.misled_by = 2
    life.live(2_000, lambda chosen, context: 0.02 if chosen == 2 else 0.4)
    back = next(one for one in life.stated if one.instead_of)
    place = life.stated.index(back)
    assert life.stated[place - 1].version == back.instead_of
    assert life.stated[place - 1].state == "learned"
    assert life.stated[place - 1].shares[2] > 0.5
    assert life.stated[place - 1].evidence_max == 40.0
    assert (back.state, back.reference, back.agreement_min) == ("apprentice", "", 1.0)
    assert back.why.startswith("the present ranking has more rewards: evidence ")
    assert {one.state for one in life.stated[place:]} == {"apprentice"}
    assert life.course.rollbacks == 1
    life.misled_by = -1
    life.live(7_000, lambda chosen, context: 0.8 if chosen == 1 else 0.02 if chosen == 2 else 0.4)
    again = next(one for one in life.stated[place:] if one.state == "learned")
    assert (life.stated[life.stated.index(again) - 1].agreement_min, again.instead_of) == (1.0, "")
    assert Chooser(life.policy).probabilities(HERE).argmax() == 1


def test_the_reference_moves_on_and_is_what_is_held_after_a_rollback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "RULE", replace(course.RULE, predictions_max=800))
    life = Life(replace(RANKERS, agreement=0, half_life_days=0.05))
    life.live(2_500, lambda chosen, context: 0.5 if chosen == 1 else 0.2)
    assert (life.policy.state, life.course.rollbacks) == ("learned", 0)
    assert number_of(life.policy.reference) > 1
    life.misled_by = 2
    life.live(2_500, lambda chosen, context: 0.5 if chosen == 1 else 0.02)
    back = next(one for one in life.stated if one.instead_of)
    assert back.state == "held"
    assert back.why.startswith(f"{back.reference} has more rewards")
    named = next(one for one in life.stated if one.version == back.reference)
    assert (back.means, back.spreads) == (named.means, named.spreads)
    assert Chooser(back).probabilities(HERE).argmax() == 1


def test_an_experiment_that_stops_explores_no_longer() -> None:
    story = Story()
    story.run()
    story.live(100, phones_like(1))
    story.run(state="stopped")
    assert story.ended == 1
    assert story.family.courses == {}
    assert story.policies.of("home", "new", RANKERS) is None
    story.live(20, phones_like(1))
    assert story.family.bounds()["open_answers"] == (0, 200_000)


def warm(story: Story) -> float:
    """Start another exploration, and return how it expects what rises to do on phones, beside the present ranking."""
    story.run("home", explore=replace(RANKERS, half_life_days=1))
    policy = story.newest
    assert (policy.version, policy.answers) == (f"p{len(story.stated)}", 0)
    chances = Chooser(policy).learned(PHONE)
    return float(chances[2] - chances[0])


def test_an_exploration_begins_with_what_former_ones_have_shown() -> None:
    story = Story()
    story.run()
    story.live(900, phones_like(2))
    story.run(state="stopped")
    story.run(state=None)  # removed, so that its name is free
    cold = Story()
    assert warm(cold) == pytest.approx(0.0, abs=0.01)
    assert warm(story) > 0.5
    counts, _ = story.family.courses["home", "new"].posterior.counts(story.time_ms)
    assert max(counts) == pytest.approx(200, rel=0.01)
    assert min(counts) < 200


def test_and_with_what_arms_of_one_ranker_have_shown() -> None:
    story = Story()
    arms = (Arm("control"), Arm("risen", ranker="trending"), Arm("ruled", rules=RuleSet(hidden=("x",))))
    made = experiment_record_of("rankers", Experiment(arms, state="running"))
    assert story.shop.hear(EXPERIMENTS, Record(0, 1, story.time_ms, made.key, made.value)) is None
    for number in range(300):
        story.time_ms += 20_000
        name, arm = f"a{number}", arms[number % 3].name
        shown = Impression(
            name, 0, "/v1/recommendations/{shopper}", [ShownItem("a")], "home", "r1", f"s{number}",
            device="mobile", experiments={"rankers": arm},
        )  # fmt: skip
        story.hear(replace(shown, route="/v1/similar/{item}") if number % 10 == 9 else shown)
        if arm == "risen" and number % 2:
            story.time_ms += arms_window_ms + 1_000 if number % 12 == 7 else 0  # too late, sometimes
            story.do("select_item", name)
        else:
            story.do("search")
    story.settle()
    assert story.family.bounds()["remembered_choices"][0] == 2
    assert story.family.bounds()["open_answers_of_rankers"][0] > 0
    again = Shop(KINDS, story.settings)
    again.restore(state_from(encode(story.shop.state())), story.shop.stamp)
    assert digest(again.state()) == digest(story.shop.state())
    story.time_ms += 2 * arms_window_ms
    story.do("search")
    assert story.family.bounds()["open_answers_of_rankers"][0] == 0
    stopped = experiment_record_of("rankers", Experiment(arms, state="stopped"))
    assert story.shop.hear(EXPERIMENTS, Record(0, 2, story.time_ms, stopped.key, stopped.value)) is None
    assert warm(story) > 0.3


def test_versions_go_on_after_a_lost_state() -> None:
    story = Story()
    policy = Policy(version="p41", state="apprentice", actions=("a", "b"), floor=0.1)
    value = msgspec.json.encode(policy)
    assert story.shop.hear(POLICIES, Record(0, 0, 0, b"home/new", value)) is None
    rejected = story.shop.hear(POLICIES, Record(0, 0, 0, b"home/new", b"noise"))
    assert rejected is not None
    story.run()
    assert story.newest.version == "p42"


def test_a_slots_candidates_may_be_fewer() -> None:
    story = Story(Explore(slot=1, candidates=4, window_minutes=1))
    story.run()
    story.show(HERE, actions=["a", "b"], probabilities=[0.9, 0.1], action=1)
    story.show(HERE, actions=["a", "b", "c", "d", "e"], probabilities=[0.2] * 5, action=1)
    assert story.family.unlearned["strays"] == 1
    story.time_ms += 61_000
    story.do("search")
    assert story.family.courses["home", "new"].answers == 1


def test_what_metrics_tell() -> None:
    story = Story()
    story.run()
    story.live(300, phones_like(1))
    found = {one.name: dict(one.read(story.family)) for one in ExplorationFamily.surface.metrics if one.read}
    answers = found["headrace_exploration_answers"]["home", "new"]
    assert 250 < answers < 300
    shares = found["headrace_exploration_share_ratio"]
    assert sum(shares.values()) == pytest.approx(1)
    assert set(shares) == {("home", "new", one) for one in RANKERS.rankers}
    assert found["headrace_exploration_policy_state"]["home", "new", "apprentice"] == 1.0
    assert found["headrace_exploration_evidence"]["home", "new"] == 1.0
    assert len(FEATURES) == len(HERE)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64 processor")
def test_what_is_learned_does_not_depend_on_the_processor() -> None:
    kernels = {"OPENBLAS_CORETYPE": "Prescott", "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR"}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"from {__name__} import lived; print(lived())"], cwd=root, text=True,
        env={**os.environ, **kernels, "PYTHONPATH": str(root)}, stdout=subprocess.PIPE, check=True, timeout=300,
    )  # fmt: skip
    assert done.stdout.strip() == lived()


def lived() -> str:
    """Return the digest of a course after some hundred answers."""
    life = Life(replace(RANKERS, agreement=0))
    life.live(400, phones_like(1))
    return digest(life.course.state())
