"""How many events the gateway takes a second, acknowledged, and how long an acknowledgement takes.

    python -m benchmarks.gateway_load --out benchmarks/results/gateway_load.json [--kafka]

The gateway has one core to itself, the clients another one. First each of several connections sends the next batch as
soon as the last one is acknowledged: that is the rate. Then batches come at fixed times at half of 5,000 events/s,
whether the ones before are answered or not: of these, the time from when a batch was due until its acknowledgement. A
batch is acknowledged when the log has it (SQLite: on disk). The gateway's memory is read before and after. Two kinds of
events: views of one item, and of five items with names and prices.
"""

import asyncio
import json
import os
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks import report
from headrace.clock import wall_ms
from headrace.keys import create
from headrace.log import broker
from operators.child import Child, Children

wanted_per_s: Final = 5_000
"""The goal, in batches of 25."""
warm_s: Final = 2.0


class Load(NamedTuple):
    """One measurement: events acknowledged a second, and times of acknowledgement in milliseconds."""

    events_per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float


def bodies(batch: int, items: int) -> Iterator[bytes]:
    """Yield bodies of events without end; each event has another id."""
    number = 0
    while True:
        events = []
        for _ in range(batch):
            number += 1
            lines = [
                {"item_id": f"i{(number + line) % 2_000}"}
                | ({"item_name": f"Item {line}", "item_category": "shoes", "price": 12.5} if items > 1 else {})
                for line in range(items)
            ]
            events.append(
                {"id": f"{items}-{batch}-{number}", "type": "view_item" if items == 1 else "view_item_list",
                 "subject": f"s{number % 5_000}", "time": "2026-03-01T10:00:00Z",
                 "data": {"session_id": f"v{number % 7_000}", "items": lines}}
            )  # fmt: skip
        yield json.dumps(events).encode()


class Connection:
    """A kept connection to the gateway."""

    def __init__(self, host: str, port: int, key: str) -> None:
        self._host, self._port = host, port
        self._head = f"POST /v1/events HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n".encode()

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)

    async def send(self, body: bytes) -> int:
        """Send a batch; return how many of its events are acknowledged as in the log."""
        self._writer.write(self._head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        answer = json.loads(await self._reader.readexactly(length))
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"wanted 200, found {head.decode().splitlines()[0]}: {answer}")
        return int(answer["accepted"])

    def close(self) -> None:
        self._writer.close()


async def closed_loop(connections: Sequence[Connection], prepared: Sequence[bytes], seconds: float) -> Load:
    """Send batches as fast as they are acknowledged."""
    events, times = 0, list[float]()
    began_s = time.monotonic()
    counted_from_s, end_s, waiting = began_s + warm_s, began_s + warm_s + seconds, iter(prepared)

    async def send(connection: Connection) -> None:
        nonlocal events
        while (sent_s := time.monotonic()) < end_s:
            body = next(waiting, None)
            if body is None:
                raise SystemExit("wanted more bodies: the gateway is faster than expected")
            taken = await connection.send(body)
            if sent_s >= counted_from_s:
                events += taken
                times.append(time.monotonic() - sent_s)

    await asyncio.gather(*(send(connection) for connection in connections))
    return load(events / (time.monotonic() - counted_from_s), times)


async def open_loop(
    connections: Sequence[Connection], prepared: Sequence[bytes], rate: float, batch: int, seconds: float
) -> Load:
    """Send batches at fixed times, whether those before are answered or not."""
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for connection in connections:
        free.put_nowait(connection)
    events, times, tasks = 0, list[float](), list[asyncio.Task[None]]()
    began_s = time.monotonic() + 0.1

    async def send(body: bytes, due_s: float) -> None:
        nonlocal events
        connection = await free.get()
        taken = await connection.send(body)
        events += taken
        times.append(time.monotonic() - due_s)
        free.put_nowait(connection)

    for number in range(int(seconds * rate / batch)):
        due_s = began_s + number * batch / rate
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        tasks.append(asyncio.create_task(send(prepared[number], due_s)))
    await asyncio.gather(*tasks)
    return load(events / (time.monotonic() - began_s), times)


def load(events_per_s: float, times: Sequence[float]) -> Load:
    """Return a measurement of these times in seconds."""
    ordered = sorted(times)
    return Load(
        events_per_s, 1000 * statistics.median(ordered), 1000 * ordered[int(0.99 * (len(ordered) - 1))],
        1000 * ordered[-1],
    )  # fmt: skip


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"process {pid}: wanted its memory, found none")


async def measure(child: Child, key: str, options: Any) -> list[dict[str, Any]]:
    """Measure each batch size and kind of event."""
    found_address = re.search(r"takes http://([^:]+):(\d+)/", child.text)
    assert found_address
    host, port = found_address.groups()
    found = []
    for batch, items in ((25, 1), (25, 5), (100, 1), (1, 1)):
        source = bodies(batch, items)
        connections = [Connection(host, int(port), key) for _ in range(options.connections)]
        for connection in connections:
            await connection.open()
        prepared = [next(source) for _ in range(int(options.most * (options.seconds + warm_s) / batch))]
        before = resident_mib(child.pid)
        full = await closed_loop(connections, prepared, options.seconds)
        rate = wanted_per_s / 2
        fixed = [next(source) for _ in range(int(options.seconds * rate / batch) + 1)]
        if full.events_per_s > rate:
            half = await open_loop(connections, fixed, rate, batch, options.seconds)
        else:
            half = Load(0, 0, 0, 0)
        for connection in connections:
            connection.close()
        found.append(
            {"batch": batch, "items": items, "full": full._asdict(), "half": half._asdict(), "rss_before_mib": before,
             "rss_after_mib": resident_mib(child.pid)}
        )  # fmt: skip
        print(f"batches of {batch}, {items} items: {full.events_per_s:,.0f} events/s", flush=True)
    return found


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("Events a second that the gateway acknowledges, and how long that takes.")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--most", type=int, default=40_000, help="events a second to prepare for")
    parser.add_argument("--kafka", action="store_true", help="on a local broker instead of SQLite")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        servers = stack.enter_context(broker.provide_broker(folder / "kafka")) if options.kafka else ""
        url = f"kafka:{servers}" if servers else f"sqlite:{folder / 'log.db'}"
        _, key = create(folder / "headrace-data" / "keys.json", "shop", "ingest", now_ms=wall_ms())
        environ = {"HEADRACE_GATEWAY__KEY_EVENTS_PER_S": "1000000"}
        with Children(folder, cwd=folder, environ=environ) as children:
            child = children.start("gateway", "gateway", "--log", url, "--port", "0", "--metrics-port", "0")
            cores = sorted(os.sched_getaffinity(0))
            for task in Path(f"/proc/{child.pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), {cores[0]})
            os.sched_setaffinity(0, {cores[-1]})
            found = asyncio.run(measure(child, key, options))
    kind = "Kafka" if options.kafka else "SQLite"
    report.show(
        f"The gateway on one core, {options.connections} connections, {kind}",
        ["events", "events/s", "p99 (ms)", "p50 (ms) at 2,500/s", "p99 (ms) at 2,500/s", "memory (MiB)"],
        [
            [f"batches of {one['batch']}, {one['items']} items", f"{one['full']['events_per_s']:,.0f}",
             f"{one['full']['p99_ms']:.1f}", f"{one['half']['p50_ms']:.1f}", f"{one['half']['p99_ms']:.1f}",
             f"{one['rss_before_mib']:.0f} to {one['rss_after_mib']:.0f}"]
            for one in found
        ],
    )  # fmt: skip
    report.write(options.out, {"log": kind, "connections": options.connections, "loads": found})


if __name__ == "__main__":
    report.run(main)
