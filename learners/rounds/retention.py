"""Retention: whether a candidate has forgotten older slices of the holdout.

The champion and the candidate answer the same questions of shoppers on whom no round trained. Rule 2 compares their
hits, slice by slice. A candidate that was retrained always changes single predictions; it is refused for a slice only
if it lost hits significantly, and at least `loss_min` of the champion's. The predictions of one shopper are alike, so
the standard error is that of a mean over shoppers. Adjacent slices are merged until the champion has `hits_min` hits in
them, because fewer cannot show a loss of a fifth. What cannot be shown is said in the candidate's lineage.

Source: Liang and Zeger, "Longitudinal data analysis using generalized linear models" (Biometrika 1986), for standard
errors that are robust within clusters; the level is divided by the number of tests (Bonferroni).
"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

slice_predictions_min: Final = 30
"""Rule 1: slices with fewer predictions are ignored."""


class RetentionRule(Struct, frozen=True, kw_only=True):
    """The constants of rule 2, from which a refusal follows; they are in the journal with each candidate.

    Why these values: docs/decisions/0015-one-bet-per-session.md.

    Attributes:
        version: 2. A record without a rule means rule 1.
        alpha: probability of refusing a candidate that lost no hits, over all slices together; below 0.05, because the
            normal approximation is a little too short with some hundred shoppers.
        loss_min: least share of the champion's hits that is a reason.
        hits_min: hits of the champion up to which adjacent slices are merged.
        shoppers_min: slices of fewer shoppers, after merging, are not tested: the normal approximation fails.
        loss_wanted, power_wanted: a loss of this share should be caught with this probability; a slice in which it is
            not is reported.
    """

    version: int = 2
    alpha: float = 0.04
    loss_min: float = 0.1
    hits_min: int = 150
    shoppers_min: int = 20
    loss_wanted: float = 0.2
    power_wanted: float = 0.9


class Slice(NamedTuple):
    """Scores of both models on the questions of a slice, and a number for the shopper of each question."""

    champion: Sequence[float]
    candidate: Sequence[float]
    shoppers: Sequence[int]


class Retained(NamedTuple):
    """Whether a candidate forgot.

    Attributes:
        reasons: the slices that it forgot, one sentence each.
        figures: what was tested, one sentence per slice after merging.
    """

    reasons: list[str]
    figures: list[str]


class _Merged(NamedTuple):
    """Adjacent slices as one: its name, hits of the champion, hits lost per prediction, shoppers as 0, 1, ..."""

    name: str
    hits: int
    lost: NDArray[np.float64]
    shoppers: NDArray[np.int64]


def check(slices: Sequence[Slice], rule: RetentionRule) -> Retained:
    """Return which slices a candidate forgot, by rule 2.

    >>> hit, numbers = [0.5] * 600, [number // 3 for number in range(600)]
    >>> check([Slice(hit, [0.5] * 450 + [0.0] * 150, numbers)], RetentionRule()).reasons
    ['slice 0: 150 of 600 hits are lost, at least 118']
    """
    merged = [one for one in _merge(slices, rule.hits_min) if one.hits]
    tested = [one for one in merged if one.shoppers.max() + 1 >= rule.shoppers_min]
    reasons, figures = [], []
    for one in merged:
        shoppers = int(one.shoppers.max()) + 1
        head = f"{one.name}: {len(one.lost)} predictions of {shoppers} shoppers, {one.hits} hits"
        if shoppers < rule.shoppers_min:
            figures.append(f"{head}: too few shoppers for a test")
            continue
        normal = NormalDist()
        quantile = normal.inv_cdf(1 - rule.alpha / len(tested))
        loss, error = float(one.lost.sum()), _standard_error(one)
        least = loss - quantile * error
        if least > 0 and loss >= rule.loss_min * one.hits:
            reasons.append(f"{one.name}: {loss:.0f} of {one.hits} hits are lost, at least {least:.0f}")
        detectable = max(rule.loss_min, (quantile + normal.inv_cdf(rule.power_wanted)) * error / one.hits)
        weak = (
            "" if detectable <= rule.loss_wanted else f": too small to catch a loss of {rule.loss_wanted:.0%} reliably"
        )
        figures.append(
            f"{head}, {loss / one.hits:.1%} lost; a loss of {detectable:.0%} is caught with probability "
            f"{rule.power_wanted}{weak}"
        )
    return Retained(reasons, figures)


def _merge(slices: Sequence[Slice], hits_min: int) -> list[_Merged]:
    """Merge adjacent slices until each has `hits_min` hits; what is left at the end joins the last one."""
    groups: list[list[int]] = []
    hits = hits_min
    for number, one in enumerate(slices):
        if hits >= hits_min:
            groups.append([])
            hits = 0
        groups[-1].append(number)
        hits += sum(score > 0 for score in one.champion)
    if len(groups) > 1 and hits < hits_min:
        rest = groups.pop()
        groups[-1] += rest
    return [_joined(slices, group) for group in groups]


def _joined(slices: Sequence[Slice], group: Sequence[int]) -> _Merged:
    champion, candidate, shoppers = (
        np.concatenate([np.asarray(slices[number][column]) for number in group]) for column in range(3)
    )
    name = f"slice {group[0]}" if len(group) == 1 else f"slices {group[0]} to {group[-1]}"
    # Compared as "above 0", so that a score that is no number is a miss.
    lost = (champion > 0).astype(np.float64) - (candidate > 0)
    return _Merged(name, int((champion > 0).sum()), lost, np.unique(shoppers, return_inverse=True)[1])


def _standard_error(one: _Merged) -> float:
    """Return the standard error of the number of hits lost, with the shoppers as clusters."""
    sums, counts = np.bincount(one.shoppers, one.lost), np.bincount(one.shoppers)
    # By fsum, whose result does not depend on the order of its terms.
    mean = float(one.lost.sum()) / len(one.lost)
    pairs = zip(sums.tolist(), counts.tolist(), strict=True)
    squares = math.fsum((total - mean * count) ** 2 for total, count in pairs)
    return math.sqrt(squares * len(sums) / (len(sums) - 1)) if len(sums) > 1 else math.inf


def retention_rule_1(
    champion: Mapping[str, Sequence[float]],
    challenger: Mapping[str, Sequence[float]],
    *,
    drop_max: float = 0.01,
    confidence_z: float = 1.645,
) -> list[str]:
    """Return the slices that the challenger forgot, one sentence each, by rule 1 (that of 0.3.0).

    A slice is forgotten if its mean score fell significantly by more than `drop_max`: the fall minus `confidence_z`
    standard errors of the paired differences (1.645: one-sided 95 %) exceeds the bound. Slices with fewer than
    `slice_predictions_min` predictions are ignored.

    Args:
        champion, challenger: for each older slice, the scores of both on the same predictions, in the same order.

    >>> retention_rule_1({"may": [0.5] * 100, "june": [0.5] * 100}, {"may": [0.5] * 100, "june": [0.4] * 100})
    ['slice june: the mean score fell by 0.1000 (at least 0.1000) over 100 predictions, more than 0.01']
    """
    assert champion.keys() == challenger.keys(), "champion and challenger were scored on different slices"
    reasons = []
    for name in sorted(champion):
        fall = np.asarray(champion[name], np.float64) - np.asarray(challenger[name], np.float64)
        if len(fall) < slice_predictions_min:
            continue
        mean = float(fall.mean())
        least = mean - confidence_z * float(fall.std(ddof=1)) / math.sqrt(len(fall))
        # Negated, so that NaN, which compares as false, is a reason too.
        if not least <= drop_max:
            reasons.append(
                f"slice {name}: the mean score fell by {mean:.4f} (at least {least:.4f}) over {len(fall)} predictions, "
                f"more than {drop_max}"
            )
    return reasons
