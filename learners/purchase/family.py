"""The family of purchases: which views and which visits lead to one, the scores of the predictions, and their drift."""

from collections.abc import Iterable, Mapping
from math import fsum
from typing import Annotated, Any, ClassVar, Final

from msgspec import Meta, Struct

from headrace.events import LEARNED_TYPES, Event, Rejection
from headrace.log.protocol import Record
from headrace.state import State
from headrace.surface import Chart, Metric, Now, Quality, Route, Surface, Table, Unknown, Watched
from headrace.topics import SILENCES
from learners.desk.family import Desk
from learners.family import Family, Merges, Moment, Move, NoSettings, Part
from learners.parts.drift import LOSS_TESTS, LossDrift, loss_drift_from_version_1
from learners.parts.prequential import Probability, ScoreView, calibrated
from learners.purchase.estimate import EstimateErrors, estimated
from learners.purchase.examples import INTENT as INTENT_EXAMPLE
from learners.purchase.propensity import REPAIRS, Propensity, from_version_1
from learners.purchase.visits import MEMBERS, VISIT_TYPES, Visits
from learners.purchase.watching import Watching, watched_together

LOSS: Final = "propensity_loss"
reason_min: Final = 0.005
"""Least amount of log-odds that is told as a reason."""
_VIEWS: Final[tuple[tuple[str, ScoreView], ...]] = (("stream", "whole"), ("recent", "window"))
labels_block: Final = 8
"""Labels that are scored together; the detectors observe the mean loss of a block. Most events bring a label, and a
detector costs as much time as learning. Labels of a block that is not full stay in the learner's queue."""


class IntentScores(Struct, frozen=True):
    """Prequential scores of purchase intent: visits learned, and by member over the newest ones and over all."""

    learned: int
    answering: str
    window: dict[str, dict[str, float]]
    whole: dict[str, dict[str, float]]


class PurchaseScores(Struct, frozen=True):
    """Prequential scores of the probabilities: over the newest views and over the whole stream.

    Labels are those of the first 6 hours. `repairs` counts the ones that were learned anew, by what repaired them.
    """

    judged: int
    window: dict[str, float]
    whole: dict[str, float]
    intent: IntentScores | None = None
    repairs: dict[str, int] = {}


class PurchaseQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of a request for a shopper's chances."""

    shopper: Annotated[str, Meta(min_length=1, max_length=128, description="The shopper's id, percent-encoded.")]


class Viewed(Struct, frozen=True):
    """An item of the current visit. `probability` is calibrated; `raw` is the model's own probability, which late
    purchases and returns have taught as well, and whose log-odds are the sum of `parts`."""

    item_id: str
    viewed_ms: int
    probability: float
    raw: float
    parts: dict[str, float]


class Chances(Struct, frozen=True):
    """The probability that each item of a shopper's current visit is bought within 6 hours, newest view first."""

    shopper: str
    items: list[Viewed]
    base_rate: float | None


class Reason(Struct, frozen=True):
    """What is known of a visit in one respect, and what it adds to the log-odds, compared with usual visits."""

    name: str
    value: float | str
    adds: float


class IntentAnswer(Struct, frozen=True):
    """The probability that a shopper's running visit ends with a purchase.

    `probability` is calibrated, of the member `answered_by`; `raw` are the members' own. `base` is the log-odds of
    usual visits and `reasons` what is different in this one, the greatest first; none while `items` answers.
    `base_rate` is the share of the newest visits that ended with a purchase, `learned` the number of visits that were
    learned.
    """

    shopper: str
    started_ms: int
    newest_ms: int
    events: int
    probability: float
    answered_by: str
    raw: dict[str, float]
    base: float | None
    reasons: list[Reason]
    base_rate: float | None
    learned: int


def _drift_from_version_1(state: State) -> State:
    """Return the state of today's detectors, where one of version 1 has those of the loss alone."""
    return {
        "loss": loss_drift_from_version_1(state),
        "watching": Watching(labels_block).state(),
        "estimate": EstimateErrors().state(),
        "predicted": [],
    }


class PurchaseFamily(Family):
    """Learns which views and visits lead to a purchase, scores its predictions and detects drift of their loss."""

    name: ClassVar[str] = "purchase"
    consults: ClassVar[tuple[str, ...]] = (Desk.name,)
    builds_on: ClassVar[tuple[str, ...]] = (Desk.name,)
    merges: ClassVar[Merges] = Merges(
        "not",
        per_shopper="open views, counts of the visit, the running visit",
        why="the regressions take one step per label, in the order of the views and of the visits",
    )

    parts: ClassVar[Mapping[str, Part]] = {
        # Since labels are repaired, other probabilities reach the scores; their form is the same.
        "propensity": Part(2, {1: from_version_1}), "probability": Part(2, {1: lambda state: state}),
        "drift": Part(2, {1: _drift_from_version_1}), "intent": Part(),
    }  # fmt: skip

    def __init__(self, settings: NoSettings, reads: Mapping[str, Family]) -> None:
        self.propensity = Propensity()
        self.probability = Probability()
        self.visits = Visits()
        self.drift = LossDrift(LOSS, block=labels_block)
        self.watching = Watching(labels_block)
        self._errors = EstimateErrors()
        self._desk = reads.get(Desk.name)

    def learn(self, event: Event, now: Moment) -> None:
        """Learn from one event; observe the loss (Brier score) of the labels that became known."""
        self.propensity.learn(event)
        chance = (
            self.propensity.chance(event.shopper, event.data.items[0].item_id) if event.type == "view_item" else 0.0
        )
        self.visits.learn(event, chance)
        predicted = self.propensity.predicted
        if len(predicted) >= watched_together:
            for alarm in self.watching.observe(predicted, event.time_ms):
                now.alarm(alarm)
            predicted.clear()
        labelled = self.propensity.labelled
        while len(labelled) >= labels_block:
            block = [labelled.popleft() for _ in range(labels_block)]
            self.probability.observe_all(block)
            self._errors.label(block, self.probability, self.propensity.unlabelled, self._estimated)
            alarms = self.drift.observe(fsum([(bought - given) ** 2 for given, bought in block]) / labels_block)
            alarms = self.watching.silences.apply(alarms, event.time_ms)
            for alarm in alarms + self.watching.observe_labels(block, event.time_ms):
                now.alarm(alarm)

    def _estimated(self) -> dict[str, float]:
        return estimated(self.propensity.open_probabilities(), self.probability.histograms("window"))

    def hear(self, topic: str, record: Record, now: Moment) -> Rejection | None:
        """Note a silence."""
        return self.watching.silences.hear(record, now.time_ms)

    def estimates(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Yield the estimated scores of views without a label, by metric."""
        return (((name,), value) for name, value in self._estimated().items())

    def estimate_errors(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Yield by how much the last compared estimate was too high, by metric."""
        return (((name,), error) for name, error in self._errors.errors.items())

    def knows(self, shopper: str) -> bool:
        """Return whether views, carts, visits or purchases of the shopper are counted."""
        return shopper in self.propensity or shopper in self.visits

    def move(self, move: Move) -> None:
        """Move the open views and the running visit of a guest to the shopper who logged in, or back."""
        self.propensity.move(move)
        self.visits.move(move)

    def scores(self) -> PurchaseScores:
        """Return the prequential scores."""
        found = self.probability
        visits = self.visits
        window, whole = (
            {member: judged.scores(view) for member, judged in visits.judged.items()} for view in ("window", "whole")
        )
        intent = IntentScores(visits.learner.learned, visits.answering(), window, whole)
        repairs = dict(self.propensity.repairs)
        return PurchaseScores(found.judged, found.scores("window"), found.scores("whole"), intent, repairs)

    def watched(self) -> dict[str, Watched]:
        """Return the mean loss, by detector."""
        return {LOSS: Watched(self.drift.mean), **self.watching.watched()}

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        return {f"propensity_{table}": use for table, use in self.propensity.bounds().items()} | {
            f"intent_{table}": use for table, use in self.visits.bounds().items()
        }

    def state(self) -> State:
        """Return the complete state."""
        return {
            "propensity": self.propensity.state(),
            "probability": self.probability.state(),
            "intent": self.visits.state(),
            "drift": {
                "loss": self.drift.state(), "watching": self.watching.state(), "estimate": self._errors.state(),
                "predicted": [list(one) for one in self.propensity.predicted],
            },
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""
        if "propensity" in state:
            self.propensity = Propensity.from_state(state["propensity"])
        if "probability" in state:
            self.probability = Probability.from_state(state["probability"])
        if "intent" in state:
            self.visits.restore(state["intent"])
        if "drift" in state:
            self.drift = LossDrift.from_state(state["drift"]["loss"])
            self.watching.restore(state["drift"]["watching"])
            self._errors.restore(state["drift"]["estimate"])
            self.propensity.predicted = [(chance, category) for chance, category in state["drift"]["predicted"]]

    @classmethod
    def from_0_3_0(cls, fold: State) -> tuple[dict[str, Any], State] | None:
        """Return the parts in the state of 0.3.0's online shard, which knew no visits."""
        return ({}, {**fold["buying"], "intent": Visits().state()}) if "buying" in fold else None

    def answer(self, query: PurchaseQuery, now: Now) -> Chances:
        """Return the answer to a request over HTTP; an item that is out of stock or retired cannot be bought."""
        chances = self.propensity.visit_chances(now.known_as(query.shopper), now.time_ms)
        if isinstance(desk := self._desk, Desk):
            chances = [one for one in chances if desk.available(one.item_id)]
        sums = self.probability.histograms("window")
        means = calibrated(sums, [one.probability for one in chances])
        items = [
            Viewed(one.item_id, one.viewed_ms, mean, one.probability, one.parts)
            for one, mean in zip(chances, means, strict=True)
        ]
        return Chances(query.shopper, items, self.probability.scores("window").get("base_rate"))

    def intent(self, query: PurchaseQuery, now: Now) -> IntentAnswer:
        """Return the intent of a shopper's running visit. Raises Unknown."""
        found = self.visits.intent(now.known_as(query.shopper), now.time_ms)
        if found is None:
            raise Unknown("wanted a shopper who is visiting the shop, found no event of this id in the last 30 minutes")
        parts = sorted(found.parts.items(), key=lambda part: (-abs(part[1]), part[0]))
        reasons = [Reason(name, found.known[name], adds) for name, adds in parts if abs(adds) >= reason_min]
        base_rate = self.visits.judged[found.member].scores("window").get("base_rate")
        visit = found.visit
        return IntentAnswer(
            query.shopper, visit.started_ms, visit.newest_ms, visit.events, found.probability, found.member, found.raw,
            found.base, reasons, base_rate, found.learned,
        )  # fmt: skip

    def repaired(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Yield how many learned labels were repaired, by what repaired them."""
        return (((why,), self.propensity.repairs[why]) for why in REPAIRS)

    def intent_series(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Yield the scores of purchase intent: learner, metric, and part of the stream."""
        for member, judged in self.visits.judged.items():
            for window, view in _VIEWS:
                for metric, value in judged.scores(view).items():
                    yield (member, metric, window), value

    def series(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Yield the scores as a metric's series: learner, metric, and part of the stream."""
        for window, view in _VIEWS:
            for metric, value in self.probability.scores(view).items():
                yield (Propensity.name, metric, window), value


def _told(found: Mapping[str, float]) -> Mapping[str, float]:
    """Return the scores that say something: as long as all labels are alike, that is the base rate alone."""
    return found if "auc" in found else {name: value for name, value in found.items() if name == "base_rate"}


def _rows(scores: PurchaseScores) -> Iterable[tuple[Any, ...]]:
    for name in ("auc", "calibration_error", "base_rate", "log_loss"):
        yield name.replace("_", " "), _told(scores.window).get(name), _told(scores.whole).get(name)


_REPAIRED: Final = dict(zip(REPAIRS, ("a purchase after the 6 hours", "a return"), strict=True))


def _repair_rows(scores: PurchaseScores) -> Iterable[tuple[Any, ...]]:
    for why, text in _REPAIRED.items():
        if why in scores.repairs:
            yield text, scores.repairs[why]


def _intent_rows(scores: PurchaseScores) -> Iterable[tuple[Any, ...]]:
    intent = scores.intent
    if intent is None:
        return
    for name in ("auc", "calibration_error", "base_rate", "log_loss"):
        found = (_told(one[member]).get(name) for one in (intent.window, intent.whole) for member in MEMBERS)
        yield name.replace("_", " "), *found


def _intent_lines(scores: PurchaseScores) -> dict[str, float]:
    found = scores.intent.window if scores.intent else {}
    return {member: one["auc"] for member, one in found.items() if "auc" in one}


PurchaseFamily.surface = Surface(
    doc="The calibrated probability that a view leads to a purchase within 6 hours, or a visit to one, and its parts.",
    settings=NoSettings,
    scores=PurchaseScores,
    metrics=(
        Metric(
            name="headrace_propensity_score",
            help="Purchase propensity against purchases.",
            labels=("learner", "metric", "window"),
            read=PurchaseFamily.series,
            read_interval_s=1.0,
        ),
        Metric(
            name="headrace_estimated_score",
            help="Scores of purchase propensity for the views whose labels are still late, estimated from its"
            " calibrated probabilities.",
            labels=("metric",),
            read=PurchaseFamily.estimates,
            read_interval_s=5.0,
        ),
        Metric(
            name="headrace_estimate_error",
            help="By how much the last such estimate was too high, once its views had their labels.",
            labels=("metric",),
            read=PurchaseFamily.estimate_errors,
            read_interval_s=5.0,
        ),
        Metric(
            name="headrace_intent_score",
            help="Purchase intent of visits against how they ended.",
            labels=("learner", "metric", "window"),
            read=PurchaseFamily.intent_series,
            read_interval_s=1.0,
        ),
        Metric(
            name="headrace_propensity_repairs_total",
            help="Labels of views that were learned, and learned anew: a purchase came after its 6 hours, or a return.",
            kind="counter",
            labels=("repair",),
            label_values=REPAIRS,
            read=PurchaseFamily.repaired,
        ),
    ),
    hears=(SILENCES,),
    detectors=(*Watching(labels_block).watched(), *(f"{LOSS}_{test}" for test in LOSS_TESTS)),
    full_by_design=(
        *(f"propensity_{table}" for table in ("open_views", "shoppers", "items", "sold", "unsold", "weights")),
        *(f"intent_{table}" for table in ("shoppers", "features", "levels", "first_rows")),
    ),
    routes=(
        Route(
            path="/v1/purchase/{shopper}",
            doc="The probability of a purchase for each item of a shopper's current visit, with its parts.",
            query=PurchaseQuery,
            answer=Chances,
            call=PurchaseFamily.answer,
            example=(
                "/v1/purchase/shopper-002457",
                """{
  "shopper": "shopper-002457",
  "items": [
    {
      "item_id": "item-00662",
      "viewed_ms": 1738522894328,
      "probability": 0.0504,
      "raw": 0.0517,
      "parts": {
        "base rate": -2.9379, "item, category and brand": -0.2927, "price": 0.2175,
        "this visit": 0.0356, "past purchases": -0.0310, "time of day": 0.0998
      }
    }
  ],
  "base_rate": 0.0527,
  "fresh": {"entry": 153, "newest_event_ms": 1738529381084, "behind_s": 0.065}
}""",
            ),
            notes=(
                "`probability` is calibrated on the newest views; `raw` is the model's, whose log-odds are the sum of"
                " `parts` (natural logarithm). The model also learns of purchases within 7 days, and of returns"
                " ([late truth](shoppers.md#purchases-that-come-late)).",
                "Items that are out of stock or retired ([items](publishing.md#items)) are left out.",
                "`base_rate` is the share of the newest views that led to a purchase; null before the first label.",
            ),
        ),
        Route(
            path="/v1/shoppers/{shopper}/intent",
            doc="The probability that a shopper's running visit ends with a purchase, with its reasons.",
            query=PurchaseQuery,
            answer=IntentAnswer,
            call=PurchaseFamily.intent,
            example=("/v1/shoppers/shopper-000176/intent", INTENT_EXAMPLE),
            notes=(
                "`probability` is calibrated on the newest visits. `answered_by` is the member that has ordered them"
                " better: `visit`, learned from the visit's course, or `items`, the chances of its items together.",
                "`base` and `adds` are log-odds (natural logarithm) of `raw.visit`, which is their sum; reasons that"
                " add less than 0.005 are left out.",
                "A shopper without an event in the last 30 minutes gets 404. What is learned: [shoppers](shoppers.md).",
            ),
        ),
    ),
    tables=(
        Table(
            title="Purchase propensity",
            columns=("score", "newest 10,000 views", "whole stream"),
            rows=_rows,
            percent=False,
            note="Labels say what was bought within 6 hours.",
        ),
        Table(
            title="Labels learned anew",
            columns=("because of", "views"),
            rows=_repair_rows,
            percent=False,
            note="A purchase within 7 days, or a return, repairs what a view taught.",
        ),
        Table(
            title="Purchase intent",
            columns=("score", "items, newest", "visit, newest", "items, all", "visit, all"),
            rows=_intent_rows,
            percent=False,
            note="Each visit is judged once, at a moment drawn by chance; the newest are 10,000.",
        ),
    ),
    charts=(
        Chart(
            title="AUC of the order of views by probability",
            lines=lambda scores: _lines(scores, "auc"),
            floor=0.5,
        ),
        Chart(title="calibration error", lines=lambda scores: _lines(scores, "calibration_error")),
        Chart(title="AUC of the order of visits by purchase intent", lines=_intent_lines, floor=0.5),
    ),
    quality=Quality(name="AUC of purchase chances", of=lambda scores: _told(scores.window).get("auc")),
    teaches=dict.fromkeys(LEARNED_TYPES, "its time: views whose 6 hours are over are learned, and visits that ended")
    | dict.fromkeys(VISIT_TYPES, "the course of the visit; and its time, as all events")
    | {
        "view_item": "a view that may lead to a purchase, the course of the visit, and mean prices",
        "add_to_cart": "the carts of the visit",
        "purchase": "which views and which visit led to a purchase, also later ones, and the shopper's purchases",
        "remove_from_cart": "the carts of the visit, one less",
        "refund": "that views led to no purchase after all",
    },
    inputs={"view_item": "purchase propensity has no input", "purchase": "purchase propensity has no labels"},
    benchmark="benchmarks.calibration",
)


def _lines(scores: PurchaseScores, metric: str) -> dict[str, float]:
    views = (("newest", scores.window), ("whole", scores.whole))
    return {name: found[metric] for name, found in views if metric in _told(found)}
