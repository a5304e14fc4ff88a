"""What trading relevance would do to a sample of answers: a front of what is kept and of what is gained.

Costs and the times at which items were stated first are those of the topic `items`; what it does not state counts as
nothing. Relevance is by the blend's probabilities, as the rule `trade` has it.
"""

from math import log2
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from headrace import items
from headrace.errors import Misconfigured
from headrace.events import Rejection
from headrace.log.protocol import Log
from headrace.log.scan import topic_records
from headrace.rules import RuleSet
from headrace.shard.blobs import Blobs
from headrace.topics import ITEMS
from learners.parts.gini import gini
from operators.deployment import Deployment
from operators.rules import Sample

SHARES: Final = (1.0, 0.99, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
"""The shares of the relevance that are tried beside the one that a document states."""
day_ms: Final = 24 * 3_600_000


class Point(Struct):
    """Means over the answers to a sample of shoppers by one `relevance_min`, None without the rule.

    `kept` is the share of the relevance that the answers keep, `kept_worst` the least. `margin` is expected, of an
    answer: the sum of probability x margin over its places, discounted. `new` is the share of the exposure that items
    get that were stated in the last `fresh_days`. `brands` and `categories` are different ones in an answer.
    `largest_brand` is the largest share of all exposure that one brand gets, `gini` how unequal brands' exposure is.
    `changed` is the share of the answers that differ from those without the rule.
    """

    relevance_min: float | None
    kept: float
    kept_worst: float
    relevance: float
    margin: float
    new: float
    brands: float
    categories: float
    largest_brand: float
    gini: float
    changed: float


class Front(Struct):
    """What `rules trade` found at a placement."""

    placement: str
    shoppers: int
    n: int
    points: list[Point]


class _Stated(Struct):
    margin: float
    first_ms: int


def front(
    log: Log, blobs: Blobs, deployment: Deployment, placement: str, rules: RuleSet, *, shoppers: int, n: int
) -> Front:
    """Answer a sample of shoppers by rules that trade relevance, for several shares that must be kept.

    Args:
        rules: their `trade` states the objectives.
        n: number of items of each answer.

    Raises:
        Misconfigured: they state no `trade`, or the live state cannot be folded.
    """
    trade = rules.trade
    if trade is None:
        raise Misconfigured("rules trade: wanted a document that states `trade`, found none")
    sample = Sample(log, blobs, deployment, placement, shoppers=shoppers, n=n, what="rules trade")
    stated, since_ms = _stated_items(log), sample.time_ms - trade.fresh_days * day_ms
    sample.state(replace(rules, trade=None))
    before = sample.answers()
    points = [_point(None, before, before, stated, since_ms)]
    for share in sorted({*SHARES, trade.relevance_min}, reverse=True):
        sample.state(replace(rules, trade=replace(trade, relevance_min=share)))
        points.append(_point(share, sample.answers(), before, stated, since_ms))
    return Front(placement, len(before), n, points)


def _stated_items(log: Log) -> dict[str, _Stated]:
    """Return the margin of each item that the shop states, 0 if it is not known, and when it was stated first."""
    found: dict[str, _Stated] = {}
    for record in topic_records(log, ITEMS):
        one = items.decode(record)
        if isinstance(one, Rejection):
            continue
        both = sorted(one.prices.keys() & one.costs.keys())
        margin = one.prices[both[0]] - one.costs[both[0]] if both else 0.0
        known = found.get(one.id)
        found[one.id] = _Stated(margin, known.first_ms if known else record.time_ms)
    return found


def _point(
    share: float | None, answers: list[Any], before: list[Any], stated: dict[str, _Stated], since_ms: float
) -> Point:  # fmt: skip
    count = max(1, len(answers))
    by_brand: dict[str, float] = {}
    relevance = margin = new = exposure = brands = categories = 0.0
    for answer in answers:
        for place, item in enumerate(answer.items, 1):
            discount, known = 1 / log2(1 + place), stated.get(item.item_id)
            exposure += discount
            relevance += item.score * discount
            if known:
                margin += item.score * known.margin * discount
                new += discount * (known.first_ms > since_ms)
            if item.brand:
                brand = item.brand.strip().casefold()
                by_brand[brand] = by_brand.get(brand, 0.0) + discount
        brands += len({item.brand for item in answer.items if item.brand})
        categories += len({item.category for item in answer.items if item.category})
    kept = [1.0 if one.rules.relevance_kept is None else one.rules.relevance_kept for one in answers] or [1.0]
    changed = sum(_items(one) != _items(other) for one, other in zip(answers, before, strict=True))
    return Point(
        share, sum(kept) / len(kept), min(kept), relevance / count, margin / count, new / (exposure or 1.0),
        brands / count, categories / count, max(by_brand.values(), default=0.0) / (exposure or 1.0),
        gini(by_brand.values()), changed / count,
    )  # fmt: skip


def _items(answer: Any) -> list[str]:
    return [item.item_id for item in answer.items]


def front_text(found: Front) -> str:
    """Return a front as a table."""
    head = (
        "kept at least",
        "kept",
        "least",
        "relevance",
        "margin",
        "new",
        "brands",
        "categories",
        "largest brand",
        "Gini",
    )
    rows = [
        (
            "no trade" if one.relevance_min is None else f"{one.relevance_min:g}", f"{one.kept:.3f}",
            f"{one.kept_worst:.3f}", f"{one.relevance:.4f}", f"{one.margin:.3f}", f"{one.new:.1%}", f"{one.brands:.2f}",
            f"{one.categories:.2f}", f"{one.largest_brand:.1%}", f"{one.gini:.3f}",
        )
        for one in found.points
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return "\n".join([f"{found.shoppers} answers of {found.n} items", *lines])
