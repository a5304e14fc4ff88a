"""What a person is told of a judged policy: a verdict in one sentence, the numbers, and what makes them doubtful."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from headrace.errors import Misconfigured
from headrace.log.protocol import Log
from operators.evaluation.intervals import Estimate
from operators.evaluation.policies import policy_of
from operators.evaluation.reading import Judged, Kind, Report, Wanted
from operators.evaluation.rewards import bots_max, reward_of
from operators.evaluation.single import DEFAULT, ESTIMATORS, Evaluation, evaluate
from operators.evaluation.slates import ASSUMPTIONS, SlateEvaluation, evaluate_slates

ALL: Final = "all"
WARNINGS: Final[Mapping[str, str]] = {
    "weights": "the mean importance weight is {weight_mean:.3f}, which is too far from 1 to be chance: the log's"
    " propensities are not those by which it was chosen",
    "overlap": "{lacking:.1%} of the policy's probability is on what the log could not have shown; of that the values"
    " know nothing",
    "few": "they rest on an effective number of {effective_rewarded:.0f} shoppers with a reward, which is few",
    "independent": "the data allow only to assume that each item's reward depends on the item and its place alone;"
    " where items of a list influence each other, the values are off",
}
LOST: Final = "the oldest records of {topic} in this range are neither in the log nor in its archive"


class Line(Struct, frozen=True):
    """An estimator's value of a policy per answer, the difference from what was logged, and their bounds."""

    estimator: str
    value: Estimate
    difference: Estimate


class Result(Struct, frozen=True):
    """A judged policy.

    Attributes:
        kind: what was judged; `experiment` is "" for lists.
        level: what intervals are to cover the truth with.
        logged: what was logged, per answer.
        lines: the estimators that were asked for, the one of the verdict first.
        weight_mean: None for lists.
        tau, shrinkage: None where `switch` and `shrinkage` are `dr`, and for lists.
        left_out: answers that were not used, by why.
        warnings: texts.
    """

    policy: str
    reward: str
    kind: Kind
    experiment: str
    level: float
    impressions: int
    answers: int
    shoppers: int
    logged: Estimate
    lines: tuple[Line, ...]
    effective_shoppers: float | None
    effective_rewarded: float
    overlap: float
    weight_mean: float | None
    weight_max: float
    tau: float | None
    shrinkage: float | None
    left_out: dict[str, int]
    warnings: tuple[str, ...]
    verdict: str


def judge(
    log: Log,
    policy: str,
    wanted: Wanted,
    *,
    reward: str,
    estimators: str,
    level: float,
    sections: Mapping[str, Any],
    report: Report,
) -> Result:
    """Judge a policy by what the log holds.

    Args:
        policy: see `operators.evaluation.policies.policy_of`.
        reward: see `operators.evaluation.rewards.reward_of`.
        estimators: `all`, names separated by commas, or "" for the default one.
        sections: the settings of families, by name.

    Raises:
        Unevaluable: the log cannot tell what the policy would have earned.
        Misconfigured: an argument cannot be used.
    """
    measures = {one.name: one for one in wanted.experiment[1].measures} if wanted.experiment else {}
    with Judged(wanted, policy_of(log, policy), reward_of(reward, measures), sections) as judged:
        judged.read(log, report)
        names: Sequence[str] = ASSUMPTIONS if judged.kind == "lists" else ESTIMATORS
        asked = _asked(estimators, names)
        found: Evaluation | SlateEvaluation = (
            evaluate_slates(judged.lists(), level) if judged.kind == "lists" else evaluate(judged.choices(), level)
        )
        return _result(judged, found, asked, policy, reward, wanted, level)


def _asked(text: str, known: Sequence[str]) -> Sequence[str]:
    if text == ALL:
        return known
    asked = [one.strip() for one in text.split(",")] if text else []
    for one in asked:
        if one not in known:
            raise Misconfigured(f"--estimators {text}: wanted {ALL} or some of {', '.join(known)}, found {one!r}")
    return asked


def _result(
    judged: Judged, found: Evaluation | SlateEvaluation, asked: Sequence[str], policy: str, reward: str,
    wanted: Wanted, level: float,
) -> Result:  # fmt: skip
    single = found if isinstance(found, Evaluation) else None
    first = found.default if isinstance(found, SlateEvaluation) else DEFAULT
    values: Mapping[Any, Estimate] = found.estimates
    differences: Mapping[Any, Estimate] = found.differences
    names = asked or [first]
    rewarded = found.effective_rewarded
    effective = rewarded if isinstance(rewarded, float) else rewarded[found.default]  # type: ignore[union-attr]
    facts = {
        "weight_mean": single.weight_mean if single else found.overlap, "lacking": 1 - found.overlap,
        "effective_rewarded": effective,
    }  # fmt: skip
    warnings = [WARNINGS[name].format(**facts) for name in found.warnings]
    warnings += [LOST.format(topic=topic) for topic in judged.lost]
    if judged.unripe:
        warnings.append(f"{judged.unripe:,} answers of the last day may still be clicked and bought from")
    if judged.evicted:
        warnings.append(f"{judged.evicted:,} answers were made final early, as too many were open at once")
    left_out = {
        "repeated": judged.repeated, "strays": judged.strays, "bots": judged.bots, "unreadable": judged.unreadable
    }  # fmt: skip
    lines = tuple([Line(name, values[name], differences[name]) for name in names])
    unit = "list" if judged.kind == "lists" else "answer"
    return Result(
        policy, reward, judged.kind, wanted.experiment[0] if wanted.experiment else "", level, judged.impressions,
        found.answers, found.shoppers, values["logged"], lines, single.effective_shoppers if single else None,
        effective, found.overlap, single.weight_mean if single else None, found.weight_max,
        _finite(single.tau) if single else None, _finite(single.shrinkage) if single else None,
        {why: count for why, count in left_out.items() if count}, tuple(warnings),
        _verdict(policy, reward, unit, values[first], values["logged"], differences[first], level),
    )  # fmt: skip


def _finite(number: float) -> float | None:
    return None if number == float("inf") else number


def _verdict(
    policy: str, reward: str, unit: str, value: Estimate, logged: Estimate, by: Estimate, level: float
) -> str:  # fmt: skip
    sure = f"{100 * level:g} %"
    what = "clicks" if reward == "click" else reward
    earned = f"{value.value:.4g} {what} per {unit} ({sure}: {value.low:.4g} to {value.high:.4g})"
    if max(map(abs, by)) <= 1e-12 * abs(logged.value):
        return f"{policy}: {earned}, as what was logged"
    if logged.value > 0:
        change, low, high = (f"{100 * number / logged.value:+.1f} %" for number in by)
    else:
        change, low, high = (f"{number:+.4g}" for number in by)
    than = f"than the {logged.value:.4g} that were logged: {change} ({sure}: {low} to {high})"
    if by.low > 0:
        return f"{policy}: {earned}, more {than}"
    if by.high < 0:
        return f"{policy}: {earned}, less {than}"
    return f"{policy}: {earned}; it is not decided whether that is more or less {than}"


def result_text(found: Result) -> str:
    """Return a result as text."""
    what = {"explored": "explored choices of", "arms": "arms of", "lists": "lists"}[found.kind]
    lines = [
        found.verdict, "",
        f"{what} {found.experiment}".strip() + f": {found.answers:,} answers of {found.shoppers:,} shoppers"
        f" ({found.impressions:,} impressions were read)",
        f"overlap {found.overlap:.1%}; effective: {found.effective_rewarded:,.0f} shoppers with a reward"
        + (f" of {found.effective_shoppers:,.0f}" if found.effective_shoppers is not None else "")
        + f"; weights up to {found.weight_max:.3g}"
        + (f", {found.weight_mean:.3f} on average" if found.weight_mean is not None else ""),
        f"  {'logged':<12} {_bounds(found.logged)}",
    ]  # fmt: skip
    for one in found.lines:
        lines.append(f"  {one.estimator:<12} {_bounds(one.value)}   difference {_bounds(one.difference, sign='+')}")
    lines += [f"  left out: {count:,} answers ({LEFT_OUT[why]})" for why, count in found.left_out.items()]
    lines += [f"  warning: {text}" for text in found.warnings]
    return "\n".join(lines)


LEFT_OUT: Final[Mapping[str, str]] = {
    "repeated": "logged twice", "strays": "another arm than the shopper's",
    "bots": f"of shoppers over the daily budget of steps, {bots_max:,} shoppers at most",
    "unreadable": "not readable by this release",
}  # fmt: skip


def _bounds(one: Estimate, sign: str = "") -> str:
    return f"{one.value:{sign}.4g} ({one.low:{sign}.4g} to {one.high:{sign}.4g})"


def result_json(found: Result) -> Any:
    """Return a result as plain values."""
    made = msgspec.to_builtins(found)
    for line in (*made["lines"], made):
        for name in ("value", "difference", "logged"):
            if isinstance(line.get(name), (list, tuple)):
                line[name] = dict(zip(Estimate._fields, line[name], strict=True))
    return made
