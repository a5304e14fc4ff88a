"""How others set up the topics on a Kafka cluster: one table of rules, and the request that describes the topics.

`headrace.log.kafka.log.KafkaLog.create` makes topics that pass all rules. Administrators, and programs that were there
first, may make other ones or alter them later.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from headrace.log.kafka.client import ConfigResource, KafkaAdminClient
from headrace.log.protocol import RECORD_BYTES_MAX, Finding
from headrace.topics import (
    ALARMS,
    DAY_MS,
    EVENTS,
    IMPRESSIONS,
    ITEMS,
    JOURNAL,
    JUDGEMENTS,
    KEPT_FOR_EVER,
    MODELS,
    PUBLISHED,
    TOPICS,
    Topic,
)
from headrace.topics import RULES as RULES_TOPIC

batch_bytes_min: Final = 1_048_588
"""Least `max.message.bytes` with which every record that Headrace accepts can be written: Kafka's default."""
journal_kept_ms_min: Final = 2 * DAY_MS
"""An idle shard writes an entry a day; without a newer one, retention would delete the entry that finds the state."""
replicas_wanted: Final = 3
EACH_RECORD_COUNTS: Final = (
    EVENTS, IMPRESSIONS, ITEMS, RULES_TOPIC, JOURNAL, JUDGEMENTS, MODELS, ALARMS, PUBLISHED,
)  # fmt: skip
"""Topics of which a fold anew, or a producer that continues, needs every record, whatever its key."""
REPLICATION: Final = "replication factor"
NOT_TOLD: Final = {
    "cleanup.policy": "delete",
    "retention.ms": str(KEPT_FOR_EVER),
    "retention.bytes": "-1",
    "message.timestamp.type": "LogAppendTime",
    "max.message.bytes": str(batch_bytes_min),
    "unclean.leader.election.enable": "false",
}
"""What a setting counts as that the brokers do not tell: not all that speak Kafka's protocol know all settings."""


class DescribedTopic(NamedTuple):
    """A topic as the brokers describe it: its settings, and its replication factor as one of them.

    `name` has the log's prefix; `brokers` is how many the cluster has.
    """

    topic: Topic
    name: str
    brokers: int
    settings: Mapping[str, str]

    def number(self, setting: str) -> int:
        """Return a setting that is a whole number."""
        return int(self.settings[setting])

    @property
    def kept_ms(self) -> int:
        """For how long records are kept, -1 for ever."""
        return self.number("retention.ms") if "delete" in self.settings["cleanup.policy"] else KEPT_FOR_EVER

    @property
    def compacted(self) -> bool:
        """Whether only the newest record of each key is kept."""
        return "compact" in self.settings["cleanup.policy"]


class Wanted(NamedTuple):
    """What a setting should be, as text, and the value to set."""

    text: str
    value: object


class Rule(NamedTuple):
    """What a setting must be. `wanted` returns it where a topic differs, else None; `why` is what follows then.

    `refused`: it makes the learned state wrong or stops all writing. Otherwise it may lose records later.
    """

    setting: str
    refused: bool
    why: str
    wanted: Callable[[DescribedTopic], Wanted | None]


def _whole_input(one: DescribedTopic) -> Wanted | None:
    return Wanted("delete", "delete") if one.compacted and one.topic.name in EACH_RECORD_COUNTS else None


def _whole_history(one: DescribedTopic) -> Wanted | None:
    return Wanted("delete", "delete") if one.compacted and one.topic.name not in EACH_RECORD_COUNTS else None


def _journal_outlives_idleness(one: DescribedTopic) -> Wanted | None:
    if one.topic.name != JOURNAL or one.kept_ms == KEPT_FOR_EVER or one.kept_ms >= journal_kept_ms_min:
        return None
    return Wanted(f"at least {journal_kept_ms_min} (2 days)", one.topic.retention_ms)


def _kept_as_long(one: DescribedTopic) -> Wanted | None:
    wanted, found = one.topic.retention_ms, one.kept_ms
    if found == KEPT_FOR_EVER or (wanted != KEPT_FOR_EVER and found >= wanted) or _journal_outlives_idleness(one):
        return None
    return Wanted(f"{wanted} (for ever)" if wanted == KEPT_FOR_EVER else f"at least {wanted}", wanted)


def _any_size(one: DescribedTopic) -> Wanted | None:
    limited = one.number("retention.bytes") != -1 and "delete" in one.settings["cleanup.policy"]
    return Wanted("-1 (any size)", -1) if limited else None


def _append_times(one: DescribedTopic) -> Wanted | None:
    kind = "LogAppendTime"
    return Wanted(kind, kind) if one.settings["message.timestamp.type"] != kind else None


def _whole_records(one: DescribedTopic) -> Wanted | None:
    small = one.number("max.message.bytes") < batch_bytes_min
    return Wanted(f"at least {batch_bytes_min}", batch_bytes_min) if small else None


def _can_be_written(one: DescribedTopic) -> Wanted | None:
    replicas = one.number(REPLICATION)
    impossible = one.number("min.insync.replicas") > replicas
    return Wanted(f"at most {replicas}, the number of replicas", max(1, replicas - 1)) if impossible else None


def _one_broker_may_stop(one: DescribedTopic) -> Wanted | None:
    replicas = one.number(REPLICATION)
    all_needed = 1 < one.number("min.insync.replicas") == replicas
    return Wanted(f"less than {replicas}, the number of replicas", replicas - 1) if all_needed else None


def _on_two_disks(one: DescribedTopic) -> Wanted | None:
    replicas = one.number(REPLICATION)
    one_is_enough = replicas >= replicas_wanted and one.number("min.insync.replicas") == 1
    return Wanted(str(replicas - 1), replicas - 1) if one_is_enough else None


def _replicas(one: DescribedTopic) -> Wanted | None:
    wanted = min(replicas_wanted, one.brokers)
    return Wanted(f"{wanted} on {one.brokers} brokers", wanted) if one.number(REPLICATION) < wanted else None


def _clean_election(one: DescribedTopic) -> Wanted | None:
    return Wanted("false", "false") if one.settings["unclean.leader.election.enable"] != "false" else None


RULES: Final = (
    Rule("cleanup.policy", True, "compaction deletes what the state follows from, and that is lost", _whole_input),
    Rule("cleanup.policy", False, "a fold anew or a report may lack all but each key's newest record", _whole_history),
    Rule("retention.ms", True, "the newest entry of an idle shard expires with its state", _journal_outlives_idleness),
    Rule("retention.ms", False, "a process that was stopped for longer, or a fold anew, lacks records", _kept_as_long),
    Rule("retention.bytes", False, "much traffic deletes records before their time", _any_size),
    Rule("message.timestamp.type", False, "retention and times of arrival go by producers' clocks", _append_times),
    Rule("max.message.bytes", False, f"records of up to {RECORD_BYTES_MAX} bytes are written", _whole_records),
    Rule("min.insync.replicas", True, "nothing can be written", _can_be_written),
    Rule("min.insync.replicas", False, "nothing can be written while one broker is down", _one_broker_may_stop),
    Rule("min.insync.replicas", False, "records that one broker alone has are lost with its disk", _on_two_disks),
    Rule(REPLICATION, False, "records are lost, or cannot be written, without one broker", _replicas),
    Rule("unclean.leader.election.enable", False, "a leader may lack acknowledged records", _clean_election),
)


def check_topic(one: DescribedTopic) -> list[Finding]:
    """Return what is wrong with a topic, by the rules."""
    return [
        Finding(one.topic.name, rule.setting, _text(one, rule, wanted), rule.refused)
        for rule in RULES
        if (wanted := rule.wanted(one))
    ]


def _text(one: DescribedTopic, rule: Rule, wanted: Wanted) -> str:
    if rule.setting == REPLICATION:
        remedy = f"kafka-reassign-partitions.sh gives {one.name} more replicas"
    else:
        alter = f"kafka-configs.sh --alter --entity-type topics --entity-name {one.name}"
        remedy = f"{alter} --add-config {rule.setting}={wanted.value}"
    return f"wanted {wanted.text}, found {one.settings[rule.setting]}: {rule.why}. To do: {remedy}"


def describe_topics(admin: KafkaAdminClient, prefix: str) -> tuple[list[DescribedTopic], list[str]]:
    """Return the topics of the log, and the names of those whose settings this user may not read.

    Omits topics that are missing or that this user may not see.
    """
    brokers = len(admin.describe_cluster()["brokers"])
    seen = admin.describe_topics([prefix + name for name in TOPICS])
    topics = {one["name"]: one["partitions"] for one in seen if not one["error_code"]}
    wanted = [ConfigResource("TOPIC", name) for name in topics]
    settings = admin.describe_configs(wanted, config_filter="all").get("topic", {}) if wanted else {}
    found, unread = [], []
    for name, partitions in topics.items():
        topic = TOPICS[name.removeprefix(prefix)]
        if values := settings.get(name):
            replicas = str(min((len(one["replica_nodes"]) for one in partitions), default=0))
            told = {setting: value["value"] for setting, value in values.items()}
            known = {**NOT_TOLD, "min.insync.replicas": replicas, **told, REPLICATION: replicas}
            found.append(DescribedTopic(topic, name, brokers, known))
        else:  # without the right, the answer has none
            unread.append(topic.name)
    return found, unread
