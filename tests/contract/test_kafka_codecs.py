"""Records of every codec that Kafka knows are read, whether a producer or the broker compressed them."""

import random
from collections.abc import Iterator
from contextlib import closing

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource

from headrace.log.open import open_log
from headrace.log.protocol import Log, Partition
from headrace.shard.checks import committed_records
from headrace.topics import EVENTS

CODECS = ("gzip", "snappy", "lz4", "zstd")
VALUES = [random.Random(0).randbytes(100_000) * 2, *(b"{}" * 300_000, b"short")]
"""Two of each are over the 1 MiB of which a reader of a compressed stream might return a part."""


@pytest.fixture
def opened(kafka_url: str) -> Iterator[tuple[str, str, Log]]:
    """Return a broker, the name of its topic of events, and the log."""
    bootstrap, _, prefix = kafka_url.removeprefix("kafka:").partition("?prefix=")
    with closing(open_log(kafka_url)) as log:
        log.create()
        yield bootstrap, prefix + EVENTS, log


@pytest.mark.parametrize("by", ["producer", "topic"])
@pytest.mark.parametrize("codec", CODECS)
def test_a_codec_is_read(opened: tuple[str, str, Log], codec: str, by: str) -> None:
    bootstrap, topic, log = opened
    if by == "topic":
        with closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
            admin.alter_configs([ConfigResource("TOPIC", topic, {"compression.type": codec})])
    one_batch = {"compression_type": codec, "max_request_size": 2**22, "batch_size": 2**22, "linger_ms": 500}
    options = one_batch if by == "producer" else {}
    with closing(KafkaProducer(bootstrap_servers=bootstrap, **options)) as producer:
        sent = [producer.send(topic, value=value, partition=0) for value in VALUES * 2]
        producer.flush()
        assert all(one.succeeded() for one in sent)
    assert [record.value for record in committed_records(log, Partition(EVENTS, 0))] == VALUES * 2
