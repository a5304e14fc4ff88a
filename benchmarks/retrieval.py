"""Retrieval of the most probable items: all item vectors scored, and the index (`learners.deep.retrieval`).

    python -m benchmarks.retrieval --data diginetica_periods.tar.gz --out FILE

The deep model learns period 0 as in `benchmarks.continual`; sessions of period 1 are asked. Its items are the first
rows of each vocabulary. Each further row is drawn near one of them: an item is chosen at random, and the new vector has
a random direction from it, at the cosine that a random item has to its nearest neighbour. Smaller vocabularies are the
first rows. So a session has, at every size, neighbours as near as in the trained model, in numbers that grow with it.

Each size is measured in a process of its own, in one thread. Times are processor time of that thread: on a busy machine
the wall clock shows mostly what else runs. `choices` compares settings of the index at one size, and
`changing` an index that holds late items too, which the live one does not: it adds items and moves them, and is stored.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks import report
from benchmarks.answering import memory_mib
from benchmarks.contestants import Tuning
from benchmarks.periods import Periods, load
from benchmarks.registry import DEEP, FACTORIES
from benchmarks.resumable import ResumableContestant, folder_of, model_path
from learners.deep import retrieval
from learners.deep.retrieval import Retrieval
from learners.deep.vocabulary import late_items_max
from learners.next_item.judgement import list_length

T = TypeVar("T")
Floats = NDArray[np.float32]

CHOICES: Final = (("i8", 16, 128), ("f16", 16, 128), ("f32", 16, 128), ("i8", 32, 128), ("i8", 16, 64))
"""Compared settings of the index: data type, connectivity, expansion while adding."""
CHANGED: Final = 1_000
"""Number of items that are added, and of those that are moved."""


class Drawn(NamedTuple):
    """Shapes: units (V, D), sessions (Q, D), all of unit length."""

    units: Floats
    sessions: Floats
    temperature: float


def prepare(data: Path | None, work: Path, items: int, questions: int, into: Path) -> None:
    """Train the model, unless `work` has it, and write the vectors of `items` items and of sessions."""
    import torch
    from torch.nn import functional

    from learners.deep.model import DeepModel

    periods, tuning = load(data), Tuning()
    folder = folder_of(work, DEEP, periods, tuning)
    contestant = ResumableContestant(DEEP, folder, partial(FACTORIES[DEEP], tuning))
    contestant.answers(periods.questions(1, 0.01), "_retrieval", periods, 1, lambda share: None)
    model = DeepModel.from_bytes(model_path(folder, 0).read_bytes())
    with torch.inference_mode():
        units = functional.normalize(model.table, dim=-1)
        asked = [model.rows(prefix)[-model.settings.context :] for prefix in _prefixes(periods)]
        known = [rows for rows in asked if rows]
        chosen = np.random.default_rng(0).choice(len(known), questions, replace=False)
        sessions = torch.stack([model.network(units[known[number]][None])[0, -1] for number in chosen.tolist()])
    np.savez(
        into, units=draw(units.numpy(), items), sessions=sessions.numpy(), temperature=model.settings.temperature
    )  # fmt: skip


def _prefixes(periods: Periods) -> list[list[str]]:
    return [[periods.items[item] for item in prefix] for prefix, _ in periods.questions(1)]


def draw(units: Floats, items: int) -> Floats:
    """Return vectors of `items` items: the given ones, then some drawn near them. See the module's docstring."""
    rng = np.random.default_rng(0)
    sampled = rng.choice(len(units), min(2_000, len(units)), replace=False)
    cosines = units[sampled] @ units.T
    cosines[np.arange(len(sampled)), sampled] = -1.0
    count = max(0, items - len(units))
    near = units[rng.integers(0, len(units), count)]
    cosine = rng.choice(cosines.max(axis=1), count)[:, None]
    away = rng.standard_normal(near.shape, np.float32)
    away -= (away * near).sum(axis=1, keepdims=True) * near
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    drawn: Floats = cosine * near + np.sqrt(1 - cosine * cosine) * away
    return np.concatenate([units, drawn])[:items]


def _drawn(path: Path, items: int) -> Drawn:
    with np.load(path) as kept:
        return Drawn(kept["units"][:items], kept["sessions"], float(kept["temperature"]))


def measure(path: Path, items: int) -> dict[str, float]:
    """Return the figures of one size."""
    units, sessions, temperature = _drawn(path, items)
    exact = Retrieval(units, temperature, index_from=items + 1)
    wanted, exact_ms = _asked(exact, sessions)
    import usearch.index  # noqa: F401 - before memory is measured

    before_mib, began = memory_mib(), time.thread_time()
    indexed = Retrieval(units, temperature, index_from=0)
    build_s, index_mib = time.thread_time() - began, memory_mib() - before_mib
    found, index_ms = _asked(indexed, sessions)
    sums = [
        _sum(units, session, mine, temperature) / _sum(units, session, theirs, temperature)
        for session, mine, theirs in zip(sessions, found, wanted, strict=True)
    ]
    errors = np.abs(1 / np.array(sums) - 1)
    rng = np.random.default_rng(1)
    late = units[rng.integers(0, items, late_items_max)]
    add_us = _us(lambda row: indexed.place([items + row], late[row : row + 1]), late_items_max)
    move_us = _us(lambda row: indexed.place([items + row], late[row : row + 1]), late_items_max)
    _, late_ms = _asked(indexed, sessions)
    return {
        "exact_ms": float(np.median(exact_ms)), "exact_ms_p99": float(np.quantile(exact_ms, 0.99)),
        "index_ms": float(np.median(index_ms)), "index_ms_p99": float(np.quantile(index_ms, 0.99)),
        "index_ms_with_all_late_items": float(np.median(late_ms)),
        "recall@10": recall(found, wanted, 10), "recall@50": recall(found, wanted, 50),
        "answers_below_half": float(np.mean([recall([a], [b], 50) < 0.5 for a, b in zip(found, wanted, strict=True)])),
        "probability_error": float(np.median(errors)), "probability_error_p99": float(np.quantile(errors, 0.99)),
        "vectors_mib": units.nbytes / 2**20, "index_mib": index_mib, "build_s": build_s,
        "add_us": add_us, "move_us": move_us,
    }  # fmt: skip


Found = list[tuple[NDArray[np.int64], Floats]]


def _asked(one: Retrieval, sessions: Floats) -> tuple[Found, list[float]]:
    """Return the answers to all sessions, and the milliseconds of each."""
    found, spent = [], []
    for session in sessions:
        began = time.thread_time()
        found.append(one.nearest(session, list_length))
        spent.append(1e3 * (time.thread_time() - began))
    return found, spent


def _sum(units: Floats, session: Floats, answer: tuple[NDArray[np.int64], Floats], temperature: float) -> float:
    """Return the softmax's sum by which an answer's probabilities were divided."""
    return float(np.exp(units[answer[0][0]].astype(np.float64) @ session / temperature) / answer[1][0])


def recall(found: Found, wanted: Found, n: int) -> float:
    """Return the mean share of the n best items that are found among the first n.

    >>> one = np.array([1, 2, 3]), np.ones(3, np.float32)
    >>> recall([one], [(np.array([3, 2, 1]), one[1])], 2)
    0.5
    """
    shares = [len(np.intersect1d(a[0][:n], b[0][:n])) / n for a, b in zip(found, wanted, strict=True)]
    return float(np.mean(shares))


def _us(change: Callable[[int], None], count: int) -> float:
    spent = []
    for number in range(count):
        began = time.thread_time()
        change(number)
        spent.append(1e6 * (time.thread_time() - began))
    return float(np.median(spent))


def _index(units: Floats, dtype: str, connectivity: int, expansion: int, *, lookups: bool = False) -> Any:
    from usearch.index import Index

    return Index(
        ndim=units.shape[1], metric="ip", dtype=dtype, connectivity=connectivity, expansion_add=expansion,
        expansion_search=retrieval.expansion_search, enable_key_lookups=lookups,
    )  # fmt: skip


def _searched(index: Any, units: Floats, sessions: Floats, neighbours: int) -> tuple[Found, float]:
    """Return the best of an index's neighbours by their exact cosines, and the median milliseconds."""
    found, spent = [], []
    for session in sessions:
        began = time.thread_time()
        keys = index.search(session, neighbours, threads=1).keys
        cosines = units[keys] @ session
        best = np.argsort(-cosines)[:list_length]
        found.append((keys[best].astype(np.int64), cosines[best]))
        spent.append(1e3 * (time.thread_time() - began))
    return found, float(np.median(spent))


def _all_neighbours(units: Floats, sessions: Floats) -> Found:
    return _asked(Retrieval(units, 1.0, index_from=len(units) + 1), sessions)[0]


def choices(path: Path, items: int) -> list[dict[str, Any]]:
    """Return the figures of each of `CHOICES`."""
    units, sessions, _ = _drawn(path, items)
    wanted, rows = _all_neighbours(units, sessions), []
    for dtype, connectivity, expansion in CHOICES:
        index = _index(units, dtype, connectivity, expansion)
        began = time.thread_time()
        index.add(np.arange(items), units, threads=1)
        chosen: dict[str, Any] = {"dtype": dtype, "connectivity": connectivity, "expansion_add": expansion}
        chosen |= {"build_s": time.thread_time() - began, "bytes_per_item": len(index.save()) / items}
        for neighbours in (list_length, retrieval.neighbours):
            found, ms = _searched(index, units, sessions, neighbours)
            chosen |= {f"ms@{neighbours}": ms, f"recall@50 of {neighbours}": recall(found, wanted, 50)}
        rows.append(chosen)
    return rows


def _ignored(done: int, total: int) -> bool:
    return True


def changing(path: Path, items: int) -> dict[str, float]:
    """Return the figures of an index that holds late items too: their addition and moves, and storing the index."""
    units, sessions, _ = _drawn(path, items)
    index = _index(units, "i8", retrieval.connectivity, retrieval.expansion_add, lookups=True)
    began = time.thread_time()
    index.add(np.arange(items), units, threads=1, progress=_ignored)
    build_s = time.thread_time() - began
    rng = np.random.default_rng(1)
    late = units[rng.permutation(items)[: 2 * CHANGED]]  # as late items of one kind, they equal others

    def move(row: int) -> None:
        index.remove(items + row)
        index.add(items + row, late[CHANGED + row], threads=1)

    add_us = _us(lambda row: index.add(items + row, late[row], threads=1), CHANGED)
    move_us = _us(move, CHANGED)
    file = path.with_name("index")
    began = time.thread_time()
    index.save(str(file))
    save_s, began = time.thread_time() - began, time.thread_time()
    _index(units, "i8", retrieval.connectivity, retrieval.expansion_add).load(str(file))
    restore_s = time.thread_time() - began
    held = np.concatenate([units, late[CHANGED:]])
    found, _ = _searched(index, held, sessions, retrieval.neighbours)
    return {
        "build_with_progress_s": build_s, "add_us": add_us, "move_us": move_us,
        "recall@50": recall(found, _all_neighbours(held, sessions), 50),
        "save_s": save_s, "restore_s": restore_s, "stored_mib": file.stat().st_size / 2**20,
    }  # fmt: skip


def _in_a_new_process(work: Callable[..., T], *given: Any) -> T:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, given)


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("Retrieval of the most probable items, of all vectors and from the index.")
    report.add_data(parser)
    sizes = [5_000, 50_000, retrieval.indexed_from, 131_072, 1_000_000]
    parser.add_argument("--items", type=int, nargs="+", default=sizes, help="sizes of the vocabulary")
    parser.add_argument("--compared", type=int, default=50_000, help="size at which settings are compared")
    parser.add_argument("--changed", type=int, default=131_072, help="size of the index that changes")
    parser.add_argument("--questions", type=int, default=500, help="number of sessions that are asked")
    parser.add_argument("--work", type=Path, default=Path("build/continual"), help="folder for the trained model")
    options = parser.parse_args(arguments)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # for NumPy in the processes to come
    with TemporaryDirectory() as folder:
        path = Path(folder) / "drawn.npz"
        most = max(*options.items, options.compared, options.changed)
        _in_a_new_process(prepare, options.data, options.work, most, options.questions, path)
        by_items = {f"{items}": _in_a_new_process(measure, path, items) for items in options.items}
        compared = _in_a_new_process(choices, path, options.compared)
        changed = _in_a_new_process(changing, path, options.changed)
    _show(by_items, compared, changed)
    recorded = {name: getattr(options, name) for name in ("compared", "changed", "questions")}
    report.write(options.out, {"by_items": by_items, "choices": compared, "changing": changed, "options": recorded})


def _show(by_items: dict[str, dict[str, float]], compared: list[dict[str, Any]], changed: dict[str, float]) -> None:
    for title, rows in (
        (f"The best {list_length} of all items", [{"items": f"{int(n):,}", **one} for n, one in by_items.items()]),
        ("Settings of the index", compared), ("An index that changes", [changed]),
    ):  # fmt: skip
        cells = [[value if isinstance(value, str) else f"{value:.4g}" for value in row.values()] for row in rows]
        report.show(title, ["", *(f"{number}" for number in range(1, len(rows) + 1))],
                    [list(line) for line in zip(rows[0], *cells, strict=True)])  # fmt: skip


if __name__ == "__main__":
    report.run(main)
