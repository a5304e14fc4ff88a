"""Metrics as Prometheus sees them: names, units, bounded labels, alert rules and dashboards (the real promtool)."""

import json
import re
import socket
import subprocess
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from headrace.errors import Misconfigured
from headrace.events import Reason
from headrace.log.protocol import Partition
from headrace.metrics import (
    LABELS,
    MetricsServer,
    ProcessMetrics,
    ProducerMetrics,
    ServingMetrics,
    ShardMetrics,
    Unlogged,
)
from headrace.shard.turn import Turn
from headrace.surface import Metric, Surface
from headrace.topics import TOPICS, partitions_of
from learners.families import FAMILIES, default_placements
from learners.family import NoSettings
from learners.placements.family import GROUP
from operators.reference import processes
from tests.boards import BOARDS, annotations, queries

ROOT = Path(__file__).parents[2]


def a_turn(**changes: Any) -> Turn:
    return Turn(
        records=13,
        learned=10,
        duplicates=1,
        unused=0,
        lines_dropped=0,
        rejected=Counter(schema=2),
        rejected_events=2,
        judgements=3,
        freshness_ms=[40, 300],
        event_ages_ms=[5_000, 86_400_000],
        learn_s=0.01,
        judge_s=0.002,
        commit_s=0.02,
        lag=dict.fromkeys(partitions_of("events"), 7),
        bounds={"shoppers": (10, 1000)},
        snapshot_bytes=4096,
        snapshot_behind_entries=3,
    )._replace(**changes)


KINDS = list(processes())
BOUNDED = {**LABELS, **{label: bound for kind in FAMILIES for label, bound in kind.surface.labels.items()}}


def a_shard(name: str) -> ShardMetrics:
    """Return the metrics of a default shard."""
    return ShardMetrics([kind.surface for kind in default_placements()[name].kinds])


def told() -> dict[str, ProcessMetrics]:
    """Return the metrics of each kind of process after it exported all that it can."""
    found = processes()
    for name, placement in default_placements().items():
        shard = found[name]
        assert isinstance(shard, ShardMetrics)
        shard.observe_turn(a_turn())
        shard.judgements.inc(3)
        for kind in placement.kinds:
            for metric in kind.surface.metrics:
                if not metric.last_increase_of:
                    values_ = metric.label_values[:1] or tuple(f"a {label}" for label in metric.labels)
                    shard.family_metrics.report(metric.name, 12.5, *values_)
            for detector in kind.surface.detectors:
                shard.set_drift(detector, 0.2, 0.5)
                shard.count_alarms(detector, 1)
    serve, producer = found["serve"], found["producer"]
    assert isinstance(serve, ServingMetrics)
    assert isinstance(producer, ProducerMetrics)
    serve.count_request("/v1/recommendations/{shopper}", 200, 0.003)
    serve.set_lag({Partition("journal", 0): 1})
    producer.published.inc(100)
    producer.set_bounds({"unacknowledged_bytes": (100, 1000)})
    return found


def scraped(metrics: ProcessMetrics) -> str:
    """Return what a scrape answers."""
    return generate_latest(metrics.registry).decode()


def values(metrics: ProcessMetrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return each sample of a scrape by its name and sorted labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(scraped(metrics))
        for sample in family.samples
    }


@pytest.mark.parametrize("kind", KINDS)
def test_promtool_accepts_every_metric(kind: str, promtool: str) -> None:
    text = scraped(told()[kind])
    checked = subprocess.run([promtool, "check", "metrics"], input=text, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_promtool_refuses_a_badly_named_metric(promtool: str) -> None:
    text = "# HELP headrace_wait_ms Waiting.\n# TYPE headrace_wait_ms counter\nheadrace_wait_ms 1\n"
    checked = subprocess.run([promtool, "check", "metrics"], input=text, text=True, capture_output=True, check=False)
    assert checked.returncode != 0


def test_a_turn_is_told_whole() -> None:
    metrics = a_shard("online")
    metrics.observe_turn(a_turn())
    metrics.observe_turn(
        a_turn(rejected=Counter(schema=1, not_json=5), rejected_events=5, lag={Partition("events", 2): 9})
    )
    seen = values(metrics)
    assert seen["headrace_events_total", (("result", "learned"),)] == 20
    assert seen["headrace_events_total", (("result", "duplicate"),)] == 2
    assert seen["headrace_events_total", (("result", "rejected"),)] == 7
    assert seen["headrace_events_rejected_total", (("reason", "schema"),)] == 3
    assert seen["headrace_events_rejected_total", (("reason", "not_json"),)] == 5, "one of them of a side topic"
    assert seen["headrace_lag_records", (("partition", "2"), ("topic", "events"))] == 9
    assert seen["headrace_freshness_seconds_count", ()] == 4
    assert seen["headrace_freshness_seconds_sum", ()] == pytest.approx(0.68)
    assert seen["headrace_event_age_seconds_sum", ()] == pytest.approx(172_810)
    assert seen["headrace_learn_duration_seconds_count", ()] == 2
    assert seen["headrace_bound_used", (("full", "unexpected"), ("table", "shoppers"))] == 10
    assert seen["headrace_bound_max", (("full", "unexpected"), ("table", "shoppers"))] == 1000
    assert seen["headrace_snapshot_behind_entries", ()] == 3


def test_counters_exist_before_they_count() -> None:
    """Prometheus' increase() misses the first increase of a series that was not there before."""
    seen = values(a_shard("online"))
    assert all(
        seen["headrace_events_rejected_total", (("reason", reason),)] == 0
        for reason in set(get_args(Reason)) - {"unused"}
    )
    for kind in default_placements()["online"].kinds:
        for detector in kind.surface.detectors:
            assert seen["headrace_drift_alarms_total", (("detector", detector),)] == 0
    seen = values(a_shard("finetune"))
    assert seen["headrace_rounds_total", (("outcome", "failed"),)] == 0
    assert seen["headrace_round_triggers_total", (("trigger", "gain"),)] == 0


def test_every_counter_of_a_family_with_labels_exists_before_it_counts() -> None:
    for kind in FAMILIES:
        for metric in kind.surface.metrics:
            # Groups are not known before their first answer, segments before they are stated or found; from then on all
            # of their series exist.
            known = not metric.labels or metric.label_values or metric.labels in (GROUP, ("segment", "direction"))
            assert metric.kind != "counter" or known, metric.name


class Counted:
    """A family for its metrics alone."""

    def __init__(self, begun: int) -> None:
        self.begun = begun


def counted(clock: list[int]) -> tuple[ShardMetrics, Surface]:
    """Return a surface with a counter, a gauge of when that last increased, and a gauge that is read each second."""
    surface = Surface(
        doc="Counts.",
        settings=NoSettings,
        metrics=(
            Metric(
                name="headrace_begun_total", help="Begun.", kind="counter", labels=("how",), label_values=("well",),
                read=lambda family: [(("well",), family.begun)],
            ),
            Metric(name="headrace_begun_timestamp_seconds", help="When.", last_increase_of="headrace_begun_total"),
            Metric(name="headrace_open", help="Now.", read=lambda family: [((), family.begun)], read_interval_s=1.0),
        ),
        labels={"how": "`well`"},
    )  # fmt: skip
    return ShardMetrics([surface], clock=lambda: clock[0]), surface


def test_a_family_s_counter_is_exported_as_its_increase_since_the_process_started() -> None:
    clock = [1_700_000_000_000]
    metrics, surface = counted(clock)
    family, series = Counted(40), ("headrace_begun_total", (("how", "well"),))
    metrics.family_metrics.baseline(surface, family)
    metrics.family_metrics.read(surface, family)
    assert values(metrics)[series] == 0
    assert values(metrics)["headrace_begun_timestamp_seconds", ()] == 0
    family.begun = 43
    metrics.family_metrics.read(surface, family)
    metrics.family_metrics.read(surface, family)
    assert values(metrics)[series] == 3
    assert values(metrics)["headrace_begun_timestamp_seconds", ()] == 1_700_000_000
    assert values(metrics)["headrace_open", ()] == 40  # within the second
    clock[0] += 1_000
    metrics.family_metrics.read(surface, family)
    assert values(metrics)["headrace_open", ()] == 43
    family.begun = 40  # a loop that restarted folds again from its last commit
    metrics.family_metrics.baseline(surface, family)
    metrics.family_metrics.read(surface, family)
    family.begun = 41
    metrics.family_metrics.read(surface, family)
    assert values(metrics)[series] == 4


def test_a_metric_that_several_families_declare_exists_once() -> None:
    metrics, surface = counted([0])
    assert values(ShardMetrics([surface, surface])).keys() == values(metrics).keys()


def test_a_label_without_bound_is_refused() -> None:
    metric = Metric(name="headrace_paths_total", help="Paths.", kind="counter", labels=("path",))
    with pytest.raises(AssertionError, match="headrace_paths_total"):
        ShardMetrics([Surface(doc="Paths.", settings=NoSettings, metrics=(metric,))])


@pytest.mark.parametrize("kind", KINDS)
def test_every_label_is_bounded(kind: str) -> None:
    metrics = told()[kind]
    for metric in metrics.descriptions:
        assert BOUNDED.keys() >= set(metric.labels)
    bounded = {"topic": set(TOPICS), "reason": {*get_args(Reason), *get_args(Unlogged)}}
    for family in metrics.registry.collect():
        for sample in family.samples:
            for label, value in sample.labels.items():
                assert label in BOUNDED or label == "le"
                assert value in bounded.get(label, {value})


def test_registries_are_apart() -> None:
    first, second = ProducerMetrics(), ProducerMetrics()
    first.published.inc()
    assert values(first)["headrace_published_events_total", ()] == 1
    assert values(second)["headrace_published_events_total", ()] == 0


def test_scrapes_are_bound_to_loopback_and_end_with_close() -> None:
    server = MetricsServer(ProducerMetrics())
    assert server.host == "127.0.0.1"
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
        assert b"\nheadrace_published_events_total 0.0\n" in answer.read()
    server.close()
    server.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port), timeout=5)


def test_a_port_in_use_is_a_clear_error() -> None:
    wanted = r"metrics on 127\.0\.0\.1:\d+: wanted an address to listen on, found .*in use"
    with MetricsServer(ProducerMetrics()) as server, pytest.raises(Misconfigured, match=wanted):
        MetricsServer(ProducerMetrics(), port=server.port)


def test_promtool_accepts_the_configuration(promtool: str) -> None:
    config = ROOT / "deploy/prometheus/prometheus.yml"
    checked = subprocess.run([promtool, "check", "config", config], text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def queryable() -> set[str]:
    """Return every name that can be queried: of our metrics and rules, and what Prometheus and its client add."""
    groups = YAML(typ="safe").load(ROOT / "deploy/prometheus/rules/headrace.yml")["groups"]
    names = {"up", "ALERTS"} | {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}
    for metrics in processes().values():
        names |= {family.name for family in metrics.registry.collect() if family.name.startswith("process_")}
        names.add("process_cpu_seconds_total")
        for metric in metrics.descriptions:
            suffixes = ("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",)
            names |= {metric.name + suffix for suffix in suffixes}
    return names


def names_in(expression: str) -> set[str]:
    """Return the metric names of a PromQL expression that uses only our own, `up`, `ALERTS` and `process_*`."""
    return set(re.findall(r"\b(?:headrace[_:][\w:]+|process_\w+|up|ALERTS)\b", re.sub(r'"[^"]*"', "", expression)))


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_every_panel_asks_for_metrics_that_exist(path: Path, promtool: str, tmp_path: Path) -> None:
    expressions = [asked.expr for asked in (*queries(path), *annotations(path))]
    for expression in expressions:
        names = names_in(expression)
        assert names
        assert names <= queryable(), expression
    # promtool parses rules' expressions, so the panels' are checked as such.
    rules = [
        {"record": f"panel:expression{number}", "expr": expression} for number, expression in enumerate(expressions)
    ]
    as_rules = tmp_path / "panels.yml"
    as_rules.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    checked = subprocess.run([promtool, "check", "rules", as_rules], text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


UNSHOWN = {
    "headrace_archive_lag_records": "an archive is seldom run, and its panel would be empty elsewhere",
    "headrace_archived_files_total": "as above",
    "headrace_archived_records_total": "as above",
    "headrace_placement_items_total": "answers tell more",
    "headrace_placement_units_total": "orders and revenue tell more",
    "headrace_published_ratio": "`headrace simulate` and `load` show it",
    "headrace_round_timestamp_seconds": "the marks show each round that counts",
    "headrace_skipped_events_total": "of a producer that starts again; it says so",
}
"""Metrics that no dashboard shows, with the reason."""


def test_dashboards_show_every_metric() -> None:
    shown = {name for path in BOARDS for asked in queries(path) for name in names_in(asked.expr)}
    ours = {metric.name for metrics in processes().values() for metric in metrics.descriptions}
    hidden = {name for name in ours if not any(f"{name}{suffix}" in shown for suffix in ("", "_bucket", "_sum"))}
    assert hidden == UNSHOWN.keys()


def test_panels_do_not_overlap() -> None:
    for path in BOARDS:
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(path.read_text())["panels"]:
            place = panel["gridPos"]
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            assert not cells & taken, panel["title"]
            assert max(x for x, _ in cells) < 24
            taken |= cells
