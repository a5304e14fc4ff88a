"""Shoppers: who is in which segment, what they are worth, and whether what is expected of them comes true."""

from typing import Final

from deploy.grafana.boards.panels import Board, Panel, Query, Row, zero

DAY_S: Final = 86_400

BOARD: Final = Board(
    "shoppers",
    "Headrace: shoppers",
    "Who are the shoppers, what are they worth, and does what is expected of them come true?",
    (
        Row(
            "Profiles and segments",
            (
                Panel(
                    "Shoppers seen lately who have bought",
                    "Share of the 1,000 shoppers with a profile who were seen last. Falling: more visitors are new, or"
                    " fewer become buyers.",
                    "percentunit",
                    (Query("max(headrace_profiles_buyers_ratio) or vector(0)", "share"),),
                ),
                Panel(
                    "Shoppers in segments",
                    "As last checked: who does nothing is checked again within days. Clusters are c1, c2 and so on.",
                    "short",
                    (Query(zero("max by (segment) (headrace_segment_shoppers)", "segment", "none"), "{{segment}}"),),
                ),
                Panel(
                    "Moves a day",
                    "How often shoppers entered and left segments, and moves that were counted, but not written to the"
                    " topic, because the minute had as many as may be; clusters that were born, ended and merged.",
                    "short",
                    (
                        Query(
                            zero(
                                "sum by (direction) (rate(headrace_segment_moves_total[1h])) * 86400",
                                "direction",
                                "none",
                            ),
                            "{{direction}}",
                        ),
                        Query(
                            "sum(rate(headrace_segment_moves_unwritten_total[1h])) * 86400 or vector(0)", "unwritten"
                        ),
                        Query(
                            zero(
                                "sum by (change) (rate(headrace_segment_clusters_total[7d])) * 86400", "change", "none"
                            ),
                            "clusters {{change}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Shoppers, what they are worth",
            (
                Panel(
                    "Shoppers by class of value",
                    "A have 80 % of all expected spend, A and B 95 %. No shopper has a class before the far horizon,"
                    " 91 days by default, has passed.",
                    "short",
                    (
                        Query(
                            zero("max by (value_class) (headrace_value_class_shoppers)", "value_class", "none"),
                            "{{value_class}}",
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    "How good expectations were",
                    "Of the newest weeks whose outcomes are known. A correlation below the past's: the model does not"
                    " help. A calibration error above 0.05: the season has changed, or prices have.",
                    "none",
                    (
                        Query(
                            zero("max by (horizon, metric) (headrace_value_score)", "horizon", "none yet"),
                            "{{horizon}} {{metric}}",
                        ),
                    ),
                ),
                Panel(
                    "Repairs by returns a day",
                    "Many at_arrival: returns name neither an order nor an item that is remembered.",
                    "short",
                    (Query(f"{DAY_S} * sum by (repair) (rate(headrace_value_repairs_total[1h]))", "{{repair}}"),),
                ),
                Panel(
                    "Views of which late truth was learned, a day",
                    "late_purchases: bought after the 6 hours, within 7 days. Many: answers, which are about 6 hours,"
                    " tell only a part of what views lead to.",
                    "short",
                    (Query(f"{DAY_S} * sum by (repair) (rate(headrace_propensity_repairs_total[1h]))", "{{repair}}"),),
                ),
            ),
        ),
    ),
)
