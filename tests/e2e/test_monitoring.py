"""Running processes export every metric that dashboards and alerts query, and its value changes."""

import itertools
import json
import os
import re
import time
from pathlib import Path
from typing import Final, NamedTuple

import httpx
import pytest
from ruamel.yaml import YAML

from headrace.log.open import open_log
from headrace.log.protocol import Outgoing
from headrace.topics import EVENTS
from operators.child import Children, Scraped
from tests.gateway_process import GatewayProcess, view

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
EVENTS_COUNT: Final = 4_000
SMALL: Final = {
    "SHARDS__ONLINE__SNAPSHOT_INTERVAL_S": "0.5",
    "SHARDS__FINETUNE__SNAPSHOT_INTERVAL_S": "0.5",
    "ROUNDS__ROUND_EVENTS": "600",
    "ROUNDS__GATE_RECORDS_MAX": "200",
    "ROUNDS__WIDTH": "16",
    "ROUNDS__PASSES": "1",
}
MAY_STAY_ZERO: Final = {
    'headrace_renewed_parts{how="begun"}': "every part is restored",
    'headrace_http_requests_total{code=~"5.."}': "no answer is an error",
    'headrace_gateway_requests_total{code=~"5.."}': "nor one of the gateway",
    "headrace_artifact_missing": "blobs are not lost",
    "headrace_gateway_log_away": "the log can be written",
    "headrace_gateway_lost_records": "no record is too large for it",
    "headrace_snapshot_failures": "the disk is not full",
    'headrace_rounds_total{outcome="failed"}': "no round fails",
    'headrace_rounds_total{outcome="promoted"}': "this test does not decide whether a model is better",
    'headrace_rounds_total{outcome="rolled_back"}': "nor whether one is worse",
    "headrace_champion_round": "so there may be no champion",
    "headrace_drift_alarms_total": "nothing drifts",
    "headrace_follower_differs_total": "the server folds as the shard does",
    "headrace_impressions_dropped_total": "the log takes all impressions",
    "headrace_lag_records": "nothing waits for long",
    "headrace_placement_click_through_ratio": "nobody clicks on an answer of this server",
    "headrace_placement_revenue_total": "nor buys what it showed",
    "headrace_placement_uses_total": "the simulated shop's own lists are not those of this server",
    "headrace_round_overdue_records": "rounds begin in time",
    "headrace_stray_records": "nobody else writes to the journal",
    "headrace_topic_settings_wrong": "the topics are made by Headrace",
    "headrace_unstable_records": "no transaction stays open",
}
"""Series that may stay 0 in a good run (or be missing, for code 5xx), with the reason."""


class Selector(NamedTuple):
    """A selector of an expression: the metric's name, and (label, =~ or =, value) for each condition."""

    name: str
    wanted: tuple[tuple[str, str, str], ...]

    def values(self, scraped: dict[str, Scraped]) -> list[float]:
        """Return the values of the selected series."""
        return [
            value
            for job, series in scraped.items()
            for (name, labels), value in series.items()
            if name == self.name and self._fits({"job": job, **dict(labels)})
        ]

    def _fits(self, labels: dict[str, str]) -> bool:
        return all(
            re.fullmatch(value if how == "=~" else re.escape(value), labels.get(label, "")) is not None
            for label, how, value in self.wanted
        )

    def may_stay_zero(self) -> bool:
        """Whether the value may stay 0 in a good run."""
        return any(
            found.name == self.name and set(found.wanted) <= set(self.wanted) for found in map(_selector, MAY_STAY_ZERO)
        )


def _selector(text: str) -> Selector:
    return selectors(text)[0]


def selectors(expression: str) -> list[Selector]:
    """Return the selectors of Headrace's own metrics and of `process_*` in a PromQL expression.

    >>> selectors('rate(headrace_x_total{job="online"}[1m]) / process_y')
    [Selector(name='headrace_x_total', wanted=(('job', '=', 'online'),)), Selector(name='process_y', wanted=())]
    """
    return [
        Selector(name, tuple(re.findall(r'(\w+)\s*(=~|=)\s*"([^"]*)"', labels)))
        for name, labels in re.findall(r"\b((?:headrace|process)_\w+)(\{[^}]*\})?", expression)
    ]


def queried() -> set[Selector]:
    """Return the selectors of all dashboards and alerts."""
    expressions = []
    for path in DEPLOY.glob("grafana/dashboards/*.json"):
        dashboard = json.loads(path.read_text())
        targets = [target for panel in dashboard["panels"] for target in panel.get("targets", [])]
        expressions += [one["expr"] for one in [*targets, *dashboard["annotations"]["list"]] if "expr" in one]
    for path in DEPLOY.glob("prometheus/rules/*.yml"):
        groups = YAML(typ="safe").load(path)["groups"]
        expressions += [rule["expr"] for group in groups for rule in group["rules"]]
    return {selector for expression in expressions for selector in selectors(expression)}


@pytest.mark.timeout(300)
def test_every_queried_metric_is_exported_and_changes(
    tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:{tmp_path / 'log.db'}"
    places = {"LOG": url, "KEYS": str(tmp_path / "keys.json"), "GATEWAY__PORT": "0", "GATEWAY__METRICS_PORT": "0"}
    for name, value in {**SMALL, **places}.items():
        monkeypatch.setenv(f"HEADRACE_{name}", value)
    monkeypatch.chdir(tmp_path)
    common = ["--log", url, "--blobs", str(tmp_path / "blobs")]
    readers = {
        kind: children.start(kind, kind, *common, "--port" if kind == "serve" else "--metrics-port", "0", up=False)
        for kind in ("online", "finetune", "serve")
    }
    for child in readers.values():
        child.wait_until_up()
    log = open_log(url)
    appender = log.appender()
    appender.append(Outgoing(EVENTS, b"somebody", b"no event"))
    appender.flush()
    appender.close()
    log.close()
    # Each publishes for a quarter of a minute, so that the producer can be scraped, too.
    simulate = ["simulate", "--events", str(EVENTS_COUNT), "--items", "200", "--shoppers", "200", "--days", "7"]
    command = [*simulate, "--speed", "40000x", "--log", url, "--metrics-port", "0"]
    gateway = GatewayProcess(children, tmp_path, os.environ)
    running = {**readers, "gateway": gateway.child, "producer": children.start("producer", *command)}
    seeds, numbers = itertools.count(1), itertools.count()

    selected = queried()
    assert len({selector.name for selector in selected}) > 25, "the dashboards and alerts were not found"
    scraped: dict[str, Scraped] = {}
    changed: set[Selector] = set()
    deadline = time.monotonic() + 200
    while selected - changed and time.monotonic() < deadline:
        httpx.get(f"{readers['serve'].address}/v1/recommendations/somebody", timeout=60)
        gateway.ask("POST", "/v1/events", [view(f"e{next(numbers)}"), {}], timeout_s=60)
        if (
            running["producer"].code is not None
        ):  # a round that trained longer than that still needs events to be judged
            running["producer"] = children.start("producer", *command, "--seed", str(next(seeds)))
        scraped |= {kind: found for kind, child in running.items() if (found := child.scrape())}
        for selector in selected - changed:
            values = selector.values(scraped)
            if any(value > 0 for value in values) or (
                selector.may_stay_zero() and (values or "code" in str(selector.wanted))
            ):
                changed.add(selector)
        time.sleep(0.2)
    assert sorted(selected - changed) == []
