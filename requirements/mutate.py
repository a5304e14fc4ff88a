"""Mutants of the core: which faults, put into it at random, its tests notice. Run by `make mutate`, not by pytest.

    python requirements/mutate.py --count 200 --seed 1 --out benchmarks/results/mutation.json

Cosmic Ray makes the mutants; a seeded sample of them, in proportion to the modules' sizes, runs against the tests of
its module in copies of the tree. Annotations, docstrings and the module's `Final` constants are not mutated: the first
two do nothing at run time, and constants were chosen by measurements, not by tests. `survivors.toml` says why no test
should kill a mutant that survived.
"""

import argparse
import ast
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, NamedTuple

from cosmic_ray.commands import init  # type: ignore[import-not-found]  # in an environment of its own
from cosmic_ray.mutating import mutate_code  # type: ignore[import-not-found]
from cosmic_ray.plugins import get_operator  # type: ignore[import-not-found]
from cosmic_ray.work_db import WorkDB, use_db  # type: ignore[import-not-found]

ROOT: Final = Path(__file__).parents[1]
TESTS: Final = {
    "headrace/shard/loop.py": ("tests/unit/test_loop.py",),
    "headrace/shard/follower.py": ("tests/unit/test_loop.py", "tests/golden/test_golden.py"),
    "headrace/shard/journal.py": ("tests/unit/test_journal.py", "tests/unit/test_loop.py"),
    "learners/shop.py": ("tests/unit/test_shop.py", "tests/golden/test_golden.py"),
    "learners/rounds/gate.py": ("tests/unit/test_gate.py", "tests/property/test_gate.py", "tests/unit/test_contest.py"),
    "learners/rounds/session_gate.py": (
        "tests/unit/test_session_gate.py",
        "tests/unit/test_contest.py",
        "tests/property/test_gate.py",
    ),
    "learners/rounds/retention.py": ("tests/unit/test_retention.py",),
    "learners/succession.py": ("tests/unit/test_succession.py", "tests/property/test_succession.py"),
    "learners/rounds/contest.py": ("tests/unit/test_contest.py", "tests/unit/test_rounds.py"),
    "learners/rounds/family.py": ("tests/unit/test_rounds.py", "tests/unit/test_trainer.py"),
    "learners/next_item/blend.py": ("tests/unit/test_blend.py", "tests/golden/test_golden.py"),
    "learners/next_item/contexts.py": ("tests/unit/test_contexts.py", "tests/unit/test_shop.py"),
    "learners/parts/drift.py": ("tests/unit/test_drift.py", "tests/golden/test_golden.py"),
}
"""The core, and which tests are asked about each module, quick ones first."""
test_s_max: Final = 600.0
"""Time after which a mutant counts as killed: it hangs."""
REASONS: Final = tomllib.loads((Path(__file__).parent / "survivors.toml").read_text())


class Mutant(NamedTuple):
    """One change of a module: its source, the line, and the change as text."""

    module: str
    source: str
    line: int
    change: str

    @property
    def id(self) -> str:
        """A name that stays the same while the change does."""
        return f"{self.module}:{hashlib.sha256(self.change.encode()).hexdigest()[:8]}"


def untested_lines(source: str) -> set[tuple[int, int]]:
    """Return the positions (line, column) that annotations and `Final` constants of the module cover."""
    tree, found = ast.parse(source), set()
    skipped: list[ast.AST] = [
        node for node in tree.body if isinstance(node, ast.AnnAssign) and "Final" in ast.unparse(node.annotation)
    ]
    for node in ast.walk(tree):
        skipped += [one for name in ("annotation", "returns") if (one := getattr(node, name, None)) is not None]
    lines = source.splitlines()
    for node in skipped:
        begin, end = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]  # annotations and assignments have places
        for line in range(begin[0], end[0] + 1):
            for column in range(len(lines[line - 1]) + 1):
                if begin <= (line, column) < end:
                    found.add((line, column))
    return found


def mutations_of(module: str) -> list[Any]:
    """Return all mutations of a module, outside what is not tested."""
    path = ROOT / module
    skipped = untested_lines(path.read_text())
    with tempfile.TemporaryDirectory() as folder, use_db(Path(folder) / "work.sqlite", WorkDB.Mode.create) as work:
        init([path], work, {})
        found = [one for item in work.work_items for one in item.mutations]
    return sorted((one for one in found if tuple(one.start_pos) not in skipped), key=str)


def mutant_of(module: str, mutation: Any) -> Mutant | None:
    """Return a module with a mutation; None if that changes nothing."""
    source = (ROOT / module).read_text()
    operator = get_operator(mutation.operator_name)(**mutation.operator_args)
    changed = mutate_code(source, operator, mutation.occurrence)
    if changed is None or changed == source:
        return None
    before, after = source.splitlines(), changed.splitlines()
    at = next((n for n, (old, new) in enumerate(zip(before, after, strict=False)) if old != new), len(after) - 1)
    return Mutant(module, changed, at + 1, f"{before[at].strip()} -> {after[at].strip()}")


def sample(count: int, seed: int) -> list[Mutant]:
    """Return a seeded sample, in proportion to the number of mutations of each module."""
    rng = random.Random(seed)
    mutations = {module: mutations_of(module) for module in TESTS}
    total = sum(map(len, mutations.values()))
    found = []
    for module, ones in mutations.items():
        chosen = rng.sample(ones, min(len(ones), max(1, round(count * len(ones) / total))))
        found += [mutant for one in chosen if (mutant := mutant_of(module, one))]
        print(f"mutate: {module}: {len(chosen)} of {len(ones):,} mutants", flush=True)
    rng.shuffle(found)
    return found


def survives(mutant: Mutant, tree: Path) -> bool:
    """Return whether the module's tests pass with the mutant in place."""
    path = tree / mutant.module
    kept = path.read_text()
    path.write_text(mutant.source)
    command = [
        str(ROOT / ".venv/bin/python"), "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow",
        *TESTS[mutant.module],
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, cwd=tree, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tree), "HOME": str(tree)},
            capture_output=True, timeout=test_s_max, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    finally:
        path.write_text(kept)
    return done.returncode == 0


def run(mutants: Sequence[Mutant], workers: int) -> list[Mutant]:
    """Return the mutants that survive; each worker has its own copy of the tree."""
    trees: SimpleQueue[Path] = SimpleQueue()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        for number in range(workers):
            tree = Path(folder) / str(number)
            shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "demo-*", "__pycache__", "dist"))
            trees.put(tree)

        def try_one(numbered: tuple[int, Mutant]) -> Mutant | None:
            number, mutant = numbered
            tree = trees.get()
            survived = survives(mutant, tree)
            trees.put(tree)
            text = f"SURVIVED {mutant.module}:{mutant.line}  {mutant.change}" if survived else "killed"
            print(f"mutate: {number + 1} of {len(mutants)}, {time.monotonic() - began:,.0f} s: {text}", flush=True)
            return mutant if survived else None

        return [one for one in pool.map(try_one, enumerate(mutants)) if one]


def main() -> None:
    """Run the sample, print the table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="mutants to try")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the figures to this file as JSON")
    parser.add_argument("--again", type=Path, help="a file of figures: try only what survived then, with today's tests")
    options = parser.parse_args()
    mutants = sample(options.count, options.seed)
    former = json.loads(options.again.read_text())["survivors"] if options.again else None
    survivors = run([one for one in mutants if former is None or one.id in former], options.workers)
    tried, survived = (Counter(one.module for one in ones) for ones in (mutants, survivors))
    print(f"{'module':40} mutants  killed")
    for module in TESTS:
        print(f"{module:40} {tried[module]:7} {tried[module] - survived[module]:7}")
    unexplained = [one for one in survivors if one.id not in REASONS]
    share = 1 - len(survivors) / len(mutants)
    print(f"killed {len(mutants) - len(survivors)} of {len(mutants)} ({share:.1%}); survivors without a reason:")
    for one in unexplained:
        print(f'"{one.id}" = ""  # line {one.line}: {one.change}')
    result: dict[str, Any] = {
        "count": options.count, "seed": options.seed, "mutants": len(mutants), "killed": len(mutants) - len(survivors),
        "share": share,
        "by_module": {module: [tried[module] - survived[module], tried[module]] for module in TESTS},
        "survivors": {one.id: {"change": one.change, "reason": REASONS.get(one.id, "")} for one in survivors},
    }  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(1 if unexplained else 0)


if __name__ == "__main__":
    main()
