"""The command that follows an event through the log."""

from typing import Annotated

import msgspec
import typer

from headrace.clock import read_time_ms
from operators.cli.app import LogUrl, app
from operators.terminal import say, say_json, say_lines


@app.command()
def trace(
    event: Annotated[str, typer.Argument(help="The event's id, or its record's place as PARTITION/OFFSET")],
    source: Annotated[str | None, typer.Option(help="Only events of this source; by default all with the id")] = None,
    since: Annotated[str | None, typer.Option(help="Search what was appended since then; by default all")] = None,
    otlp: Annotated[
        str | None,
        typer.Option(help="Also send it as OpenTelemetry spans to this collector (headrace[otlp])"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a record instead of text")] = False,
    log: LogUrl = None,
) -> None:
    """Follow an event: when it was appended and learned, what was predicted before, and the first answer after it."""
    from operators.deployment import read_deployment
    from operators.progress import TaskReport
    from operators.replay.plan import opened_to_read
    from operators.trace import trace as followed
    from operators.traced import lines_of

    since_ms = None if since is None else read_time_ms("--since", since)
    deployment = read_deployment(log=log)
    with opened_to_read(deployment.settings) as log_:
        found = followed(
            log_, deployment.placements, event, source=source, since_ms=since_ms, report=TaskReport("trace")
        )
    if otlp is not None and found:
        from operators import otlp as collector

        say(f"{collector.send(found, otlp)} spans sent to {otlp}", error=True)
    for one in found:
        if as_json:
            say_json(msgspec.to_builtins(one))
        else:
            say_lines(lines_of(one))
    if not found:
        of = "" if source is None else f" of {source}"
        then = "" if since is None else f" since {since}"
        say(f"no event {event}{of} is in the log{then}: it was not sent, was refused, or has expired", error=True)
        raise typer.Exit(1)
