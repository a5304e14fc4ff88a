"""Artifacts whose library is imported beside what their user does."""

import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from headrace.artifacts import Artifacts
from headrace.clock import Timer
from headrace.errors import Misconfigured
from headrace.shard.blobs import Blobs

SLOW = """
import time
from itertools import pairwise
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


class Clock:
    """A clock that only a test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.timer = Timer(monotonic=lambda: self.now_s)


def test_what_cannot_be_read_now_is_read_later_and_what_is_wrong_is_not(tmp_path: Path) -> None:
    told: list[str] = []
    blobs, clock = Blobs(tmp_path), Clock()
    artifacts: Artifacts[bytes] = Artifacts(blobs, "builtins:bytes", lambda event, **_: told.append(event), clock.timer)
    name = blobs.put("model", b"good")
    path = tmp_path / name
    path.rename(tmp_path / "elsewhere")
    assert artifacts.get(name) is None
    assert artifacts.retries(name)
    (tmp_path / "elsewhere").rename(path)
    assert artifacts.get(name) is None, "not at once"
    clock.now_s = 1.0
    assert artifacts.get(name) == b"good"
    assert not artifacts.retries(name)
    assert told == ["artifact is missing, trying again"]
    other = blobs.put("model", b"other")
    (tmp_path / other).write_bytes(b"damaged")
    assert artifacts.get(other) is None
    assert not artifacts.retries(other)
    assert told[1:] == ["artifact is unusable"]


def test_what_stays_away_is_tried_at_growing_intervals_and_forgotten_when_it_is_not_wanted(tmp_path: Path) -> None:
    clock = Clock()
    reads: list[float] = []

    class Counted(Blobs):
        def get(self, name: str) -> bytes:
            reads.append(clock.now_s)
            return super().get(name)

    artifacts: Artifacts[bytes] = Artifacts(Counted(tmp_path), "builtins:bytes", lambda event, **_: None, clock.timer)
    while clock.now_s < 200:
        assert artifacts.get("model-0") is None
        clock.now_s += 0.5
    assert reads[:6] == [0.0, 1.0, 3.0, 7.0, 15.0, 31.0]
    assert max(after - before for before, after in pairwise(reads)) <= 60.5
    artifacts.retain(())
    assert not artifacts.retries("model-0")


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
    assert told == ["artifact is missing, trying again"], "once"
    unknown: Artifacts[str] = Artifacts(blobs, "no_such_library:load", print)
    blob = blobs.put("text", b"x")
    assert unknown.load(blob, 60.0)
    with pytest.raises(Misconfigured, match="no_such_library:load: wanted module:name"):
        unknown.get(blob)
