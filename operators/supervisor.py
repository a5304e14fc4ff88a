"""The supervisor of several processes: starts them, starts those again that ended, and stops them in order."""

import time
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple, Self

from headrace.errors import LogUnavailable, Misconfigured
from operators.child import Child, start_s_max
from operators.running import ProcessStatus, State

stop_s_max: Final = 10.0
"""Maximum time, in seconds, in which all processes stop; those that do not are killed."""
stage_s_min: Final = 1.5
"""Time, in seconds, that is kept for each of the stages that follow; the last is a broker's, which writes its files."""
first_pause_s: Final = 1.0
pause_s_max: Final = 60.0
well_s: Final = 60.0
"""Time, in seconds, after which a process that runs has started well: its next pause is the first one again."""
failures_told: Final = 5
"""Number of failures in a row from which on the supervisor says that it does not help to start a process again."""
poll_s: Final = 0.1
MISCONFIGURED: Final = 2
"""The exit code of a process that another start cannot help: an option, a setting or a right is wrong."""

UP: Final = "up"
"""The name under which the supervisor reports what happens to the processes."""

Report = Callable[[str, str], None]
"""Is called with a process' name and a line of its output, or with `UP` and a line about one; from several threads."""


class Stage(IntEnum):
    """When a process stops: all of a stage have stopped before those of the next one are asked to."""

    PRODUCER, GATEWAY, SHARD, SERVER, BROKER = range(5)


class Spec(NamedTuple):
    """A process that is to run.

    Args:
        address: where it is to listen, empty if the system chooses the port.
        once: it ends by itself when it has done all, with exit code 0.
        environ: variables in addition to those of this process.
    """

    name: str
    command: Sequence[str]
    stage: Stage
    address: str = ""
    once: bool = False
    environ: Mapping[str, str] | None = None


class _Supervised:
    """A process that runs, or is to run again."""

    def __init__(self, spec: Spec, child: Child) -> None:
        self.spec, self.child = spec, child
        self.starts, self.failures = 1, 0
        self.told_up = self.done = False
        self.again_s: float | None = None
        """When it is started again, on the monotonic clock; None while it runs."""

    def status(self) -> ProcessStatus:
        """Return what it does."""
        address = self.child.address or self.spec.address
        return ProcessStatus(
            name=self.spec.name, state=self._state(), pid=self.child.pid, address=address, restarts=self.starts - 1
        )

    def _state(self) -> State:
        if self.done:
            return "ended"
        if self.again_s is not None:
            return "waiting"
        return "up" if self.child.address else "starting"


class Supervisor:
    """The processes. The caller calls `tend` all the time. A context manager, which stops all at its end.

    Args:
        folder: of the processes' log files, `NAME.log`.
        report: is told each line that the processes write, and what happens to them.
        restart: start a process again that ended; if not, its end with an error is an error of `tend`.
        killed: whether all shall be killed at once, asked while they stop.
        first_pause_s, well_s, stop_s_max: as the constants of these names, in seconds.
    """

    def __init__(
        self,
        folder: Path,
        report: Report,
        *,
        restart: bool = True,
        killed: Callable[[], bool] = lambda: False,
        first_pause_s: float = first_pause_s,
        well_s: float = well_s,
        stop_s_max: float = stop_s_max,
    ) -> None:
        self._folder, self._report, self._restart, self._killed = folder, report, restart, killed
        self._first_pause_s, self._well_s, self.stop_s_max = first_pause_s, well_s, stop_s_max
        self._all: list[_Supervised] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def children(self) -> list[Child]:
        """The processes in the order in which they were started first; of those that ended, the last one."""
        return [one.child for one in self._all]

    @property
    def all_up(self) -> bool:
        """Whether each process has said where it listens, or has done all; known from the next `tend` on."""
        return all(one.done or one.told_up for one in self._all)

    def statuses(self) -> list[ProcessStatus]:
        """Return what each process does."""
        return [one.status() for one in self._all]

    def start(self, spec: Spec) -> Child:
        """Start a process, and return it. Raises LogUnavailable if the system cannot start it now."""
        try:
            self._all.append(_Supervised(spec, self._child(spec)))
        except OSError as error:
            raise LogUnavailable(f"{spec.name} cannot be started: {error}") from error
        return self._all[-1].child

    def _child(self, spec: Spec) -> Child:
        return Child(
            spec.name, spec.command, self._folder, environ=spec.environ,
            on_line=lambda line: self._report(spec.name, line),
        )  # fmt: skip

    def wait_until_up(self) -> None:
        """Wait until all processes say where they listen.

        Raises:
            Misconfigured, LogUnavailable: see `tend`; or one did not say so in time.
        """
        deadline = time.monotonic() + start_s_max
        while not self.all_up:
            self.tend()
            if time.monotonic() > deadline:
                late = [one.spec.name for one in self._all if not one.child.address]
                raise LogUnavailable(f"{', '.join(late)} did not start within {start_s_max:.0f} s; see {self._folder}")
            time.sleep(poll_s)

    def tend(self) -> None:
        """Look after each process once: start those again whose pause is over.

        Raises:
            Misconfigured: a process ended with exit code 2.
            LogUnavailable: one ended with another error, and this supervisor does not restart.
        """
        for one in self._all:
            if one.again_s is not None:
                if time.monotonic() >= one.again_s:
                    self._start_again(one)
            elif not one.done:
                self._look_at(one)

    def _start_again(self, one: _Supervised) -> None:
        try:
            one.child = self._child(one.spec)
        except OSError as error:  # too many processes or open files, or a full disk
            one.again_s = time.monotonic() + pause_s_max
            self._tell(one, f"cannot be started: {error}; it is tried again in {pause_s_max:g} s")
            return
        one.again_s, one.told_up = None, False
        one.starts += 1

    def _look_at(self, one: _Supervised) -> None:
        child, name = one.child, one.spec.name
        code = child.code
        ran_s = time.monotonic() - child.started_s
        if ran_s > self._well_s:
            one.failures = 0
        if code is None:
            if child.address and not one.told_up:
                one.told_up = True
                self._tell(one, f"is up, process {child.pid}")
        elif code == 0 and one.spec.once:
            one.done = True
            self._tell(one, "has done all, and is not started again")
        elif code == MISCONFIGURED:
            one.done = True
            self._tell(one, f"{_how_ended(child, code)}; another start cannot help, so all others are stopped")
            raise Misconfigured(f"{name}: {child.reason or f'ended with exit code {code}'}")
        elif not self._restart:
            one.done = True
            child.check()
        else:
            pause_s = min(pause_s_max, self._first_pause_s * 2.0 ** min(one.failures, 30))
            one.failures += 1
            one.again_s = time.monotonic() + pause_s
            self._tell(one, f"{_how_ended(child, code)}; it is started again in {pause_s:g} s")
            if one.failures >= failures_told:
                self._tell(
                    one,
                    f"has ended {one.failures} times in a row, never after more than {self._well_s:g} s; it needs"
                    f" a person: its log is {child.path}",
                )

    def _tell(self, one: _Supervised, text: str) -> None:
        self._report(UP, f"{one.spec.name} {text}")

    def stop(self) -> None:
        """Stop all processes, one stage after the other. Safe to call twice."""
        for one in self._all:
            one.done |= one.again_s is not None
            one.again_s = None
        end = time.monotonic() + self.stop_s_max
        stages = sorted({one.spec.stage for one in self._all if not one.done})
        for later, stage in zip(reversed(range(len(stages))), stages, strict=True):
            members = [one for one in self._all if one.spec.stage == stage and not one.done]
            for one in members:
                one.child.request_stop()
            deadline = end - later * min(stage_s_min, self.stop_s_max / len(stages))
            while any(one.child.code is None for one in members):
                if self._killed() or time.monotonic() > deadline:
                    break
                time.sleep(poll_s / 5)
            for one in members:
                if one.child.code is None:
                    one.child.kill()
                    self._tell(one, "was killed, as it did not stop in time; it lost nothing committed")
                else:
                    self._tell(one, "has stopped")
                one.done = True


def _how_ended(child: Child, code: int) -> str:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return f"{how} ({child.reason})" if code > 0 and child.reason else how
