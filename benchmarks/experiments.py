"""Online experiments: false alarms under peeking, time to a decision, and the sample-ratio test.

    python -m benchmarks.experiments --out FILE

- *False alarms*: both arms are equal, and the test is looked at after every batch; the share of runs in which it ever
  proves a difference. `ours` is `learners.experiments.difference`; `guard rail` is its one-sided test for harm, at the
  same alpha; `mSPRT` is the mixture sequential probability ratio test with a normal prior (Johari, Koomen, Pekelis and
  Walsh, "Always valid inference", Operations Research 2022) on the same estimates, without our least counts, pooled
  variance and clock; `z` is the test for one look, at 5 %. In the first cases an outcome is complete at once; in those
  that grow, shoppers are in the experiment first, and events change their outcomes later.
- *Guard rail*: how often harm beyond a tolerance is proved, if the true harm is as large as the tolerance or larger.
- *Decisions*: shoppers until a decision, and the share of runs with one, for true effects of half, once and twice the
  planned one. The z-test has a fixed number of shoppers, for a power of 80 % at the true or at the planned effect;
  sequential tests go on up to four times the number for the planned effect. A run without a decision counts all.
- *Costs*: processor time of assigning a request, of logging and counting it, and of reports.
- *Large report*: processor time of a report after ten million answers, and of counting these.
- *Sample ratio*: how often `learners.experiments.sample_ratio` raises an alarm at alpha 0.01, and after how many
  shoppers.

The prior of mSPRT has the planned effect as its standard deviation: that which a test of one look at the planned number
of shoppers finds with a power of 80 %. Runs are vectorised, 500 at a time. The constants of `Rule` and of
the sample ratio were chosen on other seeds. It takes a quarter of an hour on one core.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks import report
from headrace.errors import Misconfigured
from headrace.experiments import Arm, Experiment, record_of
from headrace.impressions import Impression, ShownItem
from headrace.impressions import record_of as impression_record_of
from headrace.log.protocol import Outgoing, Record
from headrace.rules import RuleSet
from headrace.topics import EXPERIMENTS, IMPRESSIONS
from learners.experiments.boundary import critical, planned_clock
from learners.experiments.course import Course, day_ms
from learners.experiments.difference import Rule
from learners.experiments.family import ExperimentsFamily, ExperimentsSettings
from learners.experiments.moments import Moments
from learners.experiments.sample_ratio import prior_shoppers
from learners.family import Moment
from learners.next_item.rulebook import Rulebook
from learners.next_item.variants import Variants
from learners.parts.assignment import Assignment
from learners.parts.policies import Policies
from learners.placements.family import PlacementsFamily, PlacementsSettings

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
alpha: Final = 0.05
z_fixed: Final = 1.959964
z_sized: Final = z_fixed + 0.841621
"""Standard errors of an effect that a test of one look at 5 % finds with a power of 80 %."""


class Sums:
    """The running sums of `Moments` in many runs.

    Shapes:
        values: (sums, arms, runs), in the order of the attributes of `Moments`.
    """

    def __init__(self, runs: int) -> None:
        self.values = np.zeros((len(Moments.__struct_fields__), 2, runs))
        self._runs = np.arange(runs)

    def add(self, arm: Bools, y: Floats, d: Floats | float = 1.0, x: Floats | float = 0.0) -> None:
        """Add shoppers.

        Shapes:
            all (shoppers, runs).
        """
        for number, of in enumerate((~arm, arm)):
            for place, term in enumerate((1.0, y != 0, y, d, x, y * y, d * d, x * x, y * d, y * x, d * x)):
                self.values[place, number] += (of * term).sum(axis=0)

    def replace(self, arm: Bools, old_y: Floats, old_d: Floats, y: Floats, d: Floats) -> None:
        """Change the totals of one shopper of each run, whose covariate is 0.

        Shapes:
            all (runs,).
        """
        numbers = arm.astype(np.int64)
        changes = {
            1: (y != 0) - (old_y != 0).astype(np.float64), 2: y - old_y, 3: d - old_d, 5: y * y - old_y * old_y,
            6: d * d - old_d * old_d, 8: y * d - old_y * old_d,
        }  # fmt: skip
        for place, change in changes.items():
            self.values[place, numbers, self._runs] += change


class Estimates(NamedTuple):
    """What `learners.experiments.difference` makes of sums, of all runs at once; and the plain estimates.

    Shapes:
        n, effective, values, variances: (arms, runs); all others (runs,).
    """

    n: Floats
    effective: Floats
    values: Floats
    variances: Floats
    shared_variance: Floats
    without: Floats
    nonzero: Floats
    plain_difference: Floats
    plain_variance: Floats


def estimates(sums: Floats) -> Estimates:
    """Return the estimates from `Sums.values`."""
    n, nonzero, y, d, x, yy, dd, xx, yd, yx, dx = sums
    with np.errstate(divide="ignore", invalid="ignore"):
        value, d_mean, total = y / d, d / n, n.sum(axis=0)

        def product(sum_ab: Floats, sum_a: Floats, sum_b: Floats) -> Floats:
            found: Floats = (sum_ab - sum_a * sum_b / n) / (n - 1)
            return found

        variance = (product(yy, y, y) - 2 * value * product(yd, y, d) + value**2 * product(dd, d, d)) / d_mean**2
        covariance, x_variance = (product(yx, y, x) - value * product(dx, d, x)) / d_mean, product(xx, x, x)
        freedom = (n - 1) / (total - 2)
        x_pooled = (freedom * x_variance).sum(axis=0)
        theta = np.where(x_pooled > 0, (freedom * covariance).sum(axis=0) / x_pooled, 0.0)

        def variances(theta: Floats) -> Floats:
            each = np.maximum(0.0, variance - 2 * theta * covariance + theta**2 * x_variance)
            own, alike = each / n, (freedom * each).sum(axis=0) / n
            larger: Floats = np.where(own.sum(axis=0) >= alike.sum(axis=0), own, alike)
            return larger

        plain, found = variances(np.zeros_like(theta)), variances(theta)
        helps = found.sum(axis=0) < plain.sum(axis=0)
        theta, found = np.where(helps, theta, 0.0), np.where(helps, found, plain)
        is_yes_no = ((yy == y) & (dd == d) & (d == n)).all(axis=0)
        return Estimates(
            n, d * d / dd, value - theta * (x / n - x.sum(axis=0) / total), found, theta**2 * x_pooled / total,
            np.where(is_yes_no, 1 - y.sum(axis=0) / total, 1.0), nonzero.sum(axis=0) * n.min(axis=0) / total,
            value[1] - value[0], (variance / n).sum(axis=0),
        )  # fmt: skip


class Sequential:
    """A test that is looked at again and again: at which number of shoppers each run was first decided.

    Attributes:
        ends: shoppers at the decision; 0 without one. Row 0: the arm is lower; row 1: it is higher.
    """

    def __init__(self, runs: int) -> None:
        self.ends = np.zeros((2, runs))

    def look(self, shoppers: Floats, z: Floats, reach: Floats | float, can_decide: Bools) -> None:
        """Look at the standardised difference; `reach` is what decides."""
        for row, sign in enumerate((-1, 1)):
            new = can_decide & (sign * z > reach) & (self.ends[row] == 0)
            self.ends[row, new] = shoppers[new]


class Looked(NamedTuple):
    """The tests of runs that are looked at together."""

    ours: Sequential
    guard_rail: Sequential
    msprt: Sequential
    z: Sequential


Play = Callable[[np.random.Generator, int], Iterator[Sums]]
"""Plays runs: yields their sums at each look."""


def judge(looks: Iterator[Sums], runs: int, rule: Rule, effect_sd: float, harm_max: float = 0.0) -> Looked:
    """Return when each test decided.

    Args:
        effect_sd: standard deviation of mSPRT's prior.
        harm_max: tolerance of the guard rail.
    """
    tests = Looked(*(Sequential(runs) for _ in Looked._fields))
    first = np.full(runs, np.nan)
    for sums in looks:
        at = estimates(sums.values)
        total, sane = at.n.sum(axis=0), at.n.min(axis=0) >= 2
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = at.variances.sum(axis=0)
            enough = (at.effective.min(axis=0) >= rule.shoppers_min) & (at.nonzero >= rule.nonzero_min) & (variance > 0)
            shopper_variance = total * variance / at.without**2
            first = np.where(np.isnan(first) & enough, shopper_variance, first)
            clock = planned_clock(rule.alpha) * total / rule.shoppers_planned * shopper_variance / first
            clock = np.where(enough, clock, 1.0)
            z = (at.values[1] - at.values[0]) / np.sqrt(variance)
            tests.ours.look(total, z, critical(clock, rule.alpha), enough)
            kept = 1 - harm_max
            error = np.sqrt(at.variances[1] + kept**2 * at.variances[0] + (1 - kept) ** 2 * at.shared_variance)
            z = (at.values[1] - kept * at.values[0]) / error
            tests.guard_rail.look(total, z, critical(clock, 2 * rule.alpha), enough)
            sane &= at.plain_variance > 0
            z = np.where(sane, at.plain_difference / np.sqrt(at.plain_variance), 0.0)
            tests.z.look(total, z, z_fixed, sane)
            ratio = np.where(sane, effect_sd**2 / at.plain_variance, 1.0)
            reach = np.sqrt(2 * (1 + 1 / ratio) * np.log(np.sqrt(1 + ratio) / rule.alpha))
            tests.msprt.look(total, z, reach, sane)
    return tests


class Outcomes(NamedTuple):
    """The totals of shoppers: outcome and covariate."""

    y: Floats
    x: Floats | float


Draw = Callable[[np.random.Generator, Bools], Outcomes]
"""Draws outcomes, given which shoppers are in the arm."""


def at_once(draw: Draw, arm_share: float, batch: int, looks: int) -> Play:
    """Return runs in which a shopper's outcome is complete at once, looked at after each batch of shoppers."""

    def play(rng: np.random.Generator, runs: int) -> Iterator[Sums]:
        sums = Sums(runs)
        for _ in range(looks):
            arm = rng.random((batch, runs)) < arm_share
            outcomes = draw(rng, arm)
            sums.add(arm, outcomes.y, 1.0, outcomes.x)
            yield sums

    return play


def conversion(rng: np.random.Generator, arm: Bools, rate: float, effect: float = 0.0) -> Outcomes:
    """Draw who converts; `effect` is the arm's relative one."""
    return Outcomes((rng.random(arm.shape) < rate * np.where(arm, 1 + effect, 1.0)).astype(np.float64), 0.0)


def revenue(rng: np.random.Generator, arm: Bools, sigma: float) -> Outcomes:
    """Draw log-normal revenue of the 2 % who buy; half of these bought for a similar amount before."""
    buys = rng.random(arm.shape) < 0.02
    y, x = np.zeros(arm.shape), np.zeros(arm.shape)
    count = int(buys.sum())
    size = rng.normal(0, sigma, count)
    y[buys] = np.exp(size)
    x[buys] = np.where(rng.random(count) < 0.5, np.exp(size + rng.normal(0, 0.5, count)), 0.0)
    return Outcomes(y, x)


def clicks(rng: np.random.Generator, arm: Bools, effect: float = 0.0, covariate: bool = True) -> Outcomes:
    """Draw clicks of a shopper, 2 on average, and as many on average before: their correlation is 0.6."""
    rates = rng.gamma(4 / 3, 1.5, arm.shape)
    y = rng.poisson(rates * np.where(arm, 1 + effect, 1.0)).astype(np.float64)
    return Outcomes(y, rng.poisson(rates).astype(np.float64) if covariate else 0.0)


clicks_mean: Final = 2.0
clicks_variance: Final = 5.0


class Growth(NamedTuple):
    """Outcomes that grow: events of shoppers that are in the experiment.

    Attributes:
        gain: returns what an event adds, given the outcome so far and the shopper's number.
        rates_shape: of the gamma distribution of the shoppers' rates; the smaller, the fewer shoppers make most events.
            None makes all rates equal.
        early: whether most shoppers enter in the first part, and none in the last.
        refunds: share of the gains that are taken back later.
        is_ratio: whether the outcome is divided by the number of events.
        shoppers: number of shoppers in the end.
    """

    gain: Callable[[np.random.Generator, Floats, NDArray[np.int64]], Floats]
    arm_share: float = 0.5
    rates_shape: float | None = None
    early: bool = False
    refunds: float = 0.0
    is_ratio: bool = False
    shoppers: int = 2_000


grown_events: Final = 10_000
grown_looks: Final = 100


def growing(growth: Growth, events: int = grown_events, looks: int = grown_looks) -> Play:
    """Return runs of events; each run has its own assignment and events, rates are the same in all."""
    fixed = np.random.default_rng(1)
    count, shape = growth.shoppers, growth.rates_shape
    cumulated = np.cumsum(np.ones(count) if shape is None else fixed.gamma(shape, 1.0, count))

    def play(rng: np.random.Generator, runs: int) -> Iterator[Sums]:
        sums, every, number = Sums(runs), np.arange(runs), 0
        arm = rng.random((count, runs)) < growth.arm_share
        y, d = np.zeros((count, runs)), np.full((count, runs), 0.0 if growth.is_ratio else 1.0)
        refunds: dict[int, list[tuple[NDArray[np.int64], Floats]]] = {}
        for event in range(events):
            passed = (event + 1) / events
            entered = max(20, int(count * (min(1.0, 1.5 * math.sqrt(passed)) if growth.early else passed)))
            if entered > number:
                sums.add(arm[number:entered], y[number:entered], d[number:entered])
                number = entered
            chosen = np.searchsorted(cumulated[:number], rng.random(runs) * cumulated[number - 1])
            gain = growth.gain(rng, y[chosen, every], chosen)
            changes = [
                (chosen, gain, float(growth.is_ratio)),
                *((who, -back, 0.0) for who, back in refunds.pop(event, [])),
            ]
            if growth.refunds and rng.random() < growth.refunds:
                due = event + int(rng.integers(1, events // 5))
                refunds.setdefault(due, []).append((chosen, gain))
            for who, change, divisor in changes:
                old_y, old_d = y[who, every], d[who, every]
                new_y = old_y + change
                new_y[np.abs(new_y) < 1e-9] = 0.0  # what a refund leaves by rounding
                sums.replace(arm[who, every], old_y, old_d, new_y, old_d + divisor)
                y[who, every] = new_y
                d[who, every] = old_d + divisor
            if (event + 1) % (events // looks) == 0:
                yield sums

    return play


def one_more(rng: np.random.Generator, y: Floats, shopper: NDArray[np.int64]) -> Floats:
    """Return a gain of 1."""
    return np.ones(len(y))


def order_value(rng: np.random.Generator, y: Floats, shopper: NDArray[np.int64]) -> Floats:
    """Return a log-normal gain."""
    gains: Floats = np.exp(rng.normal(0, 1, len(y)))
    return gains


def noise(rng: np.random.Generator, y: Floats, shopper: NDArray[np.int64]) -> Floats:
    """Return a gain of mean 0: of all gains those with the least correlation with what was."""
    return rng.normal(0, 1, len(y))


def once(rng: np.random.Generator, y: Floats, shopper: NDArray[np.int64], share: float) -> Floats:
    """Return a gain of 1 to a share of those who have nothing."""
    return np.where((y == 0) & (rng.random(len(y)) < share), 1.0, 0.0)


def click(rng: np.random.Generator, y: Floats, shopper: NDArray[np.int64]) -> Floats:
    """Return whether an answer was clicked; shoppers click 0 to 20 % of theirs."""
    return (rng.random(len(y)) < (shopper * 7_919 % 1_000) / 5_000).astype(np.float64)


class Case(NamedTuple):
    """Equal arms: how they are played, and the planned number of shoppers."""

    play: Play
    shoppers_planned: int


def null_cases() -> dict[str, Case]:
    """Return the cases of the table of false alarms."""
    found: dict[str, Case] = {}
    for name, draw in (
        ("clicks", partial(clicks, covariate=False)),
        ("clicks, covariate", clicks),
        ("conversion of 5 %", partial(conversion, rate=0.05)),
        ("conversion of 0.5 %", partial(conversion, rate=0.005)),
        ("revenue, sigma 2, covariate", partial(revenue, sigma=2.0)),
    ):
        for share in (0.5, 0.1):
            found[f"{name}; {share:.0%} in the arm"] = Case(at_once(draw, share, 200, 100), 10_000)
    few = partial(conversion, rate=0.3)
    found["conversion of 30 %, 800 shoppers; 50% in the arm"] = Case(at_once(few, 0.5, 8, 100), 400)
    for name, growth in (
        ("click-through, clumped", Growth(click, rates_shape=0.2, is_ratio=True, shoppers=6_000)),
        ("click-through, clumped; 10% in the arm", Growth(click, 0.1, 0.2, is_ratio=True, shoppers=6_000)),
        ("clicks, clumped", Growth(one_more, rates_shape=0.2)),
        ("orders, clumped; 10% in the arm", Growth(order_value, 0.1, rates_shape=0.2)),
        ("orders, 30% refunded", Growth(order_value, refunds=0.3)),
        ("independent gains", Growth(noise)),
        ("independent gains, early shoppers", Growth(noise, early=True)),
        ("yes or no, a fifth in the end", Growth(partial(once, share=0.045), early=True)),
        ("yes or no, nearly all in the end", Growth(partial(once, share=0.8), early=True)),
    ):
        found[f"growing: {name}"] = Case(growing(growth), growth.shoppers // 2)
    return found


def effect_sd(case: Case, seed: int) -> float:
    """Return the effect that one look at the planned number of shoppers finds with a power of 80 %, from 50 runs."""
    at = np.nan
    for sums in case.play(np.random.default_rng([seed, 1_000_000]), 50):
        found = estimates(sums.values)
        at = z_sized * math.sqrt(float(np.nanmean(found.plain_variance)))
        if found.n.sum(axis=0).mean() >= case.shoppers_planned:
            break
    return at


def _parts(runs: int) -> list[int]:
    """Return the runs of each part: at most 500, to bound memory."""
    return [min(500, runs - begun) for begun in range(0, runs, 500)]


def _ends(tests: Sequence[Looked], name: str) -> Floats:
    return np.concatenate([getattr(part, name).ends for part in tests], axis=1)


def false_alarms(runs: int, seed: int) -> dict[str, Any]:
    """Return the shares of runs with an alarm, in per cent of either side."""
    found = {}
    for number, (name, case) in enumerate(_track(null_cases(), "false alarms")):
        prior, rule = effect_sd(case, seed), Rule(alpha=alpha, shoppers_planned=case.shoppers_planned)
        tests = [
            judge(case.play(np.random.default_rng([seed, number, part]), size), size, rule, prior)
            for part, size in enumerate(_parts(runs))
        ]
        found[name] = {
            one: {
                "either": float((ends > 0).any(axis=0).mean()),
                "lower": float((ends[0] > 0).mean()),
                "higher": float((ends[1] > 0).mean()),
            }
            for one in Looked._fields
            for ends in [_ends(tests, one)]
        }
    return found


def guard_rails(runs: int, seed: int) -> dict[str, Any]:
    """Return how often harm above 10 % of a conversion of 10 % is proved, and after how many shoppers."""
    found, rule = {}, Rule(alpha=alpha, shoppers_planned=10_000)
    for share in (0.5, 0.1):
        for harm in (0.0, 0.1, 0.2, 0.3, 0.5):
            play = at_once(partial(conversion, rate=0.1, effect=-harm), share, 400, 100)
            tests = [
                judge(play(np.random.default_rng([seed, 100, part]), size), size, rule, 1.0, harm_max=0.1)
                for part, size in enumerate(_parts(runs))
            ]
            ends = _ends(tests, "guard_rail")[0]
            found[f"harm {harm:.0%}, {share:.0%} in the arm"] = _decisions(ends, 40_000)
    return found


def decisions(runs: int, seed: int) -> dict[str, Any]:
    """Return the shoppers until a decision about clicks, by the true effect; 10 % is planned."""
    planned = 0.1
    found: dict[str, Any] = {}
    for number, effect in enumerate(_track((0.0, planned / 2, planned, 2 * planned), "decisions")):
        sized = {"true": _sized(effect), "planned": _sized(planned)}
        batch, most = 40, 4 * _sized(planned)
        rule = Rule(alpha=alpha, shoppers_planned=_sized(planned))
        rows: dict[str, Any] = {}
        for covariate in (False, True):
            play = at_once(partial(clicks, effect=effect, covariate=covariate), 0.5, batch, most // batch)
            tests = [
                judge(play(np.random.default_rng([seed, 200, number, part]), size), size, rule, planned * clicks_mean)
                for part, size in enumerate(_parts(runs))
            ]
            label = ", covariate" if covariate else ""
            rows[f"ours{label}"] = _decisions(_first(_ends(tests, "ours")), most)
            if not covariate:
                rows["mSPRT"] = _decisions(_first(_ends(tests, "msprt")), most)
                for of, shoppers in sized.items():
                    if shoppers:
                        rows[f"z, sized for the {of} effect"] = _fixed(effect, shoppers, runs, [seed, 300, number])
        found[f"effect {effect:.0%}"] = rows
    return found


def _sized(effect: float) -> int:
    """Return the shoppers of both arms for a test of one look with a power of 80 %; 0 for no effect."""
    return math.ceil(4 * clicks_variance * (z_sized / (effect * clicks_mean)) ** 2) if effect else 0


def _first(ends: Floats) -> Floats:
    """Return the earlier of both sides' decisions; 0 without one."""
    found: Floats = np.where((ends > 0).all(axis=0), ends.min(axis=0), ends.max(axis=0))
    return found


def _decisions(ends: Floats, most: int) -> dict[str, float]:
    """Return share, mean and median of decisions; a run without one counts all shoppers."""
    needed = np.where(ends > 0, ends, most)
    return {"decided": float((ends > 0).mean()), "mean": float(needed.mean()), "median": float(np.median(needed))}


def _fixed(effect: float, shoppers: int, runs: int, seed: Sequence[int]) -> dict[str, float]:
    """Return the figures of a z-test with one look."""
    rng, decided = np.random.default_rng(seed), 0
    for size in _parts(runs):
        sums = Sums(size)
        for begun in range(0, shoppers, 1_000):
            arm = rng.random((min(1_000, shoppers - begun), size)) < 0.5
            sums.add(arm, clicks(rng, arm, effect, covariate=False).y)
        at = estimates(sums.values)
        decided += int((np.abs(at.plain_difference) > z_fixed * np.sqrt(at.plain_variance)).sum())
    return {"decided": decided / runs, "mean": float(shoppers), "median": float(shoppers)}


RATIOS: Final[Mapping[str, tuple[float, float]]] = {
    "planned 50 %, got 50 %": (0.5, 0.5),
    "planned 10 %, got 10 %": (0.1, 0.1),
    "planned 50 %, got 49 %": (0.5, 0.49),
    "planned 50 %, got 48 %": (0.5, 0.48),
    "planned 50 %, got 45 %": (0.5, 0.45),
    "planned 10 %, got 9 %": (0.1, 0.09),
}
ratio_alpha: Final = 0.01
ratio_shoppers: Final = 100_000


def sample_ratios(runs: int, seed: int) -> dict[str, Any]:
    """Return how often the sample-ratio test raises an alarm, looked at after each shopper, and after how many."""
    found = {}
    for number, (name, (planned, actual)) in enumerate(_track(RATIOS, "sample ratio")):
        ends = np.concatenate(
            [
                ratio_alarms(np.random.default_rng([seed, 400, number, part]), planned, actual, size)
                for part, size in enumerate(_parts(runs))
            ]
        )
        found[name] = _decisions(ends, ratio_shoppers)
    return found


def ratio_alarms(rng: np.random.Generator, planned: float, actual: float, runs: int) -> Floats:
    """Return after how many shoppers each run has an alarm; 0 without one."""
    ends, evidence, count = np.zeros(runs), np.zeros(runs), np.zeros(runs)
    block = 1_000
    for begun in range(0, ratio_shoppers, block):
        arm = rng.random((block, runs)) < actual
        before = count + np.cumsum(arm, axis=0) - arm
        place = begun + np.arange(block)[:, None]
        of_arm = prior_shoppers * planned + before
        of_rest = prior_shoppers * (1 - planned) + place - before
        share = np.where(arm, of_arm / planned, of_rest / (1 - planned)) / (prior_shoppers + place)
        path = evidence + np.cumsum(np.log(share), axis=0)
        alarmed = path >= -math.log(ratio_alpha)
        new = alarmed.any(axis=0) & (ends == 0)
        ends[new] = begun + alarmed.argmax(axis=0)[new] + 1
        evidence, count = path[-1], count + arm.sum(axis=0)
    return ends


def _track(cases: Any, description: str) -> Any:
    items = list(cases.items()) if isinstance(cases, Mapping) else list(cases)
    return track(items, description=description, console=Console(file=sys.stderr))


def costs(runs: int, seed: int) -> dict[str, Any]:
    """Return processor time in microseconds: of assigning and logging a request, and of counting it; and of a report.

    The request's shopper is in an experiment of each of four layers, of four that run there. Those of one layer have an
    arm with rules of its own.
    """
    assignment, plain = Assignment(), (Arm("control"), Arm("new"))
    for number in range(16):
        slots = (number % 4 / 4, (number % 4 + 1) / 4)
        arms = (Arm("control"), Arm("new", rules=RuleSet(hidden=("a",)))) if number < 4 else plain
        stated = Experiment(arms, state="running", layer=f"layer-{number // 4}", slots=slots)
        record = record_of(f"e{number}", stated)
        assert assignment.hear(Record(0, number, 0, record.key, record.value)) is None
    variants = Variants(Rulebook(), assignment, Policies())
    items = [ShownItem(f"item-{number:05d}") for number in range(10)]

    def asked(number: int) -> Outgoing:
        told = variants.of("home", f"shopper-{number}").told
        shown = Impression(f"r{number}", 0, "/v1/x", items, "home", "r1", f"shopper-{number}", experiments=dict(told))
        return impression_record_of(shown)

    def logged(number: int) -> Outgoing:
        shown = Impression(f"r{number}", 0, "/v1/x", items, "home", "r1", f"shopper-{number}")
        return impression_record_of(shown)

    family = ExperimentsFamily(ExperimentsSettings(), {"placements": PlacementsFamily(PlacementsSettings(), {})})
    now = Moment({})
    for number in range(16):
        record = record_of(f"e{number}", assignment.stated[f"e{number}"])
        assert family.hear(EXPERIMENTS, Record(0, number, 0, record.key, record.value), now) is None
    count = 50_000
    heard = [Record(0, 0, 0, one.key, one.value) for one in map(asked, range(count))]
    with_arms, without = _each_us(asked, count), _each_us(logged, count)
    counted = _each_us(lambda number: family.hear(IMPRESSIONS, heard[number], now), count)
    began = time.process_time()
    for course in family.courses.values():
        course.look(day_ms)
    return {
        "assigning and logging, us": with_arms,
        "of that, logging without experiments, us": without,
        "counting an answer in four experiments, us": counted,
        "reports of 16 experiments with 50,000 shoppers in each layer, s": time.process_time() - began,
    }


def large_report(runs: int, seed: int) -> dict[str, Any]:
    """Return processor time in seconds of an experiment's report after ten million answers, and of counting these.

    As many shoppers as the family follows get their answers in turn; each has been asked for and logged before.
    """
    shoppers, answers = ExperimentsSettings().shoppers_max, 10_000_000
    course = Course("home", Experiment((Arm("control"), Arm("new")), state="running"), 0, 0)
    names = [f"shopper-{number}" for number in range(shoppers)]
    past, values, began = (0.0, 0.0, 0.0), {"device": "mobile", "country": "DE", "visitor": "new"}, time.process_time()
    for number in range(answers):
        course.answer(names[number % shoppers], number % 2, 10 * number, past, values)
    counted = time.process_time()
    assert sum(arm.answers for arm in course.look(10 * answers).arms) == answers
    return {
        f"counting {answers:,} answers of {shoppers:,} shoppers, s": counted - began,
        "the report of them, s": time.process_time() - counted,
    }


def _each_us(act: Callable[[int], object], count: int) -> float:
    began = time.process_time()
    for number in range(count):
        act(number)
    return 1e6 * (time.process_time() - began) / count


SECTIONS: Final[Mapping[str, Callable[[int, int], dict[str, Any]]]] = {
    "false_alarms": false_alarms,
    "guard_rails": guard_rails,
    "decisions": decisions,
    "sample_ratio": sample_ratios,
    "costs": costs,
    "large_report": large_report,
}
"""What is measured, given the number of runs and the seed."""


def show(result: Mapping[str, Any]) -> None:
    """Print the tables."""
    if "false_alarms" in result:
        columns = ["equal arms", "ours", "lower", "higher", "guard rail", "mSPRT", "z"]
        rows = [
            [
                name,
                *(f"{100 * of['ours'][side]:.1f}" for side in ("either", "lower", "higher")),
                f"{100 * max(of['guard_rail']['lower'], of['guard_rail']['higher']):.1f}",
                *(f"{100 * of[one]['either']:.1f}" for one in ("msprt", "z")),
            ]
            for name, of in result["false_alarms"].items()
        ]
        report.show("False alarms with a look after each batch, in %, alpha 5 %", columns, rows)
    decided = {
        "guard_rails": "Guard rail: harm above 10 % is proved",
        "sample_ratio": "Sample ratio: alarms at alpha 1 %",
    }
    for section, title in decided.items():
        if section in result:
            report.show(f"{title}; shoppers until then", *_decided_table(result[section]))
    for section, title in (("costs", "Processor time"), ("large_report", "Processor time of a large experiment")):
        if section in result:
            rows = [[name, f"{value:.3g}"] for name, value in result[section].items()]
            report.show(title, ["what", "processor time"], rows)
    for effect, of in result.get("decisions", {}).items():
        report.show(f"Shoppers until a decision, {effect}", *_decided_table(of))


def _decided_table(of: Mapping[str, Mapping[str, float]]) -> tuple[list[str], list[list[str]]]:
    rows = [
        [name, f"{100 * one['decided']:.1f}", f"{one['mean']:,.0f}", f"{one['median']:,.0f}"]
        for name, one in of.items()
    ]
    return ["", "in %", "mean", "median"], rows


def main(arguments: Sequence[str] | None) -> None:
    """Run from the command line."""
    options = _options(arguments)
    if options.runs < 1:
        raise Misconfigured(f"--runs: wanted at least 1, found {options.runs}")
    chosen = report.names(options.sections, list(SECTIONS))
    result: dict[str, Any] = {section: SECTIONS[section](options.runs, options.seed) for section in chosen}
    show(result)
    rule = Rule()
    settings = {"alpha": alpha, "shoppers_min": rule.shoppers_min, "nonzero_min": rule.nonzero_min}
    report.write(options.out, result | {"options": {"runs": options.runs, "seed": options.seed, **settings}})


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = report.parser("False alarms, time to a decision and the sample-ratio test of online experiments.")
    parser.set_defaults(out=Path("build/experiments.json"))
    parser.add_argument("--runs", type=int, default=2_000, help="runs of each case")
    parser.add_argument("--seed", type=int, default=0, help="seed of the runs")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="what to measure")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    report.run(main)
