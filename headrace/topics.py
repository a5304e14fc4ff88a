"""The one table of topics: names, partitions, retention, who writes and who reads.

`docs/topics.md` is written from this table (`python -m headrace.topics`), and both logs create their topics from it.
"""

from functools import lru_cache
from typing import NamedTuple

from headrace.log import Outgoing, Partition

DAY_MS = 86_400_000
KEPT_FOR_EVER = -1


class Topic(NamedTuple):
    """A topic's contract. `retention_ms` counts from append time; -1 keeps for ever.

    `writers` and `readers` are commands and others, by commas: a command's `rights` follow from them.
    """

    name: str
    partitions: int
    retention_ms: int
    key: str
    writers: str
    readers: str
    purpose: str


class Right(NamedTuple):
    """What a process must be allowed to do where Kafka asks for rights (ACLs). Names go without the log's prefix."""

    operation: str
    kind: str
    name: str


EVENTS = "events"
DEAD_LETTERS = "dead-letters"
JOURNAL = "journal"
JUDGEMENTS = "judgements"
MODELS = "models"
SCORES = "scores"
ALARMS = "alarms"
TRUTH = "truth"
EVENTS_REPLAY = "events-replay"

SHARDS = {"online": 0, "finetune": 1}
"""Writer ids and the partition of `journal` and `judgements` that each one writes."""

PROCESSES = ("online", "finetune", "serve", "load", "simulate", "republish", "propose", "status")
"""The commands that open a log."""

TOPICS = {
    topic.name: topic
    for topic in (
        Topic(EVENTS, 4, 30 * DAY_MS, "shopper id", "load, simulate",
              "online, finetune, serve, load, simulate, republish, demo",
              "what shoppers did; one CloudEvent a record"),
        Topic(DEAD_LETTERS, 1, 90 * DAY_MS, "origin", "online", "status, demo",
              "records that could not be used, with reason, origin and their bytes"),
        Topic(JOURNAL, len(SHARDS), 30 * DAY_MS, "writer id", "online, finetune",
              "online, finetune, serve, status, demo",
              "the order in which each shard applied its input, and its newest snapshot; partition = shard"),
        Topic(JUDGEMENTS, len(SHARDS), 30 * DAY_MS, "writer id", "online, finetune", "online, finetune, serve, demo",
              "what models said before they learned, beside what happened; partition = shard"),
        Topic(MODELS, 1, KEPT_FOR_EVER, "model version", "finetune, propose", "online, finetune, serve, status, demo",
              "rounds of the slow learner: candidates, promotions, refusals, rollbacks"),
        Topic(SCORES, 1, 90 * DAY_MS, "learner", "online", "status, demo",
              "windowed prequential scores and drift scores"),
        Topic(ALARMS, 1, 90 * DAY_MS, "detector", "online, finetune", "finetune, status, demo",
              "drift, and floods of bad records"),
        Topic(TRUTH, 1, 90 * DAY_MS, "kind", "simulate", "simulate, demo, benchmarks",
              "the simulated shop's ground truth; no learner reads it"),
        Topic(EVENTS_REPLAY, 4, 7 * DAY_MS, "shopper id", "republish", "operators",
              "ranges of events, copied byte for byte to be looked at or learned apart"),
    )
}  # fmt: skip


def partitions_of(topic: str) -> list[Partition]:
    """Return all partitions of a topic of the table."""
    return [Partition(topic, number) for number in range(TOPICS[topic].partitions)]


def written_by(process: str) -> list[str]:
    """Return the topics that a process writes."""
    return [topic.name for topic in TOPICS.values() if process in topic.writers.split(", ")]


def rights(process: str) -> list[Right]:
    """Return the least rights of a process, where all topics exist. To Read or Write is to Describe, too.

    >>> rights("propose")
    [Right(operation='Write', kind='topic', name='models')]
    """
    shard, written = process in SHARDS, written_by(process)
    found = [Right("Write", "topic", name) for name in written]
    for topic in TOPICS.values():
        if process in topic.readers.split(", ") or (shard and topic.name in written):  # a shard looks for what hangs
            found.append(Right("Read", "topic", topic.name))
        elif process == "status":
            found.append(Right("Describe", "topic", topic.name))
    if shard:
        found += [Right("Write", "transactional id", process), Right("Read", "group", process)]
    if process == "status":
        found += [Right("Describe", "group", shard) for shard in SHARDS]
    return found


def place_of(record: Outgoing) -> Partition:
    """Return where a record goes: its own partition, else its key's; without a key, partition 0.

    >>> place_of(Outgoing("scores", b"popularity", b"{}"))
    Partition(topic='scores', number=0)
    """
    if record.partition is not None:
        return Partition(record.topic, record.partition)
    partitions = TOPICS[record.topic].partitions
    return Partition(record.topic, 0 if record.key is None else partition_for(record.key, partitions))


@lru_cache(maxsize=100_000)
def partition_for(key: bytes, partitions: int) -> int:
    """Return the partition that Kafka's default partitioner gives a key, so that all publishers agree.

    Murmur2 with Kafka's seed, made positive, modulo the number of partitions.

    >>> partition_for(b"shopper-1", 4) in range(4)
    True

    Source: Apache Kafka, `org.apache.kafka.common.utils.Utils.murmur2` (the algorithm by A. Appleby).
    """
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    length = len(key)
    h = 0x9747B28C ^ length
    for i in range(0, length - length % 4, 4):
        k = int.from_bytes(key[i : i + 4], "little") * m & mask
        h = (h * m & mask) ^ ((k ^ (k >> 24)) * m & mask)
    tail = key[length - length % 4 :]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return ((h ^ (h >> 15)) & 0x7FFFFFFF) % partitions


def reference() -> str:
    """Return docs/topics.md."""
    lines = [
        "# Topics",
        "",
        "Written by `python -m headrace.topics`. Every log makes its topics from this table. A record's time is its",
        "append time, given by the log; event time lives in the event. Readers see committed records only. Kafka is",
        "told how long to keep them; a log in a SQLite file keeps all, and grows.",
        "",
        "| topic | partitions | kept | key | holds | written by | read by |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for topic in TOPICS.values():
        kept = "for ever" if topic.retention_ms == KEPT_FOR_EVER else f"{topic.retention_ms // DAY_MS} days"
        lines.append(
            f"| `{topic.name}` | {topic.partitions} | {kept} | {topic.key} | {topic.purpose} | {topic.writers}"
            f" | {topic.readers} |"
        )
    shards = ", ".join(f"{number}: {shard}" for shard, number in SHARDS.items())
    lines += [
        "",
        f"Partitions of `journal` and `judgements` are shards ({shards}). Other keys choose their partition as Kafka's",
        "default partitioner does (murmur2), so that all publishers of a shopper agree. What an event looks like is in",
        "`event.schema.json`.",
        "",
        "## Rights",
        "",
        "What each process must be allowed to do where brokers ask for rights (ACLs), if all topics exist. The URL's",
        "prefix stands before each name, those of groups and transactional ids too; Read and Write hold Describe.",
        "Beside this, `load` and `simulate` want Read on `models` with `--pace rounds`, `republish` wants Read on the",
        "topic that it is given and Write on `events-replay`. Whoever is to make topics wants Describe and Create on",
        "them. Producers of your own want Write on `events`.",
        "",
        "| process | Write on topics | Read on topics | Describe on topics | and |",
        "| --- | --- | --- | --- | --- |",
    ]
    for process in PROCESSES:
        wanted = rights(process)
        cells = [
            ", ".join(f"`{name}`" for given, kind, name in wanted if (given, kind) == (operation, "topic"))
            for operation in ("Write", "Read", "Describe")
        ]
        cells.append(
            ", ".join(f"{right.operation} on {right.kind} `{right.name}`" for right in wanted if right.kind != "topic")
        )
        lines.append(f"| {process} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
