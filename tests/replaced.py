"""Deletes a topic of a log and makes it again, as an operator may do."""

import sqlite3
import time
from contextlib import closing

from kafka import KafkaAdminClient
from kafka.errors import TopicAlreadyExistsError

from headrace.errors import LogUnavailable
from headrace.log.kafka.client import common_options
from headrace.log.kafka.log import deadline_s_default
from headrace.log.kafka.security import read_security
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Log

wait_s_max = 20.0


def replace_topic(log: Log, url: str, topic: str) -> None:
    """Delete a topic with its records and make it again, empty.

    Args:
        url: the log's URL; that of a log in memory is not used.
    """
    if isinstance(log, MemoryLog):
        for place in log.partitions(topic):
            del log._partitions[place]
    elif url.startswith("sqlite:"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:"), timeout=wait_s_max)) as db, db:
            db.execute("DELETE FROM records WHERE partition IN (SELECT id FROM partitions WHERE topic=?)", (topic,))
            db.execute("DELETE FROM partitions WHERE topic=?", (topic,))
    else:
        _delete_on_kafka(url, topic)
    _create(log)


def _delete_on_kafka(url: str, topic: str) -> None:
    bootstrap, _, prefix = url.removeprefix("kafka:").partition("?prefix=")
    security = read_security()
    options = common_options(bootstrap.split(","), security, security.tls(), deadline_s_default)
    with closing(KafkaAdminClient(**options)) as admin:
        admin.delete_topics([prefix + topic])
        deadline = time.monotonic() + wait_s_max
        while admin.describe_topics([prefix + topic])[0]["partitions"]:
            assert time.monotonic() < deadline, f"the topic {topic} was not deleted"
            time.sleep(0.05)


def _create(log: Log) -> None:
    """Create what is missing; a broker that has just deleted a topic may still know it."""
    deadline = time.monotonic() + wait_s_max
    while True:
        try:
            log.create()
        except (LogUnavailable, TopicAlreadyExistsError):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return
