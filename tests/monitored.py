"""A shop as Prometheus sees it, minute by minute: what happens moves the metrics that its processes really export.

A fluid model: each minute events arrive, wait in order, and are learned at most as fast as a shard can. The numbers go
into the metrics' own classes and are scraped from their registries, so a series that no process exports cannot occur.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.samples import Sample

from headrace.log.protocol import Partition
from headrace.metrics import GatewayMetrics, ServingMetrics, ShardMetrics
from headrace.shard.intake import FULL_BY_DESIGN
from headrace.shard.turn import Turn
from headrace.topics import EVENTS
from learners.families import FAMILIES, default_placements
from tests.fluid import MINUTE_S, NEVER, Events, Learned, Minutes, Queue, Rate

DAY: Final = 1_440
SHARDS: Final = ("online", "finetune")
READERS: Final = (*SHARDS, "serve")
PROCESSES: Final = (*READERS, "gateway")
DETECTOR: Final = next(name for kind in FAMILIES for name in kind.surface.detectors)


class Fires(NamedTuple):
    """An alert that fires in a scenario: at the minute `by`, and, if `over` is given, not any more at that one."""

    alert: str
    by: int
    over: int = 0
    severity: str = "warn"
    job: str = ""
    table: str = ""


@dataclass(kw_only=True)
class Scenario:
    """What happens in some minutes of a shop, and the alerts that fire; no other may, at any minute.

    Rates are per minute: `live` events, loaded `history` of half a month ago, `bad` records, `requests` and `errors`
    of the server. `ages_s` are the usual times from an event to its append, each of an equal share. `capacity` is how
    much a shard can learn. `down`, `missed` (a scrape) and `hangs` are minutes by process. `drift` has minutes of
    alarms. The gateway takes the `live` events and refuses `refused` entries; in the minutes `away` it cannot write
    to the log, in those of `full` its disk is full, too. `training_minutes` is how long a round trains, `verdict` its
    outcome at the end of the gate ("failed": before it). `stuck_round` are minutes in which no round begins,
    `no_snapshots` those in which none is taken, `failed_snapshots` those in which none can be stored. `no_model` are
    minutes in which the server cannot load the model. `tables` has the use of bounded tables as a share. `begun` are
    parts that begin empty at a restart.
    """

    name: str
    minutes: int
    fires: Sequence[Fires] = ()
    live: Rate
    history: Rate = NEVER
    bad: Rate = NEVER
    requests: Rate = NEVER
    errors: Rate = NEVER
    ages_s: Sequence[float] = (1.0, 2.0, 5.0)
    capacity: float = 600_000
    down: Mapping[str, Minutes] = field(default_factory=dict)
    missed: Mapping[str, Minutes] = field(default_factory=dict)
    hangs: Mapping[str, Minutes] = field(default_factory=dict)
    drift: Minutes = ()
    training_minutes: int = 15
    verdict: str = "refused"
    stuck_round: Minutes = ()
    no_snapshots: Minutes = ()
    failed_snapshots: Minutes = ()
    no_model: Minutes = ()
    refused: Rate = NEVER
    away: Minutes = ()
    full: Minutes = ()
    tables: Mapping[str, float] = field(default_factory=dict)
    begun: int = 0
    champion: int = 3


class _Rounds:
    """Rounds at the default settings: due after 20,000 records, in the gate for 10,000."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._since = 0  # the last round began
        self._training_since = self._gate = 0

    def learn(self, records: int, minute: int, metrics: ShardMetrics) -> None:
        """Pass a minute with this many records."""
        report, scenario = metrics.family_metrics.report, self._scenario
        self._since += records
        overdue = max(0, self._since - 20_000)
        if self._training_since:
            overdue = 0
            if minute - self._training_since >= scenario.training_minutes:
                self._training_since, self._gate = 0, 10_000
                if scenario.verdict == "failed":
                    self._gate = 0
                    report("headrace_rounds_total", 1, "failed")
        elif self._gate:
            self._gate, overdue = max(0, self._gate - records), 0
            if not self._gate:
                report("headrace_rounds_total", 1, scenario.verdict)
        elif overdue and minute not in scenario.stuck_round:
            self._since, self._training_since, overdue = 0, minute, 0
        self.export(metrics, overdue)

    def export(self, metrics: ShardMetrics, overdue: int = 0) -> None:
        report = metrics.family_metrics.report
        report("headrace_round_overdue_records", overdue)
        report("headrace_round_training_timestamp_seconds", self._training_since * MINUTE_S)
        report("headrace_round_training_max_seconds", 3_900)


class _Shard:
    """A default shard and the metrics of its process."""

    def __init__(self, name: str, scenario: Scenario) -> None:
        self.name, self._scenario = name, scenario
        self.queue, self.learned = Queue(), Learned(Counter(), [])
        self._rounds = _Rounds(scenario) if name == "finetune" else None
        self._kinds = default_placements()[name].kinds
        self._behind = 0
        self.start(0)

    def start(self, minute: int) -> None:
        """Start the process, again or for the first time."""
        self.metrics = ShardMetrics([kind.surface for kind in self._kinds], clock=lambda: minute * MINUTE_S * 1_000)
        self.metrics.champion_round.set(self._scenario.champion)
        if minute:
            self.metrics.set_renewed(_renewed(self._scenario.begun))
        full = dict.fromkeys(
            (*FULL_BY_DESIGN, *(one for kind in self._kinds for one in kind.surface.full_by_design)), 1.0
        )
        uses = {**full, **self._scenario.tables}
        self.metrics.set_bounds({table: (floor(share * 1_000), 1_000) for table, share in uses.items()})
        self.metrics.set_settings_wrong({EVENTS: 0})
        self.metrics.set_unstable({Partition(EVENTS, 0): 0})
        if self._rounds:
            self._rounds.export(self.metrics)

    def learn(self, minute: int) -> None:
        """Learn for a minute; without events there is no turn, and the metrics stay."""
        scenario = self._scenario
        self.learned = self.queue.take(floor(scenario.capacity), minute)
        counts = self.learned.counts
        if not (records := sum(counts.values())):
            return
        entries = min(records, 200)
        self._behind = self._behind + entries if minute in scenario.no_snapshots else min(entries, 130)
        old = floor(len(self.learned.delays_s) * counts["history"] / records)
        ages = [15 * 86_400.0] * old + [
            scenario.ages_s[number % len(scenario.ages_s)] for number in range(len(self.learned.delays_s) - old)
        ]
        self.metrics.observe_turn(
            Turn(
                records=records, learned=records - counts["bad"], duplicates=0, unused=0, lines_dropped=0,
                rejected={"schema": counts["bad"]}, rejected_events=counts["bad"], judgements=0,
                freshness_ms=_in_ms(self.learned.delays_s), event_ages_ms=_in_ms(ages),
                learn_s=0.1, judge_s=0.0, commit_s=0.02, lag={Partition("events", 0): len(self.queue)}, bounds={},
                snapshot_bytes=1_000, snapshot_behind_entries=self._behind,
                snapshot_failures=int(minute in scenario.failed_snapshots),
            )
        )  # fmt: skip
        if self._rounds:
            self._rounds.learn(records, minute, self.metrics)
        if self.name == "online" and minute in scenario.drift:
            self.metrics.count_alarms(DETECTOR, 1)


def _in_ms(durations_s: Sequence[float]) -> list[int]:
    return [round(1_000 * one) for one in durations_s]


def _renewed(begun: int) -> dict[str, str]:
    return {"a": "migrated 1", "b": "folded", "c": "set"} | {str(number): "begun" for number in range(begun)}


class _Server:
    """The server: it follows the shard `online`."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario, self._errors = scenario, 0.0
        self.start(0)

    def start(self, minute: int) -> None:
        self.metrics = ServingMetrics([kind.surface for kind in FAMILIES])
        self.metrics.champion_round.set(self._scenario.champion)
        self.metrics.set_renewed(_renewed(self._scenario.begun if minute else 0))
        self._ready_at = minute + 1 if minute else 0

    def follow(self, minute: int, online: _Shard) -> None:
        """Follow for a minute what `online` committed, and answer requests and probes."""
        self.metrics.set_lag({Partition("events", 0): len(online.queue)})
        self.metrics.freshness.observe(_in_ms(online.learned.delays_s))
        self.metrics.artifact_missing.set(minute in self._scenario.no_model)
        ready = minute >= self._ready_at
        self.metrics.count_request("/health/ready", 200 if ready else 503, 0.001)
        requests, errors = floor(self._scenario.requests(minute)), floor(self._scenario.errors(minute))
        for code, count in ((200, requests - errors), (503, errors)):
            for _ in range(count):
                self.metrics.count_request("/v1/recommendations/{shopper}", code, 0.003)


class _Gateway:
    """A gateway, through which the live events come."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._events = Events({"accepted": scenario.live, "refused": scenario.refused})
        self.start(0)

    def start(self, minute: int) -> None:
        self.metrics = GatewayMetrics()

    def take(self, minute: int) -> None:
        """Take for a minute what is sent, and answer requests and probes."""
        counts, full = self._events.arrive(minute).counts, minute in self._scenario.full
        self.metrics.count_entries("/v1/events", {} if full else counts, [])
        for _ in range(min(10, sum(counts.values()))):
            self.metrics.count_request("/v1/events", 503 if full else 200, 0.003)
        self.metrics.count_request("/health/ready", 503 if full else 200, 0.001)
        self.metrics.set_depot({}, minute in self._scenario.away, 0)


Series = dict[tuple[str, tuple[tuple[str, str], ...]], list[str]]
"""Values in the notation of promtool, by name and labels."""


def watched(scenario: Scenario, names: Collection[str]) -> Series:
    """Return the series of these names that Prometheus scrapes, once a minute."""
    events = Events({"live": scenario.live, "history": scenario.history, "bad": scenario.bad})
    serve, gateway = _Server(scenario), _Gateway(scenario)
    shards = {name: _Shard(name, scenario) for name in SHARDS}
    processes: dict[str, _Shard | _Server | _Gateway] = {**shards, "serve": serve, "gateway": gateway}
    started = dict.fromkeys(processes, 0)
    found: Series = {}
    for minute in range(scenario.minutes):
        arrived = events.arrive(minute)
        for shard in shards.values():
            shard.queue.put(arrived)
            shard.learned = Learned(Counter(), [])
        for name, process in processes.items():
            if minute in scenario.down.get(name, ()):
                started[name] = minute + 1
                continue
            if started[name] == minute and minute:
                process.start(minute)
            if minute in scenario.hangs.get(name, ()):
                continue
            if isinstance(process, _Shard):
                process.learn(minute)
            elif isinstance(process, _Gateway):
                process.take(minute)
            else:
                process.follow(minute, shards["online"])
        _note(found, minute, Sample("up", {"job": "producer"}, 0))  # it has ended
        for name, process in processes.items():
            up = minute not in scenario.down.get(name, ()) and minute not in scenario.missed.get(name, ())
            _note(found, minute, Sample("up", {"job": name}, up))
            for sample in _scraped(process.metrics.registry, names, started[name]) if up else ():
                _note(found, minute, sample._replace(labels={"job": name, **sample.labels}))
    for values in found.values():
        values += [] if len(values) == scenario.minutes else ["stale"]
    return found


def _scraped(registry: CollectorRegistry, names: Collection[str], started: int) -> list[Sample]:
    wanted = registry.restricted_registry([name for name in names if name.startswith("headrace_")])
    own = [sample for metric in wanted.collect() for sample in metric.samples if sample.name in names]
    return [*own, Sample("process_start_time_seconds", {}, started * MINUTE_S)]


def _note(found: Series, minute: int, sample: Sample) -> None:
    """Add a sample; of a series that was not in the last scrape, Prometheus had noted its end."""
    values = found.setdefault((sample.name, tuple(sorted(sample.labels.items()))), [])
    if values and len(values) < minute:
        values.append("stale")
    values += ["_"] * (minute - len(values))
    values.append(f"{sample.value:.15g}")
