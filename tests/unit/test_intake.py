"""The intake: nothing twice, and no absurd jump of event time."""

import pytest

from headrace import intake as module
from headrace.events import Data, Event, at
from headrace.intake import Intake, ahead_min, step_max_ms
from headrace.state import decode, encode


def event(id_: str, time_ms: int = 1_000, source: str = "shop") -> Event:
    return Event(id_, source, "login", at(time_ms), Data(), "1.0", "a", time_ms)


def test_the_same_id_of_another_source_is_another_event() -> None:
    intake = Intake()
    assert [intake.admit(event("1")), intake.admit(event("1", source="app")), intake.admit(event("1"))] == [
        True,
        True,
        False,
    ]


def test_only_the_newest_ids_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "seen_max", 3)
    intake = Intake()
    assert all(intake.admit(event(str(n))) for n in range(5))
    assert not intake.admit(event("4"))
    assert not intake.admit(event("2"))
    assert intake.admit(event("1"))
    assert intake.bounds()["event_ids"][0] == 3


def test_ids_are_forgotten_in_the_order_they_came_whatever_their_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "seen_max", 2)
    intake = Intake()
    for id_, source in (("1", "shop"), ("1", "app"), ("2", "app")):
        assert intake.admit(event(id_, source=source))
    assert intake.state()["sources"] == ["app", "app"]
    assert list(intake._sources) == ["app"], "a source without an id that is remembered takes no place"
    assert not intake.admit(event("1", source="app"))
    assert intake.admit(event("1"))
    assert intake.admit(event("1", source="app")), "the oldest had gone, though its source stayed"


def test_a_time_far_ahead_is_tamed_but_the_first_is_believed() -> None:
    intake = Intake()
    first, late, far = event("1", 10**12), event("2", 10**12 - 5), event("3", 2 * 10**12)
    for one in (first, late, far):
        assert intake.admit(one)
    assert [first.time_ms, late.time_ms, far.time_ms] == [10**12, 10**12 - 5, 10**12 + step_max_ms]
    assert intake.time_ms == 10**12


def test_times_far_ahead_are_believed_if_many_in_a_row_have_them() -> None:
    intake, far = Intake(), 2 * 10**12
    for number in range(3 * ahead_min):  # every fourth one is absurd: never believed
        one = event(f"a{number}", far + number if number % 4 == 2 else 10**12 + number)
        assert intake.admit(one)
        assert one.time_ms <= 10**12 + number + step_max_ms
    assert intake.time_ms == 10**12 + 3 * ahead_min - 1
    tamed = []
    for number in range(ahead_min):
        one = event(f"b{number}", far - number)
        assert intake.admit(one)
        tamed.append(one.time_ms)
        intake = Intake.from_state(decode(encode(intake.state())))
    assert tamed == [10**12 + 3 * ahead_min - 1 + step_max_ms] * (ahead_min - 1) + [far - ahead_min + 1]
    assert intake.time_ms == far - ahead_min + 1, "the least of theirs"
    one = event("c", far + 5)
    assert intake.admit(one)
    assert one.time_ms == intake.time_ms == far + 5


def test_a_duplicate_far_ahead_is_nobodys_witness() -> None:
    intake = Intake()
    intake.admit(event("1", 10**12))
    for _ in range(2 * ahead_min):
        intake.admit(event("2", 2 * 10**12))
    assert intake.time_ms == 10**12


def test_a_duplicate_does_not_move_time() -> None:
    intake = Intake()
    intake.admit(event("1", 1_000))
    assert not intake.admit(event("1", 9_000))
    assert intake.time_ms == 1_000


def test_state_survives_the_wire() -> None:
    intake = Intake()
    for n in range(10):
        intake.admit(event(str(n), 1_000 * n, "shop" if n % 3 else "app"))
    again = Intake.from_state(decode(encode(intake.state())))
    assert again.state() == intake.state()
    assert not again.admit(event("3", source="app"))
    assert again.admit(event("3"))
    assert again.admit(event("10"))
