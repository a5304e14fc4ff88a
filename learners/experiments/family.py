"""The family of experiments: who is in which arm, what became of them, and when one must stop.

It hears what is stated of experiments and what answers showed, and learns from all that shoppers do. At the ends of
journal entries, once a minute of the shop's time, it compares the arms of each experiment that runs, writes a report,
and states that an experiment has stopped where a guard finds harm. All of it is a fold: kills, replays and late refunds
change nothing that they should not, and another metric of a past experiment is a replay with another statement.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from math import inf
from typing import Annotated, Any, ClassVar, Final, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from headrace.drift import Moved
from headrace.events import LEARNED_TYPES, Event, Rejection
from headrace.experiment_reports import Report
from headrace.experiment_reports import record_of as report_record_of
from headrace.experiments import CONVERSION, STANDARD, Experiment, Measure, record_of
from headrace.impressions import Impression
from headrace.impressions import decode as decode_impression
from headrace.log.protocol import Record
from headrace.segments import is_cluster
from headrace.state import State
from headrace.surface import Metric, Surface
from headrace.topics import EXPERIMENT_REPORTS, EXPERIMENTS, IMPRESSIONS
from learners.desk.family import Desk
from learners.experiments.before import Before
from learners.experiments.course import Course
from learners.family import Family, Merges, Moment, Move, Part
from learners.parts.assignment import Assignment
from learners.parts.drift import Alarm
from learners.placements.attribution import CLICKS, Clicked
from learners.placements.family import PlacementsFamily

look_every_ms: Final = 60_000
"""Shop time between two looks at an experiment that runs."""
RATIO: Final = "experiment_sample_ratio"
HARM: Final = "experiment_harm"
GUARD: Final = "guard"
"""Who stopped an experiment, if a guard did."""
ratio_alpha: Final = 0.001
"""Probability with which an experiment whose arms get their shares is ever said to have a wrong ratio."""

LeftOut = Literal["bots", "mixed", "evicted", "strays"]


class ExperimentsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section `[experiments]`."""

    shoppers_max: Annotated[
        int,
        Meta(
            ge=1,
            description="Most shoppers that are followed, over all experiments. What those did whom there is no room"
            " for stays counted; what they do later is not. One takes about 0.6 kB.",
        ),
    ] = 300_000
    before_max: Annotated[
        int,
        Meta(
            ge=1,
            description="Most shoppers of whom it is remembered what they did before an experiment; those who were"
            " seen least recently are forgotten first.",
        ),
    ] = 300_000
    metrics: Annotated[
        dict[str, tuple[Measure, ...]],
        Meta(
            description="Metrics of an experiment in place of those that it states, by its name: to look again at a"
            " past experiment by a replay."
        ),
    ] = {}
    drafts_max: Annotated[
        int, Meta(ge=1, description="Most answers of interleaved experiments whose clicks can be told apart.")
    ] = 100_000


class ExperimentsFamily(Family):
    """Compares the arms of experiments."""

    name: ClassVar[str] = "experiments"
    shard: ClassVar[str] = "finetune"
    reads: ClassVar[tuple[str, ...]] = (PlacementsFamily.name,)
    consults: ClassVar[tuple[str, ...]] = (Desk.name,)
    builds_on: ClassVar[tuple[str, ...]] = (Desk.name, PlacementsFamily.name)
    merges: ClassVar[Merges] = Merges(
        "not",
        per_shopper="shoppers in experiments, shoppers before",
        why="sequences are compared at moments of the whole, and each slice hears all answers",
    )
    parts: ClassVar[Mapping[str, Part]] = dict.fromkeys(("stated", "courses", "before", "drafts"), Part())

    def __init__(self, settings: ExperimentsSettings, reads: Mapping[str, Family]) -> None:
        self.settings = settings
        placements, desk = reads[PlacementsFamily.name], reads.get(Desk.name)
        assert isinstance(placements, PlacementsFamily)
        self._attribution = placements.attribution
        self._desk = desk if isinstance(desk, Desk) else None
        self.assignment = Assignment()
        self.courses: dict[str, Course] = {}
        self.before = Before(settings.before_max)
        self._drafts: OrderedDict[str, tuple[str, str]] = OrderedDict()  # by answer: the experiment and the teams
        self.reports: dict[str, Report] = {}
        self._looked_ms = 0
        self._dirty: set[str] = set()

    def learn(self, event: Event, now: Moment) -> None:
        """Count what an event says of its shopper."""
        shopper, kind = event.shopper, event.type
        for course in self.courses.values():
            if course.follows(event):
                course.learn(event)
                if not course.runs and kind == "refund":
                    self._dirty.add(course.name)
        if event.data.recommendation_id and kind in CLICKS and event.counts:
            self._click(self._attribution.clicked)
        orders, value = 0.0, 0.0
        if kind == "purchase":
            orders, value = 1.0, sum(line.quantity * (line.price or 0.0) for line in event.data.items)
        self.before.note(shopper, event.time_ms, orders, value)

    def _click(self, clicks: Iterable[Clicked]) -> None:
        for one in clicks:
            for course in self.courses.values():
                entered = course.entered.get(one.shopper)
                covered = course.runs and course.experiment.covers(one.answer.group.placement)
                if entered is None or not covered or one.answer.time_ms < course.started_ms:
                    continue
                if one.answer.clicked == one.bit:
                    course.click(one.shopper, one.time_ms)
                draft = self._drafts.get(one.name)
                if draft and draft[0] == course.name:
                    marks = one.answer.clicked
                    course.win(one.shopper, draft[1], _places(marks & ~one.bit), _places(marks))

    def hear(self, topic: str, record: Record, now: Moment) -> Rejection | None:
        """Note what is stated of an experiment, or count an answer."""
        if topic == EXPERIMENTS:
            if rejection := self.assignment.hear(record):
                return rejection
            self._follow(now.time_ms)
            return None
        found = decode_impression(record)
        if isinstance(found, Rejection):
            return found
        if found.experiments and found.shopper:
            self._answer(found, now.time_ms)
        self._click(self._attribution.clicked)
        return None

    def _answer(self, shown: Impression, time_ms: int) -> None:
        shopper = self._desk.renamed(shown.shopper) if self._desk else shown.shopper
        for name, text in shown.experiments.items():
            course = self.courses.get(name)
            if course is None or not course.runs:
                continue
            number = course.experiment.arm_of(name, shopper)
            arms = course.experiment.arms
            interleaved = course.experiment.kind == "interleaved"
            if interleaved and len(text) != len(shown.items):
                number = None
            elif number is None or not (interleaved or arms[number].name == text):
                stated = next((place for place, arm in enumerate(arms) if arm.name == text or interleaved), None)
                number = stated if shopper in course.entered else None  # a guest who has logged in keeps the arm
            if number is None:
                course.strays += 1
                continue
            if interleaved:
                self._drafts[shown.recommendation_id] = name, text
                if len(self._drafts) > self.settings.drafts_max:
                    self._drafts.popitem(last=False)
            past = self.before.of(shopper, time_ms)
            visitor = "returning" if past[0] > 1 else "new"
            values = {"device": shown.device, "country": shown.country, "visitor": visitor}
            names = [name for name in shown.segments if not is_cluster(name)]  # clusters come and go
            course.answer(shopper, number, time_ms, past, values, names)
        while sum(len(course.entered) for course in self.courses.values()) > self.settings.shoppers_max:
            max(self.courses.values(), key=lambda course: len(course.entered)).evict()

    def _follow(self, time_ms: int) -> None:
        """Let the courses follow what is stated."""
        for name, stated in self.assignment.stated.items():
            one = self._as_counted(name, stated)
            version, course = self.assignment.versions[name], self.courses.get(name)
            if course is None:
                if one.state == "running":
                    self.courses[name] = Course(name, one, version, time_ms)
                    self._dirty.add(name)
            elif course.version != version:
                course.experiment, course.version, course.stopping = one, version, False
                if one.state == "stopped" and course.runs:
                    course.stopped_ms = max(1, time_ms)
                self._dirty.add(name)
        for name in self.courses.keys() - self.assignment.stated.keys():
            del self.courses[name]
            self.reports.pop(name, None)

    def _as_counted(self, name: str, stated: Experiment) -> Experiment:
        own = self.settings.metrics.get(name)
        if own is None:
            return stated
        known = {one.name for one in (*own, *STANDARD)}
        return msgspec.structs.replace(
            stated, metrics=own, primary=stated.primary if stated.primary in known else CONVERSION.name,
            guards=tuple([guard for guard in stated.guards if guard.metric in known]),
        )  # fmt: skip

    def settle(self, now: Moment) -> None:
        """Compare the arms, if that is due; write reports, and that an experiment has stopped because of harm."""
        if not self.courses:
            return
        due = now.time_ms - self._looked_ms >= look_every_ms
        if due:
            self._looked_ms = now.time_ms
        for name, course in self.courses.items():
            if (due and course.runs) or name in self._dirty:
                self._look(course, now)
        self._dirty.clear()

    def _look(self, course: Course, now: Moment) -> None:
        report = self.reports[course.name] = course.look(now.time_ms)
        now.write(report_record_of(report))
        if not course.runs or course.stopping:
            return
        if report.ratio_p <= ratio_alpha and not course.ratio_told:
            course.ratio_told = True
            total = sum(course.ratio.counts)
            moved = tuple([
                Moved(f"{course.name} {arm.name}", share, count / total, "%")
                for arm, share, count in zip(course.experiment.arms, course.shares, course.ratio.counts, strict=True)
            ])  # fmt: skip
            now.alarm(Alarm(RATIO, report.ratio_p, ratio_alpha, moved))
        if report.harmed:
            course.stopping = True
            why = f"{', '.join(report.harmed)}: harm is proved"
            stated = self.assignment.stated[course.name]
            stopped = msgspec.structs.replace(stated, state="stopped", by=GUARD, why=why[:500])
            now.write(record_of(course.name, stopped))
            harms = {f"{one.metric} of {one.arm}": one for one in report.compared}
            moved = tuple([
                Moved(f"{course.name} {text}", harms[text].control_value or 0.0, harms[text].arm_value or 0.0)
                for text in report.harmed
            ])  # fmt: skip
            worst = min(harms[text].relative or 0.0 for text in report.harmed)
            now.alarm(Alarm(HARM, -worst, min(one.harm_max for one in course.experiment.guards), moved))

    def move(self, move: Move) -> None:
        """Let a guest who logged in go on as the shopper; a login that is taken back changes nothing."""
        if not move.taken_back:
            for course in self.courses.values():
                course.move(move.from_shopper, move.to_shopper)

    def knows(self, shopper: str) -> bool:
        """Return whether anything is remembered of the shopper."""
        return shopper in self.before or any(shopper in course.entered for course in self.courses.values())

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        followed = sum(len(course.entered) for course in self.courses.values())
        return self.before.bounds() | {
            "shoppers_in_experiments": (followed, self.settings.shoppers_max),
            "interleaved_answers": (len(self._drafts), self.settings.drafts_max),
        }

    def state(self) -> State:
        """Return the complete state."""
        return {
            "stated": self.assignment.state(),
            "courses": {
                "looked_ms": self._looked_ms, "dirty": sorted(self._dirty),
                "courses": [course.state() for course in self.courses.values()],
            },
            "before": self.before.state(),
            "drafts": [[name, *draft] for name, draft in self._drafts.items()],
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""
        if "stated" in state:
            self.assignment = Assignment.from_state(state["stated"])
        if "courses" in state:
            kept = state["courses"]
            self._looked_ms, self._dirty = kept["looked_ms"], set(kept["dirty"])
            self.courses = {one["name"]: Course.from_state(one) for one in kept["courses"]}
        if "before" in state:
            self.before = Before.from_state(state["before"], self.settings.before_max)
        if "drafts" in state:
            kept_drafts = state["drafts"][-self.settings.drafts_max :]
            self._drafts = OrderedDict((name, (experiment, teams)) for name, experiment, teams in kept_drafts)

    @classmethod
    def from_0_3_0(cls, fold: State) -> tuple[dict[str, Any], State] | None:
        """Return an empty state beside the fine-tuner's: 0.3.0 had no experiments."""
        if "material" not in fold:
            return None
        return {}, {"stated": [], "courses": {"looked_ms": 0, "dirty": [], "courses": []}, "before": [], "drafts": []}

    def counts(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Yield the number of shoppers by experiment and arm."""
        for name, course in self.courses.items():
            for arm, count in zip(course.experiment.arms, course.ratio.counts, strict=True):
                yield (name, arm.name), count

    def left_out(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Yield the number of shoppers, and of answers (`strays`), that are left out, by experiment and why."""
        for name, course in self.courses.items():
            for why, count in zip(
                get_args(LeftOut), (course.bots, course.mixed, course.evicted, course.strays), strict=True
            ):
                yield (name, why), count

    def relative(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Yield the relative differences and their bounds."""
        for name, report in self.reports.items():
            for one in report.compared:
                if one.relative is not None:
                    of = name, one.arm, one.metric
                    yield (*of, "value"), one.relative
                    yield (*of, "low"), -inf if one.relative_low is None else one.relative_low
                    yield (*of, "high"), inf if one.relative_high is None else one.relative_high

    def ratios(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Yield how likely the arms' shares of shoppers are."""
        for name, course in self.courses.items():
            yield (name,), course.ratio.p_value


def _places(marks: int) -> list[int]:
    return [place for place in range(marks.bit_length()) if marks >> place & 1]


ExperimentsFamily.surface = Surface(
    doc="Experiments: who is in which arm, how the arms compare at any time, and when one must stop.",
    settings=ExperimentsSettings,
    writes=(EXPERIMENTS, EXPERIMENT_REPORTS),
    hears=(EXPERIMENTS, IMPRESSIONS),
    detectors=(RATIO, HARM),
    full_by_design=("shoppers_before", "interleaved_answers"),
    labels={
        "experiment": "the experiments that are stated, at most 64",
        "arm": "the arms of an experiment, at most 8",
        "left_out": "`learners.experiments.family.LeftOut`",
        "bound": "`low`, `value` and `high`",
    },
    metrics=(
        Metric(
            name="headrace_experiment_shoppers", help="Shoppers who are in an experiment.",
            labels=("experiment", "arm"), read=ExperimentsFamily.counts,
        ),
        Metric(
            name="headrace_experiment_left_out",
            help="Shoppers whom an experiment leaves out, and answers whose arm is not that of their shopper.",
            labels=("experiment", "left_out"), read=ExperimentsFamily.left_out,
        ),
        Metric(
            name="headrace_experiment_relative_difference",
            help="Difference of an arm from the control, as a share of the control's value, and its bounds.",
            labels=("experiment", "arm", "metric", "bound"), read=ExperimentsFamily.relative,
        ),
        Metric(
            name="headrace_experiment_sample_ratio_p_value",
            help="Least alpha at which the planned shares of an experiment's arms are refuted.",
            labels=("experiment",), read=ExperimentsFamily.ratios,
        ),
    ),
    teaches=dict.fromkeys(LEARNED_TYPES, "what a shopper in an experiment did, and what shoppers did before one"),
    benchmark="benchmarks.experiments",
)  # fmt: skip
