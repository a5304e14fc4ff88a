"""Common parts of the commands: shared options, opening the log, and running a process until a signal."""

import getpass
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from headrace.config import Sections, Settings
from headrace.errors import Misconfigured
from headrace.log.open import open_log
from headrace.log.protocol import Log
from headrace.metrics import MetricsServer, ProcessMetrics
from headrace.process import collect_garbage_rarely, log_to_stderr, run_with_retries, stop_on_signals
from headrace.shard.blobs import Blobs
from headrace.text import visible
from operators.terminal import say


class _Commands(TyperGroup):
    """The commands. What they do not accept is shown without what would control the terminal."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the arguments name."""
        try:
            return super().invoke(ctx)
        except typer.TyperException as error:
            error.message = visible(error.message)
            raise


app = typer.Typer(
    name="headrace",
    cls=_Commands,
    help="Models that learn from a shop's event stream within seconds.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

LogUrl = Annotated[str | None, typer.Option("--log", help="sqlite:PATH or kafka:HOST:PORT[,HOST:PORT]")]
BlobsFolder = Annotated[str | None, typer.Option("--blobs", help="Folder of snapshots and models, shared by all")]
Host = Annotated[str | None, typer.Option(help="Address to listen on; by default loopback")]
MetricsPort = Annotated[int | None, typer.Option("--metrics-port", help="Port of /metrics; 0 lets the system choose")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="A setting as in headrace.toml, e.g. rounds.round_events=5000")
]


def merge_sets(sets: Sequence[str] | None, **options: Any) -> dict[str, Any]:
    """Return options, with the settings of `--set` merged into them.

    Raises:
        Misconfigured: a setting is not TABLE.NAME=VALUE.

    >>> merge_sets(["rounds.passes=2"], log=None)
    {'log': None, 'rounds': {'passes': '2'}}
    """
    found = dict(options)
    for text in sets or ():
        path, equals, value = text.partition("=")
        *tables, name = path.strip().split(".")
        if not equals or not tables or not all([*tables, name]):
            raise Misconfigured(f"--set {text}: wanted TABLE.NAME=VALUE, e.g. rounds.round_events=5000")
        place = found
        for table in tables:
            place[table] = dict(place[table]) if isinstance(place.get(table), Mapping) else {}
            place = place[table]
        place[name] = value
    return found


def read_settings(**options: Any) -> Sections:
    """Return the settings, for commands that use no family's section; those are only checked."""
    from operators.deployment import read_deployment

    deployment = read_deployment(**options)
    return Sections(deployment.settings, dict(deployment.sections))


@contextmanager
def opened_log(settings: Settings, *, existing: bool = False) -> Iterator[Log]:
    """Open the log and create its topics. A log in a file is created too, unless it must exist (`existing`).

    Where an archive is set, what the log no longer holds is read from there.
    """
    from headrace.archive.log import with_archive

    log = with_archive(open_log(settings.log, existing=existing), settings.archive.url)
    try:
        log.create()
        yield log
    finally:
        log.close()


def user_name() -> str:
    """Return the name of this process' user, for the record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user id without a name, as in containers
        return "unknown"


def print_starting(kind: str, settings: Settings) -> None:
    """Print at once that the process is starting, which takes seconds."""
    say(f"{kind}: starting: loading libraries, opening log {settings.log}", error=True)


def run_process(
    kind: str, settings: Settings, metrics: ProcessMetrics, port: int, retry_s: float,
    body: Callable[[Log, Blobs, threading.Event], None],
) -> None:  # fmt: skip
    """Run a process until a signal: serve its metrics, print one line when it is up, retry after failures."""
    Blobs(settings.blobs).check_writable()
    log_to_stderr()
    collect_garbage_rarely()
    stop = stop_on_signals()

    def once() -> None:
        with opened_log(settings) as log:
            body(log, Blobs(settings.blobs), stop)

    with MetricsServer(metrics, host=settings.host, port=port) as server:
        say(f"{kind}: metrics on http://{server.host}:{server.port}/metrics, log {settings.log}")
        run_with_retries(once, stop, deadline_s=retry_s)
