"""How quickly a server answers, and how many requests a second, while events flow in and models are swapped.

    python -m benchmarks.serve_load --data online_retail.csv.gz --out benchmarks/results/serve_load.json

The server has one core to itself; the shard that learns, whoever publishes events, and the clients share another one.
A shop has learned the first 20,000 events of Online Retail, orders of 22 lines on average; a deep model of all items is
promoted. While 500 events/s flow in, each the view of one item, made of the lines of later orders, shoppers ask while
they act: each request is for the shopper whose view was published half a second before it.

- requests come at fixed times, 500 a second, whether those before are answered or not: half of them ask for 10
  recommendations, half have 100 items re-ranked. The time of an answer begins when its request was due. In the middle
  another model is promoted; each answer must name one model, and none may fail;
- wrk asks as fast as it is answered, by kept connections: recommendations, re-ranking, and both in turn, and
  `/health/live`, which costs what HTTP alone does. The more requests a second, the more are for one view: a page asks
  for several lists. Unlike these, `cold` is the worst that there is: both in turn, each for a shopper drawn anew from
  all, of whom most are away and have visits of 50 items that nobody has asked about;
- now and then a new shopper views an item; how long until the server knows it?
- good clients ask at a fifth of that rate, without and with others who abuse the server: 500 connections that are
  silent, 100 that send their heads byte by byte, 20 that ask and do not read, and 100 requests/s that are no HTTP;
- the server is stopped while 8,000 events are learned, and goes on: how quickly does it fold them, without any request
  and while wrk asks as much as it can?

The shares of a core that the server and the clients use are read from /proc. With `--keep`, what was learned is kept in
a folder, so that several versions are compared on the same state without learning it again.
"""

import asyncio
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks import report
from benchmarks.gateway_load import resident_mib
from headrace.announcement import Announcement
from headrace.errors import Misconfigured
from headrace.log.open import open_log
from headrace.log.protocol import Log, Outgoing
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.topics import EVENTS
from learners.families import default_placements
from learners.succession import FINE_TUNER
from operators.child import Child, Children, headrace, total

learned_events: Final = 20_000
flow_per_s: Final = 500
asked_per_s: Final = 500
ranked: Final = 100
"""Items of a request to re-rank."""
backlog_events: Final = 8_000
ONLINE: Final = default_placements()["online"]
probe_pause_s: Final = 0.1
stopped_s_max: Final = 600.0
lag_s: Final = 3.0
"""Time, in seconds, after which the learner's lag knows of what was appended."""

acted_s: Final = 0.5
"""Time, in seconds, from a view to the requests of its shopper."""

SCRIPT: Final = """
local paths, bodies, turn, both = %(paths)s, %(bodies)s, 0, "%(what)s"
request = function()
  turn = turn + 1
  if both == "recommend" or (both == "mixed" and turn %% 2 == 0) then
    return wrk.format("GET", paths[turn %% #paths + 1])
  end
  return wrk.format("POST", "/v1/rerank", {["Content-Type"] = "application/json"}, bodies[turn %% #bodies + 1])
end
"""

ACTING: Final = """
local ffi = require("ffi")
ffi.cdef("typedef struct { long s; long ns; } when; int clock_gettime(int, when *);")
local shoppers, items, turn, both = %(shoppers)s, %(items)s, 0, "%(what)s"
local now = ffi.new("when")
request = function()
  ffi.C.clock_gettime(1, now)
  local at = math.floor((tonumber(now.s) + tonumber(now.ns) * 1e-9 - %(began_s)f) * %(flow_per_s)d)
  local shopper = shoppers[math.max(1, math.min(#shoppers, at + 1))]
  turn = turn + 1
  if both == "recommend" or (both == "mixed" and turn %% 2 == 0) then
    return wrk.format("GET", "/v1/recommendations/" .. shopper .. "?n=10")
  end
  local body = '{"shopper": "' .. shopper .. '", "items": ' .. items[turn %% #items + 1] .. ', "n": 10}'
  return wrk.format("POST", "/v1/rerank", {["Content-Type"] = "application/json"}, body)
end
"""


class Times(NamedTuple):
    """Times of answers in milliseconds."""

    p50_ms: float
    p99_ms: float
    max_ms: float
    answers: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Times":
        """Summarise times in seconds."""
        ordered = sorted(seconds)
        return cls(
            1000 * statistics.median(ordered), 1000 * ordered[int(0.99 * (len(ordered) - 1))], 1000 * ordered[-1],
            len(ordered),
        )  # fmt: skip


class Requests:
    """The requests: paths for recommendations, and bodies to re-rank. Made from a log's events, seeded."""

    def __init__(self, log: Log, count: int, seed: int = 0) -> None:
        shoppers, items = dict[str, None](), dict[str, None]()
        for place in log.partitions(EVENTS):
            with closing(log.reader({place: 0})) as reader:
                while found := reader.read(5_000, 0.1):
                    for record in (one for _, records in found for one in records):
                        shoppers[(record.key or b"").decode()] = None
                        items |= dict.fromkeys(
                            line["item_id"] for line in json.loads(record.value or b"{}")["data"]["items"]
                        )
        chance = random.Random(seed)
        self.items = list(items)
        self.searched = [chance.sample(self.items, ranked) for _ in range(200)]
        asked = [chance.choice(list(shoppers)) for _ in range(count)]
        self.paths = [f"/v1/recommendations/{shopper}?n=10" for shopper in asked]
        self.bodies = [
            json.dumps({"shopper": shopper, "items": chance.sample(self.items, ranked), "n": 10}) for shopper in asked
        ]

    def script(self, what: str) -> str:
        """Return a script of wrk that draws shoppers from all."""
        return SCRIPT % {"paths": _table(self.paths[:2_000]), "bodies": _table(self.bodies[:500]), "what": what}

    def acting(self, what: str, flow: "Flow", seconds: float) -> str:
        """Return a script of wrk that asks for those who act, for so many seconds from now on."""
        began_s, shoppers = flow.ahead(seconds)
        return ACTING % {
            "shoppers": _table(shoppers), "items": _table([json.dumps(items) for items in self.searched]),
            "what": what, "began_s": began_s + acted_s, "flow_per_s": flow_per_s,
        }  # fmt: skip

    def of(self, shopper: str, number: int) -> tuple[str, str]:
        """Return a path for a shopper's recommendations, and a body to re-rank."""
        items = self.searched[number % len(self.searched)]
        return f"/v1/recommendations/{shopper}?n=10", json.dumps({"shopper": shopper, "items": items, "n": 10})


def _table(texts: Sequence[str]) -> str:
    """Return texts as a table of Lua."""
    return "{" + ",".join(json.dumps(one) for one in texts) + "}"


def promote(log: Log, blobs: Blobs, items: Sequence[str], number: int) -> None:
    """Promote a deep model of these items, as the fine-tuner does. What it has learned changes no time."""
    from learners.deep.model import DeepModel, DeepSettings

    model = DeepModel(DeepSettings(), seed=number)
    model.grow(items)
    blob = blobs.put("model", model.to_bytes())
    announced = Announcement(
        id=f"{FINE_TUNER}{number}", kind="promoted", round=number, at_events=0, time_ms=0, blob=blob,
        version=f"r{number:04d}",
    )  # fmt: skip
    with closing(log.appender()) as appender:
        appender.append(announced.record())


class Flow:
    """Publishes `flow_per_s` events a second, evenly, in a thread, and tells who acts."""

    def __init__(self, log: Log, records: Iterator[Outgoing]) -> None:
        self._log, self._records, self._read = log, records, list[Outgoing]()
        self._reading = threading.Lock()
        self._began_s, self._sent = time.monotonic(), 0

    def _until(self, count: int) -> list[Outgoing]:
        """Read the events from the first one on, so many of them."""
        with self._reading:
            self._read += islice(self._records, max(0, count - len(self._read)))
            return self._read

    def _due(self) -> int:
        return int((time.monotonic() - self._began_s) * flow_per_s)

    def acted(self) -> str:
        """Return the shopper who acted half a second ago, or last."""
        return shopper_of(self._until(1)[max(0, min(self._sent - 1, self._due() - int(acted_s * flow_per_s)))])

    def ahead(self, seconds: float) -> tuple[float, list[str]]:
        """Return a monotonic time, in seconds, and the shoppers who act from it on, one after the other."""
        first, last = self._due(), self._due() + int(seconds * flow_per_s)
        return self._began_s + first / flow_per_s, [shopper_of(one) for one in self._until(last)[first:last]]

    def publish(self, stop: threading.Event) -> None:
        """Publish until `stop` is set."""
        with closing(self._log.appender()) as appender:
            while not stop.wait(0.05):
                due = self._due()
                for record in self._until(due)[self._sent : due]:
                    appender.append(record)
                appender.flush()
                self._sent = due


def shopper_of(record: Outgoing) -> str:
    """Return whose event a record is."""
    return (record.key or b"").decode()


@contextmanager
def flowing(log: Log, records: Iterator[Outgoing]) -> Iterator[Flow]:
    """Publish `flow_per_s` events a second, evenly."""
    flow, stop = Flow(log, records), threading.Event()
    thread = threading.Thread(target=flow.publish, args=(stop,))
    thread.start()
    time.sleep(2 * acted_s)
    try:
        yield flow
    finally:
        stop.set()
        thread.join()


class Client:
    """A kept connection."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    async def open(self) -> None:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Return the status and the body of the answer."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
        return int(head[9:12]), await self._reader.readexactly(length)

    def close(self) -> None:
        """Disconnect."""
        self._writer.close()


async def at_fixed_times(
    address: tuple[str, int], requests: Requests, flow: Flow, seconds: float, halfway: Callable[[], None],
    per_s: int = asked_per_s,
) -> dict[str, Any]:  # fmt: skip
    """Ask so many times a second; return the times by kind, the errors, and the models that were named."""
    free: asyncio.Queue[Client] = asyncio.Queue()
    for _ in range(32):
        client = Client(*address)
        await client.open()
        free.put_nowait(client)
    head = f"Host: {address[0]}\r\n"
    times: dict[str, list[float]] = {"recommend 10": [], "re-rank 100": []}
    models, errors, tasks = Counter[str](), Counter[int](), list[asyncio.Task[None]]()

    async def ask(kind: str, request: bytes, due_s: float) -> None:
        client = await free.get()
        status, body = await client.ask(request)
        times[kind].append(time.monotonic() - due_s)
        free.put_nowait(client)
        if status == 200:
            models[json.loads(body)["model"]] += 1
        else:
            errors[status] += 1

    cpu_s, began_s, count = time.process_time(), time.monotonic() + 0.1, int(seconds * per_s)
    for number in range(count):
        due_s = began_s + number / per_s
        if (wait_s := due_s - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)
        if number == count // 2:
            threading.Thread(target=halfway).start()
        path, text = requests.of(flow.acted(), number)
        if number % 2:
            body = text.encode()
            request = f"POST /v1/rerank HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
            tasks.append(asyncio.create_task(ask("re-rank 100", request, due_s)))
        else:
            request = f"GET {path} HTTP/1.1\r\n{head}\r\n".encode()
            tasks.append(asyncio.create_task(ask("recommend 10", request, due_s)))
    await asyncio.gather(*tasks)
    spent_s = time.monotonic() - began_s
    while not free.empty():
        free.get_nowait().close()
    return {
        "times": {kind: Times.of(found)._asdict() for kind, found in times.items()}, "errors": dict(errors),
        "answers_by_model": dict(models), "client_cpu": (time.process_time() - cpu_s) / spent_s,
    }  # fmt: skip


async def _abuse(address: tuple[str, int], request: bytes) -> None:
    """Abuse a server until the process is ended."""

    async def silent() -> None:
        while True:
            reader, writer = await asyncio.open_connection(*address)
            await reader.read()
            writer.close()

    async def slow() -> None:
        while True:
            reader, writer = await asyncio.open_connection(*address)
            for byte in request:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.5)
                if reader.at_eof():
                    break
            writer.close()

    async def deaf() -> None:
        while True:
            _, writer = await asyncio.open_connection(*address)
            for _ in range(200):
                writer.write(request)
                await asyncio.sleep(0.05)
            writer.transport.abort()

    async def noisy() -> None:
        while True:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(bytes(range(256)) * 4)
            await reader.read()
            writer.close()
            await asyncio.sleep(0.1)

    async def again(act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            with suppress(OSError):
                await act()
            await asyncio.sleep(0.1)

    kinds = [*[silent] * 500, *[slow] * 100, *[deaf] * 20, *[noisy] * 10]
    await asyncio.gather(*(again(one) for one in kinds))


def abuse(address: tuple[str, int], request: bytes) -> None:
    """Abuse a server until this process is ended."""
    asyncio.run(_abuse(address, request))


@contextmanager
def abused(address: tuple[str, int], requests: Requests) -> Iterator[None]:
    """Let a process abuse the server."""
    request = f"GET {requests.paths[0]} HTTP/1.1\r\nHost: {address[0]}\r\n\r\n".encode()
    process = multiprocessing.get_context("spawn").Process(target=abuse, args=(address, request), daemon=True)
    process.start()
    try:
        time.sleep(3.0)  # until all of its connections are there
        yield
    finally:
        process.terminate()
        process.join()


def wrk(address: str, script: Path | None, connections: int, seconds: int, core: int) -> dict[str, Any]:
    """Return what wrk found: requests a second, times, and errors."""
    command = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    command += ["-s", str(script), address] if script else [f"{address}/health/live"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def ms(name: str) -> float:
        value, unit = re.findall(rf"{name}\s+([\d.]+)(us|ms|s)", text)[0]
        return float(value) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]

    refused = re.findall(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.findall(r"Socket errors: (.*)", text)
    return {
        "requests_per_s": float(re.findall(r"Requests/sec:\s+([\d.]+)", text)[0]), "p50_ms": ms("50%"),
        "p99_ms": ms("99%"), "errors": int(refused[0]) if refused else 0, "socket_errors": broken[0] if broken else "",
    }  # fmt: skip


def saturating(server: Child, script: Path | None, connections: int, seconds: int, core: int) -> dict[str, Any]:
    """Return what wrk found, and the share of a core that the server used, folding included."""
    used_s = cpu_s(server.pid)
    found = wrk(server.address, script, connections, seconds, core)
    return found | {"server_cpu": (cpu_s(server.pid) - used_s) / seconds}


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def lag(process: Child) -> float:
    """Return the number of events that a process has not learned; infinite before it says so."""
    scraped = process.scrape()
    known = any(name == "headrace_lag_records" for name, *_ in scraped)
    return total(scraped, "headrace_lag_records", topic=EVENTS) if known else math.inf


def folding_rate(
    server: Child, learner: Child, log: Log, records: Iterator[Outgoing], path: str, work: Callable[[], Any]
) -> float:
    """Return how many events a second a server folds of a backlog, while `work` is done."""
    time.sleep(2.0)  # until impressions are written: a process that is stopped in a transaction locks the log
    os.kill(server.pid, signal.SIGSTOP)
    with closing(log.appender()) as appender:
        for _ in range(backlog_events):
            appender.append(next(records))
        appender.flush()
    began_s = time.monotonic()
    while lag(learner) > 0 or time.monotonic() < began_s + lag_s:
        if time.monotonic() > began_s + stopped_s_max:
            raise SystemExit("wanted the shard to learn the backlog, found that it lags")
        time.sleep(0.2)
    time.sleep(1.0)
    last = journal.newest(log, ONLINE.shard)
    assert last is not None
    worker = threading.Thread(target=work)
    worker.start()
    began_s = time.monotonic()
    os.kill(server.pid, signal.SIGCONT)
    while answer(server, path)["fresh"]["entry"] <= last.number:
        if time.monotonic() > began_s + stopped_s_max:
            raise SystemExit("wanted the backlog folded, found that it is not")
        time.sleep(0.02)
    spent_s = time.monotonic() - began_s
    worker.join()
    return backlog_events / spent_s


def answer(server: Child, path: str) -> Any:
    """Return the JSON body of an answer, None if the server refuses."""
    try:
        with urllib.request.urlopen(f"{server.address}{path}", timeout=60) as found:
            return json.loads(found.read())
    except urllib.error.HTTPError:
        return None


def views_of(orders: Iterator[Outgoing]) -> Iterator[Outgoing]:
    """Yield a view of each line of these orders, by whoever ordered it."""
    for order in orders:
        event = json.loads(order.value or b"{}")
        for number, line in enumerate(event["data"]["items"]):
            viewed = event | {"id": f"{event['id']}/{number}", "type": "view_item", "data": {"items": [line]}}
            yield Outgoing(EVENTS, order.key, json.dumps(viewed).encode())


class Probe:
    """Publishes views by shoppers who are new, and measures how long it takes until the server knows them."""

    def __init__(self, server: Child, log: Log, item: str) -> None:
        self._server, self._log, self._item = server, log, item
        self.seconds: list[float] = []

    def run(self, stop: threading.Event) -> None:
        """Measure one after the other until `stop` is set."""
        with closing(self._log.appender()) as appender:
            while not stop.wait(probe_pause_s):
                shopper = f"probe-{len(self.seconds)}"
                event = {
                    "specversion": "1.0", "id": shopper, "source": "probe", "type": "view_item", "subject": shopper,
                    "time": datetime.now(UTC).isoformat(), "data": {"items": [{"item_id": self._item}]},
                }  # fmt: skip
                appender.append(Outgoing(EVENTS, shopper.encode(), json.dumps(event).encode()))
                appender.flush()
                began_s = time.monotonic()
                while answer(self._server, f"/v1/shoppers/{shopper}") is None:
                    if time.monotonic() > began_s + stopped_s_max:
                        raise SystemExit("wanted an event to be in the answers, found that it is not")
                    time.sleep(0.01)
                self.seconds.append(time.monotonic() - began_s)


def events_of(path: Path, folder: Path) -> list[Outgoing]:
    """Return the records of all events of a file, as `headrace load` publishes them."""
    whole = folder / "all.db"
    if not whole.exists():
        limit = str(learned_events + 100_000)
        load = headrace("load", str(path), "--log", f"sqlite:{whole}", "--limit", limit, "--metrics-port", "0")
        subprocess.run(load, check=True, capture_output=True)
    log = open_log(f"sqlite:{whole}")
    found = []
    for place in log.partitions(EVENTS):
        with closing(log.reader({place: 0})) as reader:
            while batches := reader.read(10_000, 0.1):
                found += [one for _, records in batches for one in records]
    found.sort(key=lambda record: json.loads(record.value or b"{}")["time"])
    log.close()
    return [Outgoing(EVENTS, record.key, record.value) for record in found]


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("Speed of answers, while events flow in and models are swapped.")
    report.add_data(parser)
    parser.add_argument("--seconds", type=int, default=15, help="of each measurement")
    parser.add_argument("--connections", type=int, default=8, help="of wrk")
    parser.add_argument("--keep", type=Path, help="folder in which what the shop has learned is kept for other runs")
    options = parser.parse_args(arguments)
    if shutil.which("wrk") is None:
        raise Misconfigured("serve_load: wanted wrk, found none (apt-get install wrk)")
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.keep and options.keep.exists():
            shutil.copytree(options.keep, folder, dirs_exist_ok=True)
        events = events_of(options.data, folder)
        waiting = iter(events[learned_events:])
        url, blobs = f"sqlite:{folder / 'log.db'}", Blobs(folder / "blobs")
        log = open_log(url)
        log.create()
        base = ("--log", url, "--blobs", str(blobs.folder))
        if not any(log.end(place) for place in log.partitions(EVENTS)):
            with closing(log.appender()) as appender:
                for record in events[:learned_events]:
                    appender.append(record)
            with Children(folder, cwd=folder) as children:
                learner = children.start("online", "online", *base, "--metrics-port", "0")
                children.wait_until("the shard has learned", lambda: lag(learner) == 0, timeout_s=1_800)
            if options.keep:
                shutil.copytree(folder, options.keep)
        requests = Requests(log, 5_000)
        promote(log, blobs, requests.items, 1)
        with Children(folder, cwd=folder) as children:
            learner = children.start("online", "online", *base, "--metrics-port", "0")
            children.wait_until("the shard has learned", lambda: lag(learner) == 0, timeout_s=600)
            server = children.start("serve", "serve", *base, "--port", "0")
            pin(server.pid, cores[-1])
            pin(learner.pid, cores[0])
            os.sched_setaffinity(0, {cores[0]})
            children.wait_until("the server has a model", lambda: has_model(server, requests))
            views = views_of(waiting)
            figures = measure(server, learner, log, blobs, requests, views, options, folder, cores[0])
    show(figures)
    report.write(options.out, figures)


def has_model(server: Child, requests: Requests) -> bool:
    """Return whether the server's answers name a model."""
    found = answer(server, requests.paths[0])
    return bool(found and found["model"])


def pin(pid: int, core: int) -> None:
    """Let all threads of a process, and those that they start, run on one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def measure(
    server: Child, learner: Child, log: Log, blobs: Blobs, requests: Requests, waiting: Iterator[Outgoing],
    options: Any, folder: Path, core: int,
) -> dict[str, Any]:  # fmt: skip
    """Return all figures."""
    host, port = server.address.removeprefix("http://").split(":")
    memory, found = [resident_mib(server.pid)], dict[str, Any]()
    swap = threading.Event()

    def promote_another() -> None:
        promote(log, blobs, requests.items, 2)
        swap.set()

    with flowing(log, waiting) as flow:
        probe, stop = Probe(server, log, requests.items[0]), threading.Event()
        probing = threading.Thread(target=probe.run, args=(stop,))
        probing.start()
        used_s, began_s = cpu_s(server.pid), time.monotonic()
        found["fixed"] = asyncio.run(
            at_fixed_times((host, int(port)), requests, flow, options.seconds, promote_another)
        )  # fmt: skip
        found["fixed"]["server_cpu"] = (cpu_s(server.pid) - used_s) / (time.monotonic() - began_s)
        stop.set()
        probing.join()
        found["fresh"] = Times.of(probe.seconds)._asdict()
        memory.append(resident_mib(server.pid))
        for name, around in (("good_alone", nullcontext()), ("good_abused", abused((host, int(port)), requests))):
            with around:
                asked = at_fixed_times(
                    (host, int(port)), requests, flow, options.seconds, lambda: None, asked_per_s // 5
                )
                found[name] = asyncio.run(asked)
            memory.append(resident_mib(server.pid))
        found["saturated"] = {}
        for what in ("recommend", "rerank", "mixed", "cold"):
            script = folder / f"{what}.lua"
            script.write_text(
                requests.script("mixed") if what == "cold" else requests.acting(what, flow, options.seconds + 2)
            )
            found["saturated"][what] = saturating(server, script, options.connections, options.seconds, core)
            memory.append(resident_mib(server.pid))
        found["live"] = saturating(server, None, options.connections, min(5, options.seconds), core)
    swap.wait(60)
    found["folding"] = {
        "alone_per_s": folding_rate(server, learner, log, waiting, requests.paths[0], lambda: None),
        "saturated_per_s": folding_rate(
            server,
            learner,
            log,
            waiting,
            requests.paths[0],
            lambda: wrk(server.address, folder / "cold.lua", options.connections, 10, core),
        ),
    }
    memory.append(resident_mib(server.pid))
    found["memory_mib"] = memory
    found["options"] = {
        "seconds": options.seconds, "connections": options.connections, "items": len(requests.items),
        "flow_per_s": flow_per_s, "asked_per_s": asked_per_s,
    }  # fmt: skip
    return found


def show(figures: dict[str, Any]) -> None:
    """Print the tables."""
    fixed = figures["fixed"]
    report.show(
        f"At {asked_per_s} requests/s, {flow_per_s} events/s flowing in, a model swapped",
        ["request", "p50 (ms)", "p99 (ms)", "max (ms)"],
        [
            [kind, *(f"{times[name]:.2f}" for name in ("p50_ms", "p99_ms", "max_ms"))]
            for kind, times in fixed["times"].items()
        ],
    )
    print(
        f"errors {fixed['errors'] or 'none'}; answers by model {fixed['answers_by_model']};"
        f" server {fixed['server_cpu']:.0%} of its core, client {fixed['client_cpu']:.0%} of the other"
    )
    fresh = figures["fresh"]
    print(f"a new event is in the answers after {fresh['p50_ms']:.0f} ms, of 100 after {fresh['p99_ms']:.0f} ms")
    report.show(
        f"Good clients at {asked_per_s // 5} requests/s",
        ["request", "p50 (ms)", "p99 (ms)", "p50, others abuse it (ms)", "p99 (ms)"],
        [
            [kind, *(f"{figures[who]['times'][kind][name]:.2f}" for who in ("good_alone", "good_abused")
                     for name in ("p50_ms", "p99_ms"))]
            for kind in figures["good_alone"]["times"]
        ],
    )  # fmt: skip
    rows = {**figures["saturated"], "/health/live": figures["live"]}
    report.show(
        f"wrk, {figures['options']['connections']} kept connections",
        ["request", "requests/s", "p50 (ms)", "p99 (ms)", "errors", "processor time (ms)"],
        [
            [what, f"{one['requests_per_s']:,.0f}", f"{one['p50_ms']:.2f}", f"{one['p99_ms']:.2f}", str(one["errors"]),
             f"{1e3 * one['server_cpu'] / one['requests_per_s']:.2f}"]
            for what, one in rows.items()
        ],
    )  # fmt: skip
    folding = figures["folding"]
    ratio = folding["saturated_per_s"] / folding["alone_per_s"]
    print(
        f"folding: {folding['alone_per_s']:,.0f} events/s alone, {folding['saturated_per_s']:,.0f} beside wrk"
        f" ({ratio:.2f}); memory {figures['memory_mib'][0]:.0f} to {figures['memory_mib'][-1]:.0f} MiB"
    )


if __name__ == "__main__":
    report.run(main)
