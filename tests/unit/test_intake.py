"""The intake: it drops repeated events, and tells the shop's time whatever clocks its senders have."""

import pytest
from msgspec import structs

from headrace.events import Data, Event, at
from headrace.shard import intake as module
from headrace.shard.intake import Intake, ShopClock, clock_events
from headrace.state import decode, encode

HOUR_MS = 3_600_000
MINUTE_MS = 60_000


def event(id_: str, time_ms: int = 1_000, source: str = "shop") -> Event:
    return Event(id_, source, "login", at(time_ms), Data(), "1.0", "a", own_ms=time_ms)


def test_the_same_id_from_another_source_is_another_event() -> None:
    intake = Intake()
    assert [
        intake.admit(event("1"), 10**6),
        intake.admit(event("1", source="app"), 10**6),
        intake.admit(event("1"), 10**6),
    ] == [
        True,
        True,
        False,
    ]


def test_only_the_newest_ids_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "event_ids_max", 3)
    intake = Intake()
    assert all(intake.admit(event(str(n)), 10**6) for n in range(5))
    assert not intake.admit(event("4"), 10**6)
    assert not intake.admit(event("2"), 10**6)
    assert intake.admit(event("1"), 10**6)
    assert intake.bounds()["event_ids"][0] == 3


def test_the_oldest_ids_are_forgotten_first_regardless_of_their_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "event_ids_max", 2)
    intake = Intake()
    for id_, source in (("1", "shop"), ("1", "app"), ("2", "app")):
        assert intake.admit(event(id_, source=source), 10**6)
    assert intake.state()["sources"] == ["app", "app"]
    assert list(intake._sources) == ["app"], "a source without remembered ids is removed"
    assert not intake.admit(event("1", source="app"), 10**6)
    assert intake.admit(event("1"), 10**6)
    assert intake.admit(event("1", source="app"), 10**6), "the oldest id was forgotten, although its source was kept"


def test_history_follows_the_events_and_live_events_the_log() -> None:
    clock = ShopClock()
    found = [clock.time_ms(own_ms, 10**12, str(own_ms)) for own_ms in range(0, 40 * MINUTE_MS, MINUTE_MS)]
    assert found[-3:] == [30 * MINUTE_MS, 31 * MINUTE_MS, 32 * MINUTE_MS]
    clock = ShopClock()
    found = [clock.time_ms(own_ms, 10**12, str(own_ms)) for own_ms in range(0, 100_000, 1_000)]
    assert found[-6:] == [66_000, 66_000, 66_000, 66_000, 70_000, 70_000], "of a busy shop, every fourth is compared"
    clock = ShopClock()
    found = [clock.time_ms(10**12 + 60_000 * n - 800, 10**12 + 60_000 * n, str(n)) for n in range(20)]
    assert found == [10**12 + 60_000 * n - 800 for n in range(20)], "although an event comes only every minute"


@pytest.mark.parametrize("off_ms", [-9 * HOUR_MS, HOUR_MS, 7 * HOUR_MS, 300 * 24 * HOUR_MS])
def test_fewer_than_half_of_the_newest_events_do_not_move_the_clock(off_ms: int) -> None:
    plain, clock = ShopClock(), ShopClock()
    for n in range(200):
        own_ms, appended_ms = 10**12 + MINUTE_MS * n, 2 * 10**12 + n
        right = plain.time_ms(own_ms, appended_ms, str(n))
        found = clock.time_ms(own_ms + off_ms * (n % 15 in range(7)), appended_ms, str(n))
        if n >= clock_events:  # the very first ones have nothing to be compared with
            assert abs(found - right) <= 15 * MINUTE_MS


def test_a_clock_that_is_ahead_for_long_does_not_move_live_time() -> None:
    clock = ShopClock()
    for n in range(100):
        appended_ms = 10**12 + 1_000 * n
        own_ms = min(appended_ms, appended_ms - 500 + (HOUR_MS if n > 50 else 0))  # as `decode` limits it
        assert appended_ms - 500 <= clock.time_ms(own_ms, appended_ms, str(n)) <= appended_ms


@pytest.mark.parametrize(
    ("step_ms", "shoppers", "events"), [(MINUTE_MS, 100, 8), (MINUTE_MS, 1, 13), (1, 100, 20), (1, 1, 28)]
)
def test_many_in_a_row_move_history(step_ms: int, shoppers: int, events: int) -> None:
    clock = ShopClock()
    for n in range(47):
        clock.time_ms(step_ms * n, 10**12, str(n))
    found = [clock.time_ms(8 * HOUR_MS + n, 10**12, f"late-{n % shoppers}") for n in range(events)]
    assert found[-2] < HOUR_MS < 8 * HOUR_MS <= found[-1]


def test_history_is_told_alike_whenever_it_is_appended() -> None:
    first, again = ShopClock(), ShopClock()
    for n in range(100):
        own_ms = 10**12 + 7 * n + n % 5 * 11
        assert first.time_ms(own_ms, 2 * 10**12 + n, str(n)) == again.time_ms(own_ms, 3 * 10**12 + n**2, str(n))


def test_a_loader_that_reaches_the_present_goes_over_to_live_time() -> None:
    clock, now = ShopClock(), 10**12 + 20 * 24 * HOUR_MS
    found = [clock.time_ms(10**12 + n * HOUR_MS, now + n, str(n)) for n in range(20 * 24)]
    assert all(
        0 <= own - told <= clock_events * HOUR_MS for own, told in zip(range(10**12, now, HOUR_MS), found, strict=True)
    )
    live = [clock.time_ms(now + n * 60_000, now + n * 60_000 + 200, str(n)) for n in range(30)]
    assert live[-1] == now + 29 * 60_000


def test_a_duplicate_does_not_move_time() -> None:
    intake = Intake()
    assert intake.admit(event("1", 1_000), 5_000)
    before = intake.state()
    assert not intake.admit(event("1", 9_000), 9_000)
    assert intake.state() == before


def test_state_is_restored() -> None:
    intake = Intake()
    for n in range(30):
        intake.admit(event(str(n), 1_000 * n, "shop" if n % 3 else "app"), 10**6)
    again = Intake.from_state(decode(encode(intake.state())))
    assert again.state() == intake.state()
    assert not again.admit(event("3", source="app"), 10**6)
    for number in range(30, 60):
        one = event(str(number), 1_000 * number)
        copy = structs.replace(one)
        assert again.admit(one, 10**6)
        assert intake.admit(copy, 10**6)
        assert one.time_ms == copy.time_ms


def test_the_state_of_0_3_0_is_restored() -> None:
    old = {"time_ms": 7, "ahead": [], "sources": ["shop"], "ids": ["1"]}
    intake = Intake.from_state(old)
    assert not intake.admit(event("1"), 10**6)
    assert intake.admit(event("2"), 10**6)
