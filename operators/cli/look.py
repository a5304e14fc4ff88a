"""The commands that show something: status, report, demo, settings, version."""

import sys
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

import headrace
from operators.cli.app import BlobsFolder, LogUrl, app, opened_log
from operators.terminal import Terminal, say, say_file, say_json

line_characters_max: Final = 100_000
"""Maximum length of a line that is not printed to a terminal."""
watch_s: Final = 2.0
"""Time, in seconds, between two states that `status --watch` prints."""


@app.command()
def status(
    log: LogUrl = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object (docs/status.md)")] = False,
    watch: Annotated[bool, typer.Option(help=f"Print it every {watch_s:g} s until Ctrl-C")] = False,
    models: Annotated[bool, typer.Option(help="With all models, not only the newest announcements")] = False,
) -> None:
    """Show the state of a log: positions, lag, snapshots, the champion, the newest scores."""
    from headrace.process import stop_on_signals
    from operators.deployment import read_deployment
    from operators.status import StatusReader
    from operators.status_text import show

    deployment = read_deployment(log=log)
    # A file or a pager has no width, and wrapped tables are unreadable.
    terminal = Terminal(width=None if sys.stdout.isatty() else line_characters_max)
    stop = stop_on_signals() if watch else None
    with opened_log(deployment.settings, existing=True) as log_:
        reader = StatusReader(log_, deployment)
        while True:
            found = reader.read(all_models=models)
            if as_json:
                say_json(msgspec.to_builtins(found))
            else:
                if watch:
                    terminal.clear()  # does nothing if it is no terminal
                show(found, terminal, deployment.kinds)
            if stop is None or stop.wait(watch_s):
                break


@app.command()
def report(
    path: Annotated[Path, typer.Argument(help="HTML file to write")] = Path("report.html"),
    log: LogUrl = None,
) -> None:
    """Write a report of a log as one HTML file: quality over time, families, rounds, drift, input."""
    from operators.deployment import read_deployment
    from operators.facts import Facts
    from operators.report import write_report

    deployment = read_deployment(log=log)
    with opened_log(deployment.settings, existing=True) as log_:
        write_report(Facts.read(log_, deployment), path)
    say(f"report: {path.resolve()}")


@app.command()
def verify(
    log: LogUrl = None,
    blobs: BlobsFolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per shard")] = False,
) -> None:
    """Compare what the journals name with the log and the blobs; exit with 1 if something is missing or was changed."""
    from headrace.shard.blobs import Blobs
    from headrace.shard.verify import verify
    from operators.deployment import read_deployment
    from operators.facts import verified_text
    from operators.progress import StepReport

    deployment = read_deployment(log=log, blobs=blobs)
    whole = True
    with opened_log(deployment.settings, existing=True) as log_:
        for shard in deployment.shards:
            report = StepReport(f"{shard.name}: entries verified")
            found = verify(log_, Blobs(deployment.settings.blobs), shard, report)
            whole = whole and found.whole
            if as_json:
                say_json(msgspec.to_builtins(found))
            else:
                say(verified_text(found))
    if not whole:
        raise typer.Exit(1)


@app.command()
def demo(
    data: Annotated[Path | None, typer.Option(help="A real file instead of the simulated shop")] = None,
    kafka: Annotated[bool, typer.Option(help="Use a real Kafka broker, started if none is named")] = False,
    serve: Annotated[bool, typer.Option(help="Keep all processes running afterwards")] = False,
    events: Annotated[int | None, typer.Option(help="Events of the simulated shop")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the simulated shop")] = 1,
    minutes: Annotated[float, typer.Option(help="Maximum time for a real file; the published share is printed")] = 4.0,
    folder: Annotated[Path | None, typer.Option(help="Folder for log, blobs and report")] = None,
) -> None:
    """Run the whole pipeline in under 5 minutes, show a table, and write a report."""
    from operators.demo import Demo

    Demo(Terminal(), data=data, kafka=kafka, keep=serve, events=events, seed=seed, minutes=minutes, folder=folder).run()


@app.command()
def settings() -> None:
    """Print a headrace.toml: every setting, commented out, with its default and what it is."""
    from headrace.config import own_families
    from learners.families import families
    from operators.settings_file import settings_file

    say_file(settings_file(families(own_families())))


@app.command()
def version() -> None:
    """Print the version."""
    say(headrace.__version__)
