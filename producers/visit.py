"""One visit to the simulated shop as a sequence of events, from the first list to refunds and reviews."""

import math
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from headrace.events import Data, EventType, Item
from producers.demand import Surge
from producers.groups import Groups
from producers.shop import Shopper, SimulatedShop, Transitions, best_ranking
from producers.warehouse import Warehouse

CONTINUE: Final = 0.82
"""Probability of one more view, so that visits have a mean of 1 / (1 - CONTINUE) views."""
GAP_S: Final = 35.0
"""Mean time between two views."""
LOGIN: Final = 0.06
NOTICE: Final = 0.4
"""Probability that a shopper who visits for a category sees its promotion; half of those select it."""
SEARCH: Final = 0.08
LIST: Final = 0.2
SLOTS: Final = 8
SHOWN_FIRST: Final = 0.8
"""Propensity with which each slot of a list shows its first of two candidates."""
DROP: Final = 0.08
CHECKOUT: Final = 0.62
PAY: Final = 0.8
REFUND: Final = 0.07
REVIEW: Final = 0.05
BOUGHT_IF_CARTED: Final = (1 - DROP) * CHECKOUT * PAY
PROMOTION: Final = 0.8
"""Price factor while a category is on promotion."""
PROMOTED, PROMOTED_EVERY = 2, 14
"""Days of a category's promotion, and days from one to the next."""
CART_LOGIT: Final = {"level": -3.0, "price": -1.4, "promotion": 0.9, "again": 1.0, "evening": 0.35}
"""Logit coefficients of an add_to_cart: intercept, log of the price over the category's typical one, promotion, item
viewed before, evening. Each category and each shopper adds an intercept."""
CURRENCY: Final = "EUR"
day_ms: Final = 86_400_000
hour_ms: Final = 3_600_000


class VisitStep(NamedTuple):
    """An event of a shopper, with its ground truth if it has any."""

    time_ms: int
    type: EventType
    shopper: str
    data: Data
    truth: dict[str, Any] | None = None


class Prices(NamedTuple):
    """Prices over time: the categories that price drifts affect, and the time and factor of each drift."""

    repriced: frozenset[int]
    factors: tuple[tuple[int, float], ...]

    def of(self, shop: SimulatedShop, item: int, time_ms: int) -> float:
        """Return an item's price at an event time."""
        return self._priced(shop, item, time_ms, PROMOTION if on_promotion(shop.category[item], time_ms) else 1.0)

    def regular(self, shop: SimulatedShop, item: int, time_ms: int) -> float:
        """Return an item's price without promotions."""
        return self._priced(shop, item, time_ms, 1.0)

    def promoted(self, shop: SimulatedShop, item: int, time_ms: int) -> float:
        """Return an item's price on promotion."""
        return self._priced(shop, item, time_ms, PROMOTION)

    def _priced(self, shop: SimulatedShop, item: int, time_ms: int, factor: float) -> float:
        category = shop.category[item]
        price = shop.price[item] * factor
        if category in self.repriced:
            for start_ms, drifted in self.factors:
                if time_ms >= start_ms:
                    price *= drifted
        return round(price, 2)


class VisitContext(NamedTuple):
    """What all visits share. `schedule` receives steps that follow a visit by days."""

    seed: int
    shop: SimulatedShop
    prices: Prices
    levels: list[float]
    sampled: float
    uniform: Callable[[], float]
    schedule: Callable[[VisitStep], None]
    groups: Groups
    warehouse: Warehouse

    def line_item(self, item: int, time_ms: int) -> Item:
        """Return an item as a line of an event."""
        shop = self.shop
        return Item(
            item_id(item),
            f"Category {shop.category[item]} no. {item}",
            brand_name(shop.brand[item]),
            category_name(shop.category[item]),
            self.prices.of(shop, item, time_ms),
        )


class Visit:
    """One visit of a shopper. `steps` may be consumed once; it draws from the context's random numbers.

    Args:
        theme: None for one of the shopper's.
        surge: an item that surges meanwhile.
    """

    def __init__(
        self,
        context: VisitContext,
        shopper: Shopper,
        structure: Transitions,
        time_ms: int,
        theme: int | None = None,
        surge: Surge | None = None,
    ) -> None:
        shopper.visits += 1
        self._context, self._shopper, self._structure, self._time_ms = context, shopper, structure, time_ms
        self._theme = shopper.favourites.draw(context.uniform()) if theme is None else theme
        self._surge, self._surging = surge, surge is not None and surge.here
        self._session = f"{shopper.id}-{shopper.visits}"
        self._cart: list[Item] = []
        self._reserved: list[tuple[int, int]] = []  # pieces in the cart by item
        self._shown: list[tuple[int, float]] = []

    def steps(self) -> Iterator[VisitStep]:
        """Yield the steps of the visit, in event time."""
        uniform = self._context.uniform
        yield from self._arrival()
        if not self._surging and uniform() < LIST:
            yield self._list()
        item, carted = -1, False
        while True:
            item, chances = self._next(item, carted)
            yield (viewed := self._view(item, chances))
            carted = uniform() < self._cart_chance(item, viewed)
            self._shopper.memory.append(item)
            if carted:
                yield from self._carting(item, viewed.data.items[0])
            if uniform() > CONTINUE:
                break
        if self._cart and uniform() < CHECKOUT:
            yield from self._checkout()
        for item, pieces in self._reserved:
            self._context.warehouse.reserve(item, -pieces)

    def _step(self, type_: EventType, pause_s: float, **data: Any) -> VisitStep:
        self._time_ms += int(-1000 * pause_s * math.log(1.0 - self._context.uniform())) + 1
        return VisitStep(self._time_ms, type_, self._shopper.id, Data(session_id=self._session, **data))

    def _arrival(self) -> Iterator[VisitStep]:
        uniform, shop = self._context.uniform, self._context.shop
        if uniform() < LOGIN:
            yield self._step("login" if self._shopper.visits > 1 else "sign_up", 5.0)
        category = shop.category[self._structure.themes[self._theme].items[0]]
        if on_promotion(category, self._time_ms) and uniform() < NOTICE:
            promotion = f"promotion-category-{category:02d}"
            yield self._step("view_promotion", 5.0, promotion_id=promotion)
            if uniform() < 0.5:
                yield self._step("select_promotion", 10.0, promotion_id=promotion)
        elif uniform() < SEARCH:
            yield self._step("search", 10.0, search_term=f"category {category}")

    def _list(self) -> VisitStep:
        """Show a list of the visit's theme; each slot shows one of two candidates, by SHOWN_FIRST."""
        items, uniform = self._structure.themes[self._theme].items, self._context.uniform
        for slot in range(SLOTS):
            first = uniform() < SHOWN_FIRST
            self._shown.append((items[2 * slot + (not first)], SHOWN_FIRST if first else round(1 - SHOWN_FIRST, 6)))
        lines = [
            msgspec.structs.replace(
                self._context.line_item(item, self._time_ms), index=i, propensity=propensity, item_list_id="theme"
            )
            for i, (item, propensity) in enumerate(self._shown)
        ]
        return self._step("view_item_list", 5.0, items=lines, item_list_id="theme", recommendation_id=self._list_id)

    @property
    def _list_id(self) -> str:
        return f"list-{self._session}"

    def _next(self, current: int, carted: bool) -> tuple[int, NDArray[np.float64] | None]:
        """Draw the next view; for a sampled share of views, also return each item's true probability."""
        context, shopper, structure, theme = self._context, self._shopper, self._structure, self._theme
        shop, uniform, chances = context.shop, context.uniform, None
        sampled = uniform() < context.sampled
        if current >= 0:
            if sampled:
                chances = shop.next_chances(structure, shopper, theme, current, carted)
            return shop.draw_next(structure, shopper, theme, current, carted, uniform), chances
        if self._shown:
            weights = np.array([shop.liking(item, shopper) / (1 + i) for i, (item, _) in enumerate(self._shown)])
            shares = weights / weights.sum()
            if sampled:
                chances = np.zeros(len(shop.category))
                np.add.at(chances, [item for item, _ in self._shown], shares)
            pick = int(np.searchsorted(np.cumsum(shares), uniform(), side="right"))
            return self._shown[min(pick, SLOTS - 1)][0], chances
        if sampled:
            chances = shop.first_chances(structure, shopper)
            if self._surge is not None:
                # No visit that begins at the surging item shows a list first.
                here = self._surge.share / (self._surge.share + (1 - self._surge.share) * (1 - LIST))
                chances *= 1 - here
                chances[self._surge.item] += here
        if self._surge is not None and self._surge.here:
            return self._surge.item, chances
        return shop.draw_first(structure, shopper, theme, uniform), chances

    def _view(self, item: int, chances: NDArray[np.float64] | None) -> VisitStep:
        clicked, self._shown = (self._list_id if self._shown else ""), []
        line_item = self._context.line_item(item, self._time_ms)
        viewed = self._step("view_item", GAP_S, items=[line_item], recommendation_id=clicked)
        if chances is None:
            return viewed
        recall, rank = best_ranking(chances, item)
        bought = self._cart_chance(item, viewed) * BOUGHT_IF_CARTED
        return viewed._replace(truth={"recall_at_20": round(recall, 6), "rank": rank, "purchase": round(bought, 6)})

    def _cart_chance(self, item: int, viewed: VisitStep) -> float:
        if not self._context.warehouse.free(item, 1):
            return 0.0
        shop, logit, time_ms = self._context.shop, CART_LOGIT, viewed.time_ms
        category, price = shop.category[item], viewed.data.items[0].price or 0.01
        score = logit["level"] + self._context.levels[category] + self._shopper.cart_tendency
        score += logit["price"] * math.log(price / shop.typical_price[category])
        score += logit["promotion"] * on_promotion(category, time_ms)
        score += logit["again"] * (item in self._shopper.memory)
        score += logit["evening"] * (18 <= time_ms // hour_ms % 24 <= 22)
        return 1.0 / (1.0 + math.exp(-score))

    def _carting(self, item: int, line_item: Item) -> Iterator[VisitStep]:
        pieces = self._context.groups.pieces(self._shopper, 1 if self._context.uniform() < 0.85 else 2)
        pieces = self._context.warehouse.free(item, pieces)
        line_item = msgspec.structs.replace(line_item, quantity=pieces)
        yield self._step("add_to_cart", 15.0, items=[line_item], currency=CURRENCY, value=total_price([line_item]))
        if self._context.uniform() < DROP:
            yield self._step(
                "remove_from_cart", 20.0, items=[line_item], currency=CURRENCY, value=total_price([line_item])
            )
        else:
            self._cart.append(line_item)
            self._reserved.append((item, pieces))
            self._context.warehouse.reserve(item, pieces)

    def _checkout(self) -> Iterator[VisitStep]:
        uniform, cart, order, shopper_id = (
            self._context.uniform,
            self._cart,
            f"order-{self._context.seed}-{self._session}",
            self._shopper.id,
        )
        value = total_price(cart)
        yield self._step("begin_checkout", 20.0, items=cart, currency=CURRENCY, value=value)
        if uniform() >= PAY:
            return
        yield self._step("purchase", 60.0, items=cart, currency=CURRENCY, value=value, transaction_id=order)
        for item, pieces in self._reserved:
            self._context.warehouse.sell(item, pieces)
        self._reserved.clear()
        if (sent_back := self._context.groups.sent_back(self._shopper, cart)) is not None:
            self._give_back(order, *sent_back)
        elif uniform() < REFUND:
            returned = [cart[int(uniform() * len(cart))]]
            self._give_back(order, returned, int((1 + 6 * uniform()) * day_ms))
        if uniform() < REVIEW:
            data = Data(items=cart[:1], rating=float(1 + int(uniform() * 5)), review="As described.")
            self._context.schedule(
                VisitStep(self._time_ms + int((2 + 6 * uniform()) * day_ms), "review", shopper_id, data)
            )

    def _give_back(self, order: str, lines: list[Item], after_ms: int) -> None:
        if lines:
            data = Data(items=lines, currency=CURRENCY, value=total_price(lines), transaction_id=order)
            self._context.schedule(VisitStep(self._time_ms + after_ms, "refund", self._shopper.id, data))


def bot_steps(context: VisitContext, time_ms: int) -> Iterator[VisitStep]:
    """Yield the views of a bot that crawls the catalogue: many, fast, in random order, under an ordinary id."""
    uniform = context.uniform
    shopper_id = f"shopper-9{int(uniform() * 1e5):05d}"
    session, truth = f"{shopper_id}-{time_ms}", {"bot": True}
    for n in range(40 + int(uniform() * 120)):
        time_ms += 300 + int(900 * uniform())
        line_item = context.line_item(int(uniform() * len(context.shop.category)), time_ms)
        yield VisitStep(
            time_ms, "view_item", shopper_id, Data(items=[line_item], session_id=session), None if n else truth
        )


def item_id(item: int) -> str:
    """Return an item's id.

    >>> item_id(7)
    'item-00007'
    """
    return f"item-{item:05d}"


def brand_name(brand: int) -> str:
    """Return a brand as events name it.

    >>> brand_name(7)
    'brand-07'
    """
    return f"brand-{brand:02d}"


def category_name(category: int) -> str:
    """Return a category as events name it.

    >>> category_name(7)
    'category-07'
    """
    return f"category-{category:02d}"


def total_price(lines: list[Item]) -> float:
    """Return the total price of some lines.

    >>> total_price([Item("a", price=2.5, quantity=2)])
    5.0
    """
    return round(sum((line_item.price or 0.0) * line_item.quantity for line_item in lines), 2)


def on_promotion(category: int, time_ms: int) -> bool:
    """Return whether a category is on promotion: two days of every fourteen, staggered by category."""
    return (time_ms // day_ms + 5 * category) % PROMOTED_EVERY < PROMOTED


def promoted_days(category: int, time_ms: int) -> tuple[int, int]:
    """Return the first day of a category's promotion that is on or comes next, and the day after it, since the epoch.

    >>> promoted_days(0, 0), promoted_days(0, 2 * day_ms), promoted_days(1, 9 * day_ms)
    ((0, 2), (14, 16), (9, 11))
    """
    day = time_ms // day_ms
    since = (day + 5 * category) % PROMOTED_EVERY
    first = day - since + (0 if since < PROMOTED else PROMOTED_EVERY)
    return first, first + PROMOTED
