"""The family of exploration: which choice is best for whom, learned from answers of arms that leave it to chance.

It hears what is stated of experiments and what answers showed, and learns which answers were rewarded. At the ends of
journal entries, once a minute of the shop's time, it states the policy of each exploring arm, which servers follow as
soon as they hear of it. All of it is a fold.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from re import fullmatch
from typing import Annotated, Any, ClassVar, Final, Literal, get_args

from msgspec import Meta, Struct

from headrace.drift import Moved
from headrace.events import LEARNED_TYPES, Event, Rejection
from headrace.impressions import Explored, Impression
from headrace.impressions import decode as decode_impression
from headrace.log.protocol import Record
from headrace.policies import PolicyState, record_of
from headrace.policies import decode as decode_policy
from headrace.state import State
from headrace.surface import Metric, Surface
from headrace.topics import EXPERIMENTS, IMPRESSIONS, POLICIES
from learners.desk.family import Desk
from learners.experiments.family import ExperimentsFamily
from learners.exploration.course import POLICY, Course, Open
from learners.exploration.memory import Memory, Plain, arms_window_ms, keys_of, plain
from learners.family import Family, Merges, Moment, Part
from learners.parts.drift import Alarm
from learners.placements.attribution import CARTS, CLICKS, ORDERS
from learners.placements.family import PlacementsFamily
from learners.rounds.session_gate import CHALLENGER, shopper_number

look_every_ms: Final = 60_000
"""Shop time between two statements of a policy."""
WORSE: Final = "exploration_worse"
Unlearned = Literal["evicted", "strays"]


class ExplorationSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section `[exploration]`."""

    open_max: Annotated[
        int,
        Meta(
            ge=1,
            description="Most answers of exploring arms, over all of them, that wait for the end of their window, and"
            " most of arms with one ranker; of more, the oldest are not learned from. One takes about 0.5 kB.",
        ),
    ] = 200_000


class ExplorationFamily(Family):
    """Learns the policies of exploring arms."""

    name: ClassVar[str] = "exploration"
    shard: ClassVar[str] = "finetune"
    reads: ClassVar[tuple[str, ...]] = (PlacementsFamily.name, ExperimentsFamily.name)
    consults: ClassVar[tuple[str, ...]] = (Desk.name,)
    builds_on: ClassVar[tuple[str, ...]] = (
        Desk.name,
        PlacementsFamily.name,
        ExperimentsFamily.name,
        "next_item",
        "rounds",
    )
    merges: ClassVar[Merges] = Merges(
        "not",
        per_shopper="nothing",
        why="policies are compared at moments of the whole, and each slice hears all answers",
    )
    parts: ClassVar[Mapping[str, Part]] = dict.fromkeys(("courses", "looks", "memory"), Part())

    def __init__(self, settings: ExplorationSettings, reads: Mapping[str, Family]) -> None:
        self.settings = settings
        placements, experiments = reads[PlacementsFamily.name], reads[ExperimentsFamily.name]
        assert isinstance(placements, PlacementsFamily)
        assert isinstance(experiments, ExperimentsFamily)
        desk = reads.get(Desk.name)
        self._desk = desk if isinstance(desk, Desk) else None
        self._attribution, self._experiments = placements.attribution, experiments
        self.courses: dict[tuple[str, str], Course] = {}
        self.memory = Memory()
        self._plain: OrderedDict[str, tuple[int, bool, Plain]] = OrderedDict()  # by id: when, and whether clicked
        self.unlearned: dict[str, int] = dict.fromkeys(get_args(Unlearned), 0)
        self.rollbacks = 0
        self._ended: list[tuple[str, str]] = []  # arms of which it is to be stated that they explore no longer
        self._looked = self._newest = 0  # the minute of the last look, the newest version's number

    def learn(self, event: Event, now: Moment) -> None:
        """Note the rewards that an event brings, and learn from the answers whose windows are over."""
        if not (self.courses or self._plain):
            return
        kind = event.type
        if event.counts and (kind in ORDERS or (event.data.recommendation_id and kind in _NAMING)):
            self._reward()
        self._settle(now.time_ms)

    def _reward(self) -> None:
        one = self._attribution
        for kind, found in (("click", one.clicked), ("cart", one.carted), ("order", one.bought)):
            for each in found:
                for course in self.courses.values():
                    if course.explore.reward == kind:
                        course.reward(each.name, each.time_ms)
        for click in one.clicked:
            if found_plain := self._plain.get(click.name):
                shown_ms, clicked, what = found_plain
                clicked = clicked or click.time_ms - shown_ms <= arms_window_ms
                self._plain[click.name] = shown_ms, clicked, what

    def _settle(self, time_ms: int) -> None:
        for course in self.courses.values():
            keys = keys_of(course.explore)
            for one in course.settle(time_ms):
                self.memory.learn(keys[one.action], one.context, float(one.rewarded), one.time_ms)
        while self._plain:
            name, (shown_ms, clicked, what) = next(iter(self._plain.items()))
            if time_ms - shown_ms <= arms_window_ms:
                return
            del self._plain[name]
            self.memory.learn(f"click/{what.action}", what.context, float(clicked), shown_ms)

    def hear(self, topic: str, record: Record, now: Moment) -> Rejection | None:
        """Note what is stated of an experiment, an answer, or which versions there are."""
        if topic == EXPERIMENTS:
            self._follow(now.time_ms)
            return None
        if topic == POLICIES:
            found = decode_policy(record)
            if isinstance(found, Rejection):
                return found
            # Numbers go on after a state was lost, so that a version is unique in the log.
            self._newest = max(self._newest, number_of(found.policy.version) if found.policy else 0)
            return None
        shown = decode_impression(record)
        if isinstance(shown, Rejection):
            return shown
        self._settle(now.time_ms)
        if shown.experiments and self._attribution.is_new:
            # The shop's time when it was shown. Records that waited were shown later than what is learned by now.
            latest_ms = max(record.time_ms, now.time_ms)
            time_ms = min(max(shown.newest_event_ms, now.time_ms), latest_ms)
            if shown.explored:
                self._show(shown, shown.explored, time_ms)
            else:
                self._note(shown, time_ms)
        self._reward()
        return None

    def _note(self, shown: Impression, time_ms: int) -> None:
        """Note an answer of a single ranker."""
        stated = self._experiments.assignment.stated
        arms = [(stated[name], arm) for name, arm in shown.experiments.items() if name in stated]
        if arms and (what := plain(shown, arms, time_ms)):
            self._plain[shown.recommendation_id] = time_ms, False, what
            if len(self._plain) > self.settings.open_max:
                self._plain.popitem(last=False)
                self.unlearned["evicted"] += 1

    def _show(self, shown: Impression, explored: Explored, time_ms: int) -> None:
        course = self.courses.get((explored.experiment, shown.experiments.get(explored.experiment, "")))
        if course is None:
            return
        explore, actions = course.explore, tuple(explored.actions)
        if explored.position != explore.slot or (not explore.slot and actions != explore.actions):
            self.unlearned["strays"] += 1
            return
        shopper = self._desk.renamed(shown.shopper) if self._desk else shown.shopper
        answer = Open(
            time_ms, shopper_number(shopper), explored.action, len(actions), explored.probabilities[explored.action],
            explored.context, number_of(explored.policy),
        )  # fmt: skip
        if not course.show(shown.recommendation_id, answer):
            self.unlearned["strays"] += 1
        self._evict()

    def _evict(self) -> None:
        while sum(len(one.open) for one in self.courses.values()) > self.settings.open_max:
            max(self.courses.values(), key=lambda one: len(one.open)).open.popitem(last=False)
            self.unlearned["evicted"] += 1

    def _follow(self, time_ms: int) -> None:
        """Let the courses follow what is stated."""
        wanted = {
            (name, arm.name): arm.explore
            for name, one in self._experiments.assignment.stated.items() if one.state == "running"
            for arm in one.arms if arm.explore
        }  # fmt: skip
        for names in [names for names in self.courses if names not in wanted]:
            del self.courses[names]
            self._ended.append(names)
        for names, explore in wanted.items():
            if names not in self.courses:
                course = self.courses[names] = Course(*names, explore)
                self.memory.tell(course.posterior, keys_of(explore), time_ms)

    def settle(self, now: Moment) -> None:
        """State the policies that have changed, if that is due, and of which arms there is none any more."""
        for names in self._ended:
            now.write(record_of(*names, None))
        self._ended.clear()
        minute = now.time_ms // look_every_ms
        for course in self.courses.values():
            if minute == self._looked and course.published is not None:
                continue
            stated = course.look(now.time_ms, self._newest + 1)
            if stated is None:
                continue
            self._newest += 1
            now.write(record_of(course.experiment, course.arm, stated))
            if stated.instead_of:
                self.rollbacks += 1
                verdict = course.gate.verdict
                assert verdict is not None, "a policy is rolled back by a verdict"
                means = course.gate.means.means()
                moved = Moved(f"{course.experiment} {course.arm} {stated.instead_of}", means[CHALLENGER], means[POLICY])
                now.alarm(Alarm(WORSE, verdict.evidence, course.gate.needed(), (moved,)))
        self._looked = minute

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        open_max = self.settings.open_max
        return self.memory.bounds() | {
            "open_answers": (sum(len(one.open) for one in self.courses.values()), open_max),
            "open_answers_of_rankers": (len(self._plain), open_max),
        }

    def state(self) -> State:
        """Return the complete state."""
        return {
            "courses": [course.state() for course in self.courses.values()],
            "looks": {
                "looked": self._looked, "newest": self._newest, "rollbacks": self.rollbacks,
                "unlearned": dict(self.unlearned), "ended": [list(names) for names in self._ended],
            },
            "memory": {
                "known": self.memory.state(),
                "open": [
                    [name, shown_ms, clicked, what.action, what.context]
                    for name, (shown_ms, clicked, what) in self._plain.items()
                ],
            },
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""
        if "courses" in state:
            for one in state["courses"]:
                course = Course.from_state(one)
                self.courses[course.experiment, course.arm] = course
            self._evict()
        if "looks" in state:
            looks = state["looks"]
            self._looked, self._newest, self.rollbacks = looks["looked"], looks["newest"], looks["rollbacks"]
            self.unlearned.update(looks["unlearned"])
            self._ended = [(experiment, arm) for experiment, arm in looks["ended"]]

        if "memory" in state:
            self.memory = Memory.from_state(state["memory"]["known"])
            for name, shown_ms, clicked, action, context in state["memory"]["open"][-self.settings.open_max :]:
                self._plain[name] = shown_ms, clicked, Plain(action, context)

    @classmethod
    def from_0_3_0(cls, fold: State) -> tuple[dict[str, Any], State] | None:
        """Return an empty state beside the fine-tuner's: 0.3.0 had no experiments."""
        if "material" not in fold:
            return None
        looks = {"looked": 0, "newest": 0, "rollbacks": 0, "unlearned": {}, "ended": []}
        return {}, {"courses": [], "looks": looks, "memory": {"known": [], "open": []}}

    def answers(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Yield the number of settled answers by experiment and arm."""
        for names, course in self.courses.items():
            yield names, course.answers

    def by_action(self, what: Literal["shares", "rewards"]) -> Iterable[tuple[tuple[str, ...], float]]:
        """Yield the share, or the mean reward, of each action."""
        for names, course in self.courses.items():
            if policy := course.published:
                for action, value in zip(policy.actions, getattr(policy, what), strict=False):
                    yield (*names, action), value

    def agreements(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Yield the agreement of what was learned with the policy in use, 0 where it is not told."""
        for names, course in self.courses.items():
            yield names, (course.published.agreement if course.published else None) or 0.0

    def evidence(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Yield the evidence that a policy is worse than its reference."""
        for names, course in self.courses.items():
            yield names, course.published.evidence if course.published else 1.0

    def states(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Yield 1 for the state of each policy, 0 for the others."""
        for names, course in self.courses.items():
            for state in get_args(PolicyState):
                yield (*names, state), float(state == course.policy_state)


_NAMING: Final = CLICKS | CARTS


def number_of(version: str) -> int:
    """Return the number of a policy's version, 0 if it is none.

    >>> number_of("p12"), number_of(""), number_of("r0001")
    (12, 0, 0)
    """
    found = fullmatch(r"p([0-9]{1,15})", version)
    return int(found[1]) if found else 0


ExplorationFamily.surface = Surface(
    doc="Exploration: which choice of an arm is best for whom, and the policies by which arms choose.",
    settings=ExplorationSettings,
    writes=(POLICIES,),
    hears=(EXPERIMENTS, IMPRESSIONS, POLICIES),
    detectors=(WORSE,),
    labels={
        "action": "the actions of an exploring arm, at most 8",
        "policy_state": "`headrace.policies.PolicyState`",
        "unlearned": "`learners.exploration.family.Unlearned`",
    },
    metrics=(
        Metric(
            name="headrace_exploration_answers", help="Answers of an exploring arm whose reward is known.",
            labels=("experiment", "arm"), read=ExplorationFamily.answers,
        ),
        Metric(
            name="headrace_exploration_share_ratio", help="Share of an action in the answers of an exploring arm.",
            labels=("experiment", "arm", "action"), read=lambda family: family.by_action("shares"),
        ),
        Metric(
            name="headrace_exploration_reward_ratio", help="Share of an action's answers that were rewarded.",
            labels=("experiment", "arm", "action"), read=lambda family: family.by_action("rewards"),
        ),
        Metric(
            name="headrace_exploration_agreement_ratio",
            help="What a learned policy would have had of the rewards of the one in use; 0: unknown, or it is in use.",
            labels=("experiment", "arm"), read=ExplorationFamily.agreements,
        ),
        Metric(
            name="headrace_exploration_evidence",
            help="Evidence that a policy is worse than its reference (1: none).",
            labels=("experiment", "arm"), read=ExplorationFamily.evidence,
        ),
        Metric(
            name="headrace_exploration_policy_state", help="1 for the state of an arm's policy, 0 for the others.",
            labels=("experiment", "arm", "policy_state"), read=ExplorationFamily.states,
        ),
        Metric(
            name="headrace_exploration_rollbacks_total", help="Policies that were rolled back.", kind="counter",
            read=lambda family: [((), family.rollbacks)],
        ),
        Metric(
            name="headrace_exploration_unlearned_total",
            help="Answers that are not learned from: there was no room for them, or they do not fit their arm.",
            kind="counter", labels=("unlearned",), label_values=get_args(Unlearned),
            read=lambda family: (((why,), count) for why, count in family.unlearned.items()),
        ),
    ),
    teaches=dict.fromkeys(LEARNED_TYPES, "its time: answers whose window is over are learned")
    | dict.fromkeys(sorted(_NAMING), "a reward, if it names an answer that left something to chance")
    | {"purchase": "a reward, if an item of such an answer was bought"},
    benchmark="benchmarks.exploration",
)  # fmt: skip
