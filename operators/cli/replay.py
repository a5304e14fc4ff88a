"""The commands of shadow runs: replay, and replay diff, promote, list, show, delete."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.errors import Misconfigured, PositionLost
from operators.cli.app import BlobsFolder, LogUrl, Set, app, merge_sets, opened_log, user_name
from operators.cli.models import By
from operators.terminal import say, say_json

if TYPE_CHECKING:
    from operators.replay.plan import PlaceKind
    from operators.replay.run import Run

replays = typer.Typer(
    invoke_without_command=True,
    help="Fold a range of a shard's journal again, beside the live shard, into a shadow run.",
)
app.add_typer(replays, name="replay")

Name = Annotated[str, typer.Argument(help="The run's name")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object")]
Why = Annotated[str, typer.Option(help="Why, for the record; needed unless with --dry-run")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing; show what would be done")]


@replays.callback()
def replay(
    context: typer.Context,
    into: Annotated[str | None, typer.Option("--into", help="The run's name; one that exists goes on")] = None,
    begin: Annotated[str | None, typer.Option("--from", help="Begin; by default as early as the log covers")] = None,
    end: Annotated[str | None, typer.Option("--to", help="End; by default the journal's present end")] = None,
    as_time: Annotated[bool, typer.Option("--time", help="--from and --to are times (ISO 8601)")] = False,
    as_offset: Annotated[bool, typer.Option("--offset", help="They are numbers of journal entries")] = False,
    as_snapshot: Annotated[bool, typer.Option("--snapshot", help="They are the begins of snapshots' names")] = False,
    shard: Annotated[str, typer.Option(help="The shard whose journal is folded")] = "online",
    sets: Set = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", help="Leave out shopper=ID, source=SOURCE, item=ID or window=FROM..TO"),
    ] = None,
    rate: Annotated[
        str | None, typer.Option(help="Records per second at most, or live: pause while a live shard falls behind")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the estimate; write nothing")] = False,
    as_json: Json = False,
    log: LogUrl = None,
    blobs: BlobsFolder = None,
) -> None:
    """Fold a range of a shard's journal again, beside the live shard, into a shadow run. Run again, it goes on."""
    if context.invoked_subcommand:
        return
    if into is None:
        raise Misconfigured("replay: wanted the name of a run by --into, or one of the commands of --help")
    kind = _kind(as_time=as_time, as_offset=as_offset, as_snapshot=as_snapshot)
    from headrace.process import collect_garbage_rarely
    from headrace.shard.blobs import Blobs
    from operators.deployment import read_deployment
    from operators.replay.begin import check_same, estimate_text, extended, known_rate, new_run
    from operators.replay.fold import fold, measure
    from operators.replay.pace import ReplayReport, pace_of
    from operators.replay.plan import covered_text, opened_to_read, plan
    from operators.replay.run import RunFolder
    from operators.replay.text import run_json, run_text

    deployment = read_deployment(**merge_sets(sets, log=log, blobs=blobs))
    placement, shop = deployment.placement(shard), Blobs(deployment.settings.blobs)
    folder = RunFolder(shop, into)
    collect_garbage_rarely()
    with opened_to_read(deployment.settings) as log_:
        pace = pace_of(rate, log_, deployment.shards)

        def wanted() -> "tuple[Run, int | None]":
            if not folder.exists:
                made, found = new_run(
                    log_, shop, deployment, placement, into, begin=begin, end=end, kind=kind, sets=sets or (),
                    without=without or (), who=user_name(),
                )  # fmt: skip
                return made, found.records
            run = folder.read()
            first = None if begin is None else plan(log_, shop, placement.shard, begin, None, kind).begin
            check_same(run, deployment, shard, first, sets or (), without or ())
            return extended(log_, shop, placement, run, end, kind), None

        try:
            if dry_run:
                run, records = wanted()
                speed = measure(log_, shop, placement, run)
                if as_json:
                    say_json({**run_json(run), "records": records, "records_per_s": round(speed)})
                else:
                    say(estimate_text(run, records, speed, placement))
                    say("nothing was written")
                return
            with folder.alone():
                run, records = wanted()
                say(estimate_text(run, records, known_rate(shop, run), placement), error=True)
                folder.write(run)
                run = fold(log_, shop, placement, folder, pace=pace, report=ReplayReport(into))
        except PositionLost:
            say(f"{into}: the log no longer holds what this range needs; {covered_text(log_)}", error=True)
            raise
    if as_json:
        say_json(run_json(run))
    else:
        say(run_text(run))


def _kind(*, as_time: bool, as_offset: bool, as_snapshot: bool) -> "PlaceKind":
    if as_time + as_offset + as_snapshot > 1:
        raise Misconfigured("replay: wanted at most one of --time, --offset and --snapshot, found more")
    if as_time:
        return "time"
    if as_offset:
        return "offset"
    return "snapshot" if as_snapshot else ""


@replays.command("list")
def list_(as_json: Json = False, blobs: BlobsFolder = None) -> None:
    """List the runs: their ranges, what they fold otherwise, how far they are, and their size."""
    from rich.table import Table

    from headrace.shard.blobs import Blobs
    from operators.deployment import read_deployment
    from operators.replay.begin import changes_text
    from operators.replay.run import RunFolder, runs
    from operators.replay.text import run_json
    from operators.terminal import Terminal

    shop = Blobs(read_deployment(blobs=blobs).settings.blobs)
    found = runs(shop)
    if as_json:
        say_json([run_json(run) for run in found])
        return
    if not found:
        say("no runs")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("run", "shard", "from", "to", "folded to", "what", "records/s", "MB"):
        table.add_column(column, justify="left" if column in ("run", "shard", "what") else "right")
    for run in found:
        size = RunFolder(shop, run.name).size() / 1e6
        table.add_row(
            run.name, run.shard, f"{run.begin:,}", f"{run.end:,}", f"{run.number:,}", changes_text(run),
            f"{run.rate:,.0f}", f"{size:,.1f}",
        )  # fmt: skip
    Terminal().print(table)


@replays.command()
def show(name: Name, as_json: Json = False, blobs: BlobsFolder = None) -> None:
    """Show a run: its state's digest, whether that is the live shard's, and the proof of what was left out."""
    from headrace.shard.blobs import Blobs
    from operators.deployment import read_deployment
    from operators.replay.run import RunFolder
    from operators.replay.text import run_json, run_text

    run = RunFolder(Blobs(read_deployment(blobs=blobs).settings.blobs), name).read()
    if as_json:
        say_json(run_json(run))
    else:
        say(run_text(run))


@replays.command()
def diff(
    name: Name,
    other: Annotated[str | None, typer.Argument(help="Another run; by default the live shard at that entry")] = None,
    shoppers: Annotated[int, typer.Option(min=1, help="Number of shoppers whose answers are compared")] = 200,
    picture: Annotated[Path | None, typer.Option(help="Also draw the charts into this .svg or .png file")] = None,
    as_json: Json = False,
    log: LogUrl = None,
    blobs: BlobsFolder = None,
) -> None:
    """Compare a run with the live shard or another run: digests, quality over the range, drift, rounds and answers."""
    from headrace.shard.blobs import Blobs
    from operators.deployment import read_deployment
    from operators.replay.compare import compare
    from operators.replay.plan import opened_to_read
    from operators.replay.run import RunFolder
    from operators.replay.text import answers_lines, comparison_json, comparison_table, left_out_lines
    from operators.terminal import Terminal

    deployment = read_deployment(log=log, blobs=blobs)
    shop = Blobs(deployment.settings.blobs)
    folder = RunFolder(shop, name)
    run = folder.read()
    placement = deployment.placement(run.shard)
    if other == name:
        raise Misconfigured(f"replay diff {name} {other}: wanted two runs, found one")
    with opened_to_read(deployment.settings) as log_:
        found = compare(log_, shop, placement, folder, RunFolder(shop, other) if other else None, shoppers)
    if picture:
        from operators.picture import draw
        from operators.replay.picture import Pictured, sides

        draw(sides, Pictured(found, placement), picture)
    if as_json:
        say_json(comparison_json(found))
        return
    Terminal().print(comparison_table(found))
    for line in [*answers_lines(found), *left_out_lines(run)]:
        say(line.strip())


@replays.command()
def promote(
    name: Name, why: Why = "", by: By = None, dry_run: DryRun = False, as_json: Json = False, log: LogUrl = None,
    blobs: BlobsFolder = None,
) -> None:  # fmt: skip
    """Put a run's state in place of the live one, at the journal's end. Fences the shard's process; can be undone."""
    from headrace.shard.blobs import Blobs
    from headrace.shard.decision import Author
    from operators.deployment import read_deployment
    from operators.replay.begin import changes_text
    from operators.replay.pace import ReplayReport
    from operators.replay.promote import promote as put_in_place
    from operators.replay.run import RunFolder

    deployment = read_deployment(log=log, blobs=blobs)
    shop = Blobs(deployment.settings.blobs)
    folder = RunFolder(shop, name)
    run = folder.read()
    placement = deployment.placement(run.shard)
    if dry_run:
        if as_json:
            say_json({"run": name, "shard": run.shard, "number": run.number, "written": False})
        else:
            say(f"{name}: its state ({changes_text(run)}) would become that of {run.shard}; nothing was written")
        return
    with opened_log(deployment.settings, existing=True) as log_:
        entry = put_in_place(
            log_, shop, placement, folder, Author(by or user_name(), why),
            report=ReplayReport(name),
        )  # fmt: skip
    if as_json:
        say_json({"run": name, "shard": run.shard, "number": entry.number, "written": True})
        return
    say(f"{name}: its state is that of {run.shard} from entry {entry.number:,} on; its process has to be started again")
    for text in run.settings:
        say(f"  set {text} in headrace.toml before it starts; otherwise it goes on with the value there")


@replays.command()
def delete(name: Name, dry_run: DryRun = False, as_json: Json = False, blobs: BlobsFolder = None) -> None:
    """Delete a run. A state that was promoted from it stays."""
    from headrace.shard.blobs import Blobs
    from operators.deployment import read_deployment
    from operators.replay.run import RunFolder

    folder = RunFolder(Blobs(read_deployment(blobs=blobs).settings.blobs), name)
    size = folder.size()
    if dry_run:
        folder.read()
    else:
        folder.delete()
    if as_json:
        say_json({"run": name, "bytes": size, "deleted": not dry_run})
    else:
        say(f"{name}: {size / 1e6:,.1f} MB {'would be deleted' if dry_run else 'deleted'}")
