"""What another policy would have earned with lists: several items at once, each with a reward and a propensity.

The value is the sum over places of the mean reward at the place, self-normalised. Estimators differ in the weight of a
place, a product of ratios of the policy's probability to the logged one, and so in what they assume:

| name | the ratios of | right if rewards and chances at a place depend on |
| --- | --- | --- |
| `list` | the whole list | anything |
| `interaction` | the place and those above it | the items down to it (reward-interaction IPS) |
| `independent` | the place | the place and its item alone |

`interaction` is the default where its products of ratios leave enough effective shoppers at each place, and enough with
a reward, else `independent`.

Source: Y. Li et al., "Offline evaluation of ranking policies with click models", KDD 2018 (independent); J. McInerney
et al., "Counterfactual evaluation of slate recommendations with sequential reward interactions", KDD 2020
(interaction).
"""

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple, get_args

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from operators.evaluation.intervals import Estimate, interval, standard_error
from operators.evaluation.single import effective_few, effective_min, overlap_min, weight_errors_max
from operators.evaluation.sums import Sums, Unevaluable, clusters, effective

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Assumption = Literal["list", "interaction", "independent"]

ASSUMPTIONS: Final[tuple[Assumption, ...]] = get_args(Assumption)
places_max: Final = 20
"""Most places of a list."""
interaction_min: Final = 50.0
"""Effective shoppers at each place, and effective rewarded ones, from which on `interaction` is the default."""


class Lists(NamedTuple):
    """A chunk of answers, each with a list.

    Attributes:
        shopper: numbers of the shoppers, at least 0.
        reward: what each item earned.
        logged: the propensity of each item at its place, given those above it.
        target: the probability of it there by the policy to be judged.
        length: items of each list; what lies beyond is ignored.

    Shapes:
        shopper, length: (answers,)
        reward, logged, target: (answers, places)
    """

    shopper: Integers
    reward: Floats
    logged: Floats
    target: Floats
    length: Integers


class SlateEvaluation(Struct, frozen=True):
    """What a policy would have earned per list.

    Attributes:
        estimates: by assumption; `logged` is the mean of what was logged.
        differences: by assumption, the difference from what was logged.
        default: the assumption that the data allow.
        answers, shoppers: how many were read. Beyond 65,536 shoppers, clusters are counted.
        effective_rewarded: effective number of shoppers with a reward, by assumption.
        effective_least: effective number of shoppers at the place that has fewest, by assumption.
        overlap: mean ratio of a place, at most 1.
        weight_max: the largest ratio of a place.
        warnings: `weights`, `overlap`, `few`, or `independent`: items that influence each other are not accounted for.
    """

    estimates: dict[Assumption | Literal["logged"], Estimate]
    differences: dict[Assumption, Estimate]
    default: Assumption
    answers: int
    shoppers: int
    effective_rewarded: dict[Assumption, float]
    effective_least: dict[Assumption, float]
    overlap: float
    weight_max: float
    warnings: tuple[str, ...] = ()


def evaluate_slates(chunks: Iterable[Lists], level: float = 0.95, floor: float = effective_min) -> SlateEvaluation:
    """Return what a policy would have earned per list. Memory does not grow with the answers.

    Args:
        chunks: all of as many places.
        level: what an interval is to cover the truth with.
        floor: least effective number of rewarded shoppers.

    Raises:
        Unevaluable: the answers cannot tell it.
        ValueError: an argument is none of these.
    """
    if not 0.5 <= level < 1:
        raise ValueError(f"level: wanted a number from 0.5 to 1, found {level}")
    read = _Read()
    for chunk in chunks:
        read.add(chunk)
    return read.result(level, floor)


class _Read:
    def __init__(self) -> None:
        self.places = 0
        self.answers = 0
        self.weight_max = 0.0
        self._plain = Sums(2)  # answers, rewards
        self._rewarded = Sums(len(ASSUMPTIONS))
        self._shown = Sums(0)  # lists that have the place
        self._weights: dict[Assumption, Sums] = {}
        self._earned: dict[Assumption, Sums] = {}

    def add(self, chunk: Lists) -> None:
        self._check(chunk)
        count, places = chunk.reward.shape
        if not count:
            return
        if not self.places:
            self.places, self._shown = places, Sums(places)
            self._weights = {name: Sums(places) for name in ASSUMPTIONS}
            self._earned = {name: Sums(places) for name in ASSUMPTIONS}
        cluster = chunk.shopper % clusters
        shown = np.arange(places) < chunk.length[:, None]
        ratio = np.divide(chunk.target, chunk.logged, out=np.ones_like(chunk.target), where=shown)
        reward = np.where(shown, chunk.reward, 0.0)
        products: Floats = np.cumprod(ratio, axis=1, dtype=np.float64)
        weights: dict[Assumption, Floats] = {
            "list": products[:, -1:], "interaction": products, "independent": ratio,
        }  # fmt: skip
        self.answers += count
        self.weight_max = max(self.weight_max, float(np.max(ratio, where=shown, initial=0.0)))
        self._plain.add(cluster, [np.ones(count), reward.sum(axis=1)])
        self._shown.add(cluster, list(shown.T.astype(float)))
        for number, name in enumerate(ASSUMPTIONS):
            weight = np.where(shown, weights[name], 0.0)
            self._weights[name].add(cluster, list(weight.T))
            self._earned[name].add(cluster, list((weight * reward).T))
            self._rewarded.add(cluster, [(weight * (reward != 0)).sum(axis=1)], number)

    def _check(self, chunk: Lists) -> None:
        """Refuse what is malformed."""
        if chunk.reward.ndim != 2:
            raise Unevaluable("malformed", "reward: wanted two dimensions, found another shape")
        count, places = shape = chunk.reward.shape
        if not 1 <= places <= places_max or (self.places and places != self.places):
            wanted = self.places or f"1 to {places_max}"
            raise Unevaluable("malformed", f"wanted lists of {wanted} places, found {places}")
        for name in ("logged", "target", "shopper", "length"):
            wanted_shape = shape if name in ("logged", "target") else (count,)
            if (found := getattr(chunk, name).shape) != wanted_shape:
                raise Unevaluable("malformed", f"{name}: wanted the shape {wanted_shape}, found {found}")
        if not count:
            return
        if chunk.length.min() < 0 or chunk.length.max() > places or chunk.shopper.min() < 0:
            raise Unevaluable("malformed", f"wanted lengths from 0 to {places} and shoppers from 0, found others")
        shown = np.arange(places) < chunk.length[:, None]
        logged, target = chunk.logged[shown], chunk.target[shown]
        if not (np.isfinite(chunk.reward[shown]).all() and np.isfinite(target).all() and np.isfinite(logged).all()):
            raise Unevaluable("malformed", "wanted finite numbers, found others")
        if ((logged <= 0) | (logged > 1)).any():
            raise Unevaluable("malformed", "logged: wanted propensities above 0 and at most 1, found others")
        if ((target < 0) | (target > 1)).any():
            raise Unevaluable("malformed", "target: wanted probabilities from 0 to 1, found others")

    def result(self, level: float, floor: float) -> SlateEvaluation:
        if not self.answers:
            raise Unevaluable("no_answers", "wanted answers, found none")
        used = self._plain[0] > 0
        count, reward = self._plain.of(used)
        if len(count) < 2:
            raise Unevaluable("too_few", "wanted at least 2 shoppers, found 1")
        shown, ratios = self._shown.of(used), self._weights["independent"].of(used)
        if not self._rewarded[ASSUMPTIONS.index("independent")].any() and not reward.any():
            raise Unevaluable("no_rewards", f"wanted answers with a reward, found none among {self.answers:,}")
        places = shown.sum(axis=0)
        mean = float(ratios.sum() / max(1.0, places.sum()))
        error = standard_error((ratios.sum(axis=0) - mean * places) / max(1e-300, float(places.mean())))
        if mean + weight_errors_max * error < overlap_min:
            raise Unevaluable(
                "no_overlap",
                f"wanted at least {overlap_min:.0%} of the policy's probability on what the log could have shown, found"
                f" {mean:.1%}: what was never shown tells nothing",
            )
        rewarded = {name: effective(self._rewarded[number]) for number, name in enumerate(ASSUMPTIONS)}
        least = {name: min(map(effective, self._weights[name].of(used))) for name in ASSUMPTIONS}
        has_support = min(rewarded["interaction"], least["interaction"]) >= interaction_min
        default: Assumption = "interaction" if has_support else "independent"
        if rewarded[default] < floor:
            raise Unevaluable(
                "too_few",
                f"wanted an effective number of at least {floor:g} shoppers with a reward, found"
                f" {rewarded[default]:.1f}: too few were answered as the policy would answer",
            )
        logged_terms = (reward - reward.sum() / count.sum() * count) / count.mean()
        logged = float(reward.sum() / count.sum())
        estimates: dict[Assumption | Literal["logged"], Estimate] = {"logged": interval(logged, logged_terms, level)}
        differences: dict[Assumption, Estimate] = {}
        for name in ASSUMPTIONS:
            value, terms = _value(count, shown, self._weights[name].of(used), self._earned[name].of(used))
            estimates[name] = interval(value, terms, level)
            differences[name] = interval(value - logged, terms - logged_terms, level)
        warnings = []
        if abs(mean - 1) > weight_errors_max * error + 1e-9:
            warnings += ["weights"] if mean > 1 else ["weights", "overlap"]
        if rewarded[default] < effective_few:
            warnings.append("few")
        if default == "independent":
            warnings.append("independent")
        return SlateEvaluation(
            estimates, differences, default, answers=self.answers, shoppers=len(count),
            effective_rewarded=rewarded, effective_least=least,
            overlap=min(1.0, mean), weight_max=self.weight_max, warnings=tuple(warnings),
        )  # fmt: skip


def _value(count: Floats, shown: Floats, weight: Floats, earned: Floats) -> tuple[float, Floats]:
    """Return the sum over places of (share of lists with the place) x (weighted mean reward), and its terms.

    Shapes:
        count: (shoppers,)
        shown, weight, earned: (places, shoppers)
    """
    lists = float(count.sum())
    share = shown.sum(axis=1) / lists
    totals = weight.sum(axis=1)
    means = np.divide(earned.sum(axis=1), totals, out=np.zeros(len(totals)), where=totals > 0)
    scale = np.divide(share * lists, totals, out=np.zeros(len(totals)), where=totals > 0)
    by_weight = scale @ (earned - means[:, None] * weight)
    by_length = means @ (shown - share[:, None] * count)
    return float(share @ means), (by_weight + by_length) / (lists / len(count))
