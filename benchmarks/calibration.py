"""How well purchase probabilities match what happened, before and after calibration, on a simulated shop.

Every label is scored prequentially: the calibration is made from labels that were known before a block of new ones.
`raw` is the model's own probability, `calibrated` what `/v1/purchase/{shopper}` answers. Beside them: the share of
views that ended in a purchase so far (`base rate`).
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks import report
from headrace.events import Rejection, decode
from headrace.log.protocol import Record
from learners.parts.prequential import Probability, calibrated
from learners.purchase.propensity import Propensity
from producers.scenario import SimulationSettings
from producers.simulate import Simulation

BLOCK: Final = 500
"""Labels between two looks at the histograms."""
GROUPS: Final = 10
"""Groups of about equal size over which the calibration error is a mean."""


def labels(events: int, seed: int) -> list[tuple[float, bool]]:
    """Return the probability given at each view and whether it ended in a purchase, in the order of the views."""
    learner, found = Propensity(), list[tuple[float, bool]]()
    records = Simulation(SimulationSettings(events=events, seed=seed)).records()
    for offset, one in enumerate(one for one in records if one.topic == "events"):
        event = decode(Record(0, offset, 4_000_000_000_000, one.key, one.value))
        assert not isinstance(event, Rejection)
        learner.learn(event)
        while learner.labelled:
            found.append(learner.labelled.popleft())
    return found


def answers(pairs: Sequence[tuple[float, bool]]) -> dict[str, NDArray[np.float64]]:
    """Return what each contestant answers for each label, from the labels before its block."""
    scores, found = Probability(), {name: list[float]() for name in ("raw", "calibrated", "base rate")}
    bought = 0
    for start in range(0, len(pairs), BLOCK):
        block = pairs[start : start + BLOCK]
        raw = [given for given, _ in block]
        found["raw"] += raw
        found["calibrated"] += calibrated(scores.histograms("window"), raw)
        found["base rate"] += [(bought + 1) / (start + 20)] * len(block)
        scores.observe_all(block)
        bought += sum(label for _, label in block)
    return {name: np.array(values) for name, values in found.items()}


def figures(given: NDArray[np.float64], label: NDArray[np.bool_]) -> dict[str, float]:
    """Return the calibration error over groups of about equal size, the log-loss and the Brier score."""
    order = np.argsort(given, kind="stable")
    groups = np.array_split(order, GROUPS)
    error = sum(abs(float(given[group].sum() - label[group].sum())) for group in groups) / len(given)
    clipped = np.clip(given, 1e-6, 1 - 1e-6)
    loss = -np.where(label, np.log(clipped), np.log1p(-clipped)).mean()
    return {"calibration_error": error, "log_loss": float(loss), "brier": float(((given - label) ** 2).mean())}


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("Calibration of purchase probabilities on a simulated shop with drift.")
    parser.add_argument("--events", type=int, default=200_000, help="events of each seed")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    runs: list[dict[str, dict[str, float]]] = []
    for seed in range(1, options.seeds + 1):
        pairs = labels(options.events, seed)
        label = np.array([bought for _, bought in pairs])
        runs.append({name: figures(given, label) for name, given in answers(pairs).items()})
        print(f"seed {seed}: {len(pairs):,} labels, {label.mean():.1%} bought", flush=True)
    mean = {
        name: {figure: float(np.mean([run[name][figure] for run in runs])) for figure in one}
        for name, one in runs[0].items()
    }
    report.show(
        f"Mean of {options.seeds} seeds of {options.events:,} events",
        ["", "calibration error", "log-loss", "Brier score"],
        [
            [name, f"{one['calibration_error']:.4f}", f"{one['log_loss']:.4f}", f"{one['brier']:.4f}"]
            for name, one in mean.items()
        ],
    )
    result: dict[str, Any] = {"events": options.events, "mean": mean, "seeds": runs}
    report.write(options.out, msgspec.to_builtins(result))


if __name__ == "__main__":
    report.run(main)
