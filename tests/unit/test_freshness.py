"""The prequential benchmarks on steps small enough to follow by hand: no answer uses steps not learned yet."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import freshness, prequential
from benchmarks.basket import Basket
from benchmarks.contestants import Answers, empty, live
from benchmarks.freshness import edges
from benchmarks.periods import Periods
from benchmarks.prequential import (
    AnswerTable,
    DeepLearner,
    LoggedStep,
    Stretch,
    blend_ranks,
    clicks,
    deep_answers,
    fast_answers,
    lines,
)
from headrace.errors import Misconfigured
from learners.deep.model import DeepSettings
from learners.next_item.judgement import list_length
from learners.next_item.transitions import Transitions
from learners.parts.prequential import ranks_max
from learners.protocol import Context, Scores
from tests.streams import chain

SMALL = DeepSettings(width=8, layers=1, heads=1, context=8, dropout=0.0)
MISSED = ranks_max + 1


def steps(pairs: int, item: int = 1, time_ms: int = 1_000) -> list[LoggedStep]:
    """Return sessions of two steps each, 0 and then `item`, one step every `time_ms`."""
    found = []
    for session in range(pairs):
        found.append(LoggedStep(Context((), 0, session, 2 * session * time_ms), 0))
        found.append(LoggedStep(Context((0,), 0, session, (2 * session + 1) * time_ms), item))
    return found


def test_a_seeded_share_of_the_steps_within_a_session_is_tested() -> None:
    assert Stretch(steps(4), 2, rate=1.0).asked.tolist() == [3, 5, 7]
    many = [Stretch(steps(500), 0, rate=0.3, seed=seed).asked.tolist() for seed in (1, 1, 2)]
    assert many[0] == many[1] != many[2]
    assert 100 < len(many[0]) < 200
    with pytest.raises(Misconfigured, match="--rate"):
        Stretch(steps(4)[:1], 0, rate=1.0)


def test_how_many_steps_are_learned_before_a_tested_step() -> None:
    stretch = Stretch(steps(4), 2, rate=1.0)
    assert stretch.by_events(0).tolist() == [3, 5, 7]
    assert stretch.by_events(4).tolist() == [0, 1, 3]
    # One step per second: steps that are at least 2 s old are learned, at 3 s those of 0 s and 1 s.
    assert stretch.by_clock(2_000).tolist() == [2, 4, 6]
    # All at one instant: without a delay all steps before it are learned, with the smallest delay none.
    at_once = Stretch(steps(4, time_ms=0), 2, rate=1.0)
    assert at_once.by_clock(0).tolist() == [3, 5, 7]
    assert at_once.by_clock(1).tolist() == [0, 0, 0]
    assert stretch.rows(4, 8) == range(1, 3)


class Recorder(Transitions):
    """Records the calls of predict and learn."""

    calls: list[tuple[str, int]]

    def predict(self, context: Context) -> Any:
        self.calls.append(("ask", context.time_ms))
        return super().predict(context)

    def learn(self, context: Context, item: int) -> None:
        self.calls.append(("learn", context.time_ms))
        super().learn(context, item)


def test_each_delay_learns_exactly_the_steps_before_it() -> None:
    calls: list[tuple[str, int]] = []
    kind = type("Recording", (Recorder,), {"calls": calls})
    stretch = Stretch(steps(3, time_ms=1), 2, rate=1.0)
    fast_answers(kind, stretch, {"now": stretch.by_events(0), "late": stretch.by_events(3)})
    learn, ask = "learn", "ask"
    # The longest delay comes first (at 3 it has learned nothing); steps before the stretch are learned once.
    late = [(ask, 3), (learn, 0), (learn, 1), (ask, 5)]
    now = [(learn, 0), (learn, 1), (learn, 2), (ask, 3), (learn, 3), (learn, 4), (ask, 5)]
    assert calls == late + now


def test_a_delay_misses_recent_changes_and_new_items_are_misses() -> None:
    stretch = Stretch([*steps(3), *steps(6, item=9)[6:]], 6, rate=1.0)
    found, _ = fast_answers(Transitions, stretch, {"0": stretch.by_events(0), "3": stretch.by_events(3)})
    # 9 is new: one miss without a delay; with a delay a miss until it is learned.
    assert [rank > ranks_max for rank in found["0"].ranks] == [True, False, False]
    assert [rank > ranks_max for rank in found["3"].ranks] == [True, True, False]
    assert found["0"].slots[1].tolist()[:2] == [1, 9]


def test_the_blend_learns_with_the_delay() -> None:
    stretch = Stretch(steps(400), 0, rate=1.0)
    lists = AnswerTable(stretch)
    for row in range(len(stretch.asked)):  # the best candidate is never the item that comes, the second always
        lists.put(row, Scores(np.array([5, 1], np.int32), np.array([2.0, 1.0], np.float32)))
    answers = {"a": lists.answers()}
    now, never = (blend_ranks(answers, stretch, stretch.by_events(events)) for events in (0, 800))
    assert now[-1] == 1
    assert set(never.tolist()) == {2}
    half = blend_ranks(answers, stretch, stretch.by_events(400))
    assert half[:200].tolist() == [2] * 200
    assert half[-1] == 1


def test_items_of_a_basket_are_no_answers() -> None:
    basket = list(lines([Basket("ann", "1", 0, [4, 5, 6], ["a", "b", "c"]), Basket("ann", "2", 9, [5], ["b"])]))
    assert [(list(step.prefix), step.item) for step in basket] == [([], 4), ([4], 5), ([4, 5], 6), ([], 5)]
    assert [step.name for step in basket] == ["a", "b", "c", "b"]
    assert len({step.context.session for step in basket}) == 2
    for once, best in ((True, [6, 7]), (False, [5, 6, 7])):
        stretch = Stretch(basket[:3], 0, rate=1.0, once=once)
        lists = AnswerTable(stretch)
        rank = lists.put(1, Scores(np.array([5, 6, 7], np.int32), np.array([3, 2, 1], np.float32)))
        assert lists.answers().slots[1].tolist()[: len(best) + 1] == [*best, empty]
        assert rank == (1 if once else 2)


def test_clicks_are_those_of_the_periods_in_order() -> None:
    periods = Periods(["s1 a\ns2 b\ns1 b\n", "s1 b\ns1 c\n"])
    found = list(clicks(periods, 1))
    assert [(list(step.prefix), step.item) for step in found] == [([], 0), ([], 1), ([0], 1), ([], 1), ([1], 2)]
    assert found[3].context.session == 2  # another period, another session
    assert [step.context.time_ms for step in found] == sorted(step.context.time_ms for step in found)


def answer(learner: DeepLearner, stretch: Stretch, parts: Sequence[int]) -> Answers:
    return deep_answers(learner, stretch, parts, lambda begin, end, ranks: True)


def test_the_deep_learner_uses_a_step_only_after_the_next_update() -> None:
    """Steps after an edge change no answer before it; an update changes the answers after it."""
    before, after = chain(0, 60, 1), chain(60, 90, 5)
    other = [*after[:40], *chain(70, 90, 2)]
    base = DeepLearner(settings=SMALL)
    base.begin(before)
    stretches = [Stretch([*before, *part], 240, rate=1.0) for part in (after, other)]
    learners = [base.fork() for _ in range(3)]
    ours, theirs = (answer(one, stretch, [240, 280, 320]) for one, stretch in zip(learners, stretches, strict=False))
    never = answer(learners[2], stretches[0], [240])
    rows = stretches[0].rows(240, 280).stop
    same = rows + 1  # the first step after the edge is another one; its model is the same
    assert (ours.scores[:rows] == theirs.scores[:rows]).all()
    assert (ours.scores[:rows] == never.scores[:rows]).all()
    assert (ours.scores[same:] != never.scores[same:]).any()
    assert (learners[0].updates, learners[2].updates, learners[2].tokens) == (2, 0, 0)


def test_an_update_costs_its_passes_over_new_sessions_and_a_share_of_past_ones() -> None:
    base = DeepLearner(settings=SMALL, passes=2)
    base.begin(chain(0, 20, 1))
    assert base.tokens == 20 * 3 * prequential.base_passes
    learner = base.fork()
    learner.follow(chain(20, 24, 1))
    learner.update()
    assert 0 < (share := live.rehearsal_share) < 1
    assert learner.tokens == 2 * (4 + int(share * 4)) * 3
    bounded = DeepLearner(settings=SMALL, passes=5, sessions_max=3)
    bounded.begin(chain(0, 3, 1))
    bounded.follow(chain(3, 13, 1))
    spent = bounded.tokens
    bounded.update()
    assert bounded.tokens - spent == 5 * 3 * 3 + 3 * 3  # there are only three past sessions


def test_a_session_that_continues_after_an_update_is_trained_on_once() -> None:
    whole = chain(0, 1, 1)
    learner = DeepLearner(settings=SMALL, passes=1)
    learner.begin([*chain(1, 5, 1), *whole[:2]])
    spent = learner.tokens
    learner.follow(whole[2:])
    learner.update()
    assert learner.tokens - spent == 2  # its two new steps; the share of one session rounds down to no rehearsal


def test_a_base_model_is_kept_and_one_with_another_key_refused(tmp_path: Path) -> None:
    first, second = DeepLearner(settings=SMALL), DeepLearner(settings=SMALL)
    first.begin(chain(0, 20, 1), tmp_path / "base", "this")
    second.begin(chain(0, 20, 1), tmp_path / "base", "this")
    assert first.model is not None
    assert second.model is not None
    assert first.model.to_bytes() == second.model.to_bytes()
    assert second.tokens == 0
    with pytest.raises(Misconfigured, match="--base"):
        DeepLearner(settings=SMALL).begin(chain(0, 20, 1), tmp_path / "base", "that")


def test_the_edges_of_each_schedule() -> None:
    stretch = Stretch(steps(50), 20, rate=1.0)
    assert edges(stretch, "30", []) == [20, 50, 80]
    assert edges(stretch, "period", [10, 20, 60, 100]) == [20, 60]
    assert edges(stretch, "never", [60]) == [20]


def test_the_benchmark_writes_both_curves_and_a_picture(tmp_path: Path) -> None:
    """In a shop that changes with its last period, late learning, or none, finds fewer items."""
    for period, shift in enumerate((1, 1, 5)):
        found = chain(0, 60, shift)
        (tmp_path / f"period_{period}.txt").write_text("".join(f"s{x.context.session} i{x.item}\n" for x in found))
    arguments = [
        "--first",
        "2",
        "--events",
        "240",
        "--short",
        "80",
        "--late",
        "40,200",
        "--every",
        "40,80",
        "--rate",
        "1",
    ]
    freshness.main(["--data", str(tmp_path), *arguments, "--out", str(tmp_path / "out.json")])
    result = json.loads((tmp_path / "out.json").read_text())["periods"]
    assert result["asked"] == 180
    scores = [result["late"][late]["transitions"]["whole"]["mrr@20"] for late in ("0", "40", "200")]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > scores[2]
    assert list(result["updated"]) == ["40", "80", "period", "never"]
    assert set(result["updated"]["40"]["deep"]) == {"short"}
    assert result["updated"]["80"]["deep"]["whole"]["mrr@20"] > result["updated"]["never"]["deep"]["whole"]["mrr@20"]
    assert result["updated"]["80"]["tokens"] > 0 == result["updated"]["never"]["tokens"]
    assert ElementTree.parse(tmp_path / "out.svg").getroot().tag.endswith("svg")


def test_lists_are_as_long_as_those_of_a_judgement() -> None:
    lists = AnswerTable(Stretch(steps(1), 0, rate=1.0))
    rank = lists.put(0, Scores(np.arange(2, 99, dtype=np.int32), np.ones(97, np.float32)))
    assert np.count_nonzero(lists.answers().slots[0] != empty) == list_length
    assert rank == MISSED


def test_wrong_options_are_reported(tmp_path: Path) -> None:
    (tmp_path / "period_0.txt").write_text("s1 a\ns1 b\n")
    (tmp_path / "period_1.txt").write_text("s1 a\ns1 b\n")
    data = ["--data", str(tmp_path)]
    wrong = {"--first": ["2"], "--every": ["0"], "--late": ["soon"], "--short": ["200000"]}
    for option, value in wrong.items():
        with pytest.raises(Misconfigured, match=option):
            freshness.main([*data, option, *value])
