"""Work in a child process: its result, every way to fail, and that nothing of it is left."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.child import ChildProcess, Ended, remove_leftovers

HERE = "tests_work"


@pytest.fixture(autouse=True)
def work_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let temporary folders lie in the test's own folder, and let children find a module of work."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / f"{HERE}.py").write_text(
        "import os, signal, sys, time\n"
        "def echo(data, seconds):\n    print('rubbish' * 10_000)\n    assert seconds() <= seconds()\n    return data\n"
        "def fail(data, seconds):\n    raise ValueError('no luck\\nwith these data')\n"
        "def leave(data, seconds):\n    sys.exit(7)\n"
        "def no_output(data, seconds):\n    os._exit(0)\n"
        "def die(data, seconds):\n    os.kill(os.getpid(), signal.SIGSEGV)\n"
        "def fill(data, seconds):\n    import resource\n    resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28))\n"
        "    return b'x' * 2**30\n"
        "def hang(data, seconds):\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    time.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, sys.path)]))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return folder


def wait(what: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ended(work: str, data: bytes = b"", limit_s: float = 60.0) -> Ended:
    child = ChildProcess(f"{HERE}:{work}", data, key="t", limit_s=limit_s)
    found: Ended = wait(child.poll)
    assert child.poll() == found, "it ends once"
    assert not child.folder.exists()
    child.close()
    return found


def test_a_result_comes_back_whatever_is_printed(tmp_path: Path) -> None:
    assert ended("echo", b"\x00data") == (b"\x00data", "")
    assert not list(tmp_path.glob("headrace-*"))


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        ("fail", "it ended with exit code 1: with these data"),
        ("leave", "it ended with exit code 7: it wrote no reason"),
        ("no_output", "its result cannot be read: No such file or directory"),
        ("die", "it was killed by SIGSEGV"),
        ("fill", "it ended with exit code 1: MemoryError"),
        ("missing", "wanted module:name, found module"),
    ],
)
def test_a_child_without_a_result_says_why(work: str, reason: str) -> None:
    found = ended(work)
    assert found.output is None
    assert reason in found.reason


def test_a_child_that_was_killed_says_so() -> None:
    child = ChildProcess(f"{HERE}:hang", b"", key="t", limit_s=60.0)
    assert child.poll() is None
    os.kill(child.pid, signal.SIGKILL)
    assert wait(child.poll) == (None, "it was killed by SIGKILL; perhaps memory ran out")


def test_a_child_that_hangs_is_killed_at_its_limit() -> None:
    child = ChildProcess(f"{HERE}:hang", b"", key="t", limit_s=1.0)
    assert wait(child.poll) == (None, "it did not end within 1 s")
    assert not is_alive(child.pid)
    assert not child.folder.exists()


def test_a_child_that_ignores_signals_is_closed_at_once() -> None:
    child = ChildProcess(f"{HERE}:hang", b"", key="t", limit_s=60.0)
    began = time.monotonic()
    child.close()
    assert time.monotonic() - began < 5
    assert not is_alive(child.pid)
    assert not child.folder.exists()


def test_a_child_that_cannot_be_started_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(FileNotFoundError):
        ChildProcess(f"{HERE}:echo", b"", key="t", limit_s=60.0)
    assert not list(tmp_path.glob("headrace-*"))


PARENT = """
import sys, time
from headrace.child import ChildProcess
child = ChildProcess("tests_work:hang", b"", key="t", limit_s=600.0)
print(child.pid, child.folder, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: /proc")
@pytest.mark.parametrize("early", [True, False])
def test_a_child_dies_with_its_parent_and_the_next_parent_cleans_up(tmp_path: Path, early: bool) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pid, _, place = parent.stdout.readline().strip().partition(" ")
    folder = Path(place)
    if not early:  # it is at work, not starting
        wait(lambda: _ignores_sigterm(int(pid)))
    assert is_alive(int(pid))
    assert remove_leftovers("t") == [], "its parent lives"
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait(lambda: not is_alive(int(pid)), 10)
    assert folder.exists()
    assert remove_leftovers("other") == []
    assert remove_leftovers("t") == [folder]
    assert not folder.exists()


def _ignores_sigterm(pid: int) -> bool:
    """Whether the child ignores SIGTERM already, as it does at work."""
    status = Path(f"/proc/{pid}/status").read_text()
    ignored = int(next(line for line in status.splitlines() if line.startswith("SigIgn")).split()[1], 16)
    return bool(ignored >> (signal.SIGTERM - 1) & 1)
