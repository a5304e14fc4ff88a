"""The gate of `--pace rounds`: it follows `due_events` on `models` and times out."""

import pytest

from headrace.log.memory import MemoryLog
from headrace.log.protocol import Outgoing
from headrace.topics import MODELS
from producers.verdict_gate import NoVerdict, VerdictGate


def announce(log: MemoryLog, value: bytes | None) -> None:
    writer = log.writer("finetune")
    writer.commit([Outgoing(MODELS, b"deep-1", value)], {})
    writer.settle()


def test_opens_up_to_the_newest_due_events() -> None:
    log = MemoryLog()
    log.create()
    gate = VerdictGate(log)
    assert gate(0) is not None
    announce(log, b'{"due_events": 10, "kind": "round"}')
    assert gate(9) is None
    assert gate(10) == "waiting for the fine-tuner: 10 events published, 10 due"
    for other in (b'{"kind": "promoted"}', b"nonsense", b'{"due_events": "x"}', b"[1]", None):
        announce(log, other)
        assert gate(10) is not None, other
    announce(log, b'{"due_events": 20}')
    assert gate(10) is None
    assert gate(20) is not None
    gate.close()
    assert VerdictGate(log)(19) is None, "a restarted producer reads earlier records"


def test_the_timeout_restarts_when_due_events_increases() -> None:
    log, now = MemoryLog(), [0.0]
    log.create()
    gate = VerdictGate(log, timeout_s=30.0, clock=lambda: now[0])
    assert gate(0) is not None
    now[0] = 29.0
    announce(log, b'{"due_events": 5}')
    assert gate(0) is None
    assert gate(5) is not None
    now[0] = 58.0
    assert gate(5) is not None
    now[0] = 60.0
    with pytest.raises(NoVerdict, match="is it running"):
        gate(5)
