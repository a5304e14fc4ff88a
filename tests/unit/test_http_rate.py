"""The benchmark of HTTP servers runs and reports each server."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import http_rate


@pytest.mark.full  # it starts a server for each row, which the benchmark itself does, too
def test_the_command_writes_a_rate_for_each_server(tmp_path: Path) -> None:
    if shutil.which("wrk") is None:
        pytest.skip("needs wrk: apt-get install wrk")
    out = tmp_path / "out.json"
    http_rate.main(["--rounds", "1", "--seconds", "1", "--out", str(out)])
    medians = json.loads(out.read_text())["medians"]
    assert set(medians) == set(http_rate.HANDLERS)
    for found in medians.values():
        assert set(found) == set(http_rate.SERVERS)
        assert found[http_rate.FORMER]["ratio"] == 1
        for one in found.values():
            assert one["requests_per_s"] > 0
            assert 0 < one["p50_ms"] <= one["p99_ms"]
