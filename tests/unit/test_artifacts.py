"""Artifacts whose library is imported beside what their user does."""

import sys
import time
from pathlib import Path

import pytest

from headrace.artifacts import Artifacts
from headrace.errors import Misconfigured
from headrace.shard.blobs import Blobs

SLOW = """
import time
from pathlib import Path
while not Path(__file__).with_name("go").exists():
    time.sleep(0.01)
load = bytes.decode
"""


def test_a_library_is_imported_by_a_thread_until_then_there_is_no_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_library.py").write_text(SLOW)
    monkeypatch.syspath_prepend(str(tmp_path))
    blobs = Blobs(tmp_path / "blobs")
    artifacts: Artifacts[str] = Artifacts(blobs, "slow_library:load", print)
    assert not artifacts.prepared
    assert "slow_library" not in sys.modules
    assert not artifacts.prepare()
    (tmp_path / "go").touch()
    deadline = time.monotonic() + 60
    while not artifacts.prepare():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert artifacts.get(blobs.put("text", b"loaded")) == "loaded"


def test_a_library_that_is_missing_is_told_when_it_is_needed(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    artifacts: Artifacts[str] = Artifacts(blobs, "no_such_library:load", print)
    while not artifacts.prepare():
        time.sleep(0.01)
    with pytest.raises(Misconfigured, match="no_such_library:load: wanted module:name"):
        artifacts.get(blobs.put("text", b"x"))
