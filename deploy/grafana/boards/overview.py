"""The overview: fresh? good? safe? what changed?"""

from typing import Final

from deploy.grafana.boards.panels import OURS, Board, Limit, Panel, Query, Row, number, quantile, share, zero

SCORE: Final = 'headrace_prequential_score{{learner="{}",metric="recall",k="20",window="recent"}}'
ANSWERED: Final = 'headrace_http_requests_total{route!~"/health/.*|/metrics"}'
ERRORS: Final = 'headrace_http_requests_total{code=~"5..",route!~"/health/.*|/metrics"}'

BOARD: Final = Board(
    "overview",
    "Headrace: overview",
    "Is what shoppers see fresh, good and safe, and what changed?",
    (
        Row("Fresh? From an event to the answers that know it", (
            number(
                "Learned within (99 %)", "s",
                f"max({quantile(0.99, 'headrace_freshness_seconds', 'job', '5m')})",
                "From a record's append until the slowest process had learned it. Normal: below a second. Otherwise"
                " look at the lag on *stream*.",
                limit=Limit(30, "FreshnessStale"),
            ),
            number(
                "Records waiting", "short", "max(sum by (job) (headrace_lag_records))",
                "Of the process that is furthest behind. Normal: near 0, more while history is loaded.",
            ),
            number(
                "Oldest event not in answers", "s", "max(headrace_oldest_waiting_event_seconds)",
                "Normal: below a second. If it grows, look whether the shards learn, then whether the server follows.",
            ),
            Panel(
                "Freshness by process (99 %)",
                "From a record's append until the process had learned it; for serve, until answers include it. Normal:"
                " below a second. Spikes after a restart are records that waited.",
                "s", (Query(quantile(0.99, "headrace_freshness_seconds", "job", "5m"), "{{job}}"),), width=12,
                limit=Limit(30, "FreshnessStale"),
            ),
        )),
        Row("Good? What learners predicted before they learned it, and what shoppers clicked", (
            number(
                "Recall@20 of the blend", "percentunit", f"max({SCORE.format('blend')})",
                "Share of the next items that were among the first 20 of the blend; recent events. It differs by shop:"
                " watch for falls.",
            ),
            number(
                "Gain over popularity", "percentunit",
                f"max({SCORE.format('blend')}) / max({SCORE.format('popularity')}) - 1",
                "How much more of the next items the blend has among its first 20 than a list of the most popular ones."
                " Normal: well above 0. At 0 the learners add nothing: look at *learning*.",
            ),
            number(
                "Answers clicked", "percentunit",
                share("headrace_placement_clicked_answers_total", "headrace_placement_answers_total", "1h"),
                "Share of the last hour's answers that had a click. 0 if the shop's events name no answer: see"
                " *business*.",
            ),
            Panel(
                "Recall@20: blend, deep model, popularity",
                "Recent events. The deep model appears with the first promotion. The blend should be the highest line.",
                "percentunit",
                (Query(SCORE.format("blend|deep|popularity").replace("learner=", "learner=~"), "{{learner}}"),),
                width=12,
            ),
        )),
        Row("Safe? Alerts, processes and errors", (
            number(
                "Alerts that need somebody", "short",
                zero('count(ALERTS{alertstate="firing",severity!="info"})'),
                "Firing, of severity page or warn. Normal: 0. Each alert's `action` says where to look first.",
                width=3, limit=Limit(1),
            ),
            number(
                "Processes down", "short", zero('count(up{job=~"gateway|online|finetune|serve"} == 0)'),
                "Of gateway, online, finetune and serve, those that do not answer scrapes. Normal: 0.",
                width=3, limit=Limit(1),
            ),
            number(
                "Answers with errors", "percentunit", share(ERRORS, ANSWERED, "5m"),
                "Codes 5xx, without probes. Normal: 0. Otherwise look at *serving*.",
                width=3, limit=Limit(0.01, "ServerErrors"),
            ),
            number(
                "Events rejected", "percentunit",
                share('headrace_events_total{result="rejected"}', "headrace_events_total", "10m"),
                "Records of events that could not be used. Normal: near 0. Otherwise look at the reasons on *stream*.",
                width=3, limit=Limit(0.05, "BadEvents"),
            ),
            Panel(
                "Alerts that fire",
                "By name, those to be known included. Normal: none, or DriftAlarm after a change in the shop.",
                "short",
                (Query(zero('sum by (alertname) (ALERTS{alertstate="firing"})', "alertname"), "{{alertname}}"),),
                width=12, stepped=True,
            ),
        )),
        Row("What changed? The marks in all panels: alarms, promotions, rollbacks, restarts, alerts", (
            number(
                "Round of the model in use", "none", "max(headrace_champion_round)",
                "0 while no model is in use: the fast learners answer alone. Otherwise look at *rounds*.", width=3,
            ),
            number(
                "Drift alarms of a day", "short", "round(sum(increase(headrace_drift_alarms_total[1d])))",
                "Of all detectors. Normal: none to a few; see *drift*.", width=3,
            ),
            number(
                "Since the last start", "s", f'time() - max(process_start_time_seconds{{job!="producer"}} {OURS})',
                "Time since a process was started. Short without a deploy: one restarts; look at its log.", width=3,
            ),
            Panel(
                "Release", "More than one only while a new release is rolled out.", "none",
                (Query("count by (version) (headrace_build_info)", "{{version}}"),), "number", 3, shows_legend=True,
            ),
            Panel(
                "Model in use", "The round whose model each process uses. Processes follow each other within seconds.",
                "none", (Query("max by (job) (headrace_champion_round)", "{{job}}"),), width=12, stepped=True,
            ),
        )),
    ),
)  # fmt: skip
