"""The command that explains what becomes of an event."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated

import msgspec
import typer

from headrace.clock import read_time_ms, wall_ms
from headrace.errors import Misconfigured
from operators.cli.app import app
from operators.terminal import say_json, say_lines


@app.command("explain-event")
def explain_event(
    file: Annotated[
        Path, typer.Argument(help="Events in JSON, one a line or one in all, plain or gzipped; - is standard input")
    ],
    key: Annotated[str | None, typer.Option(help="The record's key; by default the event's subject")] = None,
    now: Annotated[str | None, typer.Option(help="When the record is appended; by default now")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document a line instead of text")] = False,
) -> None:
    """Say what would become of events: used as what, or rejected why, and which families learn what from them."""
    from operators.deployment import read_deployment
    from operators.explanation import documents, explain, lines_of

    appended_ms = wall_ms() if now is None else read_time_ms("--now", now)
    record_key = None if key is None else key.encode(errors="surrogateescape")
    placements = read_deployment().placements.values()
    fates = rejected = 0
    with _opened(file) as opened:
        for line, document in documents(opened):
            fate = explain(document, placements, line=line, appended_ms=appended_ms, key=record_key)
            if json:
                say_json(msgspec.to_builtins(fate))
            else:
                say_lines(lines_of(fate))
            fates, rejected = fates + 1, rejected + (not fate.accepted and not fate.unused)
    if not fates:
        raise Misconfigured(f"{file}: wanted at least one event in JSON, found none")
    if rejected:
        raise typer.Exit(1)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, or standard input."""
    from producers.file import decompressed, translated_damage

    if str(path) == "-":
        yield sys.stdin.buffer
        return
    try:
        raw = path.open("rb")
    except (OSError, ValueError) as error:
        raise Misconfigured(f"{path}: wanted a file with events, found {error}") from error
    with raw, translated_damage(path):
        yield decompressed(raw)
