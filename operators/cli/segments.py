"""The commands of segments: segments show, set, clear, try, export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from headrace.shard.decision import Author
from operators.cli.app import BlobsFolder, LogUrl, Set, app, merge_sets, opened_log, read_settings, user_name
from operators.cli.models import AsJson, By, DryRun, Why
from operators.terminal import say, say_json

if TYPE_CHECKING:
    from headrace.segments import SegmentRules

segments_app = typer.Typer(no_args_is_help=True, help="Groups of shoppers, by rules over their profiles.")
app.add_typer(segments_app, name="segments")

File = Annotated[Path, typer.Argument(help="A document of segments, in TOML or JSON (docs/segments.md)")]


@segments_app.command()
def show(as_json: AsJson = False, log: LogUrl = None) -> None:
    """Show the segments that hold."""
    from operators.replay.plan import opened_to_read
    from operators.segments import stated_segments

    with opened_to_read(read_settings(log=log).common) as log_:
        found = stated_segments(log_)
    if as_json:
        say_json(None if found is None else {"version": found.version, **msgspec.to_builtins(found.rules)})
    elif found is None or not found.rules.segments:
        say("no segments")
    else:
        say(f"version {found.version}, stated by {found.rules.by}: {found.rules.why}")
        for name, one in found.rules.segments.items():
            say(f"{name}: {' '.join(one.where.split())}")


@segments_app.command("set")
def set_(
    file: File, why: Why = "", by: By = None, dry_run: DryRun = False, as_json: AsJson = False, log: LogUrl = None
) -> None:
    """Replace all segments by those of a file. `segments try` shows before who would be in them."""
    from operators.segments import read_segments

    rules = read_segments(file)
    stated = msgspec.structs.replace(rules, by=by or rules.by or user_name(), why=why or rules.why)
    _state(stated, dry_run=dry_run, as_json=as_json, log=log)


@segments_app.command()
def clear(why: Why = "", by: By = None, dry_run: DryRun = False, as_json: AsJson = False, log: LogUrl = None) -> None:
    """Take back all segments; clusters stay."""
    from headrace.segments import SegmentRules

    _state(SegmentRules(by or user_name(), why), dry_run=dry_run, as_json=as_json, log=log)


def _state(rules: "SegmentRules", *, dry_run: bool, as_json: bool, log: str | None) -> None:
    from operators.segments import state_segments, still_named

    named = list[str]()
    if not dry_run:
        Author(rules.by, rules.why).check()
        with opened_log(read_settings(log=log).common, existing=True) as log_:
            state_segments(log_, rules)
            named = still_named(log_)
    if as_json:
        say_json({"segments": msgspec.to_builtins(rules), "written": not dry_run, "still_named": named})
    elif dry_run:
        say("the segments are valid; nothing was changed (--dry-run)")
    else:
        say("written; shards and servers know them as soon as they read them")
        for one in named:
            say(f"still named: {one}")


@segments_app.command("try")
def try_(file: File, as_json: AsJson = False, log: LogUrl = None, blobs: BlobsFolder = None, sets: Set = None) -> None:
    """Show how many shoppers would be in the segments of a file. Folds the live state and changes nothing."""
    from headrace.shard.blobs import Blobs
    from operators.deployment import read_deployment
    from operators.replay.plan import opened_to_read
    from operators.segments import changes_text, read_segments, try_segments

    rules = read_segments(file)
    deployment = read_deployment(**merge_sets(sets, log=log, blobs=blobs))
    with opened_to_read(deployment.settings) as log_:
        found = try_segments(log_, Blobs(deployment.settings.blobs), deployment, rules)
    if as_json:
        say_json(msgspec.to_builtins(found))
    else:
        say(changes_text(found))


@segments_app.command()
def export(
    out: Annotated[Path, typer.Argument(help="The CSV file to write: shopper, kind, segment")],
    segment: Annotated[list[str] | None, typer.Option(help="Only this segment or cluster; may be repeated")] = None,
    log: LogUrl = None,
    blobs: BlobsFolder = None,
    sets: Set = None,
) -> None:
    """Write who is in which segment and cluster to a CSV file. Folds the live state and changes nothing."""
    from headrace.shard.blobs import Blobs
    from operators.deployment import read_deployment
    from operators.replay.plan import opened_to_read
    from operators.segments import export_segments

    deployment = read_deployment(**merge_sets(sets, log=log, blobs=blobs))
    with opened_to_read(deployment.settings) as log_:
        rows = export_segments(log_, Blobs(deployment.settings.blobs), deployment, out, segment or [])
    say(f"{out}: {rows:,} rows")
