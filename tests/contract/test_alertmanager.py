"""The shipped configuration of Alertmanager, in a real one: what is sent where, and what another alert holds back."""

import re
import subprocess
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import pytest
from ruamel.yaml import YAML

from tests.alarms import ALERTMANAGER, RULES, Alarm, alertmanager, faster_alertmanager, inhibited, post, program

OVER: Final = "2020-01-01T00:00:00Z"
SEVERITIES: Final = ("page", "warn", "info")


class Case(NamedTuple):
    """Alerts that fire together, as `NAME` or `NAME/job`: those that are sent, and those that are not."""

    name: str
    sent: str
    held: str = ""


CASES: Final = [
    Case(
        "a shard is down",
        "ProcessDown/online",
        "Stalled/serve Stalled/online FreshnessStale/serve FreshnessStale/online LagGrows/online",
    ),
    Case(
        "another shard is down",
        "ProcessDown/finetune LagGrows/online SnapshotOld/online",
        "Stalled/finetune FreshnessStale/finetune",
    ),
    Case(
        "the server is down",
        "ProcessDown/serve Stalled/online",
        "ServerErrors ImpressionsUnlogged/serve",
    ),
    Case(
        "the gateway is down",
        "ProcessDown/gateway BadEvents/online",
        "GatewaySilent/gateway GatewayErrors/gateway LogAway/gateway",
    ),
    Case(
        "the broker is away",
        "LogAway/gateway",
        "ProcessDown/online ProcessDown/finetune ProcessDown/serve Stalled/online Stalled/serve "
        "FreshnessStale/serve ImpressionsUnlogged/serve",
    ),
    Case(
        "the broker is away until the gateway's disk is full",
        "LogAway/gateway GatewayErrors/gateway",
    ),
    Case(
        "a shard hangs",
        "Stalled/online",
        "Stalled/serve LagGrows/online FreshnessStale/online FreshnessStale/serve",
    ),
    Case(
        "the server alone sees that a shard hangs",
        "Stalled/serve",
        "LagGrows/online FreshnessStale/serve",
    ),
    Case(
        "another shard hangs",
        "Stalled/finetune LagGrows/online",
        "LagGrows/finetune FreshnessStale/serve",
    ),
    Case(
        "more comes in than is learned",
        "LagGrows/online LagGrows/finetune",
        "FreshnessStale/online FreshnessStale/serve FreshnessStale/finetune",
    ),
    Case(
        "events are learned late",
        "FreshnessStale/online",
    ),
    Case(
        "records are hidden",
        "OpenTransaction",
        "Stalled/online FreshnessStale/serve",
    ),
    Case(
        "the blobs' disk is full",
        "SnapshotsFail/online SnapshotOld/finetune",
        "SnapshotOld/online",
    ),
    Case(
        "a tracker sends what is refused",
        "EntriesRefused/gateway",
    ),
    Case(
        "all that comes is refused",
        "GatewaySilent/gateway",
        "EntriesRefused/gateway",
    ),
    Case(
        "causes that have nothing to do with each other",
        "BadEvents/online DriftAlarm SnapshotOld/online RoundsFail FollowerDiffers/serve "
        "StrayRecords/serve ModelMissing/serve GatewaySilent/gateway BoundNear/online",
    ),
]


def alarms(text: str) -> set[Alarm]:
    """Return alerts by their names.

    >>> sorted(alarms("Stalled/serve DriftAlarm"))
    [Alarm(name='DriftAlarm', job=''), Alarm(name='Stalled', job='serve')]
    """
    return {Alarm(*one.split("/")) for one in text.split()}


def severities() -> dict[str, str]:
    """Return the severity of each alert, the highest of one that has several."""
    rules = [rule for group in YAML(typ="safe").load(RULES)["groups"] for rule in group["rules"] if "alert" in rule]
    found: dict[str, str] = {}
    for severity in reversed(SEVERITIES):
        found |= {rule["alert"]: severity for rule in rules if rule["labels"]["severity"] == severity}
    return found


SEVERITY: Final = severities()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of an Alertmanager with the shipped rules of inhibition."""
    with alertmanager(tmp_path_factory.mktemp("alertmanager"), faster_alertmanager(1, "http://127.0.0.1:1/")) as found:
        yield found


def labels_of(alarm: Alarm) -> dict[str, str]:
    return {"alertname": alarm.name, "severity": SEVERITY[alarm.name], **({"job": alarm.job} if alarm.job else {})}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_of_one_cause_one_alert_is_sent(case: Case, address: str) -> None:
    labels = [labels_of(alarm) for alarm in alarms(f"{case.sent} {case.held}")]
    post(address, labels)
    try:
        assert inhibited(address) == alarms(case.held)
    finally:
        post(address, labels, OVER)


def test_a_page_holds_back_the_warning_of_the_same_alert(address: str) -> None:
    page, warn = ({"alertname": "BadEvents", "job": "online", "severity": one} for one in ("page", "warn"))
    post(address, [page, warn])
    try:
        assert inhibited(address) == {Alarm("BadEvents", "online")}
        post(address, [page], OVER)
        assert inhibited(address) == set()
    finally:
        post(address, [page, warn], OVER)


def test_amtool_accepts_the_configuration() -> None:
    checked = subprocess.run(
        [program("amtool"), "check-config", ALERTMANAGER], text=True, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(("severity", "receiver"), [(one, one) for one in SEVERITIES] + [("", "page")])
def test_each_severity_has_a_receiver(severity: str, receiver: str) -> None:
    command = [program("amtool"), "config", "routes", "test", f"--config.file={ALERTMANAGER}", f"severity={severity}"]
    assert subprocess.run(command, text=True, capture_output=True, check=True).stdout.strip() == receiver


def test_inhibition_names_alerts_that_exist() -> None:
    rules: list[dict[str, Any]] = YAML(typ="safe").load(ALERTMANAGER)["inhibit_rules"]
    named = [
        name
        for rule in rules
        for matcher in (*rule["source_matchers"], *rule["target_matchers"])
        for names in re.findall(r'alertname=~?"([^"]+)"', matcher)
        for name in names.split("|")
    ]
    assert len(named) > 25
    assert set(named) - SEVERITY.keys() == set()


def test_no_alert_holds_itself_back() -> None:
    """Alertmanager would send neither of two alerts that hold back each other."""
    rules: list[dict[str, Any]] = YAML(typ="safe").load(ALERTMANAGER)["inhibit_rules"]
    pairs = {
        (source, target)
        for rule in rules
        for one in re.findall(r'alertname=~?"([^"]+)"', " ".join(rule["source_matchers"]))
        for source in one.split("|")
        for two in re.findall(r'alertname=~?"([^"]+)"', " ".join(rule["target_matchers"]))
        for target in two.split("|")
    }
    assert {pair for pair in pairs if pair[::-1] in pairs} == {
        ("LogAway", "ProcessDown"), ("ProcessDown", "LogAway"), ("Stalled", "Stalled"),
    }, "the gateway's and the others'; the shard's and the server's"  # fmt: skip
