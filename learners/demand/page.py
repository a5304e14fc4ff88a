"""The page about demand: what the shop sold against what was forecast, and how far forecasts can be trusted."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from headrace.pages import Column, Course, Drawn, Figure, Figures, Listing, Page, Section, course

_ERRORS: Final = (
    Column("weeks ahead"), Column("forecasts"), Column("error", "share"), Column("best simple method", "share"),
    Column("covered", "share"), Column("what covered should be", "share"), Column("over time", "trend"),
)  # fmt: skip
_CLASSES: Final = (Column("pieces a week", "text"), Column("forecasts"), Column("covered", "share"))
_COVERED: Final = 0.9


def sections(found: Sequence[Any]) -> list[Section]:
    """Return the page's sections, from the family's scores."""
    newest = found[-1].scores
    if not newest.items:
        return []
    figures = Figures(
        (
            Figure("items that have sold", newest.items),
            Figure("weeks that are known", newest.weeks),
            Figure("days of a week", newest.week_days),
        )
    )
    shop = Section("The shop", (figures, *_shop(found)), _ABOUT_SHOP)
    if not newest.horizons:
        return [shop]
    rows = tuple(
        (
            one.weeks, one.forecasts, one.error, one.best, one.covered, _COVERED,
            tuple(each.error for earlier in found for each in earlier.scores.horizons if each.weeks == one.weeks),
        )
        for one in newest.horizons
    )  # fmt: skip
    classes = tuple((name, count, covered) for name, (count, covered) in newest.horizons[0].classes.items())
    over = _over_time(found)
    return [
        shop,
        Section(
            "How good the forecasts are", (Listing(_ERRORS, rows), *([over] if len(over.times) > 1 else [])), _ABOUT
        ),
        Section("Intervals, one week ahead", (Listing(_CLASSES, classes),), _ABOUT_CLASSES),
    ]


def _shop(found: Sequence[Any]) -> list[Drawn]:
    """Return what the shop sold by week, and what was expected of it."""
    weeks: dict[int, Mapping[str, float | None]] = {}
    for record in found:
        for one in record.scores.shop:
            weeks[one.begins_ms] = {"sold": one.sold, "expected": one.expected}
    return [course("Pieces by week", sorted(weeks.items()))] if len(weeks) > 1 else []


def _over_time(found: Sequence[Any]) -> Course:
    named: list[tuple[int, Mapping[str, float | None]]] = [
        (record.time_ms, {"error": one.error, "best simple method": one.best, "covered": one.covered})
        for record in found
        for one in record.scores.horizons[:1]
    ]
    return course("One week ahead", named, share=True)


_ABOUT_SHOP: Final = (
    "Forecasts are made when a week begins. What is expected is the sum of the means of all items; their medians would"
    " add up to less, as few large orders are above them."
)
_ABOUT: Final = (
    "The sum of absolute errors by all pieces sold, over the newest weeks whose truth is known. The best simple method"
    " is that of the last week, the mean or the median of 8 weeks, and exponential smoothing which had the least error."
)
_ABOUT_CLASSES: Final = (
    "The share of forecasts whose 90 % interval held what came. Each week the intervals of a class become wider or"
    " narrower by what they covered."
)

PAGE: Final = Page(
    "demand", "Demand",
    "What items will sell, how far forecasts can be trusted, and how wide their intervals must be.",
    sections,
    "Nothing has been sold yet. The first forecasts are made after ten weeks.",
)  # fmt: skip
