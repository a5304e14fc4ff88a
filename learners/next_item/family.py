"""The family of next-item recommendation: the fast learners, the blend, their scores and the drift of views.

The fold does not use torch: the deep model's answers are contained in judgements and, over HTTP, are an argument.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Final

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from headrace.announcement import Announcement, announced, unusable
from headrace.events import LEARNED_TYPES, Event, Item, Rejection
from headrace.log.protocol import Record
from headrace.rules import EVERY
from headrace.state import State
from headrace.surface import STATE_INDEPENDENT, Artifact, Chart, Metric, Quality, Surface, Table, Watched
from headrace.topics import EXPERIMENTS, EXPOSURES, MODELS, POLICIES, RULES, SILENCES
from learners.desk.family import Desk
from learners.family import Family, Merges, Moment, Move, Part
from learners.next_item import judgement
from learners.next_item.answering import Answering
from learners.next_item.blend import Blend
from learners.next_item.browsing import FULL_BY_DESIGN, PARTS, Browsing, parts_of_0_3_0
from learners.next_item.choices import TAKEN_BACK_BY
from learners.next_item.contexts import CHOICE_EVENTS, VIEW_EVENTS
from learners.next_item.exposure import Exposures
from learners.next_item.history import History
from learners.next_item.history import from_version_1 as history_from_version_1
from learners.next_item.history import from_version_2 as history_from_version_2
from learners.next_item.inspecting import Inspecting
from learners.next_item.members import KINDS
from learners.next_item.ranking import Learned
from learners.next_item.routes import ROUTES
from learners.next_item.rulebook import Rulebook
from learners.next_item.together import Together
from learners.next_item.watching import DETECTORS, Watching
from learners.next_item.watching import from_version_2 as watching_from_version_2
from learners.parts.assignment import Assignment
from learners.parts.drift import LOSS_TESTS, LossDrift, loss_drift_from_version_1
from learners.parts.policies import Policies
from learners.parts.prequential import Ranking
from learners.protocol import BLEND, DEEP, Scores
from learners.stock.family import StockFamily
from learners.succession import Succession

MISS: Final = "blend_miss"
ORDER_EVENTS: Final = frozenset({"purchase", "refund"})
RANKED: Final = (*KINDS, DEEP, BLEND)

watched_prefix_max: Final = 3
"""Most items of a session before a step whose loss the drift detectors observe. Detectors assume independent losses;
a single bot that reads the whole catalogue would otherwise cause a hundred consecutive misses and a false alarm."""


class NextItemSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section `[next_item]`."""

    items_max: Annotated[
        int,
        Meta(ge=1, le=1 << 20, description="Most items in the catalogue; the items seen least recently are evicted."),
    ] = 131_072
    shoppers_max: Annotated[
        int,
        Meta(ge=1, description="Most shoppers whose context is kept; the shoppers seen least recently are evicted."),
    ] = 100_000
    judge_seed: Annotated[
        int,
        Meta(
            description="Seed of the sample of judged events, used when not all events can be judged.",
            extra=STATE_INDEPENDENT,
        ),
    ] = 0
    bought_max: Annotated[
        int,
        Meta(
            ge=1,
            description="Most items that are remembered as bought, of all shoppers, for the rule `bought`; those of the"
            " shopper who bought least recently are forgotten first.",
        ),
    ] = 500_000
    seen_max: Annotated[
        int,
        Meta(
            ge=1,
            description="Most items that are remembered as seen, of all shoppers, for the rule `seen`; those of the"
            " shopper who saw one least recently are forgotten first. As many are remembered as put into carts, and as"
            " put on wishlists.",
        ),
    ] = 500_000
    recommendations_max: Annotated[
        int, Meta(ge=1, le=1_000, description="Largest `n` that a request may ask for.", extra=STATE_INDEPENDENT)
    ] = 100


class Ranked(Struct, frozen=True):
    """One learner's prequential scores: over the newest judgements and over the whole stream."""

    judged: int
    window: dict[str, float]
    whole: dict[str, float]


class NextItemScores(Struct, frozen=True):
    """The family's part of a record of `scores`: the deep model's version and the scores of each learner."""

    champion: str
    ranking: dict[str, Ranked]


class NextItemFamily(Family):
    """Learns to predict each shopper's next item, and follows which deep model is champion.

    `champion` is the announcement of the model in use, or None.

    Answers obey the rules that the shop states (`learners.next_item.rules`). They have no item that is out of stock or
    retired, as far as the shop states it to the desk; without a desk, all items are available. Judges rank
    all items: the pages of those that are left out can be viewed, so an event may have them as its true item, and
    scores stay comparable with those of a shop that states nothing.
    """

    name: ClassVar[str] = "next_item"
    consults: ClassVar[tuple[str, ...]] = (Desk.name, StockFamily.name)
    builds_on: ClassVar[tuple[str, ...]] = (Desk.name, StockFamily.name, "experiments")
    merges: ClassVar[Merges] = Merges(
        "not",
        per_shopper="contexts",
        why="transitions, neighbours and the blend's weights depend on the order of all shoppers' events",
    )
    # Other detectors than those of versions 1 and 2 watch the input; they begin anew.
    # Versions of the blend have one form. The arithmetic of 2 no longer depends on the processor; that of 3 is quicker.
    parts: ClassVar[Mapping[str, Part]] = {
        "champion": Part(), "succession": Part(), **PARTS, "blend": Part(3, dict.fromkeys((1, 2), lambda state: state)),
        "ranking": Part(), "miss_drift": Part(2, {1: loss_drift_from_version_1}), "rules": Part(),
        "experiments": Part(), "policies": Part(), "exposures": Part(),
        "input_drift": Part(
            3, {1: lambda state: {"silences": {}}, 2: watching_from_version_2}, needs=("catalogue",)),
        "history": Part(3, {1: history_from_version_1, 2: history_from_version_2}),
        "together": Part(needs=("catalogue",)),
    }  # fmt: skip

    def __init__(self, settings: NextItemSettings, reads: Mapping[str, Family]) -> None:
        self.settings = settings
        self.champion: Announcement | None = None
        self.succession = Succession()
        self.browsing = Browsing(items_max=settings.items_max, shoppers_max=settings.shoppers_max)
        self.blend = Blend((*KINDS, DEEP))
        self.ranking = {name: Ranking() for name in RANKED}
        self.watching = Watching()
        self.miss_drift = LossDrift(MISS)
        self.history = History(**self._history_bounds)
        self.exposures, self.assignment, self.policies = Exposures(), Assignment(), Policies()
        self.rulebook = Rulebook(self.exposures)
        self.together = Together()
        self.browsing.dependants = [self.together, self.watching]
        desk = reads.get(Desk.name)
        self.desk = desk if isinstance(desk, Desk) else None
        stock = reads.get(StockFamily.name)
        self.stock = stock if isinstance(stock, StockFamily) else None
        self._answering: Answering | None = None
        self._inspecting: Inspecting | None = None

    @property
    def _history_bounds(self) -> dict[str, int]:
        one = self.settings
        return {"bought_max": one.bought_max, "seen_max": one.seen_max, "items_max": one.items_max}

    def learn(self, event: Event, now: Moment) -> None:
        """Learn from one event."""
        if event.counts:
            slot = self.browsing.catalogue.slot(event.data.items[0].item_id) if event.data.items else None
            for alarm in self.watching.observe(event, slot, returning=event.shopper in self.browsing.contexts):
                now.alarm(alarm)
        self.browsing.learn(event)
        self.history.learn(event)
        if event.counts and event.type in ORDER_EVENTS:
            lines = dict.fromkeys(line.item_id for line in event.data.items)
            slots = [slot for item in lines if (slot := self.browsing.catalogue.slot(item)) is not None]
            if event.type == "purchase":
                self.together.learn(slots, event.time_ms)
            else:
                for slot in slots:
                    self.together.take_back(slot, event.time_ms)

    @property
    def _learned(self) -> Learned:
        return Learned(self.browsing, self.blend, self.together)

    @property
    def answering(self) -> Answering:
        """What answers requests from this fold."""
        if self._answering is None:
            self._answering = Answering(
                self._learned,
                self.history,
                self.rulebook,
                self.desk,
                stock=self.stock,
                n_max=self.settings.recommendations_max,
                assignment=self.assignment,
                policies=self.policies,
            )
            self.browsing.dependants.append(self._answering)
        return self._answering

    @property
    def inspecting(self) -> Inspecting:
        """What says what this fold knows."""
        if self._inspecting is None:
            self._inspecting = Inspecting(self._learned, self.history, self.desk, self.answering.shelf)
        return self._inspecting

    def recommend(self, shopper: str, time_ms: int, n: int, model: Any = None) -> list[tuple[str, float]]:
        """Return the blend's n best items for a shopper, best first, with scores, by the rules of every placement."""
        return self.answering.choose(shopper, time_ms, n, model, self.rulebook.of(EVERY)).items

    def blended(self, lists: Mapping[str, Scores], prefix: int, traits: NDArray[np.uint8]) -> Scores:
        """Return the blend's scores of pooled candidates, whose slots are indices into their traits."""
        return self.blend.predict(lists, prefix, traits.__getitem__)

    def knows(self, shopper: str) -> bool:
        """Return whether the shopper has a context, or a history."""
        return shopper in self.browsing.contexts or self.history.knows(shopper)

    def move(self, move: Move) -> None:
        """Move a session's trail, and what was seen and bought, to another shopper."""
        _, slots = self.browsing.move(move) or (0, [])
        self.history.move(move, self.browsing.ids(slots))

    def absorb(self, data: bytes, now: Moment) -> None:
        """Learn the blend's weights and all ranking scores from judgements."""
        for one in judgement.decode(data):
            weight, slot = 1 / one.inclusion, self.browsing.catalogue.slot(one.item)
            for name, rank in one.ranks.items():
                self.ranking[name].observe(rank or None, weight)
            if one.session_length <= watched_prefix_max:
                alarms = self.miss_drift.observe(float(one.ranks[BLEND] == 0), self.watching.category_of(slot))
                for alarm in self.watching.silences.apply(alarms, now.time_ms):
                    now.alarm(alarm, one.partition, one.offset)
            for alarm in self.watching.observe_judgement(one, slot):
                now.alarm(alarm, one.partition, one.offset)
            target, traits = one.target(), one.trait_matrix()
            describe = None if traits is None else traits.__getitem__
            lists = one.lists() if target >= 0 else {}  # of an item that no member listed the blend learns only that
            self.blend.learn(lists, one.session_length, target, describe)

    def hear_item(self, item: Item) -> None:
        """Take over the name, category and price that the shop states of an item."""
        self.browsing.hear_item(item)

    def hear(self, topic: str, record: Record, now: Moment) -> Rejection | None:
        """Note rules, an experiment, a policy, what steers answers, a silence, or which model is champion."""
        if topic == RULES:
            return self.rulebook.hear(record)
        if topic == EXPERIMENTS:
            return self.assignment.hear(record)
        if topic == POLICIES:
            return self.policies.hear(record)
        if topic == EXPOSURES:
            rejection = self.exposures.hear(record)
            self.rulebook.steer()
            return rejection
        if topic == SILENCES:
            return self.watching.silences.hear(record, now.time_ms)
        announcement = announced(record)
        if announcement is None:
            return unusable(record)
        if self.succession.hear(announcement, record.offset):
            self.champion = announcement if announcement.blob else None
        return None

    def settle(self, now: Moment) -> None:
        """Let the traits of this entry's events show."""
        self.browsing.traits.settle()

    def scores(self) -> NextItemScores:
        """Return the prequential scores of each learner."""
        return NextItemScores(
            champion=self.champion.version if self.champion else "",
            ranking={
                name: Ranked(ranking.judged, ranking.scores("window"), ranking.scores("whole"))
                for name, ranking in self.ranking.items()
            },
        )

    def watched(self) -> dict[str, Watched]:
        """Return the distances of the inputs and the blend's rate of misses, by detector."""
        return {**self.watching.watched(), MISS: Watched(self.miss_drift.mean)}

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        together = {f"together_{table}": use for table, use in self.together.bounds().items()}
        stated = self.rulebook.bounds() | self.assignment.bounds() | self.policies.bounds()
        stated |= self.exposures.bounds()
        watched = {"watched_items": (len(self.watching.items), self.settings.items_max)}
        return self.browsing.bounds() | self.history.bounds() | stated | together | watched

    def state(self) -> State:
        """Return the complete state."""
        return {
            "champion": msgspec.to_builtins(self.champion),
            "succession": self.succession.state(),
            **self.browsing.state(),
            "blend": self.blend.state(),
            "ranking": {name: ranking.state() for name, ranking in self.ranking.items()},
            "input_drift": self.watching.state(),
            "miss_drift": self.miss_drift.state(),
            "history": self.history.state(),
            "rules": self.rulebook.state(),
            "experiments": self.assignment.state(),
            "policies": self.policies.state(),
            "exposures": self.exposures.state(),
            "together": self.together.state(),
        }

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""
        self._answering = self._inspecting = None
        if "champion" in state:
            self.champion = msgspec.convert(state["champion"], Announcement | None)
        if "succession" in state:
            self.succession = Succession.from_state(state["succession"])
        if "together" in state:
            self.together = Together.from_state(state["together"])
            self.browsing.dependants = [self.together, self.watching]
        if "input_drift" in state:
            self.watching.restore(state["input_drift"])
        self.browsing.restore(state)  # which lets its dependants forget the items that other bounds evict
        if "blend" in state:
            self.blend = Blend.from_state(state["blend"], self.blend.members)
        for name, kept in state.get("ranking", {}).items():
            if name in self.ranking:
                self.ranking[name] = Ranking.from_state(kept)
        if "miss_drift" in state:
            self.miss_drift = LossDrift.from_state(state["miss_drift"])
        if "history" in state:
            self.history = History.from_state(state["history"], **self._history_bounds)
        if "exposures" in state:
            self.exposures = Exposures.from_state(state["exposures"])
        self.rulebook = Rulebook.from_state(state.get("rules", []), self.exposures)
        if "experiments" in state:
            self.assignment = Assignment.from_state(state["experiments"])
        if "policies" in state:
            self.policies = Policies.from_state(state["policies"])

    @classmethod
    def from_0_3_0(cls, fold: State) -> tuple[dict[str, Any], State] | None:
        """Return the settings and parts in the state of 0.3.0's online shard, which heard no requests or rules."""
        if "blend" not in fold:
            return None
        names = ("champion", "blend", "ranking", "input_drift", "miss_drift")
        parts = {name: fold[name] for name in names} | {"succession": Succession().state()}
        # What was bought and seen before is not known then: folding all anew would cost more than it brings.
        empty = cls(NextItemSettings(), {})
        parts |= {"history": empty.history.state(), "rules": empty.rulebook.state(), "experiments": []}
        parts |= {"policies": [], "exposures": []}
        parts |= {"together": empty.together.state()}
        return fold["settings"], {**parts, **parts_of_0_3_0(fold["browsing"])}

    def shares(self) -> dict[str, float]:
        """Return each member's share of the blend's utility for the members' best candidates; below 0 counts as 0."""
        utilities = {member: max(0.0, weight) for member, weight in self.blend.weights().items()}
        total = sum(utilities.values())
        return {member: utility / total if total else 0.0 for member, utility in utilities.items()}

    # Functions that the surface names, so that the declaration below is data.

    def series(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Yield the scores as a metric's series: learner, metric, length of the list, and part of the stream."""
        for learner, ranking in self.ranking.items():
            for view, window in (("whole", "stream"), ("window", "recent")):
                for name, value in ranking.scores(view).items():  # type: ignore[arg-type]  # a View
                    metric, _, k = name.partition("@")
                    yield (learner, metric, k, window), value


def _rows(scores: NextItemScores) -> Iterable[tuple[Any, ...]]:
    for name, found in scores.ranking.items():
        views = (found.whole, found.window)
        yield name, found.judged, *(view.get(key) for key in ("recall@20", "mrr@20", "ndcg@20") for view in views)


def _tiles(scores: NextItemScores) -> Iterable[tuple[str, str]]:
    blend = scores.ranking[BLEND]
    if blend.judged:
        yield f"{100 * blend.whole['recall@20']:.1f} %", "recall@20 of the blend, whole stream"


def _judged_point(one: judgement.Judgement, *, recall: bool) -> tuple[int, float, Mapping[str, float]]:
    gains = {name: float(rank > 0) if recall else (1 / rank if rank else 0.0) for name, rank in one.ranks.items()}
    return one.time_ms, 1 / one.inclusion, gains


def _quality(scores: NextItemScores) -> float | None:
    """Return the blend's newest recall; None in scores that do not tell it."""
    blend = scores.ranking.get(BLEND)
    return blend.window.get("recall@20") if blend and blend.judged else None


NextItemFamily.surface = Surface(
    doc="A shopper's next item: popularity, transitions, session-kNN, revisits and the deep model, blended.",
    settings=NextItemSettings,
    scores=NextItemScores,
    hears=(MODELS, RULES, EXPERIMENTS, POLICIES, EXPOSURES, SILENCES),
    judge="learners.next_item.judge:NextItemJudge",
    judgements=list[judgement.Judgement],
    former_judgement_keys=("online",),
    full_by_design=(*FULL_BY_DESIGN, "bought_items", "seen_items", "carted_items", "wished_items", "watched_items"),
    artifact=Artifact(
        "model",
        current=lambda family: family.champion,
        load="learners.deep.model:load_to_judge",
        load_to_answer="learners.deep.answering:load_to_answer",
        refresh=lambda family, model: family.browsing.add_late_items_to(model),
        tried=lambda family: family.assignment.models(),
    ),
    metrics=(
        Metric(
            name="headrace_prequential_score",
            help="What learners predicted against what came next; the whole stream or its recent part.",
            labels=("learner", "metric", "k", "window"),
            read=NextItemFamily.series,
            read_interval_s=1.0,
        ),
        Metric(
            name="headrace_blend_weight_ratio",
            help="Share of a learner in the utility that the best item of each gets from the blend.",
            labels=("learner",),
            read=lambda family: (((member,), share) for member, share in family.shares().items()),
            read_interval_s=1.0,
        ),
    ),
    labels={"k": "lengths of lists that are scored: 10 and 20"},
    detectors=(*DETECTORS, *(f"{MISS}_{test}" for test in LOSS_TESTS)),
    routes=ROUTES,
    tables=(
        Table(
            title="Learners",
            columns=("learner", "judged", "recall@20", "newest", "MRR@20", "newest", "NDCG@20", "newest"),
            rows=_rows,
            note="Prequential, weighted by the inverse probability of being judged. Newest: the last 2,000 judgements."
            " The deep model is judged from its first promotion on.",
            bold=BLEND,
        ),
    ),
    charts=(
        Chart(
            title="recall@20 of the next item, predicted before it was learned",
            judged=lambda one: _judged_point(one, recall=True),
            caption="Each learner predicts an event before it learns it.",
            percent=True,
            bold=BLEND,
            truth="recall_at_20",
        ),
        Chart(title="MRR@20", judged=lambda one: _judged_point(one, recall=False), bold=BLEND),
    ),
    quality=Quality(
        name="recall@20 of the blend",
        of=_quality,
        percent=True,
    ),
    tiles=_tiles,
    teaches=dict.fromkeys(LEARNED_TYPES, "that the visit goes on")
    | dict.fromkeys(CHOICE_EVENTS, "which item comes next, if it is new in the session, and its attributes")
    | dict.fromkeys(VIEW_EVENTS, "which item comes next, its attributes, and the drift of what is viewed")
    | {"purchase": "which item comes next, if it is new in the session, its attributes, and that it was bought"}
    | dict.fromkeys(TAKEN_BACK_BY, "one step less to the item, if the cart or the order taught it")
    | {"refund": "one step less to the item, if the order taught it, and that it was not bought"},
    inputs={"view_item": "the drift of what is viewed has no input"},
    headlines=(
        (
            "headrace_prequential_score",
            {"learner": BLEND, "metric": "recall", "k": "20", "window": "recent"},
            "recall@20 now",
        ),
    ),
    benchmark="benchmarks.continual",
)
