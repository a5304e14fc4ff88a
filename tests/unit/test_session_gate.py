"""Rule 2 of the gate: one bet per session, a rival that is chosen before the outcome, an interval, state."""

from collections.abc import Iterator

import numpy as np
import pytest

from headrace import state as states
from learners.rounds.gate import Rule, Verdict
from learners.rounds.session_gate import MEANS, SessionGate, Sessions, Visit, Wealth, shopper_number

FRESH = {"nothing": 0.5}


def scores(seed: int, count: int, gain: float) -> Iterator[tuple[Visit, float, dict[str, float]]]:
    """Yield predictions in sessions of three, and the scores of a challenger that is better by `gain` on average."""
    random = np.random.default_rng(seed)
    for number in range(count):
        champion = 1 / random.geometric(0.15)
        challenger = 1 / random.geometric(0.15) if random.random() < 0.3 else champion
        if random.random() < 4 * abs(gain):
            challenger = min(1.0, max(0.0, challenger + np.sign(gain) * 0.25))
        yield Visit(number // 3 % 700, number // 2_100), float(challenger), {"champion": float(champion)}


def run(gate: SessionGate, rows: Iterator[tuple[Visit, float, dict[str, float]]]) -> Verdict | None:
    for row in rows:
        if verdict := gate.observe(*row):
            return verdict
    return None


@pytest.mark.parametrize(("gain", "reason"), [(0.03, "better"), (-0.03, "worse")])
@pytest.mark.parametrize("seed", range(3))
def test_a_better_model_is_promoted_and_a_worse_one_refused(seed: int, gain: float, reason: str) -> None:
    verdict = run(SessionGate(Rule()), scores(seed, 6_000, gain))
    assert verdict is not None
    assert (verdict.reason, verdict.kind) == (reason, "promote" if gain > 0 else "refuse")
    assert verdict.interval is not None
    low, high = verdict.interval
    assert low < verdict.mean_difference < high
    assert (low >= 0) if gain > 0 else (high <= 0), "the interval and the verdict follow from the same bets"
    assert verdict.sessions <= verdict.predictions / 2


def test_the_rival_is_chosen_before_the_outcome_and_kept_for_the_session() -> None:
    gate, visit = SessionGate(Rule()), Visit(1, 1)
    gate.observe(visit, 0.5, {"nothing": 0.0, "champion": 1.0})
    assert gate.wealth.mean_difference == 0.5, "at the start no rival is better: the first one, not the better one"
    gate.observe(visit, 0.5, {"nothing": 0.0, "champion": 1.0})
    assert gate.wealth.mean_difference == 0.5, "within the session the rival is the same"
    before = gate.wealth.evidence()
    gate.observe(Visit(2, 2), 0.5, {"nothing": 0.0, "champion": 1.0})
    assert gate.wealth.evidence()[0] < before[0], "a new session is compared with the rival that was better so far"


def test_of_equal_rivals_the_first_is_chosen() -> None:
    gate = SessionGate(Rule())
    gate.observe(Visit(1, 1), 0.5, {"nothing": 0.25, "champion": 0.25})
    gate.observe(Visit(2, 2), 0.5, {"nothing": 0.5, "champion": 0.0})
    assert gate.wealth.mean_difference == pytest.approx((0.25 + 0.0) / 2)


def test_a_rival_that_is_gone_is_replaced_by_the_first() -> None:
    gate = SessionGate(Rule())
    gate.observe(Visit(1, 1), 0.5, {"nothing": 0.0, "champion": 1.0})
    gate.observe(Visit(2, 2), 1.0, {"nothing": 0.5, "champion": 1.0})
    sums = gate.wealth.mean_difference
    gate.observe(Visit(2, 2), 0.5, {"nothing": 0.25})
    assert sums == pytest.approx(0.25)
    assert gate.wealth.mean_difference > 0


def test_a_session_counts_as_one_bet() -> None:
    rule = Rule()
    gate = SessionGate(rule)
    gate.observe(Visit(7, 1), 1.0, {"champion": 0.0})
    one = gate.wealth.evidence()
    for _ in range(100):
        gate.observe(Visit(7, 1), 1.0, {"champion": 0.0})
    assert gate.wealth.evidence() == pytest.approx(one), "a session counts at most like one prediction"
    assert (gate.wealth.sessions, gate.sessions.predictions) == (1, 101)


def test_only_the_first_predictions_of_a_session_count() -> None:
    gate = SessionGate(Rule(session_predictions_max=2))
    for challenger in (0.5, 0.5, 0.9, 0.0):
        gate.observe(Visit(7, 1), challenger, {"champion": 0.4})
    assert gate.wealth.mean_difference == pytest.approx(0.1)


def test_a_shopper_has_a_bounded_number_of_bets() -> None:
    gate = SessionGate(Rule(shopper_bets_max=3))
    for session in range(50):
        for _ in range(4):
            assert gate.observe(Visit(9, session), 1.0, {"champion": 0.0}) is None
    assert gate.wealth.sessions == 3


def test_a_prediction_without_a_session_is_a_session_of_its_own() -> None:
    gate = SessionGate(Rule())
    for _ in range(40):
        gate.observe(None, 0.5, {"champion": 0.4})
    assert gate.wealth.sessions == 40


def test_the_running_sum_of_a_session_gives_the_same_bet_as_its_end() -> None:
    rule, wealth = Rule(), Wealth(Rule())
    total = 0.0
    for number, difference in enumerate((0.2, -0.3, 0.25), 1):
        wealth.bet(number, total, total + difference)
        total += difference
    once = Wealth(rule)
    once.bet(1, 0.0, 0.0)
    once.bet(2, 0.0, 0.0)
    once.bet(3, 0.0, total)
    assert wealth.evidence() == pytest.approx(once.evidence(), rel=1e-12)
    assert wealth.mean_difference == pytest.approx(0.05)


@pytest.mark.parametrize("most", [1, 50])
def test_the_last_prediction_ends_the_test_and_no_other(most: int) -> None:
    gate = SessionGate(Rule(predictions_max=most))
    found = [gate.observe(Visit(number, 0), 0.5, {"champion": 0.5}) for number in range(most + 2)]
    assert found[: most - 1] == [None] * (most - 1)
    assert found[most - 1] is not None
    assert found[most - 1] == found[most] == found[most + 1]
    last = found[most - 1]
    assert last is not None
    assert last._replace(interval=None) == Verdict("refuse", "undecided", 1.0, most, 0.0, None, most)


def test_a_promotion_needs_more_evidence_at_the_beginning_and_a_rollback_does_not() -> None:
    def predictions(gate: SessionGate) -> int:
        verdict = run(gate, ((Visit(number, 0), 0.6, {"champion": 0.3}) for number in range(5_000)))
        assert verdict is not None
        assert verdict.reason == "better"
        return verdict.predictions

    rule = Rule(early_predictions=1_000)
    later = predictions(SessionGate(Rule(early_predictions=1)))
    assert predictions(SessionGate(rule)) > later
    assert predictions(SessionGate(rule, probation=True)) == later


def test_the_interval_holds_the_mean_difference() -> None:
    """Eleven of twelve intervals must hold it at all times; here all do, and they are not vacuous."""
    widths = []
    for seed in range(24):
        random = np.random.default_rng(seed)
        wealth = Wealth(Rule())
        for _ in range(250):
            total = 0.0
            shared = random.random() < 0.65  # within a session, differences are alike
            for number in range(1, 4):
                difference = 0.2 if shared else random.choice([-0.2, 0.1])
                wealth.bet(number, total, total + difference)
                total += difference
        mean = 0.65 * 0.2 + 0.35 * -0.05
        assert wealth.low <= mean <= wealth.high
        widths.append(wealth.high - wealth.low)
    assert max(widths) < 0.2


def test_the_grid_of_means_is_symmetric() -> None:
    assert MEANS.tolist() == sorted(set(MEANS.tolist()))
    assert MEANS.tolist() == (-MEANS[::-1]).tolist()
    assert (MEANS[0], MEANS[len(MEANS) // 2], MEANS[-1]) == (-1, 0, 1)


def test_wealth_neither_overflows_nor_vanishes() -> None:
    wealth = Wealth(Rule(alpha_better=1e-290, alpha_worse=1e-290))
    for _ in range(3_000):
        wealth.bet(1, 0.0, 1.0)
    better, worse = wealth.evidence()
    assert 1e290 < better < 1e301
    assert 0 < worse < 1e-30


def test_a_score_outside_its_range_fails_an_assertion() -> None:
    for challenger, rival in [(0.5, float("nan")), (1.5, 0.5), (0.5, -0.1)]:
        with pytest.raises(AssertionError, match="outside"):
            SessionGate(Rule()).observe(None, challenger, {"champion": rival})


@pytest.mark.parametrize("at", [0, 7, 400])
def test_a_restored_gate_continues_identically(at: int) -> None:
    rows = list(scores(3, 6_000, 0.03))
    gate = SessionGate(Rule(), rival_share=0.9)
    run(gate, iter(rows[:at]))
    again = SessionGate.from_state(states.decode(states.encode(gate.state())))
    assert run(gate, iter(rows[at:])) == run(again, iter(rows[at:])) is not None
    assert states.digest(gate.state()) == states.digest(again.state())
    third = SessionGate.from_state(states.decode(states.encode(gate.state())))
    assert third.verdict == gate.verdict


def test_shoppers_have_different_numbers() -> None:
    found = {shopper_number(f"shopper-{number}") for number in range(1_000)}
    assert len(found) == 1_000
    assert all(0 <= number < 2**63 for number in found)


def test_wealth_has_the_same_bits_on_every_processor() -> None:
    gate = SessionGate(Rule(alpha_better=1e-9, alpha_worse=1e-9))
    for number in range(200):
        gate.observe(Visit(number // 3, 0), 1 / (1 + number % 7), {"champion": 1 / (1 + number % 5)})
    assert [one.hex() for one in gate.wealth.evidence()] == ["0x1.39d41d8b22692p-3", "0x1.3de4c6fb3ae18p+5"]
    assert states.digest(gate.state())[:16] == "18bd5c135706bfa6"


def test_a_prediction_without_a_session_is_one_of_its_own() -> None:
    sessions = Sessions(Rule())
    alone = sessions.of(None, "rival")
    shopper_1 = sessions.of(Visit(1, 0), "rival")
    assert alone is not shopper_1
    assert sessions.of(Visit(1, 0), "rival") is shopper_1
    assert sessions.of(None, "rival") not in (alone, shopper_1, None)


def test_a_promotion_needs_more_evidence_at_the_beginning() -> None:
    """Before `early_predictions`, in inverse proportion to their number; a rollback does not."""
    rule = Rule(early_predictions=2_000)
    for probation in (False, True):
        gate, ends = SessionGate(rule, probation=probation), list[float]()
        for number in range(400):
            verdict = gate.observe(Visit(number, 0), 0.6, {"champion": 0.3})
            ends.append(gate.wealth.evidence()[0])
            if verdict:
                break
        assert verdict is not None
        needed = [max(1.0, 1.0 if probation else 2_000 / (n + 1)) / rule.alpha_better for n in range(len(ends))]
        assert [one >= least for one, least in zip(ends, needed, strict=True)] == [False] * (len(ends) - 1) + [True]
