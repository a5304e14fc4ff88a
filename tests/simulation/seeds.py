"""Runs seeds, one after the other or in several processes, and adds up what happened."""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct, field

from tests.simulation.scenario import Result, Scenario

steps_default = 120
seeds_per_job = 50
COUNTED = ("steps", "calls", "crashes", "commits", "entries", "learned", "snapshots")
"""The numbers of a result that are added up."""


def run_seed(seed: int, steps: int = steps_default) -> Result:
    """Run the scenario of one seed."""
    with quiet(), tempfile.TemporaryDirectory(prefix="simulation-") as folder:
        return Scenario(seed, Path(folder) / "blobs").run(steps)


@contextmanager
def quiet() -> Iterator[None]:
    """Drop the processes' log lines: the trace tells more."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        yield
    finally:
        structlog.configure(**before)


class Totals(Struct):
    """What happened over all seeds. `violations` has the text of each, by its seed."""

    steps_per_seed: int
    seeds: int = 0
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))
    faults: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    violations: dict[int, str] = field(default_factory=dict)

    def add(self, result: Result) -> None:
        """Add one seed."""
        self.seeds += 1
        for name in COUNTED:
            self.counts[name] += getattr(result, name)
        self.faults = dict(Counter(self.faults) + Counter(result.faults))
        self.ends = dict(Counter(self.ends) + Counter(result.ends))
        if result.violation:
            self.violations[result.seed] = result.violation

    def rows(self) -> list[tuple[str, int]]:
        """Return the table: each number with its name."""
        return [
            ("seeds", self.seeds), *self.counts.items(),
            *((f"fault: {name}", count) for name, count in sorted(self.faults.items())),
            *((f"a process ended with {name}", count) for name, count in sorted(self.ends.items())),
            ("seconds", round(self.seconds)), ("violations", len(self.violations)),
        ]  # fmt: skip


def replay_command(seed: int, steps: int) -> str:
    """Return the command that runs a seed again and prints its trace."""
    chosen = "" if steps == steps_default else f" --steps {steps}"
    return f'make simulate ARGS="--seed {seed}{chosen}"'


def run_seeds(
    first: int,
    count: int,
    *,
    steps: int = steps_default,
    jobs: int = 1,
    seconds_max: float = float("inf"),
    report: Callable[[Totals], None] = lambda totals: None,
) -> Totals:
    """Run `count` seeds from `first` on, until `seconds_max` have passed.

    Args:
        jobs: number of processes; with 1, all run in this one.
        report: called now and then with what was counted so far.
    """
    totals, began = Totals(steps), time.monotonic()
    with ExitStack() as opened:
        run_all = opened.enter_context(ProcessPoolExecutor(jobs)).map if jobs > 1 else map
        run_part = partial(_run_part, steps=steps)
        parts = (
            (seed, min(seeds_per_job, first + count - seed)) for seed in range(first, first + count, seeds_per_job)
        )
        while time.monotonic() - began < seconds_max and (batch := list(islice(parts, jobs))):
            for results in run_all(run_part, batch):
                for result in results:
                    totals.add(result)
            totals.seconds = time.monotonic() - began
            report(totals)
    return totals


def _run_part(part: tuple[int, int], steps: int) -> list[Result]:
    first, count = part
    return [msgspec.structs.replace(run_seed(seed, steps), trace=[]) for seed in range(first, first + count)]
