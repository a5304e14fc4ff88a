"""Answers: followers of the shards whose families have routes, with their artifacts, for many reading threads."""

import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping
from contextlib import closing, nullcontext, suppress
from types import TracebackType
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct

from headrace.artifacts import Artifacts
from headrace.clock import Clock, wall_ms
from headrace.errors import PositionLost, Stopping
from headrace.log.protocol import Log, Partition
from headrace.metrics import ServingMetrics
from headrace.process import warn_of_renewed
from headrace.pseudonyms import Pseudonyms
from headrace.shard.blobs import Blobs
from headrace.shard.comparison import Comparison, comparison_interval_s
from headrace.shard.follower import Follower
from headrace.surface import Now, Route
from headrace.topics import EVENTS
from learners.families import Placement
from learners.family import Family
from learners.shop import MakeShop, Shop

poll_s: Final = 0.05
read_s_max: Final = 1.0
"""Longest wait, in seconds, for a record that is there."""
step_entries_max: Final = 1_000
"""Most entries folded in one step; a step with fewer has reached the end of the journal."""
load_s_max: Final = 0.5
"""Longest wait, in seconds, for an artifact that is being loaded. One that takes longer is in use later."""
report_every_s: Final = 1.0
unreachable_s: Final = 5.0
"""Time since all commits had been folded from which on the log counts as unreachable, or the follower as too slow."""


class Freshness(Struct, frozen=True):
    """How fresh an answer is: how many journal entries it includes, the shop's time at the newest event (ms since the
    epoch), and how long ago it included all commits."""

    entry: int
    newest_event_ms: int
    behind_s: float


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


class YieldingLock:
    """A lock that its holder yields to waiting readers; a plain lock would be acquired again before they wake."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers_waiting: deque[None] = deque()  # of which `append` and `pop` are atomic, unlike a sum

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
        if self._readers_waiting:
            time.sleep(0.001)

    def read(self) -> "_Reading":
        """Return a context manager in which a reader holds the lock."""
        return _Reading(self)


class _Reading:
    def __init__(self, owner: YieldingLock) -> None:
        self._owner = owner

    def __enter__(self) -> None:
        self._owner._readers_waiting.append(None)
        self._owner._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._owner._readers_waiting.pop()
        self._owner._lock.release()


class _InUse(Struct, frozen=True):
    """The artifact that a family's answers use now, the one that the fold named last."""

    version: str
    round: int
    artifact: Any


class ServedArtifact:
    """One family's artifact while it is served: the follower changes it, readers ask it.

    Attributes:
        in_use: what answers use now, None if there is nothing.
        waits: whether the promoted artifact is being loaded.
    """

    def __init__(self, name: str, shop: Shop, blobs: Blobs) -> None:
        declared = shop.families[name].surface.artifact
        assert declared is not None
        self._name, self._declared = name, declared
        self._artifacts: Artifacts[Any] = Artifacts(blobs, declared.answering, structlog.get_logger().warning)
        self._lock = threading.Lock()
        self.in_use: _InUse | None = None
        self.waits = False

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
        self._artifacts.retain((current.blob,) if current else ())
        artifact = self._artifacts.get(current.blob) if current else None
        if current is None or artifact is None:
            self.in_use = None
            return
        self._refresh(family, artifact)
        if self.in_use is None or self.in_use.artifact is not artifact:
            self.in_use = _InUse(current.version, current.round, artifact)
            structlog.get_logger().info("artifact in use", family=self._name, version=current.version)

    def _refresh(self, family: Family, artifact: Any) -> None:
        if self._declared.refresh:
            asked = self.in_use is not None and self.in_use.artifact is artifact
            with self._lock if asked else nullcontext():  # the first time takes long, and nobody asks it yet
                self._declared.refresh(family, artifact)

    def ask(self, in_use: _InUse, route: Route, prompt: Any) -> Any:
        """Return the artifact's answer to a prompt."""
        assert route.ask is not None
        with self._lock:
            return route.ask(in_use.artifact, prompt)


class Answers:
    """One shard's answers. One thread follows (`follow`), others answer (`answer`). It never writes.

    The version and the artifact are replaced together, so an answer names the artifact that it used.

    Args:
        compare_s: least time between two comparisons of the state with a snapshot of the shard.
        pseudonyms: those of the gateway, so that a query's `shopper` may be the shop's own id; None: it is as in the
            log.
    """

    def __init__(
        self, log: Log, blobs: Blobs, placement: Placement, sections: Mapping[str, Any], metrics: ServingMetrics,
        *, compare_s: float = comparison_interval_s, pseudonyms: Pseudonyms | None = None,
    ) -> None:  # fmt: skip
        self._pseudonyms = pseudonyms
        self._log, self._blobs, self._metrics, self._compare_s = log, blobs, metrics, compare_s
        self._placement, self._make = placement, MakeShop(placement.kinds, sections)
        self.routes = {route: kind.name for kind in placement.kinds for route in kind.surface.routes}
        self._lock = YieldingLock()
        self._follower: Follower[Shop] | None = None
        self._served: dict[str, ServedArtifact] = {}
        self._caught_up_at = 0.0
        self._waiting = Waiting(log)
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
        shard, make, lock = self._placement.shard, self._make, self._lock
        follower = Follower(
            self._log, self._blobs, shard, make=make, lock=lock, stop=stop.is_set, comparison=comparison
        )  # fmt: skip
        structlog.get_logger().info("following", shard=shard.name, entry=follower.number)
        with closing(follower), suppress(Stopping):
            follower.catch_up()
            served = {
                name: ServedArtifact(name, follower.fold, self._blobs)
                for name in dict.fromkeys(self.routes.values())
                if follower.fold.families[name].surface.artifact
            }
            for one in served.values():
                one.update(follower.fold)
            with self._lock.read():
                self._follower, self._served = follower, served
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
                self._report(follower)
                if self._report_comparison(comparison.result()):
                    return True
        return False

    def _report_comparison(self, equal: bool | None) -> bool:
        """Report a comparison (None: there was none); return whether the state differs."""
        self._metrics.comparisons.inc(equal is not None)
        self._metrics.differences.inc(equal is False)
        if equal is False:
            structlog.get_logger().error("state differs, restoring it", shard=self._placement.shard.name)
        return equal is False

    def _report(self, follower: Follower[Shop]) -> None:
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
        positions = {place: position for place, position in follower.positions.items() if place.topic == EVENTS}
        lag = {place: self._lag(place, position) for place, position in positions.items()}
        self._metrics.set_lag(lag)
        self._waiting.look({place: positions[place] for place, records in lag.items() if records})
        self._metrics.waiting_s.set(self._waiting.age_s())
        with self._lock.read():
            self._metrics.set_bounds(follower.fold.bounds())

    def _lag(self, place: Partition, position: int) -> int:
        """Return how many records follow a position; those that end in markers, as transactions do, count without."""
        end = self._log.end(place)
        if end > position and end != self._ends.get(place, (0, 0))[0]:
            last = self._log.last(place)
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
        if self._follower is None:
            return float("inf")
        behind_s = self.behind_s()
        return max(self._waiting.age_s(), behind_s if behind_s > unreachable_s else 0.0)

    def behind_s(self) -> float:
        """Return the time since all commits had been folded; infinite before the first time."""
        return time.monotonic() - self._caught_up_at if self._caught_up_at else float("inf")

    def answer(self, route: Route, query: Struct) -> dict[str, Any] | None:
        """Return a route's answer and its freshness; None before the first restore has finished.

        Raises:
            Refused: the query cannot be answered.
        """
        follower, name = self._follower, self.routes[route]
        if follower is None:
            return None
        shop, served = follower.fold, self._served.get(name)
        family, in_use = shop.families[name], served.in_use if served else None
        # Event time, not wall-clock time: a session ends by the shop's event time.
        now = Now(shop.time_ms, uuid.uuid4().hex)
        asked: str | None = getattr(query, "shopper", None)
        if asked is not None:
            names = self._pseudonyms.names_of(asked) if self._pseudonyms else [asked]
            with self._lock.read():
                query = msgspec.structs.replace(query, shopper=shop.known_as(names))
        if served and in_use and route.prompt:
            with self._lock.read():
                prompt = route.prompt(family, query, now)
            if prompt:
                now = now._replace(artifact_answer=served.ask(in_use, route, prompt))
        with self._lock.read():
            found = route.call(family, query, now._replace(time_ms=shop.time_ms))
            fresh = Freshness(follower.number, shop.time_ms, round(min(1e9, self.behind_s()), 3))
        body: dict[str, Any] = msgspec.structs.asdict(found)
        if "shopper" in body:
            body["shopper"] = asked
        if served:
            body["model"] = in_use.version if in_use else ""
        return {**body, "fresh": fresh}
