"""Rounds: when one is due, what becomes of a candidate, and what is announced. Torch is played by its answers."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from headrace.events import Data, Event, Item, at
from headrace.log import Outgoing, Record
from headrace.state import decode, digest, encode
from headrace.topics import ALARMS
from learners import gain
from learners.announcement import Announcement
from learners.browsing import KINDS
from learners.contest import NOTHING
from learners.evidence import Compared, Trained
from learners.evidence import encode as as_judgement
from learners.rehearsal import sequence_items_max
from learners.rounds import Rounds, RoundSettings
from tests.stages import RULES, START_MS, alarm, compared, decided, promoted, said, shop, started, trained

PRICED = replace(RULES, gain_hits=20.0)


def test_a_round_is_due_by_volume() -> None:
    fold = started()
    shop(fold, 99)
    assert fold.due == ""
    shop(fold, 1)
    assert fold.due == "start"
    trained(fold)
    (candidate,) = said(fold)
    assert (candidate.kind, candidate.round, candidate.at_events, candidate.due_events) == ("candidate", 1, 100, 150)
    assert candidate.version == "r0001-aaaaaaaa"
    assert fold.due == ""


def test_no_round_while_a_candidate_is_in_the_gate() -> None:
    fold = started()
    shop(fold, 100)
    trained(fold)
    shop(fold, 49)
    assert (fold.due, fold.comparing) == ("", True)
    assert said(fold)[0].kind == "candidate"


def test_a_round_is_due_by_event_time() -> None:
    fold = Rounds(RoundSettings(round_events=10_000, round_ms=50_000))
    shop(fold, 40)
    assert fold.due == ""
    shop(fold, 20)
    assert fold.due == "time"


def test_a_late_event_does_not_set_the_clock_of_rounds_back() -> None:
    fold = Rounds(RoundSettings(round_events=10_000, round_ms=50_000))
    shop(fold, 60)
    late_ms = START_MS - 300 * 86_400_000
    late = Event("late", "test", "view_item", at(late_ms), Data([Item("item-1")]), "1.0", "late", late_ms)
    fold.learn(late, 0, fold.seen)
    trained(fold, reasons=("unfit",))
    shop(fold, 20)
    assert fold.due == "", "the next round is due 50 s after the newest event of the last one"
    shop(fold, 40)
    assert fold.due == "time"


@pytest.mark.parametrize(
    ("seen", "key", "due"), [(38, b"price", ""), (39, b"price", "drift"), (60, b"price", "drift"), (60, b"flood", "")]
)
def test_a_round_is_due_by_drift_but_not_right_after_another(seen: int, key: bytes, due: str) -> None:
    fold = started()
    shop(fold, seen)
    fold.hear("alarms", alarm(key))
    shop(fold, 1)
    assert fold.due == due


def test_drift_that_is_noticed_right_after_a_round_asks_for_one_as_soon_as_it_may() -> None:
    fold = promoted()  # trained at event 100
    fold.hear("alarms", alarm())
    shop(fold, 29)
    assert fold.due == ""
    shop(fold, 1)
    assert fold.due == "drift"
    trained(fold, "model-bb")
    decided(fold, 0.1, champion=0.5)
    assert fold.broken
    shop(fold, 60)
    assert fold.due == ""  # that round saw it


def test_drift_that_is_noticed_while_a_candidate_is_in_the_gate_asks_for_a_round_after_its_verdict() -> None:
    fold = promoted()
    shop(fold, 90)
    trained(fold, "model-bb")
    shop(fold, 10)
    fold.hear("alarms", alarm())
    shop(fold, 35)
    assert fold.due == ""
    decided(fold, 0.1, champion=0.5)
    shop(fold, 1)
    assert fold.due == "drift"


def behind(fold: Rounds, count: int, champion: float = 0.0, fresh: float = 0.5) -> None:
    """Let the fold hear at which reciprocal rank the champion alone and the fast learners had the item."""
    compared(fold, champion=0.4, nothing=0.1, alone=champion, fast=fresh, count=count)


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> Rounds:
    """A fold with a champion that is usually as good as session-kNN, and a price for what it loses."""
    monkeypatch.setattr(gain, "settle", 50)
    fold = promoted(PRICED)
    behind(fold, 50, champion=0.5)
    return fold


def test_a_round_is_due_by_the_hits_that_the_champion_lost(priced: Rounds) -> None:
    behind(priced, 1_000, champion=0.5)
    behind(priced, 1_000, champion=0.0, fresh=0.0)
    behind(priced, 19)
    assert priced.due == ""
    behind(priced, 1)
    assert priced.due == "gain"
    trained(priced, "model-bb")
    assert [(one.kind, one.trigger) for one in said(priced)] == [("candidate", "gain")]


def test_no_round_is_due_by_what_was_lost_while_a_candidate_is_in_the_gate_or_before(priced: Rounds) -> None:
    behind(priced, 20)
    trained(priced, "model-bb")
    behind(priced, 19)
    assert priced.candidate
    decided(priced, 0.1, champion=0.6)
    behind(priced, 1, champion=0.5)
    assert priced.due == ""
    behind(priced, 1)
    assert priced.due == "gain"  # it was refused: the champion goes on losing


def test_a_new_champion_has_lost_nothing(priced: Rounds) -> None:
    behind(priced, 20)
    trained(priced, "model-bb")
    decided(priced, 0.6, champion=0.2)
    behind(priced, 50)  # now half of that is usual: the mean of 0, then, and 1
    behind(priced, 39)
    assert priced.due == ""
    behind(priced, 1)
    assert priced.due == "gain"


def test_without_a_champion_a_fresh_learner_or_a_price_nothing_is_lost(priced: Rounds) -> None:
    lists = {NOTHING: [0.1] * 99, "model-aaaaaaaa11": [0.4] * 99}
    priced.absorb(as_judgement(Compared(lists, {"model-aaaaaaaa11": [0.0] * 99, "transitions": [0.5] * 99})))
    assert priced.due == ""
    fold = started(PRICED)
    shop(fold, 30)
    assert not fold.comparing
    behind(fold, 1_000)
    assert fold.due == ""
    fold = promoted()
    behind(fold, 50, champion=0.5)
    behind(fold, 1_000)
    assert fold.due == ""


def test_a_champion_with_a_price_is_always_compared(priced: Rounds) -> None:
    said(priced)
    shop(priced, 60)
    said(priced)
    assert not priced._watch
    assert priced.comparing


def test_a_better_candidate_is_promoted_with_its_evidence() -> None:
    fold = started()
    shop(fold, 100)
    trained(fold)
    shop(fold, 10)
    compared(fold, 0.5, nothing=0.1)
    _, promotion = said(fold)
    assert (promotion.kind, promotion.reason, promotion.at_events) == ("promoted", "better", 110)
    assert promotion.due_events == 200  # the next round: a hundred after the last one began
    assert promotion.evidence["wealth"] >= 20
    assert promotion.evidence["worth"] == pytest.approx({"candidate": 0.5, NOTHING: 0.1})
    assert promotion.evidence["alone"] == pytest.approx({"candidate": 0.6, **dict.fromkeys(KINDS, 0.2)})
    assert fold.champion == promotion
    assert fold.ends["promoted"] == 1


def test_a_first_candidate_that_the_blend_is_better_without_is_refused() -> None:
    fold = started()
    shop(fold, 100)
    trained(fold)
    compared(fold, 0.3, nothing=0.6, alone=0.9)
    assert (said(fold)[-1].kind, fold.champion, fold.comparing) == ("refused", None, False)


def test_a_candidate_that_is_absurd_alone_is_refused_though_the_blend_gains() -> None:
    fold = started()
    shop(fold, 100)
    trained(fold)
    compared(fold, 0.5, nothing=0.1, alone=0.1, fast=0.6)
    refusal = said(fold)[-1]
    assert (refusal.kind, refusal.reason) == ("refused", "weak")


def test_it_takes_both_proofs() -> None:
    fold = started()
    shop(fold, 100)
    trained(fold)
    compared(fold, 0.5, nothing=0.1, alone=0.30, fast=0.60)  # just half: no proof in either direction
    assert [one.kind for one in said(fold)] == ["candidate"]
    compared(fold, 0.5, nothing=0.1, alone=0.60, fast=0.60)
    assert [one.kind for one in said(fold)] == ["promoted"]


def test_a_candidate_that_beats_a_bad_champion_alone_is_not_enough() -> None:
    """It must also beat what the blend is without any: else a champion once good lets ever worse ones in."""
    fold = promoted()
    shop(fold, 90)
    trained(fold, "model-bb")
    compared(fold, 0.3, champion=0.1, nothing=0.6, count=40)
    candidate, back, refusal = said(fold)
    assert [candidate.kind, back.kind, refusal.kind] == ["candidate", "rolled_back", "refused"]
    assert (back.version, back.blob) == ("", "")
    assert back.reason == "the blend does better without r0001-aaaaaaaa"
    assert fold.champion is None


def test_a_candidate_that_beats_nothing_but_not_the_champion_is_refused() -> None:
    fold = promoted()
    shop(fold, 90)
    trained(fold, "model-bb")
    compared(fold, 0.5, champion=0.6, nothing=0.1, count=2_000)
    assert [one.kind for one in said(fold)] == ["candidate", "refused"]
    assert fold.champion is not None


def test_a_champion_that_drift_has_aged_goes_though_its_challenger_is_no_better() -> None:
    fold = promoted()
    shop(fold, 60)
    assert said(fold) == []
    assert not fold.comparing, "its probation is over"
    shop(fold, 30)
    trained(fold, "model-bb")
    assert fold.comparing
    compared(fold, 0.45, champion=0.1, nothing=0.5, count=35)  # the candidate's trial has no verdict yet
    assert [one.kind for one in said(fold)] == ["candidate", "rolled_back"]
    assert fold.champion is None
    assert fold.ends["rolled_back"] == 1
    assert "model-aaaaaaaa11" in fold.kept_blobs(), "an operator may propose it again"
    compared(fold, 0.9, nothing=0.2, count=100)  # from now on it faces nothing else
    assert [one.kind for one in said(fold)] == ["promoted"]
    assert fold.predecessor is None


def test_a_first_champion_that_does_worse_live_leaves_the_blend_without_one() -> None:
    fold = promoted()
    assert fold.comparing
    compared(fold, champion=0.1, nothing=0.5)
    (back,) = said(fold)
    assert (back.kind, back.version, back.blob) == ("rolled_back", "", "")
    assert (fold.champion, fold.comparing) == (None, False)
    shop(fold, 90)
    assert fold.due == "volume", "rounds go on"


def test_a_worse_candidate_is_refused() -> None:
    fold = promoted()
    shop(fold, 90)
    assert fold.due == "volume"
    trained(fold, "model-bb")
    compared(fold, 0.1, champion=0.4)
    _, refusal = said(fold)
    assert (refusal.kind, refusal.reason, refusal.version) == ("refused", "worse", "r0002-bb")
    assert fold.champion is not None
    assert fold.champion.version == "r0001-aaaaaaaa"


def test_without_a_verdict_in_time_it_is_refused() -> None:
    fold = started()
    shop(fold, 100)
    trained(fold)
    compared(fold, 0.30, nothing=0.30, count=20)
    shop(fold, 49)
    assert [one.kind for one in said(fold)] == ["candidate"]
    shop(fold, 1)
    (refusal,) = said(fold)
    assert (refusal.kind, refusal.reason, refusal.at_events, refusal.due_events) == ("refused", "undecided", 150, 200)


def test_an_unfit_candidate_never_gets_into_the_gate() -> None:
    fold = started()
    shop(fold, 100)
    trained(fold, reasons=("weights that are not finite",))
    (refusal,) = said(fold)
    assert (refusal.kind, refusal.reason, fold.candidate) == ("refused", "weights that are not finite", None)


def test_training_that_made_nothing_has_failed() -> None:
    fold = started()
    shop(fold, 100)
    trained(fold, blob="", reasons=("no sequence",))
    (failure,) = said(fold)
    assert (failure.kind, failure.due_events, fold.due) == ("failed", 200, "")
    shop(fold, 100)
    assert fold.due == "volume"


def test_a_candidate_that_forgot_is_refused() -> None:
    fold = promoted()
    shop(fold, 90)
    trained(fold, "model-bb", retention=(([0.5] * 100, [0.5] * 100), ([0.5] * 100, [0.3] * 100)))
    (refusal,) = said(fold)
    assert refusal.kind == "refused"
    assert "slice 1" in refusal.reason


def second(fold: Rounds) -> None:
    shop(fold, 90)
    trained(fold, "model-bb")
    decided(fold, 0.6, champion=0.2)
    assert [one.kind for one in said(fold)] == ["candidate", "promoted"]


def test_a_champion_that_does_worse_live_is_rolled_back() -> None:
    fold = promoted()
    second(fold)
    assert fold.predecessor is not None
    assert fold.champion is not None
    compared(fold, champion=0.1, predecessor=0.5, nothing=0.1)
    (back,) = said(fold)
    assert (back.kind, back.version, back.blob) == ("rolled_back", "r0001-aaaaaaaa", "model-aaaaaaaa11")
    assert fold.champion == back
    assert fold.predecessor is None
    assert fold.ends["rolled_back"] == 1


def test_a_champion_that_keeps_its_place_loses_its_predecessor() -> None:
    fold = promoted()
    second(fold)
    assert fold.comparing
    assert fold.kept_blobs() == {"model-aaaaaaaa11", "model-bb"}
    shop(fold, 50)
    assert said(fold) == []
    assert not fold.comparing


def test_a_proposed_model_goes_through_the_gate_too() -> None:
    fold = promoted()
    proposal = Announcement(
        id="op/1", kind="proposed", round=0, at_events=0, due_events=0, time_ms=0, version="mine", blob="model-cc"
    )
    fold.hear("models", as_record(proposal.record()))
    assert fold.proposed == proposal
    assert "model-cc" in fold.kept_blobs()
    trained(fold, "model-cc", trigger="proposed")
    compared(fold, 0.0, champion=0.4)
    assert [one.kind for one in said(fold)] == ["candidate", "refused"]
    assert fold.proposed is None
    assert fold.due == ""


@pytest.mark.parametrize("gate_events_max", [20, 50, 5_000])
def test_folded_anew_under_another_setting_verdicts_are_those_that_were_given(gate_events_max: int) -> None:
    """The journal is folded anew when a setting changes: what was decided then must be decided again."""
    live, again = Rounds(RULES), Rounds(replace(RULES, gate_events_max=gate_events_max))

    def both(step: Callable[[Rounds], None]) -> None:
        for fold in (live, again):
            step(fold)

    def ended(fold: Rounds) -> None:
        fold.emit()

    def take(blob: str) -> None:
        words = as_judgement(Trained(blob, live.due or "volume", [], [], {}, RULES.gate_events_max))
        both(lambda fold: fold.absorb(words))

    def compare(**worths: float) -> None:
        standing = [one.blob for one in (live.candidate, live.champion, live.predecessor) if one]
        scores = {NOTHING: 0.1, **{blob: worths.get(blob.partition("-")[2], 0.0) for blob in standing}}
        alone = {**dict.fromkeys(KINDS, [0.2] * 60), **dict.fromkeys(standing, [0.6] * 60)}
        words = as_judgement(Compared({name: [score] * 60 for name, score in scores.items()}, alone))
        both(lambda fold: fold.absorb(words))

    both(lambda fold: shop(fold, 100))
    take("model-a")
    both(lambda fold: shop(fold, 30))
    compare(a=0.5)
    both(lambda fold: shop(fold, 100))
    take("model-b")
    both(lambda fold: shop(fold, 30))
    compare(a=0.4, b=0.8)
    both(lambda fold: shop(fold, 60))
    both(ended)
    take("model-c")
    both(lambda fold: shop(fold, 30))
    compare(b=0.8, c=0.8)
    both(lambda fold: shop(fold, 30))
    both(ended)
    assert live.champion is not None
    assert again.champion is not None
    assert (live.champion.blob, again.champion.blob) == ("model-b", "model-b")
    assert (live.candidate, live.ends) == (again.candidate, again.ends)
    assert live.ends == {"promoted": 2, "refused": 1, "failed": 0, "rolled_back": 0}


def test_drift_is_remembered_until_a_model_that_was_trained_after_it_is_promoted() -> None:
    fold = promoted()
    shop(fold, 90)
    assert (fold.due, fold.broken) == ("volume", False)
    trained(fold, "model-bb")
    shop(fold, 10)
    fold.hear(ALARMS, alarm())  # with a candidate in the gate: no round is due, but this one's training did not see it
    assert (fold.due, fold.broken) == ("", True)
    decided(fold, 0.8, champion=0.3)
    assert fold.champion is not None
    assert (fold.champion.blob, fold.broken) == ("model-bb", True)
    shop(fold, 100)
    trained(fold, "model-cc")
    shop(fold, 10)
    again = Rounds.from_state(decode(encode(fold.state())))
    assert again.broken
    decided(fold, 0.8, champion=0.3)
    assert (fold.champion.blob, fold.broken) == ("model-cc", False)


def test_what_the_log_lost_before_the_first_event_was_not_seen() -> None:
    fold = started()
    for number, (partition, offset) in enumerate([(0, 5_000_000), (0, 5_000_001), (1, 7_000_000), (2, 3)]):
        event = Event(f"e{number}", "test", "view_item", at(START_MS), Data([Item("i")]), "1.0", "ann", START_MS)
        fold.learn(event, partition, offset)
    assert fold.seen == 2 + 1 + 4, "bad ones at a log's beginning count"
    assert fold.due == ""
    assert Rounds.from_state(decode(encode(fold.state()))).seen == fold.seen


def test_a_session_without_end_keeps_its_newest_items() -> None:
    fold = Rounds(replace(RULES, holdout_share=0.0, round_events=10_000))
    for number in range(1_000):
        event = Event(
            f"e{number}", "t", "view_item", at(START_MS), Data([Item(f"i{number % 7}")]), "1.0", "x", START_MS
        )
        fold.learn(event, 0, number)
    assert [len(sequence) for sequence in fold.material.window()] == [sequence_items_max]


def test_all_lines_of_a_long_invoice_are_trained_on() -> None:
    fold = Rounds(replace(RULES, holdout_share=0.0))
    names = [f"i{number}" for number in range(120)]
    invoice = Data([Item(name) for name in names], transaction_id="T-1", value=1.0)
    fold.learn(Event("e", "t", "purchase", at(START_MS), invoice, "1.0", "x", START_MS), 0, 0)
    assert fold.material.window() == [names]


def test_a_second_proposal_is_refused_while_one_waits() -> None:
    fold = promoted()
    for name in ("mine", "yours"):
        proposal = Announcement(
            id=f"op/{name}", kind="proposed", round=0, at_events=0, time_ms=0, version=name, blob=f"model-{name}"
        )
        fold.hear("models", as_record(proposal.record()))
    assert fold.proposed is not None
    assert fold.proposed.version == "mine"
    (answer,) = said(fold)
    assert (answer.kind, answer.version, answer.blob) == ("refused", "yours", "model-yours")
    assert "mine was proposed before" in answer.reason


def as_record(one: Outgoing) -> Record:
    return Record(0, 0, 0, one.key, one.value)


def test_its_own_words_and_noise_change_nothing() -> None:
    fold = promoted()
    before = digest(fold.state())
    assert fold.champion is not None
    fold.hear("models", as_record(fold.champion.record()))
    fold.hear("models", Record(0, 0, 0, b"-", b"noise"))
    for value in (None, b"noise", b"{}", b'{"detector": 5}'):
        fold.hear(ALARMS, Record(0, 0, 0, b"price", value))
    assert digest(fold.state()) == before


def test_an_operator_may_roll_back() -> None:
    fold = promoted()
    second(fold)
    word = Announcement(
        id="op/2",
        kind="rolled_back",
        round=0,
        at_events=0,
        due_events=0,
        time_ms=0,
        version="r0001",
        blob="model-aaaaaaaa11",
    )
    fold.hear("models", as_record(word.record()))
    assert fold.champion == word
    assert fold.predecessor is None
    assert fold.kept_blobs() == {"model-aaaaaaaa11", "model-bb"}  # the one that he left may be wanted back


def test_a_champion_that_was_not_asked_adds_nothing_and_takes_nothing() -> None:
    fold = promoted()
    alone = {name: [0.2] * 200 for name in KINDS}
    fold.absorb(as_judgement(Compared({NOTHING: [0.9] * 200}, alone)))
    assert said(fold) == []
    assert fold.champion


def test_shoppers_of_the_holdout_are_never_trained_on() -> None:
    fold = started()
    shop(fold, 2_000)
    held = [name for name in (f"shopper-{n}" for n in range(40)) if fold.material.held_out(name)]
    assert 0 < len(held) < 20
    assert not set(held) & set(fold.material._open)
    trained(fold)
    assert sum(map(len, fold.material.slices)) > 0


def test_steps_are_trained_on_once() -> None:
    fold = Rounds(RoundSettings(round_events=100, holdout_share=0.0))
    shop(fold, 100)
    first = sum(len(items) - 1 for items in fold.material.window())
    trained(fold)
    assert sum(len(items) - 1 for items in fold.material.window()) == 0
    shop(fold, 100)
    assert 0 < first <= 100
    assert 0 < sum(len(items) - 1 for items in fold.material.window()) <= 100


STAGES: dict[str, Callable[[], Rounds]] = {
    "fresh": started, "champion": promoted, "priced": lambda: promoted(PRICED)
}  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_state_survives_the_wire_and_continues(stage: str) -> None:
    fold = STAGES[stage]()
    shop(fold, 90)
    again = Rounds.from_state(decode(encode(fold.state())))
    for one in (fold, again):
        shop(one, 20)
        trained(one, "model-bb")
        shop(one, 5)
        compared(one, 0.6, champion=0.2, nothing=0.1, count=7)
    assert said(again) == said(fold) != []
    again = Rounds.from_state(decode(encode(again.state())))  # in the middle of a trial
    for one in (fold, again):
        compared(one, 0.6, champion=0.2, nothing=0.1, count=20)
        shop(one, 30)
    assert said(again) == said(fold) != []
    assert digest(again.state()) == digest(fold.state())
    third = Rounds.from_state(decode(encode(fold.state())))  # in the middle of a probation
    for one in (fold, third):
        shop(one, 10)
        one.emit()
    assert fold.predecessor or stage == "fresh"
    assert digest(third.state()) == digest(fold.state())
