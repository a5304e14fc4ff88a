"""Off-policy evaluation on Open Bandit (ZOZOTOWN, men's campaign, small version): arithmetic on real propensities.

    python -m benchmarks.open_bandit --data FOLDER --out benchmarks/results/open_bandit.json

Two policies showed one of 34 items at one of three places in the same week: one at random, one by Thompson sampling,
with the propensities that the shop logged. Each is judged from the other's log: its value must agree with the mean of
its own log. With 69 and 46 clicks in 10,000 answers each, that is a check of arithmetic; it ranks nothing.

Shoppers have no ids. Each answer counts as a shopper of its own. What Thompson sampling would have done on the log of
the random policy is taken as its shares of the items at each place, over the week.

Source: Y. Saito, S. Aihara, M. Matsutani and Y. Narita, "Open Bandit Dataset and Pipeline", NeurIPS 2021 (datasets).
"""

import csv
import gzip
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import report
from headrace.errors import Misconfigured
from operators.evaluation.single import ESTIMATORS, Choices, evaluate

FILES: Final = {"random": "open_bandit_random_men.csv.gz", "bts": "open_bandit_bts_men.csv.gz"}
items: Final = 34
places: Final = 3


class Logged(NamedTuple):
    """One policy's log. Shapes: all (answers,)."""

    item: NDArray[np.int64]
    place: NDArray[np.int64]
    click: NDArray[np.float64]
    propensity: NDArray[np.float64]


def read(path: Path) -> Logged:
    """Return what a file holds.

    Raises:
        Misconfigured: there is no such file.
    """
    if not path.exists():
        raise Misconfigured(f"--data: wanted a folder with {path.name}, found none in {path.parent}")
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [[float(row[name]) for row in rows] for name in ("item_id", "position", "click", "propensity_score")]
    item, place, click, propensity = (np.array(column) for column in columns)
    return Logged(item.astype(np.int64), place.astype(np.int64) - 1, click, propensity)


def shares(log: Logged) -> NDArray[np.float64]:
    """Return the shares of the items at each place. Shape: (places, items)."""
    found = np.bincount(log.place * items + log.item, minlength=places * items).reshape(places, items)
    share: NDArray[np.float64] = found / found.sum(axis=1, keepdims=True)
    return share


def choices(log: Logged, target: NDArray[np.float64]) -> Choices:
    """Return a log as chunks are, for a policy with these probabilities at each place."""
    count = len(log.item)
    context = np.eye(places)[log.place][:, 1:]
    return Choices(np.arange(count), log.item, log.click, log.propensity, target[log.place], context)


def compare(folder: Path) -> dict[str, Any]:
    """Return, for each policy, the mean of its own log and its values from the other's."""
    logs = {name: read(folder / file) for name, file in FILES.items()}
    uniform = np.full((places, items), 1 / items)
    found: dict[str, Any] = {}
    for name, other, target in (("random", "bts", uniform), ("bts", "random", shares(logs["bts"]))):
        judged = evaluate([choices(logs[other], target)])
        found[name] = {
            "own_mean": float(logs[name].click.mean()), "answers": judged.answers, "overlap": judged.overlap,
            "effective_rewarded": judged.effective_rewarded, "effective_answers": judged.effective_answers,
            "weight_mean": judged.weight_mean, "weight_max": judged.weight_max, "warnings": list(judged.warnings),
            "estimates": {estimator: judged.estimates[estimator]._asdict() for estimator in ESTIMATORS},
        }  # fmt: skip
    return found


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("Each policy of Open Bandit, judged from the other's log.")
    parser.add_argument("--data", type=Path, default=os.environ.get("HEADRACE_DATA"), help="folder of the files")
    options = parser.parse_args(arguments)
    if options.data is None:
        raise Misconfigured("--data: wanted a folder, found none; HEADRACE_DATA may name it")
    found = compare(Path(options.data))
    rows = [
        [f"{name}: {estimator}", *(f"{one[bound]:.4f}" for bound in ("value", "low", "high")), f"{of['own_mean']:.4f}"]
        for name, of in found.items() for estimator, one in of["estimates"].items()
    ]  # fmt: skip
    report.show("clicks per answer, from the other policy's log", ["", "value", "low", "high", "its own log"], rows)
    for name, of in found.items():
        print(f"{name}: {of['effective_rewarded']:.1f} effective rewarded answers; {', '.join(of['warnings'])}")
    report.write(options.out, found)


if __name__ == "__main__":
    report.run(main)
