"""The simulated shop's stream: who comes when, what they do, and the truth behind it.

Every visit is a small generator of events; a heap merges the open visits, later refunds and reviews in event time. All
is determined by the settings, to the byte, so a run that was killed goes on where it was. The ground truth goes to the
topic `truth`: the schedule of drifts, each drift as it begins, bots, and for a sampled share of views the recall@20
that the best possible ranking has, the rank of the actual item in it, and the true chance that a purchase follows.
"""

import hashlib
import heapq
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from headrace.events import Data, Event, EventType, Item, at, encode
from headrace.log import Log
from headrace.topics import EVENTS, TRUTH
from producers.publisher import Gate, Numbered, Published, Report, publish, silent
from producers.shop import Drift, Shop, Shopper, ShopSettings, Structure, best, categories, checked

EVENTS_PER_VISIT: Final = 7.5
"""Measured over seeds; only the length of the stream in event time depends on it."""
CONTINUE: Final = 0.82
"""Chance of one more view in a visit, so that visits have a mean of 1 / (1 - CONTINUE) views."""
GAP_S: Final = 35.0
"""Mean time between two views."""
CHECKOUT: Final = 0.62
PAY: Final = 0.8
DROP: Final = 0.08
REFUND: Final = 0.07
REVIEW: Final = 0.05
LIST: Final = 0.2
SEARCH: Final = 0.08
LOGIN: Final = 0.06
SLOTS: Final = 8
SHOWN_FIRST: Final = 0.8
"""Each slot of a list shows its first candidate with this propensity, else its second."""
PROMOTION: Final = 0.8
"""Price factor of a category on promotion, two days of every fourteen."""
HOURS: Final = (4, 2, 1, 1, 1, 2, 5, 9, 12, 13, 13, 14, 15, 14, 13, 13, 14, 16, 19, 22, 23, 20, 14, 8)
WEEKDAYS: Final = (1.0, 0.95, 0.95, 1.0, 1.05, 1.2, 1.3)
CART_LOGIT: Final = {"level": -3.0, "price": -1.4, "promotion": 0.9, "again": 1.0, "evening": 0.35}
day_ms: Final = 86_400_000


class Step(NamedTuple):
    """One thing that happens: an event of a shopper, or (type "") something that only the truth tells."""

    time_ms: int
    type: EventType | None
    shopper: str
    data: Data
    truth: dict[str, Any] | None = None


def uniforms(rng: np.random.Generator) -> Callable[[], float]:
    """Return a function that gives the next number from 0 to 1, drawn in blocks because single draws are slow."""

    def blocks() -> Iterator[float]:
        while True:
            yield from rng.random(65_536).tolist()

    return blocks().__next__


class Simulation:
    """One run of the shop, as a sequence of numbered records. `records` may be consumed once."""

    def __init__(self, settings: ShopSettings) -> None:
        self.settings = checked(settings)
        digest = hashlib.sha256(msgspec.json.encode(self.settings)).hexdigest()
        self.origin = f"simulate:{settings.seed}-{digest[:8]}:{digest[:16]}"
        rng = np.random.Generator(np.random.PCG64(settings.seed))
        self._shop = Shop(self.settings, rng)
        self._uniform = uniforms(rng)
        self._category_level = rng.normal(0, 0.5, categories).tolist()
        self._repriced = set(rng.permutation(categories)[: categories // 2].tolist())
        self._later: list[tuple[int, int, Iterator[Step], Step]] = []
        self._count = 0
        self._truths = 0
        self._published = 0

    def share(self) -> float:
        """Return how much of the run has been generated."""
        return self._published / self.settings.events

    def records(self) -> Iterator[Numbered]:
        """Yield events and truth in event time, ending with the last event that was asked for."""
        settings = self.settings
        yield self._truth(settings.start_ms, "world", self._world())
        for drift in settings.drifts:
            yield self._truth(settings.start_ms, "schedule", self._drift(drift))
        to_come = list(settings.drifts)
        for step in self._steps():
            while to_come and step.time_ms >= settings.time_ms(to_come[0].at):
                what = {**self._drift(to_come.pop(0)), "event_number": self._published}
                yield self._truth(step.time_ms, "drift", what)
            if step.truth is not None:
                kind = "bot" if "bot" in step.truth else "best"
                about = {"event_id": f"sim-{settings.seed}-{self._published}", "shopper": step.shopper, **step.truth}
                yield self._truth(step.time_ms, kind, {"event_number": self._published, **about})
            if step.type is not None:
                id_ = f"sim-{settings.seed}-{self._published}"
                event = Event(id_, self.origin, step.type, at(step.time_ms), step.data, "1.0", step.shopper)
                yield Numbered(self._published, step.time_ms, step.shopper.encode(), encode(event))
                self._published += 1
                if self._published >= settings.events:
                    return

    def _truth(self, time_ms: int, kind: str, what: dict[str, Any]) -> Numbered:
        id_ = f"sim-{self.settings.seed}-truth-{self._truths}"
        head = {"kind": kind, "source": self.origin, "id": id_, "time_ms": time_ms}
        record = Numbered(self._truths, time_ms, kind.encode(), msgspec.json.encode({**head, **what}), TRUTH)
        self._truths += 1
        return record

    def _drift(self, drift: Drift) -> dict[str, Any]:
        settings = self.settings
        what = {
            "abrupt": "themes and successors redrawn",
            "gradual": "themes and successors redrawn, visit by visit",
            "recurring": "the first themes and successors come back for a while",
            "price": "prices of half of the categories multiplied",
        }[drift.kind]
        times = {"at_ms": settings.time_ms(drift.at), "until_ms": settings.time_ms(drift.until)}
        return {"drift": drift.kind, **times, "strength": drift.strength, "what": what}

    def _world(self) -> dict[str, Any]:
        return {
            "settings": msgspec.to_builtins(self.settings),
            "cart_logit": CART_LOGIT,
            "category_level": [round(level, 6) for level in self._category_level],
            "bought_if_carted": CHECKOUT * PAY * (1 - DROP),
            "recall_is_for": "one who knows the visit's theme, the shopper's taste and the structure",
        }

    def _push(self, steps: Iterator[Step]) -> None:
        step = next(steps, None)
        if step is not None:
            self._count += 1
            heapq.heappush(self._later, (step.time_ms, self._count, steps, step))

    def _steps(self) -> Iterator[Step]:
        """Merge visits and what follows from them in event time, without end."""
        later = self._later
        arrivals, stock = self._arrivals(), self._stock_times()
        visit_ms, shopper = next(arrivals)
        stock_ms = next(stock, None)
        while True:
            while later and later[0][0] <= visit_ms:
                time_ms, _, steps, step = later[0]
                while stock_ms is not None and stock_ms <= time_ms:
                    self._shop.arrive()
                    stock_ms = next(stock, None)
                yield step
                following = next(steps, None)
                if following is None:
                    heapq.heappop(later)
                else:
                    self._count += 1
                    heapq.heapreplace(later, (following.time_ms, self._count, steps, following))
            bot = self._uniform() < self.settings.bots
            self._push(self._bot(visit_ms, shopper) if bot else self._visit(visit_ms, shopper))
            visit_ms, shopper = next(arrivals)

    def _stock_times(self) -> Iterator[int]:
        settings = self.settings
        count = round(settings.new_items * settings.items)
        return iter([settings.time_ms((i + 1) / (count + 1)) for i in range(count)])

    def _arrivals(self) -> Iterator[tuple[int, Shopper]]:
        """Yield when the next visit begins and whose it is: newcomers, and regulars the more often they came before."""
        settings, uniform = self.settings, self._uniform
        visits = settings.events / EVENTS_PER_VISIT
        known = [self._newcomer(n) for n in range(max(1, settings.shoppers // 5))]
        past = list(known)
        newcomer_share = min(0.9, (settings.shoppers - len(known)) / visits)
        peak = max(HOURS) * max(WEEKDAYS)
        mean = sum(HOURS) / 24 * sum(WEEKDAYS) / 7
        gap_ms = settings.days * day_ms / visits * mean / peak
        time = float(settings.start_ms)
        while True:
            time -= gap_ms * math.log(1.0 - uniform())
            moment = datetime.fromtimestamp(time / 1000, UTC)
            if uniform() * peak > HOURS[moment.hour] * WEEKDAYS[moment.weekday()]:
                continue
            if uniform() < newcomer_share:
                known.append(self._newcomer(len(known)))
                shopper = known[-1]
            else:
                pool = past if uniform() < 0.75 else known
                shopper = pool[int(uniform() * len(pool))]
            past.append(shopper)
            yield int(time), shopper

    def _newcomer(self, number: int) -> Shopper:
        return self._shop.shopper(f"shopper-{number:06d}", self._uniform)

    def _structure(self, time_ms: int) -> Structure:
        """Return the structure of a visit that begins now."""
        settings, held, using = self.settings, 0, 0
        for drift in settings.drifts:
            start, end = settings.time_ms(drift.at), settings.time_ms(drift.until)
            if time_ms < start:
                break
            if drift.kind == "recurring":
                using = 0 if time_ms < end else held
            elif drift.kind == "gradual" and time_ms < end:
                held += 1
                using = held if self._uniform() * (end - start) < time_ms - start else held - 1
            elif drift.kind != "price":
                held += 1
                using = held
        return self._shop.structures[using]

    def _line(self, item: int, time_ms: int) -> Item:
        category = self._shop.category[item]
        price = self._shop.price[item] * (PROMOTION if on_promotion(category, time_ms) else 1.0)
        for drift in self.settings.drifts:
            if drift.kind == "price" and category in self._repriced and time_ms >= self.settings.time_ms(drift.at):
                price *= drift.strength
        name = f"Category {category} no. {item}"
        return Item(
            f"item-{item:05d}", name, f"brand-{self._shop.brand[item]:02d}", f"category-{category:02d}", round(price, 2)
        )

    def _cart_chance(self, item: int, price: float, time_ms: int, shopper: Shopper) -> float:
        category, logit = self._shop.category[item], CART_LOGIT
        score = logit["level"] + self._category_level[category] + shopper.urge
        score += logit["price"] * math.log(price / self._shop.typical[category])
        score += logit["promotion"] * on_promotion(category, time_ms) + logit["again"] * (item in shopper.memory)
        score += logit["evening"] * (18 <= time_ms // 3_600_000 % 24 <= 22)
        return 1.0 / (1.0 + math.exp(-score))

    def _visit(self, time_ms: int, shopper: Shopper) -> Iterator[Step]:
        shop, uniform, who = self._shop, self._uniform, shopper.id
        structure = self._structure(time_ms)
        theme = shopper.favourites.draw(uniform())
        shopper.visits += 1
        session = f"{who}-{shopper.visits}"
        memory = shopper.memory
        cart: list[Item] = []
        item, carted, recommendation = -1, False, ""

        def step(type_: EventType, pause_s: float, **data: Any) -> Step:
            nonlocal time_ms
            time_ms += int(-1000 * pause_s * math.log(1.0 - uniform())) + 1
            return Step(time_ms, type_, who, Data(session_id=session, **data))

        if uniform() < LOGIN:
            yield step("login" if shopper.visits > 1 else "sign_up", 5.0)
        category = shop.category[structure.themes[theme].items[0]]
        if on_promotion(category, time_ms) and uniform() < 0.4:
            promotion = f"promotion-category-{category:02d}"
            yield step("view_promotion", 5.0, promotion_id=promotion)
            if uniform() < 0.5:
                yield step("select_promotion", 10.0, promotion_id=promotion)
        elif uniform() < SEARCH:
            yield step("search", 10.0, search_term=f"category {category}")
        shown: list[tuple[int, float]] = []
        if uniform() < LIST:
            shown = self._list(structure, theme)
            recommendation = f"list-{session}"
            lines = [
                msgspec.structs.replace(self._line(n, time_ms), index=i, propensity=propensity, item_list_id="theme")
                for i, (n, propensity) in enumerate(shown)
            ]
            yield step("view_item_list", 5.0, items=lines, item_list_id="theme", recommendation_id=recommendation)
        while True:
            previous, sampled, chances = item, uniform() < self.settings.sampled, None
            if previous >= 0:
                item = shop.following(structure, shopper, theme, previous, carted, uniform)
                if sampled:
                    chances = shop.following_chances(structure, shopper, theme, previous, carted)
            elif shown:
                weights = [shop.liking(n, shopper) / (1 + i) for i, (n, _) in enumerate(shown)]
                pick = Picked(weights)
                item = shown[pick.index(uniform())][0]
                if sampled:
                    chances = np.zeros(len(shop.category))
                    np.add.at(chances, [n for n, _ in shown], pick.chances())
            else:
                item = shop.entry(structure, shopper, theme, uniform)
                if sampled:
                    chances = shop.entry_chances(structure, shopper)
            viewed = step("view_item", GAP_S, items=[self._line(item, time_ms)], recommendation_id=recommendation)
            line = viewed.data.items[0]
            chance = self._cart_chance(item, line.price or 0.01, time_ms, shopper)
            if chances is not None:
                bought = round(chance * CHECKOUT * PAY * (1 - DROP), 6)
                best_ = best(chances, item)
                truth = {"recall_at_20": best_["recall"], "rank": best_["rank"], "opens": previous < 0}
                viewed = viewed._replace(truth={**truth, "purchase": bought})
            yield viewed
            recommendation = ""
            memory.append(item)
            carted = uniform() < chance
            if carted:
                quantity = 1 if uniform() < 0.85 else 2
                line = msgspec.structs.replace(line, quantity=quantity)
                yield step("add_to_cart", 15.0, items=[line], currency="EUR", value=worth([line]))
                if uniform() < DROP:
                    yield step("remove_from_cart", 20.0, items=[line], currency="EUR", value=worth([line]))
                else:
                    cart.append(line)
            if uniform() > CONTINUE:
                break
        if cart and uniform() < CHECKOUT:
            total = worth(cart)
            yield step("begin_checkout", 20.0, items=cart, currency="EUR", value=total)
            if uniform() < PAY:
                number = f"order-{session}"
                yield step("purchase", 60.0, items=cart, currency="EUR", value=total, transaction_id=number)
                if uniform() < REFUND:
                    back = [cart[int(uniform() * len(cart))]]
                    data = Data(items=back, currency="EUR", value=worth(back), transaction_id=number)
                    after = time_ms + int((1 + 6 * uniform()) * day_ms)
                    self._push(iter([Step(after, "refund", who, data)]))
                if uniform() < REVIEW:
                    data = Data(items=cart[:1], rating=float(1 + int(uniform() * 5)), review="As described.")
                    after = time_ms + int((2 + 6 * uniform()) * day_ms)
                    self._push(iter([Step(after, "review", who, data)]))

    def _list(self, structure: Structure, theme: int) -> list[tuple[int, float]]:
        """Return what a list shows and with which propensity: of each slot's two candidates mostly the first."""
        items, out = structure.themes[theme].items, []
        for slot in range(SLOTS):
            first = self._uniform() < SHOWN_FIRST
            out.append((items[2 * slot + (not first)], SHOWN_FIRST if first else round(1 - SHOWN_FIRST, 6)))
        return out

    def _bot(self, time_ms: int, shopper: Shopper) -> Iterator[Step]:
        """A machine that reads the catalogue: many views, fast, in no order, under an id that looks like any other."""
        uniform = self._uniform
        who = self._shop.shopper(f"shopper-9{int(uniform() * 1e5):05d}", uniform).id
        session, truth = f"{who}-b{time_ms}", {"bot": True}
        for n in range(40 + int(uniform() * 120)):
            time_ms += 300 + int(900 * uniform())
            line = self._line(int(uniform() * len(self._shop.category)), time_ms)
            yield Step(time_ms, "view_item", who, Data(items=[line], session_id=session), None if n else truth)


class Picked:
    """A choice by weights among places 0, 1, ….

    >>> Picked([1.0, 3.0]).index(0.5), Picked([1.0, 3.0]).chances()
    (1, [0.25, 0.75])
    """

    def __init__(self, weights: list[float]) -> None:
        total = sum(weights)
        self._shares = [weight / total for weight in weights]

    def index(self, uniform: float) -> int:
        for place, share in enumerate(self._shares):
            uniform -= share
            if uniform < 0:
                return place
        return len(self._shares) - 1

    def chances(self) -> list[float]:
        return self._shares


def worth(lines: list[Item]) -> float:
    """Return the price of some lines together.

    >>> worth([Item("a", price=2.5, quantity=2)])
    5.0
    """
    return round(sum((line.price or 0.0) * line.quantity for line in lines), 2)


def on_promotion(category: int, time_ms: int) -> bool:
    """Say whether a category is on promotion: two days of every fourteen, categories in turn."""
    return (time_ms // day_ms + 5 * category) % 14 < 2


def simulate(
    log: Log,
    settings: ShopSettings,
    *,
    speed: float | None = None,
    gate: Gate | None = None,
    progress: Report = silent,
) -> Published:
    """Publish a simulated shop's events to `events` and the truth to `truth`; go on where a killed run was.

    Raises:
        Misconfigured: a setting or the speed cannot be used.
        LogUnavailable: the log did not acknowledge in time, or the gate stayed closed.
    """
    simulation = Simulation(settings)
    return publish(
        log,
        simulation.records(),
        origin=simulation.origin,
        topics=(EVENTS, TRUTH),
        speed=speed,
        gate=gate,
        share=simulation.share,
        progress=progress,
    )
