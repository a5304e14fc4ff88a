"""Experiments by the word of a person: what is stated, what is to be tried, and what has come of it."""

import tomllib
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from re import fullmatch
from typing import Final

import msgspec
from msgspec.structs import replace

from headrace.announcement import announced
from headrace.errors import Misconfigured
from headrace.events import Rejection
from headrace.experiment_reports import Compared, Report, decode
from headrace.experiments import NAME, Experiment, objection, record_of
from headrace.log.protocol import Log
from headrace.log.scan import topic_records
from headrace.policies import Policy
from headrace.policies import decode as decode_policy
from headrace.topics import EXPERIMENT_REPORTS, EXPERIMENTS, MODELS, POLICIES
from learners.parts.assignment import Assignment
from operators.catalogue import Catalogue, catalogue
from operators.drift import utc

ratio_alpha: Final = 0.001
"""Below it, the arms' shares of the shoppers are said to be wrong."""
versions_shown: Final = 8
"""Most versions that an error names, the newest ones."""
hopeless_days: Final = 3_650
"""Days from which on it is not told how many an experiment would take."""
novelty_days_min: Final = 6
"""Least days of which the two halves are compared."""


def read_experiment(path: Path) -> Experiment:
    """Return the experiment of a file: TOML if its name ends so, else JSON.

    Raises:
        Misconfigured: the file cannot be read, or is not a document of an experiment; the text names the field.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".toml":
            return msgspec.convert(tomllib.loads(data.decode()), Experiment)
        return msgspec.json.decode(data, type=Experiment)
    except OSError as error:
        raise Misconfigured(f"{path}: wanted a file, found {error.strerror}") from None
    except (msgspec.MsgspecError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Misconfigured(f"{path}: {error}") from None


def stated_experiments(log: Log) -> Assignment:
    """Return the experiments that are stated, as every fold has them."""
    assignment = Assignment()
    for record in topic_records(log, EXPERIMENTS):
        assignment.hear(record)
    return assignment


def state_experiment(log: Log, name: str, experiment: Experiment | None, *, dry_run: bool = False) -> None:
    """Write an experiment, with the files of the models that its arms name; None removes it.

    Raises:
        Misconfigured: the name is none, a model was never announced, or the statement must not take effect beside the
            others.
    """
    if not fullmatch(NAME, name):
        raise Misconfigured(f"experiment {name!r}: wanted a name as {NAME}")
    if experiment is not None and any(one.model and not one.blob for one in experiment.arms):
        experiment = _with_blobs(log, experiment)
    if text := objection(name, experiment, stated_experiments(log).stated):
        raise Misconfigured(f"experiment {name}: {text}")
    if not dry_run:
        with closing(log.appender()) as appender:
            appender.append(record_of(name, experiment))


def _with_blobs(log: Log, experiment: Experiment) -> Experiment:
    """Return an experiment whose arms have the files of their models. Raises Misconfigured for one that is unknown."""
    said = (announced(record) for record in topic_records(log, MODELS))
    blobs = {one.version: one.blob for one in said if one and one.version and one.blob}
    for arm in experiment.arms:
        if arm.model and not arm.blob and arm.model not in blobs:
            newest = ", ".join([*blobs][-versions_shown:]) or "none, as none was announced"
            raise Misconfigured(f"arm {arm.name}: wanted a model's version such as {newest}, found {arm.model}")
    return replace(
        experiment, arms=tuple(replace(one, blob=one.blob or blobs.get(one.model, "")) for one in experiment.arms)
    )


def known(log: Log, name: str) -> Experiment:
    """Return a stated experiment. Raises Misconfigured if there is none of this name."""
    stated = stated_experiments(log).stated
    if name not in stated:
        raise Misconfigured(f"experiment {name}: wanted one of {', '.join(stated) or 'none, as none is stated'}")
    return stated[name]


def newest_reports(log: Log) -> dict[str, Report]:
    """Return the newest report of each experiment, by name."""
    found: dict[str, Report] = {}
    for record in topic_records(log, EXPERIMENT_REPORTS):
        report = decode(record)
        if report is not None:
            found[report.name] = report
    return found


def newest_policies(log: Log) -> dict[str, dict[str, Policy]]:
    """Return the newest policy of each exploring arm, by experiment and arm."""
    found: dict[str, dict[str, Policy]] = {}
    for record in topic_records(log, POLICIES):
        stated = decode_policy(record)
        if isinstance(stated, Rejection):
            continue
        arms = found.setdefault(stated.experiment, {})
        if stated.policy is None:
            arms.pop(stated.arm, None)
        else:
            arms[stated.arm] = stated.policy
    return found


def policy_text(policy: Policy, says: Catalogue) -> str:
    """Return which policy an arm follows, and how it stands, in one sentence."""
    version, count = policy.version, policy.answers
    if policy.state == "learned":
        reference = policy.reference or says("explore.present")
        told = says(
            "explore.learned", version=version, count=count, reference=reference, evidence=f"{policy.evidence:.2g}",
            needed=f"{policy.evidence_max:g}",
        )  # fmt: skip
    else:
        held = policy.reference or says("explore.present")
        agreement = says("explore.unknown") if policy.agreement is None else f"{100 * policy.agreement:.0f} %"
        told = says(
            "explore.follows", version=version, count=count, held=held, agreement=agreement,
            needed=f"{100 * policy.agreement_min:.0f} %",
        )  # fmt: skip
    back = " " + says("explore.instead_of", version=policy.instead_of, why=policy.why) if policy.instead_of else ""
    return told + back


def shares_of(policy: Policy) -> list[tuple[str, float, float]]:
    """Return of each action its name, its share of the answers, and the share of these that were rewarded."""
    return list(zip(policy.actions, policy.shares, policy.rewards, strict=False))


def verdict(report: Report, says: Catalogue) -> str:
    """Return what an experiment has shown, in one sentence, with its uncertainty."""
    if report.ratio_p <= ratio_alpha:
        return says("experiment.ratio", p=f"{report.ratio_p:.1e}")
    if report.preferred is not None:
        return _preferred(report, says)
    if harmed := ", ".join(report.harmed):
        return says("experiment.harmed", what=harmed)
    primary = [one for one in report.compared if one.metric == report.primary]
    decided = [one for one in primary if one.decided]
    if decided:
        best = max(decided, key=lambda one: one.difference or 0.0)
        key = "experiment.higher" if (best.difference or 0.0) > 0 else "experiment.lower"
        return says(key, metric=best.metric, arm=best.arm, control=report.arms[0].name, by=interval(best, report, says))
    if not primary or all(one.low is None for one in primary):
        return says("experiment.too_few", metric=report.primary)
    one = max(primary, key=lambda one: one.relative or 0.0)
    left = "" if report.state == "stopped" else " " + _left(one, report, says)
    return says("experiment.open", metric=one.metric, arm=one.arm, by=interval(one, report, says)) + left


def interval(one: Compared, report: Report, says: Catalogue) -> str:
    """Return a difference with its interval: as a share of the control's value, if that can be told."""
    sure = f"{100 * (1 - report.alpha):g} %"
    if one.relative is not None and one.relative_low is not None and one.relative_high is not None:
        values = [f"{100 * value:+.1f} %" for value in (one.relative, one.relative_low, one.relative_high)]
    elif one.difference is not None and one.low is not None and one.high is not None:
        values = [f"{value:+.4g}" for value in (one.difference, one.low, one.high)]
    else:
        return says("experiment.not_known")
    return says("experiment.interval", value=values[0], low=values[1], high=values[2], sure=sure)


def _left(one: Compared, report: Report, says: Catalogue) -> str:
    if one.days is None:
        return says("experiment.no_time", effect_share=report.effect)
    if one.days > hopeless_days:
        return says("experiment.long_time", effect_share=report.effect)
    low, high = f"{one.days_low or 0.0:,.0f}", f"{one.days_high:,.0f}" if one.days_high is not None else "∞"
    return says("experiment.time", effect_share=report.effect, days=f"{one.days:,.0f}", low=low, high=high)


def _preferred(report: Report, says: Catalogue) -> str:
    found = report.preferred
    assert found is not None
    first, second = (arm.name for arm in report.arms[:2])
    if found.mean is None or found.low is None or found.high is None:
        return says("experiment.no_preference", shoppers=found.shoppers)
    by = says("experiment.won", value=f"{found.mean:+.4f}", low=f"{found.low:+.4f}", high=f"{found.high:+.4f}")
    if not found.decided:
        return says("experiment.undecided", first=first, second=second, by=by)
    return says("experiment.preferred", arm=first if found.mean > 0 else second, by=by)


def notes(report: Report, says: Catalogue) -> list[str]:
    """Return what else must be known to judge a report."""
    counts = (("mixed", report.mixed), ("bots", report.bots), ("evicted", report.evicted), ("strays", report.strays))
    found = [says(f"experiment.{name}", count=count) for name, count in counts if count]
    return [*found, *_novelty(report, says)]


def _novelty(report: Report, says: Catalogue) -> Iterable[str]:
    """Yield how the effect on the primary metric went from the first half of the days to the second."""
    days = [one for one in report.days if min(one.shoppers) > 0]
    if len(days) < novelty_days_min or len(report.arms) != 2:
        return
    effects = []
    for part in (days[: len(days) // 2], days[len(days) // 2 :]):
        control, arm = (
            sum(one.outcomes[report.primary][place] for one in part) / sum(one.shoppers[place] for one in part)
            for place in (0, 1)
        )
        if control <= 0:
            return
        effects.append(f"{100 * (arm / control - 1):+.1f} %")
    yield says("experiment.novelty", metric=report.primary, first=effects[0], second=effects[1])


def report_text(report: Report, policies: Mapping[str, Policy]) -> str:
    """Return a report as text: the verdict, who was in it, which policy its arms follow, and each metric.

    Args:
        policies: of its exploring arms, by their names.
    """
    says = catalogue("en")
    until = f" to {utc(report.stopped_ms)} by {report.stopped_by}" if report.stopped_ms else ""
    lines = [
        verdict(report, says), "",
        f"{report.name}: {report.kind}, {report.state}, from {utc(report.started_ms)}{until}; as of"
        f" {utc(report.time_ms)}",
    ]  # fmt: skip
    if report.hypothesis:
        lines.append(f"hypothesis: {report.hypothesis}")
    for arm in report.arms:
        lines.append(
            f"  {arm.name}: {arm.shoppers:,} shoppers (planned share {100 * arm.share:.1f} %), {arm.answers:,} answers"
        )
    lines += [f"  {text}" for text in notes(report, says)]
    for arm_name, policy in policies.items():
        lines.append(f"  {arm_name}: {policy_text(policy, says)}")
        lines += [
            f"    {action:<30} {100 * share:5.1f} % of the answers, {100 * reward:.2f} % rewarded"
            for action, share, reward in shares_of(policy)
        ]
    for one in report.compared:
        values = f"{_number(one.control_value)} -> {_number(one.arm_value)}"
        lines.append(f"  {f'{one.metric} of {one.arm}':<32} {values}   {interval(one, report, says)}")
    shown = [one for one in report.segments if one.compared.low is not None]
    if shown:
        lines.append(f"{report.primary} by segment, corrected for {len(report.segments)} comparisons:")
    for segment in shown:
        one, proved = segment.compared, ", proved" if segment.compared.decided else ""
        name = f"{segment.segment} {segment.value}, {one.arm}"
        lines.append(f"  {name:<32} {sum(one.shoppers):,} shoppers, {interval(one, report, says)}{proved}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
