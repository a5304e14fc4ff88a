"""One visit to the simulated shop, step by step: what is shown, viewed, carted, bought, sent back and reviewed."""

import math
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from headrace.events import Data, EventType, Item
from producers.shop import Shop, Shopper, Structure, best

CONTINUE: Final = 0.82
"""Chance of one more view, so that visits have a mean of 1 / (1 - CONTINUE) views."""
GAP_S: Final = 35.0
"""Mean time between two views."""
LOGIN: Final = 0.06
NOTICE: Final = 0.4
"""Chance that a promotion is seen by who comes for its category; half of those select it."""
SEARCH: Final = 0.08
LIST: Final = 0.2
SLOTS: Final = 8
SHOWN_FIRST: Final = 0.8
"""Each slot of a list shows its first candidate with this propensity, else its second."""
DROP: Final = 0.08
CHECKOUT: Final = 0.62
PAY: Final = 0.8
REFUND: Final = 0.07
REVIEW: Final = 0.05
BOUGHT_IF_CARTED: Final = (1 - DROP) * CHECKOUT * PAY
PROMOTION: Final = 0.8
"""Price factor of a category on promotion, two days of every fourteen."""
CART_LOGIT: Final = {"level": -3.0, "price": -1.4, "promotion": 0.9, "again": 1.0, "evening": 0.35}
"""What moves the chance of an add_to_cart: its level, the log of the price over the category's typical one, a
promotion, an item viewed before, the evening; each category and shopper adds a level of their own."""
CURRENCY: Final = "EUR"
day_ms: Final = 86_400_000
hour_ms: Final = 3_600_000


class Step(NamedTuple):
    """An event of a shopper, with what only the truth tells about it."""

    time_ms: int
    type: EventType
    shopper: str
    data: Data
    truth: dict[str, Any] | None = None


class Prices(NamedTuple):
    """What items cost when: the categories that a price drift reprices, and when by which factor."""

    repriced: frozenset[int]
    factors: tuple[tuple[int, float], ...]

    def of(self, shop: Shop, item: int, time_ms: int) -> float:
        """Return an item's price at a time."""
        category = shop.category[item]
        price = shop.price[item] * (PROMOTION if on_promotion(category, time_ms) else 1.0)
        if category in self.repriced:
            for start_ms, factor in self.factors:
                if time_ms >= start_ms:
                    price *= factor
        return round(price, 2)


class Market(NamedTuple):
    """What all visits share. `later` takes steps that follow a visit by days."""

    shop: Shop
    prices: Prices
    levels: list[float]
    sampled: float
    uniform: Callable[[], float]
    later: Callable[[Step], None]

    def line(self, item: int, time_ms: int) -> Item:
        """Return an item as an event tells of it."""
        shop = self.shop
        return Item(
            f"item-{item:05d}",
            f"Category {shop.category[item]} no. {item}",
            f"brand-{shop.brand[item]:02d}",
            f"category-{shop.category[item]:02d}",
            self.prices.of(shop, item, time_ms),
        )


class Visit:
    """One visit of a shopper. `steps` may be consumed once; it draws from the market's uniforms as it goes."""

    def __init__(self, market: Market, shopper: Shopper, structure: Structure, time_ms: int) -> None:
        shopper.visits += 1
        self._market, self._shopper, self._structure, self._time_ms = market, shopper, structure, time_ms
        self._theme = shopper.favourites.draw(market.uniform())
        self._session = f"{shopper.id}-{shopper.visits}"
        self._cart: list[Item] = []
        self._shown: list[tuple[int, float]] = []

    def steps(self) -> Iterator[Step]:
        """Yield what happens, in event time."""
        uniform = self._market.uniform
        yield from self._arrival()
        if uniform() < LIST:
            yield self._list()
        item, carted = -1, False
        while True:
            item, chances = self._next(item, carted)
            yield (viewed := self._view(item, chances))
            carted = uniform() < self._cart_chance(item, viewed)
            self._shopper.memory.append(item)
            if carted:
                yield from self._carting(viewed.data.items[0])
            if uniform() > CONTINUE:
                break
        if self._cart and uniform() < CHECKOUT:
            yield from self._checkout()

    def _step(self, type_: EventType, pause_s: float, **data: Any) -> Step:
        self._time_ms += int(-1000 * pause_s * math.log(1.0 - self._market.uniform())) + 1
        return Step(self._time_ms, type_, self._shopper.id, Data(session_id=self._session, **data))

    def _arrival(self) -> Iterator[Step]:
        uniform, shop = self._market.uniform, self._market.shop
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

    def _list(self) -> Step:
        """Show a list of the visit's theme: of each slot's two candidates mostly the first."""
        items, uniform = self._structure.themes[self._theme].items, self._market.uniform
        for slot in range(SLOTS):
            first = uniform() < SHOWN_FIRST
            self._shown.append((items[2 * slot + (not first)], SHOWN_FIRST if first else round(1 - SHOWN_FIRST, 6)))
        lines = [
            msgspec.structs.replace(
                self._market.line(item, self._time_ms), index=i, propensity=propensity, item_list_id="theme"
            )
            for i, (item, propensity) in enumerate(self._shown)
        ]
        return self._step("view_item_list", 5.0, items=lines, item_list_id="theme", recommendation_id=self._list_id)

    @property
    def _list_id(self) -> str:
        return f"list-{self._session}"

    def _next(self, current: int, carted: bool) -> tuple[int, NDArray[np.float64] | None]:
        """Draw the next view; for a sampled share, return the true chance of every item too."""
        market, shopper, structure, theme = self._market, self._shopper, self._structure, self._theme
        shop, uniform, chances = market.shop, market.uniform, None
        sampled = uniform() < market.sampled
        if current >= 0:
            if sampled:
                chances = shop.following_chances(structure, shopper, theme, current, carted)
            return shop.following(structure, shopper, theme, current, carted, uniform), chances
        if self._shown:
            weights = np.array([shop.liking(item, shopper) / (1 + i) for i, (item, _) in enumerate(self._shown)])
            shares = weights / weights.sum()
            if sampled:
                chances = np.zeros(len(shop.category))
                np.add.at(chances, [item for item, _ in self._shown], shares)
            pick = int(np.searchsorted(np.cumsum(shares), uniform(), side="right"))
            return self._shown[min(pick, SLOTS - 1)][0], chances
        if sampled:
            chances = shop.entry_chances(structure, shopper)
        return shop.entry(structure, shopper, theme, uniform), chances

    def _view(self, item: int, chances: NDArray[np.float64] | None) -> Step:
        clicked, self._shown = (self._list_id if self._shown else ""), []
        line = self._market.line(item, self._time_ms)
        viewed = self._step("view_item", GAP_S, items=[line], recommendation_id=clicked)
        if chances is None:
            return viewed
        recall, rank = best(chances, item)
        bought = self._cart_chance(item, viewed) * BOUGHT_IF_CARTED
        return viewed._replace(truth={"recall_at_20": round(recall, 6), "rank": rank, "purchase": round(bought, 6)})

    def _cart_chance(self, item: int, viewed: Step) -> float:
        shop, logit, time_ms = self._market.shop, CART_LOGIT, viewed.time_ms
        category, price = shop.category[item], viewed.data.items[0].price or 0.01
        score = logit["level"] + self._market.levels[category] + self._shopper.urge
        score += logit["price"] * math.log(price / shop.typical[category])
        score += logit["promotion"] * on_promotion(category, time_ms)
        score += logit["again"] * (item in self._shopper.memory)
        score += logit["evening"] * (18 <= time_ms // hour_ms % 24 <= 22)
        return 1.0 / (1.0 + math.exp(-score))

    def _carting(self, line: Item) -> Iterator[Step]:
        line = msgspec.structs.replace(line, quantity=1 if self._market.uniform() < 0.85 else 2)
        yield self._step("add_to_cart", 15.0, items=[line], currency=CURRENCY, value=worth([line]))
        if self._market.uniform() < DROP:
            yield self._step("remove_from_cart", 20.0, items=[line], currency=CURRENCY, value=worth([line]))
        else:
            self._cart.append(line)

    def _checkout(self) -> Iterator[Step]:
        uniform, cart, order, who = self._market.uniform, self._cart, f"order-{self._session}", self._shopper.id
        value = worth(cart)
        yield self._step("begin_checkout", 20.0, items=cart, currency=CURRENCY, value=value)
        if uniform() >= PAY:
            return
        yield self._step("purchase", 60.0, items=cart, currency=CURRENCY, value=value, transaction_id=order)
        if uniform() < REFUND:
            back = [cart[int(uniform() * len(cart))]]
            data = Data(items=back, currency=CURRENCY, value=worth(back), transaction_id=order)
            self._market.later(Step(self._time_ms + int((1 + 6 * uniform()) * day_ms), "refund", who, data))
        if uniform() < REVIEW:
            data = Data(items=cart[:1], rating=float(1 + int(uniform() * 5)), review="As described.")
            self._market.later(Step(self._time_ms + int((2 + 6 * uniform()) * day_ms), "review", who, data))


def bot_steps(market: Market, time_ms: int) -> Iterator[Step]:
    """Yield the views of a machine that reads the catalogue: many, fast, in no order, under an id like any other."""
    uniform = market.uniform
    who = f"shopper-9{int(uniform() * 1e5):05d}"
    session, truth = f"{who}-{time_ms}", {"bot": True}
    for n in range(40 + int(uniform() * 120)):
        time_ms += 300 + int(900 * uniform())
        line = market.line(int(uniform() * len(market.shop.category)), time_ms)
        yield Step(time_ms, "view_item", who, Data(items=[line], session_id=session), None if n else truth)


def worth(lines: list[Item]) -> float:
    """Return the price of some lines together.

    >>> worth([Item("a", price=2.5, quantity=2)])
    5.0
    """
    return round(sum((line.price or 0.0) * line.quantity for line in lines), 2)


def on_promotion(category: int, time_ms: int) -> bool:
    """Say whether a category is on promotion: two days of every fourteen, categories in turn."""
    return (time_ms // day_ms + 5 * category) % 14 < 2
