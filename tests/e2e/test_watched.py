"""What dashboards and alerts ask for is told by running processes, and moves."""

import json
import re
import time
from pathlib import Path
from typing import Final, NamedTuple

import httpx
import pytest
from ruamel.yaml import YAML

from headrace.log import Outgoing, open_log
from headrace.topics import EVENTS
from operators.child import Children, Scraped

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
EVENTS_COUNT: Final = 4_000
SMALL: Final = {
    "ONLINE__SNAPSHOT_INTERVAL_S": "0.5",
    "FINETUNE__SNAPSHOT_INTERVAL_S": "0.5",
    "FINETUNE__ROUND_EVENTS": "600",
    "FINETUNE__GATE_EVENTS_MAX": "200",
    "FINETUNE__WIDTH": "16",
    "FINETUNE__PASSES": "1",
}
STILL: Final = {
    'headrace_http_requests_total{code=~"5.."}': "no answer is an error",
    'headrace_rounds_total{outcome="failed"}': "no round fails",
    'headrace_rounds_total{outcome="promoted"}': "whether a model is better is not decided here",
    'headrace_rounds_total{outcome="rolled_back"}': "nor whether one is worse",
    "headrace_champion_round": "so there may be no champion",
    "headrace_drift_alarms_total": "nothing drifts",
    "headrace_lag_records": "nothing waits for long",
}
"""What stays 0, or for a 5xx is not even there, in a good run, and why."""


class Selector(NamedTuple):
    """A metric as an expression asks for it: its name, and (label, =~ or =, value)."""

    name: str
    wanted: tuple[tuple[str, str, str], ...]

    def values(self, scraped: dict[str, Scraped]) -> list[float]:
        """Return the values of the series that it selects."""
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

    def still(self) -> bool:
        """Whether a good run need not move it."""
        return any(found.name == self.name and set(found.wanted) <= set(self.wanted) for found in map(_one, STILL))


def _one(text: str) -> Selector:
    return selectors(text)[0]


def selectors(expression: str) -> list[Selector]:
    """Return what a PromQL expression selects of our own metrics and `process_*`.

    >>> selectors('rate(headrace_x_total{job="online"}[1m]) / process_y')
    [Selector(name='headrace_x_total', wanted=(('job', '=', 'online'),)), Selector(name='process_y', wanted=())]
    """
    return [
        Selector(name, tuple(re.findall(r'(\w+)\s*(=~|=)\s*"([^"]*)"', labels)))
        for name, labels in re.findall(r"\b((?:headrace|process)_\w+)(\{[^}]*\})?", expression)
    ]


def asked() -> set[Selector]:
    """Return what all dashboards and alerts select."""
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
def test_every_metric_asked_for_is_told_and_moves(
    tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SMALL.items():
        monkeypatch.setenv(f"HEADRACE_{name}", value)
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:{tmp_path / 'log.db'}"
    common = ["--log", url, "--blobs", str(tmp_path / "blobs")]
    readers = {
        kind: children.start(kind, kind, *common, "--port" if kind == "serve" else "--metrics-port", "0", up=False)
        for kind in ("online", "finetune", "serve")
    }
    for child in readers.values():
        child.await_up()
    log = open_log(url)
    appender = log.appender()
    appender.append(Outgoing(EVENTS, b"somebody", b"no event"))
    appender.flush()
    appender.close()
    log.close()
    # Half a minute of publishing, so that the producer can be watched, too.
    simulate = ["simulate", "--events", str(EVENTS_COUNT), "--items", "200", "--shoppers", "200", "--days", "7"]
    command = [*simulate, "--speed", "20000x", "--log", url, "--metrics-port", "0"]
    running = {**readers, "producer": children.start("producer", *command)}

    selected = asked()
    assert len({selector.name for selector in selected}) > 25, "the dashboards and alerts were not found"
    scraped: dict[str, Scraped] = {}
    moved: set[Selector] = set()
    deadline = time.monotonic() + 200
    while selected - moved and time.monotonic() < deadline:
        httpx.get(f"{readers['serve'].address}/v1/recommendations/somebody", timeout=60)
        scraped |= {kind: found for kind, child in running.items() if (found := child.scrape())}
        for selector in selected - moved:
            values = selector.values(scraped)
            if any(value > 0 for value in values) or (selector.still() and (values or "code" in str(selector.wanted))):
                moved.add(selector)
        time.sleep(0.2)
    assert sorted(selected - moved) == []
