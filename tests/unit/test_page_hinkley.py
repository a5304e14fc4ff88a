"""Our Page-Hinkley returns River's results for every value, and its state continues exactly."""

import numpy as np
import pytest
from river.drift import PageHinkley as Rivers

from learners.parts.page_hinkley import PageHinkley

RNG = np.random.default_rng(5)
STREAMS = {
    "steady": RNG.random(3_000),
    "rises and falls": np.concatenate([RNG.normal(mean, 0.1, 700) for mean in (0.2, 0.6, 0.3, 0.9)]),
    "misses": (RNG.random(4_000) < np.repeat([0.3, 0.8], 2_000)).astype(float),
    "constant": np.full(500, 0.5),
}


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize(("delta", "threshold", "values_min"), [(0.02, 50.0, 200), (0.005, 2.0, 30)])
def test_same_changes_and_sums_as_river(stream: str, delta: float, threshold: float, values_min: int) -> None:
    ours = PageHinkley(delta=delta, threshold=threshold, values_min=values_min)
    theirs = Rivers(min_instances=values_min, delta=delta, threshold=threshold, mode="up")
    for value in STREAMS[stream].tolist():
        theirs.update(value)
        sums = theirs._sum_increase, theirs._sum_decrease, theirs._min_increase, theirs._max_decrease
        assert ours.observe(value) == theirs.drift_detected
        if not theirs.drift_detected:  # it begins anew at the next value
            state = ours.state()
            assert tuple(state[name] for name in ("increase", "decrease", "lowest", "highest")) == sums
            assert (state["count"], state["mean"]) == (theirs._x_mean.n, theirs._x_mean.get())


def test_a_rise_is_detected_and_a_fall_is_not() -> None:
    def changes(before: float, after: float) -> list[int]:
        test = PageHinkley(delta=0.02, threshold=50.0, values_min=200)
        values = np.random.default_rng(1).random(4_000) < np.repeat([before, after], 2_000)
        return [n for n, value in enumerate(values.tolist()) if test.observe(float(value))]

    assert changes(0.3, 0.3) == changes(0.8, 0.3) == []
    assert changes(0.3, 0.8)[0] in range(2_000, 2_400)


def test_a_state_continues_exactly() -> None:
    whole = PageHinkley(delta=0.005, threshold=2.0, values_min=30)
    parts = PageHinkley(delta=0.005, threshold=2.0, values_min=30)
    found = []
    for number, value in enumerate(STREAMS["rises and falls"].tolist()):
        if number % 100 == 0:
            parts = PageHinkley(delta=0.005, threshold=2.0, values_min=30).restore(parts.state())
        found.append((whole.observe(value), parts.observe(value)))
    assert all(one == other for one, other in found)
    assert any(one for one, _ in found)
    assert whole.state() == parts.state()
