"""Business: what answers showed, and what was clicked, put into carts and bought; demand and stock."""

from typing import Final

from deploy.grafana.boards.panels import Board, Panel, Query, Row, Variable, number, share, zero

CHOSEN: Final = '{placement=~"$placement"}'
DAY_S: Final = 86_400


def _metric(name: str) -> str:
    return f"headrace_placement_{name}_total{CHOSEN}"


def _of_a_day(name: str) -> str:
    return zero(f"round(sum(increase({_metric(name)}[1d])))")


def _named(expr: str, by: str) -> str:
    """Return series that have a text where a placement or a model has no name, and one of 0 where there are none."""
    nameless = {"placement": "no placement", "model": "no model"}[by]
    return zero(f'label_replace({expr}, "{by}", "{nameless}", "{by}", "")', by, "no answers yet")


def _sum(name: str, by: str) -> str:
    return f"sum by ({by}) (rate({_metric(name)}[1h]))"


def _each(part: str, whole: str, by: str, times: str = "") -> tuple[Query, ...]:
    """Return how much of `part` there is for each of `whole`, by placement or by model."""
    return (Query(_named(f"{times}{_sum(part, by)} / clamp_min({_sum(whole, by)}, 1e-9)", by), f"{{{{{by}}}}}"),)


def _exposure(name: str, by: str) -> str:
    found = f'label_replace(headrace_{name}_ratio{CHOSEN}, "placement", "no placement", "placement", "")'
    return zero(f"max by ({by}) ({found})", "placement", "no answers yet")


def _per_day(name: str, by: str) -> tuple[Query, ...]:
    return (Query(_named(f"{DAY_S} * {_sum(name, by)}", by), f"{{{{{by}}}}}"),)


BOARD: Final = Board(
    "business",
    "Headrace: business",
    "What do recommendations bring, at which placement, and by which model?",
    (
        Row("Within a day", (
            number(
                "Answers shown", "short", _of_a_day("answers"),
                "Lists that the server gave and logged. 0: nobody asks the server, or `serve.impressions` is off.",
            ),
            number(
                "Answers clicked", "percentunit",
                share(_metric("clicked_answers"), _metric("answers"), "1d"),
                "Share of the answers with a click. 0 in spite of visitors: the shop's events name no"
                " `recommendation_id`.",
            ),
            number("Items clicked", "short", _of_a_day("clicks"), "Each item of an answer counts once."),
            number("Items put into carts", "short", _of_a_day("carts"), "Each item of an answer counts once."),
            number(
                "Orders", "short", _of_a_day("orders"),
                "With an item that was clicked in an answer within a day, or whose order names one.",
            ),
            number(
                "Revenue", "short", _of_a_day("revenue"),
                "In the shop's currency, of the items of answers in those orders, not of whole orders.",
            ),
        )),
        Row("By placement, mean of the last hour", (
            Panel(
                "Answers that were clicked",
                "Share of the answers with a click. Placements differ; a fall at one placement alone is a change of the"
                " page, at all a change of the answers.",
                "percentunit", _each("clicked_answers", "answers", "placement"),
            ),
            Panel(
                "Revenue a day", "At the pace of the last hour, in the shop's currency.", "short",
                _per_day("revenue", "placement"), stacked=True,
            ),
            Panel(
                "Revenue of 1,000 answers", "In the shop's currency: what a placement is worth, whatever its traffic.",
                "short", _each("revenue", "answers", "placement", "1000 * "),
            ),
            Panel(
                "Answers a day", "At the pace of the last hour: how often each placement is shown.", "short",
                _per_day("answers", "placement"), stacked=True,
            ),
            Panel(
                "Orders of 1,000 answers", "With an item of the answer.", "short",
                _each("orders", "answers", "placement", "1000 * "),
            ),
            Panel(
                "Items in carts of 100 clicked", "Low: the items attract but do not convince, or prices do not.",
                "short", _each("carts", "clicks", "placement", "100 * "),
            ),
        )),
        Row("By model, mean of the last hour", (
            Panel(
                "Answers that were clicked",
                "Share of the answers with a click. Models answer one after the other, so compare only beside the marks"
                " of promotions: it is no experiment.",
                "percentunit", _each("clicked_answers", "answers", "model"),
            ),
            Panel(
                "Revenue of 1,000 answers", "In the shop's currency.", "short",
                _each("revenue", "answers", "model", "1000 * "),
            ),
            Panel(
                "Answers a day", "At the pace of the last hour: which models answer.", "short",
                _per_day("answers", "model"), stacked=True,
            ),
        )),
        Row("Exposure, who gets the attention of answers", (
            Panel(
                "Largest share of one brand, or seller",
                "Share of the exposure lately; a place counts 1 / log2(1 + place), and what is a day old half. Above"
                " what a rule `exposure` allows: the rule is new, or too few candidates are other brands'.",
                "percentunit",
                (Query(_exposure("exposure_largest", "placement, group"), "{{placement}} {{group}}"),),
            ),
            Panel(
                "How unequal the exposure is",
                "Gini coefficient among brands, and among sellers: 0 if all get as much, near 1 if one has all.",
                "percentunit", (Query(_exposure("exposure_gini", "placement, group"), "{{placement}} {{group}}"),),
            ),
            Panel(
                "Exposure by popularity",
                "Of the most popular 1 % of the items, those up to 10 %, and the rest; beside it the shoppers' own"
                " steps, without being led by an answer. Far above their steps: answers make the popular more popular.",
                "percentunit",
                (
                    Query(_exposure("exposure_popularity", "placement, band"), "{{placement}} {{band}}"),
                    Query(
                        zero("max by (band) (headrace_steps_popularity_ratio)", "band", "none"),
                        "shoppers' own steps {{band}}",
                    ),
                ),
            ),
        )),
        Row("Demand and stock", (
            Panel(
                "Forecasts of demand",
                "Of the newest weeks, by weeks ahead. error: absolute errors of the medians by all pieces sold; best:"
                " that of the best simple method. covered: share of the 90 % intervals that held what came.",
                "percentunit",
                (Query(
                    zero("max by (weeks_ahead, demand_measure) (headrace_demand_score)", "weeks_ahead", "none yet"),
                    "{{weeks_ahead}} {{demand_measure}}",
                ),),
            ),
            Panel(
                "Items at risk",
                "Of the items whose level is stated: sold out, foreseen to be sold out before an order could arrive,"
                " and dead, whose stock lasts for a year.",
                "short", (Query(zero("max by (risk) (headrace_stock_items)", "risk", "none"), "{{risk}}"),),
            ),
            Panel(
                "Stock-outs a day",
                "All, and those that had been told the day before at the latest; and how often an item was told.",
                "short",
                (Query(f"{DAY_S} * sum by (outs) (rate(headrace_stock_outs_total[1h]))", "{{outs}}"),),
            ),
        )),
        Row("Longer, and whether these numbers can be trusted", (
            Panel(
                "Click-through of the last days",
                "Share of the answers with a click, those of a day ago count half; by placement and model.",
                "percentunit",
                (Query(
                    zero(f"max by (placement, model) (headrace_placement_click_through_ratio{CHOSEN})", "placement",
                         "no answers yet"),
                    "{{placement}} {{model}}",
                ),),
            ),
            Panel(
                "Lines of events that name an answer",
                "Per second. Attributed is normal, repeated harmless. Many unknown: answers are not logged, or the ids"
                " are another system's. Not shown: events name the wrong answer.",
                "eps",
                (Query("sum by (attribution) (rate(headrace_placement_uses_total[5m]))", "{{attribution}}"),),
            ),
            Panel(
                "Entries evicted too early",
                "Per second, by table. Normal: 0. Otherwise answers are forgotten before a day is over: raise"
                " the settings of `placements`.",
                "ops", (Query("sum by (table) (rate(headrace_placement_evictions_total[5m]))", "{{table}}"),),
            ),
        )),
    ),
    (Variable("placement", "Placement", "label_values(headrace_placement_answers_total, placement)", ".*"),),
    since="now-24h",
)  # fmt: skip
