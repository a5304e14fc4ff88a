"""Fixtures for all kinds of tests: logs of each implementation, and one Kafka broker for the whole run."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.main import get_command

from headrace import watchdog
from headrace.archive.log import ArchivedLog
from headrace.archive.store import FolderStore
from headrace.errors import LogUnavailable, Misconfigured
from headrace.log.broker import provide_broker
from headrace.log.kafka.client import common_options
from headrace.log.kafka.log import deadline_s_default
from headrace.log.kafka.security import read_security
from headrace.log.memory import MemoryLog
from headrace.log.open import open_log
from headrace.log.protocol import Log
from operators.child import Children
from tests.shared_broker import ask_for_broker


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Undo what a command that a test runs in this process has configured."""
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no command that a test runs in this process end it."""
    monkeypatch.setattr(watchdog, "watch", lambda: None)


@pytest.fixture(scope="session", autouse=True)
def commands_made_once() -> Iterator[None]:
    """Let those who run commands in this process share the command line, which takes 50 ms to make."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("typer.testing._get_command", cache(get_command))
        yield


@pytest.fixture(scope="session")
def kafka_bootstrap(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the bootstrap servers of a broker: `HEADRACE_KAFKA`, a container, or a process started for this run.

    Where the run has several processes, they share it.
    """
    shared = getattr(request.config, "workerinput", {}).get("broker")
    with ExitStack() as stack:
        try:
            bootstrap = (
                ask_for_broker(Path(shared))
                if shared
                else stack.enter_context(provide_broker(tmp_path_factory.mktemp("kafka")))
            )
        except (LogUnavailable, Misconfigured) as error:
            reason = str(error).splitlines()[0]
            pytest.skip(f"needs a Kafka broker: pip install 'headrace[kafka-local]', or set HEADRACE_KAFKA ({reason})")
        yield bootstrap


@pytest.fixture(scope="session")
def promtool() -> str:
    """Return the path of the real promtool."""
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("needs promtool: apt-get install prometheus")
    return path


@pytest.fixture
def kafka_url(kafka_bootstrap: str) -> str:
    """Return the URL of a log on Kafka that no other test uses: its topics and writers have a prefix of their own."""
    return f"kafka:{kafka_bootstrap}?prefix=t{uuid.uuid4().hex[:10]}-"


@pytest.fixture
def kafka_options(kafka_bootstrap: str) -> dict[str, Any]:
    """Return options for a test's own Kafka clients: the broker's address and the security settings."""
    security = read_security()
    return common_options(kafka_bootstrap.split(","), security, security.tls(), deadline_s_default)


@pytest.fixture(params=["sqlite", "kafka"])
def log_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of a log that no other test uses, once per implementation that processes can share."""
    if request.param == "kafka":
        return str(request.getfixturevalue("kafka_url"))
    return f"sqlite:{request.getfixturevalue('tmp_path') / 'log.db'}"


@pytest.fixture
def shared_log(log_url: str) -> Iterator[Log]:
    """Yield the log at `log_url`, with its topics."""
    log = open_log(log_url)
    log.create()
    yield log
    log.close()


@pytest.fixture(params=["memory", "archived", "sqlite", "kafka"])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    """Yield an open log with its topics, once per implementation."""
    if request.param == "memory":
        opened: Log = MemoryLog()
    elif request.param == "archived":
        opened = ArchivedLog(MemoryLog(), FolderStore(request.getfixturevalue("tmp_path") / "archive"))
    elif request.param == "sqlite":
        opened = open_log(f"sqlite:{request.getfixturevalue('tmp_path') / 'log.db'}")
    else:
        opened = open_log(request.getfixturevalue("kafka_url"))
    opened.create()
    yield opened
    opened.close()


@pytest.fixture
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to an empty folder, and remove all `HEADRACE_*` environment variables."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    """Start processes that end with the test; if it fails, the ends of their logs are printed."""
    with Children(tmp_path) as started:
        yield started
        print(started.tails())
