"""Speed and memory of the deep model's answers, in NumPy (as the server answers) and in torch (as judges predict).

    python -m benchmarks.answering --out FILE

Each reader loads the same model in a process of its own, which does nothing else, and computes in one thread, as the
processes do. The time to the first answer includes importing the libraries. The weights are those of a new model: they
change neither speed nor memory.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar

import numpy as np

from benchmarks import report
from headrace.artifacts import resolve
from learners.next_item.judgement import list_length

T = TypeVar("T")

READERS: Final = {"NumPy": "learners.deep.answering:load_to_answer", "torch": "learners.deep.model:load_to_judge"}
SHORT: Final = 5
LONG: Final = 50
"""Items of a short and of a long prefix; the network reads 50 at most."""
BATCH: Final = 256


@dataclass(frozen=True)
class Figures:
    """What one reader takes. Seconds to the first answer, MiB of memory after it, and ms per call: one short prefix
    (median, 99 of 100), one long prefix (median), and a batch of short ones (median)."""

    first_answer_s: float
    memory_mib: float
    short_ms: float
    short_ms_p99: float
    long_ms: float
    batch_ms: float


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("Speed and memory of the deep model's answers, in NumPy and in torch.")
    parser.add_argument("--items", type=int, nargs="+", default=[5_000, 50_000], help="sizes of the vocabulary")
    parser.add_argument("--questions", type=int, default=200, help="number of questions of each kind")
    options = parser.parse_args(arguments)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # for NumPy in the processes to come
    found: dict[str, dict[str, Figures]] = {}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        for items in options.items:
            _in_a_new_process(write_model, path, items)
            found[str(items)] = {
                name: _in_a_new_process(measure, load, path, items, options.questions) for name, load in READERS.items()
            }
    report.show(
        f"One prefix at a time, the best {list_length}",
        (
            "items",
            "reader",
            "first answer s",
            "MiB",
            f"{SHORT} items ms",
            "p99",
            f"{LONG} items ms",
            f"batch {BATCH} ms",
        ),
        [
            [f"{int(items):,}", name, *(f"{value:.{2 if value < 100 else 0}f}" for value in asdict(one).values())]
            for items, readers in found.items()
            for name, one in readers.items()
        ],
    )
    document: dict[str, Any] = {
        "by_items": {items: {name: asdict(one) for name, one in readers.items()} for items, readers in found.items()},
        "options": {
            "questions": options.questions,
            "list_length": list_length,
            "short": SHORT,
            "long": LONG,
            "batch": BATCH,
        },
    }
    report.write(options.out, document)


def _in_a_new_process(work: Callable[..., T], *given: Any) -> T:
    """Return what a function returns in a process in which nothing is imported yet."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, given)


def write_model(path: Path, items: int) -> None:
    """Write a new model of this many items, with the default settings."""
    from learners.deep.model import DeepModel, DeepSettings

    model = DeepModel(DeepSettings(), seed=0)
    model.grow(f"item-{number}" for number in range(items))
    path.write_bytes(model.to_bytes())


def measure(load: str, path: Path, items: int, questions: int) -> Figures:
    """Return the figures of the reader that `load` names."""
    rng = np.random.default_rng(0)
    short, long = (
        [[f"item-{row}" for row in rng.integers(0, items, size)] for _ in range(questions)] for size in (SHORT, LONG)
    )
    before = time.perf_counter()
    model = resolve(load)(path.read_bytes())
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    model.predict(short[:1], list_length)
    first_s, held_mib = time.perf_counter() - before, memory_mib()

    def ms(*calls: list[list[str]]) -> list[float]:
        spent = []
        for prefixes in calls:
            began = time.perf_counter()
            model.predict(prefixes, list_length)
            spent.append(1e3 * (time.perf_counter() - began))
        return spent

    one_short = ms(*([prefix] for prefix in short))
    batches = [(short * BATCH)[start : start + BATCH] for start in range(0, 5 * BATCH, BATCH)]
    return Figures(
        first_s, held_mib, float(np.median(one_short)), float(np.quantile(one_short, 0.99)),
        float(np.median(ms(*([prefix] for prefix in long)))), float(np.median(ms(*batches))),
    )  # fmt: skip


def memory_mib() -> float:
    """Return the memory that this process holds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = [int(line.split()[1]) for line in lines if line.startswith("VmRSS:")]
    return kib / 1024


if __name__ == "__main__":
    report.run(main)
