"""The commands by which a person decides how a shard goes on: accept-loss, skip."""

from typing import Annotated

import msgspec
import typer

from headrace.errors import Misconfigured
from operators.cli.app import BlobsFolder, LogUrl, Set, app, merge_sets, opened_log, user_name
from operators.terminal import say, say_json

Why = Annotated[str, typer.Option(help="Why, for the record; needed unless with --dry-run")]
Who = Annotated[str | None, typer.Option(help="Who decides; by default the user of this process")]
OfShard = Annotated[str | None, typer.Option("--shard", help="Only this shard; by default each one that is concerned")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be decided, and change nothing")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per shard")]


@app.command("accept-loss")
def accept_loss(
    why: Why = "",
    who: Who = None,
    shard: OfShard = None,
    snapshot: Annotated[
        str, typer.Option(help="Go on with this snapshot, by its blob's name, instead of the newest whole one")
    ] = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
    log: LogUrl = None,
    blobs: BlobsFolder = None,
    sets: Set = None,
) -> None:
    """Accept what the log has lost, or that a topic was replaced, so that a shard goes on. Fences its process."""
    from headrace.shard.blobs import Blobs
    from headrace.shard.decision import Author
    from headrace.shard.loss import accept_loss as accept
    from learners.shop import MakeShop
    from operators.decisions import accepted_text
    from operators.deployment import read_deployment

    deployment = read_deployment(**merge_sets(sets, log=log, blobs=blobs))
    placements = [deployment.placement(shard)] if shard else list(deployment.placements.values())
    folder, author = Blobs(deployment.settings.blobs), Author(who or user_name(), why)
    with opened_log(deployment.settings, existing=True) as log_:
        for one in placements:
            make = MakeShop(one.kinds, deployment.sections)
            found = accept(log_, folder, one.shard, author, make=make, snapshot=snapshot, dry_run=dry_run)
            if as_json:
                written = found is not None and not dry_run
                say_json({"shard": one.shard.name, "written": written, "loss": msgspec.to_builtins(found)})
            else:
                say(accepted_text(one.shard.name, found, dry_run=dry_run))


@app.command()
def skip(
    record: Annotated[str, typer.Argument(help="TOPIC/PARTITION/OFFSET, e.g. events/0/123")],
    why: Why = "",
    who: Who = None,
    shard: OfShard = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    log: LogUrl = None,
) -> None:
    """Go around a record at which a shard's process ends: it becomes a dead letter. Fences the process."""
    from headrace.shard.decision import Author
    from headrace.shard.skip import skip as decide
    from operators.decisions import skipped_text
    from operators.deployment import read_deployment

    deployment = read_deployment(log=log)
    author = Author(who or user_name(), why)
    refused: list[str] = []
    with opened_log(deployment.settings, existing=True) as log_:
        shards = [deployment.placement(shard).shard] if shard else deployment.shards
        for one in shards:
            try:
                found = decide(log_, one, record, author, dry_run=dry_run)
            except Misconfigured as error:
                refused.append(str(error))
                continue
            if as_json:
                say_json(msgspec.to_builtins(found) | {"written": not (found.before or dry_run)})
            else:
                say(skipped_text(found, dry_run=dry_run))
    if len(refused) == len(shards):
        raise Misconfigured("; ".join(dict.fromkeys(refused)))
    for text in refused:
        say(text, error=True)
