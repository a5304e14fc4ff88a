"""What the family of stock takes of a shop of many items: the time of a plan and of an item's answer.

The items are stated with levels, prices, lead times and packs, and learn 60 days of a long-tailed demand. Each part is
beside another of the same run: a plan beside the levels and gains of all items, without leaving out those that are
clearly not due.
"""

import json
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from headrace.events import Data, Event, Item, at
from headrace.log.protocol import Record
from headrace.surface import Now
from headrace.topics import DAY_MS, ITEMS
from learners.desk.family import Desk, DeskSettings
from learners.shop import Shop
from learners.stock.family import StockFamily, StockSettings
from learners.stock.plan import PlanQuery, StockQuery
from learners.stock.policy import Costs, Terms, gain, levels, order

FIRST_DAY: Final = 20_000
_days: Final = 60
_block: Final = 8_192
_repeats: Final = 5
_asked: Final = 200


def stocked(items: int) -> tuple[Shop, StockFamily]:
    """Return a shop whose items have levels and 60 days of sales."""
    settings = {"stock": StockSettings(items_max=items), "desk": DeskSettings(items_max=items)}
    shop = Shop((Desk, StockFamily), settings)
    stock = shop.families[StockFamily.name]
    assert isinstance(stock, StockFamily)
    rng = np.random.default_rng(1)
    for n in range(items):
        stated = {
            "quantity": int(rng.integers(0, 60)), "price": f"{rng.integers(1, 200)} EUR", "pack_size": 6,
            "lead_time_days": int(rng.integers(2, 20)),
        }  # fmt: skip
        shop.hear(ITEMS, Record(0, 0, 0, f"i{n}".encode(), json.dumps(stated).encode()))
    known, rate = stock.levels, rng.gamma(0.3, 1.0, items)
    known.begin(FIRST_DAY)
    for _ in range(_days):
        known.pieces[:] = rng.poisson(rate)
        known.lines[:] = known.pieces > 0
        known.end_day()
    shop.learn(sale("i0", FIRST_DAY + _days, 0), 0, 0)  # a day begins: what is at risk is judged
    return shop, stock


def sale(item: str, day: float, number: int) -> Event:
    """Return a purchase of a piece."""
    time_ms = round(day * DAY_MS)
    data = Data([Item(item)], transaction_id=f"t{number}")
    return Event(f"e{number}", "test", "purchase", at(time_ms), data, "1.0", f"s{number}", time_ms)


def plans(items: int) -> dict[str, Any]:
    """Return what a plan and the answer for an item take, in seconds, and the plan beside that of all items."""
    _, stock = stocked(items)
    now = Now((FIRST_DAY + _days) * DAY_MS)
    names = iter(stock.levels.names * 2)
    plan = least(lambda: stock.plan(PlanQuery(), now))
    item = least(lambda: [stock.answer(StockQuery(next(names)), now) for _ in range(_asked)]) / _asked
    whole = least(lambda: exhaustive(stock))
    return {
        "items": items, "due": len(stock.plan(PlanQuery(n=10_000), now).lines), "plan_s": plan, "item_s": item,
        "levels_of_all_s": whole, "plan_ratio": plan / whole,
    }  # fmt: skip


def exhaustive(stock: StockFamily) -> None:
    """Compute the levels, orders and gains of all items, whether they can be due or not."""
    rates, level, costs = stock.levels.rates, stock.levels.level, Costs(order=100.0)
    for start in range(0, len(stock.levels), _block):
        slots = np.arange(start, min(start + _block, len(stock.levels)))
        one, never = np.ones(len(slots)), np.full(len(slots), np.inf)
        terms = Terms(60 * one, 40 * one, 10 * one, 3 * one, 6 * one, one, never)
        expected = rates.some(slots).expected(float(FIRST_DAY + _days), never, never)
        pieces = order(levels(expected, terms, costs), terms, level[slots])
        gain(expected, terms, costs, level[slots], pieces, 28.0)


def least(call: Callable[[], object]) -> float:
    """Return the least seconds that some calls took."""
    taken = []
    for _ in range(_repeats):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return min(taken)
