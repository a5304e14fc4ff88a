"""The command of the HTTP server: `headrace serve`."""

from typing import Annotated

import typer

from operators.cli.app import BlobsFolder, Host, LogUrl, Set, app, merge_sets, opened_log, print_starting
from operators.terminal import say


@app.command()
def serve(
    log: LogUrl = None,
    blobs: BlobsFolder = None,
    host: Host = None,
    port: Annotated[int | None, typer.Option(help="HTTP port; 0 lets the system choose")] = None,
    sets: Set = None,
) -> None:
    """Serve the families' HTTP routes, /health/live, /health/ready and /metrics."""
    from operators.deployment import read_deployment

    deployment = read_deployment(**merge_sets(sets, log=log, blobs=blobs, host=host, serve={"port": port}))
    settings = deployment.settings
    print_starting("serve", settings)
    from collections.abc import Iterator
    from contextlib import contextmanager
    from pathlib import Path

    from headrace.http import listen
    from headrace.keys import KeyRing
    from headrace.log.protocol import Log
    from headrace.metrics import ServingMetrics
    from headrace.process import collect_garbage_rarely, log_to_stderr, stop_on_signals
    from headrace.pseudonyms import Pseudonyms
    from headrace.server import raise_file_limit
    from headrace.shard.blobs import Blobs
    from headrace.watch import refuse_settings
    from serving import app as process

    raise_file_limit(settings.serve.connections_max)
    log_to_stderr()
    collect_garbage_rarely()
    stop = stop_on_signals()

    @contextmanager
    def open_log() -> Iterator[Log]:
        with opened_log(settings) as opened:
            refuse_settings(opened)
            yield opened

    with listen(settings.host, settings.serve.port) as listener:
        routes = [route.path for kind in deployment.kinds for route in kind.surface.routes]
        address = f"http://{settings.host}:{listener.getsockname()[1]}"
        say(f"serve: {address}{', '.join(routes)}, log {settings.log}")
        metrics = ServingMetrics([kind.surface for kind in deployment.kinds])
        process.run(
            open_log, Blobs(settings.blobs), settings.serve, metrics, stop,
            placements=list(deployment.placements.values()), sections=deployment.sections, listener=listener,
            keys=KeyRing(Path(settings.keys)) if settings.serve.require_key else None,
            pseudonyms=Pseudonyms(Path(settings.pseudonyms)),
        )  # fmt: skip
