"""Experiments: who is in which arm, how the arms compare, and whether that can be trusted."""

from typing import Final

from deploy.grafana.boards.panels import Board, Panel, Query, Row, Variable, number, zero

CHOSEN: Final = '{experiment=~"$experiment"}'
NONE: Final = "no experiment"


def _relative(bound: str) -> str:
    return f'headrace_experiment_relative_difference{{experiment=~"$experiment", metric=~"$metric", bound="{bound}"}}'


BOARD: Final = Board(
    "experiments",
    "Headrace: experiments",
    "What do experiments show, and can it be trusted?",
    (
        Row("Now", (
            number(
                "Shoppers in experiments", "short", zero(f"sum(headrace_experiment_shoppers{CHOSEN})"),
                "Of all arms. A shopper who is in experiments of several layers counts for each.",
            ),
            number(
                "Least p value of the shares", "short",
                f"min(headrace_experiment_sample_ratio_p_value{CHOSEN}) or on () vector(1)",
                "Below 0.001 the arms do not get their planned shares of the shoppers, and no difference can be"
                " trusted: look for what loses or assigns shoppers by their arm.",
            ),
            number(
                "Left out", "short", zero(f"sum(headrace_experiment_left_out{CHOSEN})"),
                "Shoppers over the daily budget, in two arms, or no longer followed, and answers with a wrong arm.",
            ),
        )),
        Row("By arm", (
            Panel(
                "Shoppers", "Who have had an answer. Lines of equal shares lie on each other.", "short",
                (Query(zero(f"headrace_experiment_shoppers{CHOSEN}", "experiment", NONE), "{{experiment}} {{arm}}"),),
            ),
            Panel(
                "Left out, by why", "Normal: few, and equally many in all experiments.", "short",
                (Query(
                    zero(f"sum by (left_out) (headrace_experiment_left_out{CHOSEN})", "left_out", NONE), "{{left_out}}",
                ),),
            ),
            Panel(
                "p value of the shares", "Falls below 0.001 once the planned shares are refuted, for good.", "short",
                (Query(
                    zero(f"headrace_experiment_sample_ratio_p_value{CHOSEN}", "experiment", NONE), "{{experiment}}",
                ),),
            ),
        )),
        Row("Difference from the control, as a share of its value", (
            Panel(
                "Lower bound", "Above 0: the arm is proved to be better. Bounds hold at any time.", "percentunit",
                (Query(zero(_relative("low"), "experiment", NONE), "{{experiment}} {{arm}} {{metric}}"),),
            ),
            Panel(
                "Difference", "The best guess, which means little while the bounds are on both sides of 0.",
                "percentunit",
                (Query(zero(_relative("value"), "experiment", NONE), "{{experiment}} {{arm}} {{metric}}"),),
            ),
            Panel(
                "Upper bound", "Below 0: the arm is proved to be worse.", "percentunit",
                (Query(zero(_relative("high"), "experiment", NONE), "{{experiment}} {{arm}} {{metric}}"),),
            ),
        )),
        Row("Exploration", (
            Panel(
                "Shares of choices",
                "Of the answers of an arm that leaves something to chance. No choice falls below the floor.",
                "percentunit",
                (Query(
                    zero(f"headrace_exploration_share_ratio{CHOSEN}", "experiment", NONE),
                    "{{experiment}} {{arm}} {{action}}",
                ),),
            ),
            Panel(
                "Rewarded", "Share of a choice's answers that were rewarded. Shoppers differ, and so do choices.",
                "percentunit",
                (Query(
                    zero(f"headrace_exploration_reward_ratio{CHOSEN}", "experiment", NONE),
                    "{{experiment}} {{arm}} {{action}}",
                ),),
            ),
            Panel(
                "Answers", "Of arms that leave something to chance; whose reward is known.", "short",
                (Query(zero(f"headrace_exploration_answers{CHOSEN}", "experiment", NONE), "{{experiment}} {{arm}}"),),
            ),
            Panel(
                "State of the policy",
                "At 1: the state. An apprentice follows the present ranking, until what was learned agrees; after a"
                " rollback, the policy before is held.",
                "short",
                (Query(
                    zero(f"headrace_exploration_policy_state{CHOSEN}", "experiment", NONE),
                    "{{experiment}} {{arm}} {{policy_state}}",
                ),),
            ),
            Panel(
                "Agreement", "What was learned takes over from here on: 80 % unless stated, 100 % after a rollback.",
                "percentunit",
                (Query(
                    zero(f"headrace_exploration_agreement_ratio{CHOSEN}", "experiment", NONE), "{{experiment}} {{arm}}",
                ),),
            ),
            Panel(
                "Evidence that a policy is worse", "At 40, it is rolled back to its reference.", "short",
                (Query(zero(f"headrace_exploration_evidence{CHOSEN}", "experiment", NONE), "{{experiment}} {{arm}}"),),
            ),
            Panel(
                "Rolled back", "Policies that did worse than the one before them.", "short",
                (Query(zero("increase(headrace_exploration_rollbacks_total[1h])"), "in an hour"),),
            ),
            Panel(
                "Not learned from", "Normal: none. Answers that do not fit their arm, or for which there is no room.",
                "short",
                (Query(
                    zero("sum by (unlearned) (increase(headrace_exploration_unlearned_total[1h]))", "unlearned", NONE),
                    "{{unlearned}}",
                ),),
            ),
        )),
    ),
    (
        Variable("experiment", "Experiment", "label_values(headrace_experiment_shoppers, experiment)", ".*"),
        Variable("metric", "Metric", "label_values(headrace_experiment_relative_difference, metric)", ".*"),
    ),
    since="now-7d",
)  # fmt: skip
