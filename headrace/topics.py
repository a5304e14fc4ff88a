"""The table of topics: names, partitions, retention, writers and readers.

`docs/topics.md` is generated from this table, and all logs create their topics from it.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from headrace.errors import Misconfigured
from headrace.log.protocol import Log, Outgoing, Partition

DAY_MS = 86_400_000
KEPT_FOR_EVER = -1


class Topic(NamedTuple):
    """A topic's contract. `retention_ms` counts from append time; -1 keeps records for ever.

    `writers` and `readers` are names separated by commas: commands, `shards`, and others. The `rights` of a command
    follow from them.
    """

    name: str
    partitions: int
    retention_ms: int
    key: str
    writers: str
    readers: str
    purpose: str


class Right(NamedTuple):
    """A right that a process needs where Kafka requires them (ACLs). Names are without the log's prefix."""

    operation: str
    kind: str
    name: str
    prefixed: bool = False
    """Whether it holds for all names that begin with this one."""


EVENTS = "events"
DEAD_LETTERS = "dead-letters"
JOURNAL = "journal"
JUDGEMENTS = "judgements"
MODELS = "models"
SCORES = "scores"
ALARMS = "alarms"
ITEMS = "items"
TRAITS = "traits"
RULES = "rules"
SEGMENTS = "segments"
SEGMENT_MOVES = "segment-moves"
SILENCES = "silences"
EXPERIMENTS = "experiments"
EXPERIMENT_REPORTS = "experiment-reports"
POLICIES = "policies"
EXPOSURES = "exposures"
SHOPPER_CLASSES = "shopper-classes"
IMPRESSIONS = "impressions"
TRUTH = "truth"
EVENTS_REPLAY = "events-replay"
PUBLISHED = "published"

ARCHIVE = "archive"
"""The writer id of the archiver."""
PUBLISHER_PREFIX = "publish-"
"""How the writer ids of publishers begin; the rest tells how their input begins."""

SCALABLE = (EVENTS, ITEMS, IMPRESSIONS, EVENTS_REPLAY)
"""Topics that may have any number of partitions, as a shop made them, and may get more while processes run: records say
by their keys to whom they belong. The others have the partitions that the table states."""

SHARDS_MAX = 8
"""Partitions of `journal` and `judgements`: the maximum number of shards of one log."""

SHARDS = "shards"
"""Stands for all shards in the table. The topics that a shard writes and hears follow from its families (`Shard`)."""

COMMANDS = (
    "serve", "gateway", "load", "simulate", "replay", "republish", "archive", "dead-letters", "propose", "promote",
    "withdraw", "roll-back", "history", "rules", "segments", "stock", "experiment", "evaluate", "drift", "trace",
    "status", "console", "verify", "backup",
)  # fmt: skip
"""The commands that open a log, apart from those that run shards."""


class Shard(NamedTuple):
    """A shard's place in the log.

    `name` is its writer id (on Kafka its transactional id and group) and the kind of its snapshots. `number` is its
    partition of `journal` and `judgements`. `writes` are the other topics that it writes, `hears` the side topics whose
    records it applies.
    """

    name: str
    number: int
    writes: tuple[str, ...] = ()
    hears: tuple[str, ...] = ()

    @property
    def journal(self) -> Partition:
        """The partition of its journal."""
        return Partition(JOURNAL, self.number)

    @property
    def judgements(self) -> Partition:
        """The partition of its judgements."""
        return Partition(JUDGEMENTS, self.number)

    def inputs(self, log: Log) -> list[Partition]:
        """Return the partitions whose records it applies, as many as the log has now."""
        return [place for topic in (EVENTS, *self.hears) for place in log.partitions(topic)]

    @property
    def read(self) -> tuple[str, ...]:
        """Topics that it reads, its journal and judgements included."""
        return (EVENTS, *self.hears, JOURNAL, JUDGEMENTS)

    @property
    def written(self) -> list[Partition]:
        """Partitions that it writes."""
        return [place for topic in self.writes for place in partitions_of(topic)] + [self.journal, self.judgements]


TOPICS = {
    topic.name: topic
    for topic in (
        Topic(EVENTS, 4, 30 * DAY_MS, "shopper id", "gateway, load, simulate, dead-letters",
              "shards, serve, load, simulate, replay, republish, archive, dead-letters, rules, segments, stock,"
              " evaluate, trace, status, console, verify, backup, demo",
              "what shoppers did; one CloudEvent a record"),
        Topic(DEAD_LETTERS, 1, 90 * DAY_MS, "origin", "shards, dead-letters",
              "archive, dead-letters, history, trace, status, console, demo",
              "records that could not be used, with reason, origin and their bytes; what operators decided about them"),
        Topic(JOURNAL, SHARDS_MAX, 30 * DAY_MS, "writer id", "shards",
              "shards, serve, replay, archive, rules, segments, stock, trace, status, console, verify, backup, demo",
              "the order in which each shard applied its input, and its newest snapshot; partition = shard"),
        Topic(JUDGEMENTS, SHARDS_MAX, 30 * DAY_MS, "family", "shards",
              "shards, serve, replay, archive, rules, segments, stock, trace, console, verify, demo",
              "what models predicted before they learned, and what happened; partition = shard"),
        Topic(MODELS, 1, KEPT_FOR_EVER, "model version", "shards, propose, promote, withdraw, roll-back",
              "shards, serve, replay, archive, promote, withdraw, roll-back, history, rules, segments, stock, status,"
              " console, verify,"
              " demo",
              "rounds of the slow learner: candidates, promotions, refusals, rollbacks; requests for a champion"),
        Topic(SCORES, 1, 90 * DAY_MS, "family", "shards", "replay, status, console, demo",
              "windowed prequential scores and drift scores"),
        Topic(ALARMS, 1, 90 * DAY_MS, "detector", "shards",
              "shards, archive, history, drift, trace, status, console, verify, demo",
              "drift, floods of bad records, and added partitions"),
        Topic(ITEMS, 1, KEPT_FOR_EVER, "item id", "gateway, load, simulate, dead-letters",
              "shards, serve, load, simulate, replay, archive, dead-letters, rules, segments, stock, evaluate, status,"
              " console, verify",
              "what the shop states of its items: names, prices, availability; a record replaces the one before"),
        Topic(TRAITS, 1, KEPT_FOR_EVER, "shopper id", "gateway",
              "shards, serve, replay, archive, rules, segments, stock, status, console, verify",
              "what the shop states of its shoppers: country, language, plan; a record has what is new"),
        Topic(RULES, 1, KEPT_FOR_EVER, "placement", "gateway, rules",
              "shards, serve, replay, archive, rules, segments, stock, status, console, verify",
              "what answers must obey whatever is learned: what is hidden, pinned or allowed; a record replaces the one"
              " before"),
        Topic(SEGMENTS, 1, KEPT_FOR_EVER, "*", "segments",
              "shards, serve, replay, archive, rules, segments, stock, experiment, status, console, verify",
              "groups of shoppers by rules over their profiles; a record has all, and replaces the one before"),
        Topic(SEGMENT_MOVES, 1, 30 * DAY_MS, "shopper id", "shards", "operators",
              "which shoppers entered and left segments, and which clusters came and went"),
        Topic(SILENCES, 1, KEPT_FOR_EVER, "detector", "drift",
              "shards, serve, replay, archive, rules, segments, stock, status, console, verify, drift",
              "of which times a person knows that they are unusual, so that no drift is told; a record replaces the one"
              " before"),
        Topic(EXPERIMENTS, 1, KEPT_FOR_EVER, "experiment", "gateway, experiment, shards",
              "shards, serve, replay, archive, rules, segments, stock, experiment, evaluate, status, console, verify",
              "what is tried on which shoppers, and its state; a record replaces the one before"),
        Topic(EXPERIMENT_REPORTS, 1, 90 * DAY_MS, "experiment", "shards", "experiment, console, status",
              "what experiments have shown so far; a record replaces the one before"),
        Topic(POLICIES, 1, 90 * DAY_MS, "experiment/arm", "shards",
              "shards, serve, replay, archive, rules, segments, stock, experiment, evaluate, status,"
              " console, verify",
              "by which probabilities an exploring arm chooses, and why; a record replaces the one before"),
        Topic(EXPOSURES, 1, KEPT_FOR_EVER, "placement", "shards",
              "shards, serve, replay, archive, rules, segments, stock, status, console, verify",
              "what keeps the exposure of brands and sellers within a rule; a record replaces the one before"),
        Topic(SHOPPER_CLASSES, 1, 90 * DAY_MS, "shopper id", "shards", "status, console",
              "who is worth how much, for a CRM: a shopper's class A, B or C has changed, and what is expected"),
        Topic(IMPRESSIONS, 1, 30 * DAY_MS, "shopper id", "serve",
              "shards, archive, evaluate, trace, status, console, verify",
              "what answers showed, with the propensity of each item; one list a record"),
        Topic(TRUTH, 1, 90 * DAY_MS, "kind", "simulate", "simulate, demo, benchmarks",
              "the simulated shop's ground truth; no learner reads it"),
        Topic(PUBLISHED, 1, KEPT_FOR_EVER, "origin", "load, simulate", "load, simulate",
              "which records of each input are published: short digests, in the commit of the events"),
        Topic(EVENTS_REPLAY, 4, 7 * DAY_MS, "shopper id", "republish", "operators",
              "ranges of events, copied byte for byte, to inspect or learn separately"),
    )
}  # fmt: skip


def register(topic: Topic) -> None:
    """Add a family's own topic to the table, before a log is opened. Registering it again changes nothing.

    Raises:
        Misconfigured: the table has a different topic of that name, or this one has several partitions.
    """
    if topic.partitions != 1:
        raise Misconfigured(f"topic {topic.name}: wanted one partition, found {topic.partitions}")
    if TOPICS.setdefault(topic.name, topic) != topic:
        raise Misconfigured(f"topic {topic.name}: wanted a name of its own, found one that is in use")


def partitions_of(topic: str) -> list[Partition]:
    """Return the partitions of a topic in a new log; of one that is `SCALABLE`, a log may have others."""
    return [Partition(topic, number) for number in range(TOPICS[topic].partitions)]


def rights(process: str | Shard, shards: Sequence[Shard] = ()) -> list[Right]:
    """Return the least rights of a shard or another process if all topics exist. Read and Write include Describe.

    Args:
        shards: all shards, whose positions `status` and `console` show and `replay --rate live` watches.

    >>> rights("propose")
    [Right(operation='Write', kind='topic', name='models', prefixed=False)]
    """
    if isinstance(process, Shard):
        written = [topic for topic in TOPICS if topic in (*process.writes, JOURNAL, JUDGEMENTS)]
        read = {EVENTS, *process.hears, *written}  # a shard looks for hanging transactions in the topics that it writes
    else:
        written = [topic.name for topic in TOPICS.values() if process in topic.writers.split(", ")]
        read = {topic.name for topic in TOPICS.values() if process in topic.readers.split(", ")}
    found = [Right("Write", "topic", name) for name in written]
    for topic in TOPICS:
        if topic in read:
            found.append(Right("Read", "topic", topic))
        elif process in ("status", "console"):
            found.append(Right("Describe", "topic", topic))
    if isinstance(process, Shard):
        found += [Right("Write", "transactional id", process.name), Right("Read", "group", process.name)]
    if process in (ARCHIVE, DEAD_LETTERS):
        found.append(Right("Write", "transactional id", process))
    if process == ARCHIVE:
        found.append(Right("Read", "group", ARCHIVE))
    if PUBLISHED in written:
        found.append(Right("Write", "transactional id", PUBLISHER_PREFIX, prefixed=True))
    if process in ("status", "console", "replay"):
        found += [Right("Describe", "group", shard.name) for shard in shards]
    return found


def place_of(record: Outgoing, partitions: int) -> Partition:
    """Return the partition of a record: the one that it names, else its key's, else partition 0.

    Args:
        partitions: how many the topic has.

    >>> place_of(Outgoing("scores", b"popularity", b"{}"), 1)
    Partition(topic='scores', number=0)
    """
    if record.partition is not None:
        return Partition(record.topic, record.partition)
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
