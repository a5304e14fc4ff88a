"""What each kind of process tells Prometheus: one class of metrics per kind, each with a registry of its own.

Names and units follow Prometheus' conventions (checked by the real promtool): base units, counters in `_total`. The
values of each label are bounded; `LABELS` says by what. `docs/metrics.md` is written from here.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple, Self, get_args

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
from headrace.clock import Clock, wall_ms
from headrace.errors import Misconfigured
from headrace.events import Reason
from headrace.log import Partition
from headrace.loop import Turn

LABELS: Final = {
    "code": "HTTP status codes that the server answers with",
    "detector": "the drift detectors in the code",
    "device": "the device that torch uses",
    "k": "lengths of lists that are scored: 10 and 20",
    "learner": "the learners in the code",
    "metric": "the prequential metrics in the code",
    "outcome": "`headrace.metrics.Outcome`",
    "partition": "partitions of the topics table",
    "reason": "`headrace.events.Reason`",
    "result": "`headrace.metrics.Result`",
    "route": "the server's routes as they are declared, never the path that was asked for",
    "table": "bounded tables in the code",
    "topic": "the topics table",
    "trigger": "`headrace.metrics.Trigger`",
    "version": "one: the version of Headrace or torch that runs",
    "window": "`headrace.metrics.Window`",
}
"""Every label, and what bounds its values."""

Result = Literal["learned", "duplicate", "rejected"]
Outcome = Literal["promoted", "refused", "failed", "rolled_back"]
Trigger = Literal["start", "time", "volume", "drift", "gain"]
Window = Literal["stream", "recent"]

QUICK_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
"""Work of one batch, commit or request."""
DELAY_S: Final = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 1_800, 3_600)
"""From a record's append to its learning: tens of milliseconds live, hours behind a backlog."""
AGE_S: Final = (0.1, 1, 10, 60, 600, 3_600, 86_400, 604_800, 2_592_000, 31_536_000, 315_360_000)
"""From what happened to its append: moments live, years when old data is loaded."""
ROUND_S: Final = (1, 2, 5, 10, 20, 60, 120, 300, 600, 1_800, 3_600)
"""A round of fine-tuning."""


class Described(NamedTuple):
    """A metric as Prometheus sees it: its name (a histogram's without suffix), type, labels and help text."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


class ProcessMetrics:
    """What every process tells: its version, memory and CPU, and how near its bounded tables are to their maxima.

    Abstract; a process has one of the final classes below. Safe to use from any thread.
    """

    def __init__(self) -> None:
        # The client's switch is global; nobody reads these series, and they double a scrape.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the client leaves it untyped
        self.registry = CollectorRegistry()
        self.described: list[Described] = []
        ProcessCollector(registry=self.registry)
        version = self._gauge("headrace_build_info", "The version of Headrace that runs.", "version")
        version.labels(headrace.__version__).set(1)
        self._used = self._gauge("headrace_bound_used", "Entries in use of a bounded table.", "table")
        self._max = self._gauge("headrace_bound_max", "Most entries that a bounded table may hold.", "table")

    def bounds(self, bounds: Mapping[str, tuple[int, int]]) -> None:
        """Tell how much of each bounded table is in use, and its maximum."""
        for table, (used, most) in bounds.items():
            self._used.labels(table).set(used)
            self._max.labels(table).set(most)

    def _counter(self, name: str, text: str, *labels: str, values: Iterable[str] = ()) -> Counter:
        counter = Counter(*self._describe(name, "counter", text, labels), registry=self.registry)
        for value in values:  # a series that exists from the start lets Prometheus see its first increase
            counter.labels(value)
        return counter

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(*self._describe(name, "gauge", text, labels), registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(*self._describe(name, "histogram", text, labels), buckets=buckets, registry=self.registry)

    def _describe(self, name: str, kind: str, text: str, labels: tuple[str, ...]) -> tuple[str, str, tuple[str, ...]]:
        assert LABELS.keys() >= set(labels), f"{name} has a label that LABELS does not bound"
        self.described.append(Described(name, kind, labels, text))
        return name, text, labels


class ReaderMetrics(ProcessMetrics):
    """What every process tells that reads events: how far it is behind and which model it uses. Abstract."""

    def __init__(self) -> None:
        super().__init__()
        self._lag = self._gauge("headrace_lag_records", "Records that wait to be read.", "topic", "partition")
        self.champion_round = self._gauge(
            "headrace_champion_round", "Number of the round whose model is in use; 0 before the first promotion."
        )
        self.freshness = self._histogram(
            "headrace_freshness_seconds", "From a record's append to its learning.", DELAY_S
        )

    def lag(self, lag: Mapping[Partition, int]) -> None:
        """Tell how many records of each partition wait to be read."""
        for (topic, number), records in lag.items():
            self._lag.labels(topic, number).set(records)


class ShardMetrics(ReaderMetrics):
    """What a process tells that runs the loop; `turn` is the loop's `on_turn`. Abstract.

    A snapshot is taken for new when its size is another one. Two states of one size follow each other seldom, and then
    the newest one's time is late by one interval.
    """

    def __init__(self, *, clock: Clock = wall_ms) -> None:
        super().__init__()
        self._clock, self._snapshot = clock, 0
        self._events = self._counter(
            "headrace_events_total", "Records read, by what became of them.", "result", values=get_args(Result)
        )
        self._event_age = self._histogram(
            "headrace_event_age_seconds", "From what happened (event time) to the record's append.", AGE_S
        )
        self._rejected = self._counter(
            "headrace_events_rejected_total", "Records that became dead letters.", "reason", values=get_args(Reason)
        )
        self.judgements = self._counter("headrace_judgements_total", "Predictions judged before they were learned.")
        self.judged_ratio = self._gauge("headrace_judged_ratio", "Probability with which an event is judged now.")
        self._learn = self._histogram(
            "headrace_learn_duration_seconds", "Decoding and learning one commit's records.", QUICK_S
        )
        self._judge = self._histogram("headrace_judge_duration_seconds", "Judging one commit's events.", QUICK_S)
        self._commit = self._histogram("headrace_commit_duration_seconds", "Committing once.", QUICK_S)
        self._snapshot_bytes = self._gauge("headrace_snapshot_size_bytes", "Size of the newest snapshot.")
        self._snapshot_time = self._gauge(
            "headrace_snapshot_timestamp_seconds", "When this process last named a snapshot."
        )

    def turn(self, turn: Turn) -> None:
        """Tell what one commit of the loop did."""
        self._events.labels("learned").inc(turn.learned)
        self._events.labels("duplicate").inc(turn.duplicates)
        self._events.labels("rejected").inc(sum(turn.rejected.values()))
        for reason, count in turn.rejected.items():
            self._rejected.labels(reason).inc(count)
        for age_s in turn.freshness_s:
            self.freshness.observe(age_s)
        for age_s in turn.event_ages_s:
            self._event_age.observe(age_s)
        self._learn.observe(turn.learn_s)
        self._judge.observe(turn.judge_s)
        self._commit.observe(turn.commit_s)
        self.lag(turn.lag)
        self.bounds(turn.bounds)
        if turn.snapshot_bytes not in (0, self._snapshot):  # 0: the loop has made none since it (re)started
            self._snapshot = turn.snapshot_bytes
            self._snapshot_bytes.set(turn.snapshot_bytes)
            self._snapshot_time.set(self._clock() / 1000)


class OnlineMetrics(ShardMetrics):
    """What the online consumer tells beside its turns."""

    def __init__(self) -> None:
        super().__init__()
        self._score = self._gauge(
            "headrace_prequential_score",
            "What learners predicted against what came next; the whole stream or its recent part.",
            "learner", "metric", "k", "window",
        )  # fmt: skip
        self._propensity = self._gauge(
            "headrace_propensity_score",
            "Purchase propensity against purchases.",
            "learner",
            "metric",
            "window",
        )
        self._weight = self._gauge(
            "headrace_blend_weight_ratio",
            "Share of a learner in the utility that the best item of each gets from the blend.",
            "learner",
        )
        self._drift = self._gauge("headrace_drift_score", "Distance or loss that a detector watches.", "detector")
        self._threshold = self._gauge("headrace_drift_threshold", "Score above which a detector alarms.", "detector")
        self._alarms = self._counter("headrace_drift_alarms_total", "Drift alarms.", "detector")

    def score(self, learner: str, metric: str, k: int, window: Window, value: float) -> None:
        """Tell a prequential score of next-item learning, as a fraction."""
        self._score.labels(learner, metric, k, window).set(value)

    def propensity(self, learner: str, metric: str, window: Window, value: float) -> None:
        """Tell a prequential score of purchase propensity."""
        self._propensity.labels(learner, metric, window).set(value)

    def blend(self, weights: Mapping[str, float]) -> None:
        """Tell the blend's weights."""
        for learner, weight in weights.items():
            self._weight.labels(learner).set(weight)

    def watched(self, detectors: Iterable[str]) -> None:
        """Make the alarm counters of these detectors, so that their first alarm is seen as an increase."""
        for detector in detectors:
            self._alarms.labels(detector)

    def drift(self, detector: str, score: float, threshold: float | None = None) -> None:
        """Tell what a detector sees now, and above which it would alarm."""
        self._drift.labels(detector).set(score)
        if threshold is not None:
            self._threshold.labels(detector).set(threshold)

    def alarm(self, detector: str) -> None:
        """Count a drift alarm."""
        self._alarms.labels(detector).inc()


class FinetuneMetrics(ShardMetrics):
    """What the fine-tuner tells beside its turns."""

    def __init__(self) -> None:
        super().__init__()
        self._rounds = self._counter(
            "headrace_rounds_total", "Rounds of the slow learner, by their end.", "outcome", values=get_args(Outcome)
        )
        self._triggers = self._counter(
            "headrace_round_triggers_total", "Why rounds began.", "trigger", values=get_args(Trigger)
        )
        self._duration = self._histogram("headrace_round_duration_seconds", "Training one candidate.", ROUND_S)
        self._tokens = self._counter("headrace_round_tokens_total", "Positions that training went over.")
        self._loss = self._gauge("headrace_round_loss_nats", "Mean training loss at the end of the newest round.")
        self._time = self._gauge("headrace_round_timestamp_seconds", "When the newest round was decided.")
        self._torch = self._gauge("headrace_torch_info", "What torch runs on.", "version", "device")

    def torch(self, version: str, device: str) -> None:
        """Tell torch's version and device; once, at the start."""
        self._torch.labels(version, device).set(1)

    def trained(self, trigger: Trigger, duration_s: float, tokens: int, loss: float) -> None:
        """Tell of a candidate that was trained."""
        self._triggers.labels(trigger).inc()
        self._duration.observe(duration_s)
        self._tokens.inc(tokens)
        self._loss.set(loss)

    def decided(self, outcome: Outcome, time_ms: int) -> None:
        """Tell how a round ended."""
        self._rounds.labels(outcome).inc()
        self._time.set(time_ms / 1000)


class ServingMetrics(ReaderMetrics):
    """What the server tells."""

    def __init__(self) -> None:
        super().__init__()
        self._requests = self._counter("headrace_http_requests_total", "Requests answered.", "route", "code")
        self._duration = self._histogram(
            "headrace_http_request_duration_seconds", "Answering a request.", QUICK_S, "route"
        )

    def request(self, route: str, code: int, duration_s: float) -> None:
        """Tell of an answer. `route` is the route's declaration (`/v1/recommendations/{shopper}`), never the path."""
        self._requests.labels(route, code).inc()
        self._duration.labels(route).observe(duration_s)


class ProducerMetrics(ProcessMetrics):
    """What a producer tells."""

    def __init__(self) -> None:
        super().__init__()
        self.published = self._counter("headrace_published_events_total", "Events that the log acknowledged.")
        self.skipped = self._counter("headrace_skipped_events_total", "Events that the log had already.")
        self.share = self._gauge("headrace_published_ratio", "Share of the source that is published, where known.")


class MetricsServer:
    """Answers scrapes of one process' metrics over HTTP from a thread of its own. A context manager.

    Args:
        port: 0 lets the system choose; `port` then says which.

    Raises:
        Misconfigured: the address cannot be listened on.
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
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


KINDS: Final = {
    "producer": ProducerMetrics,
    "online": OnlineMetrics,
    "finetune": FinetuneMetrics,
    "serve": ServingMetrics,
}
"""The metrics of each kind of process, by the name of its job in deploy/prometheus/prometheus.yml."""


def reference() -> str:
    """Return docs/metrics.md."""
    tellers: dict[Described, list[str]] = {}
    for kind, metrics in KINDS.items():
        for metric in metrics().described:
            tellers.setdefault(metric, []).append(kind)
    lines = [
        "# Metrics",
        "",
        "Written by `python -m headrace.metrics`. Each process also tells `process_*` (memory, CPU, open files).",
        "",
        "| metric | type | labels | what | told by |",
        "| --- | --- | --- | --- | --- |",
    ]
    for metric in sorted(tellers):
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.text} | {', '.join(tellers[metric])} |")
    lines += ["", "## Labels", "", "| label | bounded by |", "| --- | --- |"]
    lines += [f"| `{label}` | {bound} |" for label, bound in LABELS.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
