"""The learners: quality, blend, purchases, judging, and what the state holds."""

from typing import Final

from deploy.grafana.boards.panels import Board, Limit, Panel, Query, Row, per_second


def _score(metric: str) -> tuple[Query, ...]:
    expr = f'max by (learner) (headrace_prequential_score{{metric="{metric}",k="20",window="recent"}})'
    return (Query(expr, "{{learner}}"),)


def _intent(metric: str) -> tuple[Query, ...]:
    found = f'max by (learner) (headrace_intent_score{{metric="{metric}", window="recent"}})'
    return (Query(found, "{{learner}}"),)


def _propensity(metric: str) -> tuple[Query, ...]:
    return (Query(f'max by (window) (headrace_propensity_score{{metric="{metric}"}})', "{{window}}"),)


def _share_of_time(step: str) -> Query:
    return Query(per_second(f"headrace_{step}_duration_seconds_sum", "job"), f"{{{{job}}}}: {step}")


BOARD: Final = Board(
    "learning",
    "Headrace: learning",
    "How good is each learner, what does the blend make of them, and do they keep up?",
    (
        Row("The next item: predicted before it was learned, recent events", (
            Panel(
                "Recall@20 by learner",
                "Share of the next items that were among a learner's first 20. Normal: the blend is the highest line."
                " If all fall together, the shop changed: see *drift*. If one falls, the blend uses it less.",
                "percentunit", _score("recall"),
            ),
            Panel(
                "MRR@20 by learner", "Mean of 1/rank of the next item: how far above it stood. Read it as recall.",
                "percentunit", _score("mrr"),
            ),
            Panel(
                "NDCG@20 by learner", "As MRR, but lower ranks count for more. Read it as recall.",
                "percentunit", _score("ndcg"),
            ),
            Panel(
                "Blend: recent events against the whole stream",
                "Recall@20. Recent below the whole stream: the blend was better before; look at *drift*.",
                "percentunit",
                (Query(
                    "max by (window) (headrace_prequential_score{learner=\"blend\",metric=\"recall\",k=\"20\"})",
                    "{{window}}",
                ),),
            ),
            Panel(
                "Share of each learner in the blend",
                "How much of the blend's utility comes from each learner. It shifts slowly; a sudden turn follows a"
                " promotion or a drift.",
                "percentunit", (Query("max by (learner) (headrace_blend_weight_ratio)", "{{learner}}"),), top=1,
                stacked=True,
            ),
            Panel(
                "Events learned",
                "Per second. Far below what comes in (see *stream*): the process falls behind.",
                "eps", (Query(per_second('headrace_events_total{result="learned"}', "job"), "{{job}}"),),
            ),
        )),
        Row("Purchase intent", (
            Panel(
                "AUC: are visits that end with a purchase ranked higher?",
                "Of the newest visits, each at one moment drawn by chance. *visit* is learned from their course,"
                " *items* from their items alone. Normal: *visit* above *items*, both above 0.5.",
                "none", _intent("auc"), top=1,
            ),
            Panel(
                "Calibration error of the members",
                "Mean distance between stated and observed share, before calibration. Answers are calibrated.",
                "percentunit", _intent("calibration_error"),
            ),
            Panel(
                "Visits that ended with a purchase",
                "The base rate. At 0: no orders arrive, or none within half an hour of the visit's last event.",
                "percentunit", _intent("base_rate"),
            ),
        )),
        Row("Purchase propensity", (
            Panel(
                "AUC: are likelier purchases ranked higher?",
                "0.5 is chance, 1 is perfect. It needs purchases in the stream. Near 0.5: views do not tell, or orders"
                " do not arrive.",
                "none", _propensity("auc"), top=1,
            ),
            Panel(
                "Calibration error: are the probabilities right?",
                "Mean distance between stated and observed share. Normal: below the base rate.",
                "percentunit", _propensity("calibration_error"),
            ),
            Panel(
                "Views that led to a purchase, and log-loss",
                "The base rate, and the log-loss of the predictions. A base rate of 0: no orders arrive.",
                "none",
                (
                    Query('max by (window) (headrace_propensity_score{metric="base_rate"})', "base rate, {{window}}"),
                    Query('max by (window) (headrace_propensity_score{metric="log_loss"})', "log-loss, {{window}}"),
                ),
            ),
            Panel(
                "Expected of views whose labels are late",
                "Estimated from the calibrated probabilities. Far from the scores beside it: the shop or its shoppers"
                " have changed.",
                "none", (Query("max by (metric) (headrace_estimated_score)", "{{metric}}"),),
            ),
            Panel(
                "How wrong that was",
                "The last estimate minus what its labels said later. Normal: near 0. Else calibration no longer holds.",
                "none", (Query("max by (metric) (headrace_estimate_error)", "{{metric}}"),),
            ),
        )),
        Row("Judging, and where the time goes", (
            Panel(
                "Share of events that are judged",
                "Judging may take 30 % of the loop's time; over that, or with lag, the share halves. Low for long: the"
                " scores move slowly, but learning keeps up.",
                "percentunit", (Query("max by (job) (headrace_judged_ratio)", "{{job}}"),), top=1, stepped=True,
            ),
            Panel(
                "Predictions judged", "Per second, by all learners together.", "ops",
                (Query(per_second("headrace_judgements_total", "job"), "{{job}}"),),
            ),
            Panel(
                "Share of time: learning, judging, committing",
                "Seconds of each second. Near 1 in sum: the process is at its limit. Long commits: look at the log or"
                " the disk.",
                "percentunit", tuple(map(_share_of_time, ("learn", "judge", "commit"))),
            ),
        )),
        Row("The state: what it holds, and what a restart costs", (
            Panel(
                "Tables that should not fill",
                "Share in use. Over the line: raise the setting for its maximum if memory allows, or the oldest entries"
                " are lost.",
                "percentunit",
                (Query(
                    'max by (job, table) (headrace_bound_used{full="unexpected"} / headrace_bound_max)',
                    "{{job}}: {{table}}",
                ),),
                limit=Limit(0.9, "BoundNear"),
            ),
            Panel(
                "Tables that keep the newest or a sample",
                "Share in use. They fill in any shop.", "percentunit",
                (Query(
                    'max by (job, table) (headrace_bound_used{full="expected"} / headrace_bound_max)',
                    "{{job}}: {{table}}",
                ),),
            ),
            Panel(
                "Journal entries that a restart folds",
                "Entries after the newest snapshot. Over the line: look whether the folder of blobs is full or slow.",
                "short", (Query("max by (job) (headrace_snapshot_behind_entries)", "{{job}}"),),
                limit=Limit(10_000, "SnapshotOld"),
            ),
            Panel(
                "Size of the newest snapshot", "It grows with the shop until the tables are full.", "bytes",
                (Query("max by (job) (headrace_snapshot_size_bytes > 0)", "{{job}}"),),
            ),
            Panel(
                "Snapshots that failed in a row",
                "Normal: 0. Otherwise the folder of blobs is full or cannot be written.", "short",
                (Query("max by (job) (headrace_snapshot_failures)", "{{job}}"),), stepped=True,
            ),
            Panel(
                "Age of the newest snapshot",
                "None is due while nothing is learned, so it is long at night.", "s",
                (Query("time() - max by (job) (headrace_snapshot_timestamp_seconds > 0)", "{{job}}"),),
            ),
            Panel(
                "Parts of the state that were not restored as stored",
                "Since each process started: migrated, set to other bounds or folded anew are no loss. Begun: a part"
                " was lost and learns again; its log names it (\"state renewed\").",
                "short", (Query("max by (job, how) (headrace_renewed_parts)", "{{job}}: {{how}}"),), stepped=True,
            ),
        )),
    ),
)  # fmt: skip
