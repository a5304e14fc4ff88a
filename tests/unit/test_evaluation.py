"""Off-policy estimators against values computed by hand, and when they refuse."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from operators.evaluation.intervals import interval, standard_error, student_quantile
from operators.evaluation.reward_model import RewardModel
from operators.evaluation.single import Choices, Evaluation, evaluate
from operators.evaluation.slates import Lists, evaluate_slates
from operators.evaluation.sums import Unevaluable, clusters

Floats = NDArray[np.float64]


def choices(
    rows: Sequence[tuple[int, int, float, Sequence[float], Sequence[float]]], context: Floats | None = None
) -> Choices:
    """Return a chunk of (shopper, action, reward, logged, target)."""
    shopper, action, reward, logged, target = (np.array(column) for column in zip(*rows, strict=True))
    contexts = np.zeros((len(rows), 0)) if context is None else context
    return Choices(shopper, action, reward.astype(float), logged.astype(float), target.astype(float), contexts)


def each(answers: Choices, change: Callable[[Any], Any]) -> Choices:
    """Return answers with each column changed."""
    return Choices(*map(change, answers))


def shop(shoppers: int = 2_000, seed: int = 0) -> Choices:
    """Return answers of a shop whose logging policy depends on a context, for a target that is uniform."""
    random = np.random.default_rng(seed)
    shopper = np.repeat(np.arange(shoppers), 3)
    context = np.repeat(random.normal(size=(shoppers, 1)), 3, axis=0)
    logits = context * np.array([1.0, 0.0, -1.0])
    logged = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    action = (logged.cumsum(axis=1) < random.random((len(shopper), 1))).sum(axis=1).clip(0, 2)
    rates = np.array([0.1, 0.2, 0.3]) + 0.1 * np.tanh(context)
    reward = (random.random(len(shopper)) < rates[np.arange(len(shopper)), action]).astype(float)
    return Choices(shopper, action, reward, logged, np.full(logged.shape, 1 / 3), context)


# Four shoppers with an answer each, and one with two. Weights: 2, 0.5, 0.5, 2, 2, 0.5.
HAND = [
    (1, 0, 1.0, (0.25, 0.75), (0.5, 0.5)),
    (2, 1, 0.0, (0.2, 0.8), (0.6, 0.4)),
    (3, 1, 3.0, (0.2, 0.8), (0.6, 0.4)),
    (4, 0, 0.0, (0.25, 0.75), (0.5, 0.5)),
    (5, 0, 2.0, (0.25, 0.75), (0.5, 0.5)),
    (5, 1, 1.0, (0.2, 0.8), (0.6, 0.4)),
]


def test_weighted_estimators_are_those_computed_by_hand() -> None:
    found = evaluate([choices(HAND)], floor=0)
    # w r: 2, 0, 1.5, 0, 4, 0.5
    assert found.estimates["ips"].value == pytest.approx(8 / 6)
    assert found.estimates["snips"].value == pytest.approx(8 / 7.5)
    assert found.estimates["logged"].value == pytest.approx(7 / 6)
    assert found.differences["ips"].value == pytest.approx(1 / 6)
    assert found.effective_answers == pytest.approx(7.5**2 / 12.75)
    assert found.effective_shoppers == pytest.approx(7.5**2 / (4 + 0.25 + 0.25 + 4 + 6.25))
    # weights of rewarded answers by shopper: 2, 0, 0.5, 0, 2.5
    assert found.effective_rewarded == pytest.approx(5**2 / (4 + 0.25 + 6.25))
    assert (found.rewarded_shoppers, found.shoppers, found.answers) == (3, 5, 6)
    assert found.weight_max == 2
    assert found.weight_mean == pytest.approx(7.5 / 6)
    assert (found.overlap, found.overlap_known) == (1, True)


def test_interval_is_that_computed_by_hand() -> None:
    """Terms 4, -1, -1, -1, -1 of five shoppers, step by step from the formulas."""
    found = interval(10.0, np.array([4.0, -1, -1, -1, -1]), 0.95)
    skewness, kurtosis = 12 / 8, (256 + 4) / 5 / 16
    quantile = student_quantile(0.975, 2 * 5 / (kurtosis - 1))
    assert 2 * 5 / (kurtosis - 1) == pytest.approx(4.444, abs=1e-3)

    def studentised(y: float) -> float:
        return 3 * 5**0.5 / skewness * (math.cbrt(1 + skewness * (y / 5**0.5 - skewness / 30)) - 1)

    assert found.low == pytest.approx(10 - studentised(quantile))  # the standard error is 2 / sqrt(4)
    assert found.high == pytest.approx(10 - studentised(-quantile))
    assert found.high - 10 > 10 - found.low  # what was rare and large may have been missed


def test_interval_without_spread_is_a_point() -> None:
    assert interval(3.0, np.zeros(10), 0.95) == (3, 3, 3)


def test_interval_of_normal_terms_is_students() -> None:
    terms = np.random.default_rng(1).normal(size=50_000)
    found = interval(0.0, terms, 0.9)
    assert found.high == pytest.approx(1.645 * standard_error(terms), rel=0.01)
    assert found.low == pytest.approx(-found.high, rel=0.01)


@pytest.mark.parametrize(
    ("freedom", "wanted"), [(1, 12.70620474), (2, 4.30265273), (4, 2.77644511), (10, 2.22813885), (120, 1.97993041)]
)
def test_quantiles_of_student_are_those_of_tables(freedom: float, wanted: float) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(wanted, rel=1e-8)


def test_reward_model_is_a_ridge_regression() -> None:
    """Against the same regression, solved from a design matrix of all answers outside the fold."""
    random = np.random.default_rng(0)
    fold, action = random.integers(0, 5, 400), random.integers(0, 3, 400)
    context = random.normal(3.0, 2.0, size=(400, 2))
    reward = context @ np.array([0.5, -0.2]) + action + random.normal(size=400)
    model = RewardModel(3, 2)
    for part in (slice(0, 150), slice(150, 400)):
        model.add(fold[part], context[part], action[part], reward[part])
    model.fit()
    found = model.predict(fold, context)
    scaled = (context - context.mean(axis=0)) / context.std(axis=0)
    x = np.column_stack([np.ones(400), scaled])
    for number in range(5):
        out, within = fold == number, fold != number
        errors = {}
        for penalty in (1.0, 10.0, 100.0, 1_000.0, 100_000.0):

            def fitted(rows: NDArray[np.bool_], penalty: float = penalty) -> Floats:
                design = np.hstack([x, *[x * (action == one)[:, None] for one in range(3)]])[rows]
                weights = np.repeat([1.0, penalty], [3, 9])
                solved = np.linalg.solve(design.T @ design + np.diag(weights), design.T @ reward[rows])
                return np.stack([x @ (solved[:3] + solved[3 + 3 * one : 6 + 3 * one]) for one in range(3)], axis=1)

            errors[penalty] = sum(
                np.sum((reward - fitted(within & (fold != other))[np.arange(400), action])[fold == other] ** 2)
                for other in range(5)
                if other != number
            )
        best = min(errors, key=lambda one: errors[one])
        assert found[out] == pytest.approx(fitted(within, best)[out], rel=1e-6)


def test_reward_model_with_many_actions_has_means_of_their_own() -> None:
    random = np.random.default_rng(0)
    fold, action, context = random.integers(0, 5, 20_000), random.integers(0, 1_000, 20_000), random.random((20_000, 9))
    model = RewardModel(1_000, 9)
    model.add(fold, context, action, np.where(action % 2, 1.0, 0.0))
    model.fit()
    found = model.predict(fold[:100], context[:100]).mean(axis=0)
    assert found[1::2].mean() > 0.9
    assert found[::2].mean() < 0.1


def test_doubly_robust_estimators_are_near_what_is_true() -> None:
    answers = shop()
    found = evaluate([answers])
    truth = float(np.mean(np.array([0.1, 0.2, 0.3]).mean() + 0.1 * np.tanh(answers.context)))
    for name in ("ips", "snips", "dr", "switch", "shrinkage"):
        assert found.estimates[name].low < truth < found.estimates[name].high
    assert found.estimates["dm"].value == pytest.approx(truth, rel=0.1)
    assert found.differences["shrinkage"].value == pytest.approx(
        found.estimates["shrinkage"].value - found.estimates["logged"].value
    )
    assert found.warnings == ()


def test_doubly_robust_terms_are_those_of_its_formula() -> None:
    answers = shop(300)
    rows = np.arange(len(answers.action))
    model = RewardModel(3, 1)
    fold = answers.shopper % clusters % 5
    model.add(fold, answers.context, answers.action, answers.reward)
    model.fit()
    predicted = model.predict(fold, answers.context)
    weight = 1 / 3 / answers.logged[rows, answers.action]
    residual = answers.reward - predicted[rows, answers.action]
    found = evaluate([answers])
    v = (answers.target * predicted).sum(axis=1)
    assert found.estimates["dm"].value == pytest.approx(v.mean())
    assert found.estimates["dr"].value == pytest.approx((v + weight * residual).mean())
    shrunk = weight * found.shrinkage / (weight**2 + found.shrinkage) if np.isfinite(found.shrinkage) else weight
    assert found.estimates["shrinkage"].value == pytest.approx((v + shrunk * residual).mean())
    assert found.estimates["shrinkage"][1:] == found.estimates["dr"][1:]
    kept = np.where(weight <= found.tau, weight, 0)
    assert found.estimates["switch"].value == pytest.approx((v + kept * residual).mean())


def test_errors_are_those_of_shoppers_not_of_answers() -> None:
    """Answers that are repeated ten times say nothing new if they are of the same shoppers."""
    once = shop(500)
    repeated = each(once, lambda column: np.repeat(column, 10, axis=0))
    same, anew = evaluate([once]), evaluate([repeated])
    assert anew.estimates["ips"] == pytest.approx(same.estimates["ips"])
    others = repeated._replace(shopper=np.arange(len(repeated.shopper)))
    assert evaluate([others]).estimates["ips"].high < same.estimates["ips"].high


def _refused(chunk: Choices, **arguments: float) -> str:
    with pytest.raises(Unevaluable) as refused:
        evaluate([chunk], **arguments)
    return refused.value.reason


def test_what_means_nothing_is_refused() -> None:
    answers = shop(200)
    assert _refused(answers._replace(reward=np.zeros(600))) == "no_rewards"
    assert _refused(each(answers, lambda column: column[:0])) == "no_answers"
    assert _refused(answers._replace(shopper=np.zeros(600, np.int64))) == "too_few"
    assert _refused(answers, floor=1_000) == "too_few"
    never = np.zeros((600, 3))
    never[np.arange(600), answers.action] = 1
    other = np.roll(never, 1, axis=1)
    assert _refused(answers._replace(logged=never)) == "no_overlap"
    assert _refused(answers._replace(logged=never, target=other)) == "no_overlap"
    assert _refused(answers._replace(logged=np.ones(600))) == "no_overlap"  # known from the mean weight
    assert evaluate([answers._replace(logged=never, target=never)]).overlap == 1  # itself can be judged


def test_what_is_malformed_is_refused() -> None:
    answers = shop(200)
    chosen = np.arange(600), answers.action
    zero = answers.logged.copy()
    zero[chosen] = 0
    zero /= zero.sum(axis=1, keepdims=True)
    for wrong in (
        answers._replace(logged=answers.logged * 2),
        answers._replace(logged=zero),
        answers._replace(logged=answers.logged[chosen] * 0),
        answers._replace(target=answers.target[:, :2]),
        answers._replace(target=answers.target[:100]),
        answers._replace(target=-answers.target),
        answers._replace(target=answers.target[0]),
        answers._replace(reward=np.full(600, np.nan)),
        answers._replace(context=np.full((600, 1), np.inf)),
        answers._replace(action=answers.action + 3),
        answers._replace(shopper=answers.shopper - 1),
    ):
        assert _refused(wrong) == "malformed"
    with pytest.raises(Unevaluable, match="in each chunk"):
        evaluate([answers, answers._replace(context=np.zeros((600, 2)))])
    with pytest.raises(ValueError, match="iterated twice"):
        evaluate(iter([answers]))
    with pytest.raises(ValueError, match="level"):
        evaluate([answers], level=95)


def test_what_is_doubtful_is_told() -> None:
    answers = shop(2_000)
    assert evaluate([answers._replace(logged=answers.logged * 0.6 + 0.4 / 3)]).warnings == ("weights",)
    chosen = answers.logged[np.arange(6_000), answers.action]
    by_chosen = evaluate([answers._replace(logged=chosen)])
    assert (by_chosen.warnings, by_chosen.overlap_known) == ((), False)
    assert by_chosen.estimates["dr"] == pytest.approx(evaluate([answers]).estimates["dr"])
    assert evaluate([shop(60)]).warnings == ("few",)
    # A fourth action that was never possible has 3 % of the target.
    logged = np.column_stack([answers.logged, np.zeros(6_000)])
    target = np.column_stack([answers.target * 0.97, np.full(6_000, 0.03)])
    found = evaluate([answers._replace(logged=logged, target=target)])
    assert found.warnings == ("overlap",)
    assert found.overlap == pytest.approx(0.97)


def test_many_shoppers_share_clusters() -> None:
    answers = shop(100)
    far = answers._replace(shopper=answers.shopper + clusters * (answers.shopper % 7))
    assert evaluate([far]).estimates == evaluate([answers]).estimates


def lists(shoppers: int = 3_000, seed: int = 0, places: int = 3) -> Lists:
    """Return lists of three places, each of two items with equal chances; the target shows the first with 0.8."""
    random = np.random.default_rng(seed)
    item = random.integers(0, 2, (shoppers, places))
    reward = (random.random((shoppers, places)) < np.where(item, 0.1, 0.3)).astype(float)
    target = np.where(item, 0.2, 0.8)
    logged = np.full((shoppers, places), 0.5)
    return Lists(np.arange(shoppers), reward, logged, target, np.full(shoppers, places))


def test_slates_are_those_computed_by_hand() -> None:
    """Two shoppers with two lists each. Ratios: (2, 0.5), (0.5, 1), (1, 2), (1, -)."""
    chunk = Lists(
        np.array([0, 0, 1, 1]), np.array([[1.0, 0], [0, 1], [1, 1], [0, 9]]), np.full((4, 2), 0.5),
        np.array([[1.0, 0.25], [0.25, 0.5], [0.5, 1], [0.5, 0.7]]), np.array([2, 2, 2, 1]),
    )  # fmt: skip
    found = evaluate_slates([chunk], floor=0)
    # place 1: weighted rewards 2 + 0 + 1 + 0 over weights 4.5; place 2, which 3 of 4 lists have: 0 + 1 + 2 over 3.5
    assert found.estimates["independent"].value == pytest.approx(3 / 4.5 + 0.75 * 3 / 3.5)
    # products: (2, 1), (0.5, 0.5), (1, 2), (1)
    assert found.estimates["interaction"].value == pytest.approx(3 / 4.5 + 0.75 * 2.5 / 3.5)
    # whole lists: 1, 0.5, 2, 1
    assert found.estimates["list"].value == pytest.approx(3 / 4.5 + 0.75 * 2.5 / 3.5)
    assert found.estimates["logged"].value == pytest.approx(4 / 4)
    assert found.overlap == 1
    assert (found.default, found.answers, found.shoppers) == ("independent", 4, 2)
    assert found.warnings == ("few", "independent")


def test_slates_are_near_what_is_true() -> None:
    found = evaluate_slates([lists()])
    for name in ("list", "interaction", "independent"):
        assert found.estimates[name].low < 3 * (0.8 * 0.3 + 0.2 * 0.1) < found.estimates[name].high
        assert found.differences[name].low > 0
    widths = [found.estimates[name].high - found.estimates[name].low for name in ("list", "interaction", "independent")]
    assert widths == sorted(widths, reverse=True)
    assert found.default == "interaction"


def test_slates_that_mean_nothing_are_refused() -> None:
    def refused(chunk: Lists, **arguments: float) -> str:
        with pytest.raises(Unevaluable) as error:
            evaluate_slates([chunk], **arguments)
        return error.value.reason

    chunk = lists(300)
    assert refused(chunk._replace(reward=chunk.reward * 0)) == "no_rewards"
    assert refused(chunk._replace(target=chunk.target * 0.5)) == "no_overlap"
    assert refused(chunk, floor=1e6) == "too_few"
    assert refused(chunk._replace(shopper=chunk.shopper * 0)) == "too_few"
    assert refused(lists(0)) == "no_answers"
    for wrong in (
        chunk._replace(logged=chunk.logged * 0), chunk._replace(target=chunk.target + 1),
        chunk._replace(reward=chunk.reward * np.nan), chunk._replace(length=chunk.length + 1),
        chunk._replace(reward=chunk.reward[:, :2]), chunk._replace(shopper=chunk.shopper - 1), lists(10, places=21),
        chunk._replace(reward=chunk.reward[0]),
    ):  # fmt: skip
        assert refused(wrong) == "malformed"
    with pytest.raises(ValueError, match="level"):
        evaluate_slates([chunk], level=0.1)


def test_evaluation_can_be_written() -> None:
    import msgspec

    found = evaluate([shop(300)])
    assert msgspec.json.decode(msgspec.json.encode(found), type=Evaluation).answers == 900
