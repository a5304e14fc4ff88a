"""The table of topics, a shard's place in it, rights, and the partition of a key."""

import pytest

from headrace.errors import Misconfigured
from headrace.log.protocol import Outgoing, Partition
from headrace.topics import (
    COMMANDS,
    DAY_MS,
    SHARDS,
    SHARDS_MAX,
    TOPICS,
    Right,
    Shard,
    Topic,
    partition_for,
    partitions_of,
    place_of,
    register,
    rights,
)

# Source: Apache Kafka's tests of Utils.murmur2 (UtilsTest.testMurmur2). Its partitioner clears the sign bit first.
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
def test_a_key_has_the_same_partition_as_in_kafka(key: bytes, partitions: int) -> None:
    assert partition_for(key, partitions) == (MURMUR2[key] & 0x7FFFFFFF) % partitions


def test_places() -> None:
    assert place_of(Outgoing("journal", b"finetune", b"", 1), 8) == Partition("journal", 1)
    assert place_of(Outgoing("events", None, b"x"), 4) == Partition("events", 0)
    assert place_of(Outgoing("events", b"abc", b"x"), 4) == Partition("events", (479470107 & 0x7FFFFFFF) % 4)


def test_a_shard_s_place_in_the_log() -> None:
    shard = Shard("third", 2, writes=("scores", "alarms"), hears=("models",))
    assert (shard.journal, shard.judgements) == (Partition("journal", 2), Partition("judgements", 2))
    assert shard.read == ("events", "models", "journal", "judgements")
    written = [Partition("scores", 0), Partition("alarms", 0), Partition("journal", 2), Partition("judgements", 2)]
    assert shard.written == written


def test_there_is_a_partition_for_each_shard_that_there_may_be() -> None:
    for topic in ("journal", "judgements"):
        assert [place.number for place in partitions_of(topic)] == list(range(SHARDS_MAX))


def test_a_shard_has_the_rights_that_its_families_need_and_no_more() -> None:
    shard = Shard("third", 2, writes=("scores",), hears=("models",))
    by_kind: dict[tuple[str, str], list[str]] = {}
    for right in rights(shard):
        by_kind.setdefault((right.operation, right.kind), []).append(right.name)
    assert by_kind == {
        ("Write", "topic"): ["journal", "judgements", "scores"],
        ("Read", "topic"): ["events", "journal", "judgements", "models", "scores"],
        ("Write", "transactional id"): ["third"],
        ("Read", "group"): ["third"],
    }
    assert Right("Describe", "group", "third") in rights("status", [shard])


def test_who_stands_in_the_table_is_a_command_or_all_shards() -> None:
    known = {*COMMANDS, SHARDS, "demo", "benchmarks", "operators"}
    for topic in TOPICS.values():
        assert {*topic.writers.split(", "), *topic.readers.split(", ")} <= known


def test_a_family_s_own_topic_is_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.topics.TOPICS", dict(TOPICS))
    own = Topic("prices", 1, 90 * DAY_MS, "item id", SHARDS, SHARDS, "prices that were asked")
    register(own)
    register(own)
    assert partitions_of("prices") == [Partition("prices", 0)]
    with pytest.raises(Misconfigured, match="topic prices: wanted a name of its own"):
        register(own._replace(retention_ms=DAY_MS))
    with pytest.raises(Misconfigured, match="topic events: wanted a name of its own"):
        register(own._replace(name="events"))
    with pytest.raises(Misconfigured, match="topic others: wanted one partition, found 4"):
        register(own._replace(name="others", partitions=4))
