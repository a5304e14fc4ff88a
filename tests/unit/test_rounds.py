"""Rounds: triggers, verdicts on candidates, and announcements. The judgements that torch would make are given."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct
from msgspec.structs import replace

from headrace.announcement import Announcement
from headrace.events import Data, Event, Item, at
from headrace.experiments import Arm, Experiment, record_of
from headrace.log.protocol import Outgoing, Record
from headrace.shard.blobs import Blobs
from headrace.state import digest
from headrace.topics import ALARMS, EXPERIMENTS
from learners.next_item.members import KINDS
from learners.rounds import staleness
from learners.rounds.contest import NO_MODEL
from learners.rounds.evidence import Began, Compared, Trained
from learners.rounds.evidence import decode as as_evidence
from learners.rounds.evidence import encode as as_judgement
from learners.rounds.gate import Rule
from learners.rounds.rehearsal import sequence_items_max
from learners.rounds.retention import RetentionRule
from learners.rounds.session_gate import Visit, shopper_number
from learners.rounds.settings import RoundsSettings
from tests.shards import RoundsFold, judge_all, rounds_judge
from tests.stages import (
    RULES,
    START_MS,
    alarm,
    announcements,
    compared,
    decided,
    learn_views,
    promoted,
    started,
    trained,
)

PRICED = replace(RULES, staleness_hits=20.0)


def test_a_round_is_due_by_volume() -> None:
    fold = started()
    learn_views(fold, 99)
    assert fold.due == ""
    learn_views(fold, 1)
    assert fold.due == "start"
    trained(fold)
    (candidate,) = announcements(fold)
    assert (candidate.kind, candidate.round, candidate.at_events, candidate.due_events) == ("candidate", 1, 100, 150)
    assert candidate.version == "r0001-aaaaaaaa"
    assert fold.due == ""


def test_no_round_while_a_candidate_is_in_the_gate() -> None:
    fold = started()
    learn_views(fold, 100)
    trained(fold)
    learn_views(fold, 49)
    assert (fold.due, fold.comparing) == ("", True)
    assert announcements(fold)[0].kind == "candidate"


def test_a_round_is_due_by_event_time() -> None:
    fold = RoundsFold(RoundsSettings(round_events=10_000, round_ms=50_000))
    learn_views(fold, 40)
    assert fold.due == ""
    learn_views(fold, 20)
    assert fold.due == "time"


def test_rounds_by_time_follow_a_clock_that_was_set_back() -> None:
    fold = RoundsFold(RoundsSettings(round_events=10_000, round_ms=50_000))
    learn_views(fold, 60)
    trained(fold, reasons=("unfit",))
    back_ms = START_MS - 300 * 86_400_000
    for after_ms, due in ((0, ""), (49_000, ""), (50_000, "time")):
        now_ms = back_ms + after_ms
        view = Event(f"e{after_ms}", "test", "view_item", at(now_ms), Data([Item("item-1")]), "1.0", "ann", now_ms)
        fold.learn(view, 0, fold.seen)
        assert fold.due == due


@pytest.mark.parametrize(
    ("seen", "key", "due"), [(38, b"price", ""), (39, b"price", "drift"), (60, b"price", "drift"), (60, b"flood", "")]
)
def test_a_round_is_due_by_drift_but_not_right_after_another(seen: int, key: bytes, due: str) -> None:
    fold = started()
    learn_views(fold, seen)
    fold.hear("alarms", alarm(key))
    learn_views(fold, 1)
    assert fold.due == due


def test_drift_right_after_a_round_triggers_the_next_one_as_soon_as_possible() -> None:
    fold = promoted()  # trained at event 100
    fold.hear("alarms", alarm())
    learn_views(fold, 29)
    assert fold.due == ""
    learn_views(fold, 1)
    assert fold.due == "drift"
    trained(fold, "model-bb")
    decided(fold, 0.1, champion=0.5)
    assert fold.drifted
    learn_views(fold, 60)
    assert fold.due == ""  # that round was trained after the drift


def test_drift_during_a_trial_triggers_a_round_after_the_verdict() -> None:
    fold = promoted()
    learn_views(fold, 90)
    trained(fold, "model-bb")
    learn_views(fold, 10)
    fold.hear("alarms", alarm())
    learn_views(fold, 35)
    assert fold.due == ""
    decided(fold, 0.1, champion=0.5)
    learn_views(fold, 1)
    assert fold.due == "drift"


def behind(fold: RoundsFold, count: int, champion: float = 0.0, fresh: float = 0.5) -> None:
    """Let the fold hear at which reciprocal rank the champion alone and the fast learners had the item."""
    compared(fold, champion=0.4, nothing=0.1, alone=champion, fast=fresh, count=count)


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> RoundsFold:
    """A fold with a champion that is usually as good as session-kNN, and a price for what it loses."""
    monkeypatch.setattr(staleness, "baseline_predictions", 50)
    fold = promoted(PRICED)
    behind(fold, 50, champion=0.5)
    return fold


def test_a_round_is_due_by_the_hits_that_the_champion_lost(priced: RoundsFold) -> None:
    behind(priced, 1_000, champion=0.5)
    behind(priced, 1_000, champion=0.0, fresh=0.0)
    behind(priced, 19)
    assert priced.due == ""
    behind(priced, 1)
    assert priced.due == "gain"
    trained(priced, "model-bb")
    assert [(one.kind, one.trigger) for one in announcements(priced)] == [("candidate", "gain")]


def test_no_round_is_due_by_what_was_lost_while_a_candidate_is_in_the_gate_or_before(priced: RoundsFold) -> None:
    behind(priced, 20)
    trained(priced, "model-bb")
    behind(priced, 19)
    assert priced.candidate
    decided(priced, 0.1, champion=0.6)
    behind(priced, 1, champion=0.5)
    assert priced.due == ""
    behind(priced, 1)
    assert priced.due == "gain"  # the candidate was refused, so the champion continues to lose hits


def test_a_new_champion_has_lost_nothing(priced: RoundsFold) -> None:
    behind(priced, 20)
    trained(priced, "model-bb")
    decided(priced, 0.6, champion=0.2)
    behind(priced, 50)  # the baseline lead is now the mean of 0 and 1
    behind(priced, 39)
    assert priced.due == ""
    behind(priced, 1)
    assert priced.due == "gain"


def test_without_a_champion_a_fresh_learner_or_a_price_nothing_is_lost(priced: RoundsFold) -> None:
    lists = {NO_MODEL: [0.1] * 99, "model-aaaaaaaa11": [0.4] * 99}
    priced.absorb(as_judgement(Compared(lists, {"model-aaaaaaaa11": [0.0] * 99, "transitions": [0.5] * 99})))
    assert priced.due == ""
    fold = started(PRICED)
    learn_views(fold, 30)
    assert not fold.comparing
    behind(fold, 1_000)
    assert fold.due == ""
    fold = promoted()
    behind(fold, 50, champion=0.5)
    behind(fold, 1_000)
    assert fold.due == ""


def test_a_champion_with_a_price_is_always_compared(priced: RoundsFold) -> None:
    announcements(priced)
    learn_views(priced, 60)
    announcements(priced)
    assert not priced._watch
    assert priced.comparing


def test_a_better_candidate_is_promoted_with_its_evidence() -> None:
    fold = started()
    learn_views(fold, 100)
    trained(fold)
    learn_views(fold, 10)
    compared(fold, 0.5, nothing=0.1)
    _, promotion = announcements(fold)
    assert (promotion.kind, promotion.reason, promotion.at_events) == ("promoted", "better", 110)
    assert promotion.due_events == 200  # the next round, 100 records after the last one
    assert promotion.evidence["wealth"] >= 20
    assert promotion.evidence["worth"] == pytest.approx({"candidate": 0.5, NO_MODEL: 0.1})
    assert promotion.evidence["alone"] == pytest.approx({"candidate": 0.6, **dict.fromkeys(KINDS, 0.2)})
    assert fold.champion == promotion
    assert fold.outcomes["promoted"] == 1


def test_a_first_candidate_that_makes_the_blend_worse_is_refused() -> None:
    fold = started()
    learn_views(fold, 100)
    trained(fold)
    compared(fold, 0.3, nothing=0.6, alone=0.9)
    assert (announcements(fold)[-1].kind, fold.champion, fold.comparing) == ("refused", None, False)


def test_a_candidate_with_a_weak_own_score_is_refused_even_if_the_blend_improves() -> None:
    fold = started()
    learn_views(fold, 100)
    trained(fold)
    compared(fold, 0.5, nothing=0.1, alone=0.1, fast=0.6)
    refusal = announcements(fold)[-1]
    assert (refusal.kind, refusal.reason) == ("refused", "weak")


def test_a_promotion_needs_both_proofs() -> None:
    fold = started()
    learn_views(fold, 100)
    trained(fold)
    compared(fold, 0.5, nothing=0.1, alone=0.30, fast=0.60)  # exactly half: no evidence in either direction
    assert [one.kind for one in announcements(fold)] == ["candidate"]
    compared(fold, 0.5, nothing=0.1, alone=0.60, fast=0.60)
    assert [one.kind for one in announcements(fold)] == ["promoted"]


def test_beating_a_bad_champion_alone_is_not_enough() -> None:
    """It must also beat the blend without a model, or each bad champion would admit a worse one."""
    fold = promoted()
    learn_views(fold, 90)
    trained(fold, "model-bb")
    compared(fold, 0.3, champion=0.1, nothing=0.6, count=40)
    candidate, back, refusal = announcements(fold)
    assert [candidate.kind, back.kind, refusal.kind] == ["candidate", "rolled_back", "refused"]
    assert (back.version, back.blob) == ("", "")
    assert back.reason == "the blend does better without r0001-aaaaaaaa"
    assert fold.champion is None


def test_a_candidate_that_beats_only_the_blend_without_a_model_is_refused() -> None:
    fold = promoted()
    learn_views(fold, 90)
    trained(fold, "model-bb")
    compared(fold, 0.5, champion=0.6, nothing=0.1, count=2_000)
    assert [one.kind for one in announcements(fold)] == ["candidate", "refused"]
    assert fold.champion is not None


def test_a_champion_made_bad_by_drift_is_rolled_back_during_a_trial() -> None:
    fold = promoted()
    learn_views(fold, 60)
    assert announcements(fold) == []
    assert not fold.comparing, "the watch has ended"
    learn_views(fold, 30)
    trained(fold, "model-bb")
    assert fold.comparing
    compared(fold, 0.45, champion=0.1, nothing=0.5, count=35)  # no verdict on the candidate yet
    candidate, back = announcements(fold)
    assert [candidate.kind, back.kind] == ["candidate", "rolled_back"]
    assert back.due_events == candidate.due_events, "the candidate's verdict is still due"
    assert fold.champion is None
    assert fold.outcomes["rolled_back"] == 1
    assert "model-aaaaaaaa11" in fold.kept_blobs(), "an operator may propose it again"
    compared(fold, 0.9, nothing=0.2, count=100)  # from now on its only rival is the blend without a model
    assert [one.kind for one in announcements(fold)] == ["promoted"]
    assert fold.predecessor is None


def test_a_first_champion_that_does_worse_live_is_rolled_back_to_none() -> None:
    fold = promoted()
    assert fold.comparing
    compared(fold, champion=0.1, nothing=0.5)
    (back,) = announcements(fold)
    assert (back.kind, back.version, back.blob) == ("rolled_back", "", "")
    assert (fold.champion, fold.comparing) == (None, False)
    learn_views(fold, 90)
    assert fold.due == "volume", "rounds continue"


def test_a_worse_candidate_is_refused() -> None:
    fold = promoted()
    learn_views(fold, 90)
    assert fold.due == "volume"
    trained(fold, "model-bb")
    compared(fold, 0.1, champion=0.4)
    _, refusal = announcements(fold)
    assert (refusal.kind, refusal.reason, refusal.version) == ("refused", "worse", "r0002-bb")
    assert fold.champion is not None
    assert fold.champion.version == "r0001-aaaaaaaa"


def test_without_a_verdict_in_time_a_candidate_is_refused() -> None:
    fold = started()
    learn_views(fold, 100)
    trained(fold)
    compared(fold, 0.30, nothing=0.30, count=20)
    learn_views(fold, 49)
    assert [one.kind for one in announcements(fold)] == ["candidate"]
    learn_views(fold, 1)
    (refusal,) = announcements(fold)
    assert (refusal.kind, refusal.reason, refusal.at_events, refusal.due_events) == ("refused", "undecided", 150, 200)


def test_an_unfit_candidate_is_refused_without_a_trial() -> None:
    fold = started()
    learn_views(fold, 100)
    trained(fold, reasons=("weights that are not finite",))
    (refusal,) = announcements(fold)
    assert (refusal.kind, refusal.reason, fold.candidate) == ("refused", "weights that are not finite", None)


def test_training_without_a_model_is_announced_as_failed() -> None:
    fold = started()
    learn_views(fold, 100)
    trained(fold, blob="", reasons=("no sequence",))
    (failure,) = announcements(fold)
    assert (failure.kind, failure.due_events, fold.due) == ("failed", 200, "")
    learn_views(fold, 100)
    assert fold.due == "volume"


def test_a_candidate_that_forgot_is_refused() -> None:
    fold = promoted()
    learn_views(fold, 90)
    trained(fold, "model-bb", retention=(([0.5] * 100, [0.5] * 100), ([0.5] * 100, [0.3] * 100)))
    (refusal,) = announcements(fold)
    assert refusal.kind == "refused"
    assert "slice 1" in refusal.reason


def second(fold: RoundsFold) -> None:
    learn_views(fold, 90)
    trained(fold, "model-bb")
    decided(fold, 0.6, champion=0.2)
    assert [one.kind for one in announcements(fold)] == ["candidate", "promoted"]


def test_a_champion_that_does_worse_live_is_rolled_back() -> None:
    fold = promoted()
    second(fold)
    assert fold.predecessor is not None
    assert fold.champion is not None
    compared(fold, champion=0.1, predecessor=0.5, nothing=0.1)
    (back,) = announcements(fold)
    assert (back.kind, back.version, back.blob) == ("rolled_back", "r0001-aaaaaaaa", "model-aaaaaaaa11")
    assert fold.champion == back
    assert fold.predecessor is None
    assert fold.outcomes["rolled_back"] == 1


def test_after_its_watch_a_champion_has_no_predecessor() -> None:
    fold = promoted()
    second(fold)
    assert fold.comparing
    assert fold.kept_blobs() == {"model-aaaaaaaa11", "model-bb"}
    learn_views(fold, 50)
    assert announcements(fold) == []
    assert not fold.comparing


def test_a_proposed_model_is_tested_too() -> None:
    fold = promoted()
    proposal = Announcement(
        id="op/1", kind="proposed", round=0, at_events=0, due_events=0, time_ms=0, version="mine", blob="model-cc"
    )
    fold.hear("models", as_record(proposal.record()))
    assert fold.proposed == proposal
    assert "model-cc" in fold.kept_blobs()
    trained(fold, "model-cc", trigger="proposed")
    compared(fold, 0.0, champion=0.4)
    assert [one.kind for one in announcements(fold)] == ["candidate", "refused"]
    assert fold.proposed is None
    assert fold.due == ""


@pytest.mark.parametrize("gate_records_max", [20, 50, 5_000])
def test_folded_anew_under_another_setting_verdicts_are_those_that_were_given(gate_records_max: int) -> None:
    """The journal is folded anew when a setting changes: what was decided then must be decided again."""
    live, again = RoundsFold(RULES), RoundsFold(replace(RULES, gate_records_max=gate_records_max))

    def both(step: Callable[[RoundsFold], None]) -> None:
        for fold in (live, again):
            step(fold)

    def ended(fold: RoundsFold) -> None:
        fold.emit()

    def take(blob: str) -> None:
        judgement = as_judgement(Trained(blob, live.due or "volume", [], [], {}, RULES.gate_records_max))
        both(lambda fold: fold.absorb(judgement))

    def compare(**blend_scores: float) -> None:
        standing = [one.blob for one in (live.candidate, live.champion, live.predecessor) if one]
        scores = {NO_MODEL: 0.1, **{blob: blend_scores.get(blob.partition("-")[2], 0.0) for blob in standing}}
        alone = {**dict.fromkeys(KINDS, [0.2] * 60), **dict.fromkeys(standing, [0.6] * 60)}
        judgement = as_judgement(Compared({name: [score] * 60 for name, score in scores.items()}, alone))
        both(lambda fold: fold.absorb(judgement))

    both(lambda fold: learn_views(fold, 100))
    take("model-a")
    both(lambda fold: learn_views(fold, 30))
    compare(a=0.5)
    both(lambda fold: learn_views(fold, 100))
    take("model-b")
    both(lambda fold: learn_views(fold, 30))
    compare(a=0.4, b=0.8)
    both(lambda fold: learn_views(fold, 60))
    both(ended)
    take("model-c")
    both(lambda fold: learn_views(fold, 30))
    compare(b=0.8, c=0.8)
    both(lambda fold: learn_views(fold, 30))
    both(ended)
    assert live.champion is not None
    assert again.champion is not None
    assert (live.champion.blob, again.champion.blob) == ("model-b", "model-b")
    assert (live.candidate, live.outcomes) == (again.candidate, again.outcomes)
    assert live.outcomes == {"promoted": 2, "refused": 1, "failed": 0, "rolled_back": 0}


def test_drift_is_remembered_until_a_model_trained_after_it_is_promoted() -> None:
    fold = promoted()
    learn_views(fold, 90)
    assert (fold.due, fold.drifted) == ("volume", False)
    trained(fold, "model-bb")
    learn_views(fold, 10)
    fold.hear(ALARMS, alarm())  # during a trial: no round is due, but the candidate was trained before the drift
    assert (fold.due, fold.drifted) == ("", True)
    decided(fold, 0.8, champion=0.3)
    assert fold.champion is not None
    assert (fold.champion.blob, fold.drifted) == ("model-bb", True)
    learn_views(fold, 100)
    trained(fold, "model-cc")
    learn_views(fold, 10)
    again = fold.again()
    assert again.drifted
    decided(fold, 0.8, champion=0.3)
    assert (fold.champion.blob, fold.drifted) == ("model-cc", False)


def test_records_lost_before_the_first_event_are_not_counted() -> None:
    fold = started()
    for number, (partition, offset) in enumerate([(0, 5_000_000), (0, 5_000_001), (1, 7_000_000), (2, 3)]):
        event = Event(f"e{number}", "test", "view_item", at(START_MS), Data([Item("i")]), "1.0", "ann", START_MS)
        fold.learn(event, partition, offset)
    assert fold.seen == 2 + 1 + 4, "bad records at the log's beginning count"
    assert fold.due == ""
    assert fold.again().seen == fold.seen


def test_a_session_without_end_keeps_its_newest_items() -> None:
    fold = RoundsFold(replace(RULES, holdout_share=0.0, round_events=10_000))
    for number in range(1_000):
        event = Event(f"e{number}", "t", "view_item", at(START_MS), Data([Item(f"i{number}")]), "1.0", "x", START_MS)
        fold.learn(event, 0, number)
    assert [len(sequence) for sequence in fold.training_set.window()] == [sequence_items_max]


def test_all_lines_of_a_long_invoice_are_trained_on() -> None:
    fold = RoundsFold(replace(RULES, holdout_share=0.0))
    names = [f"i{number}" for number in range(120)]
    invoice = Data([Item(name) for name in names], transaction_id="T-1", value=1.0)
    fold.learn(Event("e", "t", "purchase", at(START_MS), invoice, "1.0", "x", START_MS), 0, 0)
    assert fold.training_set.window() == [names]


def test_a_second_proposal_is_refused_while_one_waits() -> None:
    fold = promoted()
    for name in ("mine", "yours"):
        proposal = Announcement(
            id=f"op/{name}", kind="proposed", round=0, at_events=0, time_ms=0, version=name, blob=f"model-{name}"
        )
        fold.hear("models", as_record(proposal.record()))
    assert fold.proposed is not None
    assert fold.proposed.version == "mine"
    (answer,) = announcements(fold)
    assert (answer.kind, answer.version, answer.blob) == ("refused", "yours", "model-yours")
    assert "mine was proposed before" in answer.reason


def as_record(one: Outgoing) -> Record:
    return Record(0, 0, 0, one.key, one.value)


def test_own_announcements_and_noise_change_nothing() -> None:
    fold = promoted()
    assert fold.champion is not None
    fold.hear("models", as_record(fold.champion.record()))
    before = digest(fold.state())
    fold.hear("models", as_record(fold.champion.record()))
    fold.hear("models", Record(0, 0, 0, b"-", b"noise"))
    for value in (None, b"noise", b"{}", b'{"detector": 5}'):
        fold.hear(ALARMS, Record(0, 0, 0, b"price", value))
    assert digest(fold.state()) == before


def test_the_models_that_experiments_may_try_are_kept() -> None:
    fold = promoted()
    arms = (Arm("control"), Arm("former", model="r0", blob="model-00"))
    draft = Experiment(arms)
    for one, kept in ((draft, True), (replace(draft, state="running"), True), (replace(draft, state="stopped"), False)):
        fold.hear(EXPERIMENTS, as_record(record_of("home", one)))
        assert ("model-00" in fold.again().kept_blobs()) is kept
        assert "model-aaaaaaaa11" in fold.kept_blobs()


def test_an_operator_may_roll_back() -> None:
    fold = promoted()
    second(fold)
    announcement = Announcement(
        id="op/2",
        kind="rolled_back",
        round=0,
        at_events=0,
        due_events=0,
        time_ms=0,
        version="r0001",
        blob="model-aaaaaaaa11",
    )
    fold.hear("models", as_record(announcement.record()))
    assert fold.champion == announcement
    assert fold.predecessor is None
    assert fold.kept_blobs() == {"model-aaaaaaaa11", "model-bb"}  # the one rolled back may be proposed again


def test_a_champion_without_scores_is_neither_helped_nor_harmed() -> None:
    fold = promoted()
    alone = {name: [0.2] * 200 for name in KINDS}
    fold.absorb(as_judgement(Compared({NO_MODEL: [0.9] * 200}, alone)))
    assert announcements(fold) == []
    assert fold.champion


def test_shoppers_of_the_holdout_are_never_trained_on() -> None:
    fold = started()
    learn_views(fold, 2_000)
    held = [name for name in (f"shopper-{n}" for n in range(40)) if fold.training_set.held_out(name)]
    assert 0 < len(held) < 20
    assert not set(held) & set(fold.training_set._open)
    trained(fold)
    assert sum(map(len, fold.training_set.slices)) > 0


def test_steps_are_trained_on_once() -> None:
    fold = RoundsFold(RoundsSettings(round_events=100, holdout_share=0.0))
    learn_views(fold, 100)
    first = sum(len(items) - 1 for items in fold.training_set.window())
    trained(fold)
    assert sum(len(items) - 1 for items in fold.training_set.window()) == 0
    learn_views(fold, 100)
    assert 0 < first <= 100
    assert 0 < sum(len(items) - 1 for items in fold.training_set.window()) <= 100


STAGES: dict[str, Callable[[], RoundsFold]] = {
    "fresh": started, "champion": promoted, "priced": lambda: promoted(PRICED)
}  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_state_survives_serialisation_and_continues(stage: str) -> None:
    fold = STAGES[stage]()
    learn_views(fold, 90)
    again = fold.again()
    for one in (fold, again):
        learn_views(one, 20)
        trained(one, "model-bb")
        learn_views(one, 5)
        compared(one, 0.6, champion=0.2, nothing=0.1, count=7)
    assert announcements(again) == announcements(fold) != []
    again = again.again()  # in the middle of a trial
    for one in (fold, again):
        compared(one, 0.6, champion=0.2, nothing=0.1, count=20)
        learn_views(one, 30)
    assert announcements(again) == announcements(fold) != []
    assert digest(again.state()) == digest(fold.state())
    third = fold.again()  # in the middle of a probation
    for one in (fold, third):
        learn_views(one, 10)
        one.emit()
    assert fold.predecessor or stage == "fresh"
    assert digest(third.state()) == digest(fold.state())


RULE = Rule()


def trained_by_rule_2(fold: RoundsFold, blob: str, retention: Sequence[tuple[list[float], list[float]]] = ()) -> None:
    shoppers = [list(range(len(pair[0]))) for pair in retention]
    made = Trained(
        blob, fold.due or "volume", [], list(retention), {"tokens": 9}, 50,
        rule=RULE, retention_rule=RetentionRule(), retention_shoppers=shoppers,
    )  # fmt: skip
    fold.absorb(as_judgement(made))


def compared_in_sessions(fold: RoundsFold, first: int, count: int, *, length: int = 1, **scores: float) -> None:
    """As `compared`, in sessions of this length, numbered from `first`."""
    standing = {"candidate": fold.candidate, "champion": fold.champion, "predecessor": fold.predecessor}
    blend = {one.blob: [scores.get(role, 0.0)] * count for role, one in standing.items() if one}
    own = {name: [0.2 if name in KINDS else 0.6] * count for name in (*KINDS, *blend)}
    numbers = [first + place // length for place in range(count)]
    nothing = [scores.get("nothing", 0.0)] * count
    fold.absorb(as_judgement(Compared({NO_MODEL: nothing, **blend}, own, numbers, numbers)))


def test_by_rule_2_a_verdict_has_an_interval_and_one_bet_per_session() -> None:
    fold = started()
    learn_views(fold, 100)
    trained_by_rule_2(fold, "model-aaaaaaaa11")
    compared_in_sessions(fold, 0, 200, length=200, candidate=0.9, nothing=0.1)
    assert fold.candidate, "two hundred predictions of one session are one bet"
    session = 1
    while fold.candidate:
        compared_in_sessions(fold, session, 1, candidate=0.5, nothing=0.1)
        session += 1
    promotion = announcements(fold)[-1]
    assert (promotion.kind, promotion.reason) == ("promoted", "better")
    low, high = promotion.evidence["interval"]
    assert 0 <= low < promotion.evidence["mean_difference"] < high <= 1
    assert promotion.evidence["sessions"] < promotion.evidence["predictions"] - 150
    compared_in_sessions(fold, 1_000, 200, champion=0.1, nothing=0.5)
    (back,) = announcements(fold)
    assert (back.kind, len(back.evidence["interval"])) == ("rolled_back", 2)


def test_by_rule_2_a_candidate_that_lost_hits_is_refused_and_the_lineage_says_what_was_tested() -> None:
    fold = promoted()
    learn_views(fold, 90)
    trained_by_rule_2(fold, "model-bb", [([0.5] * 300, [0.5] * 300), ([0.5] * 300, [0.0] * 75 + [0.5] * 225)])
    (refusal,) = announcements(fold)
    assert (refusal.kind, refusal.reason) == ("refused", "slice 1: 75 of 300 hits are lost, at least 60")
    assert [figure[:8] for figure in refusal.lineage["retention"]] == ["slice 0:", "slice 1:"]
    learn_views(fold, 100)
    trained_by_rule_2(fold, "model-cc", [([0.5] * 40, [0.5] * 40)])
    (candidate,) = announcements(fold)
    assert candidate.kind == "candidate"
    assert len(candidate.lineage["retention"]) == 1


@pytest.mark.parametrize("rows", [1, 32])
def test_by_rule_2_the_state_survives_serialisation(rows: int) -> None:
    fold = promoted()
    learn_views(fold, 90)
    trained_by_rule_2(fold, "model-bb")
    compared_in_sessions(fold, 0, rows, length=3, candidate=0.6, champion=0.2, nothing=0.1)
    assert [one.kind for one in announcements(fold)] == ["candidate"]
    again = fold.again()
    assert digest(again.state()) == digest(fold.state())
    for one in (fold, again):
        compared_in_sessions(one, 10_000, 300, length=3, candidate=0.6, champion=0.2, nothing=0.1)
        compared_in_sessions(one, 20_000, 30, length=3, champion=0.6, predecessor=0.5, nothing=0.1)
    assert announcements(again) == announcements(fold) != []
    assert digest(again.state()) == digest(fold.state())


def test_the_rule_in_the_journal_decides_and_not_that_of_the_code() -> None:
    """A record of 0.3.0 states no rule: the candidate is promoted by rule 1, after fewer predictions."""

    found = []
    for train in (trained, partial(trained_by_rule_2, blob="model-aaaaaaaa11")):
        fold = started()
        learn_views(fold, 100)
        train(fold)
        session = 0
        while fold.candidate:
            compared_in_sessions(fold, session, 1, candidate=0.5, nothing=0.1)
            session += 1
        found.append(announcements(fold)[-1].evidence)
    assert found[0]["predictions"] < found[1]["predictions"]
    assert ("interval" in found[0], "interval" in found[1]) == (False, True)


class TrainedBefore(Struct, frozen=True, tag="Trained"):
    """`Trained` as 0.3.0 had it."""

    blob: str
    trigger: str
    reasons: list[str]
    retention: list[tuple[list[float], list[float]]]
    lineage: dict[str, str | int | float | list[str]]
    gate_events: int = 0


class ComparedBefore(Struct, frozen=True, tag="Compared"):
    """`Compared` as 0.3.0 had it."""

    worths: dict[str, list[float]]
    alone: dict[str, list[float]]


def test_each_release_reads_the_others_records() -> None:
    old_trained = TrainedBefore("model-a", "volume", [], [([0.5], [0.25])], {"tokens": 9}, 50)
    read = as_evidence(msgspec.msgpack.encode(old_trained))
    assert read == Trained("model-a", "volume", [], [([0.5], [0.25])], {"tokens": 9}, 50)
    assert isinstance(read, Trained)
    assert (read.rule, read.retention_rule) == (None, None)
    old_compared = as_evidence(msgspec.msgpack.encode(ComparedBefore({NO_MODEL: [0.5]}, {"popularity": [0.2]})))
    assert isinstance(old_compared, Compared)
    assert old_compared.visit(0) is None
    before = msgspec.msgpack.Decoder(TrainedBefore | ComparedBefore)
    new_trained = Trained("model-a", "volume", [], [([0.5], [0.25])], {"tokens": 9}, 50, RULE, RetentionRule(), [[1]])
    assert before.decode(as_judgement(new_trained)) == old_trained
    assert as_evidence(as_judgement(new_trained)) == new_trained
    new_compared = Compared({NO_MODEL: [0.5]}, {"popularity": [0.2]}, [7], [3])
    assert before.decode(as_judgement(new_compared)) == ComparedBefore({NO_MODEL: [0.5]}, {"popularity": [0.2]})
    assert new_compared.visit(0) == Visit(7, 3)


def test_the_judge_states_the_rule_and_the_sessions(tmp_path: Path) -> None:
    settings = replace(RULES, first_passes=1, passes=1, width=8, holdout_share=0.3)
    fold, judge = started(settings), rounds_judge(Blobs(tmp_path), settings)

    def judged() -> list[Began | Trained | Compared]:
        return [as_evidence(judgement) for judgement in judge_all(judge, fold.family, fold.absorb)]

    learn_views(fold, 100)
    began, first = judged()
    assert isinstance(began, Began)
    assert isinstance(first, Trained)
    assert (first.rule, first.retention_rule) == (Rule(), RetentionRule())
    learn_views(fold, 40, trainer=judge)
    (found,) = judged()
    assert isinstance(found, Compared)
    rows = len(found.blend_scores[NO_MODEL])
    assert rows == len(found.shoppers) == len(found.sessions) > len(set(found.shoppers)) > 1
    assert set(found.shoppers) <= {shopper_number(f"shopper-{number}") for number in range(40)}
    of_shopper: dict[int, set[int]] = {}
    for shopper, session in zip(found.shoppers, found.sessions, strict=True):
        of_shopper.setdefault(shopper, set()).add(session)
    assert {len(sessions) for sessions in of_shopper.values()} == {1}, "a second apart, all is one session"
    (shoppers,) = fold.training_set.slices_shoppers
    assert len(shoppers) == len(fold.training_set.slices[0]) > 0
