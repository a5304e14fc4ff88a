"""The family of exposure: which brands, sellers and popular items get the attention that answers give at a placement.

It hears `impressions`, and learns which items shoppers turn to without being led by an answer: that is what a brand or
a seller merits. Once a minute of the shop's time it adds up. Where a rule bounds exposure, or trades relevance for it,
it says on `exposures` what keeps it so (`learners.exposure.scope`).
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final

import msgspec
import numpy as np
from msgspec import Meta, Struct

from headrace.events import Event, Rejection
from headrace.exposures import Exposure, Steered, record_of
from headrace.exposures import groups_max as told_max
from headrace.impressions import Impression, decode, items_max
from headrace.log.protocol import Record
from headrace.rules import ExposureBounds, RuleSet, merged
from headrace.state import State
from headrace.surface import Metric, Surface, Table
from headrace.topics import EXPERIMENTS, EXPOSURES, IMPRESSIONS, RULES
from learners.desk.family import STEPS, Desk, DeskSettings
from learners.exposure.items import BANDS, Items, week_ms
from learners.exposure.scope import Bounds, Kind, Shares, groups_max
from learners.family import Family, Merges, Moment, Part
from learners.next_item.rulebook import Rulebook
from learners.parts import portable
from learners.parts.assignment import Assignment
from learners.parts.gini import gini

look_every_ms: Final = 60_000
"""Shop time between two looks."""
day_ms: Final = 24 * 3_600_000
"""Shop time after which exposure counts half in what it is lately."""
scored_max: Final = 20
"""Most placements in a record of `scores`: those that answered last."""
KINDS: Final = ("brand", "seller", "popularity")
_DISCOUNTS: Final = (portable.log(np.array([2.0])) / portable.log(np.arange(2.0, items_max + 2))).tolist()
"""The exposure of each place, 1 / log2(1 + place), with the same bits on every machine."""
Scope = tuple[str, str, str]
"""A placement, an experiment and its arm; "" and "" for the placement's own rules."""


class ExposureSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section `[exposure]`."""

    items_max: Annotated[
        int,
        Meta(
            ge=100,
            description="Most items of which it is remembered how popular they are; the one that nobody turned to for"
            " longest is forgotten first. One takes about 0.3 kB.",
        ),
    ] = 50_000
    scopes_max: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000,
            description="Most placements, and arms of experiments there, whose exposure is measured; the one that"
            " answered least recently is forgotten first.",
        ),
    ] = 64


class Given(Struct, frozen=True):
    """A group's share of the exposure lately, and its share of what shoppers turn to by themselves."""

    name: str
    share: float
    merit: float


class PlacementExposure(Struct, frozen=True):
    """The exposure at a placement. `experiment` and `arm` are those of an arm whose rules bound exposure.

    `gini` is how unequal the exposure of brands, and of sellers, is: 0 if all get as much, near 1 if one gets all.
    `brands` and `sellers` are those that get most, `popularity` the bands of popularity.
    """

    placement: str
    answers: int
    gini: dict[str, float]
    brands: list[Given]
    sellers: list[Given]
    popularity: list[Given]
    experiment: str = ""
    arm: str = ""


class ExposureScores(Struct, frozen=True):
    """The family's part of a record of `scores`: the placements that answered last, the most recent one first."""

    placements: list[PlacementExposure]


class _Measured:
    """What is measured of a scope.

    Attributes:
        told: what was said of it last.
    """

    def __init__(self) -> None:
        self.kinds = {kind: Kind(day_ms) for kind in KINDS}
        self.answers = self.new = 0
        self.told = Exposure()


class ExposureFamily(Family):
    """Measures exposure by placement, and steers it where a rule says so."""

    name: ClassVar[str] = "exposure"
    shard: ClassVar[str] = "finetune"
    reads: ClassVar[tuple[str, ...]] = (Desk.name,)
    builds_on: ClassVar[tuple[str, ...]] = (Desk.name, "next_item")
    merges: ClassVar[Merges] = Merges(
        "not", per_shopper="nothing", why="each slice hears all answers, and multipliers follow from those of all"
    )
    parts: ClassVar[Mapping[str, Part]] = dict.fromkeys(("items", "merits", "scopes", "rules", "experiments"), Part())

    def __init__(self, settings: ExposureSettings, reads: Mapping[str, Family]) -> None:
        desk = reads[Desk.name]
        assert isinstance(desk, Desk)
        self.settings, self._desk = settings, desk
        self.items = Items(settings.items_max, desk)
        self.merits = {kind: Kind(week_ms) for kind in KINDS}
        self.rulebook, self.assignment = Rulebook(), Assignment()
        self.scopes: OrderedDict[Scope, _Measured] = OrderedDict()
        self._looked_ms = 0

    def learn(self, event: Event, now: Moment) -> None:
        """Count to which items a shopper turned by himself."""
        if event.type not in STEPS or not event.counts:
            return
        self._look_if_due(now)
        for line in event.data.items:
            self.items.step(line.item_id, line.item_brand, event.time_ms)
            if not event.data.recommendation_id:
                for kind, group in zip(KINDS, self.items.groups(line.item_id), strict=True):
                    self.merits[kind].show(group, 1.0)

    def hear(self, topic: str, record: Record, now: Moment) -> Rejection | None:
        """Note rules and experiments, or count what an answer showed."""
        self._look_if_due(now)
        if topic == RULES:
            return self.rulebook.hear(record)
        if topic == EXPERIMENTS:
            return self.assignment.hear(record)
        found = decode(record)
        if isinstance(found, Rejection):
            return found
        if found.items:
            self._count(found)
        return None

    def _count(self, shown: Impression) -> None:
        measured = [self._scope((shown.placement, "", ""))]
        for name, arm in shown.experiments.items():
            rules = self._arm(name, arm)
            if rules is not None and rules.is_steered:
                measured.append(self._scope((shown.placement, name, arm)))
        for one, exposure in zip(shown.items, _DISCOUNTS, strict=False):
            groups = self.items.groups(one.item_id)
            for scope in measured:
                for kind, group in zip(KINDS, groups, strict=True):
                    scope.kinds[kind].show(group, exposure)
        for scope in measured:
            scope.answers += 1
            scope.new += 1

    def _scope(self, scope: Scope) -> _Measured:
        found = self.scopes.get(scope)
        if found is None:
            if len(self.scopes) >= self.settings.scopes_max:
                self.scopes.popitem(last=False)
            found = self.scopes[scope] = _Measured()
        else:
            self.scopes.move_to_end(scope)
        return found

    def _arm(self, experiment: str, arm: str) -> RuleSet | None:
        stated = self.assignment.stated.get(experiment)
        return next((one.rules for one in stated.arms if one.name == arm), None) if stated else None

    def _rules(self, scope: Scope) -> RuleSet:
        """Return the rules that hold in a scope."""
        placement, experiment, arm = scope
        own = self._arm(experiment, arm) if experiment else None
        stated = self.rulebook.of(placement).stated
        return merged(stated, own) if own else stated

    def _look_if_due(self, now: Moment) -> None:
        """Add up what was counted, if a minute of the shop's time has passed; say where answers must be steered."""
        if now.time_ms - self._looked_ms < look_every_ms:
            return
        self._looked_ms = now.time_ms
        for kind in self.merits.values():
            kind.look(now.time_ms, 0, {}, Bounds())
        merits: dict[str, Shares] | None = None
        for scope, measured in self.scopes.items():
            if not measured.new:
                continue
            merits = merits or {kind: found.shares() for kind, found in self.merits.items()}
            rules = self._rules(scope)
            bounds = _bounds(rules.exposure or ExposureBounds())
            for name, kind in measured.kinds.items():
                kind.look(now.time_ms, measured.new, merits[name], bounds[name])
            measured.new = 0
            if rules.is_steered:
                self._tell(scope, measured, merits, now)

    def _tell(self, scope: Scope, measured: _Measured, merits: Mapping[str, Shares], now: Moment) -> None:
        brands, sellers = (_steered(measured.kinds[kind], merits[kind]) for kind in KINDS[:2])
        told = measured.told
        if (brands, sellers) != (told.brands, told.sellers):
            measured.told = Exposure(*scope, now.time_ms, brands, sellers)
            now.write(record_of(measured.told))

    def scores(self) -> ExposureScores:
        """Return the exposure at the placements that answered last."""
        merits = {kind: found.shares() for kind, found in self.merits.items()}
        found = []
        for scope, measured in list(self.scopes.items())[: -scored_max - 1 : -1]:
            shares = {kind: one.shares() for kind, one in measured.kinds.items()}
            brands, sellers = (_most(shares[kind], merits[kind]) for kind in KINDS[:2])
            bands = [
                Given(band, shares["popularity"].get(band, 0.0), merits["popularity"].get(band, 0.0)) for band in BANDS
            ]
            unequal = {kind: _gini(shares[kind], merits[kind]) for kind in KINDS[:2]}
            found.append(PlacementExposure(scope[0], measured.answers, unequal, brands, sellers, bands, *scope[1:]))
        return ExposureScores(found)

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        most = max((len(kind) for one in self.scopes.values() for kind in one.kinds.values()), default=0)
        return {
            "exposure_items": (len(self.items), self.settings.items_max),
            "exposure_scopes": (len(self.scopes), self.settings.scopes_max),
            "exposure_groups": (most, groups_max),
        }

    def state(self) -> State:
        """Return the complete state."""
        return {
            "items": self.items.state(),
            "merits": {kind: found.state() for kind, found in self.merits.items()},
            "scopes": {
                "looked_ms": self._looked_ms,
                "scopes": [
                    [
                        list(scope), one.answers, one.new, msgspec.to_builtins(one.told),
                        {kind: found.state() for kind, found in one.kinds.items()},
                    ]
                    for scope, one in self.scopes.items()
                ],
            },
            "rules": self.rulebook.state(),
            "experiments": self.assignment.state(),
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""
        if "items" in state:
            self.items = Items.from_state(state["items"], self.settings.items_max, self._desk)
        if "merits" in state:
            self.merits = {kind: Kind.from_state(found) for kind, found in state["merits"].items()}
        if "scopes" in state:
            self._looked_ms = state["scopes"]["looked_ms"]
            for scope, answers, new, told, kinds in state["scopes"]["scopes"][-self.settings.scopes_max :]:
                one = self.scopes[tuple(scope)] = _Measured()
                one.answers, one.new, one.told = answers, new, msgspec.convert(told, Exposure)
                one.kinds = {kind: Kind.from_state(found) for kind, found in kinds.items()}
        if "rules" in state:
            self.rulebook = Rulebook.from_state(state["rules"])
        if "experiments" in state:
            self.assignment = Assignment.from_state(state["experiments"])

    @classmethod
    def from_0_3_0(cls, fold: State) -> tuple[dict[str, Any], State] | None:
        """Return an empty state beside the fine-tuner's: in 0.3.0 no impressions were logged."""
        return (
            ({}, cls(ExposureSettings(), {Desk.name: Desk(DeskSettings(), {})}).state()) if "material" in fold else None
        )

    # Functions that the surface names, so that the declaration below is data.

    def unequal(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Yield how unequal the exposure of brands, and of sellers, is at each placement."""
        for name, one in self._placements():
            for kind in KINDS[:2]:
                yield (name, kind), _gini(one.kinds[kind].shares(), self.merits[kind].shares())

    def largest(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Yield the largest share of the exposure that one brand, or seller, gets at each placement."""
        for name, one in self._placements():
            for kind in KINDS[:2]:
                yield (
                    (name, kind),
                    max((share for group, share in one.kinds[kind].shares().items() if group), default=0),
                )

    def popular(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Yield the shares of the bands of popularity in the exposure at each placement."""
        for name, one in self._placements():
            shares = one.kinds["popularity"].shares()
            yield from (((name, band), shares.get(band, 0.0)) for band in BANDS)

    def turned_to(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Yield the shares of the bands of popularity in what shoppers turn to by themselves."""
        shares = self.merits["popularity"].shares()
        yield from (((band,), shares.get(band, 0.0)) for band in BANDS)

    def _placements(self) -> Iterator[tuple[str, _Measured]]:
        return ((scope[0], one) for scope, one in self.scopes.items() if not scope[1])


def _bounds(rule: ExposureBounds) -> dict[str, Bounds]:
    return {
        "brand": Bounds(rule.brand_max, rule.brand_merit_min),
        "seller": Bounds(rule.seller_max, rule.seller_merit_min),
        "popularity": Bounds(),
    }


def _steered(kind: Kind, merits: Shares) -> dict[str, Steered]:
    """Return the groups that are to be steered, those that it matters most for first where there are too many."""
    shares, found = kind.shares(), dict[str, Steered]()
    for name in dict.fromkeys((*shares, *merits)):
        merit, group = merits.get(name, 0.0), kind.groups.get(name)
        shortfall = max(0.0, 1 - shares.get(name, 0.0) / merit) if merit else 0.0
        one = Steered(round(group.factor, 3) if group else 1.0, round(shortfall, 2))
        if name and one != Steered():
            found[name] = one
    if len(found) > told_max:
        found = dict(sorted(found.items(), key=lambda one: (one[1].factor == 1, -merits.get(one[0], 0.0)))[:told_max])
    return found


def _most(shares: Shares, merits: Shares) -> list[Given]:
    names = sorted((name for name in shares if name), key=lambda name: -shares[name])[:5]
    return [Given(name, shares[name], merits.get(name, 0.0)) for name in names]


def _gini(shares: Shares, merits: Shares) -> float:
    return gini(shares.get(name, 0.0) for name in {*shares, *merits} if name)


def _rows(scores: ExposureScores) -> Iterable[tuple[Any, ...]]:
    for one in scores.placements:
        name = one.placement or "no placement"
        first = [next((given.share for given in found), None) for found in (one.brands, one.sellers)]
        bands = {given.name: given for given in one.popularity}
        yield (
            f"{name}, {one.experiment} {one.arm}" if one.experiment else name,
            first[0], one.gini["brand"], first[1], one.gini["seller"],
            bands["1 %"].share, bands["1 %"].merit, bands["1 %"].share + bands["10 %"].share,
            bands["1 %"].merit + bands["10 %"].merit,
        )  # fmt: skip


ExposureFamily.surface = Surface(
    doc="Which brands, sellers and popular items get the attention that answers give, and what keeps it within rules.",
    settings=ExposureSettings,
    scores=ExposureScores,
    writes=(EXPOSURES,),
    hears=(IMPRESSIONS, RULES, EXPERIMENTS),
    full_by_design=("exposure_items", "exposure_groups"),
    labels={
        "group": "`brand` and `seller`",
        "band": "the most popular 1 % of the items, those up to 10 %, and the rest",
    },
    metrics=(
        Metric(
            name="headrace_exposure_gini_ratio",
            help="How unequal the exposure of brands, or sellers, is: 0 if all get as much, near 1 if one has all.",
            labels=("placement", "group"), read=ExposureFamily.unequal, read_interval_s=10.0,
        ),
        Metric(
            name="headrace_exposure_largest_ratio",
            help="Largest share of the exposure lately that one brand, or seller, got.",
            labels=("placement", "group"), read=ExposureFamily.largest, read_interval_s=10.0,
        ),
        Metric(
            name="headrace_exposure_popularity_ratio", help="Share of the exposure lately, by popularity of the items.",
            labels=("placement", "band"), read=ExposureFamily.popular, read_interval_s=10.0,
        ),
        Metric(
            name="headrace_steps_popularity_ratio",
            help="Share of the steps that shoppers take without being led by an answer, by popularity of the items.",
            labels=("band",), read=ExposureFamily.turned_to, read_interval_s=10.0,
        ),
    ),
    tables=(
        Table(
            title="Exposure",
            columns=(
                "placement", "largest brand", "Gini", "largest seller", "Gini", "top 1 % of items", "their steps",
                "top 10 %", "their steps",
            ),
            rows=_rows,
            note="Shares of the exposure lately; a place counts 1 / log2(1 + place), and what is a day old half. Steps:"
            " the share of these items in what shoppers turn to without being led by an answer.",
        ),
    ),
    teaches=dict.fromkeys(sorted(STEPS), "to which items shoppers turn, which is what brands and sellers merit"),
    benchmark="benchmarks.trading",
)  # fmt: skip
