"""The family of placements: what answers showed at each placement, and what came of it, by model.

It hears `impressions` and learns from events that name an answer by `recommendation_id`
(`learners.placements.attribution`).
"""

from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Annotated, Any, ClassVar, Final, get_args

from msgspec import Meta, Struct

from headrace.events import Event, Rejection
from headrace.impressions import decode
from headrace.log.protocol import Record
from headrace.state import State
from headrace.surface import Chart, Metric, Surface, Table
from headrace.topics import IMPRESSIONS
from learners.family import Family, Merges, Moment, Move, Part
from learners.placements.answers import Answer, Answers, codes_of
from learners.placements.attribution import CARTS, CLICKS, ORDERS, Attribution, Outcome
from learners.placements.tallies import Group, Tallies
from learners.placements.touches import Touches

scored_groups_max: Final = 20
"""Most groups in a record of `scores`: those that answered last."""
GROUP: Final = ("route", "placement", "model")
TABLES: Final = ("answers", "touches", "held_uses", "groups")
_USED: Final = CLICKS | CARTS


class PlacementsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section `[placements]`."""

    answers_max: Annotated[
        int,
        Meta(
            ge=1,
            description="Most answers that are remembered; the oldest are forgotten first. A click that names a"
            " forgotten answer is not attributed, so this should be what servers answer in the time that shoppers take"
            " to click; an answer of ten items takes about 0.4 kB.",
        ),
    ] = 200_000
    touches_max: Annotated[
        int,
        Meta(
            ge=1,
            description="Most clicks and carts, of all shoppers, to which a later order is attributed; those of the"
            " shopper who was idle longest are forgotten first.",
        ),
    ] = 100_000
    held_max: Annotated[
        int,
        Meta(ge=1, description="Most lines of events that are held because their answer is not known yet."),
    ] = 10_000
    groups_max: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000,
            description="Most groups (route, placement and model) that are tallied; the group that answered least"
            " recently is forgotten first.",
        ),
    ] = 200


class PlacementScore(Struct, frozen=True):
    """What was shown in a group, and what came of it; see `learners.placements.tallies.Tally`. `click_through` is the
    share of the recent answers that had a click."""

    route: str
    placement: str
    model: str
    answers: int
    items: int
    clicked_answers: int
    clicks: int
    carts: int
    orders: int
    units: float
    revenue: float
    click_through: float


class PlacementScores(Struct, frozen=True):
    """The family's part of a record of `scores`: the groups that answered last, the most recent one first."""

    groups: list[PlacementScore]


class PlacementsFamily(Family):
    """Counts, for each placement and model, what was shown, clicked, put into carts and bought."""

    name: ClassVar[str] = "placements"
    shard: ClassVar[str] = "finetune"
    merges: ClassVar[Merges] = Merges(
        "not",
        per_shopper="touches",
        why="each slice hears all answers, so that a sum of two would count them twice",
    )
    parts: ClassVar[Mapping[str, Part]] = dict.fromkeys(("answers", "touches", "tallies", "held"), Part())

    def __init__(self, settings: PlacementsSettings, reads: Mapping[str, Family]) -> None:
        self.settings = settings
        self.attribution = Attribution(
            answers_max=settings.answers_max, touches_max=settings.touches_max,
            held_max=settings.held_max, groups_max=settings.groups_max,
        )  # fmt: skip

    def learn(self, event: Event, now: Moment) -> None:
        """Attribute an event that names an answer, or a purchase; none of a shopper who is over the daily budget."""
        kind = event.type
        if kind in ORDERS:
            if event.counts:
                self.attribution.buy(event)
        elif event.data.recommendation_id and kind in _USED and event.counts:
            self.attribution.note(event)

    def hear(self, topic: str, record: Record, now: Moment) -> Rejection | None:
        """Remember and tally what an answer showed."""
        found = decode(record)
        if isinstance(found, Rejection):
            return found
        items = [one.item_id for one in found.items]
        # The append time goes by the log's clock, as the shop's time does; a topic with producers' times tells none.
        answer = Answer(
            Group(found.route, found.placement, found.model), record.time_ms or now.time_ms, codes_of(items)
        )
        self.attribution.hear(found.recommendation_id, answer, len(items), now.time_ms)
        return None

    def move(self, move: Move) -> None:
        """Move the touches of a session to another shopper."""
        self.attribution.move(move)

    def knows(self, shopper: str) -> bool:
        """Return whether a click or a cart of the shopper is remembered."""
        return shopper in self.attribution.touches

    def scores(self) -> PlacementScores:
        """Return the tallies of the groups that answered last."""
        newest = list(self.attribution.tallies)[: -scored_groups_max - 1 : -1]
        return PlacementScores(
            [
                PlacementScore(
                    *one.group, one.answers, one.items, one.clicked_answers, one.clicks, one.carts, one.orders,
                    one.units, one.revenue, one.click_through,
                )
                for one in newest
            ]
        )  # fmt: skip

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        return {f"placement_{table}": use for table, use in self.attribution.bounds().items()}

    def state(self) -> State:
        """Return the complete state."""
        one = self.attribution
        return {
            "answers": one.answers.state(), "touches": one.touches.state(), "tallies": one.tallies.state(),
            "held": one.held_state(),
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""
        one, settings = self.attribution, self.settings
        if "answers" in state:
            one.answers = Answers.from_state(state["answers"], settings.answers_max)
        if "touches" in state:
            one.touches = Touches.from_state(state["touches"], settings.touches_max)
        if "tallies" in state:
            one.tallies = Tallies.from_state(state["tallies"], settings.groups_max)
        if "held" in state:
            one.restore_held(state["held"])

    @classmethod
    def from_0_3_0(cls, fold: State) -> tuple[dict[str, Any], State] | None:
        """Return an empty state beside the fine-tuner's: in 0.3.0 no impressions were logged."""
        return ({}, cls(PlacementsSettings(), {}).state()) if "material" in fold else None

    def outcomes(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Yield the number of uses, by outcome."""
        for outcome, count in self.attribution.outcomes.items():
            yield (outcome,), count

    def evictions(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Yield the number of evictions, by table."""
        for table, count in self.attribution.evictions().items():
            yield (table,), count


def _metric(field: str, name: str, text: str, kind: Any = "counter") -> Metric:
    """Return a metric with one series for each group, read from a field of its tally."""
    value = attrgetter(field)

    def read(family: PlacementsFamily) -> Iterator[tuple[tuple[str, ...], float]]:
        for one in family.attribution.tallies:
            yield one.group, value(one)

    return Metric(name=name, help=text, kind=kind, labels=GROUP, read=read)


def _rows(scores: PlacementScores) -> Iterable[tuple[Any, ...]]:
    for one in scores.groups:
        name = f"{one.placement or one.route}, {one.model or 'no model'}"
        yield name, one.answers, one.click_through, one.clicks, one.orders, one.units, one.revenue


def _lines(scores: PlacementScores) -> dict[str, float]:
    """Return the click-through of each placement, by the model that answered there last."""
    found: dict[str, float] = {}
    for one in scores.groups:
        found.setdefault(one.placement or one.route, one.click_through)
    return found


PlacementsFamily.surface = Surface(
    doc="What answers showed at each placement and by each model, and what was clicked, put into carts and bought.",
    settings=PlacementsSettings,
    scores=PlacementScores,
    hears=(IMPRESSIONS,),
    full_by_design=tuple(f"placement_{table}" for table in TABLES),
    labels={
        "placement": "the placements that requests name, within `placements.groups_max`",
        "model": "versions of promoted models, within `placements.groups_max`",
        "attribution": "`learners.placements.attribution.Outcome`",
    },
    metrics=(
        _metric("answers", "headrace_placement_answers_total", "Answers that were shown."),
        _metric("items", "headrace_placement_items_total", "Items that were shown in answers."),
        _metric("clicked_answers", "headrace_placement_clicked_answers_total", "Answers with a click."),
        _metric("clicks", "headrace_placement_clicks_total", "Items of answers that were clicked, each once."),
        _metric("carts", "headrace_placement_carts_total", "Items of answers that were put into carts, each once."),
        _metric("orders", "headrace_placement_orders_total", "Orders with an item of an answer, for each answer."),
        _metric("units", "headrace_placement_units_total", "Pieces that were bought of items of answers."),
        _metric("revenue", "headrace_placement_revenue_total", "Their worth, in the shop's currency."),
        _metric(
            "click_through", "headrace_placement_click_through_ratio",
            "Share of the answers that had a click; those of a day ago count half.", "gauge",
        ),
        Metric(
            name="headrace_placement_uses_total",
            help="Lines of events that name an answer, by what became of them.",
            kind="counter",
            labels=("attribution",),
            label_values=get_args(Outcome),
            read=PlacementsFamily.outcomes,
        ),
        Metric(
            name="headrace_placement_evictions_total",
            help="Entries of the family's tables that were evicted, by table.",
            kind="counter",
            labels=("table",),
            label_values=TABLES,
            read=PlacementsFamily.evictions,
        ),
    ),
    tables=(
        Table(
            title="Placements",
            columns=("placement, model", "answers", "click-through", "clicks", "orders", "units", "revenue"),
            rows=_rows,
            percent=False,
            note="Click-through: the share of the answers that had a click; those of a day ago count half."
            " Orders, units and revenue are of items that were clicked in an answer, or whose order names one.",
        ),
    ),
    charts=(
        Chart(
            title="click-through by placement",
            lines=_lines,
            caption="Of the model that answered last.",
            percent=True,
        ),
    ),
    teaches=dict.fromkeys(sorted(CLICKS), "a click, if it names an answer")
    | {"add_to_cart": "an item of an answer in a cart, if it names one"}
    | {"purchase": "orders, pieces and revenue of what was clicked before, or of the answer that it names"},
    inputs={"purchase": "placements have no orders and no revenue"},
    benchmark="benchmarks.impressions",
)  # fmt: skip
