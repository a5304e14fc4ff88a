"""Drift detectors by how late they alarm, what they miss and how often they alarm without cause.

    python -m benchmarks.drift_scorecard --seeds 20 --evidently PYTHON --alibi PYTHON --elec2 elec2.csv.gz --out FILE

Streams (`benchmarks.drift_streams`): the simulated shop with one drift at 60 % of the run, or with none; River's SEA
and Agrawal with a change of concept, and Elec2, each told as events of a shop. Detectors:

- ours: the alarms of the fold of the shard `online`, any of its detectors.
- River's, each on all columns that suit it: price, category and item (by hash) of views, misses of the next item, loss
  and errors of purchase propensity; of the other streams the features and the errors of a naive Bayes classifier.
- Evidently's and Alibi Detect's, on windows against a reference. Each needs an environment of its own, whose Python is
  given: see `benchmarks/drift_evidently.py` and `benchmarks/drift_alibi.py`. Without the option its rows are left out.

An alarm on any column counts. Alarms of the first 10 % of a stream count for nothing: detectors warm up. Those from the
drift's begin until 20 % of the run after it is complete detect it, the first one with its delay; without one it is
missed. All others are false; those within 5 % of the run after another false one count once. Streams have 40,000 events
unless stated otherwise, so these are 4,000, 8,000 and 2,000 events. False alarms are stated per day of event time in
which every alarm is false. Of Elec2 no truth is known: only its alarms per day are stated.

A detector that alarms all the time detects everything at once: delay and false alarms belong together.

Each rival has its documented default and two thresholds of a grid, chosen on other seeds over all streams of a source.
`soon`: of the thresholds whose mean delay is no longer than ours (of all, if none is), the one with the fewest misses,
then the fewest false alarms per day. `quiet`: of those with no more false alarms per day than ours (of those with the
fewest, if none has), the one with the fewest misses, then the shortest delay.

A table states how often an alarm names what moved: in its `moved`, an item or category of the drift.

Streams, and alarms of each detector, are kept in the folder `--work`, from which a stopped run continues, and to which
a run with more seeds adds. Changed code of the shop or its learners makes the streams anew, changed watchers only our
alarms; a rival's alarms are used again where what it watches is the same.
"""

import argparse
import json
import math
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks import drift_calls, drift_rivals, drift_streams, report, resumable, sources
from benchmarks.drift_calls import Raised
from benchmarks.drift_rivals import ALIBI, DEFAULTS, EVIDENTLY, RIVER, adapter_alarms, river_alarms
from benchmarks.drift_streams import BRANCHES, CLASSIFIED, ELEC2, NAMED, SHOP, Stream
from headrace.errors import Misconfigured

WARM_UP: Final = 0.1
HORIZON: Final = 0.2
SETTLING: Final = 0.05
"""Shares of a stream's events: before alarms count, for detecting a drift once it is complete, between false alarms."""
CHOOSING: Final = 100
"""The first of the seeds on which thresholds are chosen."""
OURS: Final = "ours"
Each = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""Calls a function with each of some arguments."""
_day_ms: Final = 86_400_000
_hour_ms: Final = 3_600_000


class Outcome(NamedTuple):
    """What a detector did on a stream: its delay (None if it missed the drift), and its false alarms.

    Attributes:
        drifts: whether the stream has a drift.
    """

    drifts: bool
    delay_events: int | None
    delay_hours: float | None
    false_alarms: int
    stable_days: float


def settled(alarms: Iterable[int], settling: int) -> list[int]:
    """Return the alarms without those within `settling` events after one that is kept.

    >>> settled([5, 7, 14, 15, 16], 10)
    [5, 15]
    """
    found: list[int] = []
    for alarm in sorted(alarms):
        if not found or alarm - found[-1] >= settling:
            found.append(alarm)
    return found


def stable(stream: Stream) -> list[tuple[int, int]]:
    """Return the stretches of a stream in which every alarm is false, as numbers of events."""
    events = len(stream.times_ms)
    horizon = round(HORIZON * events)
    unstable = [(begin, begin + horizon) for begin in stream.other]
    if stream.begin is not None and stream.complete is not None:
        unstable.append((stream.begin, stream.complete + horizon))
    found, place = [], round(WARM_UP * events)
    for begin, end in sorted(unstable):
        if begin > place:
            found.append((place, begin))
        place = max(place, end)
    return [*found, (place, events)] if place < events else found


def outcome(stream: Stream, alarms: Sequence[int]) -> Outcome:
    """Return what a detector did on a stream.

    Args:
        alarms: the number of events up to each.
    """
    events, times = len(stream.times_ms), stream.times_ms
    delay_events = delay_hours = None
    if stream.begin is not None and stream.complete is not None:
        until = min(events, stream.complete + round(HORIZON * events))
        detected = [alarm for alarm in alarms if stream.begin < alarm <= until]
        if detected:
            delay_events = min(detected) - stream.begin
            delay_hours = float(times[min(detected) - 1] - times[stream.begin]) / _hour_ms
    false, days = 0, 0.0
    for begin, end in stable(stream):
        within = [alarm for alarm in alarms if begin < alarm <= end]
        false += len(settled(within, round(SETTLING * events)))
        days += float(times[end - 1] - times[begin]) / _day_ms
    return Outcome(stream.begin is not None, delay_events, delay_hours, false, days)


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the figures of a detector over streams; those of drifts are None if there are none or all are missed."""
    drifting = [one for one in outcomes if one.drifts]
    delays = [one.delay_events for one in drifting if one.delay_events is not None]
    hours = [one.delay_hours for one in drifting if one.delay_hours is not None]
    days = sum(one.stable_days for one in outcomes)
    return {
        "streams": len(outcomes),
        "missed": 1 - len(delays) / len(drifting) if drifting else None,
        "delay_events": float(np.mean(delays)) if delays else None,
        "delay_events_median": float(np.median(delays)) if delays else None,
        "delay_hours": float(np.mean(hours)) if hours else None,
        "false_alarms": sum(one.false_alarms for one in outcomes),
        "stable_days": days,
        "false_per_day": sum(one.false_alarms for one in outcomes) / days if days else None,
    }


def choose_quiet(by_threshold: Mapping[str, Sequence[Outcome]], ours: Sequence[Outcome]) -> str:
    """Return the threshold with the fewest misses, then the shortest delay, of those as quiet as ours."""
    found = {threshold: summary(outcomes) for threshold, outcomes in by_threshold.items()}
    rates = {threshold: one["false_per_day"] or 0.0 for threshold, one in found.items()}
    most = max(summary(ours)["false_per_day"] or 0.0, min(rates.values()))

    def order(threshold: str) -> tuple[float, float, float]:
        one = found[threshold]
        return one["missed"] or 0.0, one["delay_events"] or math.inf, rates[threshold]

    return min((threshold for threshold, rate in rates.items() if rate <= most), key=order)


def choose_soon(by_threshold: Mapping[str, Sequence[Outcome]], ours: Sequence[Outcome]) -> str:
    """Return the threshold with the fewest misses, then false alarms, of those that are no later than ours."""
    found = {threshold: summary(outcomes) for threshold, outcomes in by_threshold.items()}
    longest = summary(ours)["delay_events"]
    soon = {
        threshold: one
        for threshold, one in found.items()
        if longest is None or (one["delay_events"] is not None and one["delay_events"] <= longest)
    }

    def order(threshold: str) -> tuple[float, float, float]:
        one = found[threshold]
        return one["missed"] or 0.0, one["false_per_day"] or 0.0, one["delay_events"] or math.inf

    return min(soon or found, key=order)


CHOICES: Final[Mapping[str, Callable[[Mapping[str, Sequence[Outcome]], Sequence[Outcome]], str]]] = {
    "soon": choose_soon, "quiet": choose_quiet,
}  # fmt: skip
"""How a threshold is chosen."""


class Task(NamedTuple):
    """A stream to be made: its kind, seed, size and file."""

    kind: str
    seed: int
    events: int
    days: float
    elec2: Path | None
    path: Path


def make(tasks: Sequence[Task]) -> Sequence[Task]:
    """Make streams that have their beginning in common."""
    told = {}
    for task in tasks:
        if task.kind in SHOP:
            told[task.path] = drift_streams.shop(task.kind, task.seed, task.events, task.days)
        elif task.kind == ELEC2:
            assert task.elec2 is not None
            told[task.path] = drift_streams.elec2(task.elec2, task.events)
        else:
            told[task.path] = drift_streams.classified(task.kind, task.seed, task.events // 2)
    drift_streams.fold(told)
    return tasks


def missing(tasks: Iterable[Task]) -> list[list[Task]]:
    """Return the streams that are not there, those with their beginning in common together."""
    of_kind = {kind: kinds[0] for kinds in BRANCHES for kind in kinds}
    found: dict[tuple[int, str], list[Task]] = {}
    for task in tasks:
        if not task.path.exists():
            found.setdefault((task.seed, of_kind.get(task.kind, task.kind)), []).append(task)
    return list(found.values())


def listen(question: tuple[Path, Path]) -> None:
    """Write the alarms of our watchers on a stream to a file, unless it is there."""
    stream, path = question
    if not path.exists():
        found = drift_calls.alarms(drift_calls.decode(drift_calls.path_of(stream).read_bytes()))
        resumable.write(path, json.dumps(found).encode())


def watch(question: tuple[Path, str, str]) -> tuple[Path, str, str, list[int]]:
    """Return the alarms of one of River's detectors with a threshold on a stream."""
    path, name, threshold = question
    return path, name, threshold, river_alarms(drift_streams.restore(path), RIVER[name], float(threshold))


class Kept:
    """The rivals' alarms on streams, kept in a file for each content of a stream, by code of the rival."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._found: dict[Path, tuple[Path, dict[str, list[int]]]] = {}
        shares = f"{drift_rivals.WINDOW} {drift_rivals.REFERENCE} {_river_version()}"
        # Only what decides a rival's alarms: not the modules of this project that make the streams.
        files = {"river": ["drift_rivals"], **{script: [script, "drift_windows"] for script in ADAPTERS}}
        self._code = {}
        for source, modules in files.items():
            code = "".join(Path(__file__).with_name(f"{module}.py").read_text() for module in modules)
            self._code[source] = sha256((shares + code).encode()).hexdigest()[:12]

    def _of(self, stream: Path) -> tuple[Path, dict[str, list[int]]]:
        if stream not in self._found:
            content = sha256()
            for name, column in sorted(drift_streams.restore(stream).columns.items()):
                content.update(name.encode() + column.kind.encode() + column.events.tobytes() + column.values.tobytes())
            path = self._work / f"alarms-{content.hexdigest()[:16]}.json"
            self._found[stream] = path, json.loads(path.read_text()) if path.exists() else {}
        return self._found[stream]

    def get(self, stream: Path, name: str, threshold: str) -> list[int] | None:
        """Return the kept alarms, None without."""
        return self._of(stream)[1].get(f"{self._code[source_of(name)]} {name} {threshold}")

    def put(self, stream: Path, name: str, threshold: str, alarms: list[int]) -> None:
        """Keep alarms."""
        path, kept = self._of(stream)
        kept[f"{self._code[source_of(name)]} {name} {threshold}"] = alarms
        resumable.write(path, json.dumps(kept).encode())


def _river_version() -> str:
    return version("river")


ADAPTERS: Final[Mapping[str, Mapping[str, Sequence[float]]]] = {"drift_evidently": EVIDENTLY, "drift_alibi": ALIBI}
"""The detectors of each adapter, with their thresholds."""


def source_of(name: str) -> str:
    """Return whose detector it is: an adapter's or River's.

    >>> source_of("evidently PSI"), source_of("river DDM")
    ('drift_evidently', 'river')
    """
    return next((script for script, detectors in ADAPTERS.items() if name in detectors), "river")


class Scorecard:
    """A run of the benchmark.

    Args:
        tasks: the streams, those on which thresholds are chosen included.
        interpreters: of the adapters that take part.
        jobs: number of processes that make streams and run River's detectors.
    """

    def __init__(self, tasks: Sequence[Task], work: Path, interpreters: Mapping[str, Path], jobs: int) -> None:
        self._tasks, self._interpreters, self._jobs = tasks, interpreters, jobs
        work.mkdir(parents=True, exist_ok=True)
        self._kept = Kept(work)
        self._grid = {name: [f"{value:g}" for value in rival.thresholds] for name, rival in RIVER.items()}
        for script in interpreters:
            self._grid |= {name: [f"{value:g}" for value in of] for name, of in ADAPTERS[script].items()}
        self._streams: dict[Task, Stream] = {}
        self._ours: dict[Task, list[Raised]] = {}

    def run(self) -> dict[str, Any]:
        """Make the streams, run all detectors and return the figures."""
        with ExitStack() as stack:
            bars = stack.enter_context(Progress(console=Console(file=sys.stderr)))
            each: Each = map
            if self._jobs > 1:
                each = stack.enter_context(multiprocessing.get_context("spawn").Pool(self._jobs)).imap_unordered
            found = missing(self._tasks)
            bar = bars.add_task("streams", total=sum(map(len, found)))
            for tasks in each(make, found):
                bars.advance(bar, len(tasks))
            watchers = sources.digest("benchmarks.drift_calls")[:12]
            files = {task: task.path.with_name(f"{task.path.stem}-ours-{watchers}.json") for task in self._tasks}
            bar = bars.add_task("our detectors", total=len(self._tasks))
            for _ in each(listen, [(task.path, path) for task, path in files.items()]):
                bars.advance(bar)
            for task, path in files.items():
                self._streams[task] = drift_streams.restore(task.path)
                self._ours[task] = [Raised(*one) for one in json.loads(path.read_text())]
            choosing = [task for task in self._tasks if task.seed >= CHOOSING]
            judged = [task for task in self._tasks if task.seed < CHOOSING]
            self._watch([(task, name, self._grid[name]) for task in choosing for name in self._grid], each, bars)
            chosen = {
                origin: {name: self._chosen(name, [task for task in choosing if source(task.kind) == origin])
                         for name in self._grid}
                for origin in ("shop", "classified")
            }  # fmt: skip
            wanted = [
                (task, name, list(dict.fromkeys((DEFAULTS[name], *chosen[source(task.kind)][name].values()))))
                for task in judged
                for name in self._grid
            ]
            self._watch(wanted, each, bars)
        kinds = list(dict.fromkeys(task.kind for task in judged))
        known = [task for task in judged if task.kind != ELEC2]
        tasks = {kind: [task for task in judged if task.kind == kind] for kind in kinds}
        return {
            "kinds": {kind: self._figures(tasks[kind], chosen[source(kind)]) for kind in kinds},
            "all": {
                name: self._figures([task for task in known if source(task.kind) == name], chosen[name])
                for name in dict.fromkeys(source(task.kind) for task in known)
            },
            "chosen": chosen,
            "named": {kind: self._named(tasks[kind]) for kind in kinds if kind in NAMED},
            "false_alarms_of_ours": self._by_detector(judged),
        }

    def _watch(self, wanted: Sequence[tuple[Task, str, Sequence[str]]], each: Each, bars: Progress) -> None:
        """Run detectors with thresholds on streams, where their alarms are not kept."""
        missing = [
            (task.path, name, threshold)
            for task, name, thresholds in wanted
            for threshold in thresholds
            if self._kept.get(task.path, name, threshold) is None
        ]
        bar = bars.add_task("detectors", total=len(missing))
        own = [one for one in missing if source_of(one[1]) == "river"]
        for path, name, threshold, alarms in each(watch, own):
            self._kept.put(path, name, threshold, alarms)
            bars.advance(bar)
        for script, interpreter in self._interpreters.items():
            by_need: dict[str, list[Path]] = {}
            needs: dict[Path, dict[str, list[str]]] = {}
            for path, name, threshold in missing:
                if source_of(name) == script:
                    needs.setdefault(path, {}).setdefault(name, []).append(threshold)
            for path, need in needs.items():
                by_need.setdefault(json.dumps(need), []).append(path)
            for text, paths in by_need.items():
                thresholds = {name: [float(value) for value in values] for name, values in json.loads(text).items()}
                for path, found in adapter_alarms(script, interpreter, thresholds, paths):
                    for name, of in found.items():
                        for threshold, alarms in of.items():
                            self._kept.put(path, name, threshold, alarms)
                            bars.advance(bar)

    def _of_ours(self, task: Task) -> Outcome:
        return outcome(self._streams[task], [one.events for one in self._ours[task]])

    def _outcome(self, task: Task, name: str, threshold: str) -> Outcome:
        alarms = self._kept.get(task.path, name, threshold)
        assert alarms is not None, f"{name} has not watched {task.path}"
        return outcome(self._streams[task], alarms)

    def _chosen(self, name: str, tasks: Sequence[Task]) -> dict[str, str]:
        """Return the threshold of each choice."""
        if not tasks:
            return dict.fromkeys(CHOICES, DEFAULTS[name])
        found = {value: [self._outcome(task, name, value) for task in tasks] for value in self._grid[name]}
        ours = [self._of_ours(task) for task in tasks]
        return {choice: choose(found, ours) for choice, choose in CHOICES.items()}

    def _figures(self, tasks: Sequence[Task], chosen: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
        """Return the figures of each detector over streams: ours, and each rival's with each of its thresholds."""
        found: dict[str, Any] = {OURS: summary([self._of_ours(task) for task in tasks])}
        for name in self._grid:
            for choice, threshold in {"default": DEFAULTS[name], **chosen[name]}.items():
                found[f"{name}, {choice}"] = summary([self._outcome(task, name, threshold) for task in tasks])
        return found

    def _named(self, tasks: Sequence[Task]) -> dict[str, float]:
        """Return the share of streams in which an alarm that detects the drift names what is planted."""
        return named([(self._streams[task], self._ours[task]) for task in tasks])

    def _by_detector(self, tasks: Sequence[Task]) -> dict[str, int]:
        """Return how many of our alarms were false, by detector; each counts."""
        found: dict[str, int] = {}
        for task in tasks:
            stream = self._streams[task]
            for begin, end in stable(stream):
                for one in self._ours[task]:
                    if begin < one.events <= end:
                        found[one.detector] = found.get(one.detector, 0) + 1
        return dict(sorted(found.items()))


def source(kind: str) -> str:
    """Return the source of a kind of streams, for which a threshold is chosen.

    >>> source("price"), source("sea")
    ('shop', 'classified')
    """
    return "shop" if kind in SHOP else "classified"


def named(found: Sequence[tuple[Stream, Sequence[Raised]]]) -> dict[str, float]:
    """Return the share of streams in which an alarm that detects the drift names an item or category of it.

    Also how many names such alarms give in the mean, since naming everything is no answer.
    """
    hits, counts = 0, []
    for stream, alarms in found:
        assert stream.begin is not None
        assert stream.complete is not None
        until = stream.complete + round(HORIZON * len(stream.times_ms))
        names = [set(one.names) for one in alarms if stream.begin < one.events <= until and one.names]
        hits += any(some & set(stream.planted) for some in names)
        counts += [len(some) for some in names]
    return {"named": hits / len(found), "names": float(np.mean(counts)) if counts else 0.0}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = report.parser("Drift detectors by delay, misses and false alarms.")
    parser.add_argument("--seeds", type=int, default=20, help="seeds of each kind that are judged")
    parser.add_argument("--choosing", type=int, default=5, help="other seeds, on which thresholds are chosen")
    parser.add_argument("--events", type=int, default=40_000, help="events of each stream")
    parser.add_argument("--days", type=float, default=28.0, help="event time of the simulated shop's streams")
    parser.add_argument("--kinds", default=",".join((*SHOP, *CLASSIFIED)), help="kinds of streams")
    parser.add_argument("--elec2", type=Path, help="file elec2.csv.gz, for the alarms on Elec2")
    parser.add_argument("--evidently", type=Path, help="Python of the environment of Evidently")
    parser.add_argument("--alibi", type=Path, help="Python of the environment of Alibi Detect")
    parser.add_argument("--work", type=Path, default=Path("build/drift_scorecard"), help="folder of what is kept")
    parser.add_argument("--jobs", type=int, default=1, help="processes that make streams and run River's detectors")
    return parser.parse_args(arguments)


def tasks_of(options: argparse.Namespace) -> list[Task]:
    """Return the streams that the options ask for."""
    kinds = options.kinds.split(",")
    for kind in kinds:
        if kind not in (*SHOP, *CLASSIFIED):
            raise Misconfigured(f"--kinds: wanted some of {', '.join((*SHOP, *CLASSIFIED))}, found {kind!r}")
    code = sources.digest("benchmarks.drift_streams", without=drift_calls.MODULES)
    about = f"{options.events}-{options.days:g}-{code[:12]}"
    seeds = [*range(options.seeds), *range(CHOOSING, CHOOSING + options.choosing)]

    def task(kind: str, seed: int) -> Task:
        path = options.work / f"{kind.replace(' ', '_')}-{seed}-{about}.npz"
        return Task(kind, seed, options.events, options.days, options.elec2, path)

    found = [task(kind, seed) for kind in kinds for seed in seeds]
    return [*found, task(ELEC2, 0)] if options.elec2 else found


def main(arguments: Sequence[str] | None) -> None:
    """Run from the command line."""
    options = _options(arguments)
    if not 1 <= options.seeds <= CHOOSING or options.choosing < 0 or options.jobs < 1 or options.events < 1_000:
        raise Misconfigured("wanted --seeds from 1 to 100, --choosing from 0, --events from 1,000, --jobs from 1")
    given = {"drift_evidently": options.evidently, "drift_alibi": options.alibi}
    interpreters = {script: path for script, path in given.items() if path is not None}
    for script, path in given.items():
        if path is None:
            print(f"without --{script.removeprefix('drift_')}, these are left out: {', '.join(ADAPTERS[script])}")
        elif not path.exists():
            raise Misconfigured(f"--{script.removeprefix('drift_')}: {path} does not exist")
    if not options.elec2:
        print("without --elec2, Elec2 is left out")
    elif not options.elec2.exists():
        raise Misconfigured(f"--elec2: {options.elec2} does not exist")
    result = Scorecard(tasks_of(options), options.work, interpreters, options.jobs).run()
    result["options"] = {name: getattr(options, name) for name in ("seeds", "choosing", "events", "days", "kinds")} | {
        "river": _river_version()
    }
    show(result)
    report.write(options.out, result)
    if options.out is not None:
        from benchmarks import picture

        picture.write(options.out.with_suffix(".svg"), picture.drift, result)


def _cells(one: Mapping[str, Any]) -> list[str]:
    def cell(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return [
        cell(one["missed"], ".0%"), cell(one["delay_events"], ",.0f"), cell(one["delay_hours"], ".1f"),
        cell(one["false_per_day"], ".3f"),
    ]  # fmt: skip


def show(result: Mapping[str, Any]) -> None:
    """Print a table for each source and each kind, and how often alarms name what moved."""
    columns = ["detector", "missed", "delay (events)", "delay (h)", "false alarms a day"]
    tables = {f"all of the {name}'s" if name == "shop" else f"all {name}": of for name, of in result["all"].items()}
    for title, found in {**tables, **result["kinds"]}.items():
        report.show(title, columns, [[name, *_cells(one)] for name, one in found.items()])
    rows = [
        [name, *(of[name][choice] for of in result["chosen"].values() for choice in CHOICES)]
        for name in result["chosen"]["shop"]
    ]
    columns = ["detector", *(f"{origin}, {choice}" for origin in result["chosen"] for choice in CHOICES)]
    report.show("Chosen thresholds", columns, rows)
    if result["named"]:
        rows = [[kind, f"{one['named']:.0%}", f"{one['names']:.1f}"] for kind, one in result["named"].items()]
        report.show("Ours names what moved", ["drift", "named", "names an alarm"], rows)
    rows = [[name, f"{count}"] for name, count in result["false_alarms_of_ours"].items()]
    report.show("Our false alarms, each counted", ["detector", "false alarms"], rows)


if __name__ == "__main__":
    report.run(main)
