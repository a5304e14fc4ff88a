"""The commands that change which model answers, and which state: propose, promote, withdraw, roll-back, history."""

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from headrace.announcement import Announcement
from headrace.errors import Misconfigured
from headrace.shard.blobs import Blobs
from headrace.shard.decision import Author
from operators.cli.app import BlobsFolder, LogUrl, Set, app, merge_sets, opened_log, read_settings, user_name
from operators.cli.look import line_characters_max
from operators.terminal import Terminal, say, say_json

By = Annotated[str | None, typer.Option(help="Who asks; by default the user of this process")]
Why = Annotated[str, typer.Option(help="Why, for the record; needed unless with --dry-run")]
Version = Annotated[str, typer.Argument(help="A version that was announced on models, e.g. r0004-1a2b3c4d")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be changed, and change nothing")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]
NO_MODEL = "none"


@app.command()
def propose(
    path: Annotated[Path, typer.Argument(help="A model file in the fine-tuner's format")],
    why: Annotated[str, typer.Option(help="Why, for the record")] = "",
    by: By = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    log: LogUrl = None,
    blobs: BlobsFolder = None,
) -> None:
    """Submit a model from elsewhere to the gate, which tests it against the champion like any other candidate."""
    from operators.proposal import propose as submit

    settings = read_settings(log=log, blobs=blobs).common
    with opened_log(settings, existing=True) as log_:
        folder = Blobs(settings.blobs)
        made = submit(log_, folder, path, by=by or user_name(), reason=why, dry_run=dry_run)
    if as_json:
        say_json({"written": not dry_run, "proposal": msgspec.to_builtins(made)})
    elif dry_run:
        say(f"{path} would be proposed as {made.version}; nothing was changed (--dry-run)")
    else:
        say(f"proposed {made.blob}; its verdict is announced on the topic models")


@app.command()
def promote(
    version: Version,
    why: Why = "",
    by: By = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    log: LogUrl = None,
    blobs: BlobsFolder = None,
) -> None:
    """Request that a model becomes champion without a test in the gate. Works while no fine-tuner runs."""
    from operators.requests import promote as request

    author = _author(by, why, dry_run=dry_run)
    settings = read_settings(log=log, blobs=blobs).common
    with opened_log(settings, existing=True) as log_:
        asked = request(log_, Blobs(settings.blobs), version, by=author.who, reason=author.why, dry_run=dry_run)
    _print_request(asked, dry_run=dry_run, as_json=as_json)


@app.command()
def withdraw(
    version: Version,
    why: Why = "",
    by: By = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    log: LogUrl = None,
) -> None:
    """Request that the fine-tuner takes a candidate out of the gate. A round that trains goes on."""
    from operators.requests import withdraw as request

    author = _author(by, why, dry_run=dry_run)
    with opened_log(read_settings(log=log).common, existing=True) as log_:
        asked = request(log_, version, by=author.who, reason=author.why, dry_run=dry_run)
    if as_json:
        say_json({"written": not dry_run, "request": msgspec.to_builtins(asked)})
    elif dry_run:
        say(f"{version} is in the gate and can be withdrawn; nothing was changed (--dry-run)")
    else:
        say(f"requested: the fine-tuner withdraws {version} when it reads the request, unless a verdict came before")


@app.command("roll-back")
def roll_back(
    to: Annotated[
        str | None, typer.Option(help=f"Make this former champion champion again; {NO_MODEL}: the blend uses no model")
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(
            help="Put the fast learners back to their state so long ago (90m, 2h, 3d), at a time, or to a snapshot"
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="With a time: fold from the kept snapshot before it up to that time")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Put back the state before the newest rollback")] = False,
    why: Why = "",
    by: By = None,
    shard: Annotated[
        str | None, typer.Option("--shard", help="Only this shard's state; by default all fast learners'")
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    log: LogUrl = None,
    blobs: BlobsFolder = None,
    sets: Set = None,
) -> None:
    """Go back to a former model (--to), or to what the fast learners knew before (--state, --undo)."""
    if (to is not None) + (state is not None) + undo != 1:
        raise Misconfigured("roll-back: wanted one of --to, --state and --undo")
    if exact and state is None:
        raise Misconfigured("--exact: wanted --state with a time")
    if shard and to is not None:
        raise Misconfigured("--shard: wanted --state or --undo; a model is that of all shards")
    author = _author(by, why, dry_run=dry_run)
    if to is None:
        _roll_back_states(state, author, shard, exact, dry_run, as_json, merge_sets(sets, log=log, blobs=blobs))
        return
    from operators.requests import roll_back as request

    settings, version = read_settings(log=log, blobs=blobs).common, None if to == NO_MODEL else to
    with opened_log(settings, existing=True) as log_:
        asked = request(log_, Blobs(settings.blobs), version, by=author.who, reason=author.why, dry_run=dry_run)
    _print_request(asked, dry_run=dry_run, as_json=as_json)


def _roll_back_states(
    state: str | None, author: Author, shard: str | None, exact: bool, dry_run: bool, as_json: bool,
    options: dict[str, Any],
) -> None:  # fmt: skip
    """Put states back; without `state`, those before the newest rollbacks. All are planned before one is changed."""
    from learners.shop import MakeShop
    from operators.deployment import read_deployment
    from operators.progress import StepReport
    from operators.rollback import can_roll_back, plan_state, plan_undo, planned_text, roll_back_state

    deployment = read_deployment(**options)
    chosen = [deployment.placement(shard)] if shard else list(deployment.placements.values())
    folder = Blobs(deployment.settings.blobs)
    with opened_log(deployment.settings, existing=True) as log:
        plans = []
        for one in chosen:
            if not shard and not can_roll_back(one.shard):
                continue
            make = MakeShop(one.kinds, deployment.sections)
            if state is None:
                plans.append(plan_undo(log, folder, one.shard, make))
            else:
                plans.append(plan_state(log, folder, one.shard, make, state, exact=exact))
        for plan in plans:
            found = plan.found
            if not as_json:
                say(planned_text(found))
            if not dry_run:
                report = StepReport(f"{found.shard}: entries folded")
                found = roll_back_state(log, folder, plan, author, report=report)
            if as_json:
                say_json(msgspec.to_builtins(found) | {"written": not dry_run})
            elif dry_run:
                say(f"{found.shard}: nothing was changed (--dry-run)")
            else:
                say(
                    f"{found.shard}: written to the journal as entry {found.entry:,}; a supervisor restarts the shard's"
                    " process. To undo it: headrace roll-back --undo"
                )


@app.command()
def history(
    as_json: AsJson = False,
    log: LogUrl = None,
    blobs: BlobsFolder = None,
) -> None:
    """Show models and states with their origin: announcements, decisions (who, when, why), kept snapshots, by time."""
    from operators.deployment import read_deployment
    from operators.history import read_history, show

    deployment = read_deployment(log=log, blobs=blobs)
    with opened_log(deployment.settings, existing=True) as log_:
        found = read_history(log_, deployment)
    if as_json:
        say_json(msgspec.to_builtins(found))
    else:
        show(found, Terminal(width=None if sys.stdout.isatty() else line_characters_max))


def _author(by: str | None, why: str, *, dry_run: bool) -> Author:
    author = Author(by or user_name(), why)
    if not dry_run:
        author.check()
    return author


def _print_request(request: Announcement, *, dry_run: bool, as_json: bool) -> None:
    before, after = request.parent or "no model", request.version or "no model"
    if as_json:
        say_json({"written": not dry_run, "request": msgspec.to_builtins(request)})
    elif dry_run:
        say(f"{after} can replace {before}; nothing was changed (--dry-run)")
    else:
        say(
            f"requested: {after} replaces {before} as soon as the shards and serving read the request; the gate does"
            " not test it. headrace status shows who has obeyed"
        )
