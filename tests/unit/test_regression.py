"""The regression equals River's, bit for bit."""

import random

from river import optim
from river.linear_model import LogisticRegression

from learners.parts.regression import Regression


def test_it_equals_rivers_bit_for_bit() -> None:
    rng = random.Random(5)
    model = Regression(rate=0.02, intercept=-3.0)
    rivers = LogisticRegression(optim.SGD(0.02), intercept_init=-3.0, intercept_lr=0.02)
    for _ in range(2_000):
        features = {rng.randrange(300): 1.0 for _ in range(6)} | {rng.randrange(300): rng.gauss(0, 1)}
        true = rng.random() < 0.2
        assert model.probability(features) == rivers.predict_proba_one(features)[True]
        model.learn(features, true)
        rivers.learn_one(features, true)
    assert model.weights == rivers.weights
    assert model.intercept == rivers.intercept


def test_a_restored_model_continues_identically() -> None:
    model = Regression(rate=0.02)
    for number in range(50):
        model.learn({number % 7: 1.0, 9: 0.5}, number % 3 == 0)
    again = Regression(rate=0.02)
    again.restore(model.weights, model.intercept)
    for other in (model, again):
        other.learn({2: 1.0}, True)
    assert again.weights == model.weights
    assert again.probability({2: 1.0, 9: 0.5}) == model.probability({2: 1.0, 9: 0.5})
