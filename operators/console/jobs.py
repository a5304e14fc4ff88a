"""The commands that actions run: each is the command that a person would type, as a process of its own.

So an action does what its command does, checks what it checks and says what it says, and the console needs no right
that it does not use. Arguments are passed as a list, never through a shell, and what a person has typed is always the
value of an option or behind `--`.
"""

import asyncio
import itertools
import shlex
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Literal, TypeAlias

from headrace.clock import wall_ms
from headrace.errors import Misconfigured
from headrace.tied import tied_command
from operators.child import headrace
from operators.console.audit import Audit
from operators.supervisor import MISCONFIGURED

jobs_max: Final = 100
"""Most commands that are remembered."""
running_max: Final = 4
"""Most commands that run at a time."""
lines_max: Final = 400
"""Most lines of a command's output that are kept, the newest ones."""
line_bytes_max: Final = 65_536

State: TypeAlias = Literal["running", "done", "refused", "failed"]


class Job:
    """A command that runs or has ended.

    Attributes:
        what: the action's code.
        of: what it is done to.
        shown: the command, as a person would type it.
        state: `refused` means that the command has found its arguments wrong, or what they ask for not possible.
    """

    def __init__(self, number: int, who: str, what: str, of: str, why: str, shown: str, began_ms: int) -> None:
        self.number, self.who, self.what, self.of, self.why = number, who, what, of, why
        self.shown, self.began_ms = shown, began_ms
        self.state: State = "running"
        self.ended_ms: int | None = None
        self.lines: deque[str] = deque(maxlen=lines_max)
        self.ended = asyncio.Event()


class Jobs:
    """Runs commands. Use it in one event loop, whose thread must live as long as they do (`headrace.tied`).

    Args:
        variables: of every command's environment beside those of this process, such as `HEADRACE_LOG`.
    """

    def __init__(
        self, audit: Audit, variables: Mapping[str, str] | None = None, clock: Callable[[], int] = wall_ms
    ) -> None:
        self._audit, self._clock = audit, clock
        self._variables = [f"{name}={value}" for name, value in (variables or {}).items()]
        self._numbers = itertools.count(1)
        self._jobs: dict[int, Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def all(self) -> list[Job]:
        """Return what is remembered, the newest first."""
        return list(self._jobs.values())[::-1]

    def find(self, number: int) -> Job | None:
        """Return a command by its number, None if it is not remembered."""
        return self._jobs.get(number)

    def start(
        self, who: str, address: str, what: str, arguments: Sequence[str], *, of: str = "", why: str = ""
    ) -> Job:  # fmt: skip
        """Start a command of Headrace, once the audit has it.

        Raises:
            Misconfigured: too many run, or the audit cannot be written.
        """
        if sum(job.state == "running" for job in self._jobs.values()) >= running_max:
            raise Misconfigured(f"wanted at most {running_max} commands at a time, found as many that still run")
        try:
            self._audit.write(who, address, what, of=of, why=why, outcome="begun")
        except OSError as error:
            raise Misconfigured(f"the audit cannot be written, so nothing is done: {error}") from error
        job = Job(
            next(self._numbers), who, what, of, why, shlex.join(["headrace", *arguments]), self._clock()
        )  # fmt: skip
        self._jobs[job.number] = job
        while len(self._jobs) > jobs_max:
            del self._jobs[next(iter(self._jobs))]
        task = asyncio.get_running_loop().create_task(
            self._run(job, address, ["env", *self._variables, *headrace(*arguments)])
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    async def stop(self) -> None:
        """End what runs."""
        for task in list(self._tasks):
            task.cancel()
        for task in list(self._tasks):
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self, job: Job, address: str, command: Sequence[str]) -> None:
        code: int | None = None
        try:
            process = await asyncio.create_subprocess_exec(
                *tied_command(command), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT, limit=line_bytes_max, start_new_session=True,
            )  # fmt: skip
            assert process.stdout
            try:
                await _read(process.stdout, job.lines)
                code = await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
        except OSError as error:
            job.lines.append(str(error))
        finally:
            states: dict[int | None, State] = {0: "done", MISCONFIGURED: "refused"}
            job.state, job.ended_ms = states.get(code, "failed"), self._clock()
            with suppress(OSError):
                self._audit.write(job.who, address, job.what, of=job.of, why=job.why, outcome=job.state)
            job.ended.set()


async def _read(output: asyncio.StreamReader, lines: deque[str]) -> None:
    """Keep the lines of an output; one that is too long is kept in parts."""
    rest = b""
    while piece := await output.read(line_bytes_max):
        *whole, rest = (rest + piece).split(b"\n")
        lines.extend(line.decode(errors="replace") for line in whole)
        if len(rest) > line_bytes_max:
            lines.append(rest.decode(errors="replace"))
            rest = b""
    if rest:
        lines.append(rest.decode(errors="replace"))
