"""`headrace status`: the progress and the scores of each shard, and the alarms and failures that need a person."""

from datetime import UTC, datetime
from typing import Final

from msgspec import Struct
from rich.table import Table

from headrace.announcement import Announcement
from headrace.log.protocol import Log, Partition, Record, decode_json
from headrace.shard import journal
from headrace.topics import ALARMS, MODELS, SCORES, TOPICS
from learners.families import Placement
from operators.deployment import Deployment
from operators.facts import FamilyScores, dead_letters_by_reason, decode_scores
from operators.requests import Request, standing
from operators.source import newest_records, topic_records
from operators.tables import rich_table
from operators.terminal import Terminal

shown_max: Final = 5
"""Number of the newest alarms and announcements that are shown."""
inspected_scores_max: Final = 200
"""Number of the newest records of `scores` that are searched for each family's newest."""


class _Alarm(Struct):
    """The common fields of alarms of drift and floods."""

    detector: str
    events: int | None = None
    detail: str = ""


def show(log: Log, terminal: Terminal, deployment: Deployment) -> None:
    """Print the content of a log.

    Raises:
        LogUnavailable: the log does not answer.
    """
    terminal.print(f"log {deployment.settings.log}")
    terminal.print(_topics(log, deployment))
    for placement in deployment.placements.values():
        _shard(log, terminal, placement)
    _models(log, terminal, deployment)
    _scores(log, terminal, deployment)
    _trouble(log, terminal)


def _table(*columns: str, numeric: int) -> Table:
    """Return an empty table whose last `numeric` columns hold numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place >= len(columns) - numeric else "left")
    return table


def _topics(log: Log, deployment: Deployment) -> Table:
    table = _table("topic", "partitions", "held", "ends", numeric=3)
    written = [place for shard in deployment.shards for place in (shard.journal, shard.judgements)]
    for name in TOPICS:
        # Topics with a partition per possible shard: only the partitions of our shards, as a log may lack the others.
        places = [place for place in written if place.topic == name] or log.partitions(name)
        ends = [log.end(place) for place in places]
        held = sum(ends) - sum(log.first(place) for place in places)
        table.add_row(name, str(len(ends)), f"{held:,}", " ".join(f"{end:,}" for end in ends))
    return table


def _shard(log: Log, terminal: Terminal, placement: Placement) -> None:
    shard = placement.shard
    name = f"{shard.name} ({', '.join(kind.name for kind in placement.own_kinds)})"
    last = log.last(shard.journal)
    if last is None:
        gone = log.first(shard.journal) > 0
        terminal.print(f"{name}: {'all of its journal has expired' if gone else 'has never run on this log'}")
        return
    entry = journal.decode(last)
    snapshot = "no snapshot yet"
    if entry.snapshot:
        behind = entry.number + 1 - entry.snapshot.number
        snapshot = f"newest snapshot {entry.snapshot.blob[:20]}... covers all but {behind:,} of them"
    table = _table("partition", "position", "lag", numeric=2)
    terminal.print(f"{name}: {entry.number + 1:,} journal entries, the last one {_time_text(last.time_ms)}; {snapshot}")
    for place, position in sorted(log.committed(shard.name).items()):
        last = log.last(place)  # after it, the log may end in markers
        lag = 0 if last is None else max(0, last.offset + 1 - position)
        table.add_row(journal.key_of(place), f"{position:,}", f"{lag:,}")
    terminal.print(table)


def _models(log: Log, terminal: Terminal, deployment: Deployment) -> None:
    now = standing(topic_records(log, MODELS))
    if now.champion:
        terminal.print(f"champion: {now.champion.version}, {_step(now.champion)}")
    else:
        since = "" if now.former else " yet"
        terminal.print(f"champion: none{since}; the blend works without the deep model")
    if now.request:
        terminal.print(_request(log, now.request, deployment))
    for one in [one for one in now.announcements if one.kind != "schedule"][-shown_max:]:
        reason = f": {one.reason}" if one.reason else ""
        terminal.print(f"  {one.version or '-'} {_step(one)}{reason}")


def _step(one: Announcement) -> str:
    if one.kind == "requested":
        return f"requested by {one.by or 'unknown'} ({one.action.replace('_', ' ')})"
    return f"{one.kind.replace('_', ' ')} at event {one.at_events:,}"


def _request(log: Log, request: Request, deployment: Deployment) -> str:
    """Return the newest request, and which shards have obeyed it."""
    one, place = request.announcement, Partition(MODELS, 0)
    heard: dict[bool, list[str]] = {True: [], False: []}
    for shard in deployment.shards:
        if MODELS in shard.hears:
            heard[log.committed(shard.name).get(place, 0) > request.position].append(shard.name)
    parts = [f"obeyed by {', '.join(heard[True])}"] if heard[True] else []
    parts += [f"pending at {', '.join(heard[False])}"] if heard[False] else []
    if request.overruled:
        parts.append(f"since then {request.overruled.version or 'no model'} was {_step(request.overruled)}")
    return f"newest request: {one.version or 'no model'}, {_time_text(one.time_ms)}: {'; '.join(parts)}"


def _scores(log: Log, terminal: Terminal, deployment: Deployment) -> None:
    """Print the newest scores of each family."""
    types = {kind.name: kind.surface.scores for kind in deployment.kinds}
    newest: dict[str, tuple[Record, FamilyScores]] = {}
    for record in newest_records(log, SCORES, inspected_scores_max):
        if scored := decode_scores(record, types):
            newest[scored[0]] = record, scored[1]
    if not newest:
        terminal.print("scores: none yet; they are written every thousand events")
        return
    for kind in deployment.kinds:
        if kind.name in newest:
            record, one = newest[kind.name]
            terminal.print(f"{kind.name}: {one.events:,} events scored ({_time_text(record.time_ms)})")
            for declared in kind.surface.tables:
                terminal.print(rich_table(declared, one.scores))


def _trouble(log: Log, terminal: Terminal) -> None:
    alarms = [(record, alarm) for record in topic_records(log, ALARMS) if (alarm := decode_json(record.value, _Alarm))]
    terminal.print(f"alarms: {len(alarms):,}")
    for record, alarm in alarms[-shown_max:]:
        place = "" if alarm.events is None else f" after {alarm.events:,} events"
        detail = f": {alarm.detail}" if alarm.detail else ""
        text = f"  {alarm.detector}{place} ({_time_text(record.time_ms)}){detail}"
        terminal.print(text)
    reasons = dead_letters_by_reason(log)
    terminal.print(f"dead letters: {sum(reasons.values()):,}")
    for reason, count in reasons.items():
        terminal.print(f"  {count:,} {reason}")


def _time_text(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
