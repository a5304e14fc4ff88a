"""Processes of `headrace` that start within a tenth of a second, so that a campaign can kill a thousand of them.

A server process imports the libraries once (torch alone takes seconds) and forks for each start. The child then runs
the shipped command as its entry point does: its own session, its own output file, the same exit codes.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Final

from headrace.tied import die_with
from operators.child import headrace

PARENT: Final = "CHAOS_PARENT"
"""The variable that tells the server process with which process it ends."""
stop_s_max: Final = 30.0
"""Maximum time, in seconds, from SIGTERM to the end of a process."""


def server() -> ForkServerContext:
    """Return the context whose server process forks; its environment is that of this process at the first start."""
    os.environ[PARENT] = str(os.getpid())
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.chaos.preload"])
    return context


def _run(arguments: Sequence[str], environ: Mapping[str, str], folder: Path, output: Path, traced: bool) -> None:
    """Become the command: in the forked child."""
    os.setsid()
    die_with(os.getppid())
    written = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(written, 1)
    os.dup2(written, 2)
    os.environ.update(environ)
    os.chdir(folder)
    if traced:
        await_tracer()
    if "LD_PRELOAD" in environ:  # a preloaded library takes effect in a new program only
        command = headrace(*arguments)
        os.execvp(command[0], command)
    from operators.cli import main

    sys.argv = ["headrace", *arguments]
    main()


def await_tracer() -> None:
    """Wait until a process traces this one."""
    while not tracer_of("self"):
        time.sleep(0.005)
    time.sleep(0.05)  # it has attached, and is about to see each call


def tracer_of(pid: int | str) -> int:
    """Return the id of the process that traces one, 0 if none."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("TracerPid:")), 0)


class Process:
    """One process of `headrace`.

    Args:
        context: from `server`.
        name: what it does, e.g. `online`.
        arguments: the command line after `headrace`.
        environ: variables in addition to those of the server process. With LD_PRELOAD the command is started anew,
            which takes seconds.
        folder: its working directory, with `headrace.toml`.
        output: the file to which its output is appended.
        traced: let it begin only once a tracer has attached.
    """

    def __init__(
        self,
        context: ForkServerContext,
        name: str,
        arguments: Sequence[str],
        folder: Path,
        output: Path,
        *,
        environ: Mapping[str, str] | None = None,
        traced: bool = False,
    ) -> None:
        self.name, self.output = name, output
        self._begin = output.stat().st_size if output.exists() else 0
        self._process = context.Process(target=_run, args=(arguments, environ or {}, folder, output, traced))
        self._process.start()
        self.started_s = time.monotonic()

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code, below 0 for a signal; None while it runs."""
        return self._process.exitcode

    @property
    def text(self) -> str:
        """What it has written so far."""
        if not self.output.exists():
            return ""
        with self.output.open("rb") as file:
            file.seek(self._begin)
            return file.read().decode(errors="replace")

    @property
    def resident_mib(self) -> float:
        """The largest resident size so far, in MiB; 0 once it has ended."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return 0.0
        return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0.0)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.code is None:
            os.kill(self.pid, number)

    def join(self, timeout_s: float = stop_s_max) -> int | None:
        """Wait until it has ended; return the exit code, None if it still runs."""
        self._process.join(timeout_s)
        return self.code

    def kill(self) -> None:
        """Send it SIGKILL and wait for its end."""
        self.signal(signal.SIGKILL)
        self.join()
