"""`headrace up`: all processes of a shop on one machine, under one supervisor."""

import shlex
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from headrace.config import Settings
from headrace.errors import Misconfigured
from operators.child import headrace
from operators.deployment import Deployment
from operators.running import ProcessStatus, held_folder, held_log, hold, write_down
from operators.supervisor import UP, Spec, Stage, Supervisor, poll_s
from operators.terminal import ProcessLog, Terminal

PRODUCERS: Final = ("load", "simulate")
"""The commands that may be the producer."""
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Up:
    """One run.

    Args:
        deployment: its settings name log, blobs and ports, unless another argument does.
        folder: of the processes' log files, and of what says which processes run.
        kafka: run a local broker in the folder, and use it as the log.
        free_ports: let the system choose all ports.
        gateway, console: run them, too.
        producer: a command of a producer, without `headrace`; empty for none.
        sets: settings that are passed on to each process (`--set`).
    """

    def __init__(
        self,
        deployment: Deployment,
        terminal: Terminal,
        *,
        folder: Path,
        kafka: bool,
        free_ports: bool,
        gateway: bool,
        console: bool,
        producer: Sequence[str],
        sets: Sequence[str],
    ) -> None:
        if producer and producer[0] not in PRODUCERS:
            raise Misconfigured(f"producer {producer[0]}: wanted {' or '.join(PRODUCERS)}, with its options")
        if taken := sorted({UP, "kafka", "producer", "gateway", "serve", "console"} & set(deployment.placements)):
            raise Misconfigured(f"shard {taken[0]}: wanted a name that no other process of headrace up has")
        self._deployment, self._folder = deployment, folder
        self._kafka, self._free_ports, self._producer, self._sets = kafka, free_ports, producer, sets
        self._gateway, self._console = gateway, console
        names = ["kafka", "producer", "gateway", "console", *(shard.name for shard in deployment.shards)]
        self._report = ProcessLog(terminal, max(map(len, names)))
        self._stop, self._kill = threading.Event(), threading.Event()
        self._written: list[ProcessStatus] | None = None

    def run(self) -> None:
        """Run all processes until a signal; a second signal kills those that are stopping.

        Raises:
            Misconfigured: another `headrace up` runs on the log or the folder, or a process says that an option, a
                setting or a right is wrong; all others have been stopped.
        """
        logs = self._folder / "logs"
        try:
            logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Misconfigured(
                f"--folder {self._folder}: wanted a folder that can be created, found {error}"
            ) from None
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
                signal.signal(number, self._on_signal)
        with (
            hold(held_folder(self._folder), self._folder),
            Supervisor(logs, self._report, killed=self._kill.is_set) as supervisor,
        ):
            try:
                url, blobs = self._deployment.settings.log, self._deployment.settings.blobs
                if self._kafka:
                    found = self._start_broker(supervisor)
                    if found is None:
                        return
                    url = found
                    if blobs == Settings.model_fields["blobs"].default:  # the shop in the file has its own there
                        blobs = str(self._folder / "kafka-blobs")
                self._run_shop(supervisor, url, blobs)
            finally:
                supervisor.stop()
                self._write([])

    def _start_broker(self, supervisor: Supervisor) -> str | None:
        """Start a broker, and return the URL of the log on it; None if a signal came first."""
        command = headrace("kafka", "run", "--folder", str(self._folder / "kafka"))
        supervisor.start(Spec("kafka", command, Stage.BROKER))
        return supervisor.children[0].address if self._tend(supervisor, lambda: supervisor.all_up) else None

    def _run_shop(self, supervisor: Supervisor, url: str, blobs: str) -> None:
        with hold(held_log(url), self._folder), supervisor:
            for spec in shop(self._deployment, url, blobs, free_ports=self._free_ports, sets=self._sets):
                supervisor.start(spec)
            if self._gateway:
                spool = self._folder / "spool"
                supervisor.start(gateway(self._deployment, url, spool, free_ports=self._free_ports, sets=self._sets))
            if self._console:
                supervisor.start(console(self._deployment, url, blobs, free_ports=self._free_ports, sets=self._sets))
            if self._producer:
                supervisor.start(self._producer_spec(url))
            if self._tend(supervisor, lambda: supervisor.all_up):
                log = f"--log {shlex.quote(url)}"
                beside = " --metrics-port 0" if self._producer else ""  # the producer has the port of the settings
                self._say(
                    f"all processes are up, with blobs in {blobs}: headrace load PATH {log}{beside} publishes events,"
                    f" headrace status {log} shows what becomes of them, Ctrl-C stops all"
                )
                self._tend(supervisor, lambda: False)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._stop.is_set():
            self._kill.set()
        self._stop.set()

    def _say(self, text: str) -> None:
        self._report(UP, text)

    def _tend(self, supervisor: Supervisor, until: Callable[[], bool]) -> bool:
        """Look after all processes until a condition is true, and return true; return false after a signal."""
        while not until():
            supervisor.tend()
            self._write(supervisor.statuses())
            if self._stop.wait(poll_s):
                self._say(f"stopping, within {supervisor.stop_s_max:g} s; another Ctrl-C kills what still runs")
                return False
        return True

    def _write(self, processes: list[ProcessStatus]) -> None:
        """Write down which processes run, if that has changed."""
        if processes != self._written:
            self._written = processes
            try:
                write_down(self._folder, processes)
            except OSError as error:
                self._say(f"cannot write down in {self._folder} which processes run: {error}")

    def _producer_spec(self, url: str) -> Spec:
        command, *options = self._producer
        settings = self._deployment.settings
        address, port = _place("--metrics-port", settings.host, settings.producer.metrics_port, self._free_ports)
        started = headrace(command, "--log", url, "--host", settings.host, *port, *options)
        return Spec("producer", started, Stage.PRODUCER, address, once=True)


def shop(deployment: Deployment, url: str, blobs: str, *, free_ports: bool, sets: Sequence[str]) -> list[Spec]:
    """Return the processes that read a log: each shard, and the server.

    Args:
        free_ports: let the system choose the ports; otherwise, they are those of the settings.
        sets: settings for all of them, as `--set` takes them.
    """
    settings = deployment.settings
    common = ["--log", url, "--blobs", blobs, "--host", settings.host]
    common += [argument for one in sets for argument in ("--set", one)]
    found = []
    for name, placement in deployment.placements.items():
        families = [kind.name for kind in placement.own_kinds]
        address, port = _place("--metrics-port", settings.host, settings.shards[name].metrics_port, free_ports)
        found.append(Spec(name, headrace("learn", *families, *common, *port), Stage.SHARD, address))
    address, port = _place("--port", settings.host, settings.serve.port, free_ports)
    return [*found, Spec("serve", headrace("serve", *common, *port), Stage.SERVER, address)]


def gateway(deployment: Deployment, url: str, spool: Path, *, free_ports: bool, sets: Sequence[str]) -> Spec:
    """Return the gateway.

    Args:
        free_ports: let the system choose its ports; otherwise, they are those of the settings.
        spool: its folder.
        sets: settings for it, as `--set` takes them.
    """
    settings = deployment.settings
    address, port = _place("--metrics-port", settings.host, settings.gateway.metrics_port, free_ports)
    chosen = [*sets, f"gateway.spool={spool}", *(["gateway.port=0"] if free_ports else [])]
    arguments = [argument for one in chosen for argument in ("--set", one)]
    return Spec(
        "gateway", headrace("gateway", "--log", url, "--host", settings.host, *port, *arguments), Stage.GATEWAY, address
    )


def console(
    deployment: Deployment, url: str, blobs: str, *, free_ports: bool, sets: Sequence[str], once: str = ""
) -> Spec:
    """Return the console.

    Args:
        free_ports: let the system choose its port; otherwise, it is that of the settings.
        sets: settings for it, as `--set` takes them.
        once: the role of a guest for whom it prints a key for one log-in; "" for none.
    """
    settings = deployment.settings
    address, port = _place("--port", settings.host, settings.console.port, free_ports)
    common = ["--log", url, "--blobs", blobs, "--host", settings.host, *port]
    common += [argument for one in sets for argument in ("--set", one)]
    guest = ["--once", once] if once else []
    return Spec("console", headrace("console", *common, *guest), Stage.SERVER, address)


def _place(option: str, host: str, port: int, free_ports: bool) -> tuple[str, list[str]]:
    """Return where a process is to listen, as an address (empty if the system chooses the port) and as options."""
    chosen = 0 if free_ports else port
    return f"http://{host}:{chosen}" if chosen else "", [option, str(chosen)]
