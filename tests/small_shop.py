"""A small shop's log: simulated events that the shard `online` has learned, and what else its topics would hold."""

from typing import Final

import msgspec

from consumers.shard import Judges
from headrace.announcement import Announcement
from headrace.letters import DeadLetter
from headrace.log.protocol import Log, Outgoing
from headrace.shard.blobs import Blobs
from headrace.shard.loop import Loop, LoopSettings
from producers.scenario import SimulationSettings
from producers.simulate import simulate
from tests.shards import ONLINE, next_item_judge, online


def said(kind: str, number: int, **more: object) -> Announcement:
    """Return an announcement of round `number`."""
    head = {"id": f"finetune/{kind}{number}", "kind": kind, "round": number, "time_ms": 0, "due_events": 0}
    return msgspec.convert(
        {**head, "version": f"r000{number}", "blob": "model-ab", "at_events": 900, **more}, Announcement
    )


EVIDENCE: Final = {
    "wealth": 21.5, "predictions": 300, "mean_difference": 0.01, "interval": [0.001, 0.0242], "sessions": 90
}  # fmt: skip
ROUNDS: Final = [
    said("schedule", 0),
    said("candidate", 1, trigger="start", lineage={"tokens": 5_000, "seconds": 1.5, "loss": 4.25}),
    said("promoted", 1, at_events=1_500, reason="better", evidence=EVIDENCE),
    said("candidate", 2, trigger="drift", at_events=2_000),
    said("refused", 2, at_events=2_400, reason="worse <b>&"),
    said("failed", 3, blob="", reason="no sequence"),
    said("candidate", 4, at_events=2_900),
]


def learn_small_shop(
    log: Log, blobs: Blobs, events: int = 4_000, *, shoppers: int = 80, days: float = 10
) -> None:  # fmt: skip
    """Write a small shop's events into a log, learned, and rounds, alarms and dead letters as they could have been."""
    simulate(log, SimulationSettings(events=events, items=150, shoppers=shoppers, days=days, sampled=0.2))
    loop = Loop(
        log, blobs, ONLINE.shard, make=online(items_max=512, shoppers_max=500),
        judge=Judges({"next_item": next_item_judge(blobs, fixed=1.0)}),
        settings=LoopSettings(commit_interval_s=0.05, idle_wait_s=0.0),
    )  # fmt: skip
    loop.run(lambda: loop.fold.events >= events)
    loop.close()
    appender = log.appender()
    for one in ROUNDS:
        appender.append(one.record())
    alarm = {"detector": "price", "events": 3_800, "time_ms": 5, "score": 0.3, "threshold": 0.2}
    appender.append(Outgoing("alarms", b"price", msgspec.json.encode(alarm), 0))
    appender.append(Outgoing("alarms", b"flood", b'{"detector": "flood", "id": "flood/1", "detail": "bad"}', 0))
    for number in range(3):
        letter = DeadLetter(f"events/0/{number}", "not_json", "JSON is malformed", 5, b"ann", b"{", 1)
        appender.append(Outgoing("dead-letters", letter.id.encode(), msgspec.json.encode(letter), 0))
    appender.close()
