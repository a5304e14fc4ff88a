"""Serving and the gateway: requests, latency, errors, how new answers are, and what is logged of them."""

from typing import Final

from deploy.grafana.boards.overview import ANSWERED, ERRORS
from deploy.grafana.boards.panels import Board, Limit, Panel, Query, Row, per_second, quantile, share, zero

BOARD: Final = Board(
    "serving",
    "Headrace: serving and gateway",
    "Are requests answered quickly, from the newest state, and is what they show logged?",
    (
        Row("Answers", (
            Panel(
                "Requests by route and code", "Per second. Codes 4xx are wrong requests, 503 a server that catches up.",
                "reqps", (Query(per_second("headrace_http_requests_total", "route, code"), "{{route}} {{code}}"),),
            ),
            Panel(
                "Time to answer",
                "Half, and 99 %, of the answers are quicker. Normal: milliseconds. If it grows with the requests, start"
                " another server.",
                "s",
                (
                    Query(quantile(0.5, "headrace_http_request_duration_seconds", "route", "5m"), "{{route}}: half"),
                    Query(quantile(0.99, "headrace_http_request_duration_seconds", "route", "5m"), "{{route}}: 99 %"),
                ),
            ),
            Panel(
                "Share of answers with errors",
                "Codes 5xx, without probes. Over the line: look at /health/ready, then at the server's log.",
                "percentunit", (Query(share(ERRORS, ANSWERED, "5m"), "errors"),), limit=Limit(0.01, "ServerErrors"),
            ),
            Panel(
                "Open connections", "At the limit, others are turned away: raise it, or start another server.", "short",
                (Query("sum by (instance) (headrace_http_connections)", "{{instance}}"),),
            ),
            Panel(
                "Connections turned away", "Per second: too many were open, or one was too slow. Normal: 0.", "ops",
                (Query(per_second("headrace_http_turned_away_total", "instance"), "{{instance}}"),),
            ),
            Panel(
                "Model in use by server", "Servers follow within seconds of a promotion.", "none",
                (Query('max by (instance) (headrace_champion_round{job="serve"})', "{{instance}}"),), stepped=True,
            ),
        )),
        Row("Do answers know the newest events?", (
            Panel(
                "Oldest event that is not in the answers",
                "Normal: below a second. Growing while the shards learn: the server is too busy answering; start"
                " another one.",
                "s", (Query("max by (instance) (headrace_oldest_waiting_event_seconds)", "{{instance}}"),),
            ),
            Panel(
                "From an append to the answers",
                "Half, and 99 %, of the events are in the answers sooner.", "s",
                (
                    Query(
                        quantile(0.5, "headrace_freshness_seconds", "instance", "5m", '{job="serve"}'),
                        "{{instance}}: half",
                    ),
                    Query(
                        quantile(0.99, "headrace_freshness_seconds", "instance", "5m", '{job="serve"}'),
                        "{{instance}}: 99 %",
                    ),
                ),
                limit=Limit(30, "FreshnessStale"),
            ),
            Panel(
                "Comparisons with the shard's state",
                "Within an hour: how often a server compared its state with a snapshot, and how often they differed."
                " Differing is never normal: run `headrace verify`.",
                "short",
                (
                    Query("sum(increase(headrace_follower_compared_total[1h]))", "compared"),
                    Query("sum(increase(headrace_follower_differs_total[1h]))", "differed"),
                ),
                stepped=True,
            ),
        )),
        Row("Impressions: what is logged of the answers", (
            Panel(
                "Servers that answer without the promoted model", "Normal: 0. Otherwise its blob is missing.", "short",
                (Query("sum(headrace_artifact_missing)", "servers"),), stepped=True,
            ),
            Panel(
                "Written", "Answers per second whose lists went to the topic impressions.", "ops",
                (Query(per_second("headrace_impressions_total"), "written"),),
            ),
            Panel(
                "Dropped by reason",
                "Per second. Normal: 0. log_away: can the server write to the topic? queue_full: raise"
                " `serve.impressions_queue_max`.",
                "ops", (Query(per_second("headrace_impressions_dropped_total", "reason"), "{{reason}}"),),
            ),
            Panel(
                "Share that is not logged",
                "Over the line, totals on *business* are too low by that share.", "percentunit",
                (Query(
                    "sum(rate(headrace_impressions_dropped_total[10m])) / clamp_min("
                    "sum(rate(headrace_impressions_dropped_total[10m])) + sum(rate(headrace_impressions_total[10m])),"
                    " 1e-9)",
                    "not logged",
                ),),
                limit=Limit(0.05, "ImpressionsUnlogged"),
            ),
        )),
        Row("The gateway", (
            Panel(
                "Requests by route and code", "Per second. 401 and 403 are keys, 429 and 503 limits.", "reqps",
                (Query(
                    zero(per_second("headrace_gateway_requests_total", "route, code"), "route", "no requests"),
                    "{{route}} {{code}}",
                ),),
            ),
            Panel(
                "Time until events are safe",
                "Half, and 99 %, of the requests are answered sooner; an answer waits for the log. Seconds: the log is"
                " slow.",
                "s",
                (
                    Query(
                        zero(quantile(0.5, "headrace_gateway_request_duration_seconds", "route", "5m"),
                             "route", "no requests"),
                        "{{route}}: half",
                    ),
                    Query(
                        zero(quantile(0.99, "headrace_gateway_request_duration_seconds", "route", "5m"),
                             "route", "no requests"),
                        "{{route}}: 99 %",
                    ),
                ),
            ),
            Panel(
                "Entries by result",
                "Per second. Accepted is normal; repeated is a sender that tries again; unused is nothing of ours.",
                "eps",
                (Query(zero(per_second("headrace_gateway_entries_total", "result"), "result"), "{{result}}"),),
            ),
            Panel(
                "Refused by reason", "Per second. Normal: none. The answer tells the sender what is wrong.", "eps",
                (Query(zero(per_second("headrace_gateway_refusals_total", "reason"), "reason"), "{{reason}}"),),
            ),
            Panel(
                "While the log is away",
                "1 while it cannot be written; records that wait on disk, acknowledged, per second; and records lost"
                " since the start, as the log refused them. Normal: all 0.",
                "short",
                (
                    Query("max(headrace_gateway_log_away)", "log is away"),
                    Query(per_second("headrace_gateway_spooled_records_total"), "spooled per second"),
                    Query("sum(headrace_gateway_lost_records)", "lost"),
                ),
            ),
            Panel(
                "Connections", "Open now, and turned away per second.", "short",
                (
                    Query("sum(headrace_gateway_connections)", "open"),
                    Query(per_second("headrace_gateway_turned_away_total"), "turned away per second"),
                ),
            ),
            Panel(
                "What waits in the gateway",
                "Share of each bound in use. Normal: near 0. A full spool refuses events: bring the log back.",
                "percentunit",
                (Query('max by (table) (headrace_bound_used{job="gateway"} / headrace_bound_max)', "{{table}}"),),
            ),
        )),
    ),
)  # fmt: skip
