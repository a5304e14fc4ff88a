"""A shadow: a shard's journal folded beside the live shard, as it is, with other settings, or without some records."""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from headrace.clock import TIMER, Timer
from headrace.errors import BlobCorrupt, BlobMissing
from headrace.events import Rejection, decode
from headrace.log.protocol import Log, Outgoing, Record
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.follower import F, Follower, MakeFold, never
from headrace.shard.journal import Entry, Pointer
from headrace.shard.loop import ShardJudge
from headrace.shard.without import Without
from headrace.topics import ITEMS, JUDGEMENTS, Shard

OnEntry = Callable[[Entry, list[Outgoing]], None]
"""Is given each entry after it was folded, and what the fold wrote in it."""


class Anew(NamedTuple):
    """A judge that judges again, and the keys of the journal's judgements that its own replace."""

    judge: ShardJudge
    keys: Collection[str]


class Shadow(Follower[F]):
    """A follower that changes nothing of the shard, and hands out what each entry gave.

    Args:
        snapshot: begin with it; None: where folds from the start begin.
        adopts: fold with the settings that are configured now, not with those that the journal names.
        anew: judges the events again; None: the journal's judgements hold.
        without: leaves records out.
        on_entry: called after each entry.

    Raises:
        PositionLost: see `Follower`.
    """

    def __init__(
        self,
        log: Log,
        blobs: Blobs,
        shard: Shard,
        *,
        make: MakeFold[F],
        snapshot: Pointer | None = None,
        adopts: bool = False,
        anew: Anew | None = None,
        without: Without | None = None,
        on_entry: OnEntry = lambda entry, outputs: None,
        stop: Callable[[], bool] = never,
        timer: Timer = TIMER,
    ) -> None:
        self._adopts, self._anew, self._without, self._on_entry = adopts, anew, without, on_entry
        super().__init__(
            log, blobs, shard, make=make, from_start=snapshot is None, snapshot=snapshot, plainly=adopts, stop=stop,
            timer=timer,
        )  # fmt: skip
        self._judged: list[Outgoing] = []
        if adopts:
            self.fold = make.adopt(self.fold)

    def apply(self, entry: Entry) -> None:
        """Fold one entry, and hand it out."""
        super().apply(entry)
        judged, self._judged = self._judged, []
        self._on_entry(entry, [*judged, *self.outputs])

    def _continue_from(self, entry: Entry) -> None:
        try:
            super()._continue_from(entry)
        except (BlobMissing, BlobCorrupt):
            # The snapshot after a change of settings is this state with other settings.
            if entry.replaces_state or not all(how.startswith("set from") for how in entry.renewed.values()):
                raise
            self.fold, self.stamp = self._make(self.fold.state(), entry.stamp), entry.stamp
        if self._adopts:
            self.fold = self._make.adopt(self.fold)

    def _learn(self, records: Sequence[Record]) -> None:
        if self._anew is None and self._without is None:
            super()._learn(records)
            return
        admit, fold, without = self.intake.admit, self.fold, self._without
        for record in records:
            event = decode(record)
            if without and without.leaves_out(event, record):
                continue
            if not isinstance(event, Rejection) and admit(event, record.time_ms) and fold.prepare(event):
                if self._anew:
                    self._anew.judge.observe(fold, event, record.partition, record.offset)
                fold.learn(event, record.partition, record.offset)

    def _hear(self, topic: str, records: Sequence[Record]) -> None:
        if self._without and topic == ITEMS:
            records = [record for record in records if not self._without.leaves_out_item(record)]
        super()._hear(topic, records)

    def _absorb(self, judgements: Sequence[Record]) -> None:
        if self._anew is None:
            super()._absorb(judgements)
            return
        keys = self._anew.keys
        super()._absorb([record for record in judgements if journal.judging_family(record.key) not in keys])
        for family, data in self._anew.judge.judge(self.fold, 0):
            self.fold.absorb(family, data)
            key = journal.judgement_key(family, self._shard.name, self.number)
            self._judged.append(Outgoing(JUDGEMENTS, key, data, self._shard.number))
