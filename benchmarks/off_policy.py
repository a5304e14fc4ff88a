"""Off-policy evaluation where the truth is known: errors and coverage of estimators, intervals and lists.

    python -m benchmarks.off_policy --out benchmarks/results/off_policy.json

A simulated shop shows one of eight actions, in a context of six numbers, of which four are the shopper's; a shopper has
three answers on average, and an appeal that no context shows. A click is worth 1, or, as revenue, a basket of heavy
tail in a quarter of cases. Four policies log: `uniform`; `soft`, which prefers what sells and keeps 0.05 on each
action, so that weights go up to 20; `skewed`, which keeps 0.005 (up to 200); and `adaptive`, which learns from its own
answers in ten batches and keeps 0.05. Three are judged: `uniform`, `best` (which is sharp) and `always` (one action).

- *Estimators*: root mean squared error relative to the truth, and coverage of the 95 % interval, over all runs that
  were not refused. The truth is the mean over a million answers of what the shop's formulas say.
- *Intervals*: kinds around the same self-normalised value: ours by its terms alone, without the pooled moment;
  Student's with the number of shoppers; Hall's
  transformation with the normal quantile; the Bayesian bootstrap (Rubin 1981; of 300 shoppers only); the empirical
  Bernstein bound (Maurer and Pontil, COLT 2009) over shoppers.
- *Lists* of five places, each with four items of its own: a click depends on the item alone, or is half as likely where
  an item above has the same category.
- *Cost*: time and memory of ten million answers.

Every case has `--shops` shops. The constants of `operators.evaluation` were chosen on other seeds. It takes about five
minutes on one core.
"""

import math
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import report
from operators.evaluation.intervals import Estimate, interval
from operators.evaluation.single import DEFAULT, ESTIMATORS, Choices, evaluate
from operators.evaluation.slates import ASSUMPTIONS, Lists, evaluate_slates
from operators.evaluation.sums import Unevaluable

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

level: Final = 0.95
SIZES: Final = (300, 1_000, 4_000)
LOGGERS: Final = ("uniform", "soft", "skewed", "adaptive")
TARGETS: Final = ("uniform", "best", "always")
REWARDS: Final = ("click", "revenue")
KINDS: Final = ("terms alone", "Student", "Hall, normal", "Bayesian bootstrap", "empirical Bernstein")
batches: Final = 10
draws: Final = 400
seed: Final = 41


class World:
    """The shop's formulas: what shoppers like, the same in all runs."""

    actions: Final = 8
    features: Final = 6

    def __init__(self) -> None:
        random = np.random.default_rng(seed)
        self.taste = random.normal(0, 0.35, (self.features, self.actions))
        self.appeal = np.linspace(-0.5, 0.5, self.actions)

    def shoppers(self, random: np.random.Generator, count: int) -> tuple[Integers, Floats, Floats, Floats]:
        """Return, for each answer of new shoppers, the shopper, the context, the hidden appeal and the basket."""
        shopper = np.repeat(np.arange(count), 1 + random.poisson(2, count))
        own = random.normal(size=(count, 6))
        context = np.column_stack([own[shopper, :4], random.normal(size=(len(shopper), 2))])
        return shopper, context, 0.6 * own[shopper, 4], 30 * np.exp(0.8 * own[shopper, 5] - 0.32)

    def scores(self, context: Floats) -> Floats:
        """Return the part of the logits that a context shows."""
        return context @ self.taste + self.appeal

    def clicks(self, context: Floats, hidden: Floats) -> Floats:
        """Return the probability of a click on each action."""
        return 1 / (1 + np.exp(2.2 - self.scores(context) - hidden[:, None]))

    def target(self, name: str, context: Floats) -> Floats:
        """Return the probabilities of a policy that is judged."""
        if name == "best":
            return _softmax(4 * self.scores(context))
        found = np.zeros((len(context), self.actions))
        found[:, -2 if name == "always" else slice(None)] = 1 if name == "always" else 1 / self.actions
        return found


def _softmax(logits: Floats) -> Floats:
    found: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
    found /= found.sum(axis=1, keepdims=True)
    return found


def _floored(probabilities: Floats, floor: float) -> Floats:
    found: Floats = floor + (1 - floor * probabilities.shape[1]) * probabilities
    return found


def _drawn(random: np.random.Generator, probabilities: Floats) -> Integers:
    found: Integers = (probabilities.cumsum(axis=1) < random.random((len(probabilities), 1))).sum(axis=1)
    return found.clip(max=probabilities.shape[1] - 1)


class Log(NamedTuple):
    """What one shop logged. Shapes: as in `Choices`; rewards by name."""

    shopper: Integers
    action: Integers
    logged: Floats
    context: Floats
    rewards: dict[str, Floats]


def logged(world: World, logger: str, size: int, random: np.random.Generator) -> Log:
    """Return the log of one shop."""
    shopper, context, hidden, basket = world.shoppers(random, size)
    chances, count = world.clicks(context, hidden), len(shopper)
    luck, buys = random.random(count), random.random(count) < 0.25
    spread = basket * np.exp(0.5 * random.normal(size=count) - 0.125)
    action, propensities = np.zeros(count, np.int64), np.full((count, world.actions), 1 / world.actions)
    if logger in ("soft", "skewed"):
        sharp, floor = (2.0, 0.05) if logger == "soft" else (3.0, 0.005)
        propensities = _floored(_softmax(sharp * world.scores(context)), floor)
    if logger == "adaptive":
        order = random.permutation(count)  # visits of shoppers are mixed in time
        won, tried = np.ones(world.actions), np.full(world.actions, 10.0)
        for part in np.array_split(order, batches):
            propensities[part] = _floored(_softmax(np.tile(30 * won / tried, (len(part), 1))), 0.05)
            action[part] = _drawn(random, propensities[part])
            clicked = luck[part] < chances[part, action[part]]
            won += np.bincount(action[part], clicked, world.actions)
            tried += np.bincount(action[part], minlength=world.actions)
    else:
        action = _drawn(random, propensities)
    click = (luck < chances[np.arange(count), action]).astype(float)
    return Log(shopper, action, propensities, context, {"click": click, "revenue": click * buys * spread})


def truths(world: World, answers: int = 1_000_000) -> dict[tuple[str, str], float]:
    """Return what each judged policy earns per answer, by reward."""
    random, found, total = np.random.default_rng(seed + 1), defaultdict(list), 0
    while total < answers:
        shopper, context, hidden, basket = world.shoppers(random, 50_000)
        total += len(shopper)
        chances = world.clicks(context, hidden)
        for name in TARGETS:
            earned = (chances * world.target(name, context)).sum(axis=1)
            found[name, "click"].append(earned)
            found[name, "revenue"].append(earned * 0.25 * basket)
    return {key: float(np.concatenate(parts).mean()) for key, parts in found.items()}


class Tally:
    """Errors and coverage of one estimator in one or more cases."""

    def __init__(self) -> None:
        self.errors: list[float] = []
        self.covered: list[bool] = []
        self.widths: list[float] = []

    def add(self, found: Estimate, truth: float, scale: float) -> None:
        """Add a run."""
        self.errors.append((found.value - truth) / scale)
        self.covered.append(found.low <= truth <= found.high)
        self.widths.append((found.high - found.low) / scale)

    def figures(self) -> dict[str, Any]:
        """Return the figures of all runs."""
        if not self.errors:
            return {"runs": 0}
        return {
            "runs": len(self.errors), "rmse": math.sqrt(statistics.fmean([one * one for one in self.errors])),
            "bias": statistics.fmean(self.errors), "coverage": statistics.fmean(self.covered),
            "width": statistics.median(self.widths),
        }  # fmt: skip


def other_intervals(log: Log, reward: Floats, target: Floats, size: int, random: np.random.Generator) -> list[Estimate]:
    """Return other kinds of intervals around the self-normalised value."""
    rows = np.arange(len(reward))
    weight = target[rows, log.action] / log.logged[rows, log.action]
    tops, bottoms = np.bincount(log.shopper, weight * reward, size), np.bincount(log.shopper, weight, size)
    value = float(tops.sum() / bottoms.sum())
    terms = (tops - value * bottoms) / bottoms.mean()
    error, normal = float(terms.std(ddof=1)) / math.sqrt(size), NormalDist().inv_cdf((1 + level) / 2)
    skewness = float((terms**3).mean() / (terms**2).mean() ** 1.5) or 1e-12
    root = math.sqrt(size)
    ends = [
        3 * root / skewness * (math.cbrt(1 + skewness * (one / root - skewness / (6 * size))) - 1)
        for one in (normal, -normal)
    ]
    spread, logs = float(terms.max() - terms.min()), math.log(4 / (1 - level))
    bound = error * math.sqrt(2 * logs) + 7 * spread * logs / (3 * (size - 1))
    found = [
        interval(value, terms, level), Estimate(value, value - 1.001 * normal * error, value + 1.001 * normal * error),
        Estimate(value, value - error * ends[0], value - error * ends[1]),
    ]  # fmt: skip
    if size == SIZES[0]:
        weights = random.exponential(size=(draws, size))
        low, high = np.quantile((weights @ tops) / (weights @ bottoms), [(1 - level) / 2, (1 + level) / 2])
        found.append(Estimate(value, float(low), float(high)))
    else:
        found.append(Estimate(math.nan, math.nan, math.nan))
    return [*found, Estimate(value, value - bound, value + bound)]


def single_choices(world: World, shops: int) -> dict[str, Any]:
    """Return the figures of single choices."""
    true = truths(world)
    tallies: dict[tuple[str, int, str], Tally] = defaultdict(Tally)
    kinds: dict[tuple[str, int, str], Tally] = defaultdict(Tally)
    cases: dict[str, Tally] = defaultdict(Tally)
    refused: dict[int, int] = defaultdict(int)
    for number, (logger, size) in enumerate([(logger, size) for logger in LOGGERS for size in SIZES]):
        for run in range(shops):
            random = np.random.default_rng([seed, number, run])
            log = logged(world, logger, size, random)
            for name in TARGETS:
                target = world.target(name, log.context)
                for reward in REWARDS:
                    earned, truth = log.rewards[reward], true[name, reward]
                    try:
                        chunk = Choices(log.shopper, log.action, earned, log.logged, target, log.context)
                        found = evaluate([chunk], level)
                    except Unevaluable:
                        refused[size] += 1
                        continue
                    for estimator in ESTIMATORS:
                        tallies[estimator, size, reward].add(found.estimates[estimator], truth, truth)
                    cases[f"{logger} {name} {reward} {size}"].add(found.estimates[DEFAULT], truth, truth)
                    if logger == "uniform":  # then what was logged is worth what `uniform` is
                        difference = truth - true["uniform", reward]
                        tallies["difference", size, reward].add(found.differences[DEFAULT], difference, truth)
                    for kind, one in zip(KINDS, other_intervals(log, earned, target, size, random), strict=True):
                        if one.value == one.value:
                            kinds[kind, size, reward].add(one, truth, truth)
    everything = [one for tally in cases.values() for one in tally.covered]
    enough = {name: tally for name, tally in cases.items() if len(tally.covered) >= 0.75 * shops}
    return {
        "truths": {" ".join(key): value for key, value in true.items()},
        "estimators": {" ".join(map(str, key)): tally.figures() for key, tally in tallies.items()},
        "intervals": {" ".join(map(str, key)): tally.figures() for key, tally in kinds.items()},
        "cases": {name: tally.figures() for name, tally in cases.items()},
        "default": {
            "coverage": statistics.fmean(everything), "cases_with_enough_runs": len(enough),
            "below_93": {
                name: tally.figures()["coverage"] for name, tally in enough.items()
                if tally.figures()["coverage"] < 0.93
            },
        },
        "refused": {
            str(size): refused[size] / (len(LOGGERS) * len(TARGETS) * len(REWARDS) * shops) for size in SIZES
        },
    }  # fmt: skip


class Shelf:
    """Five places with four items of their own each, of three categories."""

    places: Final = 5
    items: Final = 4

    def __init__(self) -> None:
        random = np.random.default_rng(seed + 2)
        self.logit = random.normal(-2.0, 0.6, (self.places, self.items))
        self.category = random.integers(0, 3, (self.places, self.items))

    def policy(self, name: str) -> Floats:
        """Return the probabilities of the items of each place."""
        if name == "fixed":
            found: Floats = np.eye(self.items)[np.argmax(self.logit, axis=1)]
            return found
        sharp = {"uniform": 0.0, "soft": 1.0, "sharp": -1.0}[name]
        return _floored(_softmax(sharp * self.logit), 0.05)

    def chances(self, item: Integers, *, interact: bool) -> Floats:
        """Return the probability of a click at each place of lists."""
        places = np.arange(self.places)
        chance: Floats = 1 / (1 + np.exp(-self.logit[places, item]))
        category = self.category[places, item]
        for place in range(1, self.places) if interact else ():
            alike = (category[:, :place] == category[:, place : place + 1]).any(axis=1)
            chance[:, place] *= np.where(alike, 0.5, 1.0)
        return chance

    def lists(self, random: np.random.Generator, policy: Floats, count: int) -> Integers:
        """Return drawn lists. Shape: (count, places)."""
        return np.column_stack([_drawn(random, np.tile(one, (count, 1))) for one in policy])


def slates(shops: int, size: int = 4_000) -> dict[str, Any]:
    """Return the figures of lists."""
    shelf, places = Shelf(), np.arange(Shelf.places)
    tallies: dict[str, Tally] = defaultdict(Tally)
    supported: dict[str, int] = defaultdict(int)
    for number, (interact, logger, name) in enumerate([
        (interact, logger, name)
        for interact in (False, True) for logger in ("uniform", "sharp") for name in ("soft", "fixed")
    ]):  # fmt: skip
        target, policy = shelf.policy(name), shelf.policy(logger)
        drawn = shelf.lists(np.random.default_rng(seed + 3), target, 400_000)
        truth = float(shelf.chances(drawn, interact=interact).sum(axis=1).mean())
        case = "interacting" if interact else "independent"
        for run in range(shops):
            random = np.random.default_rng([seed + 4, number, run])
            shopper = np.repeat(np.arange(size), random.integers(1, 3, size))
            item = shelf.lists(random, policy, len(shopper))
            chance = (
                shelf.chances(item, interact=interact) * np.exp(0.5 * random.normal(size=size) - 0.125)[shopper, None]
            )
            reward = (random.random(item.shape) < chance).astype(float)
            length = np.full(len(shopper), Shelf.places)
            chunk = Lists(shopper, reward, policy[places, item], target[places, item], length)
            try:
                found = evaluate_slates([chunk], level)
            except Unevaluable:
                tallies[f"{case} refused"].add(Estimate(truth, truth, truth), truth, truth)
                continue
            supported[f"{case} {found.default}"] += 1
            tallies[f"{case} default {found.default}"].add(found.estimates[found.default], truth, truth)
            for assumption in ASSUMPTIONS:
                tallies[f"{case} {assumption} of {name}"].add(found.estimates[assumption], truth, truth)
    return {"figures": {name: tally.figures() for name, tally in tallies.items()}, "default": dict(supported)}


class Many:
    """Many answers in chunks, made as they are read."""

    def __init__(self, world: World, answers: int) -> None:
        self._world, self._answers = world, answers
        log = logged(world, "soft", 22_000, np.random.default_rng(seed + 5))
        target = world.target("best", log.context)
        self._chunk = Choices(log.shopper, log.action, log.rewards["revenue"], log.logged, target, log.context)

    def __iter__(self) -> Iterator[Choices]:
        left, number = self._answers, 0
        while left > 0:
            shift = self._chunk.shopper + 22_000 * number
            chunk = self._chunk._replace(shopper=shift)
            if left < len(shift):
                chunk = Choices(
                    chunk.shopper[:left], chunk.action[:left], chunk.reward[:left], chunk.logged[:left],
                    chunk.target[:left], chunk.context[:left],
                )  # fmt: skip
            yield chunk
            left, number = left - len(shift), number + 1


def cost(world: World, answers: int) -> dict[str, float]:
    """Return the processor time of many answers, and the memory that they take beside one chunk."""
    many = Many(world, answers)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, wall = time.process_time(), time.monotonic()
    evaluate(many)
    return {
        "answers": answers, "processor_s": time.process_time() - began, "wall_s": time.monotonic() - wall,
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "memory_added_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }  # fmt: skip


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("Errors and coverage of off-policy estimates where the truth is known.")
    parser.add_argument("--shops", type=int, default=200, help="shops of each case")
    parser.add_argument("--answers", type=int, default=10_000_000, help="answers whose cost is measured")
    options = parser.parse_args(arguments)
    world = World()
    costs = cost(world, options.answers)
    single = single_choices(world, options.shops)
    lists = slates(options.shops)
    columns = ["", *(f"{size:,}: {reward}" for size in SIZES for reward in REWARDS)]
    for title, part, names in (
        ("estimators", "estimators", [*ESTIMATORS, "difference"]), ("intervals", "intervals", KINDS),
    ):  # fmt: skip
        rows = []
        for name in names:
            found = [single[part].get(f"{name} {size} {reward}") for size in SIZES for reward in REWARDS]
            which = "rmse" if part == "estimators" else "width"
            rows.append([name, *(f"{one[which]:.3f}, {100 * one['coverage']:.1f}" if one else "" for one in found)])
        report.show(f"{title}: {'error' if part == 'estimators' else 'width'} relative to the truth, coverage in %",
                    columns, rows)  # fmt: skip
    report.show(
        "lists: error relative to the truth, bias, coverage in %", ["", "runs", "error", "bias", "coverage"],
        [
            [name, f"{one['runs']}", f"{one['rmse']:.3f}", f"{one['bias']:+.3f}", f"{100 * one['coverage']:.1f}"]
            for name, one in lists["figures"].items()
        ],
    )  # fmt: skip
    print(f"default: {single['default']}; refused: {single['refused']}; cost: {costs}; lists: {lists['default']}")
    report.write(options.out, {"shops": options.shops, **single, "lists": lists, "cost": costs})


if __name__ == "__main__":
    report.run(main)
