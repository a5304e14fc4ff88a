"""Runs the simulation.

    python -m tests.simulation --seeds 100000 --jobs 2 --out benchmarks/results/simulation.json
    python -m tests.simulation --seed 17

The first prints a table, and each violation with the command that replays it; the second prints the trace of one seed.
"""

import argparse
import sys
from pathlib import Path

import msgspec

from benchmarks import report
from tests.simulation.seeds import Totals, replay_command, run_seed, run_seeds, steps_default


def _print_progress(totals: Totals) -> None:
    found = ", ".join(map(str, totals.violations))
    print(f"{totals.seeds} seeds, {totals.seconds:.0f} s, violations: {found or 'none'}", file=sys.stderr)


def main() -> int:
    """Run the command; return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description="Simulate shards among seeded faults.")
    parser.add_argument("--seed", type=int, help="run this seed alone and print its trace")
    parser.add_argument("--seeds", type=int, default=1_000, help="number of seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--steps", type=int, default=steps_default, help="steps of a seed before all faults end")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, help="file for the figures (JSON)")
    options = parser.parse_args()
    if options.seed is not None:
        result = run_seed(options.seed, options.steps)
        print("\n".join(result.trace))
        return 1 if result.violation else 0
    totals = run_seeds(options.first, options.seeds, steps=options.steps, jobs=options.jobs, report=_print_progress)
    report.show("Simulation", ["what", "number"], [[name, str(count)] for name, count in totals.rows()])
    for seed, text in totals.violations.items():
        print(f"{text}\n    {replay_command(seed, options.steps)}")
    report.write(options.out, {"first": options.first, **msgspec.to_builtins(totals, str_keys=True)})
    return 1 if totals.violations else 0


if __name__ == "__main__":
    sys.exit(main())
