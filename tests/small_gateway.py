"""A gateway's HTTP in a test: takes what clients send, and gives the answers that a test has prepared."""

import json
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Thread
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec

from headrace.events import Rejection, decode
from headrace.log.protocol import Record

KEY = "key-1"
DEFAULTS = {"specversion": "1.0", "source": "shop", "time": "2026-03-01T10:00:00Z"}
"""What a client may leave out."""


class Asked(NamedTuple):
    """A request: when it came, its target without the query, its key, its headers, and its body as JSON."""

    at_s: float
    target: str
    key: str
    headers: Mapping[str, str]
    body: Any


class SmallGateway(ThreadingHTTPServer):
    """Takes events, items and traits for `KEY`; use it as a context.

    `asked` has every request. `events` and `others` have what was accepted, in order. `answers` are given, first to
    last, in place of its own: a status and headers. Bodies over `body_bytes_max` get a 413, or no answer if
    `hangs_up_on_large`. With `hangs_up_when_idle`, it closes a connection after each answer without a word.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[Asked] = []
        self.events: list[dict[str, Any]] = []
        self.others: list[tuple[str, Any]] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.pages: dict[str, bytes] = {}
        self.body_bytes_max = 1_000_000
        self.hangs_up_on_large = self.hangs_up_when_idle = False
        self.changed = Condition()

    def __enter__(self) -> "SmallGateway":
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        self.server_close()

    def ids(self) -> list[str]:
        """Return the ids of the accepted events, in order."""
        return [event["id"] for event in self.events]

    def take_events(self, documents: list[Any]) -> dict[str, Any]:
        """Take events, as the topic `events` would; return what became of them."""
        refused, repeated, known = [], 0, set(self.ids())
        for index, document in enumerate(documents):
            value = msgspec.json.encode({**DEFAULTS, **document})
            found = decode(Record(0, 0, 2**42, document["subject"].encode(), value))
            if isinstance(found, Rejection):
                refused.append({"index": index, "id": document["id"], "reason": found.reason, "detail": found.detail})
            elif document["id"] in known:
                repeated += 1
            else:
                self.events.append(document)
        accepted = len(documents) - len(refused) - repeated
        return {"accepted": accepted, "repeated": repeated, "unused": 0, "spooled": 0, "refused": refused}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer is one packet
    server: SmallGateway

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def do_OPTIONS(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        page = self.server.pages.get(urlsplit(self.path).path)
        self._send(404 if page is None else 200, page or b"", {"Content-Type": "text/html"})

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing: the test asks for what came."""

    def _answer(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path)
        key = self.headers.get("Authorization", "").removeprefix("Bearer ") or parse_qs(parts.query).get("key", [""])[0]
        body: Any = json.loads(content) if content else None
        target = f"{self.command} {parts.path}"
        gateway = self.server
        self.close_connection = self.close_connection or gateway.hangs_up_when_idle
        if gateway.hangs_up_on_large and len(content) > gateway.body_bytes_max:
            self.close_connection = True
            return
        with gateway.changed:
            gateway.asked.append(Asked(monotonic(), target, key, dict(self.headers), body))
            headers: dict[str, str] = {}
            if gateway.answers:
                status, headers = gateway.answers.pop(0)
            elif key != KEY:
                status = 401
            elif len(content) > gateway.body_bytes_max:
                status = 413
            else:
                status = 200
            answer: dict[str, Any] = {
                "type": "about:blank",
                "title": "prepared",
                "status": status,
                "detail": "by a test",
            }
            if status == 200 and parts.path == "/v1/events":
                documents = body if isinstance(body, list) else [body]
                answer = gateway.take_events(documents)
                if len(answer["refused"]) == len(documents):
                    status, answer = 400, {"title": "refused", "status": 400, **answer}
            elif status == 200:
                gateway.others.append((target, body))
                answer = {"accepted": len(body) if isinstance(body, list) else 1, "refused": []}
            gateway.changed.notify_all()
        kind = "application/json" if status == 200 else "application/problem+json"
        self._send(status, json.dumps(answer).encode(), {"Content-Type": kind, **headers})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Access-Control-Allow-Origin": "*", "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
