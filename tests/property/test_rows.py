"""The learner of rows: equal digests whatever the batching and the kernels, states that continue, bounds that hold."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.state import decode, digest, encode
from learners.parts.laplace import LaplaceRegression, sigmoid
from learners.parts.rows import Columns, Row, RowLearner, RowSettings

COLUMNS = Columns(("a", "b", "c"), ("name",))
SETTINGS = RowSettings(first=30, levels_max=3)
NUMBER = st.one_of(
    st.just(0.0), st.floats(-1e9, 1e9, allow_nan=False, allow_subnormal=False), st.integers(0, 5).map(float)
)
ROW = st.builds(Row, st.tuples(NUMBER, NUMBER, NUMBER), st.tuples(st.sampled_from(["", "x", "y", "z", "w"])))
LESSON = st.lists(st.tuples(ROW, st.booleans()), min_size=35, max_size=60)


def learned(count: int, seed: int = 1) -> RowLearner:
    """Return a learner of rows where `a` above 2 doubles the effect of `b`."""
    draw, learner = np.random.default_rng(seed), RowLearner(COLUMNS, RowSettings(first=200, levels_max=3))
    for _ in range(count):
        a, b = int(draw.integers(0, 5)), float(draw.lognormal(0, 1))
        odds = -2.0 + (a > 0) * 1.5 * np.log(b)
        name = "xyzw"[draw.integers(0, 4)]
        learner.learn(Row((float(a), b, 0.0), (name,)), bool(draw.random() < 1 / (1 + np.exp(-odds))))
    return learner


@settings(max_examples=40, deadline=None)
@given(LESSON, st.data())
def test_a_restored_state_continues_identically_and_predicting_changes_nothing(
    lesson: list[tuple[Row, bool]], data: st.DataObject
) -> None:
    learner, again = RowLearner(COLUMNS, SETTINGS), RowLearner(COLUMNS, SETTINGS)
    cut = data.draw(st.integers(0, len(lesson)))
    for n, (row, label) in enumerate(lesson):
        if n == cut:
            again = RowLearner.from_state(decode(encode(again.state())), COLUMNS, SETTINGS)
        given_before = learner.probability(row)
        assert 0 <= given_before <= 1
        assert again.probability(row) == given_before
        assert learner.learn(row, label) == given_before or row.names[0] not in ("", *_levels(learner))
        again.learn(row, label)
        for used, maximum in learner.bounds().values():
            assert used <= maximum
    assert digest(learner.state()) == digest(again.state())


def _levels(learner: RowLearner) -> list[str]:
    return learner.encoding.state()["levels"][0] if learner.encoding else []


def test_a_number_that_is_none_is_refused_and_changes_nothing() -> None:
    learner = learned(10)
    before = digest(learner.state())
    for bad in (float("nan"), float("inf")):
        with pytest.raises(AssertionError, match="wanted finite numbers"):
            learner.learn(Row((bad, 1.0, 0.0), ("x",)), True)
    assert digest(learner.state()) == before


def test_it_finds_what_depends_on_a_flag() -> None:
    learner = learned(3_000)
    assert learner.encoding is not None
    assert learner.encoding.gate == "a"
    low, high = (learner.probability(Row((1.0, b, 0.0), ("x",))) for b in (0.3, 3.0))
    assert high > 2 * low
    without = [learner.probability(Row((0.0, b, 0.0), ("x",))) for b in (0.3, 3.0)]
    assert abs(without[1] - without[0]) < (high - low) / 2


def test_reasons_sum_up_to_the_log_odds() -> None:
    learner, row = learned(500), Row((3.0, 9.0, 0.0), ("y",))
    reasons = learner.reasons(row)
    assert reasons is not None
    assert set(reasons.parts) == {"a", "b", "c", "name"}
    assert sigmoid(reasons.base + sum(reasons.parts.values())) == pytest.approx(learner.probability(row), abs=1e-9)
    assert learned(199).reasons(row) is None, "the first rows are still waited for"


def test_one_step_reaches_the_mode_and_the_covariance_stays_symmetric_and_positive() -> None:
    draw, prior = np.random.default_rng(3), np.array([25.0, 0.1, 0.1, 0.1])
    model = LaplaceRegression(prior, noise=1e-3)
    for n in range(400):
        row = np.array([1.0, *draw.normal(size=2), 0.0])
        before = model.state()
        model.learn(row, n % 3 == 0)
        moved = model.weights - before["weights"]
        # At the mode, the gradient of the loss equals that of the prior: P^-1 (w - w0) = (y - p) x.
        p = sigmoid(float(model.weights @ row))
        assert np.allclose(moved, before["covariance"] @ row * ((n % 3 == 0) - p), atol=1e-9)
    covariance = model.state()["covariance"]
    assert (covariance == covariance.T).all()
    assert np.linalg.eigvalsh(covariance).min() > 0
    assert (np.diag(covariance) <= prior).all(), "no weight is less sure than before anything was learned"
    assert covariance[3, 3] == 0.1, "a feature that never was is as unknown as at first"


@settings(max_examples=200)
@given(st.floats(-1e6, 1e6), st.floats(1e-9, 1e6), st.booleans())
def test_the_search_for_a_mode_ends_at_it(odds: float, variance: float, label: bool) -> None:
    from learners.parts.laplace import _mode

    a, curvature = _mode(odds, variance, label)
    assert a == pytest.approx(label - sigmoid(odds + variance * a), abs=1e-11 * max(1.0, variance))
    assert 0 <= curvature <= 0.25


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64 processor")
@pytest.mark.slow
def test_the_digest_does_not_depend_on_the_kernels_of_numpy() -> None:
    code = (
        "import json; from headrace.state import digest; from tests.property.test_rows import learned;"
        "print(json.dumps(digest(learned(400).state())))"
    )
    found = set()
    for features in ("", "X86_V3 X86_V4 AVX512_ICL AVX512_SPR", "X86_V4 AVX512_ICL AVX512_SPR"):
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], cwd=root, check=True, text=True, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(root), "NPY_DISABLE_CPU_FEATURES": features}, timeout=120,
        )  # fmt: skip
        found.add(json.loads(done.stdout))
    assert len(found) == 1
