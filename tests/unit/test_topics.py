"""The table of topics, its documentation, and the partition of a key."""

from pathlib import Path

import pytest

from headrace.log import Outgoing, Partition
from headrace.topics import SHARDS, TOPICS, partition_for, partitions_of, place_of, reference

DOCS = Path(__file__).parents[2] / "docs"


def test_the_document_is_what_the_table_says() -> None:
    text = (DOCS / "topics.md").read_text(encoding="utf-8")
    assert text == reference(), "run: python -m headrace.topics > docs/topics.md"
    for topic in TOPICS.values():
        assert f"`{topic.name}`" in text


# Of Apache Kafka's own tests of Utils.murmur2 (UtilsTest.testMurmur2), made positive; then modulo partitions.
MURMUR2 = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("partitions", [1, 4, 7])
@pytest.mark.parametrize("key", MURMUR2)
def test_keys_go_where_kafka_sends_them(key: bytes, partitions: int) -> None:
    assert partition_for(key, partitions) == (MURMUR2[key] & 0x7FFFFFFF) % partitions


def test_places() -> None:
    assert place_of(Outgoing("journal", b"finetune", b"", SHARDS["finetune"])) == Partition("journal", 1)
    assert place_of(Outgoing("events", None, b"x")) == Partition("events", 0)
    assert place_of(Outgoing("events", b"abc", b"x")) == Partition("events", (479470107 & 0x7FFFFFFF) % 4)


def test_each_shard_has_a_partition_to_write() -> None:
    assert sorted(SHARDS.values()) == [place.number for place in partitions_of("journal")]
    assert len(partitions_of("judgements")) == len(SHARDS)
