"""The commands for dead letters: list, show, redrive, drop."""

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from headrace.clock import read_time_ms
from headrace.errors import Misconfigured
from operators.cli.app import LogUrl, app, opened_log, read_settings, user_name
from operators.cli.models import By
from operators.terminal import Terminal, say, say_json

letters = typer.Typer(no_args_is_help=True, help="Show records that could not be used, and publish them again.")
app.add_typer(letters, name="dead-letters")

Ids = Annotated[list[str] | None, typer.Argument(help="Origins, e.g. events/0/17; by default all")]
Reasons = Annotated[list[str] | None, typer.Option("--reason", help="Only of this reason; may be repeated")]
Topics = Annotated[list[str] | None, typer.Option("--topic", help="Only of this topic")]
Sources = Annotated[list[str] | None, typer.Option("--source", help="Only events that name this source")]
From = Annotated[str | None, typer.Option("--from", help="First append time of the bad record")]
To = Annotated[str | None, typer.Option("--to", help="Append time to stop before")]
Why = Annotated[str, typer.Option(help="Why, for the record")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing; show what would be done")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON")]


def _wanted(
    ids: list[str] | None, reasons: list[str] | None, topics: list[str] | None, sources: list[str] | None,
    time_from: str | None, time_to: str | None,
) -> Any:  # fmt: skip
    from typing import get_args

    from headrace.events import Reason
    from producers.redrive import Wanted

    for reason in reasons or ():
        if reason not in get_args(Reason):
            raise Misconfigured(f"--reason {reason}: wanted one of {', '.join(get_args(Reason))}")
    for id_ in ids or ():
        topic, _, place = id_.partition("/")
        if not topic or len(place.split("/")) != 2 or not all(part.isdecimal() for part in place.split("/")):
            raise Misconfigured(f"{id_}: wanted an origin such as events/0/17")
    return Wanted(
        ids or (), reasons or (), topics or (), sources or (),
        None if time_from is None else read_time_ms("--from", time_from),
        None if time_to is None else read_time_ms("--to", time_to),
    )  # fmt: skip


@letters.command("list")
def list_(
    reason: Reasons = None, topic: Topics = None, source: Sources = None, time_from: From = None, time_to: To = None,
    log: LogUrl = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Count dead letters by topic and reason: the open ones, and those that are redriven or dropped."""
    from rich.table import Table

    from headrace.events import at
    from producers.redrive import decisions
    from producers.redrive import letters as read

    wanted = _wanted(None, reason, topic, source, time_from, time_to)
    counts: dict[tuple[str, str], Counter[str]] = {}
    newest: dict[tuple[str, str], Any] = {}
    with opened_log(read_settings(log=log).common, existing=True) as log_:
        decided = decisions(log_)
        for letter in read(log_, wanted):
            group = letter.id.partition("/")[0], letter.reason
            counts.setdefault(group, Counter())[decided.get(letter.id, "open")] += 1
            newest[group] = letter
    rows = [
        {
            "topic": name, "reason": why, **{fate: found[fate] for fate in ("open", "redriven", "dropped")},
            "newest": newest[name, why].id, "appended": at(newest[name, why].appended_ms).isoformat(),
            "detail": newest[name, why].detail,
        }
        for (name, why), found in sorted(counts.items())
    ]  # fmt: skip
    if as_json:
        say_json(rows)
        return
    if not rows:
        say("no dead letters")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in rows[0]:
        table.add_column(column, justify="right" if column in ("open", "redriven", "dropped") else "left")
    for row in rows:
        table.add_row(*[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row.values()])
    Terminal().print(table)


@letters.command()
def show(
    ids: Ids = None, reason: Reasons = None, topic: Topics = None, source: Sources = None, time_from: From = None,
    time_to: To = None, limit: Annotated[int, typer.Option(min=1, help="Number of letters, the oldest first")] = 20,
    log: LogUrl = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Show dead letters whole: the reason, what was wanted and found, the bytes of the record, and what was decided."""
    from headrace.events import at
    from producers.redrive import decisions
    from producers.redrive import letters as read

    wanted = _wanted(ids, reason, topic, source, time_from, time_to)
    with opened_log(read_settings(log=log).common, existing=True) as log_:
        decided = decisions(log_)
        for number, letter in enumerate(read(log_, wanted)):
            if number == limit:
                say(f"more than {limit}: see --limit", error=True)
                break
            decision = decided.get(letter.id, "open")
            if as_json:
                say_json({**msgspec.to_builtins(letter), "decision": decision})
                continue
            say(f"{letter.id}  {at(letter.appended_ms).isoformat()}  {decision}  {letter.reason}: {letter.detail}")
            for name, data in (("key", letter.key), ("value", letter.value)):
                say(f"  {name}  {_readable(data)}")
            if not letter.whole:
                say(f"  the value has {letter.value_bytes:,} bytes; the whole record is at its origin")


def _readable(data: bytes) -> str:
    with suppress(UnicodeDecodeError):
        return data.decode()
    return repr(data)


@letters.command()
def redrive(
    ids: Ids = None, reason: Reasons = None, topic: Topics = None, source: Sources = None, time_from: From = None,
    time_to: To = None,
    mapping: Annotated[
        Path | None, typer.Option("--map", help="A TOML file that makes events of the documents, as for headrace load")
    ] = None,
    why: Why = "", by: By = None, dry_run: DryRun = False, log: LogUrl = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Publish open dead letters again, each once; those that would be rejected again stay open."""
    from producers.mapping import read_mapping
    from producers.redrive import redrive as publish

    wanted = _wanted(ids, reason, topic, source, time_from, time_to)
    given = None if mapping is None else read_mapping(mapping)
    with opened_log(read_settings(log=log).common, existing=True) as log_:
        found = publish(log_, wanted, by=by or user_name(), why=why, mapping=given, dry_run=dry_run)
    _say(found, "redriven", dry_run=dry_run, as_json=as_json)


@letters.command()
def drop(
    ids: Ids = None, reason: Reasons = None, topic: Topics = None, source: Sources = None, time_from: From = None,
    time_to: To = None, why: Why = "", by: By = None, dry_run: DryRun = False, log: LogUrl = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Mark open dead letters as dropped, so that they count as decided. Their records stay until they expire."""
    from producers.redrive import drop as mark

    wanted = _wanted(ids, reason, topic, source, time_from, time_to)
    with opened_log(read_settings(log=log).common, existing=True) as log_:
        found = mark(log_, wanted, by=by or user_name(), why=why, dry_run=dry_run)
    _say(found, "dropped", dry_run=dry_run, as_json=as_json)


def _say(found: Any, decision: str, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        say_json({"decision": decision, "dry_run": dry_run, **msgspec.to_builtins(found)})
        return
    say(f"{'would be ' if dry_run else ''}{decision}: {found.settled:,}; still open: {found.open:,}")
    for why, count in (
        *((f"would be rejected again ({reason})", count) for reason, count in found.rejected.most_common()),
        ("are no longer whole in the log", found.lost),
        ("are of topics that only Headrace writes", found.foreign),
        ("are left out by the mapping", found.left_out),
    ):
        if count:
            say(f"  {count:,} {why}")
    for example in found.examples:
        say(f"    {example}")
