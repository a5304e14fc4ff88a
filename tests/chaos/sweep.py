"""Sweeps over the system calls of a shard: `python -m tests.chaos.sweep --each 20 [--kafka] [--name syscalls]`.

Exit code 1 at the first broken promise, with the trial and the folder that was kept.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from pathlib import Path

from benchmarks import report
from headrace.errors import BrokenWorld
from tests.chaos.brokers import Brokers
from tests.chaos.processes import server
from tests.chaos.results import RESULTS
from tests.chaos.syscalls import CALLS, COMMANDS, KAFKA_CALLS, KILL, Bench, Outcome, Trial, trials
from tests.chaos.violation import Violation


def main() -> int:
    """Run a sweep; return the exit code."""
    parser = report.parser("Each n-th system call of a shard's process fails, or the process is killed at it.")
    parser.add_argument("--each", type=int, default=20, help="maximum number of trials of a call and a fault")
    parser.add_argument("--kafka", action="store_true", help="on a real broker: the calls that send to it")
    parser.add_argument("--commands", help=f"some of {','.join(COMMANDS)}; Kafka's log is not trimmed by us")
    parser.add_argument("--name", default="", help=f"keep the figures in {RESULTS.name}/chaos_NAME.json")
    options = parser.parse_args()
    if shutil.which("strace") is None:
        print("wanted strace, found none: apt-get install strace", file=sys.stderr)
        return 2
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the broker is stopped
    folder, began = Path(tempfile.mkdtemp(prefix="headrace-syscalls-")), time.monotonic()
    found: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    with ExitStack() as stack:
        brokers = stack.enter_context(Brokers(folder, 1)) if options.kafka else None
        bench = Bench(server(), folder / "bench", brokers.bootstrap if brokers else "")
        possible = [command for command in COMMANDS if not (options.kafka and command == "trim")]
        for command in options.commands.split(",") if options.commands else possible:
            calls = bench.count(command)
            for trial in trials(command, calls, options.each, KAFKA_CALLS if options.kafka else CALLS):
                try:
                    outcome = bench.run(trial)
                except (Violation, BrokenWorld) as error:
                    print(f"VIOLATION in {trial}: {error}\nits folder: {folder / 'bench'}", file=sys.stderr)
                    return 1
                found[trial.command, trial.call, trial.fault][_ended(trial, outcome)] += 1
                print(
                    f"{trial.command} {trial.call} {trial.number} {trial.fault}: {_ended(trial, outcome)}", flush=True
                )
    shutil.rmtree(folder)
    rows = [
        {"command": command, "call": call, "fault": fault.partition("=")[2], **ends}
        for (command, call, fault), ends in found.items()
    ]
    columns = ("command", "call", "fault", "killed", "went on", "exit code 1", "not reached")
    report.show("System calls", columns, [[str(row.get(column, 0)) for column in columns] for row in rows])
    figures = {
        "log": "kafka" if options.kafka else "sqlite", "trials": rows, "lost": 0, "double": 0, "digests_equal": True,
        "minutes": round((time.monotonic() - began) / 60, 1), "load_average": round(os.getloadavg()[1], 1),
    }  # fmt: skip
    report.write(RESULTS / f"chaos_{options.name}.json" if options.name else options.out, figures)
    return 0


def _ended(trial: Trial, outcome: Outcome) -> str:
    if not outcome.injected:
        return "not reached"
    return "killed" if trial.fault == KILL else "exit code 1" if outcome.code == 1 else "went on"


if __name__ == "__main__":
    sys.exit(main())
