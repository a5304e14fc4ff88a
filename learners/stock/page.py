"""The page about stock: how many items are sold out or will be, and whether stock-outs were foreseen."""

from collections.abc import Sequence
from typing import Any, Final

from headrace.pages import Column, Drawn, Figure, Figures, Listing, Page, Section, course

RISKS: Final = {
    "sold_out": "sold out",
    "foreseen": "will probably be sold out before an order arrives",
    "dead": "stock lasts too long",
}
_RISKS: Final = (Column("items", "text"), Column("how many"), Column("over time", "trend"))
_TOLD: Final = (Column("told by", "text"), Column("foreseen", "bar"), Column("times told"))


def sections(found: Sequence[Any]) -> list[Section]:
    """Return the page's sections, from the family's scores."""
    newest = found[-1].scores
    if not newest.levels:
        return []
    return [_risks(found), _foreseen(found)]


def _risks(found: Sequence[Any]) -> Section:
    newest = found[-1].scores
    figures = (Figure("items with a level", newest.levels), Figure("items that are followed", newest.items))
    rows = tuple(
        (text, newest.risks.get(name, 0), tuple(one.scores.risks.get(name, 0) for one in found))
        for name, text in RISKS.items()
    )
    drawn: list[Drawn] = [Figures(figures), Listing(_RISKS, rows)]
    over = course("Items at risk", [(one.time_ms, {RISKS[name]: float(n) for name, n in one.scores.risks.items()})
                                    for one in found])  # fmt: skip
    return Section("Risks", (*drawn, *([over] if len(over.times) > 1 else [])), _ABOUT_RISKS)


_ABOUT_RISKS: Final = (
    "As of the beginning of the day. What to order of which item, with reasons, is in the plan: headrace stock plan, or"
    " GET /v1/stock/plan."
)


def _foreseen(found: Sequence[Any]) -> Section:
    newest = found[-1].scores
    out = newest.sold_out
    rows = (
        ("the plan", newest.foreseen / out, newest.warned),
        ("a usual rule", newest.foreseen_simple / out, newest.warned_simple),
    ) if out else ()  # fmt: skip
    drawn: list[Drawn] = [Figures((Figure("items that sold out so far", out),))]
    return Section(
        "Stock-outs that were foreseen", (*drawn, *([Listing(_TOLD, rows)] if rows else [])), _ABOUT_FORESEEN
    )


_ABOUT_FORESEEN: Final = (
    "Share of the stock-outs that were told a day before or earlier. The usual rule tells an item whose level is below"
    " what it sold in a lead time lately."
)


PAGE: Final = Page(
    "stock", "Stock",
    "Which items are sold out or will be, whether that was foreseen, and whose stock lasts too long.",
    sections,
    "No level of an item is known. The shop states it in the items' field quantity.",
)  # fmt: skip
