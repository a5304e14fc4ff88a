"""Experiments: who is in which arm, what counts for it, what repairs it, and when it stops by itself."""

from contextlib import closing
from typing import Any

import msgspec
import pytest

from headrace.announcement import Announcement
from headrace.drift import Moved
from headrace.errors import Misconfigured
from headrace.events import Data, Event, Item, at
from headrace.experiment_reports import Compared, Report
from headrace.experiment_reports import decode as decode_report
from headrace.experiments import (
    STANDARD,
    Arm,
    Experiment,
    Guard,
    Measure,
    StatedExperiment,
    decode,
    free_slots,
    objection,
    record_of,
)
from headrace.impressions import Impression, ShownItem
from headrace.impressions import record_of as impression_record_of
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Outgoing, Record
from headrace.state import decode as state_from
from headrace.state import digest, encode
from headrace.topics import ALARMS, EXPERIMENT_REPORTS, EXPERIMENTS, IMPRESSIONS
from learners.desk.family import Desk
from learners.experiments.course import Course, day_ms, days_max
from learners.experiments.family import ExperimentsFamily, ExperimentsSettings, look_every_ms
from learners.family import AlarmRecord
from learners.parts.assignment import Assignment, experiments_max
from learners.placements.family import PlacementsFamily
from learners.shop import Shop
from operators.catalogue import catalogue
from operators.experiments import state_experiment, stated_experiments, verdict

START = 1_750_000_000_000
ARMS = (Arm("control"), Arm("new", ranker="trending"))
KINDS = (Desk, PlacementsFamily, ExperimentsFamily)


class Story:
    """A shop to which a test tells what is stated, shown and done."""

    def __init__(self, shop: Shop | None = None, **settings: int) -> None:
        self.settings = {"experiments": msgspec.convert(settings, ExperimentsSettings)}
        self.shop = shop or Shop(KINDS, self.settings)
        self.time_ms, self._count, self.written = START, 0, list[Outgoing]()
        self.shop.now.time_ms = START

    @property
    def family(self) -> ExperimentsFamily:
        family = self.shop.families["experiments"]
        assert isinstance(family, ExperimentsFamily)
        return family

    def state(self, name: str, experiment: Experiment | None) -> str:
        self._count += 1
        record = record_of(name, experiment)
        found = self.shop.hear(EXPERIMENTS, Record(0, self._count, self.time_ms, record.key, record.value))
        return found.detail if found else ""

    def run(self, name: str, **fields: Any) -> Experiment:
        experiment = Experiment(fields.pop("arms", ARMS), state="running", **fields)
        assert not self.state(name, experiment)
        return experiment

    def show(self, shopper: str, arms: dict[str, str], name: str = "", placement: str = "home", **labels: str) -> None:
        self._count += 1
        made = Impression(
            name or f"r{self._count}", 0, "/v1/x", [ShownItem(item) for item in "abcd"], placement, "", shopper,
            device=labels.get("device", ""), country=labels.get("country", ""), experiments=arms,
        )  # fmt: skip
        record = Record(0, 0, self.time_ms, None, impression_record_of(made).value)
        assert self.shop.hear(IMPRESSIONS, record) is None

    def enter(self, shopper: str, name: str = "home", **labels: str) -> str:
        """Show an answer to a shopper in the arm that the shopper is in; return the arm's name."""
        arms = {one.name: one.arm.name for one in self.family.assignment.of("home", shopper)}
        self.show(shopper, arms, **labels)
        return arms.get(name, "")

    def do(self, kind: Any, shopper: str, items: str = "a", price: float = 10.0, **data: Any) -> None:
        self._count += 1
        lines = [Item(item, price=price) for item in items]
        event = Event(f"e{self._count}", "test", kind, at(self.time_ms), Data(lines, **data), "1.0", shopper)
        event.time_ms = event.own_ms = self.time_ms
        if self.shop.prepare(event):
            self.shop.learn(event, 0, self._count)

    def pass_time(self, ms: int = look_every_ms) -> None:
        self.time_ms += ms

    def settle(self) -> None:
        self.written += self.shop.emit()

    def report(self, name: str = "home") -> Report:
        """Let a minute pass, and return the newest report."""
        self.pass_time()
        self.do("search", "nobody", "", search_term="x")
        self.settle()
        found = [one for one in self.written if one.topic == EXPERIMENT_REPORTS and one.key == name.encode()]
        report = decode_report(Record(0, 0, 0, found[-1].key, found[-1].value))
        assert report is not None
        return report


def of(report: Report, metric: str, arm: str = "new") -> Compared:
    return next(one for one in report.compared if (one.metric, one.arm) == (metric, arm))


def in_arms(story: Story, count: int, name: str = "home") -> dict[str, list[str]]:
    """Let shoppers enter; return them by arm."""
    arms: dict[str, list[str]] = {"": [], "control": [], "new": []}
    for number in range(count):
        arms[story.enter(f"s{number}", name)].append(f"s{number}")
    return arms


def test_from_the_answer_to_the_metrics() -> None:
    story = Story()
    story.run("home")
    arms = in_arms(story, 40)
    ann, bob = arms["new"][0], arms["control"][0]
    story.show(ann, {"home": "new"}, "r-ann")
    story.do("select_item", ann, "a", recommendation_id="r-ann")
    story.do("view_item", ann, "b", recommendation_id="r-ann")  # the answer has been clicked before
    story.do("purchase", ann, "ab", transaction_id="t1")
    story.do("purchase", bob, "c", price=4.0)
    report = story.report()
    n_new, n_control = len(arms["new"]), len(arms["control"])
    clicks, conversion, revenue = (of(report, name) for name in ("click_through", "conversion", "revenue"))
    assert (clicks.control_value, clicks.arm_value) == (0.0, 1 / (n_new + 1))
    assert (conversion.control_value, conversion.arm_value) == (1 / n_control, 1 / n_new)
    assert (revenue.control_value, revenue.arm_value) == (4.0 / n_control, 20.0 / n_new)
    assert conversion.shoppers == (n_control, n_new)
    assert [(one.name, one.share, one.shoppers, one.answers) for one in report.arms] == [
        ("control", 0.5, n_control, n_control), ("new", 0.5, n_new, n_new + 1),
    ]  # fmt: skip
    assert report.compared[0].metric == "conversion"
    assert revenue.low is None  # too few shoppers for an interval


def test_a_refund_takes_back_what_was_paid_also_after_the_stop() -> None:
    story = Story()
    experiment = story.run("home")
    arms = in_arms(story, 20)
    ann, n = arms["new"][0], len(arms["new"])
    story.do("purchase", ann, "ab", price=10.0, transaction_id="t1")
    story.do("purchase", ann, "c", price=5.0, transaction_id="t2")
    story.do("refund", ann, "a", price=99.0, transaction_id="t1")
    assert of(story.report(), "revenue").arm_value == 15.0 / n
    story.state("home", msgspec.structs.replace(experiment, state="stopped"))
    story.do("purchase", ann, "d", price=100.0)
    assert of(story.report(), "revenue").arm_value == 15.0 / n
    story.do("refund", ann, "", transaction_id="t1")
    assert of(story.report(), "revenue").arm_value == 5.0 / n
    assert of(story.report(), "conversion").arm_value == 1 / n
    story.do("refund", ann, "c", transaction_id="t2")
    report = story.report()
    assert (of(report, "revenue").arm_value, of(report, "conversion").arm_value) == (0.0, 0.0)
    assert report.state == "stopped"


def test_what_was_bought_before_is_not_counted_and_its_refund_neither() -> None:
    story = Story()
    story.do("purchase", "s0", "a", transaction_id="t0")
    story.run("home")
    arms = in_arms(story, 20)
    story.do("refund", "s0", "a", transaction_id="t0")
    report = story.report()
    assert {of(report, "revenue").control_value, of(report, "revenue").arm_value} == {0.0}
    assert arms


def test_retention_is_to_come_back_on_one_of_the_seven_days_after() -> None:
    story = Story()
    story.run("home")
    arms = in_arms(story, 30)
    early, week, late = arms["new"][:3]
    story.pass_time(day_ms - 1)
    story.do("view_item", early)
    story.pass_time(1)
    story.do("view_item", week)
    story.do("view_item", week)
    story.pass_time(7 * day_ms)
    story.do("view_item", late)
    assert of(story.report(), "retention").arm_value == 1 / len(arms["new"])


def test_metrics_of_ones_own() -> None:
    own = (
        Measure("carts", "add_to_cart"), Measure("cart_rate", "add_to_cart", per="view_item"),
        Measure("units", "purchase", "units"), Measure("conversion", "add_to_cart", "shoppers"),
    )  # fmt: skip
    story = Story()
    experiment = story.run("home", metrics=own)
    arms = in_arms(story, 20)
    ann, n = arms["new"][0], len(arms["new"])
    for kind in ("view_item", "view_item", "view_item", "view_item", "add_to_cart", "add_to_cart"):
        story.do(kind, ann)
    story.do("purchase", ann, "abc")
    story.do("view_item", arms["control"][0])
    report = story.report()
    found = {name: of(report, name).arm_value for name in ("carts", "cart_rate", "units", "conversion")}
    assert found == {"carts": 2 / n, "cart_rate": 0.5, "units": 3 / n, "conversion": 1 / n}
    assert [one.name for one in experiment.measures] == [
        "click_through", "revenue", "retention", "carts", "cart_rate", "units", "conversion",
    ]  # fmt: skip


def test_layers_keep_experiments_apart_and_are_independent_of_each_other() -> None:
    story = Story()
    story.run("one", slots=(0.0, 0.5), layer="a")
    story.run("two", slots=(0.5, 1.0), layer="a")
    story.run("three", layer="b", arms=(Arm("control"), Arm("new")))
    shoppers = [f"s{number}" for number in range(4_000)]
    arms = {one: {a.name: a.arm.name for a in story.family.assignment.of("home", one)} for one in shoppers}
    assert all(("one" in one) != ("two" in one) and "three" in one for one in arms.values())
    both = [one["three"] for one in arms.values() if one.get("one") == "new"]
    assert abs(both.count("new") / len(both) - 0.5) < 4 * 0.5 / len(both) ** 0.5


def test_a_ramp_keeps_who_was_in() -> None:
    small, large = (Experiment(ARMS, ramp=ramp) for ramp in (0.1, 0.6))
    arms = [(small.arm_of("home", f"s{n}"), large.arm_of("home", f"s{n}")) for n in range(3_000)]
    assert all(before in (None, after) for before, after in arms)
    assert abs(sum(before is not None for before, _ in arms) / 3_000 - 0.1) < 0.03
    assert abs(sum(after is not None for _, after in arms) / 3_000 - 0.6) < 0.04


def test_who_is_held_out_is_in_no_other_experiment() -> None:
    story = Story()
    story.run("holdout", kind="holdout", layer="holdout", arms=(Arm("held", share=1), Arm("rest", share=9)))
    story.run("home")
    held = [one for one in (f"s{n}" for n in range(500)) if story.enter(one, "holdout") == "held"]
    assert 20 < len(held) < 90
    assert not any(story.enter(one, "home") for one in held)


def trying(*models: str, blob: str = "model-") -> Experiment:
    arms = [Arm(f"arm-{one}", model=one, blob=blob and blob + one) for one in models]
    return Experiment((Arm("control"), *arms), state="running", layer="models", placements=("elsewhere",))


def test_models_that_are_tried() -> None:
    assignment = Assignment()
    for number, (name, one) in enumerate((
        ("home", trying("a", "b")), ("cart", msgspec.structs.replace(trying("b", "c"), state="draft")),
        ("home", msgspec.structs.replace(trying("a", "b"), state="stopped")),
    )):  # fmt: skip
        made = record_of(name, one)
        assert assignment.hear(Record(0, number, 0, made.key, made.value)) is None
        found = assignment.models(), assignment.models(drafts=True)
        assert (
            found
            == (
                (["model-a", "model-b"], ["model-a", "model-b"]),
                (["model-a", "model-b"], ["model-a", "model-b", "model-c"]),
                ([], ["model-b", "model-c"]),
            )[number]
        )


def test_statements_that_must_not_take_effect() -> None:
    running = Experiment(ARMS, state="running")
    stated = {"home": msgspec.structs.replace(running, placements=("home",))}
    running = stated["home"]

    def change(**fields: Any) -> Experiment:
        return msgspec.structs.replace(running, **fields)

    for name, new, wanted in (
        ("home", None, "wanted state stopped before it is removed"),
        ("home", change(state="draft"), "wanted state running or stopped"),
        ("home", change(ramp=0.5), "wanted a ramp of at least 1"),
        ("home", change(salt="x"), "wanted salt as it was"),
        ("home", change(arms=(*ARMS, Arm("third"))), "wanted arms as it was"),
        ("other", change(), "wanted slots that are free in the layer default, found those of home"),
        ("other", change(layer="b"), "wanted the layer default of home, which ranks at the same placement"),
        ("home", change(state="stopped", why="done"), ""),
        ("home", change(state="stopped", ramp=0.5), ""),  # a guard may have written it before it heard of the ramp
        ("home", change(guards=(Guard("revenue"),)), ""),
        ("other", change(layer="b", arms=(Arm("a"), Arm("b"))), ""),
        ("third", trying("r1", blob=""), "wanted blob, the file of the model r1, found none"),
        ("third", msgspec.structs.replace(trying("r1", blob=""), state="draft"), ""),
        ("third", trying(*"abcd"), ""),
        ("third", trying(*"abcde"), "wanted at most 4 models that experiments try at a time, found 5"),
    ):
        assert objection(name, new, stated)[: len(wanted)] == wanted, new
        assert bool(objection(name, new, stated)) == bool(wanted), new
    over = {"home": change(state="stopped")}
    assert objection("home", running, over) == "wanted a new name, found that of an experiment that has stopped"
    assert objection("home", None, over) == ""
    assert objection("other", running, over) == ""


def test_free_slots() -> None:
    stated = {
        "a": Experiment(ARMS, slots=(0.0, 0.25)), "b": Experiment(ARMS, slots=(0.5, 0.75)),
        "c": Experiment(ARMS, slots=(0.25, 0.5), state="stopped"), "d": Experiment(ARMS, layer="other"),
    }  # fmt: skip
    found = [free_slots("default", share, stated) for share in (0.25, 0.5)]
    assert found == [(0.25, 0.5), None]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"arms":[{"name":"a"}]}', "Expected `array` of length >= 2"),
        ('{"arms":[{"name":"a"},{"name":"a"}]}', "wanted each arm once"),
        ('{"arms":[{"name":"a"},{"name":"b","ranker":"best"}]}', "Invalid enum value 'best'"),
        ('{"arms":[{"name":"a"},{"name":"b","ranker":"new","model":"r1"}]}', "wanted the blend or the ranker deep"),
        ('{"arms":[{"name":"a"},{"name":"b","without":["deep"],"model":"r1"}]}', "wanted the blend or the ranker deep"),
        ('{"arms":[{"name":"a"},{"name":"b","blob":"model-1"}]}', "blob: wanted a model, found none"),
        ('{"arms":[{"name":"a"},{"name":"b"}],"primary":"luck"}', "wanted a metric of click_through"),
        ('{"arms":[{"name":"a"},{"name":"b"}],"slots":[0.5,0.5]}', "slots: wanted a range"),
        ('{"arms":[{"name":"a"},{"name":"b"}],"traffic":1}', "unknown field `traffic`"),
        ('{"arms":[{"name":"a"},{"name":"b"}],"alpha":0}', "Expected `float` > 0"),
        ('{"arms":[{"name":"a"},{"name":"b","rules":{"hiden":[]}}]}', "unknown field `hiden`"),
        ('{"arms":[{"name":"a"},{"name":"b"}],"kind":"holdout","placements":["x"]}', "wanted every placement"),
        (
            '{"arms":[{"name":"a"},{"name":"b","without":["popularity","transitions","session_knn","revisits"]}]}',
            "wanted a fast learner that is left",
        ),
    ],
)  # fmt: skip
def test_what_is_no_experiment(text: str, wanted: str) -> None:
    found = decode(Record(0, 0, 0, b"home", text.encode()))
    assert wanted in getattr(found, "detail", ""), found


@pytest.mark.parametrize("key", [None, b"", b"A home", b"\xff", b"x" * 65])
def test_what_is_no_name(key: bytes | None) -> None:
    assert getattr(decode(Record(0, 0, 0, key, msgspec.json.encode(Experiment(ARMS)))), "reason", "") != ""


def test_more_experiments_than_are_remembered() -> None:
    assignment = Assignment()

    def state(name: str, experiment: Experiment) -> bool:
        record = record_of(name, experiment)
        return assignment.hear(Record(0, 0, 0, record.key, record.value)) is None

    for number in range(experiments_max):
        assert state(f"e{number}", Experiment(ARMS))
    assert not state("one-more", Experiment(ARMS))
    assert state("e7", Experiment(ARMS, state="stopped"))
    assert state("one-more", Experiment(ARMS))
    assert "e7" not in assignment.stated


def test_a_shopper_in_two_arms_is_left_out() -> None:
    story = Story()
    story.run("home")
    arms = in_arms(story, 40)
    guest, user = arms["control"][0], arms["new"][0]
    story.do("purchase", guest, "a")
    story.do("view_item", guest, "a", session_id="visit")
    story.do("login", user, "", session_id="visit")
    report = story.report()
    assert report.mixed == 1
    assert [one.shoppers for one in report.arms] == [len(arms["control"]) - 1, len(arms["new"]) - 1]
    assert of(report, "conversion").control_value == 0.0


def test_a_guest_who_logs_in_stays_in_the_arm_with_what_was_bought() -> None:
    story = Story()
    story.run("home")
    arms = in_arms(story, 40)
    guest, same = arms["control"][:2]
    story.do("purchase", guest, "a", price=3.0, transaction_id="t1")
    story.do("view_item", guest, "a", session_id="visit")
    story.do("login", same, "", session_id="visit")
    n = len(arms["control"]) - 1
    report = story.report()
    assert (report.arms[0].shoppers, of(report, "revenue").control_value) == (n, 3.0 / n)
    story.do("refund", same, "a", transaction_id="t1")
    assert of(story.report(), "revenue").control_value == 0.0


def test_a_shopper_over_the_daily_budget_is_left_out_if_the_experiment_says_so() -> None:
    for bots, wanted in ((True, 1), (False, 0)):
        story = Story()
        story.run("home", bots=bots)
        arms = in_arms(story, 20)
        for _ in range(450):
            story.do("view_item", arms["new"][0])
        assert story.report().bots == wanted


def test_answers_that_no_server_gives_are_strays() -> None:
    story = Story()
    story.run("duel", kind="interleaved")
    story.show("s1", {"duel": "A"}, "short")  # of four items
    story.show("s2", {"duel": "ABBA"}, "whole")
    for name, shopper in (("short", "s1"), ("whole", "s2")):
        story.do("select_item", shopper, "d", recommendation_id=name)
    report = story.report("duel")
    assert report.strays == 1
    assert report.preferred is not None
    assert (report.preferred.shoppers, report.preferred.mean) == (1, 1.0)


def test_who_entered_on_a_forgotten_day_is_still_in() -> None:
    course = Course("home", Experiment(ARMS, state="running"), 1, START)
    for day in range(days_max + 5):
        course.answer(f"s{day}", 0, START + day * day_ms, (0.0, 0.0, 0.0), {})
    days = course.look(START + days_max * day_ms).days
    assert len(days) == days_max
    assert days[-1].shoppers == (days_max + 5, 0)


def test_an_answer_in_a_wrong_arm_is_a_stray() -> None:
    story = Story()
    story.run("home")
    arms = in_arms(story, 20)
    story.show("stranger", {"home": "no such arm"})
    assert story.report().strays == 1
    assert sum(one.shoppers for one in story.report().arms) == sum(map(len, arms.values()))


def test_a_guard_stops_the_experiment_and_says_why() -> None:
    story = Story()
    story.run("home", guards=(Guard("revenue", 0.1),), shoppers=1_000)
    arms = in_arms(story, 1_200)
    for shopper in arms["control"][:300]:
        story.do("purchase", shopper)
    for shopper in arms["new"][:60]:
        story.do("purchase", shopper)
    report = story.report()
    assert report.harmed == ("revenue of new",)
    (stopped,) = [one for one in story.written if one.topic == EXPERIMENTS]
    heard = decode(Record(0, 0, 0, stopped.key, stopped.value))
    assert isinstance(heard, StatedExperiment)
    assert heard.experiment is not None
    assert heard.experiment.state == "stopped"
    (alarm,) = [msgspec.json.decode(one.value or b"", type=AlarmRecord) for one in story.written if one.topic == ALARMS]
    assert (alarm.detector, alarm.threshold) == ("experiment_harm", 0.1)
    control, new = (300 * 10 / len(arms["control"]), 60 * 10 / len(arms["new"]))
    assert alarm.moved == (Moved("home revenue of new", control, new),)
    story.report()
    assert sum(one.topic == EXPERIMENTS for one in story.written) == 1  # it is stated once
    story.shop.hear(EXPERIMENTS, Record(0, 10**6, story.time_ms, stopped.key, stopped.value))
    report = story.report()
    assert (report.state, report.stopped_by, report.why) == ("stopped", "guard", "revenue of new: harm is proved")
    assert story.enter("s1") == ""


def test_arms_that_do_not_get_their_shares_are_told_once() -> None:
    story = Story()
    story.run("home", arms=(Arm("control"), Arm("new")))
    arms = in_arms(story, 3_000)
    lost = Course("home", Experiment(ARMS, state="running"), 1, START)
    for shopper in [*arms["control"], *arms["new"][:1_100]]:
        lost.answer(shopper, int(shopper in arms["new"][:1_100]), START, (0.0, 0.0, 0.0), {})
    story.family.courses["home"].ratio = lost.ratio
    report = story.report()
    assert report.ratio_p < 0.001
    alarms = [msgspec.json.decode(one.value or b"", type=AlarmRecord) for one in story.written if one.topic == ALARMS]
    assert [one.detector for one in alarms] == ["experiment_sample_ratio"]
    story.report()
    assert sum(one.topic == ALARMS for one in story.written) == 1


def test_segments_have_few_values() -> None:
    story = Story()
    story.run("home")
    for number in range(60):
        story.enter(f"s{number}", device=f"device {number % 9}", country="NL")
    values = {(one.segment, one.value): sum(one.compared.shoppers) for one in story.report().segments}
    devices = {value: count for (name, value), count in values.items() if name == "device"}
    assert len(devices) == 7
    assert devices["other"] == sum(number % 9 >= 6 for number in range(60))
    assert values["country", "NL"] == 60
    assert values["visitor", "new"] == 60


def test_days_tell_what_each_day_brought() -> None:
    story = Story()
    story.run("home")
    arms = in_arms(story, 20)
    story.do("purchase", arms["new"][0], price=7.0)
    story.pass_time(day_ms)
    story.do("purchase", arms["new"][1], price=5.0)
    days = story.report().days
    assert [one.outcomes["revenue"] for one in days] == [(0.0, 7.0), (0.0, 5.0)]
    assert [one.shoppers for one in days] == [(len(arms["control"]), len(arms["new"]))] * 2


@pytest.mark.parametrize(
    ("days", "told"),
    [(None, "cannot be told"), (1234.4, "about 1,234 more days (1,000 to ∞)"), (3651.0, "more than ten years")],
)
def test_the_verdict_tells_how_long_an_experiment_would_take(days: float | None, told: str) -> None:
    story = Story()
    story.run("home", primary="conversion")
    arms = in_arms(story, 300)
    for number, shopper in enumerate([*arms["control"], *arms["new"]]):
        if number % 3 == 0:
            story.do("purchase", shopper)
    report = story.report()
    one = next(one for one in report.compared if one.metric == "conversion")
    one = msgspec.structs.replace(one, days=days, days_low=1_000.0, days_high=None)
    said = verdict(msgspec.structs.replace(report, compared=(one,)), catalogue("en"))
    assert said.startswith("Not decided")
    assert told in said


def test_interleaved_clicks_tell_which_ranking_is_preferred() -> None:
    story = Story()
    story.run("duel", kind="interleaved", shoppers=400)
    for number in range(400):
        story.show(f"s{number}", {"duel": "ABBA"}, f"r{number}")
        if number % 2:
            story.do("select_item", f"s{number}", "d" if number % 8 > 1 else "b", recommendation_id=f"r{number}")
    preferred = story.report("duel").preferred
    assert preferred is not None
    assert (preferred.shoppers, preferred.mean) == (400, (150 - 50) / 400)
    assert preferred.decided
    story.do("select_item", "s3", "bc", recommendation_id="r3")  # it won by one click, and loses by two
    after = story.report("duel").preferred
    assert after is not None
    assert after.mean == (149 - 51) / 400


def test_the_state_goes_on_identically() -> None:
    story = Story()
    story.run("home", guards=(Guard("revenue", 0.5),), metrics=(Measure("carts", "add_to_cart"),), shoppers=500)
    story.run("duel", kind="interleaved", placements=("cart",), layer="b", arms=(Arm("control"), Arm("new")))
    arms = in_arms(story, 300)
    for number, shopper in enumerate([*arms["control"], *arms["new"]]):
        story.do("view_item", shopper, device="mobile")
        if number % 3 == 0:
            story.do("purchase", shopper, "ab", transaction_id=f"t{number}")
        if number % 30 == 0:
            story.report()
    other = Shop(KINDS, story.settings)
    other.families["placements"].restore(state_from(encode(story.shop.families["placements"].state())))
    other.families["experiments"].restore(state_from(encode(story.family.state())))
    other.families["desk"].restore(state_from(encode(story.shop.families["desk"].state())))
    twin = Story(other)
    twin.time_ms, twin._count = story.time_ms, story._count
    other.now.time_ms, other.now.events = story.shop.now.time_ms, story.shop.now.events
    for one in (story, twin):
        one.do("refund", arms["control"][0], "a", transaction_id="t0")
        one.enter("latecomer", device="desktop")
        one.report()
    assert digest(story.family.state()) == digest(twin.family.state())
    assert story.report() == twin.report()


def test_shoppers_beyond_the_bound_stay_counted() -> None:
    story = Story(shoppers_max=10)
    story.run("home")
    arms = in_arms(story, 30)
    report = story.report()
    assert sum(one.shoppers for one in report.arms) == 30
    assert report.evicted == 20
    assert len(story.family.courses["home"].entered) == 10
    assert arms


def test_another_metric_of_a_past_experiment_is_a_fold_with_another_statement() -> None:
    reports = []
    for metrics in ((), (Measure("carts", "add_to_cart"),)):
        story = Story()
        story.run("home", metrics=metrics)
        arms = in_arms(story, 30)
        for shopper in arms["new"]:
            story.do("add_to_cart", shopper)
        reports.append(story.report())
    assert [one.metric for one in reports[0].compared] == ["conversion", "click_through", "revenue", "retention"]
    assert of(reports[1], "carts").arm_value == 1.0
    assert len(STANDARD) == len(reports[0].compared)


def test_the_file_of_a_model_is_written_beside_its_version() -> None:
    log = MemoryLog()
    log.create()
    with pytest.raises(Misconfigured, match="wanted a model's version such as none, as none was announced, found r9"):
        state_experiment(log, "models", trying("r9", blob=""))
    with closing(log.appender()) as appender:
        for version in ("r1", "r2"):
            said: Any = {"id": version, "round": 1, "at_events": 0, "time_ms": 0, "version": version}
            appender.append(Announcement(kind="candidate", blob=f"model-{version}", **said).record())
            appender.append(Announcement(kind="refused", **said).record())
    with pytest.raises(Misconfigured, match="arm arm-r9: wanted a model's version such as r1, r2, found r9"):
        state_experiment(log, "models", trying("r9", blob=""))
    state_experiment(log, "models", trying("r1", "r2", blob=""))
    (found,) = stated_experiments(log).stated.values()
    assert found.blobs == ["model-r1", "model-r2"]
    assert found.arms[0] == Arm("control")
