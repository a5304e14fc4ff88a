"""What operators do in a scenario: refold, verify, accept-loss and trim, each a process that may fail at any call."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from headrace.clock import Timer
from headrace.errors import BlobCorrupt, BlobMissing, StateUnreadable
from headrace.log.sqlite import SqliteLog
from headrace.shard.blobs import Blobs
from headrace.shard.decision import Author
from headrace.shard.follower import MakeFold
from headrace.shard.journal import newest as newest_entry
from headrace.shard.loss import accept_loss
from headrace.shard.refold import refold
from headrace.shard.trim import plan, trim
from headrace.shard.verify import verify
from headrace.topics import DAY_MS, Shard
from tests.simulation.faulty_log import FaultyLog
from tests.simulation.meddling import Meddling
from tests.simulation.world import NO_ANSWER, Violation, World

ANN = Author("ann", "the broker burnt")
KEEP_MS = (0, 1_000, 20_000)
"""How long records are kept by a `trim`, which must never delete what a restart needs."""


class Verbs:
    """One operator's commands, on the log as its process sees it."""

    def __init__(self, world: World, log: FaultyLog, blobs: Blobs, timer: Timer, meddling: Meddling) -> None:
        self._world, self._log, self._blobs, self._timer, self._meddling = world, log, blobs, timer, meddling

    def refold(self, shard: Shard, make: MakeFold[Any]) -> None:
        """Fold a shard's journal anew. It may be refused only where something has expired, or nothing is there."""
        whole = self._world.log
        try:
            with self._reading(shard):
                refold(self._log, self._blobs, shard, make=make, timer=self._timer, clock=self._world.wall_ms)
        except StateUnreadable as error:
            expired = any(whole.first(place) for place in (shard.journal, shard.judgements, *shard.inputs(whole)))
            if expired or shard.name in self._world.lost or "found no entry" in str(error):
                raise
            raise Violation(f"refold: {error}, though nothing has expired") from error

    def verify(self, shard: Shard) -> None:
        """Verify what a shard's journal names: it is whole, apart from what was damaged."""
        found = verify(self._log, self._blobs, shard, timer=self._world.timer)
        excused = (*self._meddling.rotten, NO_ANSWER, "could not be read")  # the process may have been suspended
        wrong = [text for text in found.problems if not any(one in text for one in excused)]
        if wrong and not (self._world.hidden and all(text.startswith("blob ") for text in wrong)):  # named no more
            raise Violation(f"verify: {wrong}")

    def accept_loss(self, shard: Shard, make: MakeFold[Any]) -> None:
        """Accept what was lost; where nothing was, nothing may be given up."""
        lost = shard.name in self._world.lost
        with self._reading(shard):
            found = accept_loss(self._log, self._blobs, shard, ANN, make=make, clock=self._world.wall_ms)
        if found and not lost:
            raise Violation(f"accept-loss: nothing of {shard.name} is lost, and this was accepted: {found}")
        self._world.lost.discard(shard.name)
        self._world.accepted |= {shard.name} if found else set()
        self._world.note(f"accepted: {found}")

    @contextmanager
    def _reading(self, shard: Shard) -> Iterator[None]:
        """Let a command end only at blobs that its shard, whose newer entries it could not see, has swept.

        The snapshot that the command took for the newest may be damaged: then those before it are swept.
        """
        try:
            yield
        except (BlobMissing, BlobCorrupt) as error:
            last = newest_entry(self._world.log, shard)
            pointer = last.snapshot if last else None
            if pointer:
                wrong = pointer.named if isinstance(error, BlobMissing) else {pointer.blob}
                if any(blob in str(error) for blob in wrong):
                    raise Violation(f"a blob that {shard.name} names is not whole: {error}") from error
            raise

    def trim(self, keep_ms: int | None = None) -> None:
        """Delete what is old and needed by no shard. A shard that has never run needs nothing, so all must have run.

        Args:
            keep_ms: by default one of `KEEP_MS`.
        """
        shards = [oracle.shard for oracle in self._meddling.oracles]
        if not all(newest_entry(self._log, shard) for shard in shards):
            return
        kept_ms = self._world.rng.choice(KEEP_MS) if keep_ms is None else keep_ms
        cuts = plan(self._log, shards, kept_ms / DAY_MS, self._world.wall_ms())
        self._meddling.read_all()
        trim(cast(SqliteLog, self._log), cuts)
