"""The `headrace` command: every process, and what a person runs beside them.

Exit codes: 0 done, 1 the world is broken (the message says what, a supervisor may restart), 2 something was typed
wrongly.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer
from rich.console import Console

import headrace
from headrace.blobs import Blobs
from headrace.config import Settings
from headrace.config import settings as read_settings
from headrace.errors import BlobCorrupt, BlobMissing, BrokenWorld, Misconfigured
from headrace.follower import Fold
from headrace.log import Log, Partition, open_log
from headrace.metrics import MetricsServer, ProcessMetrics, ProducerMetrics
from headrace.process import calm_collector, log_to_stderr, retried, stop_on_signals
from headrace.state import State

app = typer.Typer(
    name="headrace",
    help="Models that learn from a shop's event stream within seconds.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
kafka_app = typer.Typer(help="A local Kafka broker, no container wanted.", no_args_is_help=True)
app.add_typer(kafka_app, name="kafka")

LogUrl = Annotated[str | None, typer.Option("--log", help="sqlite:PATH or kafka:HOST:PORT[,HOST:PORT]")]
BlobsFolder = Annotated[str | None, typer.Option("--blobs", help="Folder of snapshots and models, shared by all")]
Host = Annotated[str | None, typer.Option(help="Address to listen on; loopback unless told otherwise")]
MetricsPort = Annotated[int | None, typer.Option("--metrics-port", help="Port of /metrics; 0 lets the system choose")]
Speed = Annotated[str, typer.Option(help="max, or a multiple of event time such as 1x or 100x")]
Limit = Annotated[int | None, typer.Option(help="Most events to publish")]
PaceOption = Annotated[
    Literal["free", "rounds"], typer.Option("--pace", help="rounds: wait for the fine-tuner's due verdicts (demos)")
]
Refold = Annotated[
    bool,
    typer.Option("--refold", help="Only make a lost snapshot anew, from the whole journal; stop the process first"),
]
DEFAULT_KAFKA = Path("headrace-data/kafka")
line_characters_max = 10_000
"""Characters of a line that is not shown on a terminal."""


@contextmanager
def _opened(settings: Settings, *, existing: bool = False) -> Iterator[Log]:
    """Give the log with its topics made; one in a file is made, too, unless it must exist."""
    scheme, _, path = settings.log.partition(":")
    if scheme == "sqlite" and path and Path(path).is_dir():
        raise Misconfigured(f"log {settings.log!r}: wanted a file, found a folder")
    if scheme == "sqlite" and existing and not Path(path).exists():  # a slip would look like a quiet shop
        raise Misconfigured(f"log {settings.log!r}: there is no such file")
    log = open_log(settings.log)
    try:
        log.create()
        yield log
    finally:
        log.close()


def _starting(kind: str, settings: Settings) -> None:
    """Say at once what takes the next seconds."""
    print(f"{kind}: starting: loading libraries, opening log {settings.log}", file=sys.stderr, flush=True)


def _serve_process(
    kind: str, settings: Settings, metrics: ProcessMetrics, port: int, retry_s: float,
    body: Callable[[Log, Blobs, threading.Event], None],
) -> None:  # fmt: skip
    """Run a process that follows the log until a signal: metrics, retries, one line when it is up."""
    Blobs(settings.blobs).check_writable()
    log_to_stderr()
    calm_collector()
    stop = stop_on_signals()

    def once() -> None:
        with _opened(settings) as log:
            body(log, Blobs(settings.blobs), stop)

    with MetricsServer(metrics, host=settings.host, port=port) as server:
        print(f"{kind}: metrics on http://{server.host}:{server.port}/metrics, log {settings.log}", flush=True)
        retried(once, stop, deadline_s=retry_s)


def _refold(
    shard: str, settings: Settings, *, make: Callable[[State | None], Fold], inputs: Sequence[Partition]
) -> None:
    """Fold a shard's whole journal, with progress, and say which snapshot it gave."""
    from headrace.refold import refold
    from operators.progress import Steps

    blobs = Blobs(settings.blobs)
    blobs.check_writable()
    calm_collector()
    with _opened(settings, existing=True) as log:
        pointer = refold(log, blobs, shard, make=make, inputs=inputs, report=Steps(f"{shard}: entries folded"))
    print(f"{shard}: {pointer.number:,} journal entries folded, snapshot {pointer.blob}")


@app.command()
def online(
    log: LogUrl = None,
    blobs: BlobsFolder = None,
    host: Host = None,
    metrics_port: MetricsPort = None,
    snapshot_interval_s: Annotated[float | None, typer.Option(help="Seconds between snapshots")] = None,
    refold: Refold = False,
) -> None:
    """Learn from every event; write scores, alarms and dead letters."""
    own = {"metrics_port": metrics_port, "snapshot_interval_s": snapshot_interval_s}
    settings = read_settings(log=log, blobs=blobs, host=host, online=own)
    _starting("online", settings)
    from consumers import online as process
    from headrace.metrics import OnlineMetrics

    if refold:
        make, inputs = process.MakeShop(settings.online), [*process.SOURCES, *process.SIDES]
        _refold(process.SHARD, settings, make=make, inputs=inputs)
        return
    metrics = OnlineMetrics()
    _serve_process(
        "online", settings, metrics, settings.online.metrics_port, settings.online.retry_s,
        lambda opened, folder, stop: process.run(opened, folder, settings.online, metrics, stop),
    )  # fmt: skip


@app.command()
def finetune(
    log: LogUrl = None,
    blobs: BlobsFolder = None,
    host: Host = None,
    metrics_port: MetricsPort = None,
    round_events: Annotated[int | None, typer.Option(help="Events between two rounds")] = None,
    gate_events_max: Annotated[int | None, typer.Option(help="Events by which a candidate has its verdict")] = None,
    train_s_max: Annotated[float | None, typer.Option(help="Seconds after which a round ends with what it has")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda")] = None,
    snapshot_interval_s: Annotated[float | None, typer.Option(help="Seconds between snapshots")] = None,
    refold: Refold = False,
) -> None:
    """Fine-tune the deep model in rounds and let each candidate face the champion."""
    own = {
        "metrics_port": metrics_port, "round_events": round_events, "gate_events_max": gate_events_max,
        "train_s_max": train_s_max, "device": device, "snapshot_interval_s": snapshot_interval_s,
    }  # fmt: skip
    settings = read_settings(log=log, blobs=blobs, host=host, finetune=own)
    _starting("finetune", settings)
    from consumers import finetune as process
    from headrace.metrics import FinetuneMetrics

    if refold:
        make, inputs = process.MakeRounds(settings.finetune), [*process.SOURCES, *process.SIDES]
        _refold(process.SHARD, settings, make=make, inputs=inputs)
        return
    metrics = FinetuneMetrics()
    _serve_process(
        "finetune", settings, metrics, settings.finetune.metrics_port, settings.finetune.retry_s,
        lambda opened, folder, stop: process.run(opened, folder, settings.finetune, metrics, stop),
    )  # fmt: skip


@app.command()
def serve(
    log: LogUrl = None,
    blobs: BlobsFolder = None,
    host: Host = None,
    port: Annotated[int | None, typer.Option(help="HTTP port; 0 lets the system choose")] = None,
) -> None:
    """Answer GET /v1/recommendations/{shopper}, /health/live, /health/ready and /metrics."""
    settings = read_settings(log=log, blobs=blobs, host=host, serve={"port": port})
    _starting("serve", settings)
    from consumers.online import MakeShop
    from headrace.metrics import ServingMetrics
    from serving import app as process

    log_to_stderr()
    calm_collector()
    stop = stop_on_signals()
    with process.listen(settings.host, settings.serve.port) as listener, _opened(settings) as opened:
        address = f"http://{settings.host}:{listener.getsockname()[1]}"
        print(f"serve: {address}/v1/recommendations/SHOPPER, log {settings.log}", flush=True)
        process.run(
            opened, Blobs(settings.blobs), settings.serve, ServingMetrics(), stop,
            make=MakeShop(settings.online), listener=listener,
        )  # fmt: skip


def _publish(settings: Settings, pace: str, body: Callable[[Log, Any, Any], Any], hold: bool) -> None:
    """Run a producer with its metrics, progress and pace; say what was published."""
    from operators.progress import Bar
    from producers.pace import Rounds

    metrics = ProducerMetrics()
    with (
        MetricsServer(metrics, host=settings.host, port=settings.producer.metrics_port) as server,
        _opened(settings) as log,
    ):
        print(f"producer: metrics on http://{server.host}:{server.port}/metrics, log {settings.log}", flush=True)
        if pace == "rounds":
            print("producer: --pace rounds, so it waits whenever the fine-tuner owes a verdict", flush=True)
        gate = Rounds(log) if pace == "rounds" else None
        with Bar(metrics) as bar:
            done = body(log, gate, bar)
        print(f"producer: {done.published:,} events published, {done.already:,} were in the log already", flush=True)
        for reason, count in sorted(done.rejected.items()):
            print(f"producer: {count:,} left out: {reason}", flush=True)
        for example in done.examples:
            print(f"producer:   {example}", flush=True)
        if hold:
            stop_on_signals().wait()


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        return float(text.removesuffix("x"))
    except ValueError:
        raise Misconfigured(f"--speed {text}: wanted max or a factor such as 1x or 100x") from None


def _time_ms(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Misconfigured(f"{option} {text}: wanted a time such as 2011-03-01 or 2011-03-01T08:00:00Z") from None
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


@app.command()
def load(
    path: Annotated[Path, typer.Argument(help="Your JSONL of native events, Online Retail, or DIGINETICA periods")],
    kind: Annotated[str | None, typer.Option(help="jsonl, online_retail or diginetica; told by the content")] = None,
    sha256: Annotated[str | None, typer.Option(help="Sum that the file must have")] = None,
    strict: Annotated[bool, typer.Option(help="Stop at the first line that cannot be used")] = False,
    speed: Speed = "max",
    time_from: Annotated[str | None, typer.Option("--from", help="First event time, e.g. 2011-03-01")] = None,
    time_to: Annotated[str | None, typer.Option("--to", help="Event time to stop before")] = None,
    limit: Limit = None,
    pace: PaceOption = "free",
    log: LogUrl = None,
    host: Host = None,
    metrics_port: MetricsPort = None,
) -> None:
    """Publish a file's events; killed and started again it goes on where it was, nothing twice."""
    settings = read_settings(log=log, host=host, producer={"metrics_port": metrics_port})
    _starting("producer", settings)
    from producers import load as producer

    producer.kind_of(path, kind)  # before a log is made for it
    _publish(
        settings,
        pace,
        lambda opened, gate, bar: producer.load(
            opened, path, kind=kind, sha256=sha256, strict=strict, speed=_speed(speed),
            time_from_ms=_time_ms("--from", time_from), time_to_ms=_time_ms("--to", time_to),
            limit=limit, gate=gate, progress=bar,
        ),
        hold=False,
    )  # fmt: skip


@app.command()
def simulate(
    events: Annotated[int | None, typer.Option(help="Events to publish")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed and size, same events, to the byte")] = None,
    items: Annotated[int | None, typer.Option(help="Items at the start")] = None,
    shoppers: Annotated[int | None, typer.Option(help="Shoppers")] = None,
    days: Annotated[float | None, typer.Option(help="Event time from first to last")] = None,
    speed: Speed = "max",
    pace: PaceOption = "free",
    log: LogUrl = None,
    host: Host = None,
    metrics_port: MetricsPort = None,
) -> None:
    """Publish a seeded shop's events with scheduled drift, and the truth about them to the topic truth."""
    settings = read_settings(log=log, host=host, producer={"metrics_port": metrics_port})
    _starting("producer", settings)
    from producers import simulate as producer
    from producers.scenario import ShopSettings

    given = {"events": events, "seed": seed, "items": items, "shoppers": shoppers, "days": days}
    shop = msgspec.structs.replace(
        ShopSettings(), **{name: value for name, value in given.items() if value is not None}
    )
    _publish(
        settings,
        pace,
        lambda opened, gate, bar: producer.simulate(opened, shop, speed=_speed(speed), gate=gate, progress=bar),
        hold=False,
    )


@app.command()
def republish(
    into: Annotated[str, typer.Option(help="Topic to copy into")] = "events-replay",
    topic: Annotated[str, typer.Option(help="Topic to copy from")] = "events",
    partition: Annotated[int | None, typer.Option(help="One partition alone")] = None,
    from_position: Annotated[int | None, typer.Option(help="First position, with --partition")] = None,
    to_position: Annotated[int | None, typer.Option(help="Position to stop before, with --partition")] = None,
    time_from: Annotated[str | None, typer.Option("--from", help="First append time")] = None,
    time_to: Annotated[str | None, typer.Option("--to", help="Append time to stop before")] = None,
    log: LogUrl = None,
) -> None:
    """Copy a range of a topic, byte for byte, into the topic events-replay."""
    from producers.republish import republish as copy

    with _opened(read_settings(log=log), existing=True) as opened:
        count = copy(
            opened, topic, into, partition=partition, from_position=from_position, to_position=to_position,
            from_time_ms=_time_ms("--from", time_from), to_time_ms=_time_ms("--to", time_to),
        )  # fmt: skip
    print(f"republished {count:,} records of {topic} into {into}")


@app.command()
def propose(
    path: Annotated[Path, typer.Argument(help="A model file, as the fine-tuner writes them")],
    log: LogUrl = None,
    blobs: BlobsFolder = None,
) -> None:
    """Put a model from elsewhere before the gate: it faces the champion like any other candidate."""
    from operators.proposal import propose as put

    settings = read_settings(log=log, blobs=blobs)
    with _opened(settings, existing=True) as opened:
        print(f"proposed {put(opened, Blobs(settings.blobs), path)}; its verdict comes on the topic models")


@app.command()
def status(log: LogUrl = None) -> None:
    """Show what the log holds: positions, lag, snapshots, the champion, the newest scores."""
    from operators.status import show

    settings = read_settings(log=log)
    with _opened(settings, existing=True) as opened:
        # A file or a pager has no width of its own, and wrapped tables cannot be read.
        show(opened, Console(width=None if sys.stdout.isatty() else line_characters_max), settings.log)


@app.command()
def demo(
    data: Annotated[Path | None, typer.Option(help="A real file instead of the simulated shop")] = None,
    kafka: Annotated[bool, typer.Option(help="Over a real Kafka broker, started if none is named")] = False,
    serve: Annotated[bool, typer.Option(help="Keep everything up afterwards")] = False,
    events: Annotated[int | None, typer.Option(help="Events of the simulated shop")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the simulated shop")] = 1,
    minutes: Annotated[float, typer.Option(help="How long a real file may take; the share that fits is printed")] = 4.0,
    folder: Annotated[Path | None, typer.Option(help="Where log, blobs and report go")] = None,
) -> None:
    """Run the whole road in under 5 minutes, show a table, and write a report."""
    from operators.demo import Demo

    Demo(Console(), data=data, kafka=kafka, keep=serve, events=events, seed=seed, minutes=minutes, folder=folder).run()


KafkaFolder = Annotated[Path, typer.Option("--folder", help="Where the broker's data and settings lie")]


@kafka_app.command("start")
def kafka_start(folder: KafkaFolder = DEFAULT_KAFKA) -> None:
    """Start a broker and print the log URL for --log."""
    from headrace import broker

    running = broker.start(folder)
    print(f"kafka:{running.bootstrap}  (process {running.pid}, folder {running.folder})")


@kafka_app.command("stop")
def kafka_stop(folder: KafkaFolder = DEFAULT_KAFKA) -> None:
    """Stop the broker; its data stays."""
    from headrace import broker

    print("stopped" if broker.stop(folder) else "no broker runs there")


@kafka_app.command("status")
def kafka_status(folder: KafkaFolder = DEFAULT_KAFKA) -> None:
    """Say whether the broker runs."""
    from headrace import broker

    running = broker.status(folder)
    if running is None:
        print(f"no broker runs from {folder}")
        raise typer.Exit(1)
    print(f"kafka:{running.bootstrap}  (process {running.pid}, folder {running.folder})")


@app.command()
def version() -> None:
    """Print the version."""
    print(headrace.__version__)


def main() -> None:
    """Run the command; turn failures into one line and an exit code."""
    try:
        app()
    except Misconfigured as error:
        print(f"headrace: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenWorld as error:
        lost = isinstance(error, (BlobMissing, BlobCorrupt))
        hint = " (if it is lost for good: see --refold of online and finetune)" if lost else ""
        print(f"headrace: {type(error).__name__}: {error}{hint}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)  # a client's threads may hang on what is broken; nothing is left to be saved
    except BrokenPipeError:
        sys.exit(1)
