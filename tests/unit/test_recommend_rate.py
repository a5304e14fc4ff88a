"""The benchmark of answers per second runs and reports a rate for each learner."""

import json
import random
from pathlib import Path

from benchmarks import recommend_rate


def test_the_command_writes_a_rate_for_each_learner(tmp_path: Path) -> None:
    chance = random.Random(0)
    for period in range(3):
        lines = [f"s{session} i{chance.randrange(20)}" for session in range(30) for _ in range(4)]
        (tmp_path / f"period_{period}.txt").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out.json"
    recommend_rate.main(["--data", str(tmp_path), "--periods", "2", "--questions", "40", "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["options"]["questions"] == 40
    rates = found["recommendations_per_s"]
    assert set(rates) == {*recommend_rate.FAST, "blend", "all fast and blend", *recommend_rate.WHOLE}
    assert all(rate > 0 for rate in rates.values())
    assert rates["all fast and blend"] < min(rates[name] for name in (*recommend_rate.FAST, "blend"))
