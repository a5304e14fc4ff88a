"""Brokers for one test or module, separate from the shared one (`conftest.kafka_bootstrap`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace.errors import LogUnavailable, Misconfigured
from headrace.log import broker


@contextmanager
def own_broker(folder: Path, properties: str = "") -> Iterator[broker.LocalBroker]:
    """Run a local broker during a block, which may stop and start it; `properties` as for `broker.start`."""
    try:
        running = broker.start(folder, properties)
    except (LogUnavailable, Misconfigured) as error:
        # Java and Kafka's jars may be missing: the tests are skipped then, but in CI a skip is a failure.
        pytest.skip(f"needs a local Kafka broker: pip install 'headrace[kafka-local]' ({str(error).splitlines()[0]})")
    try:
        yield running
    finally:
        broker.stop(folder)
