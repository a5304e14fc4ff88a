"""The page about value: who is worth how much, how far predictions can be trusted, and what late truth repaired."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from headrace.pages import (
    Calibration,
    Column,
    Course,
    Drawn,
    Figure,
    Figures,
    Listing,
    Page,
    Predicted,
    Section,
    course,
)

_CLASS: Final = (Column("class", "text"), Column("shoppers"), Column("share of the shoppers", "bar"))
_OF_SPEND: Final = (Column("share of it", "bar"), Column("over time", "trend"))
_SCORES: Final = (
    Column("what is judged", "text"), Column("predictions", "number"), Column("by the past alone", "number"),
    Column("perfect", "number"), Column("what it means", "text"),
)  # fmt: skip
_REPAIRS: Final = (Column("what was repaired", "text"), Column("times"), Column("over time", "trend"))
REPAIRED: Final = {
    "features": "what is known of the shopper, as if it had not been bought",
    "outcomes": "outcomes that had been learned or will be, exactly",
    "at_arrival": "of orders no longer remembered: only what is known from now on, approximately",
    "late_orders": "orders that arrived late: outcomes exactly, as if they had come in time",
}
"""What the repairs of `learners.value.family.Repair` mean, in their order."""


def sections(found: Sequence[Any]) -> list[Section]:
    """Return the page's sections, from the family's scores."""
    newest = found[-1].scores
    if not newest.shoppers:
        return []
    return [_who(found), *(_within(found, place) for place in range(len(newest.horizons))), _repairs(found)]


def _who(found: Sequence[Any]) -> Section:
    newest = found[-1].scores
    far = newest.days[-1]
    expected = f"expected spend, {far} days"
    classed, spend = sum(newest.classes.values()), sum(newest.spend.values())
    known = {one.days: one.rows for one in newest.horizons}
    figures = (
        Figure("buyers who are known", newest.shoppers),
        Figure(expected, spend or None, unit=newest.currency),
        *(Figure(f"known outcomes, {days} days", known.get(days, 0)) for days in newest.days),
    )
    rows = tuple(
        (
            name, count, count / classed, own, None if own is None else own / spend,
            tuple(one.scores.classes.get(name, 0) for one in found),
        )
        for name, count in newest.classes.items()
        for own in [newest.spend[name] if spend else None]
    ) if classed else ()  # fmt: skip
    columns = (*_CLASS, Column(expected), *_OF_SPEND)
    drawn: list[Drawn] = [Figures(figures), *([Listing(columns, rows)] if rows else [])]
    return Section("Classes A, B and C", tuple(drawn), (_ABOUT_CLASSES if rows else _ABOUT_NO_CLASSES).format(far=far))


_ABOUT_CLASSES: Final = (
    "Each Monday shoppers are ordered by what they are expected to spend within {far} days. A are those who bring the"
    " largest part of it, C the many who bring the rest; who is near a limit stays in the class."
)
_ABOUT_NO_CLASSES: Final = (
    "Nobody has a class yet: the first ones come on a Monday, once 200 outcomes of {far} days are known."
)


def _within(found: Sequence[Any], place: int) -> Section:
    one = found[-1].scores.horizons[place]
    rows = (
        (
            "order of the shoppers by spend", one.correlation, one.past_correlation, 1.0,
            "rank correlation of expected and true spend; 0 is by chance. The past: what was spent before",
        ),
        (
            "spend of the best tenth", one.tenth, one.past_tenth, None,
            "share of all true spend that those have of whom most was expected",
        ),
        ("true by expected spend", one.spend_ratio, None, 1.0, "of all shoppers together; above 1: more was spent"),
        ("spends within their interval", one.covered, None, 0.8, "share; the intervals are made for 0.8"),
        (
            "buyers told from others", one.auc, one.past_auc, 1.0,
            "AUC: how often a buyer was given a higher probability than one who did not buy; 0.5 is by chance. The"
            " past: how lately was bought",
        ),
        (
            "calibration error", one.calibration_error, None, 0.0,
            "mean distance between the probability and the share that bought",
        ),
    )  # fmt: skip
    points = tuple(Predicted(each.rows, each.predicted, each.bought) for each in one.reliability)
    drawn: list[Drawn] = [Calibration(points), Listing(_SCORES, rows)]
    over = _over_time(found, one.days)
    return Section(f"Within {one.days} days", (*drawn, *([over] if len(over.times) > 1 else [])), _ABOUT_WITHIN)


_ABOUT_WITHIN: Final = (
    "Predictions that were made then, against what came: those of the newest weeks whose outcomes are known by now."
)


def _over_time(found: Sequence[Any], days: int) -> Course:
    named: list[tuple[int, Mapping[str, float | None]]] = [
        (
            one.time_ms,
            {
                "buyers told from others (AUC)": each.auc, "order of the shoppers by spend": each.correlation,
                "by what was spent before": each.past_correlation, "calibration error": each.calibration_error,
            },
        )
        for one in found
        for each in one.scores.horizons
        if each.days == days
    ]  # fmt: skip
    return course("How good the predictions were", named)


def _repairs(found: Sequence[Any]) -> Section:
    repairs = found[-1].scores.repairs
    rows = tuple(
        (text, repairs.get(name, 0), tuple(one.scores.repairs.get(name, 0) for one in found))
        for name, text in REPAIRED.items()
    )
    return Section("Truth that came late", (Listing(_REPAIRS, rows),), _ABOUT_REPAIRS)


_ABOUT_REPAIRS: Final = "What returns, cancellations and late orders have changed of what had been learned."


PAGE: Final = Page(
    "value", "Value",
    "Who is worth how much, whether predictions of it can be trusted, and what returns have changed.",
    sections,
    "Nobody has bought anything yet. The first value is expected when the near horizon after the first week with buyers"
    " is over.",
)  # fmt: skip
