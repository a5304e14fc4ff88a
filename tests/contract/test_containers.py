"""A broker in a container, as `provide_broker` starts one where a container engine answers."""

import os
from contextlib import closing
from pathlib import Path

import pytest

from headrace.errors import LogUnavailable
from headrace.log import broker
from headrace.log.kafka.log import KafkaLog
from headrace.log.protocol import Outgoing, Partition

HOW = "needs a container engine: `make compose-drill` installs Debian's and runs this test, or set DOCKER_HOST"


@pytest.fixture
def engine() -> None:
    """Skip where no engine answers."""
    if not broker._container_engine_answers(os.environ):
        pytest.skip(HOW)


def test_events_are_written_and_read_and_the_container_is_gone_afterwards(engine: None, tmp_path: Path) -> None:
    with (
        broker.provide_broker(tmp_path, {**os.environ, "HEADRACE_KAFKA": ""}) as bootstrap,
        closing(KafkaLog(bootstrap)) as log,
    ):
        log.create()
        with closing(log.appender()) as appender:
            appender.append(Outgoing("events", b"k", b"in a container", 0))
            appender.flush()
        with closing(log.writer("online")) as writer:
            writer.commit([Outgoing("journal", b"online", b"entry", 0)], {Partition("events", 0): 1})
            writer.settle()
        reader = log.reader({Partition("events", 0): 0, Partition("journal", 0): 0})
        found: set[bytes | None] = set()
        for _ in range(100):
            found |= {record.value for _, batch in reader.read(10, 0.2) for record in batch}
            if len(found) == 2:
                break
        assert found == {b"in a container", b"entry"}
    assert broker.status(tmp_path) is None, "a local process was started instead"
    with pytest.raises(LogUnavailable), closing(KafkaLog(bootstrap, deadline_s=1.0)) as log:
        log.create()


def test_an_image_that_cannot_be_had_is_named(engine: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(broker, "container_image", "headrace.invalid/none:1")
    with pytest.raises(LogUnavailable, match=r"headrace\.invalid/none:1"), broker._container(os.environ):
        pass
