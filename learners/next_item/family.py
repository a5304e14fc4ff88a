"""The family of next-item recommendation: the fast learners, the blend, their scores and the drift of views.

The fold does not use torch: the deep model's answers are contained in judgements and, over HTTP, are an argument.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, ClassVar, Final

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from headrace.announcement import Announcement, announced, unusable
from headrace.events import LEARNED_TYPES, Event, Item, Rejection
from headrace.log.protocol import Record
from headrace.state import State
from headrace.surface import STATE_INDEPENDENT, Artifact, Chart, Metric, Now, Refused, Route, Surface, Table, Watched
from headrace.topics import MODELS
from learners.desk.family import Desk
from learners.family import Family, Merges, Moment, Move, Part
from learners.next_item import judgement
from learners.next_item.blend import Blend
from learners.next_item.browsing import FULL_BY_DESIGN, PARTS, Browsing, parts_of_0_3_0
from learners.next_item.choices import TAKEN_BACK_BY
from learners.next_item.contexts import CHOICE_EVENTS, VIEW_EVENTS
from learners.next_item.judgement import Pooled, list_length, pool
from learners.next_item.members import KINDS
from learners.next_item.popularity import Popularity
from learners.parts.drift import DISTANCES, LOSS_TESTS, InputDrift, LossDrift
from learners.parts.prequential import Ranking
from learners.protocol import BLEND, DEEP, Context, Listed, Scores, top
from learners.succession import Succession

MISS: Final = "blend_miss"
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


class RecommendationQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of a request for recommendations."""

    shopper: Annotated[str, Meta(min_length=1, max_length=128, description="The shopper's id, percent-encoded.")]
    n: Annotated[int, Meta(ge=1, le=1_000, description="Number of items to return.")] = 20


class Recommended(Struct, frozen=True):
    """One recommended item. `score` is the blend's probability of it; popular items that fill up a list have 0."""

    item_id: str
    score: float


class Recommendations(Struct, frozen=True):
    """Recommendations for a shopper. `recommendation_id` is new for each answer, for use in logs of your own."""

    recommendation_id: str
    shopper: str
    items: list[Recommended]


class NextItemFamily(Family):
    """Learns to predict each shopper's next item, and follows which deep model is champion.

    `champion` is the announcement of the model in use, or None.

    Answers have no item that is out of stock or retired, as far as the shop states it to the desk; without a desk, all
    items are available. Judges rank such items too: their pages can be viewed, so an event may have them as its true
    item, and scores stay comparable with those of a shop that states nothing.
    """

    name: ClassVar[str] = "next_item"
    consults: ClassVar[tuple[str, ...]] = (Desk.name,)
    builds_on: ClassVar[tuple[str, ...]] = (Desk.name,)
    merges: ClassVar[Merges] = Merges(
        "not",
        per_shopper="contexts",
        why="transitions, neighbours and the blend's weights depend on the order of all shoppers' events",
    )
    # Version 2 of the blend has the same form; its arithmetic no longer depends on the processor.
    parts: ClassVar[Mapping[str, Part]] = {
        "champion": Part(), "succession": Part(), **PARTS, "blend": Part(2, {1: lambda state: state}),
        "ranking": Part(), "input_drift": Part(), "miss_drift": Part(),
    }  # fmt: skip

    def __init__(self, settings: NextItemSettings, reads: Mapping[str, Family]) -> None:
        self.settings = settings
        self.champion: Announcement | None = None
        self.succession = Succession()
        self.browsing = Browsing(items_max=settings.items_max, shoppers_max=settings.shoppers_max)
        self.blend = Blend((*KINDS, DEEP))
        self.ranking = {name: Ranking() for name in RANKED}
        self.input_drift = InputDrift()
        self.miss_drift = LossDrift(MISS)
        self._desk = reads.get(Desk.name)

    def learn(self, event: Event, now: Moment) -> None:
        """Learn from one event."""
        if event.counts and event.type in VIEW_EVENTS:
            line = event.data.items[0]
            unseen = self.browsing.catalogue.slot(line.item_id) is None
            for alarm in self.input_drift.observe(line.item_id, line.item_category, line.price, unseen=unseen):
                now.alarm(alarm)
        self.browsing.learn(event)

    def recommend(self, shopper: str, time_ms: int, n: int, deep: "Listed | None" = None) -> list[tuple[str, float]]:
        """Return the blend's n best items for a shopper, best first, with scores, without what was just
        seen or bought (`learners.next_item.recent`).

        An unknown shopper gets popular items. Unavailable items are left out. Changes nothing.

        Args:
            deep: the deep model's items and scores for this shopper's context, if there is a model.
        """
        context = self.browsing.contexts.newest(shopper, time_ms)
        seen = set(self.browsing.ids([*self.browsing.recent.slots(shopper, time_ms)]))
        if context.start == len(context.items) and context.items:  # between sessions: use all remembered items
            context = context._replace(start=0)
        lists = self.browsing.lists(context)
        if deep is not None:
            lists[DEEP] = deep
        pooled = pool(lists)
        remembered = self.browsing.ids(context.items)
        traits = self.browsing.traits_of(pooled.candidates, remembered, context.start, time_ms)
        best = top(self.blended(pooled, len(context.items) - context.start, traits), len(pooled.candidates))
        named = ((pooled.candidates[slot], float(score)) for slot, score in zip(*best, strict=True))
        available = self._available
        answer = [(item, score) for item, score in named if item not in seen and available(item)][:n]
        if len(answer) < n:  # popular items fill up a list that is too short
            given = seen | {item for item, _ in answer}
            more = ((item, 0.0) for item in self._popular(context) if item not in given and available(item))
            answer += islice(more, n - len(answer))
        return answer

    def _available(self, item: str) -> bool:
        return self._desk.available(item) if isinstance(self._desk, Desk) else True

    def _popular(self, context: Context) -> Iterator[str]:
        """Yield items, the most popular first; those behind the leaders only if so many are asked for."""
        popularity = self.browsing.members[Popularity.name]
        assert isinstance(popularity, Popularity)
        slots, _ = top(popularity.predict(context), popularity.leaders_max)
        leaders = self.browsing.ids(slots.tolist())
        yield from leaders
        yield from (item for item in self.browsing.ids(popularity.ranked().tolist()) if item not in leaders)

    def prompt(self, shopper: str, time_ms: int) -> list[str]:
        """Return the deep model's input for a shopper; it is empty for a shopper without a context."""
        return self.browsing.prefix(self.browsing.contexts.newest(shopper, time_ms))

    def blended(self, pooled: Pooled, prefix: int, traits: NDArray[np.uint8]) -> Scores:
        """Return the blend's scores of pooled candidates with these traits (`Browsing.traits_of`)."""
        return self.blend.predict(pooled.lists, prefix, traits.__getitem__)

    def knows(self, shopper: str) -> bool:
        """Return whether the shopper has a context."""
        return shopper in self.browsing.contexts

    def move(self, move: Move) -> None:
        """Move a session's trail to another shopper."""
        self.browsing.move(move)

    def absorb(self, data: bytes, now: Moment) -> None:
        """Learn the blend's weights and all ranking scores from judgements."""
        for one in judgement.decode(data):
            weight = 1 / one.inclusion
            for name, rank in one.ranks.items():
                self.ranking[name].observe(rank or None, weight)
            if one.session_length <= watched_prefix_max:
                for alarm in self.miss_drift.observe(float(one.ranks[BLEND] == 0)):
                    now.alarm(alarm, one.partition, one.offset)
            target, traits = one.target(), one.trait_matrix()
            describe = None if traits is None else traits.__getitem__
            lists = one.lists() if target >= 0 else {}  # of an item that no member listed the blend learns only that
            self.blend.learn(lists, one.session_length, target, describe)

    def hear_item(self, item: Item) -> None:
        """Take over the name, category and price that the shop states of an item."""
        self.browsing.hear_item(item)

    def hear(self, topic: str, record: Record, now: Moment) -> Rejection | None:
        """Note which model is champion now, by the rule of `learners.succession`."""
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
        found = {one.name: Watched(one.score, one.threshold) for one in self.input_drift.distances}
        return {**found, MISS: Watched(self.miss_drift.mean)}

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        return self.browsing.bounds()

    def state(self) -> State:
        """Return the complete state."""
        return {
            "champion": msgspec.to_builtins(self.champion),
            "succession": self.succession.state(),
            **self.browsing.state(),
            "blend": self.blend.state(),
            "ranking": {name: ranking.state() for name, ranking in self.ranking.items()},
            "input_drift": self.input_drift.state(),
            "miss_drift": self.miss_drift.state(),
        }

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""
        if "champion" in state:
            self.champion = msgspec.convert(state["champion"], Announcement | None)
        if "succession" in state:
            self.succession = Succession.from_state(state["succession"])
        self.browsing.restore(state)
        if "blend" in state:
            self.blend = Blend.from_state(state["blend"], self.blend.members)
        for name, kept in state.get("ranking", {}).items():
            if name in self.ranking:
                self.ranking[name] = Ranking.from_state(kept)
        if "input_drift" in state:
            self.input_drift = InputDrift.from_state(state["input_drift"])
        if "miss_drift" in state:
            self.miss_drift = LossDrift.from_state(state["miss_drift"])

    @classmethod
    def from_0_3_0(cls, fold: State) -> tuple[dict[str, Any], State] | None:
        """Return the settings and parts in the state of 0.3.0's online shard, which heard no requests."""
        if "blend" not in fold:
            return None
        names = ("champion", "blend", "ranking", "input_drift", "miss_drift")
        parts = {name: fold[name] for name in names} | {"succession": Succession().state()}
        return fold["settings"], {**parts, **parts_of_0_3_0(fold["browsing"])}

    def shares(self) -> dict[str, float]:
        """Return each member's share of the blend's utility for the members' best candidates; below 0 counts as 0."""
        utilities = {member: max(0.0, weight) for member, weight in self.blend.weights().items()}
        total = sum(utilities.values())
        return {member: utility / total if total else 0.0 for member, utility in utilities.items()}

    # Functions that the surface names, so that the declaration below is data.

    def answer(self, query: RecommendationQuery, now: Now) -> Recommendations:
        """Return the answer to a request over HTTP."""
        most = self.settings.recommendations_max
        if query.n > most:
            raise Refused(f"n: wanted 1 to {most}, found {query.n}")
        found = self.recommend(query.shopper, now.time_ms, query.n, now.artifact_answer)
        return Recommendations(now.id, query.shopper, [Recommended(*one) for one in found])

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


def _ask(model: Any, prompt: Sequence[str]) -> Listed:
    answer: Listed = model.predict([prompt], list_length)[0]
    return answer


NextItemFamily.surface = Surface(
    doc="A shopper's next item: popularity, transitions, session-kNN, revisits and the deep model, blended.",
    settings=NextItemSettings,
    scores=NextItemScores,
    hears=(MODELS,),
    judge="learners.next_item.judge:NextItemJudge",
    judgements=list[judgement.Judgement],
    former_judgement_keys=("online",),
    full_by_design=FULL_BY_DESIGN,
    artifact=Artifact(
        "model",
        current=lambda family: family.champion,
        load="learners.deep.model:load_to_judge",
        load_to_answer="learners.deep.answering:load_to_answer",
        refresh=lambda family, model: family.browsing.add_late_items_to(model),
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
    detectors=(*DISTANCES, *(f"{MISS}_{test}" for test in LOSS_TESTS)),
    routes=(
        Route(
            path="/v1/recommendations/{shopper}",
            doc="The items that a shopper is most likely to view or buy next, best first.",
            query=RecommendationQuery,
            answer=Recommendations,
            call=NextItemFamily.answer,
            prompt=lambda family, query, now: family.prompt(query.shopper, now.time_ms),
            ask=_ask,
            example=(
                "/v1/recommendations/shopper-1?n=3",
                """{
  "recommendation_id": "6cbea72fe100429386c64a1e6b768be2",
  "shopper": "shopper-1",
  "items": [
    {"item_id": "item-00853", "score": 0.0154},
    {"item_id": "item-00847", "score": 0.0110},
    {"item_id": "item-00888", "score": 0.0108}
  ],
  "model": "r0005-fefda4b4",
  "fresh": {"entry": 153, "newest_event_ms": 1738529381084, "behind_s": 0.065}
}""",
            ),
            notes=(
                "A shopper without events gets the items that are popular now.",
                "Items that are out of stock or retired ([items](publishing.md#items)) are left out.",
                "The upper bound of `n` is also a [setting](settings.md#next_item), `recommendations_max`.",
            ),
        ),
    ),
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
    tiles=_tiles,
    teaches=dict.fromkeys(LEARNED_TYPES, "that the visit goes on")
    | dict.fromkeys(CHOICE_EVENTS, "which item comes next, if it is new in the session, and its attributes")
    | dict.fromkeys(VIEW_EVENTS, "which item comes next, its attributes, and the drift of what is viewed")
    | dict.fromkeys(TAKEN_BACK_BY, "one step less to the item, if the cart or the order taught it"),
    inputs={"view_item": "the drift of views has no input"},
    headlines=(
        (
            "headrace_prequential_score",
            {"learner": BLEND, "metric": "recall", "k": "20", "window": "recent"},
            "recall@20 now",
        ),
    ),
    benchmark="benchmarks.continual",
)
