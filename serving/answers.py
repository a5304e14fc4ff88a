"""Answers: a follower of the online shard beside the promoted model, for many readers at once."""

import threading
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Final, NamedTuple

import structlog
from msgspec import Struct

from headrace.blobs import Blobs
from headrace.clock import wall_ms
from headrace.errors import BlobCorrupt, BlobMissing, StateUnreadable
from headrace.follower import Follower
from headrace.log import Log
from headrace.metrics import ServingMetrics
from headrace.state import State
from headrace.topics import EVENTS, MODELS, partitions_of
from learners.deep import DeepModel
from learners.judgement import listed
from learners.shop import Shop

SHARD: Final = "online"
poll_s: Final = 0.05
step_entries_max: Final = 1_000
"""Entries folded in one go; fewer are all that there were."""
tell_s: Final = 1.0


class Recommended(Struct):
    """One recommended item; the score is the probability that the blend gives it to come next (0: filled up)."""

    item_id: str
    score: float


class Fresh(Struct):
    """How fresh an answer is: up to which journal entry and event time, and how long ago that was all there was."""

    entry: int
    newest_event_ms: int
    behind_s: float


class Answer(Struct):
    """What is recommended to a shopper. `model` is the deep model's version, "" while none is promoted."""

    recommendation_id: str
    shopper: str
    items: list[Recommended]
    model: str
    fresh: Fresh


class _Loaded(NamedTuple):
    version: str
    blob: str
    round: int
    model: DeepModel


class PoliteLock:
    """A lock whose usual holder steps aside for those who wait: Python's own is taken again before they wake."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = 0

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
        if self._waiting:
            time.sleep(0.001)

    def read(self) -> "_Reading":
        """Return a context in which a reader holds the lock."""
        return _Reading(self)


class _Reading:
    def __init__(self, owner: PoliteLock) -> None:
        self._owner = owner

    def __enter__(self) -> None:
        self._owner._waiting += 1
        self._owner._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._owner._waiting -= 1
        self._owner._lock.release()


class Answers:
    """Follows in one thread (`follow`), answers in others (`recommend`). Never writes.

    The model changes together with the fold's word of it: an answer names the model that ranked it.
    """

    def __init__(
        self, log: Log, blobs: Blobs, *, make: Callable[[State | None], Shop], metrics: ServingMetrics
    ) -> None:
        self._log, self._blobs, self._make, self._metrics = log, blobs, make, metrics
        self._lock, self._model_lock = PoliteLock(), threading.Lock()
        self._follower: Follower[Shop] | None = None
        self._loaded: _Loaded | None = None
        self._gone = ""
        self._caught_up_at = 0.0
        self._told_at = 0.0

    def follow(self, stop: threading.Event) -> None:
        """Restore, then fold the journal as it grows until `stop` is set.

        Raises:
            BrokenWorld: see `headrace.errors`; calling again restores again. Old answers go on meanwhile.
        """
        inputs = [*partitions_of(EVENTS), *partitions_of(MODELS)]
        follower = Follower(self._log, self._blobs, SHARD, make=self._make, inputs=inputs, lock=self._lock)
        structlog.get_logger().info("following", shard=SHARD, entry=follower.number)
        try:
            follower.catch_up()
            self._take_model(follower.fold)
            with self._lock.read():
                self._follower = follower
            while not stop.is_set():
                before = time.monotonic()
                count = follower.step(poll_s, step_entries_max)
                if count:
                    self._take_model(follower.fold)
                    self._metrics.freshness.observe(max(0.0, (wall_ms() - follower.newest_ms) / 1000))
                if count < step_entries_max:
                    self._caught_up_at = before
                self._tell(follower)
        finally:
            follower.close()

    def _take_model(self, shop: Shop) -> None:
        """Load the champion if it is another one; tell it of the items that came since."""
        champion = shop.champion
        if champion is None:
            self._loaded = None
        elif champion.blob == self._gone:
            self._loaded = None  # not the one that may have come between
        elif self._loaded is None or self._loaded.blob != champion.blob:
            try:
                model = DeepModel.from_bytes(self._blobs.get(champion.blob), to_train=False)
            except (BlobMissing, BlobCorrupt, StateUnreadable) as error:
                # Lost, of another version, or replaced: then the journal will soon name the newer one.
                self._loaded, self._gone = None, champion.blob
                structlog.get_logger().warning("model is gone", error=str(error))
                return
            shop.browsing.introduce(model)
            self._loaded = _Loaded(champion.version, champion.blob, champion.round, model)
            structlog.get_logger().info("model", version=champion.version)
        else:
            with self._model_lock:
                shop.browsing.introduce(self._loaded.model)

    def _tell(self, follower: Follower[Shop]) -> None:
        if time.monotonic() - self._told_at < tell_s:
            return
        self._told_at = time.monotonic()
        loaded = self._loaded
        self._metrics.champion_round.set(loaded.round if loaded else 0)
        places = partitions_of(EVENTS)
        self._metrics.lag({place: max(0, self._log.end(place) - follower.positions[place]) for place in places})
        with self._lock.read():
            self._metrics.bounds(follower.fold.bounds())

    def behind_s(self) -> float:
        """Return how long ago all that was committed had been folded; infinite before the first time."""
        return time.monotonic() - self._caught_up_at if self._caught_up_at else float("inf")

    def recommend(self, shopper: str, n: int) -> Answer | None:
        """Return the n best items for a shopper now; None while nothing was restored yet."""
        follower, loaded = self._follower, self._loaded
        if follower is None:
            return None
        shop = follower.fold
        with self._lock.read():
            # Event time, not the wall clock's: a session ends when the shop's own time says so.
            prefix = shop.browsing.prefix(shop.browsing.contexts.context(shopper, shop.time_ms))
        deep = None
        if loaded and prefix:
            with self._model_lock:
                deep = loaded.model.predict([prefix], listed)[0]
        with self._lock.read():
            found = shop.recommend(shopper, shop.time_ms, n, deep)
            fresh = Fresh(follower.number, shop.time_ms, round(min(1e9, self.behind_s()), 3))
        return Answer(
            recommendation_id=uuid.uuid4().hex,
            shopper=shopper,
            items=[Recommended(item, score) for item, score in found],
            model=loaded.version if loaded else "",
            fresh=fresh,
        )
