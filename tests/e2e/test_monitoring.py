"""Running processes export every metric that dashboards and alerts query, its value changes, and no panel is empty."""

import itertools
import json
import math
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import pytest
from ruamel.yaml import YAML

from headrace.experiments import Arm, Experiment, Explore, record_of
from headrace.keys import create
from headrace.log.open import open_log
from headrace.log.protocol import Outgoing
from headrace.topics import EVENTS
from operators.child import Child, Children, Scraped
from operators.running import TARGETS
from tests.boards import BOARDS, Asked, annotations, queries
from tests.prometheus import Prometheus

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
EVENTS_COUNT: Final = 10_000
SMALL: Final = {
    "SHARDS__ONLINE__SNAPSHOT_INTERVAL_S": "0.5",
    "SHARDS__FINETUNE__SNAPSHOT_INTERVAL_S": "0.5",
    "ROUNDS__ROUND_EVENTS": "600",
    "ROUNDS__GATE_RECORDS_MAX": "200",
    "ROUNDS__WIDTH": "16",
    "ROUNDS__PASSES": "1",
}
MAY_STAY_ZERO: Final = {
    "headrace_renewed_parts": "every part is restored",
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
    "headrace_amounts_dropped_total": "all amounts are in the shop's currency",
    "headrace_demand_score": "nothing is forecast before there are nine weeks",
    "headrace_drift_alarms_total": "nothing drifts",
    "headrace_follower_compared_total": "a server compares states every ten minutes",
    "headrace_follower_differs_total": "the server folds as the shard does",
    "headrace_gateway_connections": "requests are short",
    "headrace_gateway_spooled_records_total": "nor spooled",
    "headrace_gateway_turned_away_total": "one request at a time",
    "headrace_http_connections": "requests are short",
    "headrace_http_turned_away_total": "one request at a time",
    "headrace_impressions_dropped_total": "the log takes all impressions",
    "headrace_item_records_rejected_total": "all items are good",
    "headrace_lag_records": "nothing waits for long",
    "headrace_lines_dropped_total": "all lines are good",
    "headrace_oldest_waiting_event_seconds": "nothing waits for long",
    "headrace_experiment_left_out": "no shopper is a bot, or in two arms",
    "headrace_experiment_relative_difference": "bounds and differences may be below 0",
    "headrace_exploration_agreement_ratio": "it takes hundreds of answers to tell it",
    "headrace_exploration_reward_ratio": "clicks are of another time than the simulated shop's",
    "headrace_exploration_rollbacks_total": "no policy is worse than the one before",
    "headrace_exploration_unlearned_total": "all answers fit their arm",
    "headrace_placement_evictions_total": "no table is full",
    "headrace_round_overdue_records": "rounds begin in time",
    "headrace_segment_moves_unwritten_total": "no minute has more moves than may be written",
    'headrace_stock_items{risk="dead"}': "the stock of no item lasts for a year",
    "headrace_stock_outs_total": "a week may be too short to tell what sells out",
    "headrace_stray_records": "nobody else writes to the journal",
    "headrace_topic_settings_wrong": "the topics are made by Headrace",
    "headrace_trimmed_records_total": "nothing is old",
    "headrace_unstable_records": "no transaction stays open",
    "headrace_value_class_shoppers": "the first outcomes are known after 91 days",
    "headrace_value_score": "they are judged as late",
}
"""Series that may stay 0 in a good run, with the reason."""
MAY_BE_MISSING: Final = re.compile(r"code|headrace_value_score|headrace_demand_score")
"""Those of them that have no value at all before it happens."""


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
    expressions = [asked.expr for path in BOARDS for asked in (*queries(path), *annotations(path))]
    for path in DEPLOY.glob("prometheus/rules/*.yml"):
        groups = YAML(typ="safe").load(path)["groups"]
        expressions += [rule["expr"] for group in groups for rule in group["rules"]]
    return {selector for expression in expressions for selector in selectors(expression)}


class Shopping:
    """A shopper who is shown lists, and whose page sends to the gateway what comes of every third one."""

    def __init__(self, serve: Child, gateway: Child, key: str) -> None:
        found = re.search(r"takes (http://[^/]+)/", gateway.text)
        assert found
        self._serve, self._gateway, self._key = serve.address, found[1], key
        self._count, self._shopper = 0, ""

    def turn(self) -> None:
        """Ask for a list; click on it, put the first item into a cart and buy it."""
        self._count += 1
        self._shopper = f"ann-{self._count % 20}"
        asked = {"n": 3, "placement": ("home", "cart")[self._count % 2]}
        answer = httpx.get(f"{self._serve}/v1/recommendations/{self._shopper}", params=asked, timeout=60)
        if answer.status_code == 200 and answer.json()["items"] and self._count % 3 == 0:
            item = {"item_id": answer.json()["items"][0]["item_id"], "price": 10.0, "quantity": 1}
            for kind in ("select_item", "add_to_cart", "purchase"):
                self._send(kind, {"items": [item], "recommendation_id": answer.json()["recommendation_id"]})
            self._send("no type", {})

    def _send(self, kind: str, data: dict[str, Any]) -> None:
        event = {"id": f"{kind}-{self._count}", "type": kind, "subject": self._shopper, "data": data}
        headers = {"authorization": f"Bearer {self._key}"}
        httpx.post(f"{self._gateway}/v1/events", json=event, headers=headers, timeout=60)


def watched(children: Children, folder: Path, running: Mapping[str, Child]) -> Prometheus:
    """Start Prometheus as it is shipped, but with a scrape each second, on the running processes."""
    shutil.copytree(DEPLOY / "prometheus", folder / "deploy/prometheus")
    config = folder / "deploy/prometheus/prometheus.yml"
    config.write_text(config.read_text().replace("5s", "1s"))
    set_targets(folder, running)
    return Prometheus(children, config, folder)


def set_targets(folder: Path, running: Mapping[str, Child]) -> None:
    """Write where the processes listen, as `headrace up` does."""
    groups = [
        {"targets": [child.address.removeprefix("http://")], "labels": {"job": job}} for job, child in running.items()
    ]
    (folder / "headrace-data" / TARGETS).write_text(json.dumps(groups))


def has_data(prometheus: Prometheus, asked: Asked, start_s: float) -> bool:
    """Return whether Grafana would draw anything for a query."""
    found = prometheus.ask("query_range", query=asked.expr, start=start_s, end=time.time(), step=1) or {"result": []}
    values = (float(value) for series in found["result"] for _, value in series["values"])
    return any(map(math.isfinite, values))


@pytest.mark.timeout(300)
def test_every_queried_metric_changes_and_no_panel_is_empty(
    tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:{tmp_path / 'log.db'}"
    places = {"LOG": url, "KEYS": str(tmp_path / "keys.json"), "GATEWAY__PORT": "0", "GATEWAY__METRICS_PORT": "0"}
    for name, value in {**SMALL, **places}.items():
        monkeypatch.setenv(f"HEADRACE_{name}", value)
    monkeypatch.chdir(tmp_path)
    common = ["--log", url, "--blobs", str(tmp_path / "blobs")]
    log = open_log(url)
    log.create()
    key = create(tmp_path / "keys.json", "acme", "ingest", now_ms=0)[1]
    started_s = time.time()
    readers = {
        kind: children.start(kind, kind, *common, "--port" if kind == "serve" else "--metrics-port", "0", up=False)
        for kind in ("online", "finetune", "serve")
    }
    readers["gateway"] = children.start(
        "gateway", "gateway", "--log", url, "--metrics-port", "0", "--set=gateway.port=0", up=False
    )
    for child in readers.values():
        child.wait_until_up()
    appender = log.appender()
    appender.append(Outgoing(EVENTS, b"somebody", b"no event"))
    explore = Explore(rankers=("recommended", "popular"), window_minutes=1)
    appender.append(record_of("home", Experiment((Arm("control"), Arm("new", explore=explore)), state="running")))
    appender.flush()
    appender.close()
    log.close()
    # Each publishes for a quarter of a minute, so that the producer can be scraped, too.
    simulate = ["simulate", "--events", str(EVENTS_COUNT), "--items", "200", "--shoppers", "400", "--days", "7"]
    simulate += ["--stocked", "0.5"]
    command = [*simulate, "--speed", "40000x", "--log", url, "--metrics-port", "0"]
    running = {**readers, "producer": children.start("producer", *command)}
    seeds = itertools.count(1)
    prometheus = watched(children, tmp_path, running)
    shopping = Shopping(running["serve"], running["gateway"], key)

    selected = queried()
    assert len({selector.name for selector in selected}) > 25, "the dashboards and alerts were not found"
    scraped: dict[str, Scraped] = {}
    changed: set[Selector] = set()
    deadline = time.monotonic() + 200
    while selected - changed and time.monotonic() < deadline:
        shopping.turn()
        if (
            running["producer"].code is not None
        ):  # a round that trained longer than that still needs events to be judged
            running["producer"] = children.start("producer", *command, "--seed", str(next(seeds)))
            set_targets(tmp_path, running)
        scraped |= {kind: found for kind, child in running.items() if (found := child.scrape())}
        for selector in selected - changed:
            values = selector.values(scraped)
            if any(value > 0 for value in values) or (
                selector.may_stay_zero() and (values or MAY_BE_MISSING.search(str(selector)))
            ):
                changed.add(selector)
        time.sleep(0.2)
    assert "\n".join(map(str, sorted(selected - changed))) == ""

    empty = [asked for path in BOARDS for asked in queries(path, scrape_interval_s=1)]
    assert len(empty) > 100, "the dashboards were not found"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        empty = [asked for asked in empty if not has_data(prometheus, asked, started_s)]
        if not empty:
            break
        time.sleep(1)
    prometheus.close()
    assert empty == []
