"""Announcements: their wire form, and what is none."""

import msgspec
import pytest

from headrace.announcement import Announcement, announced
from headrace.log.protocol import Record
from producers.verdict_gate import VerdictGate

ONE = Announcement(
    id="finetune/3", kind="promoted", round=2, at_events=100, due_events=300, time_ms=5, version="r0002-ab",
    blob="model-ab", evidence={"wealth": 21.0}, lineage={"tokens": 5},
)  # fmt: skip


def record(value: bytes | None) -> Record:
    return Record(0, 0, 0, b"-", value)


def test_an_announcement_survives_the_wire() -> None:
    outgoing = ONE.record()
    assert (outgoing.topic, outgoing.key, outgoing.partition) == ("models", b"r0002-ab", 0)
    assert announced(record(outgoing.value)) == ONE


def test_one_without_a_version_has_a_key() -> None:
    assert msgspec.structs.replace(ONE, version="").record().key == b"-"


@pytest.mark.parametrize(
    "value", [None, b"", b"{}", b"[1]", b"\xff", b'{"evidence":' + b'{"a":' * 100_000, b'{"kind": "abdicated"}']
)
def test_what_is_no_announcement_is_nobodys_end(value: bytes | None) -> None:
    assert announced(record(value)) is None


def test_producers_find_what_they_wait_for() -> None:
    """Producers import no learner: they read `due_events` on their own."""
    from headrace.log.memory import MemoryLog

    log = MemoryLog()
    log.create()
    appender = log.appender()
    appender.append(ONE.record())
    gate = VerdictGate(log)
    assert gate(299) is None
    assert gate(300) is not None
