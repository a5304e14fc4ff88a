"""Drift: what detectors watch, when they alarmed, and what followed."""

from typing import Final

from deploy.grafana.boards.panels import Board, Limit, Panel, Query, Row, number, quantile

# Detectors may have labels beside their names: the legends show the labels by which the series differ.
SCORE: Final = "max without (job, instance) (headrace_drift_score)"
THRESHOLD: Final = "max without (job, instance) (headrace_drift_threshold)"
ALARMS: Final = "headrace_drift_alarms_total"
MEDIAN_AGE: Final = "headrace:event_age_seconds:median10m"

BOARD: Final = Board(
    "drift",
    "Headrace: drift",
    "Did the shop change, who noticed, and what did it do to quality?",
    (
        Row("What detectors see", (
            number(
                "Alarms of an hour", "short", f"round(sum(increase({ALARMS}[1h])))",
                "Of all detectors. Normal: 0. Several detectors at once: prices, the catalogue or the traffic changed.",
            ),
            number(
                "Alarms of a day", "short", f"round(sum(increase({ALARMS}[1d])))",
                "Of all detectors. A few a day follow campaigns. Dozens: a detector is too nervous for this shop.",
            ),
            number(
                "Median age of events", "s", f"max({MEDIAN_AGE})",
                "Over a day, history is being loaded: drift is then expected, and the alert is silent.",
                limit=Limit(86_400, "DriftAlarm"),
            ),
            Panel(
                "Alarms within 10 minutes",
                "By detector. Normal: 0. A round is due after an alarm; the fast learners follow by themselves.",
                "short", (Query(f"sum without (job, instance) (increase({ALARMS}[10m]))"),), width=12, stepped=True,
            ),
            Panel(
                "Score as a share of its threshold",
                "A detector alarms above 1. Those of a loss have no threshold and are not here; 0 until a detector has"
                " seen enough to have one.",
                "none", (Query(f"{SCORE} / ({THRESHOLD} > 0) or {THRESHOLD} * 0"),), width=12,
                limit=Limit(1),
            ),
            Panel(
                "Scores",
                "Distance of recent values from former ones, or a recent mean loss. A slow rise is drift that no alarm"
                " may catch.",
                "none", (Query(SCORE),), width=6,
            ),
            Panel(
                "Thresholds", "They follow the usual distance: wider after restless times.", "none",
                (Query(THRESHOLD),), width=6,
            ),
        )),
        Row("What it does, and what follows", (
            Panel(
                "Recall@20: blend, transitions, popularity",
                "Recent events. A drift that matters shows as a fall right after an alarm; it should recover within"
                " minutes, and further after the next promotion.",
                "percentunit",
                (Query(
                    "max by (learner) (headrace_prequential_score"
                    '{learner=~"blend|transitions|popularity",metric="recall",k="20",window="recent"})',
                    "{{learner}}",
                ),),
            ),
            Panel(
                "Rounds by what triggered them",
                "Within an hour. Drift should trigger a round soon after an alarm, unless a candidate is in the gate.",
                "short",
                (Query("sum by (trigger) (increase(headrace_round_triggers_total[1h]))", "{{trigger}}"),), stepped=True,
            ),
            Panel(
                "Age of events when they are appended",
                "Half, and 99 %, are younger. Seconds live, days while history is loaded, which looks like drift.", "s",
                (
                    Query(f"max({quantile(0.5, 'headrace_event_age_seconds', 'job', '5m')})", "half"),
                    Query(f"max({quantile(0.99, 'headrace_event_age_seconds', 'job', '5m')})", "99 %"),
                ),
            ),
        )),
    ),
    since="now-6h",
)  # fmt: skip
