"""The supervisor of `headrace up` and of the demo, with small processes that end, hang or do not stop."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace.errors import LogUnavailable, Misconfigured
from operators.child import LogFile
from operators.supervisor import UP, Spec, Stage, Supervisor, failures_told, pause_s_max


def python(code: str) -> list[str]:
    """Return a command that starts quickly and runs this code."""
    return [sys.executable, "-I", "-S", "-c", f"import os, signal, sys, time\n{code}"]


def waits(name: str, *, for_s: float = 0.0) -> list[str]:
    """Return a command that says where it listens, waits for SIGTERM, and takes some time to stop."""
    return python(
        f"def stop(*_):\n    print('asked', flush=True)\n    time.sleep({for_s})\n    print('gone', flush=True)\n"
        "    sys.exit(0)\n"
        f"signal.signal(signal.SIGTERM, stop)\nprint('{name}: waits on http://127.0.0.1:1/x', flush=True)\n"
        "while True:\n    signal.pause()\n"
    )


STUBBORN = python(
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('x: waits on http://127.0.0.1:1/x', flush=True)\n"
    "time.sleep(600)"
)


class Lines:
    """What a supervisor reports."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = []

    def __call__(self, name: str, line: str) -> None:
        self.all.append((name, line))

    @property
    def told(self) -> list[str]:
        """What the supervisor says itself."""
        return [line for name, line in self.all if name == UP]


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def supervisor(tmp_path: Path, lines: Lines) -> Iterator[Supervisor]:
    with Supervisor(tmp_path, lines, first_pause_s=0.01) as made:
        yield made


def tend_until(supervisor: Supervisor, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        supervisor.tend()
        time.sleep(0.005)


def pauses(lines: Lines) -> list[float]:
    return [float(found[1]) for line in lines.told if (found := re.search(r"started again in (\S+) s$", line))]


def test_what_ends_is_started_again_after_longer_and_longer_pauses(supervisor: Supervisor, lines: Lines) -> None:
    supervisor.start(Spec("x", python("sys.exit('headrace: LogUnavailable: no broker\\n  noise')"), Stage.SHARD))
    tend_until(supervisor, lambda: supervisor.statuses()[0].restarts == failures_told)
    assert pauses(lines) == [0.01 * 2**number for number in range(failures_told)]
    assert lines.told[0] == "x ended with exit code 1 (LogUnavailable: no broker); it is started again in 0.01 s"
    (warning,) = [line for line in lines.told if "in a row" in line]
    assert f"x has ended {failures_told} times in a row" in warning
    assert supervisor.children[0].path.read_text().count("no broker\n  noise\n") >= failures_told


def test_pauses_have_a_maximum(tmp_path: Path, lines: Lines) -> None:
    with Supervisor(tmp_path, lines, first_pause_s=1e6) as supervisor:
        supervisor.start(Spec("x", python("os.kill(os.getpid(), signal.SIGKILL)"), Stage.SHARD))
        tend_until(supervisor, lambda: supervisor.statuses()[0].state == "waiting")
    assert lines.told == [f"x was killed by signal 9; it is started again in {pause_s_max:g} s"]


def test_a_process_that_ran_well_has_the_first_pause_again(tmp_path: Path, lines: Lines) -> None:
    with Supervisor(tmp_path, lines, first_pause_s=0.01, well_s=0.0) as supervisor:
        supervisor.start(Spec("x", python("sys.exit(0)"), Stage.SHARD))
        tend_until(supervisor, lambda: supervisor.statuses()[0].restarts == 3)
    assert pauses(lines)[:3] == [0.01] * 3


def test_what_is_misconfigured_is_not_started_again_and_ends_all(tmp_path: Path, lines: Lines) -> None:
    wrong = "print(\"headrace: log 'x': wanted sqlite:PATH\")\nsys.exit(2)"
    with Supervisor(tmp_path, lines) as supervisor:
        other = supervisor.start(Spec("x", waits("x"), Stage.SHARD))
        supervisor.wait_until_up()
        supervisor.start(Spec("y", python(wrong), Stage.SERVER))
        with pytest.raises(Misconfigured, match=r"^y: log 'x': wanted sqlite:PATH$"):
            tend_until(supervisor, lambda: False)
    assert other.code == 0
    assert [one.restarts for one in supervisor.statuses()] == [0, 0]


@pytest.mark.parametrize(("code", "state"), [(0, "ended"), (1, "waiting")])
def test_a_producer_ends_when_it_has_done_all(tmp_path: Path, lines: Lines, code: int, state: str) -> None:
    with Supervisor(tmp_path, lines) as supervisor:
        supervisor.start(Spec("x", python(f"sys.exit({code})"), Stage.PRODUCER, once=True))
        tend_until(supervisor, lambda: bool(lines.told))
        assert [one.state for one in supervisor.statuses()] == [state]


def test_what_cannot_be_started_again_now_is_tried_later(tmp_path: Path, lines: Lines) -> None:
    with Supervisor(tmp_path / "logs", lines, first_pause_s=0.01) as supervisor:
        with pytest.raises(LogUnavailable, match=r"x cannot be started: .*No such file"):
            supervisor.start(Spec("x", python("sys.exit(1)"), Stage.SHARD))
        (tmp_path / "logs").mkdir()
        supervisor.start(Spec("x", python("sys.exit(1)"), Stage.SHARD))
        tend_until(supervisor, lambda: bool(lines.told))
        (tmp_path / "logs/x.log").unlink()
        (tmp_path / "logs").rmdir()
        tend_until(supervisor, lambda: "cannot be started" in lines.told[-1])
        assert [one.state for one in supervisor.statuses()] == ["waiting"]


def test_a_producer_that_has_done_all_is_not_waited_for(tmp_path: Path, lines: Lines) -> None:
    with Supervisor(tmp_path, lines) as supervisor:
        supervisor.start(Spec("x", python("pass"), Stage.PRODUCER, once=True))
        supervisor.wait_until_up()
    assert lines.told == ["x has done all, and is not started again"]


def test_without_restarts_an_error_of_a_process_is_an_error(tmp_path: Path, lines: Lines) -> None:
    with Supervisor(tmp_path, lines, restart=False) as supervisor:
        supervisor.start(Spec("x", python("sys.exit('no luck')"), Stage.SHARD))
        with pytest.raises(LogUnavailable, match=r"(?s)x ended with exit code 1; the end of .*x\.log:.no luck"):
            tend_until(supervisor, lambda: False)


def test_all_stop_in_order_each_stage_after_the_one_before(tmp_path: Path, lines: Lines) -> None:
    with Supervisor(tmp_path, lines) as supervisor:
        for stage in reversed(Stage):
            supervisor.start(Spec(stage.name, waits(stage.name, for_s=0.2), stage))
        supervisor.wait_until_up()
        lines.all.clear()
    stopped = [(stage.name, line) for stage in Stage for line in ("asked", "gone")]
    assert [one for one in lines.all if one[0] != UP] == stopped
    assert lines.told == [f"{stage.name} has stopped" for stage in Stage]


@pytest.mark.parametrize(("killed", "stop_s_max"), [(False, 0.3), (True, 600.0)])
def test_what_does_not_stop_is_killed(tmp_path: Path, lines: Lines, killed: bool, stop_s_max: float) -> None:
    """After a bounded time, and at once if a person wants it."""
    with Supervisor(tmp_path, lines, killed=lambda: killed, stop_s_max=stop_s_max) as supervisor:
        child = supervisor.start(Spec("x", STUBBORN, Stage.SHARD))
        supervisor.wait_until_up()
    assert child.code == -signal.SIGKILL
    assert lines.told[-1].startswith("x was killed, as it did not stop in time")


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: the kernel ends the processes")
def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom operators.supervisor import *\n"
        "supervisor = Supervisor(Path(sys.argv[1]), lambda name, line: None)\n"
        "for _ in range(2):\n    supervisor.start(Spec('x', sys.argv[2:], Stage.SHARD))\n"
        "while any(not one.address for one in supervisor.children):\n    supervisor.tend()\n"
        "print(*(one.pid for one in supervisor.children), flush=True)\ninput()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), *STUBBORN]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert [is_alive(pid) for pid in pids] == [True, True]
        parent.kill()
    deadline = time.monotonic() + 60
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_log_file_is_bounded_and_has_the_newest_lines(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "x.log", bytes_max=100)
    for number in range(1_000):
        file.write(b"line %d\n" % number)
    file.close()
    kept = (tmp_path / "x.log.1").read_bytes() + (tmp_path / "x.log").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["x.log", "x.log.1"]
    assert all(path.stat().st_size <= 100 for path in tmp_path.iterdir())
    assert kept.splitlines() == [b"line %d" % number for number in range(1_000)][-len(kept.splitlines()) :]
    assert len(kept) > 100
