"""The retry loop of processes: which failures are retried, and until when."""

import errno
import io
import subprocess
import sys
import threading
import time

import pytest
import structlog

from headrace.errors import Fenced, LogUnavailable, Stopping
from headrace.process import log_to_stderr, run_with_retries


def test_a_retriable_failure_is_retried_until_success() -> None:
    calls = []

    def body() -> None:
        calls.append(1)
        if len(calls) < 3:
            raise LogUnavailable("down")

    run_with_retries(body, threading.Event(), deadline_s=5.0)
    assert len(calls) == 3


def test_a_failure_that_is_not_retriable_is_not_retried() -> None:
    calls = []

    def body() -> None:
        calls.append(1)
        raise Fenced("taken over")

    with pytest.raises(Fenced):
        run_with_retries(body, threading.Event(), deadline_s=5.0)
    assert len(calls) == 1


def test_retries_end_at_the_deadline() -> None:
    def body() -> None:
        raise LogUnavailable("down")

    started = time.monotonic()
    with pytest.raises(LogUnavailable):
        run_with_retries(body, threading.Event(), deadline_s=0.5)
    assert 0.5 <= time.monotonic() - started < 20


def test_an_attempt_that_ran_long_starts_a_new_series_of_failures() -> None:
    calls = []

    def body() -> None:
        calls.append(1)
        if len(calls) < 4:
            time.sleep(0.35)  # longer than healthy_attempt_s: the attempt counts as having worked
            raise LogUnavailable("down again")

    run_with_retries(body, threading.Event(), deadline_s=0.3, healthy_attempt_s=0.3)
    assert len(calls) == 4


def test_an_attempt_that_only_waited_longer_than_the_deadline_starts_no_new_series() -> None:
    calls = []

    def body() -> None:
        calls.append(1)
        time.sleep(0.15)
        raise LogUnavailable("no answer")

    with pytest.raises(LogUnavailable):
        run_with_retries(body, threading.Event(), deadline_s=0.1)
    assert len(calls) == 2


def test_a_stop_between_attempts_returns_without_an_error() -> None:
    stop = threading.Event()
    timer = threading.Timer(0.05, stop.set)

    def body() -> None:
        timer.start()
        raise LogUnavailable("down")  # the next attempt is 0.2 s later

    run_with_retries(body, stop, deadline_s=60.0)
    assert timer.finished.is_set()


def test_a_failure_while_it_stops_is_no_success() -> None:
    """What was to be committed is not: the exit code must tell."""
    stop = threading.Event()

    def body() -> None:
        stop.set()
        raise LogUnavailable("down")

    with pytest.raises(LogUnavailable):
        run_with_retries(body, stop, deadline_s=60.0)


def test_failed_assertions_are_not_retried() -> None:
    def body() -> None:
        raise AssertionError("an invariant")

    with pytest.raises(AssertionError, match="invariant"):
        run_with_retries(body, threading.Event(), deadline_s=60.0)


def test_what_gives_up_as_it_is_to_stop_is_not_tried_again() -> None:
    def body() -> None:
        raise Stopping

    run_with_retries(body, threading.Event(), deadline_s=60.0)


def test_processes_start_without_the_libraries_that_take_seconds_to_load() -> None:
    started = "operators.cli.app, consumers.shard, serving.app, learners.next_item.judge, learners.rounds.judge"
    code = f"import sys, {started}; sys.exit(str(sorted({{'torch', 'river', 'scipy', 'kafka'}} & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr == "[]\n"


class _FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_under_the_log_of_a_process_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", _FullDisk())
    log_to_stderr()
    structlog.get_logger().warning("retrying", error="the disk is full")
    monkeypatch.setattr(sys, "stderr", written := io.StringIO())
    structlog.get_logger().warning("there is room again")
    assert "there is room again" in written.getvalue()
