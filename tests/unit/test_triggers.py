"""Triggers of updates, each on parts of a log made by hand, and their comparison."""

import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import triggers
from benchmarks.prequential import DeepLearner, LoggedStep, Stretch
from benchmarks.triggers import (
    Drift,
    ExpectedGain,
    Observation,
    ResultCache,
    Time,
    Volume,
    compare_triggers,
    frontier,
    run,
    tokens_needed,
)
from headrace.errors import Misconfigured
from learners.deep.model import DeepSettings
from learners.protocol import Context
from learners.rounds import staleness
from tests.streams import chain

SMALL = DeepSettings(width=8, layers=1, heads=1, context=8, dropout=0.0)


def part(items: Sequence[int], begin_ms: int = 0, unseen: bool = False) -> Observation:
    steps = [LoggedStep(Context((), 0, at, begin_ms + at), item) for at, item in enumerate(items)]
    return Observation(steps, [unseen] * len(items), [], [])


def judged(found: Sequence[bool], fresh: Sequence[bool]) -> Observation:
    return Observation([], [], found, fresh)


def test_volume_counts_from_the_last_update() -> None:
    volume = Volume(25)
    assert [volume.observe(part(range(10))) for _ in range(6)] == [False, False, True, False, False, True]


def test_time_is_event_time() -> None:
    clock = Time(1_000)
    at_ms = (0, 500, 999, 1_000, 1_500, 1_999, 2_000)
    assert [clock.observe(part([1], at)) for at in at_ms] == [False, False, False, True, False, False, True]


def test_drift_is_due_when_items_change_and_not_before() -> None:
    draw = np.random.default_rng(1)
    drift = Drift(200)
    stable = [drift.observe(part(draw.integers(0, 20, 100).tolist())) for _ in range(40)]
    assert not any(stable)
    changed = [drift.observe(part(draw.integers(50, 70, 100).tolist())) for _ in range(4)]
    assert changed.count(True) == 1


def test_drift_is_due_when_many_items_are_new() -> None:
    drift = Drift(200)
    same = list(range(100))
    assert not any(drift.observe(part(same)) for _ in range(40))
    assert any(drift.observe(part(same, unseen=True)) for _ in range(2))


def test_lost_hits_are_counted_from_the_last_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staleness, "baseline_predictions", 100)
    lost = ExpectedGain(9.5)
    found = [at % 2 == 0 for at in range(100)]
    # The same lead of the fresh learner as right after the update: nothing is lost.
    ahead = [at % 2 == 0 or at % 10 == 1 for at in range(100)]
    assert not any(lost.observe(judged(found, ahead)) for _ in range(20))
    # A tenth more: 10 hits are lost after 100 steps. The update follows, and for the new model that lead is usual.
    further = [at % 2 == 0 or at % 10 in (1, 3) for at in range(100)]
    assert [lost.observe(judged(found, further)) for _ in range(5)] == [True, False, False, True, False]


def test_equal_quality_is_interpolated() -> None:
    def one(tokens: int, recall: float) -> dict[str, float]:
        return {"tokens": tokens, "recall@20": recall}

    a = {"x": one(100, 0.4), "y": one(50, 0.3), "z": one(70, 0.2)}
    assert frontier(one(0, 0.2), a) == [(0, 0.2), (50, 0.3), (100, 0.4)]
    assert tokens_needed([(0, 0.2), (50, 0.3), (100, 0.4)], 0.35) == pytest.approx(75)
    result = compare_triggers({"never": one(0, 0.2), "triggers": {"a": a, "b": {"x": one(10, 0.31)}}})
    assert result["0.5"]["recall@20"] == pytest.approx(0.3)
    assert result["0.5"]["tokens"] == pytest.approx({"a": 50, "b": 10 / 0.11 * 0.1})
    assert result["0.8"]["tokens"]["b"] is None


def test_a_run_updates_where_the_trigger_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "part_events", 40)
    base = DeepLearner(settings=SMALL, sessions_max=5)
    base.begin(chain(0, 60, 1))
    stretch = Stretch([*chain(0, 60, 1), *chain(60, 120, 5)], 240, rate=1.0)
    advanced: list[int] = []
    result = run(base, stretch, {"volume": [80.0, 120.0], "gain": [1e9]}, ResultCache(), lambda: advanced.append(1))
    assert len(advanced) == 4
    volume = result["triggers"]["volume"]
    assert volume["80"]["due"] == [80, 160, 240]  # the update at the end of the stretch is not made
    assert volume["80"]["updates"] == 2
    assert volume["120"]["updates"] == 1
    assert volume["80"]["tokens"] == 2 * volume["120"]["tokens"] > 0  # each trains on at most 5 sessions
    assert volume["80"]["mrr@20"] > result["never"]["mrr@20"]
    assert result["triggers"]["gain"]["1e+09"]["mrr@20"] == result["never"]["mrr@20"]


def test_the_benchmark_writes_figures_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "part_events", 40)
    for period, shift in enumerate((1, 1, 5)):
        found = chain(0, 60, shift)
        (tmp_path / f"period_{period}.txt").write_text("".join(f"s{x.context.session} i{x.item}\n" for x in found))
    arguments = ["--first", "2", "--sessions", "20", "--rate", "1", "--volume", "80", "--time", "2", "--drift", "40"]
    triggers.main(["--data", str(tmp_path), *arguments, "--gain", "3", "--out", str(tmp_path / "out.json")])
    result = json.loads((tmp_path / "out.json").read_text())
    assert list(result["triggers"]) == ["volume", "time", "drift", "gain"]
    assert result["triggers"]["time"]["2"]["due"] == [80, 160, 240][: len(result["triggers"]["time"]["2"]["due"])]
    assert result["triggers"]["time"]["2"]["updates"] == 2
    assert set(result["needed"]) == {"0.5", "0.8", "0.95"}
    assert ElementTree.parse(tmp_path / "out.svg").getroot().tag.endswith("svg")


def test_a_stopped_run_continues_only_with_results_of_the_same_settings(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, int]:
        made.append(len(made))
        return {"tokens": len(made)}

    path = tmp_path / "kept.json"
    for about, name in (("a", "x"), ("a", "x"), ("a", "y"), ("b", "x")):
        ResultCache(path, {"seed": about}).of(name, make)
    assert made == [0, 1, 2]
    assert ResultCache(path, {"seed": "b"}).of("x", make) == {"tokens": 3}


def test_wrong_options_are_reported(tmp_path: Path) -> None:
    for option, value in {"--volume": "many", "--gain": "0", "--sessions": "0"}.items():
        with pytest.raises(Misconfigured, match=option):
            triggers.main(["--data", str(tmp_path), option, value])
