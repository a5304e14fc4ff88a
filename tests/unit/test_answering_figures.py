"""The benchmark of the deep model's answers measures each reader."""

from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import answering


@pytest.mark.parametrize("reader", answering.READERS)
def test_each_reader_is_measured(tmp_path: Path, reader: str) -> None:
    answering.write_model(tmp_path / "model", 60)
    found = answering.measure(answering.READERS[reader], tmp_path / "model", 60, 3)
    assert min(asdict(found).values()) > 0
    assert found.short_ms <= found.short_ms_p99
    assert found.memory_mib > 20
