"""What HTTP costs: requests per second on one core, and processor time per request, through several servers.

    python -m benchmarks.http_rate --out benchmarks/results/http_rate.json

Each server has one core to itself and gives the same two answers, counted as in `headrace serve`; `wrk` asks from
another core over kept connections. The servers take turns in rounds, and medians are reported. The processor time of a
server depends least on what else the machine does.
"""

import asyncio
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks import report
from headrace.direct import Direct
from headrace.errors import Misconfigured
from headrace.http import counted_route, error_handler, json, listen
from headrace.metrics import ServingMetrics
from headrace.process import collect_garbage_rarely
from headrace.server import serving
from serving.app import Observer

HANDLERS: Final[dict[str, Callable[[Request, bytes], Response]]] = {
    "/health/live": lambda request, body: json({"live": True}),
    "/1kb": lambda request, body: Response(b"x" * 1024, media_type="application/json"),
}
FORMER: Final = "uvicorn, h11, asyncio, Starlette"
SERVERS: Final = ("Headrace, direct routes", "Headrace, Starlette", "uvicorn, httptools, uvloop, Starlette", FORMER)
host: Final = "127.0.0.1"
start_s_max: Final = 30.0


def serve(name: str, port: int) -> None:
    """Serve until the process is ended."""
    metrics = ServingMetrics()
    direct = [counted_route(metrics, path, handler) for path, handler in HANDLERS.items()]

    def route(path: str, handler: Callable[[Request, bytes | None], Response]) -> Route:
        async def answer(request: Request) -> Response:
            return handler(request, b"")

        return Route(path, answer)

    app = Starlette(routes=[route(path, one.handler) for path, one in zip(HANDLERS, direct, strict=True)])

    async def serve_by_headrace(app: Starlette | Direct) -> None:
        async with serving(app, listen(host, port), Observer(metrics), connections_max=100, request_s_max=10.0):
            await asyncio.Event().wait()

    collect_garbage_rarely()
    if name == SERVERS[0]:
        uvloop.run(serve_by_headrace(Direct(direct, error_handler(metrics, [("GET", path) for path in HANDLERS]))))
    elif name == SERVERS[1]:
        uvloop.run(serve_by_headrace(app))
    else:
        http, loop = ("h11", "asyncio") if name == FORMER else ("httptools", "uvloop")
        uvicorn.run(app, host=host, port=port, http=http, loop=loop, log_level="error", access_log=False)


@contextmanager
def started(name: str, core: int) -> Iterator[tuple[int, int]]:
    """Yield the process id and the port of a server that listens."""
    with listen(host, 0) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.http_rate", "--serve", name, "--port", str(port)]
    process = subprocess.Popen(["taskset", "-c", str(core), *command])
    try:
        deadline = time.monotonic() + start_s_max
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name}: wanted a server within {start_s_max:g} s, found none")
            time.sleep(0.1)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port)):
        return True
    return False


def processor_s(pid: int) -> float:
    """Return the processor time of a process, in seconds."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(pid: int, url: str, core: int, connections: int, seconds: int) -> dict[str, float]:
    """Ask as fast as answers come; return requests/s, processor time per request in µs, and times in ms."""
    command = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", url]
    before_s = processor_s(pid)
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    spent_s = processor_s(pid) - before_s
    if "Non-2xx" in text or "Socket errors" in text:
        raise SystemExit(f"{url}: wanted answers, found: {text}")
    requests, rate = float(_found(r"(\d+) requests in", text)), float(_found(r"Requests/sec: +([\d.]+)", text))
    found = {"requests_per_s": rate, "processor_us": 1e6 * spent_s / requests}
    for share in (50, 99):
        number, unit = re.findall(rf"{share}% +([\d.]+)(us|ms|s)", text)[0]
        found[f"p{share}_ms"] = float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]
    return found


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise SystemExit(f"wanted {pattern} in the output of wrk, found: {text}")
    return match[1]


def main(arguments: Sequence[str] | None) -> None:
    """Run the benchmark."""
    parser = report.parser("Requests per second and processor time per request through several HTTP servers.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--serve", choices=SERVERS, help="serve instead of measuring (used by the benchmark itself)")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.serve:
        serve(options.serve, options.port)
        return
    for tool in ("wrk", "taskset"):
        if shutil.which(tool) is None:
            raise Misconfigured(f"wanted {tool} (Debian: {'util-linux' if tool == 'taskset' else tool}), found none")
    cores = sorted(os.sched_getaffinity(0))
    rounds: dict[str, dict[str, list[dict[str, float]]]] = {
        path: {name: [] for name in SERVERS} for path in HANDLERS
    }  # fmt: skip
    with ExitStack() as stack:
        servers = {name: stack.enter_context(started(name, cores[-1])) for name in SERVERS}
        for _ in range(options.rounds):
            for path, by_server in rounds.items():
                for name, (pid, port) in servers.items():
                    url = f"http://{host}:{port}{path}"
                    by_server[name].append(measure(pid, url, cores[0], options.connections, options.seconds))
    figures: dict[str, Any] = {"rounds": rounds, "medians": {}, "options": {"rounds": options.rounds,
                               "seconds": options.seconds, "connections": options.connections}}  # fmt: skip
    for path, by_server in rounds.items():
        medians = {
            name: {key: statistics.median(one[key] for one in found) for key in found[0]}
            for name, found in by_server.items()
        }
        for one in medians.values():
            one["ratio"] = medians[FORMER]["processor_us"] / one["processor_us"]
        figures["medians"][path] = medians
        report.show(
            f"{path}, {options.connections} connections, medians of {options.rounds} rounds",
            ("server", "requests/s", "p50 (ms)", "p99 (ms)", "processor time per request (µs)", "times less"),
            [
                [name, f"{one['requests_per_s']:,.0f}", f"{one['p50_ms']:.2f}", f"{one['p99_ms']:.2f}",
                 f"{one['processor_us']:.0f}", f"{one['ratio']:.1f}"]
                for name, one in medians.items()
            ],
        )  # fmt: skip
    report.write(options.out, figures)


if __name__ == "__main__":
    report.run(main)
