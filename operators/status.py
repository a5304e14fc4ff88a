"""What `headrace status` shows: how far each shard is, what it knows, and what needs a person."""

from datetime import UTC, datetime
from typing import Final

from msgspec import Struct
from rich.console import Console
from rich.table import Table

from headrace import journal
from headrace.log import Log, Partition, told
from headrace.topics import ALARMS, MODELS, SCORES, SHARDS, TOPICS, partitions_of
from learners.announcement import Announcement, announced
from operators.facts import Scored, reasons_of
from operators.source import records_of

shown_max: Final = 5
"""Newest alarms and rounds that are shown."""


class _Alarm(Struct):
    """What alarms of drift and floods have in common."""

    detector: str
    events: int | None = None
    detail: str = ""


def show(log: Log, console: Console, url: str) -> None:
    """Print what the log holds.

    Raises:
        LogUnavailable: the log does not answer.
    """
    console.print(f"log {url}", highlight=False)
    console.print(_topics(log))
    for shard in SHARDS:
        _shard(log, console, shard)
    _models(log, console)
    _scores(log, console)
    _trouble(log, console)


def _table(*columns: str, numeric: int) -> Table:
    """Return an empty table whose last `numeric` columns hold numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place >= len(columns) - numeric else "left")
    return table


def _topics(log: Log) -> Table:
    table = _table("topic", "partitions", "held", "ends", numeric=3)
    for name in TOPICS:
        ends = [log.end(place) for place in partitions_of(name)]
        held = sum(ends) - sum(log.first(place) for place in partitions_of(name))
        table.add_row(name, str(len(ends)), f"{held:,}", " ".join(f"{end:,}" for end in ends))
    return table


def _shard(log: Log, console: Console, shard: str) -> None:
    last = log.last(journal.partition_of(shard))
    if last is None:
        gone = log.first(journal.partition_of(shard)) > 0
        console.print(f"{shard}: {'all of its journal has expired' if gone else 'has never run on this log'}")
        return
    entry = journal.decode(last)
    snapshot = "no snapshot yet"
    if entry.snapshot:
        behind = entry.number + 1 - entry.snapshot.number
        snapshot = f"newest snapshot {entry.snapshot.blob[:20]}... covers all but {behind:,} of them"
    table = _table("partition", "position", "lag", numeric=2)
    console.print(f"{shard}: {entry.number + 1:,} journal entries, the last one {_moment(last.time_ms)}; {snapshot}")
    for place, position in sorted(log.committed(shard).items()):
        table.add_row(journal.key_of(place), f"{position:,}", f"{max(0, log.end(place) - position):,}")
    console.print(table)


def _models(log: Log, console: Console) -> None:
    said = [found for record in records_of(log, MODELS) if (found := announced(record))]
    champion: Announcement | None = None
    for one in said:
        if one.kind in ("promoted", "rolled_back"):
            champion = one if one.blob else None
    if champion:
        console.print(
            f"champion: {champion.version}, {champion.kind.replace('_', ' ')} at event {champion.at_events:,}"
        )
    else:
        console.print("champion: none yet; the blend goes without the deep model")
    for one in [one for one in said if one.kind != "schedule"][-shown_max:]:
        reason = f": {one.reason}" if one.reason else ""
        text = f"  {one.version or '-'} {one.kind.replace('_', ' ')} at event {one.at_events:,}{reason}"
        console.print(text, highlight=False, markup=False)


def _scores(log: Log, console: Console) -> None:
    record = log.last(Partition(SCORES, 0))
    if record is None:
        console.print("scores: none yet; they come every thousand events")
        return
    scored = told(record.value, Scored)
    if scored is None:
        console.print("scores: somebody else wrote the newest record")
        return
    table = _table("learner", "judged", "recall@20", "MRR@20", numeric=3)
    console.print(f"scores over the newest judgements, after {scored.events:,} events ({_moment(record.time_ms)}):")
    for name, found in scored.ranking.items():
        values = (found.window.get(score) for score in ("recall@20", "mrr@20"))
        table.add_row(name, f"{found.judged:,}", *("-" if value is None else f"{value:.4f}" for value in values))
    console.print(table)
    if newest := scored.propensity.window:
        auc = f"{newest['auc']:.3f}" if "auc" in newest else "none until both labels were seen"
        console.print(f"propensity: AUC {auc}, calibration error {newest['calibration_error']:.4f}")


def _trouble(log: Log, console: Console) -> None:
    alarms = [(record, alarm) for record in records_of(log, ALARMS) if (alarm := told(record.value, _Alarm))]
    console.print(f"alarms: {len(alarms):,}")
    for record, alarm in alarms[-shown_max:]:
        place = "" if alarm.events is None else f" after {alarm.events:,} events"
        detail = f": {alarm.detail}" if alarm.detail else ""
        text = f"  {alarm.detector}{place} ({_moment(record.time_ms)}){detail}"
        console.print(text, highlight=False, markup=False)
    reasons = reasons_of(log)
    console.print(f"dead letters: {sum(reasons.values()):,}")
    for reason, count in reasons.items():
        console.print(f"  {count:,} {reason}", highlight=False)


def _moment(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
