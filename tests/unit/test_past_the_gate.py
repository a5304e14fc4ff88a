"""Requests to the fine-tuner: a candidate is withdrawn from the gate, a model is promoted past it and watched."""

import msgspec
import pytest

from headrace.announcement import Action, Announcement
from headrace.log.protocol import Record
from headrace.state import digest
from headrace.topics import MODELS
from learners.rounds.evidence import Began
from learners.rounds.evidence import encode as as_judgement
from tests.shards import RoundsFold
from tests.stages import announcements, compared, decided, learn_views, promoted, trained


def ask(fold: RoundsFold, action: Action, version: str, blob: str = "") -> None:
    one = Announcement(
        id="operator/1", kind="requested", action=action, round=0, at_events=0, time_ms=0, version=version, blob=blob,
        reason="returns rose",
    )  # fmt: skip
    record = Record(0, 50, 0, b"-", msgspec.json.encode(one))
    assert fold.hear(MODELS, record) is None


@pytest.fixture
def fold() -> RoundsFold:
    """Return a fold with a champion, and a candidate in the gate."""
    made = promoted()
    learn_views(made, 90)
    trained(made, "model-bb")
    assert [one.version for one in announcements(made)][-1] == "r0002-bb"
    return made


def test_a_candidate_is_withdrawn(fold: RoundsFold) -> None:
    ask(fold, "withdraw", "r0002-bb")
    (refusal,) = announcements(fold)
    assert (refusal.kind, refusal.version, refusal.reason) == ("refused", "r0002-bb", "withdrawn: returns rose")
    assert fold.candidate is None
    assert fold.champion.version == "r0001-aaaaaaaa"
    compared(fold, champion=0.4, nothing=0.3)  # judged before the judge knew
    assert announcements(fold) == []
    learn_views(fold, 100)
    assert fold.due == "volume", "the next round comes as after every verdict"


def test_a_withdrawal_leaves_a_round_that_trains_and_a_verdict_that_was_given(fold: RoundsFold) -> None:
    decided(fold, 0.1, champion=0.5)
    assert announcements(fold)[-1].kind == "refused"
    learn_views(fold, 100)
    fold.absorb(as_judgement(Began("volume")))
    assert fold.training
    state = digest(fold.state()["families"]["rounds"]["training_set"])
    ask(fold, "withdraw", "r0002-bb")
    assert announcements(fold) == []
    assert fold.training
    assert digest(fold.state()["families"]["rounds"]["training_set"]) == state
    trained(fold, "model-cc")
    assert announcements(fold)[-1].kind == "candidate"


def test_a_model_that_is_promoted_past_the_gate_is_watched(fold: RoundsFold) -> None:
    ask(fold, "promote", "r0002-bb", "model-bb")
    (refusal,) = announcements(fold)
    assert (refusal.kind, refusal.reason) == ("refused", "promoted by a request")
    assert fold.candidate is None
    assert (fold.champion.blob, fold.predecessor.version) == ("model-bb", "r0001-aaaaaaaa")
    assert digest(fold.again().state()) == digest(fold.state())
    compared(fold, champion=0.1, predecessor=0.5, nothing=0.1)
    (back,) = announcements(fold)
    assert (back.kind, back.version) == ("rolled_back", "r0001-aaaaaaaa")
