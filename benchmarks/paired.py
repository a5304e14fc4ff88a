"""Runs a benchmark on this tree and on another revision in turns, and prints the ratio of each figure.

Timings on a shared machine vary by more than most changes do. In turns, both revisions see the same machine; the ratio
of their medians is what can be compared. The other revision is checked out beside this one for the time of the run, and
runs with this environment's packages.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import report

_ROOT: Final = Path(__file__).parent.parent


def run(tree: Path, benchmark: str, arguments: Sequence[str]) -> dict[str, float]:
    """Run a benchmark of a tree; return the numbers at the top of its JSON."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [sys.executable, "-m", f"benchmarks.{benchmark}", *arguments, "--out", str(out)]
        subprocess.run(command, cwd=tree, check=True, stdout=subprocess.DEVNULL)
        found: dict[str, Any] = json.loads(out.read_text())
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each figure over runs.

    >>> medians([{"rate": 1.0}, {"rate": 5.0}, {"rate": 2.0}])
    {'rate': 2.0}
    """
    return {name: statistics.median(one[name] for one in runs) for name in runs[0]}


def main(arguments: Sequence[str] | None) -> None:
    """Run the comparison."""
    parser = report.parser("This tree beside another revision, in turns.")
    parser.add_argument("benchmark", help="a module of benchmarks, e.g. learn_rate")
    parser.add_argument("--base", required=True, help="the other revision, as git names it")
    parser.add_argument("--runs", type=int, default=3, help="runs of each")
    parser.add_argument("--figures", nargs="*", help="figures to compare; all that both have by default")
    parser.add_argument("--pass", dest="passed", default="", help="options of the benchmark, in one word")
    options = parser.parse_args(arguments)
    found: dict[str, list[dict[str, float]]] = {"base": [], "this": []}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        subprocess.run(["git", "worktree", "add", "--detach", str(base), options.base], cwd=_ROOT, check=True)
        try:
            for number in range(options.runs):
                order = ("base", "this") if number % 2 == 0 else ("this", "base")
                for name in order:
                    tree = base if name == "base" else _ROOT
                    found[name].append(run(tree, options.benchmark, options.passed.split()))
                    print(f"run {number + 1} of {options.runs}, {name}", flush=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(base)], cwd=_ROOT, check=True)
    before, now = medians(found["base"]), medians(found["this"])
    figures = [name for name in options.figures or before if name in before and name in now]
    ratios = {name: now[name] / before[name] for name in figures if before[name]}
    report.show(
        f"{options.benchmark}: this tree beside {options.base}, medians of {options.runs} runs in turns",
        ["", options.base[:12], "this tree", "ratio"],
        [[name, f"{before[name]:,.4g}", f"{now[name]:,.4g}", f"{ratio:.3f}"] for name, ratio in ratios.items()],
    )
    result = {"base": options.base, "runs": options.runs, "medians": {"base": before, "this": now}, "ratios": ratios}
    report.write(options.out, result)


if __name__ == "__main__":
    report.run(main)
