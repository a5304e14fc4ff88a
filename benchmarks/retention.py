"""Retention: each model that `benchmarks.continual` kept, tested on each period, including earlier ones.

    python -m benchmarks.continual --data DIR --work DIR --learners deep,finetune,ewc
    python -m benchmarks.retention --data DIR --work DIR --learners deep,finetune,ewc --out FILE

Rows of the matrix are models that learned up to period i, columns are periods j on which they are tested, by the
questions and ranks of `benchmarks.periods`: among the items seen before j. For i >= j a model has trained on the
sessions on which it is tested.

Two means over the periods j before the last model's test period measure forgetting. The *drop* is the score on j when
it was first tested, by the model of j - 1, less that of the last model. The *drop from the best* is the best score of
any model from j - 1 on, less that of the last model. FILE.svg beside FILE is a picture of the matrices.

A run can be stopped and started again: scores are kept in the folders of the models.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks import report
from benchmarks.comparison import SHOWN
from benchmarks.contestants import Tuning, model_ranks
from benchmarks.continual import figures
from benchmarks.periods import Periods, load
from benchmarks.resumable import folder_of, model_path, write
from headrace.errors import Misconfigured

LEARNERS = ("deep", "finetune", "ewc")
"""Learners with a model per update: each model continues from the one before."""


def matrices(
    periods: Periods, folder: Path, updates: Sequence[int], *, sample: float = 1.0, sample_seed: int = 0, name: str = ""
) -> dict[str, NDArray[np.float64]]:
    """Return Recall@20 and MRR@20 of each kept model on each period from 1 on.

    Shapes:
        (updates, periods): row i is the model of `updates[i]`, column j - 1 is period j.
    """
    from learners.deep.model import DeepModel

    tested = [periods.questions(period, sample, sample_seed) for period in range(1, periods.last + 1)]
    rows: list[list[dict[str, float]]] = []
    for update in track(updates, description=name, console=Console(file=sys.stderr)):
        path = folder / f"retention_{update}_{sample}_{sample_seed}.json"
        if not path.exists():
            model = DeepModel.from_bytes(model_path(folder, update).read_bytes())
            found = [figures(model_ranks(model, asked, periods, period)) for period, asked in enumerate(tested, 1)]
            row = json.dumps([{score: of[score] for score in SHOWN} for of in found])
            write(path, row.encode())
        rows.append(json.loads(path.read_text()))
    return {score: np.array([[of[score] for of in row] for row in rows]) for score in SHOWN}


def drops(scores: NDArray[np.float64]) -> tuple[float, float]:
    """Return the last model's mean drop since a period was first tested, and from the best score since then.

    Shapes:
        scores: (T, T); row i is the model that learned up to period i, column j - 1 is period j.

    >>> drops(np.array([[0.5, 0.2, 0.3], [0.6, 0.4, 0.3], [0.3, 0.5, 0.3]]))
    (0.05, 0.15)
    """
    last = scores[-1]
    # The last period was first tested by the last model, so its drop is not defined.
    first = [scores[column, column] - last[column] for column in range(len(last) - 1)]
    best = [scores[column:, column].max() - last[column] for column in range(len(last) - 1)]
    return (round(float(np.mean(first)), 12), round(float(np.mean(best)), 12))


def main(arguments: Sequence[str] | None) -> None:
    """Run from the command line."""
    options = _options(arguments)
    names = report.names(options.learners, LEARNERS)
    if not 0 < options.sample <= 1:
        raise Misconfigured(f"--sample: wanted a share above 0, at most 1, found {options.sample}")
    periods = load(options.data)
    if periods.last < 2:
        raise Misconfigured(f"{options.data}: wanted at least 3 periods, of which the first is only learned")
    tuning = Tuning(options.seed, options.rate, options.strength)
    folders = {name: folder_of(options.work, name, periods, tuning) for name in names}
    updates = range(periods.last)
    for name, folder in folders.items():
        if missing := [update for update in updates if not model_path(folder, update).exists()]:
            raise Misconfigured(
                f"{folder}: no models of {name} after periods {missing}; make them with: {_command(options, name)}"
            )
    found = {}
    for name, folder in folders.items():
        scores = matrices(periods, folder, updates, sample=options.sample, sample_seed=options.sample_seed, name=name)
        means = {score: drops(scores[score]) for score in SHOWN}
        found[name] = {
            "updates": list(updates),
            "periods": [update + 1 for update in updates],
            **{score: scores[score].tolist() for score in SHOWN},
            "drop": {score: of[0] for score, of in means.items()},
            "drop_from_best": {score: of[1] for score, of in means.items()},
        }
    recorded = ("sample", "sample_seed", "seed", "rate", "strength")
    result = {
        "learners": found,
        "options": {**{name: getattr(options, name) for name in recorded}, "data_sha256": periods.digest},
    }
    show(result)
    report.write(options.out, result)
    from benchmarks import picture

    picture.write(options.out.with_suffix(".svg"), picture.retention, result)


def show(result: Mapping[str, Any]) -> None:
    """Print each learner's matrix and its drops."""
    for name, of in result["learners"].items():
        rows = [
            [
                str(update),
                *(
                    " / ".join(f"{100 * of[score][row][place]:.1f}" for score in SHOWN)
                    for place in range(len(of["periods"]))
                ),
            ]
            for row, update in enumerate(of["updates"])
        ]
        report.show(f"{name}: Recall@20 / MRR@20 in % on period", ["learned up to", *map(str, of["periods"])], rows)
    rows = [
        [name, *(f"{100 * of[kind][score]:+.2f}" for kind in ("drop", "drop_from_best") for score in SHOWN)]
        for name, of in result["learners"].items()
    ]
    columns = [f"{kind} {score}" for kind in ("drop", "from best") for score in SHOWN]
    report.show("Mean drop to the last model, in points", ["learner", *columns], rows)


def _command(options: argparse.Namespace, name: str) -> str:
    arguments = {"data": options.data, "work": options.work, "learners": name, "seed": options.seed}
    arguments |= {"rate": options.rate, "strength": options.strength}
    words = [f"--{key} {value}" for key, value in arguments.items() if value is not None]
    return " ".join(["python -m benchmarks.continual", *words])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = report.parser("Scores of models on earlier periods.")
    parser.set_defaults(out=Path("build/retention.json"))
    report.add_data(parser)
    parser.add_argument(
        "--work", type=Path, default=Path("build/continual"), help="folder of models of benchmarks.continual"
    )
    parser.add_argument("--learners", default=",".join(LEARNERS), help="names, separated by commas")
    parser.add_argument("--sample", type=float, default=0.1, help="share of the sessions to test")
    parser.add_argument("--sample-seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--seed", type=int, default=0, help="seed of the learners, as given to benchmarks.continual")
    parser.add_argument("--rate", type=float, help="as given to benchmarks.continual")
    parser.add_argument("--strength", type=float, help="as given to benchmarks.continual")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    report.run(main)
