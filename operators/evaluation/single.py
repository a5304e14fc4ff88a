"""What another policy would have earned with single choices: one action among some, in a context, with a reward.

Six estimators, all ratios of sums over answers. With the importance weight w (the target's probability of the logged
action over the logged one), the reward r, the predicted reward q of the logged action, and v, that of the target's
actions on average (`reward_model`):

| name | mean of | |
| --- | --- | --- |
| `ips` | w r | inverse propensity scoring |
| `snips` | w r, over the mean of w | self-normalised; Swaminathan and Joachims, NeurIPS 2015 |
| `dm` | v | the direct method; its interval knows nothing of the model's error |
| `dr` | v + w (r - q) | doubly robust; Dudik, Langford and Li, ICML 2011 |
| `switch` | v + w (r - q) where w <= tau | Wang, Agarwal and Dudik, ICML 2017 |
| `shrinkage` | v + lambda w / (w^2 + lambda) (r - q) | optimistic shrinkage; Su, Dimakopoulou, Krishnamurthy and Dudik, ICML 2020 |

`tau` and `lambda` are chosen from a grid by the data: the least squared standard error plus the square of (the
estimated bias + its standard error). Without that second standard error chance decides, and intervals miss.
`switch` and `shrinkage` give a value, its interval is that of `dr`: around a biased value, an interval by its own terms
covers too little. A value beyond a bound of that interval is set to the bound, and no bound is below 0 if no reward is.
"""  # noqa: E501

from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple, get_args

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from operators.evaluation.intervals import Estimate, interval, standard_error
from operators.evaluation.reward_model import RewardModel, folds
from operators.evaluation.sums import Sums, Unevaluable, clusters, effective

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Estimator = Literal["ips", "snips", "dm", "dr", "switch", "shrinkage"]

ESTIMATORS: Final[tuple[Estimator, ...]] = get_args(Estimator)
DEFAULT: Final[Estimator] = "shrinkage"
infinity: Final = float("inf")
TAUS: Final = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0, infinity)
LAMBDAS: Final = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5, infinity)
overlap_min: Final = 0.95
"""Least share of the target's probability that must be on what the log could have shown."""
effective_min: Final = 10.0
"""Least effective number of rewarded shoppers."""
effective_few: Final = 100.0
"""Effective number of rewarded shoppers below which a result is said to rest on few."""
weight_errors_max: Final = 4.0
"""Standard errors that the mean weight may be off 1."""
actions_max: Final = 4_096
_tolerance: Final = 1e-4
"""How far probabilities may add up to something other than 1."""


class Choices(NamedTuple):
    """A chunk of answers, each with one choice.

    Attributes:
        shopper: numbers of the shoppers, at least 0.
        action: the action that was chosen.
        reward: what it earned.
        logged: the propensities of all actions, or only of the chosen one. An action that could not be chosen has 0.
        target: the probabilities with which the policy to be judged chooses.
        context: numbers that were known before the choice.

    Shapes:
        shopper, action, reward: (answers,)
        logged: (answers, actions) or (answers,)
        target: (answers, actions)
        context: (answers, features)
    """

    shopper: Integers
    action: Integers
    reward: Floats
    logged: Floats
    target: Floats
    context: Floats


class Evaluation(Struct, frozen=True):
    """What a policy would have earned per answer.

    Attributes:
        estimates: by estimator; `logged` is the mean of what was logged.
        differences: by estimator, the difference from what was logged.
        answers, shoppers: how many were read. Beyond 65,536 shoppers, clusters are counted.
        rewarded_shoppers: shoppers with a reward.
        effective_answers, effective_shoppers: how many equally weighted ones would be as sure.
        effective_rewarded: the same of shoppers with a reward, each by the weights of the rewarded answers.
        overlap: share of the target's probability on what the log could have shown.
        overlap_known: whether that follows from logged propensities; else it is the mean weight.
        weight_mean, weight_max: of the importance weights; the mean must be near 1.
        tau, shrinkage: what the data have chosen; infinite: `switch` and `shrinkage` are `dr`.
        warnings: `weights`, `overlap` or `few`.
    """

    estimates: dict[Estimator | Literal["logged"], Estimate]
    differences: dict[Estimator, Estimate]
    answers: int
    shoppers: int
    rewarded_shoppers: int
    effective_answers: float
    effective_shoppers: float
    effective_rewarded: float
    overlap: float
    overlap_known: bool
    weight_mean: float
    weight_max: float
    tau: float = infinity
    shrinkage: float = infinity
    warnings: tuple[str, ...] = ()


def evaluate(chunks: Iterable[Choices], level: float = 0.95, floor: float = effective_min) -> Evaluation:
    """Return what a policy would have earned per answer, by all estimators.

    Memory does not grow with the answers. Calls with the same answers, however cut and ordered, agree up to rounding.

    Args:
        chunks: iterated twice, so no iterator.
        level: what an interval is to cover the truth with.
        floor: least effective number of rewarded shoppers.

    Raises:
        Unevaluable: the answers cannot tell it.
        ValueError: an argument is none of these.
    """
    if iter(chunks) is chunks:
        raise ValueError("chunks: wanted what can be iterated twice, found an iterator")
    if not 0.5 <= level < 1:
        raise ValueError(f"level: wanted a number from 0.5 to 1, found {level}")
    seen = _FirstPass()
    for chunk in chunks:
        seen.add(chunk)
    seen.check(floor)
    assert seen.model
    seen.model.fit()
    return _second_pass(chunks, seen, level)


def _weights(chunk: Choices) -> Floats:
    rows = np.arange(len(chunk.action))
    propensity = chunk.logged if chunk.logged.ndim == 1 else chunk.logged[rows, chunk.action]
    return chunk.target[rows, chunk.action] / propensity


class _FirstPass:
    """What needs no reward model: sums of answers, weights and rewards by cluster, and the model's sums."""

    def __init__(self) -> None:
        self.model: RewardModel | None = None
        self.shape = (0, 0)
        self.sums = Sums(5)  # answers, weights, rewards, weighted rewards, weights of rewarded answers
        self.answers = 0
        self.weight_max = self.squares = 0.0
        self.reward_min = infinity
        self.on_support = 0.0
        self.support_known = self.on_policy = True

    def add(self, chunk: Choices) -> None:
        self._check(chunk)
        if not len(chunk.action):
            return
        if self.model is None:
            self.shape = chunk.target.shape[1], chunk.context.shape[1]
            self.model = RewardModel(*self.shape)
        cluster, weight, reward = chunk.shopper % clusters, _weights(chunk), chunk.reward
        self.answers += len(weight)
        self.squares += float(weight @ weight)
        self.weight_max = max(self.weight_max, float(weight.max()))
        self.reward_min = min(self.reward_min, float(reward.min()))
        self.on_policy = self.on_policy and np.array_equal(chunk.logged, chunk.target)
        if chunk.logged.ndim == 1:
            self.support_known = False
        else:
            self.on_support += float(np.sum(chunk.target, where=chunk.logged > 0))
        self.sums.add(cluster, [np.ones_like(weight), weight, reward, weight * reward, weight * (reward != 0)])
        self.model.add(cluster % folds, chunk.context, chunk.action, reward)

    def _check(self, chunk: Choices) -> None:
        """Refuse what is malformed."""
        count = len(chunk.action)
        if chunk.target.ndim != 2 or chunk.context.ndim != 2:
            raise Unevaluable("malformed", "wanted target and context of two dimensions, found another shape")
        actions = chunk.target.shape[1]
        if self.model and self.shape != (actions, chunk.context.shape[1]):
            found = (actions, chunk.context.shape[1])
            raise Unevaluable("malformed", f"wanted {self.shape} actions and features in each chunk, found {found}")
        wanted = {"shopper": (count,), "reward": (count,), "target": (count, actions)}
        wanted["context"] = (count, chunk.context.shape[1])
        wanted["logged"] = (count,) if chunk.logged.ndim == 1 else (count, actions)
        for name, shape in wanted.items():
            if (found_shape := getattr(chunk, name).shape) != shape:
                raise Unevaluable("malformed", f"{name}: wanted the shape {shape}, found {found_shape}")
        if not 1 <= actions <= actions_max:
            raise Unevaluable("malformed", f"wanted 1 to {actions_max:,} actions, found {actions:,}")
        if not count:
            return
        for name in ("reward", "context", "logged", "target"):
            if not np.isfinite(getattr(chunk, name)).all():
                raise Unevaluable("malformed", f"{name}: wanted finite numbers, found others")
        if chunk.action.min() < 0 or chunk.action.max() >= actions or chunk.shopper.min() < 0:
            raise Unevaluable("malformed", f"wanted actions from 0 to {actions - 1} and shoppers from 0, found others")
        for name, matrix in (("logged", chunk.logged), ("target", chunk.target)):
            if matrix.min() < 0 or matrix.max() > 1 + _tolerance:
                raise Unevaluable("malformed", f"{name}: wanted probabilities from 0 to 1, found others")
            off = np.abs(matrix.sum(axis=1) - 1).max() if matrix.ndim == 2 else 0.0
            if off > _tolerance:
                raise Unevaluable("malformed", f"{name}: wanted probabilities that add up to 1, found {off:.2g} off")
        chosen = chunk.logged if chunk.logged.ndim == 1 else chunk.logged[np.arange(count), chunk.action]
        if chosen.min() <= 0:
            raise Unevaluable("malformed", "logged: wanted a propensity above 0 of each chosen action, found 0")

    def check(self, floor: float) -> None:
        """Refuse what means nothing."""
        if not self.answers:
            raise Unevaluable("no_answers", "wanted answers, found none")
        if self.shoppers < 2:
            raise Unevaluable("too_few", "wanted at least 2 shoppers, found 1")
        if not self.sums[4].any() and not self.sums[2].any():
            raise Unevaluable("no_rewards", f"wanted answers with a reward, found none among {self.answers:,}")
        mean, error = self.weight_mean
        supported = self.overlap if self.support_known else mean + weight_errors_max * error
        if supported < overlap_min:
            raise Unevaluable(
                "no_overlap",
                f"wanted at least {overlap_min:.0%} of the policy's probability on what the log could have shown, found"
                f" {self.overlap:.1%}: what was never shown tells nothing",
            )
        if self.effective_rewarded < floor:
            raise Unevaluable(
                "too_few",
                f"wanted an effective number of at least {floor:g} shoppers with a reward, found"
                f" {self.effective_rewarded:.1f}: too few were answered as the policy would answer",
            )

    @property
    def used(self) -> NDArray[np.bool_]:
        """Which clusters have answers."""
        return self.sums[0] > 0

    @property
    def shoppers(self) -> int:
        return int(np.count_nonzero(self.used))

    @property
    def overlap(self) -> float:
        return min(1.0, self.on_support / self.answers if self.support_known else self.weight_mean[0])

    @property
    def weight_mean(self) -> tuple[float, float]:
        """The mean weight, and its standard error."""
        count, weight = self.sums[0][self.used], self.sums[1][self.used]
        mean = float(weight.sum() / count.sum())
        return mean, standard_error((weight - mean * count) / count.mean())

    @property
    def effective_rewarded(self) -> float:
        return effective(self.sums[4])

    def warnings(self) -> Iterable[str]:
        mean, error = self.weight_mean
        lacking = (1 - self.overlap) if self.support_known else 0.0
        if abs(mean - (1 - lacking)) > weight_errors_max * error + 1e-9:
            yield "weights"
        if self.overlap < 1 - 1e-6 and (self.support_known or 1 - mean > weight_errors_max * error):
            yield "overlap"
        if self.effective_rewarded < effective_few:
            yield "few"


def _second_pass(chunks: Iterable[Choices], seen: _FirstPass, level: float) -> Evaluation:
    assert seen.model
    count, weight, reward, weighted, _ = seen.sums.of(seen.used)
    logged = _Ratio(reward, count)
    raw, centred, modelled_errors = _Pool(), _Pool(), _Pool()
    series = Sums(1 + len(TAUS) + len(LAMBDAS))  # v, then the corrections by tau and by lambda
    for chunk in chunks:
        if not len(chunk.action):
            continue
        cluster, weights = chunk.shopper % clusters, _weights(chunk)
        predicted = seen.model.predict(cluster % folds, chunk.context)
        residual = chunk.reward - predicted[np.arange(len(weights)), chunk.action]
        corrections = [_switched(weights, tau) * residual for tau in TAUS]
        corrections += [_shrunk(weights, one) * residual for one in LAMBDAS]
        series.add(cluster, [np.einsum("na,na->n", chunk.target, predicted), *corrections])
        raw.add(cluster, weights, chunk.reward)
        centred.add(cluster, weights, chunk.reward - logged.value)
        modelled_errors.add(cluster, weights, residual)
    modelled, *corrected = series.of(seen.used)
    robust = _Ratio(modelled + corrected[-1], count)
    switched = [_Ratio(modelled + one, count) for one in corrected[: len(TAUS)]]
    shrunk = [_Ratio(modelled + one, count) for one in corrected[len(TAUS) :]]
    tau, lambda_ = _chosen(switched, robust), _chosen(shrunk, robust)
    ratios: dict[Estimator, tuple[_Ratio, _Ratio, _Pool | None]] = {
        "ips": (one := _Ratio(weighted, count), one, raw), "snips": (one := _Ratio(weighted, weight), one, centred),
        "dm": (one := _Ratio(modelled, count), one, None), "dr": (robust, robust, modelled_errors),
        "switch": (switched[tau], robust, modelled_errors), "shrinkage": (shrunk[lambda_], robust, modelled_errors),
    }  # fmt: skip
    estimates: dict[Estimator | Literal["logged"], Estimate] = {
        "logged": interval(logged.value, logged.terms, level)
    }  # fmt: skip
    differences: dict[Estimator, Estimate] = {}
    if seen.on_policy:  # its mean is known; what is modelled would only add to it
        ratios = dict.fromkeys(ESTIMATORS, (logged, logged, None))
    for name, (value, sure, pool) in ratios.items():
        pooled, pooled_by = pool.second(len(count)) if pool else (0.0, 0.0)
        bounds = interval(sure.value, sure.terms, level, pooled)
        if seen.reward_min >= 0:  # then no policy earns less than nothing
            bounds = Estimate(bounds.value, max(0.0, bounds.low), max(0.0, bounds.high))
        estimates[name] = _within(value.value, bounds)
        by = interval(sure.value - logged.value, sure.terms - logged.terms, level, pooled_by)
        differences[name] = _within(value.value - logged.value, by)
    return Evaluation(
        estimates, differences, answers=seen.answers, shoppers=seen.shoppers,
        rewarded_shoppers=int(np.count_nonzero(seen.sums[4])),
        effective_answers=float(weight.sum()) ** 2 / seen.squares if seen.squares else 0.0,
        effective_shoppers=effective(weight), effective_rewarded=seen.effective_rewarded,
        overlap=seen.overlap, overlap_known=seen.support_known,
        weight_mean=seen.weight_mean[0], weight_max=seen.weight_max, tau=TAUS[tau], shrinkage=LAMBDAS[lambda_],
        warnings=tuple(seen.warnings()),
    )  # fmt: skip


class _Pool:
    """What the second moment of (weight x residual) would be if residuals did not depend on weights.

    Weights are known of all answers, rewards are not: where no large weight has met a reward yet, the terms themselves
    seem surer than they are.
    """

    def __init__(self) -> None:
        self._answers = 0
        self._weights = self._weights_by = self._residuals = 0.0
        self._by_cluster = Sums(1)

    def add(self, cluster: Integers, weight: Floats, residual: Floats) -> None:
        """Add answers."""
        self._answers += len(weight)
        self._weights += float(weight @ weight)
        self._weights_by += float((weight - 1) @ (weight - 1))
        self._residuals += float(residual @ residual)
        self._by_cluster.add(cluster, [residual])

    def second(self, shoppers: int) -> tuple[float, float]:
        """Return the second moment of shoppers' terms: of the value, and of its difference from what was logged."""
        if not self._residuals:
            return 0.0, 0.0
        # Residuals of one shopper may be alike: then a shopper's sum varies more.
        alike = max(1.0, float(self._by_cluster[0] @ self._by_cluster[0]) / self._residuals)
        scale = shoppers / self._answers**3 * self._residuals * alike
        return scale * self._weights, scale * self._weights_by


class _Ratio:
    """A ratio of two sums, and its linearised terms by cluster."""

    def __init__(self, numerator: Floats, divisor: Floats) -> None:
        total = float(divisor.sum())
        self.value = float(numerator.sum()) / total if total else 0.0
        self.terms = (numerator - self.value * divisor) / (total / len(divisor)) if total else np.zeros(len(divisor))


def _within(value: float, bounds: Estimate) -> Estimate:
    return Estimate(min(max(value, bounds.low), bounds.high), bounds.low, bounds.high)


def _chosen(candidates: Sequence[_Ratio], robust: _Ratio) -> int:
    """Return which candidate has the least squared standard error plus square of (bias + its standard error)."""
    return int(np.argmin([
        standard_error(one.terms) ** 2
        + (abs(one.value - robust.value) + standard_error(one.terms - robust.terms)) ** 2
        for one in candidates
    ]))  # fmt: skip


def _switched(weight: Floats, tau: float) -> Floats:
    return np.where(weight <= tau, weight, 0.0)


def _shrunk(weight: Floats, lambda_: float) -> Floats:
    return weight if lambda_ == infinity else weight * (lambda_ / (weight * weight + lambda_))
