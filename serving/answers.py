"""Answers: followers of the shards whose families have routes, with their artifacts."""

import gc
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from msgspec import Struct

from headrace.announcement import round_of
from headrace.artifacts import Artifacts
from headrace.clock import Clock, wall_ms
from headrace.errors import BlobCorrupt, BlobMissing, PositionLost, Stopping
from headrace.impressions import Impression, Shown
from headrace.log.protocol import Log, Partition
from headrace.metrics import ServingMetrics
from headrace.process import warn_of_renewed
from headrace.pseudonyms import Pseudonyms
from headrace.shard.blobs import Blobs
from headrace.shard.comparison import Comparison, comparison_interval_s
from headrace.shard.follower import Follower, restored
from headrace.shard.kept import stored_pointers
from headrace.surface import Now, Route
from headrace.topics import EVENTS
from learners.families import Placement
from learners.family import Family
from learners.shop import MakeShop, Shop
from serving.freshness import Freshness
from serving.impressions import Impressions
from serving.turns import Turns

poll_s: Final = 0.05
read_s_max: Final = 1.0
"""Longest wait, in seconds, for a record that is there."""
turn_s: Final = 0.001
"""Time, in seconds, after which a turn of folding ends at the next record."""
step_entries_max: Final = 1_000
"""Most entries folded in one step; a step with fewer has reached the end of the journal."""
load_s_max: Final = 0.5
"""Longest wait, in seconds, for an artifact that is being loaded. One that takes longer is in use later."""
report_every_s: Final = 1.0
unreachable_s: Final = 5.0
"""Time since all commits had been folded from which on the log counts as unreachable, or the follower as too slow."""


class Waiting:
    """How old the oldest event is that no journal entry has yet. One thread looks, others ask.

    Args:
        clock: the wall clock, by which the log appends.
    """

    def __init__(self, log: Log, clock: Clock = wall_ms) -> None:
        self._log, self._clock = log, clock
        self._since: dict[Partition, tuple[int, int]] = {}  # position and append time of the first record that waits

    def look(self, waiting: Mapping[Partition, int]) -> None:
        """Look at the first records that wait, by the positions up to which events are folded."""
        found = {}
        for place, position in waiting.items():
            known = self._since.get(place)
            found[place] = known if known and known[0] == position else (position, self._appended_ms(place, position))
        self._since = found

    def _appended_ms(self, place: Partition, position: int) -> int:
        """Return the append time of the record at a position, or now if it cannot be read or does not tell it."""
        with closing(self._log.reader({place: position})) as reader, suppress(PositionLost):
            for _, records in reader.read(1, read_s_max):
                return records[0].time_ms or self._clock()
        return self._clock()

    def age_s(self) -> float:
        """Return the age of the oldest event that waits, in seconds; 0 if none does."""
        oldest_ms = min((appended_ms for _, appended_ms in self._since.values()), default=None)
        return 0.0 if oldest_ms is None else max(0.0, (self._clock() - oldest_ms) / 1000)


class _InUse(Struct, frozen=True):
    """The artifact that a family's answers use now, the one that the fold named last."""

    version: str
    round: int
    artifact: Any


class ServedArtifact:
    """One family's artifact while it is served.

    Attributes:
        in_use: what answers use now, None if there is nothing.
        tried: others that answers may use, by blob, those that are loaded.
        waits: whether the promoted artifact is being loaded, or waits for another try.
        missing: whether the promoted artifact could not be loaded.
    """

    def __init__(self, name: str, shop: Shop, blobs: Blobs, turns: Turns) -> None:
        declared = shop.families[name].surface.artifact
        assert declared is not None
        self._name, self._declared = name, declared
        self._artifacts: Artifacts[Any] = Artifacts(blobs, declared.answering, structlog.get_logger().warning)
        self._turns = turns
        self.in_use: _InUse | None = None
        self.tried: Mapping[str, Any] = {}
        self.waits = self.missing = False

    def update(self, shop: Shop) -> None:
        """Load the promoted artifact if it has changed; bring the one in use up to date.

        A large artifact takes longer to load than events may wait, so a thread loads it, and the former one stays in
        use until then.
        """
        family = shop.families[self._name]
        current = self._declared.current(family)
        self.waits = current is not None and not self._artifacts.load(current.blob, load_s_max)
        if self.waits:
            if self.in_use:
                self._refresh(family, self.in_use.artifact)
            return
        others = self._declared.tried(family) if self._declared.tried else ()
        self._artifacts.retain((*((current.blob,) if current else ()), *others))
        self._try(family, others)
        artifact = self._artifacts.get(current.blob) if current else None
        self.waits = current is not None and artifact is None and self._artifacts.retries(current.blob)
        self.missing = current is not None and artifact is None
        if current is None or artifact is None:
            self.in_use = None
            return
        self._refresh(family, artifact)
        with self._turns:
            if self.in_use is None or self.in_use.artifact is not artifact:
                self.in_use = _InUse(current.version, round_of(current.version, current.round), artifact)
                structlog.get_logger().info("artifact in use", family=self._name, version=current.version)

    def _try(self, family: Family, blobs: Sequence[str]) -> None:
        """Load what answers may use beside the promoted artifact, one at a time; bring it up to date."""
        found = {}
        for blob in blobs:
            if self._artifacts.load(blob, 0.0) and (artifact := self._artifacts.get(blob)) is not None:
                self._refresh(family, artifact)
                found[blob] = artifact
        if found != self.tried:
            with self._turns:
                self.tried = found

    def _refresh(self, family: Family, artifact: Any) -> None:
        if self._declared.refresh:
            asked = any(artifact is one for one in (self.in_use and self.in_use.artifact, *self.tried.values()))
            with self._turns if asked else nullcontext():  # the first time takes long, and nobody asks it yet
                self._declared.refresh(family, artifact)


class _Kept(NamedTuple):
    """A state that a snapshot keeps, after so many entries of the journal."""

    fold: Shop
    number: int


class Answers:
    """One shard's answers. One thread follows (`follow`), another one answers (`answer`). Only impressions are written.

    Everything that an answer uses is as it was at one moment between two events, the artifact and its version included.

    Args:
        log: None as long as it is not open; set the attribute then.
        turns: of the two threads.
        compare_s: least time between two comparisons of the state with a snapshot of the shard.
        pseudonyms: those of the gateway, so that a query's `shopper` may be the shop's own id; None: it is as in the
            log.
        impressions: takes what answers show; None: it is not logged.
    """

    def __init__(
        self, log: Log | None, blobs: Blobs, placement: Placement, sections: Mapping[str, Any], metrics: ServingMetrics,
        *, turns: Turns | None = None, compare_s: float = comparison_interval_s, pseudonyms: Pseudonyms | None = None,
        impressions: Impressions | None = None,
    ) -> None:  # fmt: skip
        self._pseudonyms, self._impressions = pseudonyms, impressions
        self.log, self._blobs, self._metrics, self._compare_s = log, blobs, metrics, compare_s
        self._placement, self._make = placement, MakeShop(placement.kinds, sections)
        self.kinds = {route: kind for kind in placement.kinds for route in kind.surface.routes}
        self.routes = {route: kind.name for route, kind in self.kinds.items()}
        self._turns = turns or Turns()
        self._known: dict[str, str] = {}  # the names of the shoppers of the newest request
        self._follower: Follower[Shop] | _Kept | None = None
        self._served: dict[str, ServedArtifact] = {}
        self._caught_up_at = 0.0
        self._waiting: Waiting | None = None
        self._reported_at = 0.0
        self._ends: dict[Partition, tuple[int, int]] = {}  # each partition's end, and the one without markers
        self._renewed: dict[str, str] = {}

    def follow(self, stop: threading.Event) -> None:
        """Restore, then fold new journal entries until `stop` is set; restore again where the state is found to differ.

        Raises:
            BrokenWorld: see `headrace.errors`; another call restores again. Meanwhile answers use the old state.
        """
        with closing(Comparison(self._compare_s)) as comparison:
            while self._differs(stop, comparison):
                pass

    def _differs(self, stop: threading.Event, comparison: Comparison) -> bool:
        """Restore, then fold until `stop` is set; return true at once if the state differs from a snapshot."""
        log, shard, make, turns = self.log, self._placement.shard, self._make, self._turns
        assert log is not None
        follower = Follower(
            log, self._blobs, shard, make=make, lock=turns, turn_s=turn_s, stop=stop.is_set,
            comparison=comparison,
        )  # fmt: skip
        structlog.get_logger().info("following", shard=shard.name, entry=follower.number)
        with closing(follower), suppress(Stopping):
            follower.catch_up()
            gc.freeze()  # no collection visits what was restored
            served, waiting = self._artifacts_of(follower.fold), Waiting(log)
            with turns:
                self._follower, self._served, self._waiting = follower, served, waiting
            while not stop.is_set():
                before = time.monotonic()
                count = follower.step(poll_s, step_entries_max)
                for one in served.values():
                    if count or one.waits:
                        one.update(follower.fold)
                if count:
                    now_ms = wall_ms()
                    self._metrics.freshness.observe([now_ms - appended_ms for appended_ms in follower.appended_ms])
                if count < step_entries_max:
                    self._caught_up_at = before
                self._report(log, follower, waiting)
                if self._report_comparison(comparison.result()):
                    return True
        return False

    def restore_kept(self) -> None:
        """Answer from the newest snapshot that is kept beside the log, which is away; do nothing if there is none.

        Raises:
            StateUnreadable: a newer release wrote it.
        """
        for pointer in stored_pointers(self._blobs, self._placement.shard.name):
            with suppress(BlobMissing, BlobCorrupt):
                fold, _ = restored(self._blobs, self._make, pointer)
                served = self._artifacts_of(fold)
                with self._turns:
                    self._follower, self._served = _Kept(fold, pointer.number), served
                structlog.get_logger().warning(
                    "answers come from a snapshot", shard=self._placement.shard.name, entry=pointer.number
                )
                return

    def _artifacts_of(self, fold: Shop) -> dict[str, ServedArtifact]:
        """Return the artifacts of a fold's families, loaded if that is quick."""
        found = {
            name: ServedArtifact(name, fold, self._blobs, self._turns)
            for name in dict.fromkeys(self.routes.values())
            if fold.families[name].surface.artifact
        }
        for one in found.values():
            one.update(fold)
        return found

    def _report_comparison(self, equal: bool | None) -> bool:
        """Report a comparison (None: there was none); return whether the state differs."""
        self._metrics.comparisons.inc(equal is not None)
        self._metrics.differences.inc(equal is False)
        if equal is False:
            structlog.get_logger().error("state differs, restoring it", shard=self._placement.shard.name)
        return equal is False

    def _report(self, log: Log, follower: Follower[Shop], waiting: Waiting) -> None:
        if time.monotonic() - self._reported_at < report_every_s:
            return
        self._reported_at = time.monotonic()
        if follower.fold.renewed != self._renewed:
            self._renewed = follower.fold.renewed
            warn_of_renewed(self._placement.shard.name, self._renewed)
            self._metrics.set_renewed(self._renewed)
        self._metrics.strays.set(follower.strays)
        for one in self._served.values():
            self._metrics.champion_round.set(one.in_use.round if one.in_use else 0)
        if self._served:
            self._metrics.artifact_missing.set(any(one.missing for one in self._served.values()))
        positions = {place: position for place, position in follower.positions.items() if place.topic == EVENTS}
        lag = {place: self._lag(log, place, position) for place, position in positions.items()}
        self._metrics.set_lag(lag)
        waiting.look({place: positions[place] for place, records in lag.items() if records})
        self._metrics.waiting_s.set(waiting.age_s())
        with self._turns.looking():
            bounds = follower.fold.bounds()
        self._metrics.set_bounds(bounds)

    def _lag(self, log: Log, place: Partition, position: int) -> int:
        """Return how many records follow a position; those that end in markers, as transactions do, count without."""
        end = log.end(place)
        if end > position and end != self._ends.get(place, (0, 0))[0]:
            last = log.last(place)
            self._ends[place] = end, 0 if last is None else last.offset + 1
        return max(0, self._ends[place][1] - position) if end > position else 0

    @property
    def restored(self) -> bool:
        """Whether there is a state to answer from."""
        return self._follower is not None

    def waiting_s(self) -> float:
        """Return the age of the oldest event that is not in the answers yet; infinite before the first restore.

        While the log is not reachable, nobody knows: it is the time since it was.
        """
        if self._waiting is None:
            return float("inf")
        behind_s = self.behind_s()
        return max(self._waiting.age_s(), behind_s if behind_s > unreachable_s else 0.0)

    def behind_s(self) -> float:
        """Return the time since all commits had been folded; infinite before the first time."""
        return time.monotonic() - self._caught_up_at if self._caught_up_at else float("inf")

    def answer(self, route: Route, query: Struct) -> dict[str, Any] | None:
        """Return a route's answer and its freshness; None before the first restore has finished.

        Raises:
            Refused: the query cannot be answered; Unknown: nothing is known of what it asks for.
        """
        with self._turns.answering():
            if self._follower is None:
                return None
            return self._body(route, query, route.call(*self._asked(route, query)))

    def prepare(self, asked: Sequence[tuple[Route, Struct]]) -> None:
        """Compute together what the answers to several queries need; routes without `Route.prepare` have none."""
        with self._turns.answering():
            if self._follower is None:
                return
            found: dict[tuple[str, Any], list[tuple[Any, Now]]] = {}
            for route, query in asked:
                if route.prepare:
                    _, _, now = self._asked(route, query)
                    found.setdefault((self.routes[route], route.prepare), []).append((query, now))
            for (name, prepare), some in found.items():
                prepare(self._follower.fold.families[name], some)

    def stream(self, route: Route, query: Struct) -> Iterator[dict[str, Any]] | None:
        """Return the answers of a route that streams, each of which is made when it is asked for; else as `answer`."""
        with self._turns.answering():
            if self._follower is None:
                return None
            found = route.call(*self._asked(route, query))
        return self._streamed(route, query, found)

    def _asked(self, route: Route, query: Struct) -> tuple[Family, Struct, Now]:
        assert self._follower is not None
        shop, name = self._follower.fold, self.routes[route]
        served = self._served.get(name)
        artifact = served.in_use.artifact if served and served.in_use else None
        self._known.clear()
        # Event time, not wall-clock time: a session ends by the shop's event time.
        return shop.families[name], query, Now(
            shop.time_ms, uuid.uuid4().hex, artifact, self._known_as, time.monotonic(), self._turns.number,
            served.tried if served else {}, shop,
        )  # fmt: skip

    def _known_as(self, asked: str) -> str:
        """Return the name under which the fold knows a shopper, by the shop's own id or as it is in the log."""
        assert self._follower is not None
        if asked not in self._known:
            names = self._pseudonyms.names_of(asked) if self._pseudonyms else [asked]
            self._known[asked] = self._follower.fold.known_as(names)
        return self._known[asked]

    def _streamed(self, route: Route, query: Struct, found: Iterator[Struct]) -> Iterator[dict[str, Any]]:
        while True:
            with self._turns.answering():
                one = next(found, None)
                if one is None:
                    return
                body = self._body(route, query, one)
            yield body

    def _body(self, route: Route, query: Struct, found: Struct) -> dict[str, Any]:
        """Return an answer with the version of the artifact that it used, and how fresh it is."""
        assert self._follower is not None
        body: dict[str, Any] = msgspec.structs.asdict(found)
        if served := self._served.get(self.routes[route]):
            body["model"] = body.get("model") or (served.in_use.version if served.in_use else "")
        fresh = Freshness(self._follower.number, self._follower.fold.time_ms, round(min(1e9, self.behind_s()), 3))
        if route.shows:
            body["logged"] = self._is_logged(route, query, route.shows(found), body.get("model", ""), fresh)
        body["fresh"] = fresh
        return body

    def _is_logged(
        self, route: Route, query: Struct, shown: Iterable[Shown], model: str, fresh: Freshness
    ) -> bool:  # fmt: skip
        """Offer what an answer shows to the log; return whether it was accepted."""
        if self._impressions is None:
            return False
        now_ms, shard = wall_ms(), self._placement.shard.name
        device, country = getattr(query, "device", ""), getattr(query, "country", "")
        return self._impressions.offer([
            Impression(
                one.recommendation_id, now_ms, route.path, list(one.items), one.placement, one.model or model,
                self._known_as(one.shopper) if one.shopper else "", shard, fresh.entry, fresh.newest_event_ms, device,
                country, dict(one.experiments), one.explored, list(one.segments),
            )
            for one in shown
        ])  # fmt: skip
