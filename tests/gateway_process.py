"""A real gateway in a test: its process with small limits, raw connections to it, and a good client beside them."""

import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from headrace.events import Event, decode
from headrace.keys import Role, create, digest_of, look_every_s, read_keys
from headrace.log.open import open_log
from headrace.topics import EVENTS
from operators.child import Child, Children, total

HOST: Final = "127.0.0.1"
BODY_BYTES_MAX, BODY_S_MAX, CONNECTIONS_MAX, REQUESTS_MAX = 262_144, 1.0, 200, 16
LIMITS: Final = {
    "BODY_BYTES_MAX": BODY_BYTES_MAX, "BODY_S_MAX": BODY_S_MAX, "CONNECTIONS_MAX": CONNECTIONS_MAX,
    "REQUESTS_MAX": REQUESTS_MAX, "KEY_REQUESTS_MAX": 8,
}  # fmt: skip
"""Settings of the section `gateway` with which limits are reached soon."""


def view(id_: str, **fields: Any) -> dict[str, Any]:
    """Return an event without a time."""
    return {"id": id_, "type": "view_item", "subject": "ann", "data": {"items": [{"item_id": "a"}]}, **fields}


class Answer(NamedTuple):
    """An answer as it came: its status, its headers in lower case, and its body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> str:
        """The code of its problem document; empty if it is none."""
        if self.headers.get("content-type") != "application/problem+json":
            return ""
        return str(json.loads(self.body)["type"]).rpartition(":")[2]


class GatewayProcess:
    """A gateway, its keys, and what it uses of the machine."""

    def __init__(self, children: Children, folder: Path, environ: Mapping[str, str]) -> None:
        self.url, self._keys, self._folder = environ["HEADRACE_LOG"], Path(environ["HEADRACE_KEYS"]), folder
        self.texts = {role: self.key(role) for role in ("ingest", "read", "operate")}
        self.child: Child = children.start("gateway", "gateway")
        found = re.search(r"gateway: takes https?://[^:]+:(\d+)/", self.child.text)
        assert found, self.child.text
        self.port = int(found[1])

    def key(self, role: str, *origins: str) -> str:
        """Make a key, and return its text."""
        kinds: dict[str, Role] = {"ingest": "ingest", "read": "read", "operate": "operate"}
        return create(self._keys, "acme", kinds[role], origins=origins, now_ms=int(time.time() * 1000))[1]

    def follow_keys(self) -> None:
        """Wait until the gateway has seen the newest keys."""
        time.sleep(look_every_s + 0.05)

    @property
    def keys(self) -> Path:
        """The file of keys."""
        return self._keys

    def id_of(self, text: str) -> str:
        """Return the id of a key."""
        return next(key.id for key in read_keys(self._keys) if key.digest == digest_of(text))

    def connect(self, timeout_s: float = 10.0) -> socket.socket:
        """Open a raw connection."""
        return socket.create_connection((HOST, self.port), timeout_s)

    def ask(
        self, method: str, path: str, body: Any = None, role: str = "ingest", timeout_s: float = 10.0, **headers: str
    ) -> Answer:
        """Return the answer to a request on a connection of its own."""
        return self.exchange(head(method, path, self.texts.get(role, ""), body, **headers), timeout_s)

    def exchange(self, sent: bytes, timeout_s: float = 10.0) -> Answer:
        """Send bytes on a connection of their own, and return the first answer."""
        with self.connect(timeout_s) as connection:
            connection.sendall(sent)
            return read_answer(connection)

    def memory_kib(self) -> int:
        """Return the resident memory of the process."""
        text = Path(f"/proc/{self.child.pid}/status").read_text()
        found = re.search(r"VmRSS:\s*(\d+) kB", text)
        assert found, text
        return int(found[1])

    def files(self) -> int:
        """Return how many files it has open."""
        return len(list(Path(f"/proc/{self.child.pid}/fd").iterdir()))

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's series."""
        return total(self.child.scrape(), name, **labels)

    def event_ids(self) -> list[str]:
        """Return the ids of the events in the log."""
        log = open_log(self.url, read_only=True)
        try:
            found = [decode(record) for one in log.partitions(EVENTS) for record in log.newest(one, 100_000)]
        finally:
            log.close()
        return [one.id for one in found if isinstance(one, Event)]


def head(method: str, path: str, key: str = "", body: Any = None, **headers: str) -> bytes:
    """Return a request; `headers` have underscores for hyphens."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    shown = {name.replace("_", "-"): value for name, value in headers.items()}
    shown.setdefault("content-length", str(len(content)))
    if key:
        shown.setdefault("authorization", f"Bearer {key}")
    lines = [f"{method} {path} HTTP/1.1", f"host: {HOST}", *(f"{name}: {value}" for name, value in shown.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def answers_of(connection: socket.socket) -> Iterator[Answer]:
    """Yield the answers of a connection until it ends. Raises OSError if it is reset, or too slow."""
    with connection.makefile("rb") as file:
        while line := file.readline():
            headers = {name.lower(): value for name, value in http.client.parse_headers(file).items()}
            yield Answer(int(line.split()[1]), headers, file.read(int(headers.get("content-length", 0))))


def read_answer(connection: socket.socket) -> Answer:
    """Return the next answer of a connection. Raises ConnectionError if there is none."""
    for answer in answers_of(connection):
        return answer
    raise ConnectionError("the server has closed the connection")


def ends(connection: socket.socket, timeout_s: float = 5.0) -> bool:
    """Return whether the server ends a connection in time; what it still sends is dropped."""
    connection.settimeout(timeout_s)
    try:
        while connection.recv(65_536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


class Good:
    """A client that behaves: one event every 10 ms on a connection that it keeps, and again where it was cut."""

    def __init__(self, gateway: GatewayProcess, tls: ssl.SSLContext | None = None) -> None:
        self._gateway, self._tls = gateway, tls
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, name="good client")
        self.ids = list[str]()
        """Of the acknowledged events."""
        self.seconds = list[float]()
        """How long each took to be acknowledged, further attempts included."""
        self.again = 0
        """Attempts beyond the first ones."""
        self.fault = ""

    def __enter__(self) -> "Good":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for(self, events: int) -> None:
        """Wait until so many events are acknowledged, or the client has given up."""
        while len(self.ids) < events and not self.fault:
            time.sleep(0.01)

    def p99_ms(self) -> float:
        """Return the 99th percentile of `seconds`, in milliseconds."""
        return 1000 * sorted(self.seconds)[int(0.99 * (len(self.seconds) - 1))]

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls:
            return http.client.HTTPSConnection(HOST, self._gateway.port, timeout=5, context=self._tls)
        return http.client.HTTPConnection(HOST, self._gateway.port, timeout=5)

    def _send(self) -> None:
        headers = {"authorization": f"Bearer {self._gateway.texts['operate']}"}
        connection, number = self._connection(), 0
        while not self._stop.is_set() and not self.fault:
            id_, began, number = f"good-{id(self)}-{number}", time.monotonic(), number + 1
            while not self.fault:
                try:
                    connection.request("POST", "/v1/events", json.dumps(view(id_)), headers)
                    response = connection.getresponse()
                    body = response.read()
                    if response.status == 200:
                        break
                    if response.status not in (429, 503):
                        self.fault = f"{response.status} {body!r}"
                except (OSError, http.client.HTTPException) as error:
                    connection.close()
                    if time.monotonic() - began > 10:
                        self.fault = repr(error)
                self.again += 1
                time.sleep(0.01)
            self.seconds.append(time.monotonic() - began)
            self.ids.append(id_)
            time.sleep(0.01)
        connection.close()


@contextmanager
def running(folder: Path, **settings: str) -> Iterator[GatewayProcess]:
    """Yield a gateway on SQLite with `LIMITS` and further settings of its section."""
    environ = {f"HEADRACE_GATEWAY__{name.upper()}": str(value) for name, value in {**LIMITS, **settings}.items()}
    environ |= {
        "HEADRACE_LOG": f"sqlite:{folder / 'log.db'}", "HEADRACE_KEYS": str(folder / "keys.json"),
        "HEADRACE_PSEUDONYMS": str(folder / "pseudonyms.json"), "HEADRACE_HOST": HOST,
        "HEADRACE_GATEWAY__SPOOL": str(folder / "spool"), "HEADRACE_GATEWAY__PORT": "0",
        "HEADRACE_GATEWAY__METRICS_PORT": "0",
    }  # fmt: skip
    with ExitStack() as stack:
        children = stack.enter_context(Children(folder, environ))
        found = GatewayProcess(children, folder, environ)
        yield found
        print(children.tails())
        assert "Traceback" not in found.child.text
        assert len(found.child.text.splitlines()) < 20  # nobody fills its log
