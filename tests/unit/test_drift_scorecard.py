"""The scorecard of drift detectors: delays, misses and false alarms of alarms made by hand, and a tiny run."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import drift_calls, drift_scorecard, drift_streams, drift_windows
from benchmarks.drift_calls import Raised
from benchmarks.drift_rivals import RIVER, Rival, river_alarms
from benchmarks.drift_scorecard import (
    Outcome,
    choose_quiet,
    choose_soon,
    main,
    named,
    outcome,
    settled,
    stable,
    summary,
)
from benchmarks.drift_streams import BINARY, CATEGORY, NUMBER, Column, Stream, restore, save
from benchmarks.online_fold import OnlineFold
from headrace.errors import Misconfigured
from headrace.log.protocol import Outgoing
from producers.scenario import Drift

HOUR_MS = 3_600_000


def stream(begin: int | None = 600, complete: int | None = 600, other: tuple[int, ...] = ()) -> Stream:
    """Return a stream of 1,000 events, one an hour: alarms count from 100, 200 detect, 50 settle."""
    times_ms = np.arange(1_000, dtype=np.int64) * HOUR_MS
    return Stream(times_ms, begin, complete, other, ("item-1", "category-2"), False, {})


def test_the_first_alarm_after_the_begin_detects_and_has_the_delay() -> None:
    found = outcome(stream(), [700, 640, 660])
    assert (found.delay_events, found.delay_hours) == (40, 39.0)
    assert found.false_alarms == 0
    assert found.drifts


def test_a_drift_without_an_alarm_in_time_is_missed() -> None:
    assert outcome(stream(), [600]).delay_events is None, "the alarm at event 600 came before the drift"
    assert outcome(stream(), [801]).delay_events is None
    assert outcome(stream(), [800]).delay_events == 200
    assert outcome(stream(complete=700), [900]).delay_events == 300, "the time to detect begins when it is complete"


def test_false_alarms_are_counted_once_while_they_settle_and_not_while_detectors_warm_up() -> None:
    found = outcome(stream(), [50, 100, 101, 120, 150, 151, 590, 650, 700, 810, 990])
    assert found.false_alarms == 5, "101, 151, 590, 810, 990"
    assert found.stable_days == pytest.approx((499 + 199) / 24)
    assert settled([3, 1, 2, 5], 2) == [1, 3, 5]


def test_other_drifts_are_not_scored() -> None:
    one = stream(other=(250,))
    assert stable(one) == [(100, 250), (450, 600), (800, 1_000)]
    assert outcome(one, [260, 440]).false_alarms == 0
    assert outcome(one, [460]).false_alarms == 1


def test_without_a_drift_every_alarm_is_false() -> None:
    one = stream(None, None)
    assert stable(one) == [(100, 1_000)]
    found = outcome(one, [610, 700])
    assert (found.drifts, found.delay_events, found.false_alarms) == (False, None, 2)


def test_figures_over_streams() -> None:
    found = summary([Outcome(True, 10, 1.0, 1, 2.0), Outcome(True, 30, 3.0, 0, 2.0), Outcome(True, None, None, 1, 4.0)])
    assert found["missed"] == pytest.approx(1 / 3)
    assert (found["delay_events"], found["delay_hours"], found["false_per_day"]) == (20.0, 2.0, 0.25)
    nothing = summary([Outcome(False, None, None, 3, 6.0)])
    assert (nothing["missed"], nothing["delay_events"], nothing["false_per_day"]) == (None, None, 0.5)


def test_the_threshold_with_the_fewest_misses_is_chosen_of_those_that_are_soon_enough() -> None:
    ours = [Outcome(True, 50, 5.0, 0, 10.0)]
    late, soon = Outcome(True, 60, 6.0, 0, 10.0), Outcome(True, 40, 4.0, 5, 10.0)
    quiet, missed = Outcome(True, 45, 4.5, 2, 10.0), Outcome(True, None, None, 0, 10.0)
    assert choose_soon({"a": [late], "b": [soon], "c": [quiet], "d": [missed]}, ours) == "c"
    assert choose_soon({"a": [late], "d": [missed]}, ours) == "a", "none is soon enough"
    assert choose_soon({"a": [late], "b": [soon]}, [missed]) == "a", "we detect nothing"


def test_the_threshold_with_the_fewest_misses_is_chosen_of_those_that_are_quiet_enough() -> None:
    ours = [Outcome(True, 50, 5.0, 2, 10.0)]
    late, early = Outcome(True, 60, 6.0, 1, 10.0), Outcome(True, 40, 4.0, 2, 10.0)
    loud, missed = Outcome(True, 1, 0.1, 9, 10.0), Outcome(True, None, None, 0, 10.0)
    assert choose_quiet({"a": [late], "b": [early], "c": [loud], "d": [missed]}, ours) == "b"
    assert choose_quiet({"c": [loud], "d": [missed]}, ours) == "d"
    assert choose_quiet({"c": [loud], "b": [early]}, [missed]) == "b", "the quietest, though ours is quieter"


def test_an_alarm_names_what_moved_in_time() -> None:
    right, late = Raised(650, "price", ("item-1", "item-3")), Raised(850, "price", ("item-1",))
    wrong, before = Raised(650, "price", ("item-7",)), Raised(500, "price", ("item-1",))
    found = [(stream(), [one]) for one in (right, late, wrong, before)]
    assert named(found) == {"named": 0.25, "names": 1.5}


def columns(change: int) -> dict[str, Column]:
    """Return columns of which all change after `change` of 1,000 events."""
    rng = np.random.default_rng(1)
    at_events = np.arange(1, 1_001)
    later = at_events > change
    return {
        "price": Column(NUMBER, at_events, rng.normal(size=1_000) + 3 * later),
        "category": Column(CATEGORY, at_events, rng.integers(0, 4, 1_000) + 8.0 * later),
        "miss": Column(BINARY, at_events, (rng.random(1_000) < 0.1 + 0.8 * later).astype(float)),
    }


def test_a_stream_is_read_as_it_was_written(tmp_path: Path) -> None:
    one = stream(other=(3,))._replace(columns=columns(600))
    save(tmp_path / "one.npz", one)
    again = restore(tmp_path / "one.npz")
    assert again._replace(columns={}, times_ms=one.times_ms) == one._replace(columns={})
    assert again.times_ms.tolist() == one.times_ms.tolist()
    assert all(again.columns[name].values.tolist() == of.values.tolist() for name, of in one.columns.items())


@pytest.mark.parametrize("name", [name for name in RIVER if name != "river KSWIN"])
def test_detectors_of_river_alarm_at_a_change(name: str) -> None:
    one = stream()._replace(columns=columns(600))
    rival: Rival = RIVER[name]
    assert any(600 < alarm < 700 for alarm in river_alarms(one, rival, rival.thresholds[0]))


def test_an_adapter_compares_windows_with_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "one.npz", stream()._replace(columns=columns(600)))

    def far(before: drift_windows.Values, now: drift_windows.Values, kinds: object, threshold: float) -> bool:
        return bool(abs(before["price"].mean() - now["price"].mean()) > threshold)

    question = {
        "streams": [str(tmp_path / "one.npz")], "window": 0.05, "reference": 0.1, "thresholds": {"far": [2.0, 9.0]}
    }  # fmt: skip
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(question)))
    stdout = sys.stdout
    drift_windows.answer({"far": far})
    monkeypatch.setattr(sys, "stdout", stdout)
    assert json.loads(capsys.readouterr().out) == {"far": {"2": [650], "9": []}}


def test_a_tiny_run_writes_figures_and_a_picture_and_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        "--seeds", "1", "--choosing", "1", "--events", "1000", "--days", "3", "--kinds", "price",
        "--work", str(tmp_path / "work"), "--out", str(tmp_path / "card.json"),
    ]  # fmt: skip
    monkeypatch.setattr(drift_scorecard, "RIVER", {name: RIVER[name] for name in ("river ADWIN", "river DDM")})
    main(options)
    result = json.loads((tmp_path / "card.json").read_text())
    assert set(result["kinds"]["price"]) == {
        "ours", "river ADWIN, default", "river ADWIN, soon", "river ADWIN, quiet",
        "river DDM, default", "river DDM, soon", "river DDM, quiet",
    }  # fmt: skip
    assert result["named"]["price"]["named"] == 0
    assert (tmp_path / "card.svg").read_text().startswith("<svg")
    assert "without --evidently, these are left out" in capsys.readouterr().out

    def again(*_: object) -> None:
        raise AssertionError("made or watched again")

    for name in ("shop", "fold"):
        monkeypatch.setattr(f"benchmarks.drift_streams.{name}", again)
    monkeypatch.setattr(drift_scorecard, "river_alarms", again)
    monkeypatch.setattr(drift_calls, "alarms", again)
    main(options)
    assert json.loads((tmp_path / "card.json").read_text()) == result


def test_streams_with_a_common_beginning_are_folded_once_and_as_if_alone(tmp_path: Path) -> None:
    told = {tmp_path / f"{kind}.npz": drift_streams.shop(kind, 3, 1_500, 3.0) for kind in ("stable", "surge", "abrupt")}
    stable_records, surge_records, abrupt_records = (one.records for one in told.values())
    assert 500 < drift_streams._common(stable_records, surge_records) < 1_000, "the drift begins at 60 % of the time"
    assert drift_streams._common(stable_records, abrupt_records) == 0
    drift_streams.fold(told)
    for path, one in told.items():
        alone = tmp_path / f"alone-{path.name}"
        drift_streams.fold({alone: one})
        calls = [drift_calls.decode(drift_calls.path_of(each).read_bytes()) for each in (path, alone)]
        assert calls[0] == calls[1]
        both = restore(path).columns, restore(alone).columns
        assert all(of.values.tolist() == both[1][name].values.tolist() for name, of in both[0].items())


@pytest.mark.slow
def test_watchers_that_are_told_the_same_raise_the_alarms_of_the_fold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Outgoing] = []

    class Kept(OnlineFold):
        def close(self) -> None:
            written.extend(self.alarms)
            super().close()

    monkeypatch.setitem(drift_streams.SHOP, "much dearer", {"drifts": (Drift("price", 0.75, 0.75, 4.0),)})
    monkeypatch.setattr(drift_streams, "OnlineFold", Kept)
    drift_streams.fold({tmp_path / "one.npz": drift_streams.shop("much dearer", 3, 12_000, 20.0)})
    alarms = [json.loads(one.value or b"") for one in written]
    replayed = drift_calls.alarms(drift_calls.decode((tmp_path / "one.calls").read_bytes()))
    assert "price_change" in {one.detector for one in replayed}
    found = sorted((one["detector"], tuple(value["value"] for value in one.get("moved", ()))) for one in alarms)
    assert sorted((one.detector, one.names) for one in replayed) == found


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="wanted --seeds from 1 to 100"):
        main(["--seeds", "0"])
    with pytest.raises(Misconfigured, match="--alibi: "):
        main(["--alibi", str(tmp_path / "python")])
    with pytest.raises(Misconfigured, match="--kinds"):
        drift_scorecard.tasks_of(drift_scorecard._options(["--kinds", "sideways"]))
