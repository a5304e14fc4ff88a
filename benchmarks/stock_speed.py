"""What the family of stock takes of a shop of many items: of plans and answers, of learning, and of memory.

The items are stated with levels, prices, lead times and packs, and learn 60 days of a long-tailed demand. Each part is
beside another of the same run: a plan beside the levels and gains of all items, without leaving out those that are
clearly not due.
"""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from headrace.events import Data, Event, EventType, Item, at
from headrace.log.protocol import Record
from headrace.state import encode
from headrace.surface import Now
from headrace.topics import DAY_MS, ITEMS
from learners.desk.family import Desk, DeskSettings
from learners.families import default_placements
from learners.family import Family
from learners.shop import Shop
from learners.stock.family import StockFamily, StockSettings
from learners.stock.plan import PlanQuery, StockQuery
from learners.stock.policy import Costs, Terms, gain, levels, order

FIRST_DAY: Final = 20_000
_days: Final = 60
_block: Final = 8_192
_repeats: Final = 5
_asked: Final = 200
_events: Final = 50_000
_events_days: Final = 2.5
_rounds: Final = 3


def stocked(items: int) -> tuple[Shop, StockFamily]:
    """Return a shop whose items have levels and 60 days of sales."""
    settings = {"stock": StockSettings(items_max=items), "desk": DeskSettings(items_max=items)}
    shop = Shop((Desk, StockFamily), settings)
    stock = shop.families[StockFamily.name]
    assert isinstance(stock, StockFamily)
    rng = np.random.default_rng(1)
    for n in range(items):
        level, price, lead = (int(rng.integers(low, high)) for low, high in ((0, 60), (1, 200), (2, 20)))
        state_level(shop, n, level, price=f"{price} EUR", lead_time_days=lead, pack_size=6)
    known, rate = stock.levels, rng.gamma(0.3, 1.0, items)
    known.begin(FIRST_DAY)
    for _ in range(_days):
        known.pieces[:] = rng.poisson(rate)
        known.lines[:] = known.pieces > 0
        known.end_day()
    shop.learn(sale("i0", FIRST_DAY + _days, 0), 0, 0)  # a day begins: what is at risk is judged
    return shop, stock


def state_level(shop: Shop, item: int, level: int, **fields: Any) -> None:
    """State the level of an item."""
    shop.hear(ITEMS, Record(0, 0, 0, f"i{item}".encode(), json.dumps({"quantity": level, **fields}).encode()))


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
    found = stock.plan(PlanQuery(), now)
    return {
        "items": items, "due": len(found.lines) + found.left_out, "plan_s": plan, "item_s": item,
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


def throughput(items: int) -> dict[str, Any]:
    """Return how quickly events are learned with and without the family, by the shard `online` and by a desk alone.

    The events are of 2.5 days, so that days are ended and judged.
    """
    online = [kind for kind in default_placements()["online"].kinds if StockFamily.name not in kind.reads]
    folds: dict[str, list[type[Family]]] = {"online": online, "desk": [Desk, StockFamily]}
    taken: dict[str, list[float]] = {}
    for name, kinds in folds.items():
        without = [kind for kind in kinds if kind is not StockFamily]
        rounds = [(learned(without, items), learned(kinds, items)) for _ in range(_rounds)]
        taken[name] = [min(one) for one in zip(*rounds, strict=True)]
    with_family = taken["desk"][1] - taken["desk"][0]
    return {
        "events": _events, "items": items, "events_a_second": _events / with_family,
        "online_events_a_second": [_events / one for one in taken["online"]],
        "online_ratio": taken["online"][0] / taken["online"][1],
    }  # fmt: skip


def learned(kinds: Sequence[type[Family]], items: int) -> float:
    """Return the seconds that some families take to learn views, each tenth event a purchase of two lines, each
    twentieth followed by the new level of an item. All items have levels."""
    settings = {"stock": StockSettings(items_max=items), "desk": DeskSettings(items_max=items)}
    shop = Shop(kinds, settings)
    rng = np.random.default_rng(2)
    for n in range(items):
        state_level(shop, n, 40)
    names = rng.integers(0, items, (_events, 2)).tolist()
    prepared = []
    for number, lines in enumerate(names):
        time_ms = round((FIRST_DAY + _events_days * number / _events) * DAY_MS)
        bought = number % 10 == 0
        data = Data([Item(f"i{n}") for n in lines[: 1 + bought]], transaction_id=f"t{number}" if bought else "")
        kind: EventType = "purchase" if bought else "view_item"
        prepared.append(Event(f"e{number}", "test", kind, at(time_ms), data, "1.0", f"s{number % 5_000}", time_ms))
    began = time.perf_counter()
    for number, event in enumerate(prepared):
        if shop.prepare(event):
            shop.learn(event, 0, number)
        if number % 20 == 0:
            state_level(shop, names[number][0], 40)
        if number % 1_000 == 0:
            shop.emit()
    return time.perf_counter() - began


def memory(items: int) -> dict[str, Any]:
    """Return the bytes of the state with as many items as it may have, and after as many other ones were sold."""
    shop, stock = stocked(items)
    full = len(encode(stock.state()))
    for n in range(items):
        event = sale(f"other{n}", FIRST_DAY + _days + 1, n)
        if shop.prepare(event):
            shop.learn(event, 0, n)
    (use,) = stock.bounds().values()
    return {"items": items, "bytes": full, "bytes_an_item": full / items, "others": use[0],
            "bytes_of_others": len(encode(stock.state()))}  # fmt: skip
