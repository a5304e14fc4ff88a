"""Traces as OpenTelemetry spans: a collector is told each step once, and nothing of the shopper."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from headrace.errors import Misconfigured
from operators import otlp
from operators.traced import Alarmed, Answered, Applied, Judged, Letter, Trace

TRACE = Trace(
    place="0/5", id="order-1", source="shop", type="purchase", shopper="ann@example.org", happened_ms=900,
    appended_ms=1_000, unknown=[],
    shards=[
        Applied(shard="online", state="learned", families=["next_item"], entry=7, time_ms=1_250, after_ms=250),
        Applied(shard="finetune", state="waiting", families=["rounds"], waiting=3),
    ],
    letter=Letter(reason="schema", time_ms=1_260),
    judgements=[Judged(family="next_item", shard="online", time_ms=1_300, step=0, model="", ranks={"blend": 2})],
    alarms=[Alarmed(detector="price", time_ms=1_310, score=2.0, threshold=1.0, silenced=False)],
    answer=Answered(
        time_ms=1_900, route="recommendations", placement="home", model="m1", shard="online", entries=9, after_ms=900
    ),
)  # fmt: skip


class Collector(ThreadingHTTPServer):
    """Takes spans as a collector does, and keeps them; it answers with a code."""

    def __init__(self, code: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), Taking)
        self.code, self.paths, self.services = code, list[str](), list[tuple[str, Any]]()


class Taking(BaseHTTPRequestHandler):
    """One request to a `Collector`."""

    server: Collector

    def do_POST(self) -> None:
        """Take spans."""
        body = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.paths.append(self.path)
        for resource in body.resource_spans:
            name = next(one.value.string_value for one in resource.resource.attributes if one.key == "service.name")
            self.server.services += [(name, span) for scope in resource.scope_spans for span in scope.spans]
        self.send_response(self.server.code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Be silent."""


@pytest.fixture(params=[200])
def collector(request: pytest.FixtureRequest) -> Iterator[Collector]:
    server = Collector(request.param)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_collector_gets_a_span_for_each_step(collector: Collector) -> None:
    assert otlp.send([TRACE], f"http://127.0.0.1:{collector.server_port}") == 6
    assert collector.paths == ["/v1/traces"]
    spans = {span.name: (service, span) for service, span in collector.services}
    assert {name: service for name, (service, _) in spans.items()} == {
        "event purchase": "headrace", "learned by online": "headrace online", "dead letter": "headrace",
        "judged by next_item": "headrace online", "drift alarm": "headrace",
        "first answer that includes it": "headrace serve",
    }  # fmt: skip
    root = spans.pop("event purchase")[1]
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (1_000 * 10**6, 1_900 * 10**6)
    assert all(span.parent_span_id == root.span_id for _, span in spans.values())
    assert len({span.trace_id for _, span in collector.services}) == 1
    learned = spans["learned by online"][1]
    assert (learned.start_time_unix_nano, learned.end_time_unix_nano) == (1_000 * 10**6, 1_250 * 10**6)
    assert {one.key: one.value.int_value for one in learned.attributes}["entry"] == 7
    assert "ann" not in str(collector.services)


def test_sending_twice_makes_no_second_trace(collector: Collector) -> None:
    for _ in range(2):
        otlp.send([TRACE], f"http://127.0.0.1:{collector.server_port}/v1/traces")
    ids = [(span.trace_id, span.span_id) for _, span in collector.services]
    assert len(ids) == 12
    assert len(set(ids)) == 6


def test_a_record_of_which_only_the_place_is_known_has_one_span(collector: Collector) -> None:
    bare = Trace(
        place="0/9", id="", source="", type="", shopper="", happened_ms=None, appended_ms=None, shards=[], letter=None,
        judgements=[], alarms=[], answer=None, unknown=[],
    )  # fmt: skip
    assert otlp.send([bare], f"http://127.0.0.1:{collector.server_port}/v1/traces") == 1
    assert [span.name for _, span in collector.services] == ["event"]


@pytest.mark.parametrize("collector", [403], indirect=True)
def test_a_collector_that_refuses_is_told(collector: Collector) -> None:
    with pytest.raises(Misconfigured, match="wanted a collector at http"):
        otlp.send([TRACE], f"http://127.0.0.1:{collector.server_port}")


def test_what_is_no_url_is_told() -> None:
    with pytest.raises(Misconfigured, match="wanted a collector's URL"):
        otlp.send([TRACE], "localhost:4318")
