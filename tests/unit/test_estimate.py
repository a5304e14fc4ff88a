"""Estimated scores of views without a label, compared with the truth that comes later."""

import random
from collections.abc import Mapping

import pytest

from headrace.state import decode, digest, encode
from learners.parts.prequential import Probability
from learners.purchase.estimate import EstimateErrors, compared_every, estimated, views_min

BLOCK = 8


def views(count: int, *, share: float, seed: int) -> list[tuple[float, bool]]:
    """Return labelled views whose probabilities are right on average."""
    chance = random.Random(seed)
    return [(given := share * chance.uniform(0.5, 1.5), chance.random() < given) for _ in range(count)]


def test_an_estimate_is_compared_with_the_labels_of_its_own_views() -> None:
    found, errors = Probability(), EstimateErrors()
    before = views(2_000, share=0.3, seed=1)
    open_views = views(views_min + 5, share=0.3, seed=2)  # not a multiple of the blocks in which labels come
    told: dict[str, float] = {}

    def estimate() -> Mapping[str, float]:
        told.update(estimated([given for given, _ in open_views], found.histograms("window")))
        return told

    later = views(BLOCK * 40, share=0.6, seed=3)  # quite other ones, of which nothing may be in the comparison
    labels = before + open_views + later
    for place in range(0, len(labels), BLOCK):
        if told and place > len(before) + len(open_views):
            break
        block = labels[place : place + BLOCK]
        found.observe_all(block)
        # The estimate is made once the block before the open views is labelled.
        unlabelled = len(open_views) if place + BLOCK == len(before) else 0 if not told else views_min
        errors.label(block, found, unlabelled, estimate)
        errors_again = EstimateErrors()
        errors_again.restore(decode(encode(errors.state())))
        assert digest(errors_again.state()) == digest(errors.state())
        errors = errors_again
    truth = Probability()
    truth.observe_all(open_views)
    wanted = truth.scores("whole")
    assert set(errors.errors) == {"auc", "base_rate", "log_loss"}
    for metric, error in errors.errors.items():
        assert error == pytest.approx(told[metric] - wanted[metric], abs=1e-12)
    assert abs(errors.errors["base_rate"]) < 0.07, "calibrated probabilities say how many will be bought"


def test_comparisons_begin_rarely_and_never_of_few_views() -> None:
    found, errors, asked = Probability(), EstimateErrors(), list[int]()

    def estimate() -> Mapping[str, float]:
        asked.append(found.judged)
        return {}

    labels = views(3 * compared_every, share=0.3, seed=4)
    for place in range(0, len(labels), BLOCK):
        found.observe_all(block := labels[place : place + BLOCK])
        errors.label(block, found, views_min if place else views_min - 1, estimate)
    assert asked == [2 * BLOCK, 2 * BLOCK + compared_every, 2 * BLOCK + 2 * compared_every]
