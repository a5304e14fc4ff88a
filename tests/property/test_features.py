"""Features that are watched: whatever their blocks hold, distances are finite, and a state continues exactly."""

import itertools
from collections.abc import Callable
from math import isfinite
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.state import decode, digest, encode
from headrace.topics import DAY_MS
from learners.parts.drift import Alarm
from learners.parts.features import Feature, Levels, Shares, Vectors

VALUES = st.sampled_from(["", "a", "b", "c", "d"])
NUMBERS = st.sampled_from([-1e6, 0.0, 0.5, 1.0, 1e6]) | st.floats(-2, 12)
BLOCKS = st.lists(st.lists(st.tuples(VALUES, NUMBERS), max_size=12), min_size=1, max_size=6)
"""Blocks, which repeat in turns: of some features nothing is observed for long."""


def shares(**options: bool) -> tuple[Shares, Callable[[Any], None]]:
    feature = Shares("x", names_max=4, **options)

    def observe(block: list[tuple[str, float]]) -> None:
        feature.add([value for value, _ in block], [f"{number:.0f}" for _, number in block])

    return feature, observe


def levels(*, passing: bool = False) -> tuple[Levels, Callable[[Any], None]]:
    feature = Levels("x", 0.0, 10.0, least=0.01, bins=8, passing=passing)

    def observe(block: list[tuple[str, float]]) -> None:
        feature.add([number for _, number in block], [value for value, _ in block])

    return feature, observe


def vectors() -> tuple[Vectors, Callable[[Any], None]]:
    feature = Vectors("x", 3)

    def observe(block: list[tuple[str, float]]) -> None:
        for value, number in block:
            feature.add(bytes([int(number) & 255, 3, 128]), value, "model")

    return feature, observe


MAKE: list[Callable[[], tuple[Feature, Callable[[Any], None]]]] = [
    shares, lambda: shares(stability=True), lambda: shares(peak=True), levels, lambda: levels(passing=True), vectors,
]  # fmt: skip


@pytest.mark.parametrize("make", MAKE)
@settings(max_examples=30)
@given(
    first=BLOCKS, then=BLOCKS, flags=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=5),
    restarts=st.integers(1, 12),
)  # fmt: skip
def test_distances_are_finite_and_states_continue_exactly(
    make: Callable[[], tuple[Feature, Callable[[Any], None]]], first: Any, then: Any, flags: Any, restarts: int
) -> None:
    (feature, observe), (again, observe_again) = make(), make()
    for number in range(40):
        blocks = first if number < 20 else then
        block, (ready, usual) = blocks[number % len(blocks)], flags[number % len(flags)]
        observe(block)
        observe_again(block)
        if number % restarts == 0:
            again, observe_again = make()
            again.restore(decode(encode(feature.state())))
        found = [one.end(0.05, ready=ready, usual=usual, time_ms=DAY_MS * number) for one in (feature, again)]
        assert found[0] == found[1]
        assert all(isfinite(watch.score) and isfinite(watch.threshold) for watch in feature.watches)
        assert all(isfinite(one) for alarm in found[0] for moved in alarm.moved for one in (moved.before, moved.now))
        if number == 30:
            feature.forget_window()
            again.forget_window()
    assert digest(again.state()) == digest(feature.state())


@pytest.mark.parametrize("make", MAKE)
@settings(max_examples=30)
@given(
    blocks=BLOCKS, cuts=st.lists(st.integers(1, 5), min_size=1, max_size=4)
)  # fmt: skip
def test_the_state_does_not_tell_what_was_counted_together(
    make: Callable[[], tuple[Feature, Callable[[Any], None]]], blocks: Any, cuts: list[int]
) -> None:
    (feature, observe), (again, observe_again) = make(), make()
    for number in range(10):
        block = list(blocks[number % len(blocks)])
        observe(block)
        for cut in itertools.cycle(cuts):
            if not block:
                break
            observe_again(block[:cut])
            del block[:cut]
        for one in (feature, again):
            one.end(0.05, ready=False, usual=True, time_ms=DAY_MS * number)
    assert digest(again.state()) == digest(feature.state())


def test_groups_that_moved_equally_are_told_by_name() -> None:
    feature, _ = levels()
    alarms = list[Alarm]()
    for number in range(24):  # groups a to d: each moves from 1 to 9
        feature.add([1.0 if number < 23 else 9.0] * 400, list("abcd") * 100)
        alarms = feature.end(0.05, ready=True, usual=True, time_ms=DAY_MS * number)
    assert [moved.value for alarm in alarms for moved in alarm.moved] == ["d", "c", "b"]
