"""Whatever is announced in `models`, and nonsense in between: every fold has the champion that the rule says."""

from typing import get_args

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from headrace.announcement import Announcement, Kind, announced
from headrace.log.protocol import Outgoing, Record
from headrace.state import decode, digest, encode
from headrace.topics import MODELS
from learners.shop import Shop
from tests.property.test_succession import BLOBS, World
from tests.shards import next_item, online

make = online(items_max=8, shoppers_max=4)
IDS = st.sampled_from(["finetune/1", "finetune/2", "operator/1", "ann", ""])
COUNTS = st.integers(0, 60)
NOISE = st.sampled_from([b"", b"{", b"null", b"[]", b'{"id": 1}', b'{"id":"x","kind":"promoted"}', b"\xff"])
ANNOUNCEMENTS = st.builds(
    Announcement, id=IDS, kind=st.sampled_from(get_args(Kind)), round=COUNTS, at_events=COUNTS, time_ms=COUNTS,
    version=st.sampled_from(["", "model-1"]), blob=st.sampled_from(["", *BLOBS]), heard=st.none() | COUNTS,
    action=st.sampled_from(["", "promote", "roll_back"]), due_events=st.none() | COUNTS,
)  # fmt: skip

CUT = st.builds(lambda one, length: msgspec.json.encode(one)[:length], ANNOUNCEMENTS, COUNTS)


def champion_by_rule(records: list[Record]) -> str:
    """Return the champion's blob after these records, "" if there is none: docs/decisions/0016, written once more."""
    blob, asked = "", -1
    for record in records:
        one = announced(record)
        if one is None:
            continue
        ours = one.id.startswith("finetune/")
        asks = not ours and (
            one.kind == "rolled_back"
            or (one.kind == "requested" and (one.action == "roll_back" or (one.action == "promote" and one.blob != "")))
        )
        decides = ours and one.kind in ("promoted", "rolled_back") and (one.heard is None or one.heard > asked)
        if asks or decides:
            blob = one.blob
        if asks:
            asked = record.offset
    return blob


class RegistryMachine(RuleBasedStateMachine):
    """The topic `models`, a fine-tuner that decides, and followers that hear early, late or after a restart."""

    @initialize()
    def begin(self) -> None:
        self.world = World()
        self.early, self.heard_early = make(), 0
        self.late, self.heard_late = make(), 0

    @rule(which=st.sampled_from(["", *BLOBS]), form=st.sampled_from(["request", "old request"]))
    def request(self, which: str, form: str) -> None:
        self.world.act(form, which)

    @rule(blob=st.sampled_from(BLOBS))
    def promote(self, blob: str) -> None:
        self.world.act("promote", blob)

    @rule()
    def roll_back(self) -> None:
        self.world.act("roll back", "")

    @rule()
    def commit(self) -> None:
        self.world.commit()

    @rule(count=st.integers(1, 5))
    def the_fine_tuner_hears(self, count: int) -> None:
        self.world.act("hear", count)

    @rule(announcement=ANNOUNCEMENTS)
    def announce_anything(self, announcement: Announcement) -> None:
        self.world.append(announcement.record())

    @rule(value=NOISE | CUT)
    def noise(self, value: bytes) -> None:
        self.world.append(Outgoing(MODELS, b"-", value, 0))

    @rule(count=st.integers(1, 5))
    def the_late_one_hears(self, count: int) -> None:
        for record in self.world.records[self.heard_late :][:count]:
            self.late.hear(MODELS, record)
            self.heard_late += 1

    @precondition(lambda self: self.heard_late)
    @rule()
    def the_late_one_restarts(self) -> None:
        before = digest(self.late.state())
        self.late = make(decode(encode(self.late.state())), self.late.stamp)
        assert digest(self.late.state()) == before

    @invariant()
    def everybody_has_the_champion_of_the_rule(self) -> None:
        records = self.world.records
        for record in records[self.heard_early :]:
            self.early.hear(MODELS, record)
        self.heard_early = len(records)
        assert champion_of(self.early) == champion_by_rule(records)
        assert champion_of(self.late) == champion_by_rule(records[: self.heard_late])

    def teardown(self) -> None:
        self.the_late_one_hears(len(self.world.records))
        assert digest(self.late.state()) == digest(self.early.state())


def champion_of(shop: Shop) -> str:
    """Return the blob of a fold's champion, "" if it has none."""
    champion = next_item(shop).champion
    assert champion is None or champion.blob
    return champion.blob if champion else ""


def test_every_fold_has_the_champion_of_the_rule() -> None:
    run_state_machine_as_test(RegistryMachine, settings=settings(max_examples=15, stateful_step_count=25))
