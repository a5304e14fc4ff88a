"""The rules for the settings of topics on Kafka: what is refused, what is warned of, and what is said to do."""

import pytest

from headrace.log.kafka.topic_settings import NOT_TOLD, REPLICATION, RULES, DescribedTopic, check_topic
from headrace.topics import TOPICS

DAY_MS = 86_400_000


def topic(name: str, brokers: int = 3, **changes: object) -> DescribedTopic:
    """Return a topic as `create` makes it on three brokers, with changes; `_` stands for `.` in their names."""
    made = {
        **NOT_TOLD, "retention.ms": str(TOPICS[name].retention_ms), REPLICATION: "3", "min.insync.replicas": "2"
    }  # fmt: skip
    changed = {setting.replace("_", "."): str(value) for setting, value in changes.items()}
    replicas = changed.pop("replicas", made[REPLICATION])
    return DescribedTopic(TOPICS[name], f"shop-{name}", brokers, {**made, **changed, REPLICATION: replicas})


@pytest.mark.parametrize("name", TOPICS)
@pytest.mark.parametrize(("brokers", "replicas", "insync"), [(1, 1, 1), (2, 2, 1), (3, 3, 2), (9, 3, 2)])
def test_nothing_is_wrong_with_the_topics_that_headrace_makes(
    name: str, brokers: int, replicas: int, insync: int
) -> None:
    assert check_topic(topic(name, brokers, replicas=replicas, min_insync_replicas=insync)) == []


WRONG = [
    (topic("events", cleanup_policy="compact"), "cleanup.policy", True),
    (topic("events", cleanup_policy="compact,delete"), "cleanup.policy", True),
    (topic("journal", cleanup_policy="compact"), "cleanup.policy", True),
    (topic("judgements", cleanup_policy="compact"), "cleanup.policy", True),
    (topic("published", cleanup_policy="compact"), "cleanup.policy", True),
    (topic("items", cleanup_policy="compact"), "cleanup.policy", True),
    (topic("scores", cleanup_policy="compact"), "cleanup.policy", False),
    (topic("journal", retention_ms=DAY_MS), "retention.ms", True),
    (topic("journal", retention_ms=7 * DAY_MS), "retention.ms", False),
    (topic("events", retention_ms=7 * DAY_MS), "retention.ms", False),
    (topic("models", retention_ms=365 * DAY_MS), "retention.ms", False),
    (topic("events", retention_bytes=10**9), "retention.bytes", False),
    (topic("events", message_timestamp_type="CreateTime"), "message.timestamp.type", False),
    (topic("judgements", max_message_bytes=100_000), "max.message.bytes", False),
    (topic("journal", replicas=1, brokers=1), "min.insync.replicas", True),
    (topic("journal", min_insync_replicas=3), "min.insync.replicas", False),
    (topic("journal", min_insync_replicas=1), "min.insync.replicas", False),
    (topic("journal", replicas=1, min_insync_replicas=1), REPLICATION, False),
    (topic("events", unclean_leader_election_enable="true"), "unclean.leader.election.enable", False),
]


@pytest.mark.parametrize(("one", "setting", "refused"), WRONG, ids=lambda one: getattr(one, "name", None))
def test_what_others_set_is_found(one: DescribedTopic, setting: str, refused: bool) -> None:
    (found,) = check_topic(one)
    assert (found.topic, found.setting, found.refused) == (one.topic.name, setting, refused)
    assert f"found {one.settings[setting]}: " in found.text
    assert (
        f"--entity-name {one.name} --add-config {setting}=" in found.text or "kafka-reassign-partitions" in found.text
    )


def test_each_rule_is_tested() -> None:
    assert {(rule.setting, rule.refused) for rule in RULES} == {(setting, refused) for _, setting, refused in WRONG}


def test_what_is_longer_larger_or_unlimited_is_no_fault() -> None:
    assert check_topic(topic("events", retention_ms=-1, max_message_bytes=10**7)) == []
    assert check_topic(topic("events-replay", retention_ms=8 * DAY_MS)) == []
    assert check_topic(topic("events", cleanup_policy="", retention_ms=1)) == [], "nothing is deleted"
