"""What is given up of relevance, and what is gained, on Online Retail: the rule `trade` beside fixed weights.

    python -m benchmarks.trading --data online_retail.csv.gz --out FILE --picture FILE.svg

The protocol is that of `benchmarks.basket`: from an invoice's second line on, a line is a prediction, which is learned
after it was ranked. A seeded sample of the predictions is ranked; the blend learns from the first half of it, and lists
of ten are compared on the second half, in which it goes on learning.

The data has no margins and no categories. Each item's margin is its price times a share drawn from a seed (Beta(2, 3),
40 % on average). Its category is the last word of its name, such as HOLDER or BAG.

- trade: the rule, by the share of relevance that must be kept.
- score x margin^a: the list that is best by probability x margin to a fixed power.
- MMR: maximal marginal relevance, w x probability / highest - (1 - w) x (1 if an item of the category is there).

"Kept" is the share of the expected relevance that a list keeps of the best one, on average and in the worst 5 % of
the lists. Margin is expected (probability x margin, by place) and earned (that of the true item, if it is in the list).
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from benchmarks import picture, report
from benchmarks.basket import without_items
from headrace.clock import wall_ms
from headrace.errors import Misconfigured
from headrace.events import Event
from headrace.rules import AtMost
from learners.next_item.blend import Blend
from learners.next_item.contexts import Contexts
from learners.next_item.members import KINDS
from learners.next_item.trade import Places, discounts, trade
from learners.next_item.traits import Traits
from producers.file import ReadOptions
from producers.online_retail import OnlineRetail

LENGTH: Final = 10
SHARES: Final = (0.99, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
POWERS: Final = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5)
WEIGHTS: Final = (0.98, 0.95, 0.9, 0.8, 0.7, 0.5)
TEMPERATURES: Final = (0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5)
DISCOUNTS: Final = discounts(np.arange(1, LENGTH + 1))
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Asked(NamedTuple):
    """A prediction: candidates, the most probable first, and the place of the true item among them, -1 if none.

    Shapes:
        slots, probability: (C,)
    """

    slots: Ints
    probability: Floats
    truth: int
    true_slot: int


class Shop(NamedTuple):
    """What is made up of items, by slot: their margins and categories. Shapes: (items,)"""

    margin: Floats
    category: Ints


def predictions(path: Path, sample: float, seed: int) -> tuple[list[Asked], Shop]:
    """Learn all invoices; return a sample of the predictions before they were learned, and what items are.

    Raises:
        Misconfigured: the file is not Online Retail.
    """
    if not OnlineRetail.recognises(path):
        raise Misconfigured(f"--data {path}: wanted {OnlineRetail.description}")
    members = {name: kind() for name, kind in KINDS.items()}
    blend, contexts, traits = Blend(list(members)), Contexts(), Traits()
    chosen, slots, found = np.random.default_rng(seed), dict[str, int](), list[Asked]()
    prices, names = list[float](), list[str]()
    for record in OnlineRetail(path, ReadOptions(clock=wall_ms)).records():
        event, shopper = msgspec.json.decode(record.value, type=Event), record.key.decode()
        if event.type != "purchase" or shopper.startswith("guest-"):
            continue
        traits.settle()
        basket: list[int] = []
        for line in event.data.items:
            item = slots.setdefault(line.item_id, len(slots))
            if item == len(prices):
                prices.append(line.price or 0.0)
                names.append(line.item_name)
            if item in basket:
                continue
            context = contexts.context(shopper, record.time_ms, event.data.transaction_id)
            if basket and chosen.random() < sample:
                lists = {name: without_items(member.predict(context), basket) for name, member in members.items()}
                describe = partial(traits.of, context=context)
                scores = blend.predict(lists, len(basket), describe)
                order = (-scores.scores).argsort(kind="stable")
                ranked = scores.slots[order].astype(np.int64)
                places = np.flatnonzero(ranked == item)
                truth = int(places[0]) if len(places) else -1
                if len(ranked) >= LENGTH:  # at the very beginning, less is known
                    found.append(Asked(ranked, scores.scores[order].astype(np.float64), truth, item))
                blend.learn(lists, len(basket), item, describe)
            context = replace(context, session=contexts.push(shopper, item, record.time_ms, event.data.transaction_id))
            for member in members.values():
                member.learn(context, item)
            traits.learn(item, "", record.time_ms, line.item_name)
            basket.append(item)
    shares = np.random.default_rng(seed + 1).beta(2, 3, len(prices))
    words = dict[str, int]()
    last = [words.setdefault((name.split() or [""])[-1], 1 + len(words)) for name in names]
    return found, Shop(np.array(prices) * shares, np.array(last, np.int64))


def places_of(asked: Asked, shop: Shop, *, margin: float = 0.0, diversity: float = 0.0) -> Places:
    """Return a prediction as the rule sees it, with these weights of its objectives."""
    earned = shop.margin[asked.slots] * asked.probability
    most = float(earned.max()) or 1.0
    nothing = np.zeros(len(asked.slots), np.int64)
    return Places(
        range(min(LENGTH, len(asked.slots))), DISCOUNTS[: len(asked.slots)].tolist(), asked.probability,
        asked.probability, margin * earned / most, diversity, nothing, shop.category[asked.slots], [], AtMost(),
    )  # fmt: skip


def by_power(asked: Asked, shop: Shop, power: float) -> list[int]:
    """Return the best candidates by probability x margin to a power."""
    value = asked.probability * np.maximum(shop.margin[asked.slots], 1e-6) ** power
    return [int(one) for one in (-value).argsort(kind="stable")[:LENGTH]]


def by_mmr(asked: Asked, shop: Shop, weight: float) -> list[int]:
    """Return candidates by maximal marginal relevance, alike if they are of one category."""
    value, category = weight * asked.probability / asked.probability.max(), shop.category[asked.slots]
    chosen: list[int] = []
    alike = np.zeros(len(value))
    for _ in range(min(LENGTH, len(value))):
        one = int((value - (1 - weight) * alike).argmax())
        chosen.append(one)
        value[one] = -np.inf
        alike[category == category[one]] = 1.0
    return chosen


def measure(asked: Sequence[Asked], shop: Shop, lists: Callable[[Asked], Sequence[int]]) -> dict[str, float]:
    """Return the mean figures of a way to rank. Times are of the process, in milliseconds per list."""
    rows = np.zeros((len(asked), 6))
    began = time.process_time()
    chosen = [list(lists(one)) for one in asked]
    spent_ms = 1e3 * (time.process_time() - began) / len(asked)
    for row, one, found in zip(rows, asked, chosen, strict=True):
        by = DISCOUNTS[: len(found)]
        probability, margin = one.probability[found], shop.margin[one.slots[found]]
        place = found.index(one.truth) if one.truth in found else -1
        best = one.probability[: len(found)] @ by
        row[:] = (
            place >= 0, by[place] if place >= 0 else 0.0, float(probability @ by / best),
            float((probability * margin) @ by), shop.margin[one.true_slot] if place >= 0 else 0.0,
            len({*shop.category[one.slots[found]].tolist()}),
        )  # fmt: skip
    names = ("hit_rate", "ndcg", "kept", "expected_margin", "earned_margin", "categories")
    means = dict(zip(names, rows.mean(axis=0).tolist(), strict=True))
    return {**means, "kept_worst": float(np.quantile(rows[:, 2], 0.05)), "ms": spent_ms}


def calibration(asked: Sequence[Asked], temperature: float = 1.0) -> tuple[float, float]:
    """Return the log loss of the true item, where it is a candidate, and the expected calibration error of the best.

    Source of the error: Guo et al., "On calibration of modern neural networks", ICML 2017, with ten bins of equal size.
    """
    losses, best = list[float](), list[tuple[float, bool]]()
    for one in asked:
        tempered = one.probability ** (1 / temperature)
        tempered *= one.probability.sum() / tempered.sum()
        if one.truth >= 0:
            losses.append(-float(np.log(tempered[one.truth] / tempered.sum())))
        best += [(float(tempered[place]), place == one.truth) for place in range(min(LENGTH, len(tempered)))]
    ordered = np.array(sorted(best))
    bins = np.array_split(ordered, 10)
    error = sum(len(one) * abs(float(one[:, 0].mean() - one[:, 1].mean())) for one in bins) / len(ordered)
    return float(np.mean(losses)), error


def run(asked: Sequence[Asked], shop: Shop) -> dict[str, Any]:
    """Compare the ways to rank on the second half of the predictions."""
    first, second = asked[: len(asked) // 2], asked[len(asked) // 2 :]
    temperature = min(TEMPERATURES, key=lambda one: calibration(first, one)[0])
    losses = {one: calibration(second, one) for one in (1.0, temperature)}

    def traded(share: float, **weights: float) -> Callable[[Asked], Sequence[int]]:
        return lambda one: trade(places_of(one, shop, **weights), share).chosen

    ways: dict[str, dict[str, Callable[[Asked], Sequence[int]]]] = {
        "best": {"": lambda one: range(min(LENGTH, len(one.slots)))},
        "trade for margin": {f"{share}": traded(share, margin=1.0) for share in SHARES},
        "score x margin^a": {f"{power}": partial(by_power, shop=shop, power=power) for power in POWERS},
        "trade for diversity": {f"{share}": traded(share, diversity=1.0) for share in SHARES},
        "MMR": {f"{weight}": partial(by_mmr, shop=shop, weight=weight) for weight in WEIGHTS},
        "trade for both": {f"{share}": traded(share, margin=0.5, diversity=0.5) for share in SHARES},
    }
    return {
        "predictions": len(second),
        "candidates": float(np.mean([len(one.slots) for one in second])),
        "calibration": {
            "temperature_by_first_half": temperature,
            "log_loss": losses[1.0][0], "error": losses[1.0][1],
            "log_loss_tempered": losses[temperature][0], "error_tempered": losses[temperature][1],
        },
        "ways": {
            name: {setting: measure(second, shop, lists) for setting, lists in settings.items()}
            for name, settings in ways.items()
        },
    }  # fmt: skip


def main(arguments: Sequence[str] | None) -> None:
    """Run from the command line."""
    parser = report.parser("What is given up of relevance, and what is gained: the rule `trade` beside fixed weights.")
    parser.add_argument("--data", type=Path, required=True, help="Online Retail's CSV file, plain or gzipped")
    parser.add_argument("--sample", type=float, default=0.03, help="share of the predictions that are ranked")
    parser.add_argument("--seed", type=int, default=0, help="of the sample and of the margins")
    parser.add_argument("--picture", type=Path, help="draw the fronts into this file")
    options = parser.parse_args(arguments)
    if not 0 < options.sample <= 1:
        raise Misconfigured(f"--sample: wanted a share above 0, at most 1, found {options.sample}")
    result = run(*predictions(options.data, options.sample, options.seed))
    show(result)
    if options.picture:
        picture.write(options.picture, picture.trading, result)
    report.write(options.out, {**result, "options": {"sample": options.sample, "seed": options.seed}})


def show(result: dict[str, Any]) -> None:
    """Print the figures as a table."""
    report.show(
        f"Lists of {LENGTH}, {result['predictions']:,} predictions, {result['candidates']:.0f} candidates",
        ("way", "setting", "hits %", "NDCG %", "kept %", "worst 5 %", "margin", "earned", "categories", "ms"),
        [
            [
                name, setting, *(f"{100 * one[key]:.1f}" for key in ("hit_rate", "ndcg", "kept", "kept_worst")),
                f"{one['expected_margin']:.3f}", f"{one['earned_margin']:.3f}", f"{one['categories']:.2f}",
                f"{one['ms']:.3f}",
            ]
            for name, settings in result["ways"].items()
            for setting, one in settings.items()
        ],
    )  # fmt: skip
    print(result["calibration"])


if __name__ == "__main__":
    report.run(main)
