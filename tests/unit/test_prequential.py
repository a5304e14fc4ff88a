"""Prequential scores: against plain definitions, over three views, from bytes and back."""

import numpy as np
import pytest

from headrace.state import decode, digest, encode
from learners.prequential import VIEWS, Probability, Ranking, View


def test_ranking_by_hand() -> None:
    ranking = Ranking()
    for rank in (1, 2, None, 15, 21):
        ranking.observe(rank)
    scores = ranking.scores("whole")
    assert scores["recall@10"] == pytest.approx(2 / 5)
    assert scores["recall@20"] == pytest.approx(3 / 5)
    assert scores["mrr@10"] == pytest.approx((1 + 1 / 2) / 5)
    assert scores["mrr@20"] == pytest.approx((1 + 1 / 2 + 1 / 15) / 5)
    assert scores["ndcg@20"] == pytest.approx((1 + 1 / np.log2(3) + 1 / np.log2(16)) / 5)


def test_weights_are_inverse_probabilities() -> None:
    """Judging only a tenth of the easy events and all of the hard ones must not change the score."""
    ranking = Ranking()
    for _ in range(100):
        ranking.observe(1, weight=10.0)
    for _ in range(1_000):
        ranking.observe(None)
    assert ranking.scores("whole")["recall@20"] == pytest.approx(0.5)
    assert ranking.judged == 1_100
    assert ranking.effective == pytest.approx(2_000**2 / (100 * 100 + 1_000))


def test_the_window_holds_the_newest() -> None:
    ranking = Ranking(window=10)
    for _ in range(30):
        ranking.observe(None)
    for _ in range(6):
        ranking.observe(1)
    assert ranking.scores("window")["recall@20"] == pytest.approx(0.6)
    assert ranking.scores("whole")["recall@20"] == pytest.approx(6 / 36)


def test_fading_is_exponential() -> None:
    ranking = Ranking(fading=0.9)
    ranks = [1, None, 3, None, 1, 2]
    for rank in ranks:
        ranking.observe(rank)
    weights = 0.9 ** np.arange(len(ranks))[::-1]
    gains = np.array([1, 0, 1 / 3, 0, 1, 1 / 2])
    assert ranking.scores("fading")["mrr@20"] == pytest.approx((weights * gains).sum() / weights.sum())


def test_fading_stays_finite_for_ever() -> None:
    ranking = Ranking(fading=0.5)
    for n in range(5_000):
        ranking.observe(1 if n % 2 else None)
    assert ranking.scores("fading")["recall@20"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_judged_gives_no_scores(view: View) -> None:
    assert Ranking().scores(view) == {}
    assert Probability().scores(view) == {}


def stream(count: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(1)
    probabilities = 1 / (1 + np.exp(-draw.normal(-2.5, 1.5, count)))
    return probabilities, draw.random(count) < probabilities


def test_probability_scores_are_near_the_exact_ones() -> None:
    given, bought = stream(20_000)
    scores = Probability(window=20_000)
    for probability, label in zip(given, bought, strict=True):
        scores.observe(float(probability), bool(label))
    pairs = (given[bought][:, None] > given[~bought][None, :]).mean()
    loss = -np.where(bought, np.log(given), np.log1p(-given)).mean()
    for view in ("whole", "window"):
        found = scores.scores(view)
        assert found["auc"] == pytest.approx(pairs, abs=2e-3)
        assert found["log_loss"] == pytest.approx(loss, abs=2e-3)
        assert found["base_rate"] == pytest.approx(bought.mean())
        assert found["calibration_error"] < 0.01


def test_a_learner_that_promises_too_much_is_badly_calibrated() -> None:
    given, bought = stream(20_000)
    scores = Probability()
    for probability, label in zip(given, bought, strict=True):
        scores.observe(float(probability) ** 0.5, bool(label))
    expected = (given**0.5).mean() - bought.mean()
    assert scores.scores("whole")["calibration_error"] == pytest.approx(expected, abs=0.02)


def test_certainty_costs_a_bounded_loss() -> None:
    scores = Probability()
    scores.observe(0.0, True)
    scores.observe(1.0, False)
    found = scores.scores("whole")
    assert 10 < found["log_loss"] < 12.1
    assert found["auc"] == 0.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.1])
def test_what_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(AssertionError):
        Probability().observe(value, True)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 0.0, 0.5, -1.0])
def test_what_is_no_weight_is_refused(weight: float) -> None:
    with pytest.raises(AssertionError):
        Ranking().observe(1, weight)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_several_at_once_are_as_one_after_another(size: int) -> None:
    given, bought = stream(100)
    pairs = list(zip(given.tolist(), bought.tolist(), strict=True))
    single, several = Probability(window=30, fading=0.01), Probability(window=30, fading=0.01)  # scaled down in between
    for probability, label in pairs:
        single.observe(probability, label)
    for start in range(0, len(pairs), size):
        several.observe_all(pairs[start : start + size])
    assert digest(several.state()) == digest(single.state())
    assert several.judged == 100


@pytest.mark.parametrize("cut", [0, 5, 40])
def test_goes_on_from_its_state(cut: int) -> None:
    draw = np.random.default_rng(2)
    ranking, probability = Ranking(window=16), Probability(window=16)
    other, another = ranking, probability
    for n in range(80):
        if n == cut:
            other = Ranking.from_state(decode(encode(ranking.state())))
            another = Probability.from_state(decode(encode(probability.state())))
        rank, chance, weight = int(draw.integers(1, 30)), float(draw.random()), float(1 / draw.uniform(0.1, 1))
        for scores in {id(ranking): ranking, id(other): other}.values():
            scores.observe(rank, weight)
        for pairs in {id(probability): probability, id(another): another}.values():
            pairs.observe(chance, n % 3 == 0, weight)
    assert digest(other.state()) == digest(ranking.state())
    assert digest(another.state()) == digest(probability.state())
    for view in VIEWS:
        assert other.scores(view) == ranking.scores(view)
