"""What to order, as a file: the plan of the live state, folded where nobody else sees it."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from headrace.errors import Misconfigured
from headrace.log.protocol import Log
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.surface import Now, Route
from headrace.text import cell, visible
from learners.families import Placement
from learners.shop import Shop
from operators.deployment import Deployment
from operators.replay.fold import live_fold


def stock_plan(log: Log, blobs: Blobs, deployment: Deployment, asked: Mapping[str, Any]) -> tuple[Any, list[list[Any]]]:
    """Fold the live state, read-only; return the plan, and its lines as rows with the names of the columns first.

    Args:
        asked: the parameters of the route.

    Raises:
        Misconfigured: no shard folds stock, the log does not hold what a fold of its state needs, or a parameter is
            out of its bounds.
    """
    place, kind, route = _asked(deployment)
    last = journal.newest(log, place.shard)
    folded = live_fold(log, blobs, place, last.number + 1) if last else None
    if folded is None:
        raise Misconfigured("stock plan: wanted a log and blobs from which the live state can be folded, found none")
    shop: Shop = folded[0].fold
    try:
        query = msgspec.convert({name: value for name, value in asked.items() if value is not None}, route.query)
    except msgspec.ValidationError as error:
        raise Misconfigured(f"stock plan: {error}") from None
    found = route.call(shop.families[kind], query, Now(shop.time_ms))
    assert route.csv is not None
    body = {name: getattr(found, name) for name in found.__struct_fields__}
    return found, [list(row) for row in route.csv(body)]


def _asked(deployment: Deployment) -> tuple[Placement, str, Route]:
    """Return a shard, the name of its family that plans with a budget, and the family's route of the plan as CSV."""
    for place in deployment.placements.values():
        for kind in place.kinds:
            for route in kind.surface.routes:
                if route.csv is not None and "budget" in route.query.__struct_fields__:
                    return place, kind.name, route
    raise Misconfigured("stock plan: wanted a shard of a family that plans stock, found none")


def csv_text(rows: list[list[Any]]) -> str:
    """Return rows as CSV, in which a spreadsheet computes no cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(cell, row) for row in rows)
    return text.getvalue()


def write_csv(rows: list[list[Any]], path: Path) -> None:
    """Write rows to a file as CSV. Raises Misconfigured."""
    try:
        path.write_text(csv_text(rows), encoding="utf-8")
    except OSError as error:
        raise Misconfigured(f"{path}: wanted a file that can be written, found {error.strerror}") from None


def plan_text(plan: Any) -> str:
    """Return a plan as text: each order with its reason, and how much stock is dead."""
    lines = [
        f"{visible(one.item)}: order {one.order:g} for {one.cost:,.2f} {plan.currency}".rstrip() + f"\n    {one.reason}"
        for one in plan.lines
    ]
    lines.append(f"{len(plan.lines)} orders for {plan.cost:,.2f} {plan.currency}".rstrip())
    if plan.left_out:
        lines.append(f"{plan.left_out} orders are left out by the budget, or by -n")
    if plan.dead:
        held = sum(one.cost for one in plan.dead)
        lines.append(f"dead stock: {len(plan.dead)} items, {held:,.2f} {plan.currency}".rstrip())
    return "\n".join(lines)
