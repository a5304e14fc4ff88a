"""Curves of the gate's wealth, made again from judgements, end where the verdict's evidence does."""

import random

import pytest

from headrace.announcement import Announcement
from learners.rounds.contest import CHAMPION, NO_MODEL, Trial
from learners.rounds.evidence import Compared, Trained
from learners.rounds.gate import Rule, Verdict
from learners.rounds.session_gate import Visit
from learners.rounds.trials import Trials
from operators.wealth import Wealth, champion_at
from tests.small_shop import said

RULE = Rule()
CANDIDATE_, CHAMPION_ = "model-new", "model-old"


def judged(gain: int, records: int = 60, rows: int = 100) -> list[Compared]:
    """Return comparisons in which the candidate finds items so many ranks earlier, more or less."""
    chance = random.Random(3)
    found = []
    for record in range(records):
        ranks = [chance.randint(1, 20) for _ in range(rows)]
        base = [1 / rank for rank in ranks]
        better = [1 / min(20, max(1, rank - gain + chance.choice((-1, 0, 1)))) for rank in ranks]
        shoppers = [1 + row + rows * record for row in range(rows)]
        blend = {NO_MODEL: base, CANDIDATE_: better, CHAMPION_: base}
        found.append(Compared(blend, {CANDIDATE_: better, "popularity": base}, shoppers, [0] * rows))
    return found


def verdict_of(compared: list[Compared]) -> Verdict | None:
    """Return the verdict of the gate itself."""
    trial = Trial(RULE)
    for one in compared:
        for row in range(len(one.blend_scores[NO_MODEL])):
            blend, own = ({name: values[row] for name, values in part.items()}
                          for part in (one.blend_scores, one.own_scores))  # fmt: skip
            rivals = {NO_MODEL: blend[NO_MODEL], CHAMPION: blend[CHAMPION_]}
            visit = Visit(one.shoppers[row], one.sessions[row])
            fast = {"popularity": own["popularity"]}
            if found := trial.observe(blend[CANDIDATE_], own[CANDIDATE_], rivals, fast, visit):
                return found
    return None


@pytest.mark.parametrize(("gain", "kind"), [(4, "promote"), (-4, "refuse")])
def test_a_curve_ends_with_the_verdicts_evidence(gain: int, kind: str) -> None:
    compared, trials = judged(gain), Trials()
    trials.add(Trained(CANDIDATE_, "volume", [], [], {}, rule=RULE))
    for one in compared:
        trials.add(one)
    curve, verdict = trials.curve(CANDIDATE_, CHAMPION_), verdict_of(compared)
    assert verdict is not None
    assert (verdict.kind, len(curve), curve[-1].predictions) == (kind, verdict.predictions, verdict.predictions)
    newest = curve[-1]
    assert (newest.better if kind == "promote" else newest.worse) == verdict.evidence
    assert verdict.evidence >= (newest.needed if kind == "promote" else newest.worse_needed)
    assert trials.curve(CANDIDATE_, CHAMPION_) == curve, "asked again"


def test_a_curve_grows_with_what_comes() -> None:
    compared, trials = judged(0, 2, 30), Trials()
    trials.add(Trained(CANDIDATE_, "volume", [], [], {}, rule=RULE))
    trials.add(compared[0])
    first = len(trials.curve(CANDIDATE_, CHAMPION_))
    trials.add(compared[1])
    assert (first, len(trials.curve(CANDIDATE_, CHAMPION_))) == (30, 60)


def test_what_is_no_trial_has_no_curve() -> None:
    trials = Trials()
    trials.add(judged(1, 1)[0])
    trials.add(Trained(CANDIDATE_, "volume", ["too large"], [], {}))
    assert trials.curve(CANDIDATE_, "") == []
    assert Wealth(()).curve(CANDIDATE_, []) == []


def test_the_champion_of_a_trial_is_the_one_at_its_begin() -> None:
    announcements: list[Announcement] = [
        said("promoted", 1, blob="a"), said("candidate", 2, blob="b"), said("promoted", 2, blob="b"),
        said("requested", 3, blob="a", action="roll_back"), said("candidate", 4, blob="d"),
        said("rolled_back", 5, blob="", version=""), said("candidate", 6, blob="f"),
    ]  # fmt: skip
    assert [champion_at(blob, announcements) for blob in "bdf"] == ["a", "a", ""]
