"""Chaos on real processes: `python -m tests.chaos --minutes 60 --seed 1 [--kafka] [--faults kill,zombie]`.

Exit code 1 at the first broken promise, with the command that runs that round again and the folder that was kept.
"""

import argparse
import os
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import report
from tests.chaos.campaign import Campaign, Failed, Plan
from tests.chaos.faults import BY_NAME_ONLY, FAULTS, ON_KAFKA, ON_SQLITE, missing
from tests.chaos.processes import server
from tests.chaos.results import RESULTS, committed, kills, show


def main() -> int:
    """Run a campaign; return the exit code."""
    parser = report.parser("Real processes under load and faults, audited after each round.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kafka", action="store_true", help="on a real broker, by default on SQLite")
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=1, help="number of brokers, with --kafka")
    parser.add_argument("--faults", default="", help=f"some of {','.join(FAULTS)}; by default all that apply")
    parser.add_argument("--events", type=int, default=1_500, help="events of each round")
    parser.add_argument("--rate", type=float, default=100.0, help="events published per second")
    parser.add_argument("--first", type=int, default=0, help="number of the first round, to run one again")
    parser.add_argument("--name", default="", help=f"keep the figures in {RESULTS.name}/chaos_NAME.json")
    options = parser.parse_args()
    plan = Plan(options.seed, faults_of(options), options.kafka, options.brokers, options.events, options.rate)
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the brokers are stopped
    folder = Path(tempfile.mkdtemp(prefix="headrace-chaos-"))
    began = time.monotonic()
    campaign = Campaign(plan, server(), folder)
    try:
        campaign.run(options.minutes, options.first)
    except Failed as failed:
        again = [*without_first(sys.argv[1:]), "--first", str(failed.number)]
        print(f"VIOLATION in {failed}\nagain: make chaos ARGS={shlex.quote(shlex.join(again))}", file=sys.stderr)
        return 1
    finally:
        campaign.close()
    where = "kafka" if plan.kafka else "sqlite"
    figures = {
        "log": where, "brokers": plan.brokers if plan.kafka else 0, "seed": plan.seed, "events": plan.events,
        "minutes": round((time.monotonic() - began) / 60, 1), "load_average": round(os.getloadavg()[1], 1),
        **campaign.tally.figures(),
    }  # fmt: skip
    show(f"Chaos on {where}, seed {plan.seed}, {figures['minutes']} minutes", figures)
    report.write(RESULTS / f"chaos_{options.name}.json" if options.name else options.out, figures)
    total, on_kafka = kills(committed() if options.name else [*committed(), figures])
    print(f"kills over all runs that are kept: {total:,}, of them on Kafka: {on_kafka:,}")
    return 0


def faults_of(options: argparse.Namespace) -> list[str]:
    """Return the faults to run; say which are left out, and why."""
    other = ON_SQLITE if options.kafka else ON_KAFKA
    wanted = options.faults.split(",") if options.faults else [name for name in FAULTS if name not in BY_NAME_ONLY]
    found = []
    for name in wanted:
        if name not in FAULTS:
            raise SystemExit(f"--faults: wanted some of {', '.join(FAULTS)}, found {name!r}")
        if reason := ("another kind of log" if name in other else missing(name)):
            print(f"left out: {name}: {reason}")
        else:
            found.append(name)
    if not found:
        raise SystemExit("--faults: none of them can run here")
    return found


def without_first(arguments: list[str]) -> list[str]:
    """Return a command line without `--first` and without what names a file.

    >>> without_first(["--seed", "2", "--first", "3"])
    ['--seed', '2']
    """
    found, skip = [], False
    for one in arguments:
        if not skip and one not in ("--first", "--name", "--out"):
            found.append(one)
        skip = one in ("--first", "--name", "--out")
    return found


if __name__ == "__main__":
    sys.exit(main())
