"""Whatever is requested and decided in whatever order, and heard however late: all folds have the same champion."""

from typing import Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.announcement import Announcement
from headrace.log.protocol import Outgoing, Record
from learners.next_item.family import NextItemFamily
from learners.rounds.family import Rounds
from learners.shop import Shop
from tests.shards import FINETUNE, ONLINE, next_item, rounds
from tests.stages import RULES

BLOBS = ("model-a", "model-b", "model-c")

# What happens: a request for a model or for none, a request in the form of 0.3.0, a record that is neither, the
# fine-tuner hears some records, decides to promote or to roll back, or commits what it decided.
STEPS = st.one_of(
    st.tuples(st.just("request"), st.sampled_from(("", *BLOBS))),
    st.tuples(st.just("old request"), st.sampled_from(("", *BLOBS))),
    st.tuples(st.just("noise"), st.sampled_from(("promoted by somebody", "proposed", "unreadable"))),
    st.tuples(st.just("hear"), st.integers(0, 9)),
    st.tuples(st.just("promote"), st.sampled_from(BLOBS)),
    st.tuples(st.just("roll back"), st.just("")),
    st.tuples(st.just("commit"), st.just("")),
)


class World:
    """The topic `models`, the fine-tuner that hears it late, and what it has decided and not yet committed."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.shop = Shop(FINETUNE.kinds, {"rounds": RULES})
        self.tuner: Rounds = rounds(self.shop)
        self.heard = 0
        self.asked = 0
        self.commit()

    def append(self, one: Outgoing) -> None:
        self.records.append(Record(0, 2 * len(self.records), 0, one.key, one.value))  # positions have gaps

    def act(self, what: str, which: Any) -> None:
        if what in ("request", "old request", "noise"):
            self.asked += 1
            self.append(self.asked_for(what, which))
        elif what == "hear":
            for record in self.records[self.heard : self.heard + which]:
                self.shop.hear("models", record)
            self.heard = min(len(self.records), self.heard + which)
        elif what == "commit":
            self.commit()
        else:
            self.decide(what, which)

    def asked_for(self, what: str, which: str) -> Outgoing:
        head: dict[str, Any] = {"id": f"operator/{self.asked}", "round": 0, "at_events": 0, "time_ms": 0}
        if what == "request":
            action: Literal["promote", "roll_back"] = "promote" if which else "roll_back"
            return Announcement(**head, kind="requested", action=action, version=which, blob=which).record()
        if what == "old request":
            return Announcement(**head, kind="rolled_back", version=which, blob=which).record()
        if which == "unreadable":
            return Outgoing("models", b"-", b"{", 0)
        kind: Any = which.split()[0]
        return Announcement(**head, kind=kind, version="m", blob="model-m").record()

    def decide(self, what: str, blob: str) -> None:
        """Decide as the gate and the watch do, without their evidence."""
        if what == "promote":
            verdict = self.tuner._announce("promoted", due=0, name=blob, blob=blob)
            self.tuner.lineup.promote(verdict)
        else:
            self.tuner._return_to(self.tuner._announce("rolled_back", due=0))

    def commit(self) -> None:
        for one in self.shop.emit():
            self.append(one)


def follower() -> NextItemFamily:
    return next_item(Shop(ONLINE.kinds))


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_after_the_same_records_all_folds_have_the_same_champion(steps: list[tuple[str, Any]]) -> None:
    world = World()
    for step in steps:
        world.act(*step)
    world.commit()
    world.act("hear", len(world.records))
    served = follower()
    for record in world.records:
        served.hear("models", record, Shop(()).now)
    found = [one.blob if one else "" for one in (world.tuner.lineup.champion, served.champion)]
    assert found[0] == found[1]


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_whenever_it_has_heard_all_its_verdicts_the_fine_tuner_agrees(steps: list[tuple[str, Any]]) -> None:
    world, served, position = World(), follower(), 0
    for step in steps:
        world.act(*step)
        for record in world.records[position : world.heard]:
            served.hear("models", record, Shop(()).now)
        position = max(position, world.heard)
        outstanding = world.tuner._outbox or any(
            b'"id":"finetune/' in (record.value or b"") for record in world.records[world.heard :]
        )
        if not outstanding:
            champion = world.tuner.lineup.champion
            assert (champion.blob if champion else "") == (served.champion.blob if served.champion else "")
