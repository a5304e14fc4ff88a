"""The commands for a local Kafka broker: start, run, stop, status."""

from pathlib import Path
from typing import Annotated, Final

import typer

from operators.cli.app import app
from operators.terminal import say

kafka_app = typer.Typer(help="A local Kafka broker, without a container.", no_args_is_help=True)
app.add_typer(kafka_app, name="kafka")

DEFAULT_KAFKA: Final = Path("headrace-data/kafka")
KafkaFolder = Annotated[Path, typer.Option("--folder", help="Folder of the broker's data and settings")]


@kafka_app.command("start")
def kafka_start(folder: KafkaFolder = DEFAULT_KAFKA) -> None:
    """Start a broker and print the log URL for --log."""
    from headrace.log import broker

    running = broker.start(folder)
    say(f"kafka:{running.bootstrap}  (process {running.pid}, folder {running.folder})")


@kafka_app.command("run")
def kafka_run(folder: KafkaFolder = DEFAULT_KAFKA) -> None:
    """Run a broker until a signal. It ends with this process."""
    from headrace.errors import LogUnavailable, Misconfigured
    from headrace.log import broker
    from headrace.process import stop_on_signals

    if running := broker.status(folder):
        raise Misconfigured(
            f"broker in {folder}: wanted none that runs, found process {running.pid}; stop it with headrace kafka stop,"
            f" or use it with --log kafka:{running.bootstrap}"
        )
    stop = stop_on_signals(2 * broker.stop_timeout_s)  # a broker that is killed checks its files at its next start
    say(f"kafka: starting a broker in {folder} (the first start downloads its jars, which takes a minute)")
    running = broker.start(folder, tied=True)
    try:
        say(f"kafka: broker on kafka:{running.bootstrap}, process {running.pid}, folder {running.folder}")
        while not stop.wait(0.5):
            if broker.status(folder) is None:
                raise LogUnavailable(f"the broker ended; its log is {folder / 'broker.log'}")
    finally:
        broker.stop(folder)


@kafka_app.command("stop")
def kafka_stop(folder: KafkaFolder = DEFAULT_KAFKA) -> None:
    """Stop the broker; its data is kept."""
    from headrace.log import broker

    say("stopped" if broker.stop(folder) else "no broker runs there")


@kafka_app.command("status")
def kafka_status(folder: KafkaFolder = DEFAULT_KAFKA) -> None:
    """Print whether the broker runs."""
    from headrace.log import broker

    running = broker.status(folder)
    if running is None:
        say(f"no broker runs from {folder}")
        raise typer.Exit(1)
    say(f"kafka:{running.bootstrap}  (process {running.pid}, folder {running.folder})")
