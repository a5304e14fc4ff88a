"""A real Prometheus and Alertmanager with the shipped configuration, made faster, and a webhook that hears of alerts.

All durations of rules and configuration are divided by one factor, so that minutes become seconds: `for`, ranges,
offsets and intervals of rules; waits and intervals of Alertmanager.
"""

import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import httpx
import pytest
from ruamel.yaml import YAML

from operators.child import Child, Children
from operators.running import TARGETS

DEPLOY: Final = Path(__file__).parents[1] / "deploy"
RULES: Final = DEPLOY / "prometheus/rules/headrace.yml"
ALERTMANAGER: Final = DEPLOY / "prometheus/alertmanager.yml"
UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
WAITS: Final = ("group_wait", "group_interval", "repeat_interval")
RESOLVED_S: Final = 60.0
"""Within which an alert is to be over after the mend."""


def faster(duration: str, factor: float) -> str:
    """Return a duration divided by a factor.

    >>> faster("5m", 60), faster("1h30m", 60), faster("30s", 60)
    ('5000ms', '90000ms', '500ms')
    """
    parts = re.findall(r"(\d+)(ms|s|m|h|d)", duration)
    return f"{round(sum(int(count) * UNITS_MS[unit] for count, unit in parts) / factor)}ms"


def faster_expression(expression: str, factor: float) -> str:
    """Return PromQL with its ranges and offsets divided by a factor.

    >>> faster_expression("max_over_time(x[1h]) > 300 and rate(y[5m] offset 1d) > 0", 60)
    'max_over_time(x[60000ms]) > 300 and rate(y[5000ms] offset 1440000ms) > 0'
    """
    return re.sub(r"(\[|offset )((?:\d+(?:ms|[smhd]))+)", lambda found: found[1] + faster(found[2], factor), expression)


def faster_rules(factor: float, thresholds: Mapping[str, tuple[str, str]], factors: Mapping[str, float]) -> str:
    """Return the shipped rules with all durations divided by a factor.

    Args:
        thresholds: by alert, a threshold that takes as long to be reached, and what replaces it.
        factors: by alert, another factor, of those that take days.
    """
    rules = YAML(typ="safe").load(RULES)
    for group in rules["groups"]:
        if "interval" in group:
            group["interval"] = faster(group["interval"], factor)
        for rule in group["rules"]:
            name = rule.get("alert", "")
            by = factors.get(name, factor)
            rule["expr"] = faster_expression(rule["expr"], by)
            if "for" in rule:
                rule["for"] = faster(rule["for"], by)
            if one := thresholds.get(name):
                assert rule["expr"].count(one[0]) == 1
                rule["expr"] = rule["expr"].replace(*one)
    return json.dumps(rules)


def faster_alertmanager(factor: float, url: str) -> str:
    """Return the shipped configuration of Alertmanager with a webhook at `url`, its waits divided by a factor."""
    config = YAML(typ="safe").load(ALERTMANAGER)

    def visit(route: dict[str, Any]) -> None:
        for name in WAITS:
            if name in route:
                route[name] = faster(route[name], factor)
        for below in route.get("routes", []):
            visit(below)

    visit(config["route"])
    for receiver in config["receivers"]:
        for webhook in receiver["webhook_configs"]:
            webhook["url"] = url
    return json.dumps(config)


class Alarm(NamedTuple):
    """An alert as a shop hears of it; `job` is empty where it has none."""

    name: str
    job: str = ""


class Webhook:
    """Takes the messages of Alertmanager: what has arrived, and what was told to be over."""

    def __init__(self) -> None:
        self.messages: list[tuple[float, str, Alarm, dict[str, str]]] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="webhook")
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/alerts"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                webhook.take(body["alerts"])
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler

    def __enter__(self) -> "Webhook":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def take(self, alerts: Sequence[Mapping[str, Any]]) -> None:
        """Note the alerts of a message."""
        with self._lock:
            for one in alerts:
                labels = one["labels"]
                alarm = Alarm(labels["alertname"], labels.get("job", ""))
                self.messages.append((time.monotonic(), one["status"], alarm, one["annotations"] | labels))

    def arrived(self, since: int = 0) -> set[Alarm]:
        """Return the alerts that have fired, of the messages from a number on."""
        return {alarm for _, status, alarm, _ in self.messages[since:] if status == "firing"}

    def firing(self) -> set[Alarm]:
        """Return the alerts that have fired, and are not resolved."""
        last: dict[tuple[Alarm, str], str] = {}
        for _, status, alarm, texts in list(self.messages):
            last[alarm, texts.get("detector", "")] = status
        return {alarm for (alarm, _), status in last.items() if status == "firing"}

    def told(self) -> str:
        """Return all messages, for a failure."""
        return "\n".join(
            f"{at:.1f} {status} {alarm.name} {alarm.job}: {texts['summary']}"
            for at, status, alarm, texts in self.messages
        )


def program(*names: str) -> str:
    """Return the path of a program that has one of these names."""
    for name in names:
        if path := shutil.which(name):
            return path
    pytest.skip(f"needs {names[0]}: apt-get install prometheus prometheus-alertmanager")


def free_ports(count: int) -> list[int]:
    """Return ports that nobody uses, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def answers(address: str) -> bool:
    """Return whether Prometheus or Alertmanager is ready."""
    try:
        return httpx.get(f"{address}/-/ready", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def start_alertmanager(children: Children, folder: Path, config: str) -> tuple[Child, str]:
    """Start Alertmanager with a configuration; return it and its address."""
    path = folder / "alertmanager.json"
    path.write_text(config)
    (port,) = free_ports(1)
    command = [
        program("prometheus-alertmanager", "alertmanager"), "--config.file", str(path),
        "--storage.path", str(folder / "alertmanager"), "--web.listen-address", f"127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]  # fmt: skip
    return children.run("alertmanager", command), f"http://127.0.0.1:{port}"


class Watched:
    """Processes in a folder that a Prometheus and an Alertmanager watch, with a webhook that hears of alerts.

    Attributes:
        seconds: by alert, the longest time from the fault to the message.
        data: the folder of what they keep.
        children: started by whoever derives from it, before `watch`.
    """

    seconds: Mapping[str, float]
    children: Children

    def __init__(self, folder: Path, data: Path, stack: ExitStack) -> None:
        self.folder, self.data, self.stack = folder, data, stack
        self.webhook = stack.enter_context(Webhook())

    def watch(
        self,
        ports: Mapping[str, int],
        factor: float,
        *,
        thresholds: Mapping[str, tuple[str, str]] = MappingProxyType({}),
        factors: Mapping[str, float] = MappingProxyType({}),
        known: str = "",
    ) -> None:
        """Start Prometheus and Alertmanager, both made faster as `faster_rules` says.

        Args:
            ports: of the processes' metrics, by job.
            known: OpenMetrics samples that Prometheus has from before.
        """
        copied = self.folder / "deploy/prometheus"
        shutil.copytree(DEPLOY / "prometheus", copied)
        (copied / "rules/headrace.yml").write_text(faster_rules(factor, thresholds, factors))
        child, address = start_alertmanager(self.children, self.folder, faster_alertmanager(factor, self.webhook.url))
        assert child.code is None
        self.alertmanager = address
        config = copied / "prometheus.yml"
        config.write_text(config.read_text().replace("_interval: 5s", "_interval: 1s"))
        (copied / "alertmanagers/local.yml").write_text(json.dumps([{"targets": [address.removeprefix("http://")]}]))
        targets = [{"targets": [f"127.0.0.1:{port}"], "labels": {"job": job}} for job, port in ports.items()]
        (self.data / TARGETS).write_text(json.dumps(targets))
        storage = self.folder / "prometheus"
        if known:
            history = self.folder / "known.txt"
            history.write_text(known)
            subprocess.run(
                [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", history, storage],
                check=True, capture_output=True,
            )  # fmt: skip
        (port,) = free_ports(1)
        self.prometheus = f"http://127.0.0.1:{port}"
        command = [program("prometheus"), "--config.file", str(config), "--storage.tsdb.path", str(storage)]
        self.children.run("prometheus", [*command, "--web.listen-address", f"127.0.0.1:{port}"])
        for one in (self.alertmanager, self.prometheus):
            self.children.wait_until(f"{one} is ready", partial(answers, one), 30)

    def knows(self, query: str) -> bool:
        """Return whether Prometheus has an answer to a query."""
        found = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": query}, timeout=10).json()
        return bool(found["data"]["result"])

    def _fires(self, alarm: Alarm) -> bool:
        return alarm in self.webhook.firing()

    def wait_for(self, *wanted: Alarm, since_s: float) -> None:
        """Wait until alerts have arrived, each within its time after the fault."""
        for alarm in wanted:
            left_s = since_s + self.seconds[alarm.name] - time.monotonic()
            try:
                self.children.wait_until(f"{alarm} arrives", partial(self._fires, alarm), left_s)
            except Exception as error:
                raise AssertionError(f"{alarm} has not arrived; messages:\n{self.webhook.told()}\n{error}") from None

    def wait_until_over(self, *alarms: Alarm, within_s: float = RESOLVED_S) -> None:
        """Wait until alerts are told to be over."""
        try:
            self.children.wait_until(f"{alarms} are over", lambda: not set(alarms) & self.webhook.firing(), within_s)
        except Exception as error:
            raise AssertionError(f"{alarms} are not over; messages:\n{self.webhook.told()}\n{error}") from None

    @contextmanager
    def only(self, *wanted: Alarm, besides: Collection[Alarm] = ()) -> Iterator[None]:
        """Assert that in the block exactly these alerts begin to fire; those of `besides` may."""
        already, since = self.webhook.firing(), len(self.webhook.messages)
        yield
        assert self.webhook.arrived(since) - already - {*besides} == set(wanted), self.webhook.told()


@contextmanager
def alertmanager(folder: Path, config: str) -> Iterator[str]:
    """Yield the address of an Alertmanager with a configuration."""
    with Children(folder) as children:
        _, address = start_alertmanager(children, folder, config)
        children.wait_until("Alertmanager is ready", lambda: answers(address), 30)
        yield address


def post(address: str, alarms: Collection[Mapping[str, str]], ends: str = "") -> None:
    """Post alerts, by their labels, to Alertmanager, as Prometheus does."""
    alerts = [{"labels": dict(labels), **({"endsAt": ends} if ends else {})} for labels in alarms]
    httpx.post(f"{address}/api/v2/alerts", json=alerts, timeout=10).raise_for_status()


def inhibited(address: str) -> set[Alarm]:
    """Return the alerts that Alertmanager holds back."""
    found = httpx.get(f"{address}/api/v2/alerts", timeout=10).json()
    return {
        Alarm(one["labels"]["alertname"], one["labels"].get("job", "")) for one in found if one["status"]["inhibitedBy"]
    }
