"""The command of the archiver: `headrace archive`."""

from typing import Annotated

import typer

from headrace.errors import Misconfigured
from operators.cli.app import Host, LogUrl, MetricsPort, Set, app, merge_sets, print_starting, user_name
from operators.cli.models import By
from operators.terminal import say, say_json


@app.command()
def archive(
    log: LogUrl = None,
    url: Annotated[str | None, typer.Option("--archive", help="Folder or URL of the archive")] = None,
    host: Host = None,
    metrics_port: MetricsPort = None,
    once: Annotated[bool, typer.Option("--once", help="Archive what the log holds now, and end")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what waits to be archived")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only compare the files with their checksums")] = False,
    accept_gap: Annotated[
        bool,
        typer.Option("--accept-gap", help="Go on although records expired first, or archived ones are not the log's"),
    ] = False,
    why: Annotated[str, typer.Option(help="Why, for the record, with --accept-gap")] = "",
    by: By = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result of --once, --check or --dry-run as JSON")
    ] = False,
    sets: Set = None,
) -> None:
    """Copy events, items, dead letters, models, journal and judgements into Parquet files by day, each once."""
    from operators.deployment import read_deployment

    own = {"url": url, "metrics_port": metrics_port}
    settings = read_deployment(**merge_sets(sets, log=log, host=host, archive=own)).settings
    from headrace.archive.store import open_store

    if accept_gap and not why:
        raise Misconfigured("archive: wanted --why with --accept-gap, found none")
    if not settings.archive.url:
        raise Misconfigured("archive: wanted a folder or URL by --archive or in [archive] url, found none")
    store = open_store(settings.archive.url)
    if check:
        from headrace.archive.manifest import problems

        found = list(problems(store))
        if as_json:
            say_json({"problems": found})
        else:
            say("\n".join(found) or "archive: whole")
        raise typer.Exit(bool(found))
    from contextlib import closing
    from threading import Event

    from consumers import archive as process
    from headrace.log.open import open_log
    from headrace.metrics import ArchiveMetrics, MetricsServer
    from headrace.process import collect_garbage_rarely, log_to_stderr, run_with_retries, stop_on_signals

    if dry_run:
        with closing(open_log(settings.log, existing=True)) as live:
            count = process.waiting(live, store)
        if as_json:
            say_json({"waiting": count})
        else:
            say(f"archive: {count:,} records wait; nothing was changed (--dry-run)")
        return
    gap = (by or user_name(), why) if accept_gap else None
    log_to_stderr()
    if once:
        with closing(open_log(settings.log, existing=True)) as live:
            done = process.run(live, store, settings.archive, ArchiveMetrics(), Event(), once=True, accept_gap=gap)
        if as_json:
            say_json(done._asdict())
        else:
            say(f"archive: {done.records:,} records in {done.files:,} files added; {done.waiting:,} wait")
        return
    print_starting("archive", settings)
    collect_garbage_rarely()
    stop, metrics = stop_on_signals(), ArchiveMetrics()

    def body() -> None:
        with closing(open_log(settings.log)) as live:
            live.create()
            process.run(live, store, settings.archive, metrics, stop, accept_gap=gap)

    with MetricsServer(metrics, host=settings.host, port=settings.archive.metrics_port) as server:
        say(f"archive: metrics on http://{server.host}:{server.port}/metrics, log {settings.log}")
        run_with_retries(body, stop, deadline_s=settings.archive.retry_s)
