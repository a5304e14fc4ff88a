"""Triggers of updates of the deep model: four of them, compared by quality and by the tokens that they spend.

The score is Recall@20 of the deep model alone on the clicks of a stretch, prequentially (`benchmarks.prequential`).
Every trigger begins with the same model and sees the stretch in parts of `part_events`; after a part it may request an
update. An update trains on the newest sessions since the last one, at most `--sessions`, and on the live system's share
of past sessions. Without that bound every trigger would spend the same, because each session is trained on once in any
case. With it, waiting saves tokens, and triggers differ in how much quality waiting costs.

    python -m benchmarks.triggers --data diginetica_periods.tar.gz --out FILE

Beside FILE are a picture, FILE.svg, and FILE.kept.json with the finished settings of a stopped run, from which the next
run continues if data, options and code are the same.

- volume: a number of events since the last update (`learners.rounds.rounds`).
- time: an amount of event time since the last update (`learners.rounds.rounds`); a period is a week.
- drift: the distance of a window's items from the usual ones is above its dynamic threshold
  (`Distance`, the detector of release 0.3, with windows of several sizes), or that of its share of unseen items is.
- gain: the hits that the model lost by not being updated reach the price of an update (`learners.rounds.staleness`).

Quality is that of the whole stretch. For some levels between no update at all and the best of all settings, the tokens
that each trigger needs are interpolated on the line through those of its settings that no cheaper one reaches.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol
from zlib import crc32

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks import report, sources
from benchmarks.continual import figures
from benchmarks.periods import load
from benchmarks.prequential import (
    DeepLearner,
    LoggedStep,
    Stretch,
    base_passes,
    clicks,
    cost,
    deep_answers,
    fast_answers,
)
from headrace.errors import Misconfigured
from learners.next_item.session_knn import SessionKnn
from learners.parts.prequential import ranks_max
from learners.rounds.staleness import Staleness

part_events: Final = 500
"""Number of events in a part; a trigger decides after each part."""
score: Final = "recall@20"
levels: Final = (0.5, 0.8, 0.95)
"""Levels at which tokens are compared: shares of the way from no update to the best setting."""
_day_ms: Final = 86_400_000


warmup_windows: Final = 5
"""Distances from which the usual distance is estimated before the first alarm."""
memory: Final = 0.1
"""Weight of the newest window in the reference and in the usual distance."""
settling_windows: Final = 2
"""Windows between two alarms, so that the new reference is based on more than one window."""
deviations: Final = 3.0
"""The threshold's distance from the usual distance, in standard deviations."""
spread_min: Final = 0.15
"""Least standard deviation, as a share of the usual distance: estimates from few windows are unreliable."""


class Distance:
    """Compares the histogram of each window with an exponentially weighted reference, by Hellinger distance.

    The threshold is dynamic: the exponentially weighted mean of past distances plus `deviations` of their standard
    deviations. After an alarm the window is the new reference.
    """

    def __init__(self, bins: int) -> None:
        self.score = self.threshold = 0.0
        self._counts = [0.0] * bins  # a list: one element of an array takes longer to change
        self._reference = np.zeros(bins)
        self._windows = self._distances = 0  # numbers of windows in the reference, of distances in the usual one
        self._mean = self._square = 0.0

    def count(self, bin_: int) -> None:
        """Count one value of the current window."""
        self._counts[bin_] += 1

    def observe(self) -> bool:
        """End the window; return whether it is far from the reference."""
        total = sum(self._counts)
        if not total:
            return False
        window, self._counts = np.array(self._counts) / total, [0.0] * len(self._counts)
        self._windows += 1
        if self._windows == 1:
            self._reference = window
            return False
        self.score = float(sqrt(max(0.0, 1 - np.sqrt(window * self._reference).sum())))
        spread = sqrt(max(0.0, self._square - self._mean**2))
        chance = sqrt(1 / (8 * total))  # expected distance by chance alone, for two bins and this number of values
        usual = self._mean + deviations * max(spread, spread_min * self._mean, chance)
        self.threshold = usual if self._distances else 1.0
        ready = self._distances >= warmup_windows and self._windows > settling_windows
        if ready and self.score > self.threshold:
            self._reference, self._windows = window, 1  # the usual distance is kept
            return True
        self._reference += max(memory, 1 / (self._windows - 1)) * (window - self._reference)
        self._distances += 1
        weight = max(memory, 1 / self._distances)
        self._mean += weight * (self.score - self._mean)
        self._square += weight * (self.score**2 - self._square)
        return False


class Observation(NamedTuple):
    """The input of a trigger for one part of the stretch.

    It holds the steps, which of their items are new to the log, and for each judged step whether the model and a
    learner that is always fresh found the item.
    """

    steps: Sequence[LoggedStep]
    unseen: Sequence[bool]
    found: Sequence[bool]
    fresh: Sequence[bool]


class Trigger(Protocol):
    """Decides when an update is due. After that it is reset, because the update follows at once."""

    def observe(self, seen: Observation) -> bool:
        """Observe a part; return whether an update is due."""


class Volume:
    """Due after a number of events.

    >>> volume, part = Volume(2), Observation([None], [False], [], [])
    >>> [volume.observe(part) for _ in range(4)]
    [False, True, False, True]
    """

    def __init__(self, events: int) -> None:
        self.events, self._since = events, 0

    def observe(self, seen: Observation) -> bool:
        """Count events."""
        self._since += len(seen.steps)
        if self._since < self.events:
            return False
        self._since = 0
        return True


class Time:
    """Due after an amount of event time."""

    def __init__(self, event_ms: int) -> None:
        self.event_ms = event_ms
        self._last_ms: int | None = None

    def observe(self, seen: Observation) -> bool:
        """Compare event times."""
        now_ms = seen.steps[-1].context.time_ms
        if self._last_ms is None:
            self._last_ms = seen.steps[0].context.time_ms
        if now_ms - self._last_ms < self.event_ms:
            return False
        self._last_ms = now_ms
        return True


class Drift:
    """Due when a window of events raises an alarm: its items, or its share of unseen items, are unusual."""

    def __init__(self, window: int) -> None:
        self.window, self._count = window, 0
        self._items, self._unseen = Distance(256), Distance(2)

    def observe(self, seen: Observation) -> bool:
        """Count items by hash; measure the distances at the end of each window."""
        alarms = []
        for (_, item, _), unseen in zip(seen.steps, seen.unseen, strict=True):
            self._items.count(crc32(f"{item}".encode()) & 255)
            self._unseen.count(int(unseen))
            self._count += 1
            if self._count == self.window:
                self._count = 0
                alarms += [self._items.observe(), self._unseen.observe()]
        return any(alarms)


class ExpectedGain:
    """Due when a number of hits was lost by not updating the model, as counted by the live system."""

    def __init__(self, hits: float) -> None:
        self._staleness = Staleness(hits)

    def observe(self, seen: Observation) -> bool:
        """Count the hits lost in each judged step."""
        judged = zip(seen.found, seen.fresh, strict=True)
        if not any(self._staleness.observe(found=found, fresh=fresh) for found, fresh in judged):
            return False
        self._staleness.reset_baseline()
        return True


FACTORIES: Final[Mapping[str, Callable[[float], Trigger]]] = {
    "volume": lambda events: Volume(int(events)),
    "time": lambda days: Time(int(days * _day_ms)),
    "drift": lambda window: Drift(int(window)),
    "gain": ExpectedGain,
}
SETTINGS: Final[Mapping[str, Sequence[float]]] = {
    "volume": (3_000, 5_000, 10_000, 20_000),
    "time": (1, 3),
    "drift": (500, 1_500),
    "gain": (30, 75, 150),
}
"""Units: events, days, events of a window, hits."""


class ResultCache:
    """Results of settings in a file, so that a stopped run can continue.

    Args:
        about: everything on which the results depend; a file with another value is ignored.
    """

    def __init__(self, path: Path | None = None, about: Mapping[str, Any] | None = None) -> None:
        self._path, self._about = path, dict(about or {})
        self._found: dict[str, Any] = {}
        if path is not None and path.exists():
            kept = json.loads(path.read_text())
            self._found = kept["found"] if kept["about"] == self._about else {}

    def of(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the kept result of a setting, or make it."""
        if name not in self._found:
            self._found[name] = make()
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._path.write_text(json.dumps({"about": self._about, "found": self._found}))
        found: dict[str, Any] = self._found[name]
        return found


def run(
    base: DeepLearner,
    stretch: Stretch,
    settings: Mapping[str, Sequence[float]],
    kept: ResultCache,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Return the figures and the cost of each setting of each trigger, and those without any update.

    Args:
        base: a deep learner that was trained on the steps before the stretch.
        advance: called after each setting.
    """
    fresh, _ = fast_answers(SessionKnn, stretch, {"0": stretch.by_events(0)})
    found = fresh["0"].ranks <= ranks_max
    first: dict[int, int] = {}
    for at, step in enumerate(stretch.steps):
        first.setdefault(step.item, at)
    edges = list(range(stretch.start, len(stretch.steps), part_events))

    def one(trigger: Trigger | None) -> dict[str, Any]:
        learner, due_at = base.fork(), []

        def due(begin: int, end: int, ranks: Sequence[int]) -> bool:
            steps, rows = stretch.steps[begin:end], stretch.rows(begin, end)
            unseen = [first[step.item] == at for at, step in enumerate(steps, begin)]
            hits = [rank <= ranks_max for rank in ranks]
            is_due = trigger is not None and trigger.observe(Observation(steps, unseen, hits, found[rows].tolist()))
            due_at.extend([end - stretch.start] * is_due)
            return is_due

        ranks = deep_answers(learner, stretch, edges, due).ranks
        return {**cost(learner), "due": due_at, **figures(ranks)}

    result: dict[str, Any] = {"never": kept.of("never", lambda: one(None)), "session_knn": figures(fresh["0"].ranks)}
    result["triggers"] = {name: {} for name in settings}
    advance()
    for name, setting in ((name, setting) for name, of in settings.items() for setting in of):
        made = kept.of(f"{name} {setting:g}", lambda: one(FACTORIES[name](setting)))  # noqa: B023 - called at once
        result["triggers"][name][f"{setting:g}"] = made
        advance()
    return result


def frontier(never: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]) -> list[tuple[int, float]]:
    """Return the settings of a trigger that no cheaper one reaches, as (tokens, score), beginning with no update.

    >>> frontier({"tokens": 0, score: 0.1}, {"a": {"tokens": 9, score: 0.3}, "b": {"tokens": 5, score: 0.3}})
    [(0, 0.1), (5, 0.3)]
    """
    best: list[tuple[int, float]] = []
    for one in sorted((never, *settings.values()), key=lambda one: (one["tokens"], -one[score])):
        if not best or one[score] > best[-1][1]:
            best.append((one["tokens"], one[score]))
    return best


def tokens_needed(points: Sequence[tuple[int, float]], level: float) -> float | None:
    """Return the tokens at which an interpolated line reaches a score; None if it does not.

    >>> tokens_needed([(0, 0.25), (10, 0.75)], 0.5), tokens_needed([(0, 0.25), (10, 0.75)], 0.8)
    (5.0, None)
    """
    tokens, scores = zip(*points, strict=True)
    return float(np.interp(level, scores, tokens)) if level <= scores[-1] else None


def compare_triggers(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tokens that each trigger needs at each level of quality."""
    lines = {name: frontier(result["never"], of) for name, of in result["triggers"].items()}
    low, high = result["never"][score], max(points[-1][1] for points in lines.values())
    return {
        f"{share:g}": {
            score: low + share * (high - low),
            "tokens": {name: tokens_needed(points, low + share * (high - low)) for name, points in lines.items()},
        }
        for share in levels
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = report.parser("Triggers of updates of the deep model.")
    parser.set_defaults(out=Path("build/triggers.json"))
    report.add_data(parser)
    parser.add_argument("--first", type=int, default=3, help="period that the stretch begins with")
    parser.add_argument("--events", type=int, default=50_000, help="length of the stretch")
    parser.add_argument("--sessions", type=int, default=600, help="most sessions on which an update trains, the newest")
    parser.add_argument("--rate", type=float, default=1.0, help="share of the steps that are judged")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample and of the deep learner")
    parser.add_argument("--base", type=Path, help="file of the model with which the stretch begins; made if missing")
    for name, of in SETTINGS.items():
        parser.add_argument(f"--{name}", default=",".join(f"{x:g}" for x in of), help="settings of this trigger")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None) -> None:
    """Run from the command line."""
    options = _options(arguments)
    if min(options.events, options.sessions) < 1 or not 0 < options.rate <= 1:
        raise Misconfigured("wanted --events and --sessions of at least 1, and --rate above 0, at most 1")
    settings = {name: _numbers(name, getattr(options, name)) for name in SETTINGS}
    periods = load(options.data)
    if not 1 <= options.first <= periods.last:
        raise Misconfigured(f"--first: wanted a period from 1 to {periods.last}, found {options.first}")
    from learners.deep.model import threads

    start = sum(len(found) for found in periods.clicks[: options.first])
    steps = list(clicks(periods, periods.last))[: start + options.events]
    stretch = Stretch(steps, start, rate=options.rate, seed=options.seed)
    key = f"{periods.digest[:16]} up to step {start}, {base_passes} passes, seed {options.seed}"
    named = ("first", "events", "sessions", "rate", "seed")
    about = {**{name: getattr(options, name) for name in named}, "data_sha256": periods.digest}
    with Progress(console=Console(file=sys.stderr)) as bars, threads(1):
        task = bars.add_task("settings", total=1 + sum(map(len, settings.values())))
        base = DeepLearner(seed=options.seed, sessions_max=None)
        base.begin(steps[:start], options.base, key)
        base.sessions_max = options.sessions
        code = sources.digest("benchmarks.triggers", "learners.deep.train")
        kept = ResultCache(options.out.with_suffix(".kept.json"), {**about, "code": code})
        result = run(base, stretch, settings, kept, lambda: bars.advance(task))
    result["needed"] = compare_triggers(result)
    result["options"] = about
    show(result)
    report.write(options.out, result)
    from benchmarks import picture

    picture.write(options.out.with_suffix(".svg"), picture.triggers, result)


def _numbers(name: str, text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) <= 0:
        raise Misconfigured(f"--{name}: wanted numbers above 0, separated by commas, found {text!r}")
    return found


def show(result: Mapping[str, Any]) -> None:
    """Print quality and cost of each setting, and the tokens that each trigger needs for equal quality."""
    found = [("never", "", result["never"])]
    found += [(name, setting, one) for name, of in result["triggers"].items() for setting, one in of.items()]
    rows = [
        [f"{name} {setting}", *(f"{100 * one[key]:.2f}" for key in (score, "mrr@20")),
         f"{one['updates']}", f"{one['tokens']:,}", f"{one['seconds']:.0f}"]
        for name, setting, one in found
    ]  # fmt: skip
    columns = ["trigger", score, "mrr@20", "updates", "tokens", "s"]
    report.show(f"The deep model, in % ({result['never']['predictions']:,} predictions)", columns, rows)
    rows = [
        [f"{100 * of[score]:.2f}", *("-" if tokens is None else f"{tokens:,.0f}" for tokens in of["tokens"].values())]
        for of in result["needed"].values()
    ]
    report.show("Tokens for equal quality", [score, *result["triggers"]], rows)


if __name__ == "__main__":
    report.run(main)
