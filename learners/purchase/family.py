"""The family of purchase propensity: predictions of which views lead to a purchase, their scores and their drift."""

from collections.abc import Iterable, Mapping
from math import fsum
from typing import Annotated, Any, ClassVar, Final

from msgspec import Meta, Struct

from headrace.events import LEARNED_TYPES, Event, Rejection
from headrace.log.protocol import Record
from headrace.state import State
from headrace.surface import Chart, Metric, Now, Quality, Route, Surface, Table, Watched
from headrace.topics import SILENCES
from learners.desk.family import Desk
from learners.family import Family, Merges, Moment, Move, NoSettings, Part
from learners.parts.drift import LOSS_TESTS, LossDrift, loss_drift_from_version_1
from learners.parts.prequential import Probability, calibrated
from learners.purchase.estimate import EstimateErrors, estimated
from learners.purchase.propensity import Propensity, from_version_1
from learners.purchase.watching import Watching, watched_together

LOSS: Final = "propensity_loss"
labels_block: Final = 8
"""Labels that are scored together; the detectors observe the mean loss of a block. Most events bring a label, and a
detector costs as much time as learning. Labels of a block that is not full stay in the learner's queue."""


class PurchaseScores(Struct, frozen=True):
    """Prequential scores of the probabilities: over the newest views and over the whole stream."""

    judged: int
    window: dict[str, float]
    whole: dict[str, float]


class PurchaseQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of a request for a shopper's chances."""

    shopper: Annotated[str, Meta(min_length=1, max_length=128, description="The shopper's id, percent-encoded.")]


class Viewed(Struct, frozen=True):
    """An item of the current visit. `probability` is calibrated; `raw` is the model's own probability, whose log-odds
    are the sum of `parts`."""

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


def _drift_from_version_1(state: State) -> State:
    """Return the state of today's detectors, where one of version 1 has those of the loss alone."""
    return {
        "loss": loss_drift_from_version_1(state),
        "watching": Watching(labels_block).state(),
        "estimate": EstimateErrors().state(),
        "predicted": [],
    }


class PurchaseFamily(Family):
    """Learns which views lead to a purchase, scores its predictions and detects drift of their loss."""

    name: ClassVar[str] = "purchase"
    consults: ClassVar[tuple[str, ...]] = (Desk.name,)
    builds_on: ClassVar[tuple[str, ...]] = (Desk.name,)
    merges: ClassVar[Merges] = Merges(
        "not",
        per_shopper="open views, counts of the visit",
        why="the regression takes one step per label, in the order of the views",
    )

    parts: ClassVar[Mapping[str, Part]] = {
        "propensity": Part(2, {1: from_version_1}), "probability": Part(), "drift": Part(2, {1: _drift_from_version_1}),
    }  # fmt: skip

    def __init__(self, settings: NoSettings, reads: Mapping[str, Family]) -> None:
        self.propensity = Propensity()
        self.probability = Probability()
        self.drift = LossDrift(LOSS, block=labels_block)
        self.watching = Watching(labels_block)
        self._errors = EstimateErrors()
        self._desk = reads.get(Desk.name)

    def learn(self, event: Event, now: Moment) -> None:
        """Learn from one event; observe the loss (Brier score) of the labels that became known."""
        self.propensity.learn(event)
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
        """Return whether views, carts or purchases of the shopper are counted."""
        return shopper in self.propensity

    def move(self, move: Move) -> None:
        """Move the open views of a guest to the shopper who logged in, or back."""
        self.propensity.move(move)

    def scores(self) -> PurchaseScores:
        """Return the prequential scores."""
        found = self.probability
        return PurchaseScores(found.judged, found.scores("window"), found.scores("whole"))

    def watched(self) -> dict[str, Watched]:
        """Return the mean loss, by detector."""
        return {LOSS: Watched(self.drift.mean), **self.watching.watched()}

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        return {f"propensity_{table}": use for table, use in self.propensity.bounds().items()}

    def state(self) -> State:
        """Return the complete state."""
        return {
            "propensity": self.propensity.state(),
            "probability": self.probability.state(),
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
        if "drift" in state:
            self.drift = LossDrift.from_state(state["drift"]["loss"])
            self.watching.restore(state["drift"]["watching"])
            self._errors.restore(state["drift"]["estimate"])
            self.propensity.predicted = [(chance, category) for chance, category in state["drift"]["predicted"]]

    @classmethod
    def from_0_3_0(cls, fold: State) -> tuple[dict[str, Any], State] | None:
        """Return the parts in the state of 0.3.0's online shard."""
        return ({}, fold["buying"]) if "buying" in fold else None

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

    def series(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Yield the scores as a metric's series: learner, metric, and part of the stream."""
        scores = self.scores()
        for window, found in (("stream", scores.whole), ("recent", scores.window)):
            for metric, value in found.items():
                yield (Propensity.name, metric, window), value


def _told(found: Mapping[str, float]) -> Mapping[str, float]:
    """Return the scores that say something: as long as all labels are alike, that is the base rate alone."""
    return found if "auc" in found else {name: value for name, value in found.items() if name == "base_rate"}


def _rows(scores: PurchaseScores) -> Iterable[tuple[Any, ...]]:
    for name in ("auc", "calibration_error", "base_rate", "log_loss"):
        yield name.replace("_", " "), _told(scores.window).get(name), _told(scores.whole).get(name)


PurchaseFamily.surface = Surface(
    doc="The calibrated probability that a view leads to a purchase within 6 hours, with the parts of the score.",
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
    ),
    hears=(SILENCES,),
    detectors=(*Watching(labels_block).watched(), *(f"{LOSS}_{test}" for test in LOSS_TESTS)),
    full_by_design=tuple(f"propensity_{table}" for table in ("open_views", "shoppers", "items", "sold", "weights")),
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
                " `parts` (natural logarithm).",
                "Items that are out of stock or retired ([items](publishing.md#items)) are left out.",
                "`base_rate` is the share of the newest views that led to a purchase; null before the first label.",
            ),
        ),
    ),
    tables=(
        Table(
            title="Purchase propensity",
            columns=("score", "newest 10,000 views", "whole stream"),
            rows=_rows,
            percent=False,
        ),
    ),
    charts=(
        Chart(
            title="AUC of the order of views by probability",
            lines=lambda scores: _lines(scores, "auc"),
            floor=0.5,
        ),
        Chart(title="calibration error", lines=lambda scores: _lines(scores, "calibration_error")),
    ),
    quality=Quality(name="AUC of purchase chances", of=lambda scores: _told(scores.window).get("auc")),
    teaches=dict.fromkeys(LEARNED_TYPES, "its time: views whose 6 hours are over are learned")
    | {
        "view_item": "a view that may lead to a purchase, the views of the visit, and mean prices",
        "add_to_cart": "the carts of the visit",
        "purchase": "which views led to a purchase, and the shopper's purchases",
        "remove_from_cart": "the carts of the visit, one less",
        "refund": "that views led to no purchase after all",
    },
    inputs={"view_item": "purchase propensity has no input", "purchase": "purchase propensity has no labels"},
    benchmark="benchmarks.calibration",
)


def _lines(scores: PurchaseScores, metric: str) -> dict[str, float]:
    views = (("newest", scores.window), ("whole", scores.whole))
    return {name: found[metric] for name, found in views if metric in _told(found)}
