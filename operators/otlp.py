"""Traces of events as OpenTelemetry spans, sent to a collector by OTLP over HTTP.

The log is what is traced, so no process has to carry spans: a trace is made when somebody asks for it. It holds ids,
times and what was decided; neither the shopper nor what the event says.

A trace's id follows from the event's record, and so do those of its spans: whoever sends it twice makes no second one.
"""

from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from headrace.errors import Misconfigured
from operators.traced import Trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

send_s_max: Final = 10.0
"""Longest time that sending may take."""


class _Span(NamedTuple):
    """A span: the service that worked, its name, when it began and ended (ms since the epoch), and attributes."""

    service: str
    name: str
    begin_ms: int
    end_ms: int
    attributes: Mapping[str, Any]


def send(traces: Iterable[Trace], url: str) -> int:
    """Send traces to a collector; return the number of spans.

    Args:
        url: of the collector, such as http://localhost:4318; `/v1/traces` is added where it has no path.

    Raises:
        Misconfigured: the extra is not installed, or the collector does not take the spans.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import SpanExportResult
    except ImportError:
        raise Misconfigured("otlp: wanted the packages of headrace[otlp], found them missing") from None
    base = url.rstrip("/")
    if not base.startswith(("http://", "https://")):
        raise Misconfigured(f"otlp: wanted a collector's URL, such as http://localhost:4318, found {url!r}")
    endpoint = base if "/" in base.split("://", 1)[1] else f"{base}/v1/traces"
    spans = [span for trace in traces for span in spans_of(trace)]
    exporter: Any = OTLPSpanExporter(endpoint, timeout=send_s_max)
    try:
        if exporter.export(spans) is not SpanExportResult.SUCCESS:
            raise Misconfigured(f"otlp: wanted a collector at {endpoint} that takes spans, found none")
    finally:
        exporter.shutdown()
    return len(spans)


def spans_of(trace: Trace) -> "list[ReadableSpan]":
    """Return a trace as finished spans: one for the whole, and one for each step that the log knows in time."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.sdk.trace.id_generator import IdGenerator
    from opentelemetry.trace import set_span_in_context

    class Ids(IdGenerator):
        """Ids that follow from the record's place and the event's id."""

        def __init__(self) -> None:
            self._spans = 0

        def _number(self, name: str, size: int) -> int:
            key = "\0".join((trace.place, trace.source, trace.id, name)).encode(errors="surrogateescape")
            return int.from_bytes(blake2b(key, digest_size=size).digest()) or 1

        def generate_trace_id(self) -> int:
            return self._number("trace", 16)

        def generate_span_id(self) -> int:
            self._spans += 1
            return self._number(f"span {self._spans}", 8)

    ids, finished = Ids(), InMemorySpanExporter()
    steps = list(_steps(trace))
    providers = {}
    for service in dict.fromkeys(["headrace", *(step.service for step in steps)]):
        providers[service] = provider = TracerProvider(
            id_generator=ids, resource=Resource({"service.name": service}), shutdown_on_exit=False
        )
        provider.add_span_processor(SimpleSpanProcessor(finished))
    times = [time for step in steps for time in (step.begin_ms, step.end_ms)]
    first = trace.appended_ms if trace.appended_ms is not None else min(times, default=0)
    root = providers["headrace"].get_tracer("headrace").start_span(
        f"event {trace.type}".rstrip(), start_time=first * 1_000_000,
        attributes={
            "event.id": trace.id, "event.source": trace.source, "event.type": trace.type, "record": trace.place,
        },
    )  # fmt: skip
    for step in steps:
        span = (
            providers[step.service]
            .get_tracer("headrace")
            .start_span(
                step.name,
                set_span_in_context(root),
                start_time=step.begin_ms * 1_000_000,
                attributes=dict(step.attributes),
            )
        )
        span.end(step.end_ms * 1_000_000)
    root.end(max([first, *times]) * 1_000_000)
    return list(finished.get_finished_spans())


def _steps(trace: Trace) -> Iterator[_Span]:
    appended = trace.appended_ms
    for one in trace.shards:
        if one.time_ms is not None:
            begin = one.time_ms if appended is None else min(appended, one.time_ms)
            found: dict[str, Any] = {"state": one.state, "families": one.families, "entry": one.entry or 0}
            yield _Span(f"headrace {one.shard}", f"{one.state} by {one.shard}", begin, one.time_ms, found)
    if letter := trace.letter:
        found = {"reason": letter.reason, "decision": letter.decision or "open"}
        yield _Span("headrace", "dead letter", letter.time_ms, letter.time_ms, found)
    for judged in trace.judgements:
        ranks = {f"rank.{name}": rank for name, rank in judged.ranks.items()}
        name, time = f"judged by {judged.family}", judged.time_ms
        yield _Span(f"headrace {judged.shard}", name, time, time, {"model": judged.model, "step": judged.step, **ranks})
    for alarm in trace.alarms:
        found = {"detector": alarm.detector, "silenced": alarm.silenced}
        yield _Span("headrace", "drift alarm", alarm.time_ms, alarm.time_ms, found)
    if answer := trace.answer:
        begin = answer.time_ms if appended is None else min(appended, answer.time_ms)
        found = {"route": answer.route, "placement": answer.placement, "model": answer.model, "entries": answer.entries}
        yield _Span("headrace serve", "first answer that includes it", begin, answer.time_ms, found)
