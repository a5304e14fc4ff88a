"""The process of a shard: folds events into its families, runs their judges and exports their metrics."""

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from math import inf
from typing import Any, Final

import structlog

from headrace.announcement import round_of
from headrace.artifacts import Artifacts, resolve
from headrace.config import ShardSettings
from headrace.events import Event
from headrace.log.protocol import Log
from headrace.metrics import ShardMetrics
from headrace.process import warn_of_renewed
from headrace.shard.blobs import Blobs
from headrace.shard.loop import JudgementRecord, Loop, LoopSettings
from headrace.shard.trim import Trimmer
from headrace.shard.turn import Turn
from headrace.watch import LogWatch
from learners.families import Placement
from learners.family import BackgroundJudge, Family, Judge, Judging
from learners.shop import MakeShop, Shop

read_every_s: Final = 1.0
"""Least time between two readings of the families' metrics: scrapes come every few seconds, turns up to 20 a second."""


class Judges:
    """The judges of a shard's families, combined into one judge for the loop."""

    def __init__(self, judges: Mapping[str, Judge]) -> None:
        self._judges = dict(judges)

    def __bool__(self) -> bool:
        return bool(self._judges)

    @property
    def judged(self) -> int:
        """Number of predictions judged so far."""
        return sum(judge.judged for judge in self._judges.values())

    @property
    def inclusion(self) -> float:
        """The least probability with which an event is judged now."""
        return min((judge.inclusion for judge in self._judges.values()), default=0.0)

    def observe(self, fold: Shop, event: Event, partition: int, offset: int) -> None:
        """Let each judge observe an event before it is learned."""
        for name, judge in self._judges.items():
            judge.observe(fold.families[name], event, partition, offset)

    def judge(self, fold: Shop, lag: int) -> list[JudgementRecord]:
        """Return the judgements of all judges, each with its family's name as key."""
        return [
            JudgementRecord(name, data)
            for name, judge in self._judges.items()
            for data in judge.judge(fold.families[name], lag)
        ]

    def ready(self, fold: Shop) -> bool:
        """Return whether a judge has something to do although no event came."""
        return any(
            judge.ready(fold.families[name])
            for name, judge in self._judges.items()
            if isinstance(judge, BackgroundJudge)
        )

    def close(self) -> None:
        """End what judges do beside the commits."""
        for judge in self._judges.values():
            if isinstance(judge, BackgroundJudge):
                judge.close()


def judges_of(
    kinds: Sequence[type[Family]], sections: Mapping[str, Any], blobs: Blobs, metrics: ShardMetrics
) -> Judges:
    """Return the judges that these families declare.

    Raises:
        Misconfigured: a judge cannot be imported.
    """
    return Judges(
        {
            kind.name: resolve(kind.surface.judge)(judging_of(kind, sections, blobs, metrics))
            for kind in kinds
            if kind.surface.judge
        }
    )


def judging_of(kind: type[Family], sections: Mapping[str, Any], blobs: Blobs, metrics: ShardMetrics) -> Judging:
    """Return the arguments of a family's judge."""
    surface, logger = kind.surface, structlog.get_logger()
    load = surface.artifact.load if surface.artifact else "builtins:bytes"
    return Judging(
        settings=sections.get(kind.name) or surface.settings(),
        artifacts=Artifacts(blobs, load, logger.warning),
        seconds=time.perf_counter,
        report=metrics.family_metrics.report,
        log=logger.info,
    )


def run(
    log: Log,
    blobs: Blobs,
    placement: Placement,
    settings: ShardSettings,
    sections: Mapping[str, Any],
    metrics: ShardMetrics,
    stop: threading.Event,
    trimmer: Trimmer | None = None,
) -> None:
    """Run a shard until `stop` is set.

    Args:
        trimmer: trims the log meanwhile.

    Raises:
        BrokenWorld: see `headrace.errors`; another call continues from the last commit.
    """
    with closing(judges_of(placement.kinds, sections, blobs, metrics)) as judges:
        _run(log, blobs, placement, settings, sections, metrics, stop, judges, trimmer)


def _run(
    log: Log,
    blobs: Blobs,
    placement: Placement,
    settings: ShardSettings,
    sections: Mapping[str, Any],
    metrics: ShardMetrics,
    stop: threading.Event,
    judges: Judges,
    trimmer: Trimmer | None,
) -> None:
    shard = placement.shard
    watch = LogWatch(
        log, lambda: shard.inputs(log), on_settings=metrics.set_settings_wrong, on_hidden=metrics.set_unstable
    )
    watch.look()
    loop = Loop(
        log,
        blobs,
        shard,
        make=MakeShop(placement.kinds, sections),
        judge=judges or None,
        settings=LoopSettings(
            commit_interval_s=settings.commit_interval_s,
            snapshot_interval_s=settings.snapshot_interval_s,
            flood_share=settings.flood_share,
        ),
        quarantine=placement.quarantines,
        stop=stop.is_set,
    )
    export, sweep = Exporter(metrics, loop.fold, judges), Sweeper(loop.fold, blobs)

    def on_turn(turn: Turn) -> None:
        export(turn)
        sweep()

    def until() -> bool:
        watch.look()
        export.read()
        if trimmer:
            trimmer.step()
        return stop.is_set()

    loop.on_turn = on_turn
    loop.judge_ready = lambda: judges.ready(loop.fold)
    logger = structlog.get_logger().bind(shard=shard.name)
    warn_of_renewed(shard.name, loop.fold.renewed)
    metrics.set_renewed(loop.fold.renewed)
    metrics.strays.set(loop.strays)
    try:
        logger.info("folding", families=list(loop.fold.families), entry=loop.number, events=loop.fold.events)
        loop.run(until)
        logger.info("stopped", entry=loop.number, events=loop.fold.events)
    finally:
        loop.close()


class Exporter:
    """Exports the figures of each turn and the metrics that the families declare."""

    def __init__(self, metrics: ShardMetrics, shop: Shop, judges: Judges) -> None:
        self._metrics, self._shop, self._judges = metrics, shop, judges
        self._alarms = dict(shop.alarms)
        self._judged = judges.judged
        self._read_at = -inf
        self._unread = True
        for family in shop.families.values():
            metrics.family_metrics.baseline(family.surface, family)

    def __call__(self, turn: Turn) -> None:
        metrics, shop, judges = self._metrics, self._shop, self._judges
        metrics.observe_turn(turn)
        metrics.judgements.inc(judges.judged - self._judged)
        self._judged = judges.judged
        metrics.judged_ratio.set(judges.inclusion)
        for detector, count in shop.alarms.items():
            if count > self._alarms[detector]:
                metrics.count_alarms(detector, count - self._alarms[detector])
        self._alarms = dict(shop.alarms)
        self._unread = True
        self.read()

    def read(self) -> None:
        """Read the families' metrics, if there was a turn since the last time, and that is long enough ago."""
        if not self._unread or time.monotonic() - self._read_at < read_every_s:
            return
        metrics = self._metrics
        for family in self._shop.families.values():
            metrics.family_metrics.read(family.surface, family)
            if artifact := family.surface.artifact:
                champion = artifact.current(family)
                metrics.champion_round.set(round_of(champion.version, champion.round) if champion else 0)
            for detector, seen in family.watched().items():
                metrics.set_drift(detector, seen.score, seen.threshold)
        self._read_at, self._unread = time.monotonic(), False


class Sweeper:
    """Deletes the artifacts that a family does not keep, after each verdict."""

    def __init__(self, shop: Shop, blobs: Blobs) -> None:
        self._families, self._blobs = list(shop.families.values()), blobs
        self._decided = self._count()
        self._decided_ns = time.time_ns()

    def _count(self) -> list[int]:
        return [
            artifact.verdicts(family) if (artifact := family.surface.artifact) and artifact.verdicts else 0
            for family in self._families
        ]

    def __call__(self) -> None:
        count = self._count()
        if count == self._decided:
            return
        for family, before, after in zip(self._families, self._decided, count, strict=True):
            artifact = family.surface.artifact
            if after != before and artifact and artifact.kept:
                # The family learns in the next turn of a model that an operator proposes now, and the commit of this
                # turn may still fail. So blobs that are newer than the last verdict are not deleted.
                self._blobs.sweep(artifact.kind, artifact.kept(family), before_ns=self._decided_ns)
        self._decided, self._decided_ns = count, time.time_ns()
