"""The family of segments: which shoppers are in which group, by rules and by clusters, and who enters and leaves.

A shopper is checked when a visit begins and when something was bought or given back; beside that, the shopper checked
longest ago is, so that all are checked again in turn, and those who stay away leave what they are no longer in.
"""

from collections.abc import Iterable, Iterator, Mapping
from heapq import nsmallest
from typing import Annotated, Any, ClassVar, Final

from msgspec import Meta, Struct, convert, to_builtins

from headrace.events import LEARNED_TYPES, Event, Rejection
from headrace.log.protocol import Record
from headrace.segments import Facts, Moved, SegmentRules, StatedSegments, Value, decode, record_of_move
from headrace.state import State
from headrace.surface import Metric, Now, Route, Surface, Table, Unknown
from headrace.topics import SEGMENT_MOVES, SEGMENTS
from learners.family import Family, Merges, Moment, Part
from learners.profiles.family import ProfilesFamily, ProfilesSettings
from learners.profiles.traits import Leanings, Seen, value_of
from learners.segments import examples
from learners.segments.clusters import Clusters
from learners.segments.features import features
from learners.segments.members import Members
from learners.segments.page import PAGE

minute_ms: Final = 60_000
sweep_events: Final = 16
"""Events between two checks of the shopper who was checked longest ago."""
sweep_ms: Final = 6 * 3_600_000
"""Least shop time between two checks of a shopper who does nothing, unless other segments were stated since."""
_CHANGES: Final = ("born", "ended", "merged")
scanned_max: Final = 2_000
"""Most shoppers of whom one request asks whether they are in a segment."""


class SegmentsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section `[segments]`."""

    shoppers_max: Annotated[
        int, Meta(ge=1, description="Most shoppers whose segments are known; the one checked longest ago goes first.")
    ] = 100_000
    clusters_max: Annotated[int, Meta(ge=2, le=64, description="Number of clusters.")] = 8
    moves_max: Annotated[
        int,
        Meta(ge=0, description="Most moves of shoppers a minute that are written to `segment-moves`; all are counted."),
    ] = 600


class SegmentsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of a request for all segments: none."""


class MembersQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of a request for the members of a segment."""

    segment: Annotated[str, Meta(min_length=1, max_length=64, description="The segment's name, or that of a cluster.")]
    n: Annotated[int, Meta(ge=1, le=1_000, description="Most shoppers.")] = 100
    after: Annotated[str, Meta(max_length=128, description="The `next` of the page before.")] = ""


class ShopperSegmentsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of a request for a shopper's segments."""

    shopper: Annotated[str, Meta(min_length=1, max_length=128, description="The shopper's id, percent-encoded.")]


class Size(Struct, frozen=True):
    """A segment: its rule, or by which features a cluster differs most from the mean, in standard deviations."""

    segment: str
    shoppers: int
    share: float
    entered: int
    left: int
    where: str = ""
    about: str = ""
    differs: dict[str, float] = {}


class Sizes(Struct, frozen=True):
    """All segments, as last checked; `version` is that of the segments by rule, null if none were ever stated."""

    version: int | None
    shoppers: int
    segments: list[Size]
    clusters: list[Size]


class MembersPage(Struct, frozen=True):
    """Members by their names in the log, now; with `next`, more may follow: a page may have none and still go on."""

    segment: str
    shoppers: list[str]
    next: str


class ShopperSegments(Struct, frozen=True):
    """A shopper's segments by rule, and the cluster, now; null as long as there are no clusters."""

    shopper: str
    segments: list[str]
    cluster: str | None


class Change(Struct, frozen=True):
    """What became of a cluster: it was `born`, `ended` (its shoppers went to several), or `merged` into another.

    `share` is its share of the sample of shoppers.
    """

    time_ms: int
    kind: str
    cluster: str
    into: str
    share: float


class SegmentsScores(Struct, frozen=True):
    """The sizes of segments and clusters, and what became of clusters so far; `changes` are the newest."""

    shoppers: int
    segments: list[Size]
    clusters: list[Size]
    fits: int
    born: int
    ended: int
    merged: int
    untold: int
    changes: list[Change] = []


class _Asked:
    """What a rule may ask of a shopper (`headrace.segments.Facts`)."""

    def __init__(self, seen: Seen, stated: Mapping[str, Value]) -> None:
        self._seen, self._stated = seen, stated
        self._leanings: Leanings | None = None  # few rules ask for them
        self.inside: list[str] = []

    @property
    def leanings(self) -> Leanings:
        if self._leanings is None:
            self._leanings = Leanings(self._seen)
        return self._leanings

    def trait(self, name: str) -> float | None:
        return value_of(name, self._seen)

    def share(self, kind: str, value: str) -> float:
        return self.leanings.share(kind, value)

    def top(self, kind: str) -> str | None:
        return self.leanings.top(kind)

    def stated(self, name: str) -> Value | None:
        return self._stated.get(name)

    def member(self, segment: str) -> bool:
        return segment in self.inside


class SegmentsFamily(Family):
    """Keeps who is in which segment."""

    name: ClassVar[str] = "segments"
    reads: ClassVar[tuple[str, ...]] = (ProfilesFamily.name,)
    builds_on: ClassVar[tuple[str, ...]] = (ProfilesFamily.name,)
    merges: ClassVar[Merges] = Merges(
        "not", per_shopper="membership", why="centres of clusters take one step per shopper who is checked, in order"
    )
    parts: ClassVar[Mapping[str, Part]] = {
        "members": Part(), "rules": Part(), "clusters": Part(), "checks": Part(),
    }  # fmt: skip

    def __init__(self, settings: SegmentsSettings, reads: Mapping[str, Family]) -> None:
        profiles = reads[ProfilesFamily.name]
        assert isinstance(profiles, ProfilesFamily)
        self.settings, self._profiles = settings, profiles
        self.members = Members(shoppers_max=settings.shoppers_max)
        self.clusters = Clusters(clusters_max=settings.clusters_max)
        self.stated = StatedSegments(-1, SegmentRules(), {})
        self._events = self._minute = self._told = self.untold = 0

    def learn(self, event: Event, now: Moment) -> None:
        """Check the shopper if there is reason to, and now and then the one checked longest ago."""
        shopper = event.shopper
        self._events += 1
        known = self._profiles.shoppers.of(shopper)
        if known is not None and (
            event.type in ("purchase", "refund") or shopper not in self.members
            or (known.visit is not None and known.visit.events == 1)
        ):  # fmt: skip
            self._check(shopper, now)
        if self._events % sweep_events == 0 or self._is_stale():
            self._sweep(now)
        if self.clusters.is_due(now.time_ms):
            self._fit(now)

    def _is_stale(self) -> bool:
        """Return whether other segments were stated since the shopper checked longest ago was."""
        oldest = self.members.oldest()
        return oldest is not None and oldest[1].version != self.stated.version

    def _sweep(self, now: Moment) -> None:
        oldest = self.members.oldest()
        if oldest is None:
            return
        shopper, member = oldest
        if member.version == self.stated.version and abs(now.time_ms - member.checked_ms) < sweep_ms:
            return  # one checked at a time from which the shop's has returned does not keep the others waiting
        if shopper in self._profiles.shoppers:
            self._check(shopper, now)
        else:
            self.members.forget(shopper)
            self.clusters.forget(shopper)

    def _check(self, shopper: str, now: Moment) -> None:
        seen = self._profiles.seen(shopper, now.time_ms)
        assert seen is not None, "a shopper is checked whose profile is kept"
        inside = self._inside(shopper, seen)
        cluster = self.clusters.learn(shopper, features(seen))
        entered, left = self.members.put(shopper, inside, cluster, now.time_ms, self.stated.version)
        if entered or left:
            self._tell(Moved("moved", now.time_ms, shopper, entered, left), now)

    def _inside(self, shopper: str, seen: Seen) -> list[str]:
        """Return the segments by rule that a shopper is in."""
        if not self.stated.tests:
            return []
        asked = _Asked(seen, self._profiles.stated(shopper))
        facts: Facts = asked
        for name, test in self.stated.tests.items():
            if test(facts):
                asked.inside.append(name)
        return asked.inside

    def _tell(self, move: Moved, now: Moment) -> None:
        """Write a move, unless this minute has had as many as may be."""
        minute = now.time_ms // minute_ms
        if minute != self._minute:
            self._minute, self._told = minute, 0
        if self._told >= self.settings.moves_max:
            self.untold += 1
            return
        self._told += 1
        now.write(record_of_move(move))

    def _fit(self, now: Moment) -> None:
        told = self.clusters.fit(now.time_ms)
        self.members.rename({one.number: one.into for one in told if one.kind != "born"})
        for one in told:  # few: at most two for each cluster and week
            into = f"c{one.into}" if one.into else ""
            now.write(
                record_of_move(Moved(one.kind, now.time_ms, segment=f"c{one.number}", into=into, share=one.share))
            )
        self.members.keep({*self.stated.tests, *self._cluster_names()})

    def hear(self, topic: str, record: Record, now: Moment) -> Rejection | None:
        """Note which segments are stated; who is in them is found by the next checks."""
        found = decode(record)
        if isinstance(found, Rejection):
            return found
        # Who is in a segment by another rule now is so until checked: then it is told who left it, and who did not.
        self.members.drop(set(self.stated.tests).difference(found.tests))
        self.stated = found
        self.members.keep({*found.tests, *self._cluster_names()})
        return None

    def knows(self, shopper: str) -> bool:
        """Return whether the shopper's segments are known."""
        return shopper in self.members

    def segments_of(self, shopper: str, now_ms: int) -> list[str]:
        """Return a shopper's segments by rule, and the cluster, at a moment."""
        seen = self._profiles.seen(shopper, now_ms)
        if seen is None:
            return []
        cluster = self.clusters.of(features(seen))
        return [*self._inside(shopper, seen), *([f"c{cluster}"] if cluster else [])]

    def has_segment(self, name: str) -> bool:
        """Return whether there is a segment by rule, or a cluster, of this name."""
        return name in self.stated.tests or name in self._cluster_names()

    def _cluster_names(self) -> set[str]:
        return {f"c{number}" for number in self.clusters.numbers}

    # Answers

    def all(self, query: SegmentsQuery, now: Now) -> Sizes:
        """Return all segments."""
        version = self.stated.version
        return Sizes(None if version < 0 else version, len(self.members), self._by_rule(), self._by_cluster())

    def _by_rule(self) -> list[Size]:
        return [self._size(name, where=one.where, about=one.about) for name, one in self.stated.rules.segments.items()]

    def _by_cluster(self) -> list[Size]:
        return [self._size(f"c{number}", differs=dict(found)) for number, found in sorted(self.clusters.described())]

    def _size(self, name: str, **rest: Any) -> Size:
        members = self.members
        size = members.sizes[name]
        share = round(size / len(members), 4) if len(members) else 0.0
        return Size(name, size, share, members.entered[name], members.left[name], **rest)

    def page(self, query: MembersQuery, now: Now) -> MembersPage:
        """Return who is in a segment, by name. Raises Unknown."""
        name = query.segment
        clusters = self._cluster_names()
        if name not in self.stated.tests and name not in clusters:
            raise Unknown(f"wanted one of {', '.join([*self.stated.tests, *sorted(clusters)]) or 'no segments'}")
        shoppers = self._profiles.shoppers
        scanned = nsmallest(scanned_max, (one for one in shoppers if one > query.after))
        found = list[str]()
        for shopper in scanned:
            if self._is_in(name, shopper, now.time_ms):
                found.append(shopper)
                if len(found) == query.n:
                    return MembersPage(name, found, shopper)
        return MembersPage(name, found, scanned[-1] if len(scanned) == scanned_max else "")

    def _is_in(self, name: str, shopper: str, now_ms: int) -> bool:
        seen = self._profiles.seen(shopper, now_ms)
        if seen is None:
            return False
        if name in self.stated.tests:
            return name in self._inside(shopper, seen)
        return f"c{self.clusters.of(features(seen))}" == name

    def of_shopper(self, query: ShopperSegmentsQuery, now: Now) -> ShopperSegments:
        """Return a shopper's segments. Raises Unknown."""
        shopper = now.known_as(query.shopper)
        seen = self._profiles.seen(shopper, now.time_ms)
        if seen is None:
            raise Unknown("wanted a shopper of an event, found none of this id")
        cluster = self.clusters.of(features(seen))
        return ShopperSegments(query.shopper, self._inside(shopper, seen), f"c{cluster}" if cluster else None)

    # State

    def scores(self) -> SegmentsScores:
        """Return the sizes of segments."""
        counts = self.clusters.counts
        return SegmentsScores(
            len(self.members), self._by_rule(), self._by_cluster(), counts["fits"], counts["born"], counts["ended"],
            counts["merged"], self.untold,
            [
                Change(time_ms, one.kind, f"c{one.number}", f"c{one.into}" if one.into else "", round(one.share, 4))
                for time_ms, one in self.clusters.changes
            ],
        )  # fmt: skip

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        return {f"segments_{table}": use for table, use in (self.members.bounds() | self.clusters.bounds()).items()}

    def state(self) -> State:
        """Return the complete state."""
        return {
            "members": self.members.state(),
            "rules": {
                "version": self.stated.version,
                "rules": {
                    **to_builtins(self.stated.rules),
                    # In a list, as a rule may name those above it, and a state's keys have no order.
                    "segments": [[name, to_builtins(one)] for name, one in self.stated.rules.segments.items()],
                },
            },
            "clusters": self.clusters.state(),
            "checks": {"events": self._events, "minute": self._minute, "told": self._told, "untold": self.untold},
        }

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""
        if "members" in state:
            self.members = Members.from_state(state["members"], shoppers_max=self.settings.shoppers_max)
        if "rules" in state:
            stated = state["rules"]["rules"]
            rules = convert({**stated, "segments": dict(stated["segments"])}, SegmentRules)
            self.stated = StatedSegments(state["rules"]["version"], rules, rules.tests())
        if "clusters" in state:
            self.clusters.restore(state["clusters"])
        if "checks" in state:
            found = state["checks"]
            self._events, self._minute = found["events"], found["minute"]
            self._told, self.untold = found["told"], found["untold"]

    @classmethod
    def from_0_3_0(cls, fold: State) -> tuple[dict[str, Any], State] | None:
        """Return an empty state beside the online shard's: 0.3.0 knew no segments."""
        profiles: Mapping[str, Family] = {ProfilesFamily.name: ProfilesFamily(ProfilesSettings(), {})}
        return ({}, cls(SegmentsSettings(), profiles).state()) if "buying" in fold else None

    # Functions that the surface names, so that the declaration below is data.

    def sizes(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Yield the number of shoppers in each segment."""
        return (((one.segment,), one.shoppers) for one in (*self._by_rule(), *self._by_cluster()))

    def moves(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Yield how often each segment was entered, and left."""
        for one in (*self._by_rule(), *self._by_cluster()):
            yield (one.segment, "entered"), one.entered
            yield (one.segment, "left"), one.left

    def changes(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Yield how many clusters were born, ended and merged."""
        return (((kind,), self.clusters.counts[kind]) for kind in _CHANGES)

    def unwritten(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Yield how many moves were counted, but not written."""
        yield (), self.untold


def _differs(one: Size) -> str:
    return ", ".join(f"{name} {off:+.1f}" for name, off in one.differs.items())


def _rows(scores: SegmentsScores) -> Iterable[tuple[Any, ...]]:
    for one in (*scores.segments, *scores.clusters):
        name = f"{one.segment} ({_differs(one)})" if one.differs else one.segment
        yield name, one.shoppers, one.share, one.entered, one.left


SegmentsFamily.surface = Surface(
    doc="Groups of shoppers, by rules over their profiles and by clusters that keep their names.",
    settings=SegmentsSettings,
    scores=SegmentsScores,
    hears=(SEGMENTS,),
    writes=(SEGMENT_MOVES,),
    full_by_design=("segments_members", "segments_sample", "segments_changes"),
    labels={
        "segment": "the segments that are stated, at most 32, and at most 64 clusters at a time",
        "direction": "`entered` and `left`",
        "change": "`born`, `ended` and `merged`",
    },
    metrics=(
        Metric(
            name="headrace_segment_shoppers", help="Shoppers in a segment or cluster, as last checked.",
            labels=("segment",), read=SegmentsFamily.sizes, read_interval_s=10.0,
        ),
        Metric(
            name="headrace_segment_moves_total", help="How often shoppers entered and left a segment or cluster.",
            kind="counter", labels=("segment", "direction"), read=SegmentsFamily.moves, read_interval_s=10.0,
        ),
        Metric(
            name="headrace_segment_clusters_total", help="Clusters that were born, ended, and merged into others.",
            kind="counter", labels=("change",), label_values=_CHANGES, read=SegmentsFamily.changes,
            read_interval_s=10.0,
        ),
        Metric(
            name="headrace_segment_moves_unwritten_total",
            help="Moves that were counted, but not written to the topic: the minute had as many as may be.",
            kind="counter", read=SegmentsFamily.unwritten, read_interval_s=10.0,
        ),
    ),
    routes=(
        Route(
            path="/v1/segments", doc="All segments, by rule and by cluster, with their sizes.", query=SegmentsQuery,
            answer=Sizes, call=SegmentsFamily.all, example=("/v1/segments", examples.SIZES),
            notes=("Sizes are as last checked: who does nothing is checked in turn, one with every 16th event.",),
        ),
        Route(
            path="/v1/segments/{segment}", doc="Who is in a segment, by their names in the log.", query=MembersQuery,
            answer=MembersPage, call=SegmentsFamily.page, example=("/v1/segments/loyal?n=2", examples.MEMBERS),
            notes=("Each shopper is checked when asked, at most 2,000 for a page.",),
        ),
        Route(
            path="/v1/shoppers/{shopper}/segments", doc="A shopper's segments by rule, and the cluster.",
            query=ShopperSegmentsQuery, answer=ShopperSegments, call=SegmentsFamily.of_shopper,
            example=("/v1/shoppers/shopper-000176/segments", examples.SHOPPER),
        ),
    ),
    tables=(
        Table(
            title="Segments", columns=("segment", "shoppers", "share", "entered", "left"), rows=_rows, percent=False,
            note="As last checked. Of a cluster: by how many standard deviations it differs most from the mean.",
        ),
    ),
    pages=(PAGE,),
    teaches=dict.fromkeys(LEARNED_TYPES, "its time: the shopper checked longest ago is checked again")
    | {
        "purchase": "in which segments the shopper is now",
        "refund": "in which segments the shopper is now",
    },
    benchmark="benchmarks.segments",
)  # fmt: skip
