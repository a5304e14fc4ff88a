"""The stream and the log: what comes in, whether it is learned in time, what is refused, and each process.

Without Kafka, no transaction stays open and topics have no settings: those panels show 0.
"""

from typing import Final

from deploy.grafana.boards.panels import (
    Board,
    Limit,
    Panel,
    Query,
    Row,
    Variable,
    per_second,
    quantile,
    share,
    zero,
)

PROCESS: Final = 'job=~"$process"'
OURS: Final = f"{{{PROCESS}}}"

BOARD: Final = Board(
    "stream",
    "Headrace: stream and Kafka",
    "What comes in, is it learned in time, what cannot be used, and is the log in order?",
    (
        Row("What comes in", (
            Panel(
                "Events by result",
                "Per second. Learned is normal. Duplicates repeat an id, which costs nothing. Many unused: events that"
                " no learner reads.",
                "eps",
                (Query(per_second(f"headrace_events_total{OURS}", "job, result"), "{{job}}: {{result}}"),),
            ),
            Panel(
                "Events sent", "Per second, by our producers and by the gateway. Compare with what is learned.", "eps",
                (
                    Query(zero(per_second("headrace_published_events_total")), "producers"),
                    Query(zero(per_second('headrace_gateway_entries_total{result="accepted"}')), "gateway"),
                ),
            ),
            Panel(
                "Age of events when they are appended",
                "Half, and 99 %, are younger. Seconds live, days while history is loaded. Minutes live: a sender waits,"
                " or its clock is wrong.",
                "s",
                (
                    Query(quantile(0.5, "headrace_event_age_seconds", "job", "5m", OURS), "{{job}}: half"),
                    Query(quantile(0.99, "headrace_event_age_seconds", "job", "5m", OURS), "{{job}}: 99 %"),
                ),
            ),
        )),
        Row("Is it learned in time?", (
            Panel(
                "Records waiting by process",
                "Lag. Normal: near 0. Growing: more comes in than is learned; see the shares of time on *learning*.",
                "short", (Query(f"sum by (job) (headrace_lag_records{OURS})", "{{job}}"),),
            ),
            Panel(
                "Time that what waits needs",
                "At the present speed. Over the line and growing: the process falls back. 0 if nothing is learned.",
                "s",
                (Query(
                    f"sum by (job) (headrace_lag_records{OURS})"
                    f" / (sum by (job) (rate(headrace_events_total{OURS}[10m])) > 0)"
                    f" or sum by (job) (headrace_lag_records{OURS}) * 0",
                    "{{job}}",
                ),),
                limit=Limit(300, "LagGrows"),
            ),
            Panel(
                "Records waiting by partition",
                "Of the slowest process. One partition alone: its key is too frequent, or a record stops its reader.",
                "short",
                (Query(
                    f"max by (topic, partition) (headrace_lag_records{OURS})", "{{topic}}/{{partition}}",
                ),),
            ),
            Panel(
                "Freshness",
                "From a record's append until it was learned, or, for serve, until answers include it.", "s",
                (
                    Query(quantile(0.5, "headrace_freshness_seconds", "job", "5m", OURS), "{{job}}: half"),
                    Query(quantile(0.99, "headrace_freshness_seconds", "job", "5m", OURS), "{{job}}: 99 %"),
                ),
                limit=Limit(30, "FreshnessStale"),
            ),
            Panel(
                "Duration of a commit (99 %)",
                "With the wait for the commit before. Normal: below 0.1 s. Seconds: the broker or the disk is slow.",
                "s", (Query(quantile(0.99, "headrace_commit_duration_seconds", "job", "5m", OURS), "{{job}}"),),
            ),
            Panel(
                "Partitions of the topic of events",
                "A step is an expansion: restart your producers, so that all choose partitions by the same number.",
                "short",
                (Query('count(count by (partition) (headrace_lag_records{topic="events"}))', "events"),), stepped=True,
            ),
        )),
        Row("What cannot be used", (
            Panel(
                "Share of events that is rejected",
                "Normal: near 0. Over the line: a sender changed; the topic dead-letters holds the records.",
                "percentunit",
                (Query(
                    share(
                        f'headrace_events_total{{{PROCESS},result="rejected"}}', f"headrace_events_total{OURS}", "10m"
                    ),
                    "rejected",
                ),),
                limit=Limit(0.05, "BadEvents"),
            ),
            Panel(
                "Records rejected by reason", "Per second, of events and side topics. Normal: none.", "eps",
                (Query(
                    zero(f"({per_second(f'headrace_events_rejected_total{OURS}', 'reason')} > 0)", "reason"),
                    "{{reason}}",
                ),),
            ),
            Panel(
                "Items, lines and amounts dropped",
                "Per second. Records of items that cannot be used; lines of good events; amounts in a currency without"
                " a rate (`desk.rates`).",
                "eps",
                (
                    Query(per_second(f"headrace_item_records_rejected_total{OURS}"), "records of items"),
                    Query(per_second(f"headrace_lines_dropped_total{OURS}"), "lines of events"),
                    Query(per_second(f"headrace_amounts_dropped_total{OURS}"), "amounts"),
                ),
            ),
        )),
        Row("The log (Kafka, or a file)", (
            Panel(
                "Records hidden by an open transaction",
                "On Kafka. Normal: 0. Otherwise end its producer, or abort it with kafka-transactions.sh.", "short",
                (Query("max by (topic, partition) (headrace_unstable_records)", "{{topic}}/{{partition}}"),),
            ),
            Panel(
                "Settings of topics that are not as needed",
                "On Kafka. Normal: 0. `headrace status` names each, what follows, and the command that corrects it.",
                "short", (Query("max by (topic) (headrace_topic_settings_wrong)", "{{topic}}"),), stepped=True,
            ),
            Panel(
                "Records of strangers, and records trimmed",
                "Strangers wrote to the journal or to judgements: normal is 0. Trimmed are old records that were"
                " deleted from a log in a file, per second.",
                "short",
                (
                    Query(f"sum by (job) (headrace_stray_records{OURS})", "{{job}}: strangers"),
                    Query(per_second(f"headrace_trimmed_records_total{OURS}"), "trimmed per second"),
                ),
            ),
        )),
        Row("Each process", (
            Panel(
                "Memory", "Resident. Normal: flat once the tables are full.", "bytes",
                (Query(f"process_resident_memory_bytes{OURS}", "{{job}} {{instance}}"),),
            ),
            Panel(
                "Processor", "Seconds of each second. 1 is a whole core; learning and answering use one each.",
                "percentunit",
                (Query(f"rate(process_cpu_seconds_total{OURS}[$__rate_interval])", "{{job}} {{instance}}"),),
            ),
            Panel(
                "Open files", "Share of the most that the system allows. Normal: a few per cent.", "percentunit",
                (Query(f"process_open_fds{OURS} / process_max_fds", "{{job}} {{instance}}"),),
            ),
        )),
    ),
    (Variable("process", "Process", "label_values(headrace_build_info, job)"),),
)  # fmt: skip
