"""What purchases that come after the attribution window do to purchase propensity, with and without repair.

A share of a simulated shop's orders is moved to later days, their returns too, so which views were bought in the end is
known. The contestants learn the same views and differ in the labels alone; each predicts a view when it happens:

- `none` learns what the first 6 hours say;
- `repair` is the learner as it is;
- `at once` repairs when the purchase or the return arrives;
- `nightly` also learns, each midnight, everything anew with the labels that are known then;
- `7 days` waits for 7 days before it learns a view;
- `truth` learns at the end of the 6 hours what was true in the end, which nobody knows then.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from benchmarks import report
from benchmarks.calibration import BLOCK, GROUPS
from headrace.events import Event, Rejection, decode
from headrace.log.protocol import Record
from headrace.sampling import fraction
from learners.parts.prequential import Probability, bin_of, bins, calibrated
from learners.parts.regression import Regression
from learners.purchase.propensity import Propensity, attribution_ms, late_ms
from producers.scenario import SimulationSettings
from producers.simulate import Simulation

BURN_IN: Final = 0.2
"""Share of the views that is learned before any is scored."""
WINDOW: Final = 10_000
"""Newest labels by which answers are calibrated."""
never_ms: Final = 1 << 60
day_ms: Final = 86_400_000
CONTESTANTS: Final = ("none", "repair", "at once", "nightly", "7 days", "truth")
FIGURES: Final = ("log_loss", "calibration_error", "given_to_bought", "auc", "from_truth", "answers_6_hours")


class View(Struct, gc=False):
    """A view: when it was bought first, whether within 6 hours, and how often within 7 days less what was returned."""

    time_ms: int
    features: dict[int, float]
    first_ms: int = never_ms
    at_first: bool = False
    bought: int = 0


class Repair(Struct, gc=False):
    """A label that turned out to be wrong after it was learned."""

    time_ms: int
    view: View
    bought: bool


class Shop(Struct, frozen=True):
    """A simulated shop. `wait_h` is the mean time by which late orders are later than the attribution window.

    If `dear`, orders above the median price alone are late, twice as many of them.
    """

    name: str
    events: int
    days: float
    shoppers: int
    late: float
    dear: bool = False
    wait_h: float = 36.0


def stream(shop: Shop, seed: int) -> tuple[list[Event], dict[str, int]]:
    """Return the events of a shop in their new order, and by how much each late order is later."""
    found: list[Event] = []
    settings = SimulationSettings(events=shop.events, seed=seed, days=shop.days, shoppers=shop.shoppers)
    for offset, one in enumerate(one for one in Simulation(settings).records() if one.topic == "events"):
        event = decode(Record(0, offset, 4_000_000_000_000, one.key, one.value))
        assert not isinstance(event, Rejection)
        found.append(event)
    orders = {
        event.data.transaction_id: max(item.price or 0.0 for item in event.data.items)
        for event in found
        if event.type == "purchase"
    }
    median, moved = float(np.median(list(orders.values()))), dict[str, int]()
    for order, price in orders.items():
        chance = min(1.0, 2 * shop.late) * (price > median) if shop.dear else shop.late
        if fraction(order, seed, "late") < chance:
            wait = -shop.wait_h * 3_600_000 * math.log(1.0 - fraction(order, seed, "wait"))
            moved[order] = attribution_ms + int(wait)
    for event in found:
        event.time_ms += moved.get(event.data.transaction_id, 0) if event.type in ("purchase", "refund") else 0
    found.sort(key=lambda event: event.time_ms)
    return found, moved


def folded(events: Sequence[Event]) -> tuple[Propensity, list[View], list[float], list[Repair]]:
    """Return the learner after all events, the views that it opened, what it predicted of each, and what to repair."""
    learner, views, given, repairs = Propensity(), list[View](), list[float](), list[Repair]()
    newest: dict[tuple[str, str], View] = {}
    sold: dict[tuple[str, str], View] = {}
    for event in events:
        features = learner.features(event) if event.type == "view_item" else {}
        learner.learn(event)
        now = event.time_ms
        for probability, _ in learner.predicted:
            view = newest[event.shopper, event.data.items[0].item_id] = View(now, features)
            views.append(view)
            given.append(probability)
        learner.predicted.clear()
        for item in event.data.items:
            key = event.shopper, item.item_id
            if event.type == "purchase" and key in newest and now - newest[key].time_ms <= late_ms:
                view = sold[key] = newest[key]
                view.bought += 1
                view.first_ms = min(view.first_ms, now)
                if now - view.time_ms <= attribution_ms:
                    view.at_first = True
                elif view.bought == 1:
                    repairs.append(Repair(now, view, bought=True))
            elif event.type == "refund" and key in sold and sold[key].bought:
                sold[key].bought -= 1
                if not sold[key].bought and now - sold[key].time_ms > attribution_ms:
                    repairs.append(Repair(now, sold[key], bought=False))
    return learner, views, given, repairs


def fresh() -> Regression:
    """Return the regression of `Propensity` before it has learned."""
    return Regression(rate=0.01, intercept=math.log(0.05 / 0.95))


def learned(
    views: Sequence[View], labels: Sequence[bool], window_ms: int, repairs: Sequence[Repair] = ()
) -> list[float]:
    """Return what a regression predicts of each view that learns each when its window ends, and repairs at once."""
    model, waiting, given, left = fresh(), deque[tuple[View, bool]](), list[float](), deque(repairs)
    for view, label in zip(views, labels, strict=True):
        while waiting and waiting[0][0].time_ms < view.time_ms - window_ms:
            known, bought = waiting.popleft()
            while left and left[0].time_ms <= known.time_ms + window_ms:
                repair = left.popleft()
                model.relabel(repair.view.features, repair.bought)
            model.learn(known.features, bought)
        given.append(model.probability(view.features))
        waiting.append((view, label))
    return given


def learned_nightly(views: Sequence[View], repairs: Sequence[Repair]) -> list[float]:
    """Return what a regression predicts of each view that is learned anew at midnight, with the labels known then."""
    labels, left, given, start = [view.at_first for view in views], deque(repairs), list[float](), 0
    places = {id(view): place for place, view in enumerate(views)}
    while start < len(views):
        midnight_ms = views[start].time_ms // day_ms * day_ms
        while left and left[0].time_ms < midnight_ms:
            repair = left.popleft()
            labels[places[id(repair.view)]] = repair.bought
        model, next_ = fresh(), 0
        while start < len(views) and views[start].time_ms < midnight_ms + day_ms:
            while views[next_].time_ms < max(midnight_ms, views[start].time_ms) - attribution_ms:
                model.learn(views[next_].features, labels[next_])
                next_ += 1
            given.append(model.probability(views[start].features))
            start += 1
    return given


def answers(given: NDArray[np.float64], views: Sequence[View], *, repaired: bool) -> NDArray[np.float64]:
    """Return predictions, calibrated on the labels of the newest views before each block.

    Args:
        repaired: by the labels as they are known at that time, not as they were after 6 hours.
    """
    times = np.array([view.time_ms for view in views])
    first = np.array([view.first_ms if repaired or view.at_first else never_ms for view in views])
    places, found = np.array([bin_of(one) for one in given]), list[float]()
    for start in range(0, len(given), BLOCK):
        newest = slice(max(0, start - WINDOW), start)
        yes = first[newest] <= times[start] + attribution_ms
        histograms = tuple(
            np.bincount(places[newest][yes == label], minlength=bins).astype(float) for label in (False, True)
        )
        found += calibrated((histograms[0], histograms[1]), given[start : start + BLOCK].tolist())
    return np.array(found)


def figures(given: NDArray[np.float64], label: NDArray[np.bool_]) -> dict[str, float]:
    """Return log-loss, calibration error over groups of about equal size, mean prediction to share bought, and AUC."""
    order = np.argsort(given, kind="stable")
    groups = np.array_split(order, GROUPS)
    error = sum(abs(float(given[group].sum() - label[group].sum())) for group in groups) / len(given)
    scores = Probability()
    scores.observe_all(zip(given.tolist(), label.tolist(), strict=True))
    loss = -np.where(label, np.log(given), np.log1p(-given)).mean()
    return {
        "log_loss": float(loss), "calibration_error": error, "given_to_bought": float(given.mean() / label.mean()),
        "auc": scores.scores("whole")["auc"],
    }  # fmt: skip


def run(shop: Shop, seed: int) -> dict[str, Any]:
    """Return the figures of one stream, by contestant."""
    events, moved = stream(shop, seed)
    learner, views, repaired, repairs = folded(events)
    at_first, true = [view.at_first for view in views], [view.bought > 0 for view in views]
    given = {
        "none": learned(views, at_first, attribution_ms),
        "repair": repaired,
        "at once": learned(views, at_first, attribution_ms, repairs),
        "nightly": learned_nightly(views, repairs),
        "7 days": learned(views, true, late_ms),
        "truth": learned(views, true, attribution_ms),
    }
    known_ms = views[-1].time_ms - late_ms
    scored = slice(int(BURN_IN * len(views)), sum(view.time_ms < known_ms for view in views))
    whole = {name: np.clip(np.array(one), 1e-6, 1 - 1e-6) for name, one in given.items()}
    best, label, first = whole["truth"][scored], np.array(true)[scored], np.array(at_first)[scored]
    contestants = {
        name: {
            **figures(one[scored], label),
            "from_truth": float(np.abs(one[scored] - best).mean() / best.mean()),
            "answers_6_hours": figures(answers(one, views, repaired=False)[scored], first)["log_loss"],
        }
        for name, one in whole.items()
    }
    within = np.array([view.first_ms < never_ms for view in views])[scored]
    return {
        "orders": sum(event.type == "purchase" for event in events), "late_orders": len(moved), "views": len(views),
        "scored": len(label), "late_views": sum(one.bought for one in repairs), "repairs": dict(learner.repairs),
        "answers_repaired_given_to_bought":
            figures(answers(whole["repair"], views, repaired=True)[scored], within)["given_to_bought"],
        "answers_given_to_bought_6_hours":
            figures(answers(whole["repair"], views, repaired=False)[scored], first)["given_to_bought"],
        "contestants": contestants,
    }  # fmt: skip


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("Purchase propensity where orders come late: no repair, repair, and what could be known.")
    parser.add_argument("--events", type=int, default=100_000, help="events of the quiet shop, in 28 days")
    parser.add_argument("--busy-events", type=int, default=300_000, help="events of the busy shop, in 21 days")
    parser.add_argument("--seeds", type=int, default=3, help="of the quiet shop; the busy one has one")
    options = parser.parse_args(arguments)
    cases = [Shop("quiet", options.events, 28.0, 2_500, late) for late in (0.0, 0.1, 0.3, 0.5)]
    cases += [Shop("quiet", options.events, 28.0, 2_500, 0.3, dear=True)]
    cases += [Shop("busy", options.busy_events, 21.0, 20_000, late) for late in (0.1, 0.3)]
    found: list[dict[str, Any]] = []
    for shop in cases:
        runs = [run(shop, seed) for seed in range(1, options.seeds + 1 if shop.name == "quiet" else 2)]
        mean = {
            name: {figure: float(np.mean([one["contestants"][name][figure] for one in runs])) for figure in FIGURES}
            for name in CONTESTANTS
        }
        views, late = (sum(one[name] for one in runs) for name in ("views", "late_views"))
        repaired = {why: sum(one["repairs"][why] for one in runs) for why in runs[0]["repairs"]}
        calibrated_on = {
            name: float(np.mean([one[name] for one in runs])) for name in runs[0] if name.startswith("answers")
        }
        report.show(
            f"{shop.name} shop, {shop.late:.0%} of the orders late{', the dear ones' if shop.dear else ''}:"
            f" {len(runs)} seeds, {views:,} views, {late:,} bought late",
            ["", "log-loss", "calibration error", "given / bought", "AUC", "from truth", "answers for 6 h, log-loss"],
            [[name, *(f"{value:.4f}" for value in one.values())] for name, one in mean.items()],
        )
        print(f"repaired: {repaired}; given / bought of answers: {calibrated_on}", flush=True)
        found.append({
            "shop": shop.name, "events": shop.events, "days": shop.days, "late": shop.late, "dear": shop.dear,
            "seeds": len(runs), "views": views, "late_views": late, "repairs": repaired, **calibrated_on, "mean": mean,
            "runs": runs,
        })  # fmt: skip
    report.write(options.out, {"cases": found})


if __name__ == "__main__":
    report.run(main)
