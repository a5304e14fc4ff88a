"""The gate's errors: false promotions of equal models, the power to promote a better one, and the retention check.

    python -m benchmarks.gate_errors --data diginetica_periods.tar.gz --out FILE

Three tables, rule 2 (`learners.rounds.session_gate`, `learners.rounds.retention.check`) beside rule 1, that of 0.3.0,
and in the first two beside rule 2 without its margins for regimes (alpha 0.05, no more evidence at the beginning):

- *False promotions*: the share of runs in which a candidate that is no better is promoted, if the test is looked at
  after each of 10,000 predictions. Differences are drawn from one symmetric distribution of ranks, scored for rule 1
  as reciprocal ranks and for rule 2 as NDCG gains; the settings differ in what hangs together. In a cluster, each
  prediction shares one common draw with probability sqrt(correlation), so the intra-class correlation is exact and the
  distribution of each difference is the same. The regimes' gain is in the unit of the score.
- *Power*: the mean number of predictions until a candidate that is better is promoted; a run without a promotion counts
  all 10,000. Synthetic gains turn negative differences around. Recorded gains are those of session-kNN on DIGINETICA,
  as a member of the blend beside popularity and transitions (`learners.rounds.contest.blend_score`): one that has
  learned up to the stretch against one that stopped learning earlier. A run draws whole sessions of the same length.
- *Retention*: the share of candidates that are refused, among those that lost a share of one slice's hits and among
  those that only exchange hits.

Runs are vectorised; sessions are those of the live rule. With `--runs 2000` it takes some minutes on one core.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks import report
from benchmarks.contestants import week_ms
from benchmarks.periods import Periods, load
from headrace.errors import Misconfigured
from headrace.state import decode, encode
from learners.next_item.judgement import list_length, without_item
from learners.next_item.popularity import Popularity
from learners.next_item.session_knn import SessionKnn
from learners.next_item.transitions import Transitions
from learners.protocol import Context, Listed, NextItem, Question, context_max, top
from learners.rounds.contest import blend_score
from learners.rounds.gate import STAKES, Rule, alpha_promote, alpha_refuse
from learners.rounds.retention import RetentionRule, Slice, check, retention_rule_1
from learners.rounds.session_gate import Sessions, Visit, weight

Floats = NDArray[np.float64]
RULES: Final = {"rule_2": Rule(), "without_margins": Rule(alpha_better=0.05, early_predictions=1)}
predictions: Final = 10_000
"""Predictions per run, as many as the default `gate_records_max` allows at most."""
at_once: Final = 500
"""Runs that are simulated at once."""
concurrent: Final = 10
"""Sessions that run at the same time."""
regime: Final = 500
"""Predictions in which one of two equal models is better, before the other one is."""
regime_gain: Final = 0.01
FROZEN_AT: Final = {"two weeks": (0, 0.5), "one week": (1, 0.0), "half a week": (1, 0.5)}
"""For how long a recorded session-kNN has not learned, by the period and the share of it at which it stopped."""


class Stream(NamedTuple):
    """A run's predictions: the session of each, and a number that is the same for what shares its draws."""

    visits: list[Visit]
    clusters: NDArray[np.int64]


def stream(rng: np.random.Generator, length: Callable[[], int]) -> Stream:
    """Return sessions of different shoppers; `concurrent` ones are always running."""
    running: list[list[int]] = []
    found, begun = np.empty(predictions, np.int64), 0
    for place in range(predictions):
        while len(running) < concurrent:
            running.append([begun, length()])
            begun += 1
        chosen = int(rng.integers(concurrent))
        found[place] = running[chosen][0]
        running[chosen][1] -= 1
        if not running[chosen][1]:
            running.pop(chosen)
    return Stream([Visit(int(shopper), 0) for shopper in found], found)


Score = Callable[[Floats], Floats]
"""Turns ranks, from 1, into scores."""


def reciprocal(ranks: Floats) -> Floats:
    """Return what rule 1 compares."""
    return 1 / ranks


def ndcg(ranks: Floats) -> Floats:
    """Return what rule 2 compares."""
    gains: Floats = 1 / np.log2(1 + ranks)
    return gains


class Differences:
    """A symmetric distribution of the difference of the scores of two ranks: mostly 0 or small, sometimes large.

    Args:
        score: of the ranks; with the same seeds, differences of other scores are of the same ranks.
    """

    def __init__(self, score: Score = ndcg, seed: int = 1, size: int = 200_000) -> None:
        rng = np.random.default_rng(seed)
        is_hit = rng.random(size) < 0.45
        rank = np.minimum(rng.geometric(0.13, size), 20.0)
        other = np.maximum(1.0, np.round(rank * np.exp(rng.normal(0, 0.8, size))))
        first = np.where(is_hit, score(rank), 0.0)
        late = np.where(rng.random(size) < 0.1, score(rng.integers(5, 21, size).astype(np.float64)), 0.0)
        second = np.where(is_hit, np.where(other <= 20, score(other), 0.0), late)
        self.values: Floats = np.concatenate([first - second, second - first])
        self.mean_size = float(np.abs(self.values).mean())

    def draw(self, rng: np.random.Generator, clusters: NDArray[np.int64], correlation: Any, runs: int) -> Floats:
        """Return differences of equal models.

        Args:
            correlation: of two differences of one cluster; a number, or one per prediction.

        Shapes:
            clusters: (n,); returns (n, runs).
        """
        shape = (len(clusters), runs)
        own = rng.choice(self.values, shape)
        numbers = np.unique(clusters, return_inverse=True)[1]
        common = rng.choice(self.values, (int(numbers.max()) + 1, runs))[numbers]
        share = np.sqrt(np.broadcast_to(correlation, shape[:1]))[:, None]
        return np.where(rng.random(shape) < share, common, own)

    def improved(self, rng: np.random.Generator, differences: Floats, gain: Any) -> Floats:
        """Return differences whose mean is `gain` (a number, or one per prediction) instead of 0.

        Args:
            gain: in the unit of the score.
        """
        gains = np.broadcast_to(gain, differences.shape[:1])[:, None]
        turned = rng.random(differences.shape) < np.abs(gains) / self.mean_size
        return np.where(turned & (differences * np.sign(gains) < 0), -differences, differences)


class Outcome(NamedTuple):
    """Per run, 1 for a promotion, -1 for "worse", 0 without either, and the predictions until then."""

    kinds: NDArray[np.int64]
    ends: NDArray[np.int64]

    @property
    def promoted(self) -> float:
        """The share of runs with a promotion."""
        return float((self.kinds == 1).mean())

    @property
    def needed(self) -> float:
        """The mean number of predictions; a run without a promotion counts all."""
        return float(np.where(self.kinds == 1, self.ends, predictions).mean())


def by_rule_1(differences: Floats) -> Outcome:
    """Return the verdicts of `learners.rounds.gate.Gate` on each run.

    Shapes:
        differences: (n, runs).
    """
    live = _Live(differences.shape[1], STAKES)
    for place, row in enumerate(differences):
        ratio = row[live.runs] * live.stakes
        if live.multiply(1 + ratio, 1 - ratio, place + 1, 1 / alpha_promote, 1 / alpha_refuse):
            break
    return live.outcome(len(differences))


def by_rule_2(differences: Floats, visits: Sequence[Visit], rule: Rule) -> Outcome:
    """Return the verdicts of `learners.rounds.session_gate.SessionGate` on each run, with one rival.

    Shapes:
        differences: (n, runs).
    """
    live, sessions = _Live(differences.shape[1], np.array(rule.stakes)), Sessions(rule)
    sums: dict[Visit, Floats] = {}
    for place, (row, visit) in enumerate(zip(differences, visits, strict=True)):
        session = sessions.of(visit, "champion")
        if session is None:
            continue
        session.predictions += 1
        before = sums.get(visit)
        after = sums[visit] = row if before is None else before + row
        ratio = _bounded(after[live.runs], session.predictions, rule) * live.stakes
        better, worse = 1 + ratio, 1 - ratio
        if before is not None:
            former = _bounded(before[live.runs], session.predictions - 1, rule) * live.stakes
            better, worse = better / (1 + former), worse / (1 - former)
        needed = max(1.0, rule.early_predictions / (place + 1)) / rule.alpha_better
        if live.multiply(better, worse, place + 1, needed, 1 / rule.alpha_worse):
            break
    return live.outcome(len(differences))


def _bounded(sums: Floats, count: int, rule: Rule) -> Floats:
    return np.clip(sums * weight(count, rule.correlation), -rule.session_bound, rule.session_bound)


class _Live:
    """The wealth of the runs that have no verdict yet."""

    def __init__(self, runs: int, stakes: Any) -> None:
        self.stakes: Floats = np.asarray(stakes, np.float64)[:, None]
        self.runs = np.arange(runs)
        self._kinds, self._ends = np.zeros(runs, np.int64), np.zeros(runs, np.int64)
        self._better = np.ones((len(self.stakes), runs))
        self._worse = np.ones((len(self.stakes), runs))

    def multiply(self, better: Floats, worse: Floats, place: int, better_at: float, worse_at: float) -> bool:
        """Multiply the wealth; return whether all runs have a verdict."""
        self._better *= better
        self._worse *= worse
        if place % 250 == 0:  # as in the rules, wealth never becomes 0
            np.maximum(self._better, 1e-300, out=self._better)
            np.maximum(self._worse, 1e-300, out=self._worse)
        is_better = self._better.mean(axis=0) >= better_at
        is_worse = ~is_better & (self._worse.mean(axis=0) >= worse_at)
        ended = is_better | is_worse
        if ended.any():
            self._kinds[self.runs[is_better]], self._kinds[self.runs[is_worse]] = 1, -1
            self._ends[self.runs[ended]] = place
            self.runs = self.runs[~ended]
            self._better, self._worse = self._better[:, ~ended], self._worse[:, ~ended]
        return not len(self.runs)

    def outcome(self, count: int) -> Outcome:
        self._ends[self.runs] = count
        return Outcome(self._kinds, self._ends)


Draw = Callable[[np.random.Generator, int], Floats]


class Setting(NamedTuple):
    """A setting: the sessions of its predictions, and how runs are drawn."""

    visits: list[Visit]
    draw: Draw


def null_settings(differences: Differences) -> dict[str, Setting]:
    """Return settings in which the candidate is exactly as good as its rival."""
    found: dict[str, Setting] = {}
    rng = np.random.default_rng(0)

    def add(name: str, length: int, correlation: float) -> None:
        one = stream(rng, lambda: length)
        found[name] = Setting(one.visits, lambda draw, runs: differences.draw(draw, one.clusters, correlation, runs))

    add("independent predictions", 1, 0.0)
    for length, alike in ((4, 0.1), (4, 0.3), (8, 0.3)):
        add(f"sessions of {length}, correlation {alike}", length, alike)
    for length in (1, 4):
        one = stream(rng, partial(int, length))
        sign = np.where(np.arange(predictions) // regime % 2 == 0, regime_gain, -regime_gain)

        def draw(draw: np.random.Generator, runs: int, one: Stream = one, sign: Any = sign) -> Floats:
            return differences.improved(draw, differences.draw(draw, one.clusters, 0.0, runs), sign)

        found[f"regimes of {regime} at +-{regime_gain}, sessions of {length}"] = Setting(one.visits, draw)
    visits, clusters, correlation = _with_bots(stream(rng, lambda: 4), rng)
    found["five bots make 10 % of predictions"] = Setting(
        visits, lambda draw, runs: differences.draw(draw, clusters, correlation, runs)
    )
    return found


def _with_bots(shop: Stream, rng: np.random.Generator) -> tuple[list[Visit], NDArray[np.int64], Floats]:
    """Replace a tenth of the predictions by those of five bots, in sessions of 20, alike with a correlation of 0.5."""
    visits, clusters = list(shop.visits), shop.clusters.copy()
    made = [0] * 5
    is_bot = rng.random(len(visits)) < 0.1
    for place in np.flatnonzero(is_bot):
        bot = int(rng.integers(5))
        number = 10_000_000 + bot
        visits[place], clusters[place] = Visit(number, made[bot] // 20), number
        made[bot] += 1
    return visits, clusters, np.where(is_bot, 0.5, 0.0)


def _varying(rng: np.random.Generator) -> int:
    """Return the length of a session: 1 to 20, 4 on average."""
    return min(20, int(rng.geometric(0.25)))


def gain_settings(differences: Differences) -> dict[str, Setting]:
    """Return settings in which the candidate is better; the correlation within sessions is 0.1.

    The gains are of the mean reciprocal rank; in another score, the same predictions are improved.
    """
    found, unit = {}, differences.mean_size / Differences(reciprocal).mean_size
    for kind in ("of 4", "of 1 to 20, 4 on average"):
        for gain in (0.005, 0.01, 0.02, 0.03):
            rng = np.random.default_rng(1)
            one = stream(rng, partial(int, 4) if kind == "of 4" else partial(_varying, rng))

            def draw(draw: np.random.Generator, runs: int, one: Stream = one, gain: float = gain) -> Floats:
                return differences.improved(draw, differences.draw(draw, one.clusters, 0.1, runs), gain * unit)

            found[f"gain {gain}, sessions {kind}"] = Setting(one.visits, draw)
    return found


class Recorded(NamedTuple):
    """Rows of a real comparison: the session of each, and the blend's score with the newest model and older ones.

    Shapes:
        sessions: (rows,); newest: (rows,); older: (rows, len(FROZEN_AT)).
    """

    sessions: NDArray[np.int64]
    newest: Floats
    older: Floats


def record(periods: Periods, rows: int, work: Path) -> Recorded:
    """Return the first rows of period 2, from a file in `work` if they were recorded before."""
    path = work / f"rows_{periods.digest[:16]}_{rows}.npz"
    if not path.exists():
        recorded = _record(periods, rows)
        work.mkdir(parents=True, exist_ok=True)
        np.savez(path, allow_pickle=False, **recorded._asdict())
    with np.load(path, allow_pickle=False) as kept:
        return Recorded(**{name: kept[name] for name in Recorded._fields})


def _record(periods: Periods, rows: int) -> Recorded:
    fast: dict[str, NextItem] = {"popularity": Popularity(), "transitions": Transitions()}
    live = SessionKnn()
    frozen: dict[str, SessionKnn] = {}
    prefixes: dict[int, list[int]] = {}
    sessions: list[int] = []
    scores: list[list[float]] = []
    stops = {(period, int(share * len(periods.clicks[period]))): name for name, (period, share) in FROZEN_AT.items()}
    for period in (0, 1, 2):
        if period == 2:
            frozen["newest"] = SessionKnn.from_state(decode(encode(live.state())))
        for place, (session, item) in enumerate(periods.clicks[period]):
            if (period, place) in stops:
                frozen[stops[period, place]] = SessionKnn.from_state(decode(encode(live.state())))
            prefix = prefixes.setdefault(session, [])
            time_ms = period * week_ms + place * week_ms // len(periods.clicks[period])
            context = Context(prefix[-context_max:], 0, session, time_ms)
            if period == 2 and prefix and prefix[-1] != item:
                names = [periods.items[slot] for slot in context.items]
                question = Question(names, names[-1], periods.items[item])
                lists = {name: _listed(member, context, periods.items) for name, member in fast.items()}
                sessions.append(session)
                scores.append(
                    [
                        blend_score(lists, _listed(frozen[name], context, periods.items), question)
                        for name in ("newest", *FROZEN_AT)
                    ]
                )
                if len(scores) == rows:
                    break
            for member in (*fast.values(), live):
                member.learn(context, item)
            prefix.append(item)
    found = np.array(scores)
    return Recorded(np.array(sessions), found[:, 0], found[:, 1:])


def _listed(member: NextItem, context: Context, items: Sequence[str]) -> Listed:
    slots, scores = top(member.predict(context), list_length + 1)
    return without_item(([items[slot] for slot in slots.tolist()], scores), items[context.items[-1]])


def recorded_settings(recorded: Recorded, score: Score) -> dict[str, Setting]:
    """Return settings that draw whole sessions from recorded rows; in the last one, each with a random sign."""
    numbers = np.unique(recorded.sessions, return_inverse=True)[1]
    order = np.argsort(numbers, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(numbers))[:-1])
    begin = min(5_000, max(0, len(numbers) - predictions))
    shown = numbers[begin : begin + predictions]
    visits = [Visit(int(number), 0) for number in shown]
    places = [np.flatnonzero(shown == number) for number in np.unique(shown)]

    def setting(values: Floats, random_sign: bool) -> Setting:
        def draw(draw: np.random.Generator, runs: int) -> Floats:
            found = np.empty((len(shown), runs))
            for at in places:
                pool = [part[: len(at)] for part in parts if len(part) == len(at)]
                pool = pool or [part[: len(at)] for part in parts if len(part) > len(at)]
                drawn = values[np.array(pool)[draw.integers(len(pool), size=runs)]].T
                found[at] = drawn * draw.choice([-1, 1], runs) if random_sign else drawn
            return found

        return Setting(visits, draw)

    newest, older = _scored(recorded, score)
    gains, shown_gains = newest[:, None] - older, recorded.newest[:, None] - recorded.older
    found = {
        f"DIGINETICA, {name}: gain {shown_gains[:, column].mean():.4f}": setting(gains[:, column], False)
        for column, name in enumerate(FROZEN_AT)
    }
    return found | {"DIGINETICA, sessions with a random sign": setting(gains[:, 0], True)}


def effects(recorded: Recorded) -> dict[str, dict[str, float]]:
    """Return, by comparison and score, the mean of a session's difference relative to its standard deviation.

    The predictions that a test needs go with the inverse square of it.
    """
    numbers = np.unique(recorded.sessions, return_inverse=True)[1]
    found: dict[str, dict[str, float]] = {name: {} for name in FROZEN_AT}
    for of, score in (("reciprocal_rank", reciprocal), ("ndcg", ndcg)):
        newest, older = _scored(recorded, score)
        for column, name in enumerate(FROZEN_AT):
            sums = np.bincount(numbers, newest - older[:, column])
            found[name][of] = float(sums.mean() / sums.std())
    return found


def _scored(recorded: Recorded, score: Score) -> list[Floats]:
    """Return both columns of recorded reciprocal ranks in a score."""
    return [np.where(one > 0, score(1 / np.where(one > 0, one, 1.0)), 0.0) for one in recorded[1:]]


def measure(former: Setting, setting: Setting, runs: int, seed: int) -> dict[str, dict[str, float]]:
    """Return by rule, on the same runs: the share of promotions, the predictions needed, and their ratio to rule 1.

    Args:
        former: the setting in the score of rule 1.
    """
    found: dict[str, list[Outcome]] = {name: [] for name in ("rule_1", *RULES)}
    for number, size in enumerate(_parts(runs)):
        found["rule_1"].append(by_rule_1(former.draw(np.random.default_rng([seed, number]), size)))
        drawn = setting.draw(np.random.default_rng([seed, number]), size)
        for name, rule in RULES.items():
            found[name].append(by_rule_2(drawn, setting.visits, rule))
    joined = {name: Outcome(*map(np.concatenate, zip(*parts, strict=True))) for name, parts in found.items()}
    baseline = joined["rule_1"].needed
    return {
        name: {"promoted": of.promoted, "predictions": of.needed, "ratio": of.needed / baseline}
        for name, of in joined.items()
    }


def _parts(runs: int) -> list[int]:
    return [min(at_once, runs - begun) for begun in range(0, runs, at_once)]


class Holdout(NamedTuple):
    """How a retention check is simulated: slices, their predictions, and the share of hits of the champion.

    `exchanged` is the share of the champion's hits that a retrained candidate misses, while it gains as many others;
    predictions of one shopper are alike with this correlation.
    """

    slices: int = 6
    steps: int = 1_000
    hit_rate: float = 0.3
    exchanged: float = 0.2
    correlation: float = 0.1
    shopper_steps: int = 4


def retained(rng: np.random.Generator, holdout: Holdout, lost: float) -> list[Slice]:
    """Return the scores of a candidate that lost a share of the hits of one slice, and exchanged others everywhere."""
    found = []
    hurt = int(rng.integers(holdout.slices))
    for number in range(holdout.slices):
        shoppers = np.arange(holdout.steps) // holdout.shopper_steps
        uniform = _alike(rng, shoppers, holdout.correlation)
        is_hit = _alike(rng, shoppers, holdout.correlation) < holdout.hit_rate
        gained = holdout.exchanged * holdout.hit_rate / (1 - holdout.hit_rate)
        share = holdout.exchanged + (lost if number == hurt else 0.0)
        after = np.where(is_hit, uniform >= share, uniform < gained)
        ranks = 1 / rng.integers(1, 21, holdout.steps)
        before_scores, after_scores = np.where(is_hit, ranks, 0.0), np.where(after, ranks, 0.0)
        found.append(Slice(before_scores.tolist(), after_scores.tolist(), shoppers.tolist()))
    return found


def _alike(rng: np.random.Generator, clusters: NDArray[np.int64], correlation: float) -> Floats:
    """Return uniform numbers; those of one cluster are the same with probability sqrt(correlation) each."""
    common = rng.random(int(clusters.max()) + 1)[clusters]
    return np.where(rng.random(len(clusters)) < correlation**0.5, common, rng.random(len(clusters)))


def refused(holdout: Holdout, lost: float, runs: int, seed: int, rule: RetentionRule) -> dict[str, float]:
    """Return the share of candidates that both rules refuse, and the share with a slice reported as too small."""
    first = second = reported = 0
    for number in range(runs):
        slices = retained(np.random.default_rng([seed, number]), holdout, lost)
        names = [f"{place}" for place in range(len(slices))]
        champion, candidate = ({name: one[side] for name, one in zip(names, slices, strict=True)} for side in (0, 1))
        first += bool(retention_rule_1(champion, candidate))
        found = check(slices, rule)
        second += bool(found.reasons)
        reported += any("too" in figure for figure in found.figures)
    return {"rule_1": first / runs, "rule_2": second / runs, "reported_too_small": reported / runs}


HOLDOUTS: Final[Mapping[str, Holdout]] = {
    "0.3.0: slices of 300, 30 % hits": Holdout(steps=300),
    "slices of 1,000, 30 % hits": Holdout(),
    "slices of 1,000, 45 % hits": Holdout(hit_rate=0.45),
    "slices of 1,000, 20 % hits": Holdout(hit_rate=0.2),
    "slices of 1,000, 30 % hits, 30 % exchanged": Holdout(exchanged=0.3),
    "slices of 1,000, 30 % hits, correlation 0.3": Holdout(correlation=0.3),
    "slices of 700, 30 % hits": Holdout(steps=700),
}
LOSSES: Final = (0.0, 0.1, 0.2, 0.3)


def run(runs: int, retention_runs: int, seed: int, recorded: Recorded | None) -> dict[str, Any]:
    """Return all figures."""
    former, groups = (_groups(score, recorded) for score in (reciprocal, ndcg))
    result: dict[str, Any] = {}
    for group, settings in groups.items():
        result[group] = {
            name: measure(former[group][name], setting, runs, seed)
            for name, setting in track(settings.items(), description=group, console=Console(file=sys.stderr))
        }
    result["retention"] = {
        name: {f"{lost}": refused(holdout, lost, retention_runs, seed, RetentionRule()) for lost in LOSSES}
        for name, holdout in track(HOLDOUTS.items(), description="retention", console=Console(file=sys.stderr))
    }
    if recorded:
        result["effects"] = effects(recorded)
    values = Differences().values
    return result | {
        "options": {
            "runs": runs, "retention_runs": retention_runs, "seed": seed, "predictions": predictions,
            "difference_sd": float(values.std()), "recorded_rows": len(recorded.newest) if recorded else 0,
        }
    }  # fmt: skip


def _groups(score: Score, recorded: Recorded | None) -> dict[str, dict[str, Setting]]:
    """Return the settings of both tables, in a score."""
    differences = Differences(score)
    groups = {"false_promotions": null_settings(differences), "power": gain_settings(differences)}
    if recorded:
        *gains, (null, of_null) = recorded_settings(recorded, score).items()
        groups["power"] |= dict(gains)
        groups["false_promotions"][null] = of_null
    return groups


def show(result: Mapping[str, Any]) -> None:
    """Print the three tables."""
    names = ["rule 1", "rule 2", "without margins"]
    rows = [
        [name, *(f"{100 * one['promoted']:.1f}" for one in of.values())]
        for name, of in result["false_promotions"].items()
    ]
    report.show("False promotions, in %, alpha 5 %", ["equal models", *names], rows)
    rows = [
        [
            name,
            *(f"{one['predictions']:,.0f} ({100 * one['promoted']:.0f} %)" for one in of.values()),
            *(f"{of[rule]['ratio']:.2f}" for rule in RULES),
        ]
        for name, of in result["power"].items()
    ]
    report.show(
        "Predictions until a promotion (promoted within 10,000), and their ratio to rule 1",
        ["", *names, *names[1:]],
        rows,
    )
    rows = [
        [name, *(f"{100 * of[f'{lost}'][rule]:.1f}" for lost in LOSSES for rule in ("rule_1", "rule_2"))]
        for name, of in result["retention"].items()
    ]
    columns = [f"{lost:.0%}: {rule}" for lost in LOSSES for rule in ("rule 1", "rule 2")]
    report.show("Candidates refused, in %, by the share of one slice's hits that they lost", ["", *columns], rows)


def main(arguments: Sequence[str] | None) -> None:
    """Run from the command line."""
    options = _options(arguments)
    if min(options.runs, options.retention_runs, options.rows) < 1:
        raise Misconfigured("--runs, --retention-runs, --rows: wanted at least 1")
    recorded = record(load(options.data), options.rows, options.work) if options.rows > 1 else None
    result = run(options.runs, options.retention_runs, options.seed, recorded)
    show(result)
    report.write(options.out, result)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = report.parser("The gate's error rates and power.")
    parser.set_defaults(out=Path("build/gate_errors.json"))
    report.add_data(parser)
    parser.add_argument("--runs", type=int, default=2_000, help="runs per setting of the gate")
    parser.add_argument("--retention-runs", type=int, default=1_000, help="runs per setting of the retention check")
    parser.add_argument("--rows", type=int, default=20_000, help="rows to record; 1 leaves recorded rows out")
    parser.add_argument("--seed", type=int, default=0, help="seed of the runs")
    parser.add_argument("--work", type=Path, default=Path("build/gate_errors"), help="folder for recorded rows")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    report.run(main)
