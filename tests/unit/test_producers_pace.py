"""The gate of `--pace rounds` follows `models` and loses patience."""

import pytest

from headrace.errors import LogUnavailable
from headrace.log import Outgoing
from headrace.testing import MemoryLog
from headrace.topics import MODELS
from producers.pace import Rounds


def say(log: MemoryLog, value: bytes | None) -> None:
    writer = log.writer("finetune")
    writer.commit([Outgoing(MODELS, b"deep-1", value)], {})
    writer.settle()


def test_opens_as_far_as_the_newest_record_says() -> None:
    log = MemoryLog()
    log.create()
    gate = Rounds(log)
    assert gate(0) is not None
    say(log, b'{"due_events": 10, "kind": "round"}')
    assert gate(9) is None
    assert gate(10) == "waiting for the fine-tuner: 10 events published, 10 due"
    for other in (b'{"kind": "promoted"}', b"nonsense", b'{"due_events": "x"}', b"[1]", None):
        say(log, other)
        assert gate(10) is not None, other
    say(log, b'{"due_events": 20}')
    assert gate(10) is None
    assert gate(20) is not None
    gate.close()
    assert Rounds(log)(19) is None, "a restarted producer reads what was said before"


def test_patience_ends_and_starts_anew_with_each_step() -> None:
    log, now = MemoryLog(), [0.0]
    log.create()
    gate = Rounds(log, patience_s=30.0, clock=lambda: now[0])
    assert gate(0) is not None
    now[0] = 29.0
    say(log, b'{"due_events": 5}')
    assert gate(0) is None
    assert gate(5) is not None
    now[0] = 58.0
    assert gate(5) is not None
    now[0] = 60.0
    with pytest.raises(LogUnavailable, match="is it running"):
        gate(5)
