"""What must hold of off-policy estimates of any answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.evaluation.single import Choices, evaluate
from operators.evaluation.slates import Lists, evaluate_slates

seeds = st.integers(0, 2**32 - 1)


def answers(seed: int) -> Choices:
    """Return random answers of a few shoppers, with rewards of any sign."""
    random = np.random.default_rng(seed)
    count, actions, features = int(random.integers(40, 300)), int(random.integers(2, 6)), int(random.integers(0, 4))
    logged = random.dirichlet(np.ones(actions), count) * 0.8 + 0.2 / actions
    action = (logged.cumsum(axis=1) < random.random((count, 1))).sum(axis=1).clip(0, actions - 1)
    reward = random.normal(1, 3, count) * (random.random(count) < 0.5)
    target = random.dirichlet(np.ones(actions), count)
    context = random.normal(size=(count, features))
    return Choices(random.integers(0, max(3, count // 2), count), action, reward, logged, target, context)


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_the_logged_policy_is_worth_the_mean(seed: int) -> None:
    one = answers(seed)
    found = evaluate([one._replace(target=one.logged)], floor=0)
    mean = one.reward.mean()
    for name, estimate in found.estimates.items():
        assert estimate.value == pytest.approx(mean), name
    assert set(found.differences.values()) == {(0, 0, 0)}
    assert found.weight_mean == pytest.approx(1)
    assert found.effective_answers == pytest.approx(len(one.action))


@settings(deadline=None, max_examples=20)
@given(seeds, st.floats(0.01, 1_000))
def test_estimates_have_the_unit_of_the_reward(seed: int, scale: float) -> None:
    one = answers(seed)
    found, scaled = evaluate([one], floor=0), evaluate([one._replace(reward=one.reward * scale)], floor=0)
    for name, estimate in found.estimates.items():
        assert scaled.estimates[name] == pytest.approx([number * scale for number in estimate], rel=1e-6)
        assert estimate.low <= estimate.value <= estimate.high


@settings(deadline=None, max_examples=20)
@given(seeds, st.integers(1, 5))
def test_order_and_chunks_do_not_matter(seed: int, parts: int) -> None:
    one = answers(seed)
    order = np.random.default_rng(seed).permutation(len(one.action))
    pieces = [
        Choices(
            one.shopper[rows], one.action[rows], one.reward[rows], one.logged[rows], one.target[rows], one.context[rows]
        )
        for rows in np.array_split(order, parts)
    ]  # fmt: skip
    found, mixed = evaluate([one], floor=0), evaluate(pieces, floor=0)
    for name in found.estimates:
        assert mixed.estimates[name] == pytest.approx(found.estimates[name], rel=1e-6, abs=1e-9)


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_names_of_actions_do_not_matter(seed: int) -> None:
    one = answers(seed)
    order = np.random.default_rng(seed).permutation(one.target.shape[1])
    other = one._replace(action=np.argsort(order)[one.action], logged=one.logged[:, order], target=one.target[:, order])
    found, mixed = evaluate([one], floor=0), evaluate([other], floor=0)
    for name in found.estimates:
        assert mixed.estimates[name] == pytest.approx(found.estimates[name], rel=1e-6, abs=1e-9)


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_slates_of_one_place_are_single_choices(seed: int) -> None:
    one = answers(seed)
    rows = np.arange(len(one.action)), one.action
    lists = Lists(
        one.shopper, one.reward[:, None], one.logged[rows][:, None], one.target[rows][:, None],
        np.ones(len(one.action), np.int64),
    )  # fmt: skip
    found, single = evaluate_slates([lists], floor=0), evaluate([one], floor=0)
    for name in ("list", "interaction", "independent"):
        assert found.estimates[name].value == pytest.approx(single.estimates["snips"].value)
    assert found.estimates["logged"] == pytest.approx(single.estimates["logged"])
