"""Prequential scores: against their definitions, in three views, and after serialisation."""

import numpy as np
import pytest

from headrace.state import decode, digest, encode
from learners.parts.prequential import SCORE_VIEWS, Probability, Ranking, ScoreView


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
    """Judging a tenth of the easy events and all of the hard ones does not change the score."""
    ranking = Ranking()
    for _ in range(100):
        ranking.observe(1, weight=10.0)
    for _ in range(1_000):
        ranking.observe(None)
    assert ranking.scores("whole")["recall@20"] == pytest.approx(0.5)
    assert ranking.judged == 1_100
    assert ranking.effective == pytest.approx(2_000**2 / (100 * 100 + 1_000))


def test_the_window_has_the_newest_judgements() -> None:
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


def test_fading_stays_finite() -> None:
    ranking = Ranking(fading=0.5)
    for n in range(5_000):
        ranking.observe(1 if n % 2 else None)
    assert ranking.scores("fading")["recall@20"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("view", SCORE_VIEWS)
def test_without_judgements_there_are_no_scores(view: ScoreView) -> None:
    assert Ranking().scores(view) == {}
    assert Probability().scores(view) == {}


def stream(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    probabilities = 1 / (1 + np.exp(-rng.normal(-2.5, 1.5, count)))
    return probabilities, rng.random(count) < probabilities


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


def test_an_overconfident_learner_is_badly_calibrated() -> None:
    given, bought = stream(20_000)
    scores = Probability()
    for probability, label in zip(given, bought, strict=True):
        scores.observe(float(probability) ** 0.5, bool(label))
    expected = (given**0.5).mean() - bought.mean()
    assert scores.scores("whole")["calibration_error"] == pytest.approx(expected, abs=0.02)


def test_the_loss_of_a_certain_miss_is_bounded() -> None:
    scores = Probability()
    scores.observe(0.0, True)
    scores.observe(1.0, False)
    found = scores.scores("whole")
    assert 10 < found["log_loss"] < 12.1
    assert found["auc"] == 0.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.1])
def test_invalid_probabilities_are_refused(value: float) -> None:
    with pytest.raises(AssertionError):
        Probability().observe(value, True)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 0.0, 0.5, -1.0])
def test_invalid_weights_are_refused(weight: float) -> None:
    with pytest.raises(AssertionError):
        Ranking().observe(1, weight)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_observe_all_equals_repeated_observe(size: int) -> None:
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
def test_state_continues_exactly(cut: int) -> None:
    rng = np.random.default_rng(2)
    ranking, probability = Ranking(window=16), Probability(window=16)
    other, another = ranking, probability
    for n in range(80):
        if n == cut:
            other = Ranking.from_state(decode(encode(ranking.state())))
            another = Probability.from_state(decode(encode(probability.state())))
        rank, predicted, weight = int(rng.integers(1, 30)), float(rng.random()), float(1 / rng.uniform(0.1, 1))
        for scores in {id(ranking): ranking, id(other): other}.values():
            scores.observe(rank, weight)
        for pairs in {id(probability): probability, id(another): another}.values():
            pairs.observe(predicted, n % 3 == 0, weight)
    assert digest(other.state()) == digest(ranking.state())
    assert digest(another.state()) == digest(probability.state())
    for view in SCORE_VIEWS:
        assert other.scores(view) == ranking.scores(view)
