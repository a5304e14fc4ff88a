"""The simulated shop's stream: the arrival of visits, the structure of each, and the ground truth.

Each visit is a generator of events; a heap merges the open visits and the later refunds and reviews by event time. The
settings determine every byte, so that a killed run can be resumed. The topic `items` states each item when it is added,
and again when its price (without promotions) or its availability changes. The ground truth is written to the topic
`truth`, as JSON with a `kind`, which is also the key:

- `world`, once: the settings and the parameters of the purchase probability.
- `schedule`, at the start, and `drift`, when each begins: its kind, strength, and event times `at_ms` and `until_ms`;
  `drift` also has `event_number`, the number of events before it, and the `items` and `categories` that it concerns, as
  events name them, if it is local, a surge or a wave of new items.
- `bot`: the id of a shopper that is a bot. The events do not show it.
- `best`, for a sampled share of views: the expected recall@20 of the best possible ranking (`recall_at_20`) and the
  actual item's `rank` in it, given the visit's theme, the shopper's preferences and the structure; and the true
  probability that the item is bought in this visit after this view (`purchase`).
- `shopper`, where groups are planted, when a shopper is first known: the shopper's `group` (`churner`, `big_spender`,
  `returner` or `other`), a churner's `stops_ms`, and the `brands` that the shopper likes. A group does not tell what
  came of it: the events do.
"""

import hashlib
import heapq
import math
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import numpy as np

from headrace.events import Event, at, encode
from headrace.log.protocol import Log
from headrace.topics import EVENTS, ITEMS, TRUTH
from producers.demand import Demand
from producers.groups import Groups, Member
from producers.publisher import ProgressCallback, PublishGate, PublishResult, ignore_progress, publish, retry_s_default
from producers.scenario import Drift, SimulationSettings, validated
from producers.sender import send
from producers.sequence import InputDigest, NumberedRecord
from producers.shop import Planted, Shopper, SimulatedShop, Transitions, categories
from producers.visit import (
    BOUGHT_IF_CARTED,
    CART_LOGIT,
    CURRENCY,
    Prices,
    Visit,
    VisitContext,
    VisitStep,
    bot_steps,
    brand_name,
    category_name,
    day_ms,
    item_id,
    promoted_days,
)
from producers.warehouse import Warehouse

EVENTS_PER_VISIT: Final = 7.4
"""Measured over several seeds; it affects only the length of the stream in event time."""
LONGER: Final = 0.3
"""By which share visits are longer, on average, per share of the shoppers who are planted: these buy more."""
REGULARS: Final = 0.75
"""Share of returning visits drawn from past visits (so that regulars visit more); the others from all shoppers."""
past_max: Final = 100_000
"""Past visits remembered for that draw; then each new visit replaces a random one."""
DRAWS: Final = 1_000
"""Most draws for a shopper who has not left."""
HOURS: Final = (4, 2, 1, 1, 1, 2, 5, 9, 12, 13, 13, 14, 15, 14, 13, 13, 14, 16, 19, 22, 23, 20, 14, 8)
"""Relative number of visits by hour (UTC)."""
OUTAGE: Final = 0.1
"""Share of the run for which an item stays out of stock."""
WEEKDAYS: Final = (1.0, 0.95, 0.95, 1.0, 1.05, 1.2, 1.3)
"""Relative number of visits by weekday, from Monday."""


def uniforms(rng: np.random.Generator) -> Callable[[], float]:
    """Return a function for uniform random numbers from 0 to 1, drawn in blocks because single draws are slow."""

    def blocks() -> Iterator[float]:
        while True:
            yield from rng.random(65_536).tolist()

    return blocks().__next__


class Simulation:
    """One run of the simulation. `records` may be consumed once."""

    def __init__(self, settings: SimulationSettings) -> None:
        self.settings = validated(settings)
        digest = hashlib.sha256(msgspec.json.encode(self.settings.plain())).hexdigest()
        self.origin = f"simulate:{settings.seed}-{digest[:8]}:{digest[:16]}"
        self._digest = InputDigest(self.origin)
        rng = np.random.Generator(np.random.PCG64(settings.seed))
        self._shop = SimulatedShop(self.settings, rng)
        self._uniform = uniforms(rng)
        own = np.random.default_rng([settings.seed, 3])  # events before a drift do not depend on it
        self._demand = Demand(self.settings, self._shop, uniforms(own))
        self._groups = Groups(self.settings)
        self._warehouse = Warehouse(self.settings)
        self._newcomers: list[tuple[Shopper, Member]] = []
        self._known: list[Shopper] = []
        self._past: list[Shopper] = []
        self._context = VisitContext(
            settings.seed,
            self._shop,
            Prices(
                frozenset(rng.permutation(categories)[: categories // 2].tolist()),
                tuple((settings.time_ms(d.at), d.strength) for d in settings.drifts if d.kind == "price"),
            ),
            rng.normal(0, 0.5, categories).tolist(),
            settings.sampled,
            self._uniform,
            lambda step: self._push(iter([step])),
            self._groups,
            self._warehouse,
        )
        self._open: list[tuple[int, int, Iterator[VisitStep], VisitStep]] = []
        self._pushed = self._truths = self._events = self._statements = 0
        self._unstated: list[int] = []
        self._add(range(settings.items))
        # For each category, the day at which the promotion that was stated is over.
        self._promoted = [promoted_days(category, settings.start_ms)[1] for category in range(categories)]
        self._availability = self._outages()
        self._out_of_stock: set[int] = set()

    def _outages(self) -> list[tuple[int, int, bool]]:
        """Return when which item goes out of stock or is available again, in order."""
        settings = self.settings
        rng = np.random.default_rng([settings.seed, 1])  # of its own, so that the events do not depend on it
        items = rng.permutation(settings.items)[: round(settings.outages * settings.items)].tolist()
        begins = rng.uniform(0, 1 - OUTAGE, len(items)).tolist()
        found = [(settings.time_ms(begin), item, False) for item, begin in zip(items, begins, strict=True)]
        return sorted([*found, *((settings.time_ms(b + OUTAGE), i, True) for i, b in zip(items, begins, strict=True))])

    def _add(self, items: Iterable[int]) -> None:
        """Note new items: they are to be stated, and the warehouse may have them."""
        for item in items:
            self._unstated.append(item)
            self._warehouse.add(item)

    def share(self) -> float:
        """Return the share of the events that has been generated."""
        return self._events / self.settings.events

    def records(self) -> Iterator[NumberedRecord]:
        """Yield events and ground truth in event time, up to the configured number of events."""
        settings = self.settings
        yield self._truth(settings.start_ms, "world", self._world())
        for drift in settings.drifts:
            yield self._truth(settings.start_ms, "schedule", self._drift_truth(drift))
        yield from self._stated_items(settings.start_ms)
        upcoming = list(zip(settings.drifts, range(len(settings.drifts)), strict=True))
        for time_ms, type_, shopper, data, truth in self._steps():
            while upcoming and time_ms >= settings.time_ms(upcoming[0][0].at):
                drift, number = upcoming.pop(0)
                named = self._named(self._shop.planted[number])
                yield self._truth(time_ms, "drift", {**self._drift_truth(drift), "event_number": self._events, **named})
                if drift.kind == "price":
                    repriced, category = self._context.prices.repriced, self._shop.category
                    self._unstated += [item for item, home in enumerate(category) if home in repriced]
            if self._warehouse:
                self._restock(time_ms)
            if self._unstated or self._availability:
                yield from self._stated_items(time_ms)
            for member in self._newcomers:
                yield self._truth(time_ms, "shopper", self._member_truth(*member))
            self._newcomers.clear()
            id_ = f"sim-{settings.seed}-{self._events}"
            if truth is not None:
                what = {"event_number": self._events, "event_id": id_, "shopper": shopper, **truth}
                yield self._truth(time_ms, "bot" if "bot" in truth else "best", what)
            event = Event(id_, self.origin, type_, at(time_ms), data, "1.0", shopper)
            value = encode(event)
            yield NumberedRecord(self._events, time_ms, shopper.encode(), value, digest=self._digest.add(value))
            self._events += 1
            if self._events >= settings.events:
                return

    def _restock(self, time_ms: int) -> None:
        """Receive what was delivered; note items whose pieces on hand or whose next promotion are to be stated."""
        self._warehouse.advance(time_ms)
        self._unstated += sorted(self._warehouse.changed)
        self._warehouse.changed.clear()
        over = {category for category, day in enumerate(self._promoted) if day * day_ms <= time_ms}
        if over:
            for category in over:
                self._promoted[category] = promoted_days(category, time_ms)[1]
            self._unstated += [item for item, category in enumerate(self._shop.category) if category in over]

    def _stated_items(self, time_ms: int) -> Iterator[NumberedRecord]:
        """Yield the records of items that are new or have changed."""
        while self._availability and self._availability[0][0] <= time_ms:
            _, item, available = self._availability.pop(0)
            (self._out_of_stock.discard if available else self._out_of_stock.add)(item)
            self._unstated.append(item)
        for item in dict.fromkeys(self._unstated):
            line = self._context.line_item(item, time_ms)
            price = self._context.prices.regular(self._shop, item, time_ms)
            stated = {
                "id": line.item_id, "title": line.item_name, "brand": line.item_brand,
                "product_type": line.item_category, "price": price, "currency": CURRENCY,
                "availability": "out_of_stock" if item in self._out_of_stock else "in_stock",
            }  # fmt: skip
            if self._warehouse:
                stated |= self._stock(item, time_ms)
            value = msgspec.json.encode(stated)
            digest = self._digest.add(value)
            yield NumberedRecord(self._statements, time_ms, line.item_id.encode(), value, ITEMS, digest)
            self._statements += 1
        self._unstated.clear()

    def _stock(self, item: int, time_ms: int) -> dict[str, Any]:
        """Return what is stated of an item's pieces on hand and of its promotion that is on or comes next."""
        first, last = (at(day * day_ms) for day in promoted_days(self._shop.category[item], time_ms))
        pieces = self._warehouse.on_hand(item)
        return {
            "sale_price": self._context.prices.promoted(self._shop, item, time_ms),
            "sale_price_effective_date": f"{first}/{last}",
            **({} if pieces is None else {"quantity": pieces}),
            **({"availability": "out_of_stock"} if pieces == 0 else {}),
        }

    def _truth(self, time_ms: int, kind: str, what: dict[str, Any]) -> NumberedRecord:
        id_ = f"sim-{self.settings.seed}-truth-{self._truths}"
        head = {"kind": kind, "source": self.origin, "id": id_, "time_ms": time_ms}
        value = msgspec.json.encode({**head, **what})
        record = NumberedRecord(self._truths, time_ms, kind.encode(), value, TRUTH, self._digest.add(value))
        self._truths += 1
        return record

    def _drift_truth(self, drift: Drift) -> dict[str, Any]:
        settings = self.settings
        times = {"at_ms": settings.time_ms(drift.at), "until_ms": settings.time_ms(drift.until)}
        return {"drift": drift.kind, **times, "strength": drift.strength}

    def _member_truth(self, shopper: Shopper, member: Member) -> dict[str, Any]:
        stops = {} if member.stops_ms is None else {"stops_ms": member.stops_ms}
        liked = [brand_name(brand) for brand, liking in enumerate(shopper.brand_liking) if liking == 1.0]
        return {"shopper": shopper.id, "group": member.group, **stops, "brands": liked}

    def planted(self, number: int) -> dict[str, list[str]]:
        """Return the items and categories that a drift, by its number, concerns, as events name them.

        They include the categories of a price drift, which the ground truth does not name: release 0.3.0 did not.
        Items of a wave are known once it has come.
        """
        if self.settings.drifts[number].kind == "price":
            return self._named(Planted((), tuple(sorted(self._context.prices.repriced))))
        return self._named(self._shop.planted[number])

    def _named(self, planted: Planted) -> dict[str, list[str]]:
        found = {
            "items": [item_id(item) for item in planted.items],
            "categories": [category_name(home) for home in planted.categories],
        }
        return {name: values for name, values in found.items() if values}

    def _world(self) -> dict[str, Any]:
        return {
            "settings": self.settings.plain(),
            "cart_logit": CART_LOGIT,
            "category_levels": [round(level, 6) for level in self._context.levels],
            "bought_if_carted": BOUGHT_IF_CARTED,
        }

    def _push(self, steps: Iterator[VisitStep]) -> None:
        if (step := next(steps, None)) is not None:
            self._pushed += 1
            heapq.heappush(self._open, (step.time_ms, self._pushed, steps, step))

    def _steps(self) -> Iterator[VisitStep]:
        """Merge visits, refunds and reviews by event time, endlessly."""
        settings, arrivals = self.settings, self._arrivals()
        new = round(settings.new_items * settings.items)
        new_item_times = iter([settings.time_ms((i + 1) / (new + 1)) for i in range(new)])
        new_item_ms = next(new_item_times, None)
        waves = [
            (settings.time_ms(drift.at), number, round(drift.strength * settings.items))
            for number, drift in enumerate(settings.drifts)
            if drift.kind == "new_items"
        ]
        while True:
            visit_ms, shopper = next(arrivals)
            while self._open and self._open[0][0] <= visit_ms:
                time_ms, _, steps, step = heapq.heappop(self._open)
                while new_item_ms is not None and new_item_ms <= time_ms:
                    self._add([self._shop.add_new_item()])
                    new_item_ms = next(new_item_times, None)
                while waves and waves[0][0] <= time_ms:
                    self._add(self._shop.add_wave(*waves.pop(0)[1:]))
                yield step
                self._push(steps)
            if self._uniform() < settings.bots:
                self._push(bot_steps(self._context, visit_ms))
            else:
                self._push(self._visit(shopper, visit_ms).steps())

    def _visit(self, shopper: Shopper, time_ms: int) -> Visit:
        """Return the visit that begins at this time: of this shopper, unless others are drawn by their interest."""
        structure, demand = self._structure(time_ms), self._demand
        theme, surge, interest = None, demand.surge(time_ms), demand.interest(time_ms)
        if interest is not None:
            weighted = interest.transitions(structure)
            shopper, theme = interest.draw(
                weighted, shopper, lambda uniform: self._returning(uniform, time_ms), demand.uniform
            )
            structure = weighted
        if surge is not None and surge.here:
            homes = self._shop.themes_of(structure, surge.item)
            theme = homes[int(demand.uniform() * len(homes))] if homes else theme
        return Visit(self._context, shopper, structure, time_ms, theme, surge)

    def _arrivals(self) -> Iterator[tuple[int, Shopper]]:
        """Yield each visit's start time and shopper: new ones, and known ones in proportion to their past visits."""
        settings, uniform = self.settings, self._uniform
        visits = settings.events / (EVENTS_PER_VISIT * (1 + LONGER * settings.planted))
        known, past = self._known, self._past
        known += [self._new_shopper(n, settings.start_ms) for n in range(max(1, settings.shoppers // 5))]
        past += [shopper for shopper in known for _ in range(self._groups.visits_of(shopper))][:past_max]
        new_shopper_share = min(0.9, (settings.shoppers - len(known)) / visits)
        peak, mean = max(HOURS) * max(WEEKDAYS), sum(HOURS) / 24 * sum(WEEKDAYS) / 7
        gap_ms = settings.days * day_ms / visits * mean / peak
        time_ms = float(settings.start_ms)
        while True:
            time_ms -= gap_ms * math.log(1.0 - uniform())
            moment = datetime.fromtimestamp(time_ms / 1000, UTC)
            if uniform() * peak > HOURS[moment.hour] * WEEKDAYS[moment.weekday()]:
                continue
            if uniform() < new_shopper_share and len(known) < settings.shoppers:
                shopper = self._new_shopper(len(known), int(time_ms))
                known.append(shopper)
                past += [shopper] * min(self._groups.visits_of(shopper) - 1, past_max - len(past))
            else:
                shopper = self._returning(uniform, int(time_ms))
            if len(past) < past_max:
                past.append(shopper)
            else:
                past[int(uniform() * past_max)] = shopper
            yield int(time_ms), shopper

    def _returning(self, uniform: Callable[[], float], time_ms: int) -> Shopper:
        """Draw a known shopper; one who has left is replaced by another, as long as one is soon found."""
        for _ in range(DRAWS):
            pool = self._past if uniform() < REGULARS else self._known
            shopper = pool[int(uniform() * len(pool))]
            if not self._groups.has_left(shopper, time_ms):
                break
            uniform = self._groups.uniform
        return shopper

    def _new_shopper(self, number: int, time_ms: int) -> Shopper:
        shopper = self._shop.shopper(f"shopper-{number:06d}", self._uniform)
        if self._groups.any:
            self._newcomers.append((shopper, self._groups.enter(shopper, time_ms)))
        return shopper

    def _structure(self, time_ms: int) -> Transitions:
        """Return the structure of a visit that begins at this time."""
        settings, latest, current = self.settings, 0, 0
        for drift in settings.drifts:
            start_ms, end_ms = settings.time_ms(drift.at), settings.time_ms(drift.until)
            if time_ms < start_ms:
                break
            if drift.kind == "recurring":
                current = 0 if time_ms < end_ms else latest
            elif drift.redraws:
                latest += 1
                if drift.kind == "incremental" and time_ms < end_ms:
                    return self._shop.replaced(latest, (time_ms - start_ms) / (end_ms - start_ms))
                ramping = drift.kind == "gradual" and time_ms < end_ms
                old = ramping and self._uniform() * (end_ms - start_ms) > time_ms - start_ms
                current = latest - 1 if old else latest
        return self._shop.structures[current]


def simulate(
    log: Log,
    settings: SimulationSettings,
    *,
    speed: float | None = None,
    gate: PublishGate | None = None,
    retry_s: float = retry_s_default,
    progress: ProgressCallback = ignore_progress,
) -> PublishResult:
    """Publish a simulated shop's events, items and ground truth to the topics of these names; resume a killed run.

    Raises:
        Misconfigured: a setting or the speed is invalid.
        Fenced, LogUnavailable: as for `producers.publisher.publish`.
    """
    simulation = Simulation(settings)

    def records() -> Iterator[NumberedRecord]:
        nonlocal simulation
        simulation = Simulation(settings)
        return simulation.records()

    return publish(
        log,
        records,
        origin=simulation.origin,
        topics=(EVENTS, ITEMS, TRUTH),
        speed=speed,
        gate=gate,
        retry_s=retry_s,
        share=lambda: simulation.share(),
        progress=progress,
    )


def simulate_to_gateway(
    url: str,
    key: str,
    settings: SimulationSettings,
    *,
    speed: float | None = None,
    retry_s: float = retry_s_default,
    progress: ProgressCallback = ignore_progress,
) -> PublishResult:
    """Send a simulated shop's events and items to a gateway, which has no way for the ground truth.

    Raises:
        Misconfigured: a setting, the speed, the URL or the key is invalid.
        Undelivered: as for `producers.sender.send`.
    """
    simulation = Simulation(settings)
    return send(
        url,
        key,
        simulation.records(),
        origin=simulation.origin,
        speed=speed,
        retry_s=retry_s,
        share=simulation.share,
        progress=progress,
    )
