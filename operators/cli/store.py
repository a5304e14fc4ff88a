"""The commands for what is stored: trim, backup, restore."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from operators.cli.app import BlobsFolder, LogUrl, app, opened_log
from operators.terminal import say, say_json

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object")]
Verify = Annotated[bool, typer.Option("--verify", help="Also compare all records, and fold the journals")]


@app.command()
def trim(
    log: LogUrl = None,
    keep_days: Annotated[float | None, typer.Option(help="As the setting trim.keep_days", min=0)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be deleted; delete nothing")] = False,
    vacuum: Annotated[
        bool, typer.Option("--vacuum", help="Then write the file anew, while nothing else uses it")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete old records that no kept snapshot of any shard needs from a log in a file. Processes may run meanwhile."""
    from operators.deployment import read_deployment
    from operators.progress import StepReport
    from operators.trimming import Trimmed, trim_file

    own = None if keep_days is None else {"keep_days": keep_days}
    deployment = read_deployment(log=log, trim=own)
    with opened_log(deployment.settings, existing=True) as log_:
        report = StepReport("trim: records deleted")
        found: Trimmed = trim_file(log_, deployment, report, dry_run=dry_run, vacuum=vacuum)
    if as_json:
        say_json(msgspec.to_builtins(found))
    else:
        say(found.text())


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder, not on the disk of the log")],
    log: LogUrl = None,
    blobs: BlobsFolder = None,
    verify: Verify = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be copied; write nothing")] = False,
    as_json: AsJson = False,
) -> None:
    """Copy a log in a file and the blobs in use into a folder, with a manifest, while everything runs."""
    from operators.backup import back_up
    from operators.deployment import read_deployment
    from operators.progress import TaskReport

    deployment = read_deployment(log=log, blobs=blobs)
    manifest = back_up(deployment, folder, TaskReport("backup"), verified=verify, dry_run=dry_run)
    if as_json:
        say_json(msgspec.to_builtins(manifest))
        return
    say(manifest.text())
    if dry_run:
        say("nothing was written")
    else:
        folded = f"; verified by folding in {manifest.fold_s:,.1f} s" if verify else ""
        say(f"backup in {folder}, in {manifest.seconds:,.1f} s{folded}")


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="The folder of a backup")],
    log: LogUrl = None,
    blobs: BlobsFolder = None,
    archive: Annotated[
        str | None, typer.Option("--archive", help="Folder or URL of the archive, for what is newer than the backup")
    ] = None,
    verify: Verify = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the backup; write nothing")] = False,
    as_json: AsJson = False,
) -> None:
    """Write what a backup holds, and an archive's newer events, to a new log and folder. Start processes afterwards."""
    from operators.backup import restore as restore_from
    from operators.deployment import read_deployment
    from operators.progress import TaskReport

    own = None if archive is None else {"url": archive}
    deployment = read_deployment(log=log, blobs=blobs, archive=own)
    restored = restore_from(deployment, folder, TaskReport("restore"), verified=verify, dry_run=dry_run)
    if as_json:
        say_json(msgspec.to_builtins(restored))
        return
    say(restored.text())
    what = "the backup is whole, nothing was written" if dry_run else f"restored to {deployment.settings.log}"
    say(f"{what}, in {restored.seconds:,.1f} s{' with folding' if verify else ''}")
