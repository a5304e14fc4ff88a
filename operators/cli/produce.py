"""The commands that write events: load, simulate, republish."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from headrace import watchdog
from headrace.clock import read_time_ms, wall_ms
from headrace.config import Settings
from headrace.errors import Misconfigured
from headrace.log.protocol import Log
from headrace.metrics import MetricsServer, ProducerMetrics
from headrace.process import log_to_stderr
from headrace.watch import refuse_settings
from operators.cli.app import Host, LogUrl, MetricsPort, app, opened_log, print_starting, read_settings
from operators.terminal import say, say_json

Speed = Annotated[str, typer.Option(help="max, or a multiple of event time such as 1x or 100x")]
Limit = Annotated[int | None, typer.Option(help="Maximum number of events to publish")]
PaceOption = Annotated[
    Literal["free", "rounds"],
    typer.Option("--pace", help="rounds: wait while a verdict of the fine-tuner is due (demos)"),
]


def _publish(settings: Settings, pace: str, body: Callable[[Log, Any, Any], Any], *, as_json: bool = False) -> None:
    """Run a producer with its metrics, progress and pace; print what was published."""
    from operators.progress import ProgressReport
    from producers.verdict_gate import VerdictGate

    metrics = ProducerMetrics()
    log_to_stderr()
    watchdog.watch()
    with (
        MetricsServer(metrics, host=settings.host, port=settings.producer.metrics_port) as server,
        opened_log(settings) as log,
    ):
        refuse_settings(log)
        say(f"producer: metrics on http://{server.host}:{server.port}/metrics, log {settings.log}", error=as_json)
        if pace == "rounds":
            say("producer: --pace rounds: waits while a verdict of the fine-tuner is due", error=as_json)
        gate = VerdictGate(log) if pace == "rounds" else None
        with ProgressReport(metrics, to_stderr=as_json) as bar:
            done = body(log, gate, bar)
        _print_published(done, as_json=as_json)


def _send(settings: Settings, url: str, body: Callable[[Any], Any]) -> None:
    """Run a producer that sends to a gateway, with its metrics and progress; print what was sent."""
    from operators.progress import ProgressReport

    metrics = ProducerMetrics()
    log_to_stderr()
    with MetricsServer(metrics, host=settings.host, port=settings.producer.metrics_port) as server:
        say(f"producer: metrics on http://{server.host}:{server.port}/metrics, gateway {url}")
        with ProgressReport(metrics) as bar:
            done = body(bar)
        _print_published(done)


def _print_published(done: Any, *, as_json: bool = False) -> None:
    if as_json:
        counts = {"published": done.published, "already_published": done.already_published}
        say_json({"origin": done.origin, **counts, **_unused(done)})
        return
    say(f"producer: {done.published:,} {done.topic} published, {done.already_published:,} were in the log already")
    _print_unused(done)


def _unused(done: Any) -> dict[str, Any]:
    """Return the parts of a result that a dry run and a load have in common."""
    from headrace.events import at

    times = {"first_time": done.first_time_ms, "last_time": done.last_time_ms}
    return {
        "rejected": dict(done.rejected), "left_out": dict(done.left_out), "examples": list(done.examples),
        "repeats": done.repeats,
        **{name: None if time_ms is None else at(time_ms).isoformat() for name, time_ms in times.items()},
    }  # fmt: skip


def _print_unused(done: Any) -> None:
    if done.repeats:
        say(f"producer: {done.repeats:,} events have the id of an earlier one of the input; consumers drop these")
    for reason, count in sorted((Counter(done.rejected) + Counter(done.left_out)).items()):
        say(f"producer: {count:,} left out: {reason}")
    for example in done.examples:
        say(f"producer:   {example}")


def _print_dry_run(done: Any, *, as_json: bool) -> None:
    found = _unused(done)
    if as_json:
        counts = {"published": 0, "already_published": 0, "events": done.events, "types": done.types}
        say_json({"origin": done.origin, **counts, **found, "shown": done.shown})
        return
    for event in done.shown:
        say_json(event)
    types = ", ".join(f"{count:,} {name}" for name, count in done.types.items())
    say(f"producer: {done.events:,} events could be published{f' ({types})' if types else ''}; nothing was")
    if done.events:
        say(f"producer: from {found['first_time']} to {found['last_time']}")
    _print_unused(done)


def _print_archive(archived: Any, *, as_json: bool) -> None:
    if as_json:
        say_json({"archive": archived.url, "published": 0, **archived.counts})
    else:
        counts = " and ".join(f"{count:,} {topic}" for topic, count in archived.counts.items())
        say(f"producer: {counts} could be published; nothing was")


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        return float(text.removesuffix("x"))
    except ValueError:
        raise Misconfigured(f"--speed {text}: wanted max or a factor such as 1x or 100x") from None


def _time_ms(option: str, text: str | None) -> int | None:
    return None if text is None else read_time_ms(option, text)


@app.command()
def load(
    path: Annotated[
        str,
        typer.Argument(help="A file of events, of a kind that docs/publishing.md lists, or an archive's folder or URL"),
    ],
    kind: Annotated[str | None, typer.Option(help="The kind of the file; by default detected from the content")] = None,
    mapping: Annotated[
        Path | None, typer.Option("--map", help="A TOML file that says which column is what in CSV, JSONL or Parquet")
    ] = None,
    zone: Annotated[str, typer.Option(help="Zone of times that state none, e.g. Europe/Berlin or +05:30")] = "UTC",
    dates: Annotated[
        Literal["month-first", "day-first"] | None,
        typer.Option(help="Order of dates such as 1/12/2010; by default decided by the file's dates"),
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="SHA-256 that the file must have")] = None,
    strict: Annotated[bool, typer.Option(help="Stop at the first invalid line")] = False,
    pseudonymise: Annotated[
        bool,
        typer.Option(help="Write ids of shoppers and sessions as the gateway does"),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Publish nothing; show the first events and counts")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object")] = False,
    speed: Speed = "max",
    time_from: Annotated[str | None, typer.Option("--from", help="First event time, e.g. 2011-03-01")] = None,
    time_to: Annotated[str | None, typer.Option("--to", help="Event time to stop before")] = None,
    limit: Limit = None,
    pace: PaceOption = "free",
    log: LogUrl = None,
    host: Host = None,
    metrics_port: MetricsPort = None,
) -> None:
    """Publish the events of a file or an archive, each once, also if started again or if the file has grown."""
    settings = read_settings(log=log, host=host, producer={"metrics_port": metrics_port}).common
    if not dry_run:
        print_starting("producer", settings)
    from headrace.pseudonyms import ensure_secret, read_secrets
    from producers import load as producer
    from producers.archived import Archived, is_archive, load_archive
    from producers.file import ReadOptions
    from producers.mapping import read_mapping
    from producers.times import zone_of

    options = ReadOptions(strict, zone_of(zone), dates, None if mapping is None else read_mapping(mapping))
    times = {"time_from_ms": _time_ms("--from", time_from), "time_to_ms": _time_ms("--to", time_to)}
    publishing: dict[str, Any] = {"speed": _speed(speed), "limit": limit, **times}
    if is_archive(path):
        if (kind, mapping, dates, sha256, strict, pseudonymise) != (None, None, None, None, False, False):
            raise Misconfigured(
                f"{path}: wanted none of --kind, --map, --dates, --sha256, --strict, --pseudonymise with an archive,"
                " whose records are published as they are"
            )
        archived = Archived(path)  # fails before a log is created for it
        if dry_run:
            _print_archive(archived, as_json=as_json)
            return
        _publish(
            settings,
            pace,
            lambda log_, gate, bar: load_archive(
                log_, path, gate=gate, retry_s=settings.producer.retry_s, progress=bar, **publishing
            ),
            as_json=as_json,
        )
        return
    producer.kind_of(Path(path), kind, options)  # fails before a log is created for it
    if dry_run:
        _print_dry_run(producer.dry_run(Path(path), kind=kind, sha256=sha256, options=options), as_json=as_json)
        return
    if pseudonymise:
        secrets = Path(settings.pseudonyms)
        if ensure_secret(secrets, wall_ms()):
            say(
                f"producer: made the secret of pseudonyms {secrets}; keep a copy where only you can read it", error=True
            )
        options = options._replace(secret=read_secrets(secrets)[-1])
    _publish(
        settings,
        pace,
        lambda log_, gate, bar: producer.load(
            log_, Path(path), kind=kind, sha256=sha256, options=options, gate=gate,
            retry_s=settings.producer.retry_s, progress=bar, **publishing,
        ),
        as_json=as_json,
    )  # fmt: skip


@app.command()
def simulate(
    events: Annotated[int | None, typer.Option(help="Events to publish")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed and size give the same events, byte for byte")] = None,
    items: Annotated[int | None, typer.Option(help="Items at the start")] = None,
    shoppers: Annotated[int | None, typer.Option(help="Shoppers")] = None,
    days: Annotated[float | None, typer.Option(help="Days of event time from the first event to the last")] = None,
    outages: Annotated[
        float | None, typer.Option(help="Share of the items that go out of stock once, for a tenth of the time")
    ] = None,
    season: Annotated[
        float | None, typer.Option(help="Share by which half of the categories is viewed more at weekends")
    ] = None,
    churners: Annotated[
        float | None, typer.Option(help="Share of the shoppers who come often, and stop at a planted time")
    ] = None,
    big_spenders: Annotated[
        float | None, typer.Option(help="Share of the shoppers who come often, and buy more pieces of dearer items")
    ] = None,
    returners: Annotated[
        float | None, typer.Option(help="Share of the shoppers who come often, and send most of it back days later")
    ] = None,
    stocked: Annotated[
        float | None, typer.Option(help="Share of the items whose stock is limited, which are stated with it")
    ] = None,
    gateway: Annotated[
        str | None, typer.Option(help="URL of a gateway to send to instead of the log; it takes no truth")
    ] = None,
    key: Annotated[str | None, typer.Option(help="The gateway's key")] = None,
    speed: Speed = "max",
    pace: PaceOption = "free",
    log: LogUrl = None,
    host: Host = None,
    metrics_port: MetricsPort = None,
) -> None:
    """Publish events and items of a seeded simulated shop with scheduled drift, and the truth to the topic truth."""
    settings = read_settings(log=log, host=host, producer={"metrics_port": metrics_port}).common
    if (gateway is None) != (key is None):
        raise Misconfigured("wanted both --gateway and --key, or neither")
    if gateway is None:
        print_starting("producer", settings)
    elif log is not None or pace != "free":
        raise Misconfigured("--gateway: wanted neither --log nor --pace, as no log is opened")
    from producers import simulate as producer
    from producers.scenario import SimulationSettings

    given = {
        "events": events, "seed": seed, "items": items, "shoppers": shoppers, "days": days, "outages": outages,
        "season": season, "churners": churners, "big_spenders": big_spenders, "returners": returners,
        "stocked": stocked,
    }  # fmt: skip
    shop = msgspec.structs.replace(
        SimulationSettings(), **{name: value for name, value in given.items() if value is not None}
    )
    retry_s = settings.producer.retry_s
    if gateway is not None and key is not None:
        sending = partial(producer.simulate_to_gateway, gateway, key, shop, speed=_speed(speed), retry_s=retry_s)
        _send(settings, gateway, lambda bar: sending(progress=bar))
        return
    _publish(
        settings,
        pace,
        lambda log_, gate, bar: producer.simulate(
            log_, shop, speed=_speed(speed), gate=gate, retry_s=retry_s, progress=bar
        ),
    )


@app.command()
def republish(
    into: Annotated[str, typer.Option(help="Topic to copy into")] = "events-replay",
    topic: Annotated[str, typer.Option(help="Topic to copy from")] = "events",
    partition: Annotated[int | None, typer.Option(help="Only this partition")] = None,
    from_position: Annotated[int | None, typer.Option(help="First position, with --partition")] = None,
    to_position: Annotated[int | None, typer.Option(help="Position to stop before, with --partition")] = None,
    time_from: Annotated[str | None, typer.Option("--from", help="First append time")] = None,
    time_to: Annotated[str | None, typer.Option("--to", help="Append time to stop before")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be copied")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
    log: LogUrl = None,
) -> None:
    """Copy a range of a topic, byte for byte, into the topic events-replay."""
    from producers.republish import republish as copy

    with opened_log(read_settings(log=log).common, existing=True) as from_log:
        count = copy(
            from_log, topic, into, partition=partition, from_position=from_position, to_position=to_position,
            from_time_ms=_time_ms("--from", time_from), to_time_ms=_time_ms("--to", time_to), dry_run=dry_run,
        )  # fmt: skip
    if as_json:
        say_json({"written": not dry_run, "records": count, "topic": topic, "into": into})
    else:
        say(f"{'would republish' if dry_run else 'republished'} {count:,} records of {topic} into {into}")
