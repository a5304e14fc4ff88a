"""Our ADWIN returns River's results for every value, and its state continues exactly."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from river.drift import ADWIN

from headrace.state import decode, encode
from learners.parts.adwin import Adwin

STREAMS: dict[str, Callable[[np.random.Generator], Any]] = {
    "steady": lambda rng: rng.random(6_000) < 0.3,
    "jump": lambda rng: np.concatenate([rng.random(3_000) < 0.2, rng.random(3_000) < 0.5]),
    "slope": lambda rng: rng.random(6_000) < np.linspace(0.1, 0.9, 6_000),
    "steps": lambda rng: rng.random(6_000) < np.repeat([0.2, 0.7, 0.1, 0.6], 1_500),
    "real": lambda rng: np.clip(rng.normal(np.repeat([0.4, 0.45, 0.6], 2_000), 0.1), 0, 1),
    "constant": lambda rng: np.full(2_000, 0.5),
}


@pytest.mark.parametrize("delta", [0.002, 0.05])
@pytest.mark.parametrize("stream", STREAMS)
def test_same_changes_and_means_as_river(stream: str, delta: float) -> None:
    ours, theirs = Adwin(delta), ADWIN(delta=delta)
    for n, value in enumerate(STREAMS[stream](np.random.default_rng(11)).astype(float).tolist()):
        theirs.update(value)
        assert ours.observe(value) == theirs.drift_detected, f"value {n}"
        if not theirs.drift_detected:
            assert ours.width == theirs.width
            assert ours.mean == pytest.approx(theirs.estimation, abs=1e-9)


def test_a_jump_is_detected_and_empties_the_window() -> None:
    adwin = Adwin()
    values = STREAMS["jump"](np.random.default_rng(1)).astype(float).tolist()
    found = [n for n, value in enumerate(values) if adwin.observe(value)]
    assert found
    assert 3_000 < found[0] < 3_200
    assert adwin.mean == pytest.approx(0.5, abs=0.05)


def test_an_empty_window_has_mean_0() -> None:
    assert Adwin().mean == 0.0


def test_memory_grows_logarithmically() -> None:
    adwin = Adwin()
    for n in range(50_000):
        adwin.observe(float(n % 2))
    assert sum(map(len, adwin._rows)) < 6 * 17


def test_state_survives_serialisation_and_continues() -> None:
    values = STREAMS["steps"](np.random.default_rng(2)).astype(float).tolist()
    adwin = Adwin(0.01)
    for value in values[:2_345]:
        adwin.observe(value)
    again = Adwin.from_state(decode(encode(adwin.state())))
    assert [adwin.observe(value) for value in values[2_345:]] == [again.observe(value) for value in values[2_345:]]
    assert adwin.state() == again.state()
