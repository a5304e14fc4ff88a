"""Signals end a process soon, whatever it does: in order where it can, by force where a library does not return."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from headrace.log import broker
from operators.child import Child, Children
from tests.brokers import own_broker
from tests.chaos.shop import ended_in_kafka
from tests.running import SMALL, Running

IN_C = """
import ctypes, sys, threading
from headrace import process
stop = process.stop_on_signals(float(sys.argv[1]))
threading.Thread(target=lambda: (stop.wait(), print("asked to stop", flush=True))).start()
print("x: http://y", flush=True)
while True:
    ctypes.CDLL(None).sleep(600)
"""
"""A process whose main thread never returns to Python, with its longest time to stop."""
STOP_S = 10.0
"""Longest time, in seconds, from a signal to the end of a process; see docs/operating.md."""


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setenv(f"HEADRACE_{name}", value)
    monkeypatch.chdir(tmp_path)


def stuck(tmp_path: Path, stop_s_max: float) -> Child:
    child = Child("x", [sys.executable, "-c", IN_C, str(stop_s_max)], tmp_path)
    child.wait_until_up()
    child.request_stop()
    return child


def test_a_process_that_hangs_in_a_library_is_ended_and_says_in_what(tmp_path: Path) -> None:
    child = stuck(tmp_path, 0.1)
    assert child.wait(STOP_S) == 128 + signal.SIGTERM
    assert child.reason.startswith("Hung: waited "), child.text
    assert child.reason.endswith(" s for the process to stop; ending")


def test_a_second_signal_ends_it_at_once(tmp_path: Path, children: Children) -> None:
    child = stuck(tmp_path, 600.0)
    children.wait_until("it was asked to stop", lambda: "asked to stop" in child.text)
    assert child.code is None
    child.request_stop(signal.SIGINT)
    assert child.wait(STOP_S) == 128 + signal.SIGINT


@pytest.mark.parametrize("log_url", ["sqlite"], indirect=True)
def test_a_shard_stops_in_order_at_any_moment(
    log_url: str, tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it opens the log or folds its journal, and while it learns; it loses nothing."""
    shard = Running(log_url, tmp_path, children)
    monkeypatch.setenv("HEADRACE_SHARDS__ONLINE__SNAPSHOT_INTERVAL_S", "600")
    shard.publish(1_500)
    online = shard.online()
    shard.await_entries(5)
    online.request_stop()
    assert online.wait(STOP_S) == 0, online.text
    assert '"event": "stopped"' in online.text
    online = shard.online()  # it says that it is up before it folds
    online.request_stop()
    assert online.wait(STOP_S) == 0, online.text
    online = shard.online()
    shard.await_covered()
    online.stop()
    shard.check()
    shard.close()


@pytest.mark.full  # a broker of its own and four processes, which wait for 8 s, take about a minute on a busy machine
def test_every_process_stops_while_its_broker_does_not_answer(
    tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever call of Kafka's client they are in. Nothing that was committed is lost."""
    monkeypatch.setenv("HEADRACE_ARCHIVE__FLUSH_INTERVAL_S", "0.1")
    with own_broker(tmp_path / "broker") as running:
        shard = Running(f"kafka:{running.bootstrap}", tmp_path, children)
        log = ["--log", shard.url, "--metrics-port", "0"]
        shard.publish(900)
        online, serve = shard.online(), shard.serve()
        gateway = children.start("gateway", "gateway", *log, "--port", "0")
        archive = children.start("archive", "archive", *log, "--archive", str(tmp_path / "archive"))
        shard.await_entries(3)
        children.wait_until("the archiver archives", lambda: "archiving" in archive.text)
        shard.publish(300)
        os.kill(running.pid, signal.SIGSTOP)
        try:
            time.sleep(1)  # commits are on their way
            for child in (online, serve, archive, gateway):
                child.request_stop()
            for child in (online, serve, archive):
                code = child.wait(2 * STOP_S)  # the watchdog waits for 8 s, on a busy machine a little longer
                assert code == 0 or ended_in_kafka(child), child.text
            assert archive.code != 0, "it cannot have noted how far it is"
            assert gateway.wait(2 * STOP_S) == 0, "all that it has taken is safe"
        finally:
            os.kill(running.pid, signal.SIGCONT)
        shard.finish(shard.online())
        shard.close()
        assert broker.status(tmp_path / "broker") is not None
