"""The metrics of each kind of process: one class per kind, each with a registry of its own.

Names and units follow Prometheus' conventions (promtool checks them in a test): base units, counters in `_total`. The
values of each label are bounded; `LABELS` states by what, and a family's declaration does so for its own labels.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Self, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

import headrace
from headrace import watchdog
from headrace.clock import Clock, wall_ms
from headrace.durations import Durations
from headrace.errors import Misconfigured
from headrace.events import Reason
from headrace.log.protocol import Partition
from headrace.shard.intake import FULL_BY_DESIGN
from headrace.shard.turn import Turn
from headrace.surface import Metric, Surface
from headrace.text import visible

hung_s: Final = 30.0
"""Time after which a server of metrics that does not stop hangs; it answers a scrape in a fraction of a second."""
LABELS: Final = {
    "code": "HTTP status codes that the server answers with",
    "detector": "the drift detectors in the code",
    "full": "two: `expected` for tables that any shop fills in time, `unexpected` for the others",
    "how": "`headrace.metrics.RENEWED`",
    "learner": "the learners in the code",
    "metric": "the prequential metrics in the code",
    "partition": "partitions of the topics table",
    "reason": "`headrace.events.Reason`, `headrace.metrics.Unlogged`, and the codes in the gateway's adapters",
    "repair": "the kinds of repair in the code",
    "result": "`headrace.metrics.Result`; of the gateway, what `headrace_gateway_entries_total` names",
    "route": "the server's routes as declared, never the requested path",
    "table": "bounded tables in the code",
    "topic": "the topics table",
    "version": "one: the version of Headrace or torch that runs",
    "window": "two: the whole `stream` and its `recent` part",
}
"""Each label, and what bounds its values."""

Result = Literal["learned", "duplicate", "unused", "rejected"]
Unlogged = Literal["queue_full", "log_away", "refused", "stopped"]
"""Why an impression was dropped: too many waited, the log was away, it refused the record for ever, or the server ended
before it was written."""
RENEWED: Final = ("migrated", "set", "folded", "begun")
"""How a part of a state was renewed: the first word of what `headrace.shard.follower.Fold.renewed` says."""

label_characters_max: Final = 128
"""Most characters of the value of a label that a family gives."""
series_max: Final = 1_000
"""Most series of a metric that a family declares, whatever the values of its labels are."""

QUICK_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
"""Buckets for the duration of one batch, commit or request."""
DELAY_S: Final = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 1_800, 3_600)
"""Buckets for the time from a record's append until it is learned: tens of ms live, hours behind a backlog."""
AGE_S: Final = (0.1, 1, 10, 60, 600, 3_600, 86_400, 604_800, 2_592_000, 31_536_000, 315_360_000)
"""Buckets for the time from an event to its append: seconds live, years when old data is loaded."""


class MetricDescription(NamedTuple):
    """A metric as Prometheus sees it: its name (a histogram's without suffix), type, labels and help text."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


class ProcessMetrics:
    """Metrics of every process: its version, memory and CPU, and the use of its bounded tables.

    Abstract; each kind of process has a final class below. Safe to use from any thread.

    Args:
        full_by_design: the bounded tables that any shop fills in time.
    """

    def __init__(self, full_by_design: Iterable[str] = ()) -> None:
        # The client's switch is global. These series are not used and would double the size of a scrape.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the client leaves it untyped
        self.registry = CollectorRegistry()
        self.descriptions: list[MetricDescription] = []
        ProcessCollector(registry=self.registry)
        version = self._gauge("headrace_build_info", "The version of Headrace that runs.", "version")
        version.labels(headrace.__version__).set(1)
        self._full_by_design = frozenset(full_by_design)
        self._used = self._gauge("headrace_bound_used", "Entries in use of a bounded table.", "table", "full")
        self._max = self._gauge("headrace_bound_max", "Most entries that a bounded table may hold.", "table", "full")

    def set_bounds(self, bounds: Mapping[str, tuple[int, int]]) -> None:
        """Set how much of each bounded table is in use, and its maximum."""
        for table, (used, most) in bounds.items():
            full = "expected" if table in self._full_by_design else "unexpected"
            self._used.labels(table, full).set(used)
            self._max.labels(table, full).set(most)

    def add_declared(self, metric: Metric, labels: Mapping[str, str]) -> Counter | Gauge | Histogram:
        """Create a metric that a family declares; `labels` states what bounds the values of each label."""
        assert labels.keys() >= set(metric.labels), f"{metric.name} has a label without a stated bound"
        self.descriptions.append(MetricDescription(metric.name, metric.kind, metric.labels, metric.help))
        made = self._make(metric)
        for value in metric.label_values:  # Prometheus sees the first increase of a series only if it existed before
            made.labels(value)
        return made

    def _make(self, metric: Metric) -> Counter | Gauge | Histogram:
        name, text, registry = metric.name, metric.help, self.registry
        try:
            if metric.kind == "histogram":
                return Histogram(name, text, metric.labels, buckets=metric.buckets, registry=registry)
            return (Counter if metric.kind == "counter" else Gauge)(name, text, metric.labels, registry=registry)
        except ValueError as error:  # the client's, for a name that is taken or cannot be one
            raise Misconfigured(f"metric {name}: wanted a name of its own, found {error}") from error

    def _counter(self, name: str, text: str, *labels: str, values: Iterable[str] = ()) -> Counter:
        counter = Counter(*self._describe(name, "counter", text, labels), registry=self.registry)
        for value in values:  # Prometheus sees the first increase of a series only if it existed before
            counter.labels(value)
        return counter

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(*self._describe(name, "gauge", text, labels), registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(*self._describe(name, "histogram", text, labels), buckets=buckets, registry=self.registry)

    def _durations(self, name: str, text: str, bounds_s: Sequence[float]) -> Durations:
        self._describe(name, "histogram", text, ())
        made = Durations(name, text, bounds_s)
        self.registry.register(made)
        return made

    def _describe(self, name: str, kind: str, text: str, labels: tuple[str, ...]) -> tuple[str, str, tuple[str, ...]]:
        assert LABELS.keys() >= set(labels), f"{name} has a label that LABELS does not bound"
        self.descriptions.append(MetricDescription(name, kind, labels, text))
        return name, text, labels


class ReaderMetrics(ProcessMetrics):
    """Metrics of every process that reads events: how far it is behind and which model it uses. Abstract.

    Args:
        surfaces: what the families that it folds declare.
    """

    def __init__(self, surfaces: Sequence[Surface] = ()) -> None:
        super().__init__([*FULL_BY_DESIGN, *(table for surface in surfaces for table in surface.full_by_design)])
        self._lag = self._gauge(
            "headrace_lag_records", "Records that wait to be read, among them markers of Kafka.", "topic", "partition"
        )
        self.champion_round = self._gauge(
            "headrace_champion_round",
            "Number of the round whose model is in use; 0 while none is, -1 for a model that no round has made.",
        )
        self.freshness = self._durations(
            "headrace_freshness_seconds",
            "From the append of a record of events until this process had learned or dropped it, per record; 0 where"
            " this process's clock is behind the log's. Not of records whose append time the log does not tell, nor of"
            " those that serving folded before it was ready.",
            DELAY_S,
        )
        self._renewed = self._gauge(
            "headrace_renewed_parts",
            "Parts of the state that this process did not restore as they were stored, by how: migrated from an older"
            " version, set to other bounds, folded anew from the journal, or begun empty.",
            "how",
        )
        self.set_renewed({})
        self.strays = self._gauge(
            "headrace_stray_records",
            "Records that other programs wrote to a shard's journal or judgements, and that this process passed over.",
        )

    def set_renewed(self, renewed: Mapping[str, str]) -> None:
        """Set how many parts of the restored state were renewed."""
        words = [how.partition(" ")[0] for how in renewed.values()]
        for word in RENEWED:
            self._renewed.labels(word).set(words.count(word))

    def set_lag(self, lag: Mapping[Partition, int]) -> None:
        """Set how many records of each partition wait to be read."""
        for (topic, number), records in lag.items():
            self._lag.labels(topic, number).set(records)


class ShardMetrics(ReaderMetrics):
    """Metrics of a shard's process: its turns, judging, drift, and the metrics that its families declare."""

    def __init__(self, surfaces: Sequence[Surface] = (), *, clock: Clock = wall_ms) -> None:
        super().__init__(surfaces)
        self._clock, self._behind = clock, 0
        self.family_metrics = DeclaredMetrics(self, surfaces, clock=clock)
        detectors = [detector for surface in surfaces for detector in surface.detectors]
        if detectors:
            self._drift = self._gauge("headrace_drift_score", "Distance or loss that a detector watches.", "detector")
            self._threshold = self._gauge(
                "headrace_drift_threshold", "Score above which a detector alarms; 0 until it has one.", "detector"
            )
            self._alarms = self._counter("headrace_drift_alarms_total", "Drift alarms.", "detector", values=detectors)
        self._events = self._counter(
            "headrace_events_total",
            "Records of events read, by what became of them: learned, duplicate (it repeats an id), unused (no input of"
            " learners), or rejected.",
            "result",
            values=get_args(Result),
        )
        self._event_age = self._durations(
            "headrace_event_age_seconds",
            "From what happened (event time) to its record's append, per learned event; 0 where the sender's clock is"
            " ahead of the log's. Not of records whose append time the log does not tell.",
            AGE_S,
        )
        reasons = [reason for reason in get_args(Reason) if reason != "unused"]
        self._rejected = self._counter(
            "headrace_events_rejected_total",
            "Records, of events and of side topics, that could not be used, by reason; one of the shards writes a dead"
            " letter of each.",
            "reason",
            values=reasons,
        )
        self._lines_dropped = self._counter(
            "headrace_lines_dropped_total", "Lines of admitted events that could not be used."
        )
        self.judgements = self._counter("headrace_judgements_total", "Predictions judged before they were learned.")
        self.judged_ratio = self._gauge(
            "headrace_judged_ratio", "Probability with which an event is judged now; 0 in a shard that samples none."
        )
        self._learn = self._histogram(
            "headrace_learn_duration_seconds", "Decoding and learning one commit's records.", QUICK_S
        )
        self._judge = self._histogram("headrace_judge_duration_seconds", "Judging one commit's events.", QUICK_S)
        self._commit = self._histogram(
            "headrace_commit_duration_seconds",
            "Committing once, with the wait for the commit before, and copying the state if a snapshot is due.",
            QUICK_S,
        )
        self._snapshot_bytes = self._gauge("headrace_snapshot_size_bytes", "Size of the newest snapshot.")
        self._snapshot_time = self._gauge(
            "headrace_snapshot_timestamp_seconds", "When this process last named a snapshot."
        )
        self._snapshot_behind = self._gauge(
            "headrace_snapshot_behind_entries", "Journal entries after the newest snapshot: what a restart folds."
        )
        self._snapshot_failures = self._gauge(
            "headrace_snapshot_failures", "Newest snapshots that could not be stored; 0 once one is."
        )
        self._settings_wrong = self._gauge(
            "headrace_topic_settings_wrong",
            "Settings of a Kafka topic that are not as needed; `events` of a log in a file: 1 if a clock was doubted.",
            "topic",
        )
        self.trimmed = self._counter(
            "headrace_trimmed_records_total", "Old records that this process deleted from a log in a file."
        )
        self._unstable = self._gauge(
            "headrace_unstable_records",
            "Records behind a transaction that is open for 10 s or more, markers included; the lag lacks them.",
            "topic",
            "partition",
        )

    def set_settings_wrong(self, counts: Mapping[str, int]) -> None:
        """Set how many settings of each topic are not as needed."""
        for topic, count in counts.items():
            self._settings_wrong.labels(topic).set(count)

    def set_unstable(self, hidden: Mapping[Partition, int]) -> None:
        """Set how many offsets of each partition an open transaction hides."""
        for (topic, number), offsets in hidden.items():
            self._unstable.labels(topic, number).set(offsets)

    def set_drift(self, detector: str, score: float, threshold: float | None = None) -> None:
        """Set a detector's current score, and the threshold above which it alarms."""
        self._drift.labels(detector).set(score)
        if threshold is not None:
            self._threshold.labels(detector).set(threshold)

    def count_alarms(self, detector: str, count: int) -> None:
        """Count drift alarms."""
        self._alarms.labels(detector).inc(count)

    def observe_turn(self, turn: Turn) -> None:
        """Export what one commit of the loop did."""
        self._events.labels("learned").inc(turn.learned)
        self._events.labels("duplicate").inc(turn.duplicates)
        self._events.labels("unused").inc(turn.unused)
        self._events.labels("rejected").inc(turn.rejected_events)
        self._lines_dropped.inc(turn.lines_dropped)
        for reason, count in turn.rejected.items():
            self._rejected.labels(reason).inc(count)
        self.freshness.observe(turn.freshness_ms)
        self._event_age.observe(turn.event_ages_ms)
        self._learn.observe(turn.learn_s)
        self._judge.observe(turn.judge_s)
        self._commit.observe(turn.commit_s)
        self.set_lag(turn.lag)
        self.set_bounds(turn.bounds)
        if turn.snapshot_behind_entries < self._behind and turn.snapshot_bytes:  # a newer snapshot was named
            self._snapshot_bytes.set(turn.snapshot_bytes)
            self._snapshot_time.set(self._clock() / 1000)
        self._behind = turn.snapshot_behind_entries
        self._snapshot_behind.set(turn.snapshot_behind_entries)
        self._snapshot_failures.set(turn.snapshot_failures)


class DeclaredMetrics:
    """The metrics that families declare, in a process' registry: read from the family, or reported by its judge.

    Args:
        owner: the metrics whose registry they join.
        surfaces: what the families declare; several families may declare the same metric.
    """

    def __init__(self, owner: ProcessMetrics, surfaces: Sequence[Surface], *, clock: Clock = wall_ms) -> None:
        self._clock = clock
        self._made: dict[str, Counter | Gauge | Histogram] = {}
        self._totals: dict[tuple[str, tuple[str, ...]], float] = {}  # the value of each counter when it was last read
        self._read_at: dict[str, float] = {}
        self._series: dict[str, set[tuple[str, ...]]] = {}
        self._told: dict[tuple[str, str], set[tuple[str, ...]]] = {}  # by metric and family, what was read last
        self._metrics: dict[str, Metric] = {}
        labels = {**LABELS, **{label: bound for surface in surfaces for label, bound in surface.labels.items()}}
        for surface in surfaces:
            for metric in surface.metrics:
                if metric.name not in self._metrics:
                    self._metrics[metric.name] = metric
                    self._made[metric.name] = owner.add_declared(metric, labels)

    def baseline(self, surface: Surface, family: Any) -> None:
        """Record the current values of a family's counters; their increase from here on is exported."""
        for metric in surface.metrics:
            if metric.kind == "counter" and metric.read:
                self._totals |= {(metric.name, labels): total for labels, total in metric.read(family)}

    def read(self, surface: Surface, family: Any) -> None:
        """Read a family's metrics that are due."""
        for metric in surface.metrics:
            if metric.read and self._due(metric):
                self._export(metric, metric.read(family), type(family).__name__)

    def _due(self, metric: Metric) -> bool:
        if not metric.read_interval_s:
            return True
        now = self._clock() / 1000
        if now - self._read_at.get(metric.name, 0.0) < metric.read_interval_s:
            return False
        self._read_at[metric.name] = now
        return True

    def _export(self, metric: Metric, series: Iterable[tuple[tuple[str, ...], float]], teller: str) -> None:
        told, told_before = set(), self._told.get((metric.name, teller), set())
        for labels, value in series:
            told.add(labels)
            if metric.kind == "counter":
                before = self._totals.get((metric.name, labels), 0.0)
                self._totals[metric.name, labels] = value
                step = value - before if value >= before else value  # one that is lower has begun anew
                if step or labels not in told_before:  # a new series exists before it counts
                    self.report(metric.name, step, *labels)
            else:
                self.report(metric.name, value, *labels)
        for labels in told_before - told:
            self._forget(metric, labels)
        self._told[metric.name, teller] = told

    def _forget(self, metric: Metric, labels: tuple[str, ...]) -> None:
        """Remove a series that its family no longer has, so that another one can take its place."""
        self._totals.pop((metric.name, labels), None)
        values = _shown(labels)
        series = self._series.get(metric.name, set())
        if values in series and labels not in [(value,) for value in metric.label_values]:
            series.remove(values)
            self._made[metric.name].remove(*values)

    def report(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge, add to a counter, or observe a histogram's value.

        Labels are escaped and shortened. A metric has at most `series_max` series; the value of another one is dropped.
        """
        made = self._made[name]
        values = _shown(labels)
        series = self._series.setdefault(name, set())
        if len(series) >= series_max and values not in series:
            return
        series.add(values)
        one = made.labels(*values) if values else made
        if isinstance(one, Counter):
            one.inc(value)
            for metric in self._metrics.values() if value else ():
                if metric.last_increase_of == name:
                    self.report(metric.name, self._clock() / 1000)
        elif isinstance(one, Gauge):
            one.set(value)
        else:
            one.observe(value)


def _shown(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the values of labels as they are exported."""
    return tuple(visible(label, label_characters_max) for label in labels)


class ServingMetrics(ReaderMetrics):
    """Metrics of the server."""

    def __init__(self, surfaces: Sequence[Surface] = ()) -> None:
        super().__init__(surfaces)
        self._requests = self._counter("headrace_http_requests_total", "Requests answered.", "route", "code")
        self._duration = self._histogram(
            "headrace_http_request_duration_seconds", "Answering a request.", QUICK_S, "route"
        )
        self._series: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self.comparisons = self._counter(
            "headrace_follower_compared_total",
            "Comparisons of this server's state with a snapshot of its shard, at most one in ten minutes for each.",
        )
        self.differences = self._counter(
            "headrace_follower_differs_total",
            "Times that the state of this server differed from a snapshot of its shard, from which it restored it.",
        )
        self.waiting_s = self._gauge(
            "headrace_oldest_waiting_event_seconds",
            "Age of the oldest event that is not in the answers yet, by its append time; 0 if there is none.",
        )
        self.artifact_missing = self._gauge(
            "headrace_artifact_missing",
            "1 while the promoted artifact cannot be loaded, so that answers come without it; 0 otherwise.",
        )
        self.connections = self._gauge("headrace_http_connections", "Open connections.")
        self._turned_away = self._counter(
            "headrace_http_turned_away_total", "Connections that were ended, as too many were open, or for slowness."
        )
        self.impressions = self._counter(
            "headrace_impressions_total", "Impressions that this server has written to the log."
        )
        self._unlogged = self._counter(
            "headrace_impressions_dropped_total",
            "Impressions that this server has not written, by reason: too many waited, the log was away, it refused the"
            " record, or the server ended.",
            "reason",
            values=get_args(Unlogged),
        )

    def count_turned_away(self) -> None:
        """Count a connection that was ended."""
        self._turned_away.inc()

    def count_unlogged(self, reason: Unlogged, count: int = 1) -> None:
        """Count impressions that were dropped."""
        self._unlogged.labels(reason).inc(count)

    def count_request(self, route: str, code: int, duration_s: float) -> None:
        """Count an answer. `route` is as declared (`/v1/recommendations/{shopper}`), never the requested path."""
        series = self._series.get((route, code))
        if series is None:  # looking both up takes longer than all else that is done here
            series = self._requests.labels(route, code), self._duration.labels(route)
            self._series[route, code] = series
        requests, duration = series
        requests.inc()
        duration.observe(duration_s)


class GatewayMetrics(ProcessMetrics):
    """Metrics of the gateway."""

    def __init__(self) -> None:
        super().__init__(("gateway_event_ids", "gateway_linked"))
        self._requests = self._counter("headrace_gateway_requests_total", "Requests answered.", "route", "code")
        self._duration = self._histogram(
            "headrace_gateway_request_duration_seconds",
            "From a request's head to its answer, which waits until the log has its events.", QUICK_S, "route",
        )  # fmt: skip
        self._entries = self._counter(
            "headrace_gateway_entries_total",
            "Entries of bodies, by what became of them: accepted (its records are safe), repeated (it repeats an id),"
            " unused (nothing of it is kept), or refused.",
            "route", "result",
        )  # fmt: skip
        self._refusals = self._counter("headrace_gateway_refusals_total", "Refused entries, by reason.", "reason")
        self.spooled = self._counter(
            "headrace_gateway_spooled_records_total", "Records acknowledged while the log did not answer."
        )
        self._lost = self._gauge(
            "headrace_gateway_lost_records", "Spooled records that the log refused as too large since the start."
        )
        self._away = self._gauge("headrace_gateway_log_away", "1 while the log cannot be written, 0 while it can.")
        self.connections = self._gauge("headrace_gateway_connections", "Open connections.")
        self.turned_away = self._counter(
            "headrace_gateway_turned_away_total", "Connections closed at once, as too many were open, or for slowness."
        )

    def count_request(self, route: str, code: int, duration_s: float) -> None:
        """Count an answer. `route` is as declared, never the requested path."""
        self._requests.labels(route, code).inc()
        self._duration.labels(route).observe(duration_s)

    def count_entries(self, route: str, counts: Mapping[str, int], reasons: Iterable[str]) -> None:
        """Count the entries of a body by their results, and the reasons of the refused ones."""
        for result, count in counts.items():
            if count:
                self._entries.labels(route, result).inc(count)
        for reason in reasons:
            self._refusals.labels(reason).inc()

    def set_depot(self, bounds: Mapping[str, tuple[int, int]], away: bool, lost: int) -> None:
        """Set what waits, whether the log is away, and how many records were lost."""
        self.set_bounds(bounds)
        self._away.set(away)
        self._lost.set(lost)


class ProducerMetrics(ProcessMetrics):
    """Metrics of a producer."""

    def __init__(self) -> None:
        super().__init__()
        self.published = self._counter(
            "headrace_published_events_total", "Events that this producer has written, its open commit included."
        )
        self.skipped = self._counter("headrace_skipped_events_total", "Events that the log had already.")
        self.share = self._gauge(
            "headrace_published_ratio",
            "Share of the source, or of the limit on it, that this producer has reached; 0 where unknown.",
        )


class ArchiveMetrics(ProcessMetrics):
    """Metrics of the archiver."""

    def __init__(self) -> None:
        super().__init__()
        self._records = self._counter("headrace_archived_records_total", "Records that this process has archived.")
        self._files = self._counter("headrace_archived_files_total", "Files that this process has archived.")
        self._behind = self._gauge("headrace_archive_lag_records", "Records of the log that are not archived yet.")
        self._seen = 0, 0

    def observe(self, records: int, files: int, behind: int) -> None:
        """Export how many records and files were archived since the process began, and how many wait."""
        self._records.inc(max(0, records - self._seen[0]))
        self._files.inc(max(0, files - self._seen[1]))
        self._behind.set(behind)
        self._seen = records, files


class MetricsServer:
    """Serves one process' metrics over HTTP from a thread of its own. A context manager.

    Args:
        port: 0 lets the system choose; the attribute `port` is the chosen one.

    Raises:
        Misconfigured: it cannot listen on that address.
    """

    def __init__(self, metrics: ProcessMetrics, *, host: str = "127.0.0.1", port: int = 0) -> None:
        try:
            self._server, self._thread = start_http_server(port, host, metrics.registry)
        except (OSError, UnicodeError) as error:
            raise Misconfigured(f"metrics on {host}:{port}: wanted an address to listen on, found {error}") from error
        self.host, self.port = host, int(self._server.server_address[1])

    def close(self) -> None:
        """Stop answering. Safe to call twice."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            with watchdog.wait("the server of metrics to stop", hung_s):
                self._server.shutdown()
                self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
