"""The rule of succession: which records of `models` change the champion, whatever was heard when."""

from pathlib import Path
from typing import Any

import pytest

from headrace.announcement import Announcement, announced
from headrace.artifacts import Artifacts
from headrace.log.protocol import Record
from headrace.shard.blobs import Blobs
from learners.rounds.evidence import Began
from learners.rounds.evidence import decode as as_evidence
from learners.succession import Succession, is_request, is_verdict
from tests.shards import JUDGED, RoundsFold, next_item, online, rounds_judge
from tests.stages import RULES, learn_views


def one(kind: Any, blob: str = "model-aa", *, id: str = "finetune/1", **more: Any) -> Announcement:
    return Announcement(id=id, kind=kind, round=1, at_events=0, time_ms=0, version=blob, blob=blob, **more)


def champion_after(*announcements: Announcement | None) -> str:
    succession, champion = Succession(), ""
    for position, found in enumerate(announcements):
        if found and succession.hear(found, position):
            champion = found.blob
    return champion


def test_verdicts_are_the_fine_tuners_and_requests_are_not() -> None:
    for kind in ("promoted", "rolled_back"):
        assert is_verdict(one(kind))
        assert not is_request(one(kind))
        assert not is_verdict(one(kind, id="operator/1"))
    for kind in ("schedule", "proposed", "candidate", "refused", "failed", "requested"):
        assert not is_verdict(one(kind))
        assert not is_request(one(kind))
    assert not is_request(one("promoted", id="operator/1")), "nobody else promotes by a verdict"
    assert is_request(one("rolled_back", id="operator/1")), "the form of 0.3.0"
    assert is_request(one("requested", id="operator/1", action="promote"))
    assert is_request(one("requested", "", id="operator/1", action="roll_back"))
    assert not is_request(one("requested", "", id="operator/1", action="promote")), "nothing cannot be promoted"
    assert not is_request(one("requested", id="operator/1"))


def request(blob: str) -> Announcement:
    return one("requested", blob, id="operator/1", action="promote" if blob else "roll_back")


def test_a_verdict_that_did_not_know_of_a_request_is_void() -> None:
    asked = request("model-bb")
    assert champion_after(asked, one("promoted", heard=0)) == "model-bb"
    assert champion_after(asked, one("promoted", heard=1)) == "model-aa"
    assert champion_after(one("promoted", heard=0), asked) == "model-bb"
    assert champion_after(asked, one("rolled_back", "", heard=0)) == "model-bb"
    assert champion_after(asked, None, one("promoted", heard=1)) == "model-aa"
    assert champion_after(asked, request(""), one("promoted", heard=1)) == "", "it knew of one request, not of both"


def test_verdicts_of_releases_before_requests_count_where_they_stand() -> None:
    back = one("rolled_back", "model-bb", id="op/1")
    assert champion_after(back, one("promoted")) == "model-aa"
    assert champion_after(one("promoted"), back) == "model-bb"


def test_a_request_survives_the_wire_and_an_older_record_has_its_defaults() -> None:
    asked = one("requested", id="operator/1", action="promote", by="ann", reason="why", heard=3)
    sent = asked.record()
    assert announced(Record(0, 0, 0, sent.key, sent.value)) == asked
    old = announced(Record(0, 0, 0, b"-", b'{"id":"finetune/1","kind":"promoted","round":1,"at_events":2,"time_ms":3}'))
    assert old
    assert (old.heard, old.action, old.by) == (None, "", "")
    assert b"heard" not in (one("candidate").record().value or b"")


@pytest.mark.parametrize("blob", ["model-" + "0" * 64, "model", "."])
def test_a_request_for_a_blob_that_is_no_model_is_obeyed_and_breaks_nothing(blob: str, tmp_path: Path) -> None:
    fold, shop = RoundsFold(RULES), online()(None)
    sent = request(blob).record()
    for hear in (fold.hear, shop.hear):
        assert hear("models", Record(0, 7, 0, sent.key, sent.value)) is None
    assert fold.champion == next_item(shop).champion == request(blob)
    told: list[str] = []
    models: Artifacts[Any] = Artifacts(Blobs(tmp_path), JUDGED, lambda event, **_: told.append(event))
    assert models.get(blob) is None
    assert told == ["artifact is missing, trying again"]
    learn_views(fold, 200, trainer=(trainer := rounds_judge(Blobs(tmp_path), RULES)))
    judged = map(as_evidence, trainer.judge(fold.family, 0))
    (began,) = [one for one in judged if isinstance(one, Began)]  # beside comparisons: the model is watched
    assert began.parent_blob == "", "the next round starts without it"
    assert fold.again().succession.state() == fold.succession.state() == {"heard": 8, "obeyed": 7}


@pytest.mark.parametrize("blob", ["../model", "model-\x00", "m" * 5_000])
def test_a_request_whose_blob_cannot_be_a_file_s_name_is_no_announcement(blob: str) -> None:
    fold, shop = RoundsFold(RULES), online()(None)
    sent = request(blob).record()
    for hear in (fold.hear, shop.hear):
        assert hear("models", Record(0, 7, 0, sent.key, sent.value)) is not None
    assert fold.champion is next_item(shop).champion is None
