"""Whether a visit ends with a purchase: the learner of rows on visits of a real shop, beside River's regression.

    python -m benchmarks.intent --data online_shoppers.csv.gz --out benchmarks/results/intent.json --choose

Each row of the file is a visit. Rows are predicted, then learned, in their order, and scored from row 1,000 on, which
decide the features. `second half`: learned on the first half, then frozen. The month is left out: it names the period.
With `--choose`, settings are compared on the first half alone, by the same prequential protocol.

- AUC; AP: average precision. ECE: calibration error over ten groups of equal size.
- River: its logistic regression with its default rate, of the logarithms of sizes (shares in thousandths),
  standardised, and a feature for each value of a name.

`--simulated` measures instead how the family of purchases does on a simulated shop: its two members and their answer,
each visit at one moment drawn by chance, and what a fold costs.
"""

import csv
import gzip
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import report
from headrace.errors import Misconfigured
from headrace.events import Event, Rejection, decode
from headrace.log.protocol import Record
from headrace.process import collect_garbage_rarely
from headrace.shard.intake import Intake
from headrace.topics import EVENTS
from learners.desk.family import Desk
from learners.parts.prequential import calibrated
from learners.parts.rows import Columns, Row, RowLearner, RowSettings
from learners.purchase.family import PurchaseFamily
from learners.purchase.visits import MEMBERS, SETTINGS, Visits
from learners.shop import Shop
from learners.value.judged import auc as auc_or_none
from producers.scenario import SimulationSettings
from producers.simulate import Simulation

FIRST: Final = 1_000
BLOCK: Final = 250
"""Labels between two looks at the histograms."""
CHUNK: Final = 2_000
"""Events that are measured together."""
NUMBERS: Final = (
    "Administrative", "Administrative_Duration", "Informational", "Informational_Duration", "ProductRelated",
    "ProductRelated_Duration", "BounceRates", "ExitRates", "PageValues", "SpecialDay",
)  # fmt: skip
NAMES: Final = ("VisitorType", "Weekend", "TrafficType")
OTHER_NAMES: Final = ("OperatingSystems", "Browser", "Region")
_LABEL: Final = "Revenue"
_quartiles: Final = (0.25, 0.5, 0.75, 0.9)


class Data(NamedTuple):
    """Visits in the file's order."""

    rows: list[Row]
    labels: NDArray[np.bool_]

    def half(self) -> "Data":
        """Return the first half."""
        return Data(self.rows[: len(self.rows) // 2], self.labels[: len(self.rows) // 2])


def load(path: Path, names: Sequence[str] = NAMES) -> Data:
    """Return the visits of UCI's Online Shoppers.

    Raises:
        Misconfigured: the file has not its columns.
    """
    with gzip.open(path, "rt") as file:
        reader = csv.DictReader(file)
        if missing := {*NUMBERS, *names, _LABEL} - {*(reader.fieldnames or ())}:
            raise Misconfigured(f"--data {path}: wanted the columns of UCI Online Shoppers, found no {min(missing)}")
        rows, labels = list[Row](), list[bool]()
        for one in reader:
            rows.append(Row(tuple(float(one[name]) for name in NUMBERS), tuple(one[name] for name in names)))
            labels.append(one[_LABEL] in ("1", "TRUE"))
    return Data(rows, np.array(labels))


def predicted(data: Data, settings: RowSettings, names: Sequence[str] = NAMES, frozen: int = 0) -> NDArray[np.float64]:
    """Return the probability given to each visit before it was learned; from row `frozen` on none is, unless 0."""
    learner = RowLearner(Columns(NUMBERS, tuple(names)), settings)
    found = np.zeros(len(data.rows))
    for n, (row, label) in enumerate(zip(data.rows, data.labels.tolist(), strict=True)):
        found[n] = learner.learn(row, label) if not frozen or n < frozen else learner.probability(row)
    return found


def river_predicted(data: Data, frozen: int = 0) -> NDArray[np.float64]:
    """Return the same of River's logistic regression, of the logarithms of sizes, standardised, and of names."""
    from river import linear_model, preprocessing

    scaler, model = preprocessing.StandardScaler(), linear_model.LogisticRegression()
    factors = np.where(np.max([row.numbers for row in data.rows[:FIRST]], axis=0) <= 1, 1_000.0, 1.0)
    found = np.zeros(len(data.rows))
    for n, (row, label) in enumerate(zip(data.rows, data.labels.tolist(), strict=True)):
        sizes = dict(zip(NUMBERS, np.log1p(np.array(row.numbers) * factors).tolist(), strict=True))
        levels = {f"{name}={value}": 1.0 for name, value in zip(NAMES, row.names, strict=True)}
        learns = not frozen or n < frozen
        if learns:
            scaler.learn_one(sizes)
        features = scaler.transform_one(sizes) | levels
        found[n] = model.predict_proba_one(features).get(True, 0.0)
        if learns:
            model.learn_one(features, label)
    return found


def auc(given: NDArray[np.float64], label: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve.

    Raises:
        Misconfigured: all labels are alike.
    """
    found = auc_or_none(given, label)
    if found is None:
        raise Misconfigured("wanted visits with and without a purchase, found only one of them")
    return found


def average_precision(given: NDArray[np.float64], label: NDArray[np.bool_]) -> float:
    """Return the mean precision at each visit that ended with a purchase, by falling probability."""
    hits = label[np.argsort(-given, kind="stable")]
    return float((hits * np.cumsum(hits) / np.arange(1, len(hits) + 1)).sum() / hits.sum())


def calibration_error(given: NDArray[np.float64], label: NDArray[np.bool_]) -> float:
    """Return the mean distance of predicted and true share over ten groups of equal size."""
    groups = np.array_split(np.argsort(given, kind="stable"), 10)
    return sum(abs(float(given[group].sum() - label[group].sum())) for group in groups) / len(given)


def scores(given: NDArray[np.float64], label: NDArray[np.bool_]) -> dict[str, float]:
    """Return what is shown of predictions."""
    bounded = np.clip(given, 1e-6, 1 - 1e-6)
    return {
        "auc": auc(given, label), "ap": average_precision(given, label), "ece": calibration_error(given, label),
        "log_loss": float(-np.where(label, np.log(bounded), np.log1p(-bounded)).mean()),
    }  # fmt: skip


def choices() -> dict[str, tuple[RowSettings, tuple[str, ...]]]:
    """Return the settings that are compared: those that were taken, and others in one respect each."""
    taken = RowSettings()
    changed: dict[str, dict[str, Any]] = {
        "variance .05": {"variance": 0.05}, "variance .2": {"variance": 0.2}, "variance 1": {"variance": 1.0},
        "noise 0": {"noise": 0.0}, "noise 1e-6": {"noise": 1e-6}, "noise 1e-4": {"noise": 1e-4},
        "hinges at quartiles": {"hinges": _quartiles}, "no hinges": {"hinges": ()}, "no gate": {"gated": False},
    }  # fmt: skip
    found = {"as taken": (taken, NAMES)}
    found |= {name: (taken._replace(**values), NAMES) for name, values in changed.items()}
    return found | {"more names": (taken, NAMES + OTHER_NAMES), "no names": (taken, ())}


def chosen(path: Path) -> dict[str, dict[str, float]]:
    """Return the scores of settings on the first half, in which everything was chosen."""
    found = {}
    for name, (settings, names) in choices().items():
        half = load(path, names).half()
        found[name] = scores(predicted(half, settings, names)[FIRST:], half.labels[FIRST:])
    return found


def run(path: Path) -> dict[str, Any]:
    """Run the protocol and return its figures, and those of the baseline."""
    data = load(path)
    half, label = len(data.rows) // 2, data.labels
    began = time.process_time()
    ours = predicted(data, RowSettings())
    us = 1e6 * (time.process_time() - began) / len(data.rows)
    ends = {
        "ours": predicted(data, RowSettings(noise=0.0), frozen=half),
        "river": river_predicted(data, half),
    }
    figures = scores(ours[FIRST:], label[FIRST:])
    figures |= {"auc_second_half": auc(ends["ours"][half:], label[half:]), "us_per_row": us, "rows": len(data.rows)}
    baseline = scores(river_predicted(data)[FIRST:], label[FIRST:])
    baselines = {f"river_{name}": value for name, value in baseline.items()}
    baselines["river_auc_second_half"] = auc(ends["river"][half:], label[half:])
    return {"figures": figures, "baselines": baselines}


class Recorded(Visits):
    """Notes what the members gave to each visit, and how it ended."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[float, float, bool]] = []

    def label(self, row: Row, bought: bool) -> tuple[float, float]:
        """See `Visits.label`."""
        given = super().label(row, bought)
        self.seen.append((*given, bought))
        return given


class Unasked(Visits):
    """Learns nothing of visits, so that a fold shows what they cost."""

    def learn(self, event: Event, chance: float) -> None:
        """Do nothing."""


class Fold:
    """A fold of the desk and the family of purchases over records in memory."""

    def __init__(self, visits: Visits) -> None:
        self.shop, self._intake = Shop([Desk, PurchaseFamily]), Intake()
        family = self.shop.families[PurchaseFamily.name]
        assert isinstance(family, PurchaseFamily)
        self.family, family.visits = family, visits
        self.cpu_s: list[float] = []

    def learn(self, records: Sequence[Record]) -> None:
        """Learn from a chunk of records, and note the processor time."""
        began = time.process_time()
        for record in records:
            event = decode(record)
            if isinstance(event, Rejection) or not self._intake.admit(event, record.time_ms):
                continue
            if self.shop.prepare(event):
                self.shop.learn(event, 0, record.offset)
        self.shop.emit()
        self.cpu_s.append(time.process_time() - began)


def answers(seen: Sequence[tuple[float, float, bool]]) -> dict[str, NDArray[np.float64]]:
    """Return what each contestant gives to each visit, calibrated on the labels before its block."""
    visits = Visits()
    found: dict[str, list[float]] = {"base rate": [], **{member: [] for member in MEMBERS}, "answer": []}
    bought = 0
    for start in range(0, len(seen), BLOCK):
        block, answering = seen[start : start + BLOCK], visits.answering()
        found["base rate"] += [(bought + 1) / (start + 20)] * len(block)
        for place, member in enumerate(MEMBERS):
            judged, given = visits.judged[member], [float(one[place]) for one in block]
            found[member] += calibrated(judged.histograms("window"), given)
            if member != "visit" or start >= SETTINGS.first:
                judged.observe_all([(one, row[2]) for one, row in zip(given, block, strict=True)])
        found["answer"] += found[answering][start:]
        bought += sum(one[2] for one in block)
    return {name: np.array(values) for name, values in found.items()}


def simulated(events: int, seeds: int) -> dict[str, Any]:
    """Return how the members do on a simulated shop, and what they cost."""
    collect_garbage_rarely()  # as a shard's process does
    runs, visits = [], 0
    cpu_s: dict[str, list[float]] = {"with": [], "without": []}
    bounds: dict[str, tuple[int, int]] = {}
    for seed in range(1, seeds + 1):
        records = [
            Record(0, one.number, one.time_ms, one.key, one.value)
            for one in Simulation(SimulationSettings(events=events, seed=seed)).records()
            if one.topic == EVENTS
        ]
        recorded = Recorded()
        folds = {"with": Fold(recorded), "without": Fold(Unasked())}
        turns = list(folds.values())
        for begin in range(0, len(records), CHUNK):
            for one in turns:
                one.learn(records[begin : begin + CHUNK])
            turns.reverse()
        for name, fold in folds.items():
            cpu_s[name] += fold.cpu_s[len(fold.cpu_s) // 4 :]
        label = np.array([bought for _, _, bought in recorded.seen])
        first = len(label) // 4
        runs.append({name: scores(given[first:], label[first:]) for name, given in answers(recorded.seen).items()})
        visits += len(label)
        bounds = recorded.bounds()
        print(f"seed {seed}: {len(label):,} visits, {label.mean():.1%} of them bought", flush=True)
    mean = {
        name: {key: float(np.mean([run[name][key] for run in runs])) for key in one} for name, one in runs[0].items()
    }
    us = {name: 1e6 * statistics.median(values) / CHUNK for name, values in cpu_s.items()}
    return {
        "events": events, "seeds": runs, "mean": mean, "visits": visits, "us_per_event": us,
        "events_per_s": 1e6 / us["with"], "in_use": {table: used for table, (used, _) in bounds.items()},
    }  # fmt: skip


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    made = report.parser(__doc__.splitlines()[0])
    made.add_argument("--data", type=Path, help="online_shoppers.csv.gz of UCI Online Shoppers")
    made.add_argument("--choose", action="store_true", help="compare settings on the first half, too")
    made.add_argument("--simulated", action="store_true", help="measure the family on a simulated shop instead")
    made.add_argument("--events", type=int, default=120_000, help="events of each seed of the simulated shop")
    made.add_argument("--seeds", type=int, default=5)
    options = made.parse_args(arguments)
    if options.simulated:
        result = simulated(options.events, options.seeds)
        _show(f"{result['visits']:,} visits of a simulated shop, mean of {options.seeds} seeds", result["mean"])
        print(f"{result['us_per_event']} us an event, {result['events_per_s']:,.0f} events/s a core")
        report.write(options.out, result)
        return
    if options.data is None:
        raise Misconfigured("--data: wanted online_shoppers.csv.gz, found nothing")
    result = run(options.data)
    figures, baselines = result["figures"], result["baselines"]
    _show(
        f"{figures['rows']:,} visits, from row {FIRST:,} on",
        {"Headrace": figures, "River's regression": {n.removeprefix("river_"): v for n, v in baselines.items()}},
    )
    print(f"second half, frozen: {figures['auc_second_half']:.4f}; River {baselines['river_auc_second_half']:.4f}")
    print(f"{figures['us_per_row']:.0f} us a row")
    if options.choose:
        result["first_half"] = chosen(options.data)
        _show(f"The first half alone, from row {FIRST:,} on", result["first_half"])
    report.write(options.out, result)


def _show(title: str, found: dict[str, dict[str, float]]) -> None:
    names = ("auc", "ap", "ece", "log_loss")
    report.show(title, ("", *names), [[one, *(f"{of[name]:.4f}" for name in names)] for one, of in found.items()])


if __name__ == "__main__":
    report.run(main)
