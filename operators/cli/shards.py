"""The commands that learn: any shard, named by its families, and the two default shards by name."""

import threading
from typing import Annotated, Any

import typer

from headrace.log.protocol import Log
from headrace.shard.blobs import Blobs
from operators.cli.app import (
    BlobsFolder,
    Host,
    LogUrl,
    MetricsPort,
    Set,
    app,
    merge_sets,
    opened_log,
    print_starting,
    run_process,
)
from operators.terminal import say

SnapshotInterval = Annotated[float | None, typer.Option(help="Least number of seconds between snapshots")]
Refold = Annotated[
    bool,
    typer.Option("--refold", help="Only make a lost snapshot again from the whole journal; stop the process first"),
]


@app.command()
def learn(
    families: Annotated[
        list[str], typer.Argument(help="The families of one shard, e.g. next_item purchase shopper_value")
    ],
    log: LogUrl = None,
    blobs: BlobsFolder = None,
    host: Host = None,
    metrics_port: MetricsPort = None,
    snapshot_interval_s: SnapshotInterval = None,
    refold: Refold = False,
    sets: Set = None,
) -> None:
    """Run the shard of these families: learn from every event, judge, write scores and alarms."""
    from operators.deployment import read_deployment

    deployment = read_deployment(**merge_sets(sets, log=log, blobs=blobs, host=host))
    shard = deployment.placement_of(families).shard.name
    _run(shard, log, blobs, host, metrics_port, snapshot_interval_s, refold, sets)


def _run(
    shard: str,
    log: str | None,
    blobs: str | None,
    host: str | None,
    metrics_port: int | None,
    snapshot_interval_s: float | None,
    refold: bool,
    sets: list[str] | None,
) -> None:
    from operators.deployment import read_deployment

    own: dict[str, Any] = {"metrics_port": metrics_port, "snapshot_interval_s": snapshot_interval_s}
    deployment = read_deployment(**merge_sets(sets, log=log, blobs=blobs, host=host, shards={shard: own}))
    placement, settings = deployment.placement(shard), deployment.settings
    print_starting(shard, settings)
    if refold:
        _refold(shard, deployment)
        return
    from consumers import shard as process
    from headrace.artifacts import resolve
    from headrace.metrics import ShardMetrics
    from headrace.shard.trim import Trimmer, file_of

    for kind in placement.kinds:
        if kind.surface.judge:
            resolve(kind.surface.judge)
    metrics, mine = ShardMetrics([kind.surface for kind in placement.kinds]), settings.shards[shard]

    def body(log: Log, folder: Blobs, stop: threading.Event) -> None:
        trimmer = None
        if placement.quarantines and (file := file_of(log)):  # exactly one shard trims
            trimmer = Trimmer(log, file, deployment.shards, settings.trim.keep_days, on_deleted=metrics.trimmed.inc)
        process.run(log, folder, placement, mine, deployment.sections, metrics, stop, trimmer)

    run_process(shard, settings, metrics, mine.metrics_port, mine.retry_s, body)


def _refold(shard: str, deployment: Any) -> None:
    """Fold a shard's whole journal, report progress, and print the name of the new snapshot."""
    from headrace import watchdog
    from headrace.process import collect_garbage_rarely
    from headrace.shard.refold import refold
    from learners.shop import MakeShop
    from operators.progress import StepReport

    placement = deployment.placement(shard)
    blobs = Blobs(deployment.settings.blobs)
    blobs.check_writable()
    collect_garbage_rarely()
    watchdog.watch()  # it may run as a job, where nobody sees that it waits
    with opened_log(deployment.settings, existing=True) as log:
        make = MakeShop(placement.kinds, deployment.sections)
        pointer = refold(log, blobs, placement.shard, make=make, report=StepReport(f"{shard}: entries folded"))
    say(f"{shard}: {pointer.number:,} journal entries folded, snapshot {pointer.blob}")


def _command(shard: str, text: str) -> None:
    """Add the command of a default shard, by its name."""

    @app.command(shard, help=text)
    def command(
        log: LogUrl = None,
        blobs: BlobsFolder = None,
        host: Host = None,
        metrics_port: MetricsPort = None,
        snapshot_interval_s: SnapshotInterval = None,
        refold: Refold = False,
        sets: Set = None,
    ) -> None:
        _run(shard, log, blobs, host, metrics_port, snapshot_interval_s, refold, sets)


_command("online", "Run the shard `online`: the families that learn from every event within seconds.")
_command("finetune", "Run the shard `finetune`: train the deep model in rounds and test each candidate on new events.")
