"""A real Prometheus and Alertmanager with the shipped configuration, made faster, and a webhook that hears of alerts.

All durations of rules and configuration are divided by one factor, so that minutes become seconds: `for`, ranges,
offsets and intervals of rules; waits and intervals of Alertmanager.
"""

import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import pytest
from ruamel.yaml import YAML

from operators.child import Child, Children

DEPLOY: Final = Path(__file__).parents[1] / "deploy"
RULES: Final = DEPLOY / "prometheus/rules/headrace.yml"
ALERTMANAGER: Final = DEPLOY / "prometheus/alertmanager.yml"
UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
WAITS: Final = ("group_wait", "group_interval", "repeat_interval")


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


def faster_rules(factor: float, thresholds: Mapping[str, tuple[str, str]]) -> str:
    """Return the shipped rules with all durations divided by a factor.

    Args:
        thresholds: by alert, a threshold that takes as long to be reached, and what replaces it.
    """
    rules = YAML(typ="safe").load(RULES)
    for group in rules["groups"]:
        if "interval" in group:
            group["interval"] = faster(group["interval"], factor)
        for rule in group["rules"]:
            rule["expr"] = faster_expression(rule["expr"], factor)
            if "for" in rule:
                rule["for"] = faster(rule["for"], factor)
            if one := thresholds.get(rule.get("alert", "")):
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
