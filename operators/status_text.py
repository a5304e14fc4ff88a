"""The text of `headrace status`."""

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.table import Table

from learners.family import Family
from operators.catalogue import catalogue
from operators.facts import results_text
from operators.status import ModelsStatus, ModelStatus, RequestStatus, ShardStatus, Status
from operators.tables import NONE, rich_table
from operators.terminal import Terminal


def show(status: Status, terminal: Terminal, kinds: Sequence[type[Family]]) -> None:
    """Print the state of a log, with the tables of scores that these families declare."""
    terminal.print(f"log {status.log}")
    terminal.print(_answers(status))
    if status.processes:
        terminal.print(_processes(status))
    terminal.print(_topics(status))
    for line in status.wrong:
        terminal.print(line)
    for shard in status.shards:
        _shard(shard, terminal)
    _models(status.models, terminal)
    _scores(status, terminal, kinds)
    _trouble(status, terminal)


def _answers(status: Status) -> Table:
    """Return the four answers, each with its worst cause."""
    english, table = catalogue("en"), _table("", "", "", "", numeric=0)
    table.show_header = False
    for answer in status.answers:
        causes = [english.cause(one) for one in answer.causes[:1]]
        level = english(f"level.{answer.level}") if answer.question != "changed" else ""
        table.add_row(english(f"question.{answer.question}"), level, " ".join(english.figure(answer.figure)), *causes)
    return table


def _table(*columns: str, numeric: int) -> Table:
    """Return an empty table whose last `numeric` columns hold numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place >= len(columns) - numeric else "left")
    return table


def _processes(status: Status) -> Table:
    table = _table("headrace up runs", "state", "at", "process", "restarts", numeric=2)
    for one in status.processes:
        table.add_row(one.name, one.state, one.address or NONE, str(one.pid), f"{one.restarts:,}")
    return table


def _topics(status: Status) -> Table:
    table = _table("topic", "partitions", "offsets held", "ends", numeric=3)
    for one in status.topics:
        table.add_row(one.name, str(one.partitions), f"{one.held:,}", " ".join(f"{end:,}" for end in one.ends))
    return table


def _shard(shard: ShardStatus, terminal: Terminal) -> None:
    name = f"{shard.name} ({', '.join(shard.families)})"
    if shard.last_ms is None:
        expired = shard.journal == "expired"
        terminal.print(f"{name}: {'all of its journal has expired' if expired else 'has never run on this log'}")
        return
    snapshot = "no snapshot yet"
    if shard.snapshot:
        snapshot = f"newest snapshot {shard.snapshot.blob[:20]}... covers all but {shard.snapshot.behind:,} of them"
        if shard.snapshot.kept:
            snapshot += f"; {shard.snapshot.kept:,} are kept, {shard.snapshot.kept_bytes:,} bytes"
    terminal.print(f"{name}: {shard.entries:,} journal entries, the last one {_time_text(shard.last_ms)}; {snapshot}")
    if shard.results:
        terminal.print(results_text(shard.results))
    table = _table("partition", "position", "lag", numeric=2)
    for one in shard.positions:
        table.add_row(one.partition, f"{one.position:,}", f"{'' if one.counted else '≤ '}{one.lag:,}")
    terminal.print(table)


def _models(models: ModelsStatus, terminal: Terminal) -> None:
    if models.champion:
        terminal.print(f"champion: {models.champion.version}, {_step(models.champion)}")
    else:
        since = "" if models.ever_champion else " yet"
        terminal.print(f"champion: none{since}; the blend works without the deep model")
    if models.request:
        terminal.print(_request(models.request))
    for one in models.announced:
        reason = f": {one.reason}" if one.reason else ""
        terminal.print(f"  {one.version or '-'} {_step(one)}{reason}")


def _step(one: ModelStatus) -> str:
    if one.kind == "requested":
        return f"requested by {one.by or 'unknown'} ({one.action.replace('_', ' ')})"
    return f"{one.kind.replace('_', ' ')} after {one.at_events:,} records"


def _request(one: RequestStatus) -> str:
    parts = [f"obeyed by {', '.join(one.obeyed)}"] if one.obeyed else []
    parts += [f"pending at {', '.join(one.pending)}"] if one.pending else []
    if one.overruled_by:
        parts.append(f"since then {one.overruled_by.version or 'no model'} was {_step(one.overruled_by)}")
    return f"newest request: {one.version or 'no model'}, {_time_text(one.time_ms)}: {'; '.join(parts)}"


def _scores(status: Status, terminal: Terminal, kinds: Sequence[type[Family]]) -> None:
    if not status.scores:
        terminal.print("scores: none yet; they are written every thousand events")
    surfaces = {kind.name: kind.surface for kind in kinds}
    for one in status.scores:
        terminal.print(f"{one.family}: scores after {one.events:,} events learned ({_time_text(one.time_ms)})")
        for declared in surfaces[one.family].tables:
            rows = rich_table(declared, one.scores)
            terminal.print(rows if rows.row_count else f"{declared.title}: none yet")


def _trouble(status: Status, terminal: Terminal) -> None:
    terminal.print(f"alarms: {status.alarms_total:,}")
    for alarm in status.alarms:
        place = "" if alarm.events is None else f" after {alarm.events:,} events"
        detail = f": {alarm.detail}" if alarm.detail else ""
        terminal.print(f"  {alarm.detector}{place} ({_time_text(alarm.time_ms)}){detail}")
    for one in status.decisions:
        terminal.print(f"decided for {one.shard} by {one.who} ({_time_text(one.time_ms)}): {one.text}: {one.why}")
    terminal.print(f"dead letters: {sum(status.dead_letters.values()):,}")
    for reason, count in status.dead_letters.items():
        terminal.print(f"  {count:,} {reason}")


def _time_text(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
