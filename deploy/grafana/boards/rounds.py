"""Rounds of the slow learner, the gate, and the model in use."""

from typing import Final

from deploy.grafana.boards.panels import Board, Limit, Panel, Query, Row, number, per_second

HISTOGRAM: Final = "headrace_round_duration_seconds"

BOARD: Final = Board(
    "rounds",
    "Headrace: rounds and models",
    "Which model answers, how did it get there, and does training work?",
    (
        Row("The model in use", (
            number(
                "Round of the model in use", "none", "max(headrace_champion_round)",
                "0 while none is: the fast learners answer alone. For days in spite of candidates: see why each was"
                " refused in `headrace history`.",
            ),
            number(
                "Rounds decided in a day", "short",
                'round(sum(increase(headrace_rounds_total{outcome=~"promoted|refused|failed"}[1d])))',
                "Promoted, refused or failed. 0 in a busy shop: look whether a round is overdue.",
            ),
            number(
                "Overdue", "short", "max(headrace_round_overdue_records)",
                "Records since a round, or a verdict, was due; 0 during training. Over the limit for an hour: does a"
                " candidate wait for a verdict, and do sessions come?",
                limit=Limit(1_000, "RoundsStopped"),
            ),
            Panel(
                "Model in use by process",
                "The round whose model each process uses. They follow each other within seconds; a fall is a rollback.",
                "none", (Query("max by (job) (headrace_champion_round)", "{{job}}"),), width=12, stepped=True,
            ),
            Panel(
                "Rounds by outcome",
                "Within an hour. Refused is no fault: the champion is still better. Failed twice: look at the reason in"
                " `headrace status`. A model that was rolled back was promoted before.",
                "short", (Query("sum by (outcome) (increase(headrace_rounds_total[1h]))", "{{outcome}}"),),
                stepped=True,
            ),
            Panel(
                "Rounds by trigger", "Within an hour. Volume and time are the schedule; drift and gain are need.",
                "short",
                (Query("sum by (trigger) (increase(headrace_round_triggers_total[1h]))", "{{trigger}}"),), stepped=True,
            ),
            Panel(
                "Recall@20: blend, deep model, session-kNN",
                "Recent events; the deep model from its first promotion on. Session-kNN is always up to date: if it"
                " comes near the deep model, a round would help.",
                "percentunit",
                (Query(
                    "max by (learner) (headrace_prequential_score"
                    '{learner=~"blend|deep|session_knn",metric="recall",k="20",window="recent"})',
                    "{{learner}}",
                ),),
            ),
        )),
        Row("Training", (
            Panel(
                "Training now",
                "How long the present training has run, 0 without one, and when it is ended from outside. Near the"
                " limit: train on less (`rounds.train_s_max`), or look whether the child process hangs.",
                "s",
                (
                    Query(
                        "max(time() - (headrace_round_training_timestamp_seconds > 0)) or on () vector(0)", "trains for"
                    ),
                    Query("max(headrace_round_training_max_seconds)", "ended after"),
                ),
            ),
            Panel(
                "Duration of a round",
                "Mean of the rounds of six hours. It grows with the sessions since the last one.", "s",
                (Query(f"sum(increase({HISTOGRAM}_sum[6h])) / clamp_min(sum(increase({HISTOGRAM}_count[6h])), 1)",
                       "mean"),),
            ),
            Panel(
                "Training loss",
                "Mean of the newest round's last pass, in nats. Normal: it falls over the first rounds, then stays. A"
                " rise: the data changed, or the settings.",
                "none", (Query("max(headrace_round_loss_nats)", "loss"),), stepped=True,
            ),
            Panel(
                "Predictions trained on", "Per second, over all passes; mean of 10 minutes.", "ops",
                (Query(per_second("headrace_round_tokens_total", "job", "10m"), "{{job}}"),),
            ),
            Panel(
                "Overdue records",
                "Since a round, or the verdict on a candidate, was due; 0 during training. See above.", "short",
                (Query("max by (job) (headrace_round_overdue_records)", "{{job}}"),),
                limit=Limit(1_000, "RoundsStopped"),
            ),
            Panel(
                "Torch and its device", "What rounds train with.", "none",
                (Query("count by (version, device) (headrace_torch_info)", "{{version}} on {{device}}"),), "number",
                shows_legend=True,
            ),
        )),
    ),
    since="now-6h",
)  # fmt: skip
