"""The gate's benchmark: its vectorised rules decide as the live ones do, and its tables are complete."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gate_errors
from benchmarks.gate_errors import Differences, Holdout, by_rule_1, by_rule_2, null_settings, refused, retained
from headrace.errors import Misconfigured
from learners.rounds.gate import Gate, Rule
from learners.rounds.retention import RetentionRule
from learners.rounds.session_gate import SessionGate

KINDS = {"promote": 1, "refuse": -1}


def test_the_vectorised_rules_decide_as_the_live_ones() -> None:
    differences = Differences(size=2_000)
    setting = null_settings(differences)["five bots make 10 % of predictions"]
    rng = np.random.default_rng(4)
    drawn = differences.improved(rng, setting.draw(rng, 6), 0.015)
    drawn[:, 3:] *= -1
    visits, rule = setting.visits, Rule()
    first, second = by_rule_1(drawn), by_rule_2(drawn, visits, rule)
    assert set(second.kinds.tolist()) == {1, -1}
    for run in range(drawn.shape[1]):
        gate, sessions = Gate(), SessionGate(rule)
        for visit, difference in zip(visits, drawn[:, run].tolist(), strict=True):
            champion, challenger = max(0.0, -difference), max(0.0, difference)
            gate.observe(champion, challenger)
            sessions.observe(visit, challenger, {"champion": champion})
        for test, outcome in ((gate, first), (sessions, second)):
            assert test.verdict is not None
            assert (KINDS[test.verdict.kind], test.verdict.predictions) == (outcome.kinds[run], outcome.ends[run])


def test_differences_have_the_correlation_and_the_gain_that_they_should_have() -> None:
    differences, rng = Differences(), np.random.default_rng(2)
    clusters = np.arange(4_000) // 2
    drawn = differences.draw(rng, clusters, 0.3, 50)
    pairs = (drawn[::2] * drawn[1::2]).mean() / differences.values.var()
    assert pairs == pytest.approx(0.3, abs=0.02)
    assert abs(drawn.mean()) < 0.002
    assert differences.improved(rng, drawn, 0.02).mean() == pytest.approx(0.02, abs=0.002)
    assert differences.improved(rng, drawn, -0.02).mean() == pytest.approx(-0.02, abs=0.002)


def test_a_lost_share_of_hits_is_lost_in_one_slice() -> None:
    slices = retained(np.random.default_rng(1), Holdout(slices=3, steps=8_000), 0.2)
    lost = sorted(sum(a > 0 for a in one.champion) - sum(b > 0 for b in one.candidate) for one in slices)
    hits = 0.3 * 8_000
    assert abs(lost[0]) < 0.06 * hits
    assert abs(lost[1]) < 0.06 * hits
    assert lost[2] == pytest.approx(0.2 * hits, abs=0.06 * hits)


def test_a_loss_of_everything_is_refused_by_both_rules() -> None:
    found = refused(Holdout(slices=2, steps=300, exchanged=0.0), 1.0, 3, 0, RetentionRule())
    assert (found["rule_1"], found["rule_2"]) == (1.0, 1.0)


def test_all_tables_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_errors, "predictions", 60)
    data = tmp_path / "data"
    data.mkdir()
    rng = np.random.default_rng(0)
    for period in range(3):
        clicks = [f"{session} {rng.integers(12)}" for step in range(6) for session in range(25)]
        (data / f"period_{period}.txt").write_text("\n".join(clicks))
    options = ["--data", f"{data}", "--rows", "70", "--runs", "3", "--retention-runs", "1", "--work", f"{tmp_path}"]
    monkeypatch.setattr(gate_errors, "HOLDOUTS", {"small": Holdout(slices=2, steps=60)})
    gate_errors.main([*options, "--out", f"{tmp_path / 'out.json'}"])
    found = json.loads((tmp_path / "out.json").read_text())
    assert len(found["false_promotions"]) == 8
    assert len(found["power"]) == 8 + 3
    assert found["options"]["recorded_rows"] == 70
    assert set(found["retention"]["small"]) == {"0.0", "0.1", "0.2", "0.3"}
    with pytest.raises(Misconfigured, match="at least 1"):
        gate_errors.main(["--runs", "0"])
