"""Alerts fire when something is wrong, and never otherwise: each scenario asserts every rule at every minute."""

import json
import math
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from ruamel.yaml import YAML

from tests.fluid import Rate, during, steady
from tests.monitored import DAY, PROCESSES, READERS, SHARDS, Fires, Scenario, watched

ROOT: Final = Path(__file__).parents[2]
RULES: Final = ROOT / "deploy/prometheus/rules/headrace.yml"
PAGE: Final = ROOT / "docs/alerts.md"
RULE_TESTS: Final = ROOT / "deploy/prometheus/tests"

LARGE: Final = steady(50_000_000 / DAY)
LARGE_REQUESTS: Final = steady(600)  # a sample of them


def small(minute: int) -> float:
    """Return the events per minute of a shop of 10,000 a day, at night nearly none."""
    by_day = 10_000 / 900 * (1 + 0.5 * math.sin(minute / 90))
    return by_day if 360 <= minute % DAY < 1_260 else 0.02


def hourly(minute: int) -> float:
    """Return the events per minute of a shop whose system sends them once an hour."""
    return 400.0 if minute % 60 == 7 else 0.0


def times(rate: Rate, factor: float) -> Rate:
    """Return a multiple of a rate."""
    return lambda minute: factor * rate(minute)


NOON: Final = 720  # scenarios of a small shop that do not begin at midnight are shifted by this


def at_noon(minute: int) -> float:
    """Return the events per minute of the small shop from noon on."""
    return small(minute + NOON)


QUIET: Final = [
    Scenario(
        name="a day and a quiet night of a small shop, in which a few records are bad and a few requests fail",
        minutes=720, live=at_noon, bad=during([650], 20), requests=times(at_noon, 0.5), errors=during([100, 650], 2),
        training_minutes=5, refused=during([300], 40), failed_snapshots=[200, 201], no_model=[400, 401], away=[500],
    ),
    Scenario(name="a shop that sends its events once an hour", minutes=300, live=hourly),
    Scenario(name="a shop that sleeps for six hours", minutes=390, live=during(range(30), 10)),
    Scenario(
        name="four hours of a large shop, with rounds of half an hour one after the other",
        minutes=240, live=LARGE, requests=LARGE_REQUESTS, errors=steady(3), bad=times(LARGE, 0.02), training_minutes=30,
    ),
    Scenario(
        name="a month is loaded into a small shop",
        minutes=180, live=at_noon, history=during([60], 300_000), drift=[60, 61],
    ),
    Scenario(
        name="history is loaded into a large shop faster than it is learned",
        minutes=240, live=LARGE, history=during(range(30, 60), 1_200_000), drift=range(40, 80, 5),
    ),
    *(
        Scenario(
            name=f"one process after the other restarts in a {size} shop", minutes=80, live=live,
            requests=times(live, 0.01),
            down={process: range(20 + 15 * place, 22 + 15 * place) for place, process in enumerate(PROCESSES)},
        )
        for size, live in (("small", at_noon), ("large", LARGE))
    ),
    Scenario(
        name="a rolling deploy: one process after the other restarts, migrates its state, and is probed meanwhile",
        minutes=120, live=LARGE, requests=LARGE_REQUESTS, errors=during([62], 2),
        down={"online": [30], "finetune": [45, 46], "serve": [60, 61]},
    ),
    Scenario(
        name="scrapes are missed", minutes=90, live=LARGE,
        missed={"online": [30, 31, 60], "finetune": [30, 45], "serve": [61, 62, 80]},
    ),
    Scenario(
        name="the senders' clocks change to summer time and the server's are an hour late",
        minutes=120, live=LARGE, ages_s=(3_601.0, 3_605.0),
    ),
    Scenario(
        name="a third of the senders' clocks are two years late, and some events are rejected as of the future",
        minutes=120, live=at_noon, ages_s=(1.0, 5.0, 63_072_000.0), bad=steady(0.2),
    ),
    Scenario(name="a sale: ten times the events for hours", minutes=240, live=during(range(60, 200), 347_000, 34_700)),
]  # fmt: skip

TROUBLE: Final = [
    Scenario(
        name="a sale changes what is bought", minutes=120, live=during(range(30, 120), 347_000, 34_700), drift=[40],
        fires=[Fires("DriftAlarm", 41, 48, "info")],
    ),
    Scenario(
        name="a sale brings more than can be learned", minutes=240, live=during(range(30, 90), 1_200_000, 34_700),
        fires=[
            Fires(alert, 60, 200, job=job) for alert in ("LagGrows", "FreshnessStale") for job in SHARDS
        ] + [Fires("FreshnessStale", 60, 200, job="serve")],
    ),
    Scenario(
        name="learning is a minute late for half an hour",
        minutes=120, live=during([30], 1_200_000, 34_700), capacity=36_000, fires=[
            Fires("FreshnessStale", 50, 0, job=job) for job in READERS
        ],
    ),
    *(
        Scenario(
            name=f"one process after the other of a {size} shop is down for a quarter of an hour", minutes=170,
            live=live, requests=times(live, 0.01),
            down={process: range(30 + 35 * place, 45 + 35 * place) for place, process in enumerate(PROCESSES)},
            fires=[
                Fires("ProcessDown", 33 + 35 * place, 46 + 35 * place, "page", process)
                for place, process in enumerate(PROCESSES)
            ],
        )
        for size, live in (("small", at_noon), ("large", LARGE))
    ),
    Scenario(
        name="the consumer hangs", minutes=120, live=at_noon, hangs={"online": range(30, 60)},
        fires=[Fires("Stalled", 40, 62, "page", "serve")],
    ),
    Scenario(
        name="the consumer hangs with a backlog", minutes=120, live=during(range(27, 30), 620_000, 34_700),
        hangs={"online": range(30, 60)},
        fires=[Fires("Stalled", 40, 62, "page", "online"), Fires("Stalled", 40, 62, "page", "serve")],
    ),
    Scenario(
        name="half of what a large shop sends is bad", minutes=90, live=LARGE, bad=during(range(30, 60), 34_700),
        fires=[Fires("BadEvents", 50, 85, "page", "online")],
    ),
    Scenario(
        name="all that a small shop sends is bad", minutes=200,
        live=during(range(60), 12), bad=during(range(60, 140), 12),
        fires=[Fires("BadEvents", 85, 165, "page", "online"), Fires("BadEvents", 130, 0, "warn", "online")],
    ),
    Scenario(
        name="a tenth of what a small shop sends is bad", minutes=360, live=at_noon, bad=times(at_noon, 0.1),
        fires=[Fires("BadEvents", 200, 0, "warn", "online")],
    ),
    Scenario(
        name="rounds fail in a large shop", minutes=120, live=LARGE, training_minutes=15, verdict="failed",
        fires=[Fires("RoundsFail", 40)],
    ),
    Scenario(
        name="a round hangs", minutes=180, live=LARGE, training_minutes=1_000,
        fires=[Fires("RoundTrainsLong", 106, job="finetune")],
    ),
    Scenario(
        name="no round begins", minutes=180, live=LARGE, stuck_round=range(180),
        fires=[Fires("RoundsStopped", 64, job="finetune")],
    ),
    Scenario(
        name="a model is rolled back", minutes=120, live=LARGE, training_minutes=15, verdict="rolled_back",
        fires=[Fires("RolledBack", 20, 0, "info")],
    ),
    Scenario(
        name="no snapshot is stored", minutes=120, live=LARGE, no_snapshots=range(120),
        fires=[Fires("SnapshotOld", 58, job=job) for job in SHARDS],
    ),
    Scenario(
        name="snapshots cannot be stored", minutes=60, live=at_noon, failed_snapshots=range(20, 40),
        fires=[Fires("SnapshotsFail", 30, 45, job=job) for job in SHARDS],
    ),
    Scenario(
        name="the promoted model is lost", minutes=60, live=at_noon, no_model=range(20, 40),
        fires=[Fires("ModelMissing", 30, 45, job="serve")],
    ),
    Scenario(
        name="the log is away for the gateway, whose disk is full in the end", minutes=90, live=LARGE,
        away=range(20, 50), full=range(35, 50),
        fires=[Fires("LogAway", 25, 51, "page", "gateway"), Fires("GatewayErrors", 45, 65, "page", "gateway")],
    ),
    Scenario(
        name="a tracker sends what the gateway refuses", minutes=90, live=at_noon, refused=during(range(20, 50), 12),
        fires=[Fires("EntriesRefused", 45, 75, job="gateway")],
    ),
    Scenario(
        name="a part of the state begins empty", minutes=90, live=LARGE, down={"online": [30]}, begun=2,
        fires=[Fires("StateBegunEmpty", 31, job="online")],
    ),
    Scenario(
        name="the catalogue is too small", minutes=120, live=LARGE, tables={"catalogue_items": 0.95},
        fires=[Fires("BoundNear", 62, 0, "info", job, "catalogue_items") for job in SHARDS],
    ),
    Scenario(
        name="the server answers with errors", minutes=90, live=LARGE, requests=LARGE_REQUESTS,
        errors=during(range(30, 60), 60), fires=[Fires("ServerErrors", 35, 75, "page")],
    ),
]  # fmt: skip
SCENARIOS: Final = [*QUIET, *TROUBLE]


def rules() -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = YAML(typ="safe").load(RULES)["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS: Final = [rule for rule in rules() if "alert" in rule]
QUERIED: Final = {name for rule in rules() for name in re.findall(r"\b(?:headrace|process)_\w+|\bup\b", rule["expr"])}


def selector(fires: Fires) -> str:
    """Return the labels of an alert as in PromQL."""
    labels = {"alertname": fires.alert, "job": fires.job, "severity": fires.severity, "table": fires.table}
    return "{" + ", ".join(f'{label}="{value}"' for label, value in labels.items() if value) + "}"


def firing(over: str, minute: int, expected: Sequence[str]) -> dict[str, Any]:
    """Return a test of promtool: these alerts, and no others, are firing then."""
    return {
        "expr": f"group by (alertname, severity, job, table) ({over})",
        "eval_time": f"{minute}m",
        "exp_samples": [{"labels": one, "value": 1} for one in expected],
    }


def rule_test(scenario: Scenario) -> dict[str, Any]:
    """Return a scenario as a file of promtool."""
    series = [
        {
            "series": name + "{" + ", ".join(f'{label}="{value}"' for label, value in labels) + "}",
            "values": runs(values),
        }
        for (name, labels), values in watched(scenario, QUERIED).items()
    ]
    ever = f'count_over_time(ALERTS{{alertstate="firing"}}[{scenario.minutes}m])'
    tests = [firing(ever, scenario.minutes - 1, [selector(one) for one in scenario.fires])]
    for one in scenario.fires:
        now = f'ALERTS{{alertstate="firing", {selector(one)[1:-1]}}}'
        tests += [firing(now, one.by, [selector(one)]), *([firing(now, one.over, [])] if one.over else [])]
    return {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": tests}],
    }


def runs(values: list[str]) -> str:
    """Return values in promtool's notation, with runs of the same one shortened.

    >>> runs(["_", "_", "1", "1", "1", "stale"])
    '_x2 1x2 stale'
    """
    found: list[tuple[str, int]] = []
    for value in values:
        if found and found[-1][0] == value:
            found[-1] = value, found[-1][1] + 1
        else:
            found.append((value, 1))
    return " ".join(value if count == 1 else f"{value}x{count - (value != '_')}" for value, count in found)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_exactly_these_alerts_fire(scenario: Scenario, promtool: str, tmp_path: Path) -> None:
    path = tmp_path / "scenario.json"
    path.write_text(json.dumps(rule_test(scenario)))
    checked = subprocess.run([promtool, "test", "rules", path], text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_rule_asks_for_metrics_that_processes_export() -> None:
    short = Scenario(name="", minutes=2, live=steady(5), requests=steady(5))
    assert QUERIED - {name for name, _ in watched(short, QUERIED)} == set()


def test_every_alert_says_where_to_look_first() -> None:
    assert [rule["alert"] for rule in ALERTS if not rule["annotations"]["action"].startswith("Look")] == []


def test_every_alert_has_a_test_that_fires_and_one_that_stays_quiet() -> None:
    names = {rule["alert"] for rule in ALERTS}
    assert names == {path.stem for path in RULE_TESTS.glob("*.yml")}
    for name in names:
        cases = YAML(typ="safe").load(RULE_TESTS / f"{name}.yml")["tests"]
        fired = [case["exp_alerts"] != [] for test in cases for case in test["alert_rule_test"]]
        assert {case["alertname"] for test in cases for case in test["alert_rule_test"]} == {name}
        assert set(fired) == {True, False}


@pytest.mark.parametrize("path", sorted(RULE_TESTS.glob("*.yml")), ids=lambda path: path.stem)
def test_promtool_passes_the_rule_test(path: Path, promtool: str) -> None:
    checked = subprocess.run([promtool, "test", "rules", path], text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_names_its_section_of_the_runbook_and_every_section_an_alert() -> None:
    runbook = PAGE.read_text().partition("\n## Runbook\n")[2]
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", runbook, flags=re.MULTILINE | re.DOTALL))
    assert sections.keys() == {rule["alert"] for rule in ALERTS}
    named = {rule["alert"]: rule["annotations"]["runbook"] for rule in ALERTS}
    assert named == {name: f"docs/alerts.md#{name.lower()}" for name in sections}
    for name, text in sections.items():
        assert re.search(r"^Look ", text, flags=re.MULTILINE), name
        assert "\n```sh\n" in text, name
        assert re.search(r"^Over ", text, flags=re.MULTILINE), name


def test_the_table_of_alerts_is_complete() -> None:
    text = PAGE.read_text()
    rows = re.findall(r"^\| `(\w+)` \| (page|warn|info)(?:, (page|warn|info))? \|", text, flags=re.MULTILINE)
    told = [(name, severity) for name, *severities in rows for severity in severities if severity]
    assert sorted(told) == sorted((rule["alert"], rule["labels"]["severity"]) for rule in ALERTS)
