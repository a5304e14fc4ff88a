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


SLOW_LOAD = """
import time
from pathlib import Path
def load(data):
    while not Path(__file__).with_name(data.decode()).exists():
        time.sleep(0.01)
    return data.decode()
"""


def test_a_thread_loads_one_artifact_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_load.py").write_text(SLOW_LOAD)
    monkeypatch.syspath_prepend(str(tmp_path))
    blobs = Blobs(tmp_path / "blobs")
    first, second = blobs.put("text", b"first"), blobs.put("text", b"second")
    artifacts: Artifacts[str] = Artifacts(blobs, "slow_load:load", print)
    assert not artifacts.load(first, 0.0)
    assert not artifacts.load(second, 0.0), "the first one is still being loaded"
    (tmp_path / "first").touch()
    assert not artifacts.load(second, 60.0), "the first one was waited for"
    assert artifacts.loaded() == ["first"]
    assert not artifacts.load(second, 0.0)
    assert artifacts.load(first, 0.0), "it is kept meanwhile"
    (tmp_path / "second").touch()
    assert artifacts.load(second, 60.0)
    artifacts.retain([second])
    assert artifacts.get(second) == "second"


def test_an_artifact_that_a_thread_cannot_load_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    blobs = Blobs(tmp_path)
    lost: Artifacts[str] = Artifacts(blobs, "builtins:bytes", lambda event, **_: told.append(event))
    assert lost.load(f"text-{'0' * 64}", 60.0)
    assert lost.get(f"text-{'0' * 64}") is None
    assert told == ["artifact is missing"], "once"
    unknown: Artifacts[str] = Artifacts(blobs, "no_such_library:load", print)
    blob = blobs.put("text", b"x")
    assert unknown.load(blob, 60.0)
    with pytest.raises(Misconfigured, match="no_such_library:load: wanted module:name"):
        unknown.get(blob)
