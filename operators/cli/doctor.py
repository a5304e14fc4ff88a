"""The command that finds what is wrong with a log, its blobs and its processes, and what mends it."""

import sys
from typing import Annotated

import msgspec
import typer

from operators.cli.app import BlobsFolder, LogUrl, Set, app, merge_sets
from operators.cli.look import line_characters_max
from operators.terminal import Terminal, say, say_json


@app.command()
def doctor(
    log: LogUrl = None,
    blobs: BlobsFolder = None,
    full: Annotated[bool, typer.Option(help="Compare all that the journals name, as `headrace verify` does")] = False,
    strict: Annotated[bool, typer.Option(help="Exit with 1 for warnings, too")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object (docs/doctor.md)")] = False,
    sets: Set = None,
) -> None:
    """Check log, blobs, disk, clocks and processes; name what is wrong and what mends it; exit with 1 for errors."""
    from operators.doctor.examination import examine, table
    from operators.progress import StepReport

    options = merge_sets(sets, log=log, blobs=blobs)
    found = examine(options, full=full, report=StepReport("entries verified"))
    errors, warnings = found.count("error"), found.count("warning")
    if as_json:
        say_json({**msgspec.to_builtins(found), "errors": errors, "warnings": warnings})
    else:
        Terminal(width=None if sys.stdout.isatty() else line_characters_max).print(table(found))
        if found.unchecked:
            say(f"not checked: {', '.join(found.unchecked)}")
        say(f"{errors} errors, {warnings} warnings")
    if errors or (strict and warnings):
        raise typer.Exit(1)
