"""What a loop's turns become in Prometheus."""

import pytest
from prometheus_client import CollectorRegistry, Histogram

from headrace.log.protocol import Partition
from headrace.metrics import DELAY_S, ShardMetrics
from headrace.shard.turn import Turn

TURN = Turn(
    records=12, learned=6, duplicates=1, unused=2, lines_dropped=4, rejected={"not_json": 2, "schema": 1},
    rejected_events=3, judgements=3,
    freshness_ms=[40, 3_000], event_ages_ms=[7_000], learn_s=0.01, judge_s=0.02, commit_s=0.03,
    lag={Partition("events", 0): 5, Partition("events", 1): 0}, bounds={"items": (3, 10)}, snapshot_bytes=123,
    snapshot_behind_entries=7,
)  # fmt: skip


def value(metrics: ShardMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_a_turn_is_told_and_turns_add_up() -> None:
    metrics = ShardMetrics()
    for _ in range(2):
        metrics.observe_turn(TURN)
    results = ("learned", "duplicate", "unused", "rejected")
    assert [value(metrics, "headrace_events_total", result=result) for result in results] == [12, 2, 4, 6]
    assert value(metrics, "headrace_lines_dropped_total") == 8
    assert value(metrics, "headrace_events_rejected_total", reason="unused") is None, "it is no bad record"
    assert value(metrics, "headrace_events_rejected_total", reason="not_json") == 4
    assert value(metrics, "headrace_events_rejected_total", reason="time_ahead") == 0  # there before its first increase
    assert value(metrics, "headrace_lag_records", topic="events", partition="0") == 5
    assert value(metrics, "headrace_freshness_seconds_count") == 4
    assert value(metrics, "headrace_freshness_seconds_bucket", le="0.05") == 2
    assert value(metrics, "headrace_event_age_seconds_sum") == 14
    assert value(metrics, "headrace_bound_used", table="items", full="unexpected") == 3
    assert value(metrics, "headrace_bound_max", table="items", full="unexpected") == 10
    assert value(metrics, "headrace_snapshot_behind_entries") == 7
    for part in ("learn", "judge", "commit"):
        assert value(metrics, f"headrace_{part}_duration_seconds_count") == 2


def test_durations_are_counted_as_the_client_counts_each() -> None:
    found_ms = [0, 49, 50, 51, 100, 999, 1_000, 3_600_000, 3_600_001, -5]
    ours, registry = ShardMetrics(), CollectorRegistry()
    ours.observe_turn(TURN._replace(freshness_ms=found_ms[:4]))
    ours.observe_turn(TURN._replace(freshness_ms=found_ms[4:]))
    ours.observe_turn(TURN._replace(freshness_ms=[]))
    theirs = Histogram("headrace_freshness_seconds", "x", buckets=DELAY_S, registry=registry)
    for one in found_ms:
        theirs.observe(max(0, one) / 1000)
    seen = {(one.name, one.labels.get("le")): one.value for family in registry.collect() for one in family.samples}
    for (name, bound), count in seen.items():
        assert value(ours, name, **({"le": bound} if bound else {})) == pytest.approx(count), (name, bound)


def test_a_new_snapshot_is_told_once_and_survives_a_restart_of_the_loop() -> None:
    now = [1_000]
    metrics = ShardMetrics(clock=lambda: now[0])
    seen = []
    turns = ((0, 5, 1_000), (123, 1, 2_000), (123, 2, 3_000), (0, 1, 4_000), (0, 2, 5_000), (123, 1, 6_000))
    for bytes_, behind, time_ms in turns:
        now[0] = time_ms
        metrics.observe_turn(TURN._replace(snapshot_bytes=bytes_, snapshot_behind_entries=behind))
        stamp = value(metrics, "headrace_snapshot_timestamp_seconds")
        seen.append((stamp, value(metrics, "headrace_snapshot_size_bytes")))
    assert seen == [(0, 0), (2, 123), (2, 123), (2, 123), (2, 123), (6, 123)]
