"""The command that runs all processes of a shop: `headrace up`."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.errors import Misconfigured
from operators.cli.app import BlobsFolder, Host, LogUrl, Set, app, merge_sets
from operators.terminal import Terminal


@app.command(context_settings={"allow_interspersed_args": False})
def up(
    producer: Annotated[
        list[str] | None, typer.Argument(help="A producer's command, e.g. simulate --speed 100x or load events.jsonl")
    ] = None,
    log: LogUrl = None,
    blobs: BlobsFolder = None,
    host: Host = None,
    folder: Annotated[Path, typer.Option(help="Folder of the processes' logs and of --kafka")] = Path("headrace-data"),
    kafka: Annotated[bool, typer.Option(help="Run a local Kafka broker, and use it as the log")] = False,
    free_ports: Annotated[bool, typer.Option(help="Let the system choose all ports, and print them")] = False,
    gateway: Annotated[bool, typer.Option(help="Run the gateway, too")] = True,
    console: Annotated[bool, typer.Option(help="Run the console, too")] = False,
    sets: Set = None,
) -> None:
    """Run all processes of a shop on this machine until Ctrl-C: gateway, shards, server, and a producer if named.

    Options of this command stand before the producer's command.
    """
    from operators.deployment import read_deployment
    from operators.up import Up

    if kafka and log:
        raise Misconfigured(f"--kafka --log {log}: wanted one of them; --kafka uses a broker of its own")
    deployment = read_deployment(**merge_sets(sets, log=log, blobs=blobs, host=host))
    Up(
        deployment, Terminal(), folder=folder, kafka=kafka, free_ports=free_ports, gateway=gateway,
        console=console, producer=producer or [], sets=sets or [],
    ).run()  # fmt: skip
