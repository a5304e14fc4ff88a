"""The simulated shop's stream: who comes when, in which structure, and the truth behind it.

Every visit is a small generator of events; a heap merges the open visits, later refunds and reviews in event time. All
is determined by the settings, to the byte, so a run that was killed goes on where it was. The ground truth goes to the
topic `truth`, as JSON with a `kind`, which is also the key:

- `world`, once: the settings and the parameters of the purchase chance.
- `schedule`, at the start, and `drift`, as each begins: which, from `at_ms` until `until_ms` (event time), how strong;
  and `event_number`, the number of events before it.
- `bot`: a shopper that is a machine. Nothing in the events says so.
- `best`, for a sampled share of views: the recall@20 that the best possible ranking has in expectation
  (`recall_at_20`) and the actual item's `rank` in it, for one who knows the visit's theme, the shopper's taste and the
  structure; and the true chance that the item is bought in this visit after this view (`purchase`).
"""

import hashlib
import heapq
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import numpy as np

from headrace.events import Event, at, encode
from headrace.log import Log
from headrace.topics import EVENTS, TRUTH
from producers.publisher import Gate, Numbered, Published, Report, publish, silent
from producers.scenario import Drift, ShopSettings, checked
from producers.shop import Shop, Shopper, Structure, categories
from producers.visit import BOUGHT_IF_CARTED, CART_LOGIT, Market, Prices, Step, Visit, bot_steps, day_ms

EVENTS_PER_VISIT: Final = 7.4
"""Measured over seeds; only the length of the stream in event time depends on it."""
REGULARS: Final = 0.75
"""How often a visit that is no newcomer's is drawn from past visits (so regulars come more), else from shoppers."""
past_max: Final = 100_000
"""Past visits that are remembered for that draw; a newer one takes the place of any."""
HOURS: Final = (4, 2, 1, 1, 1, 2, 5, 9, 12, 13, 13, 14, 15, 14, 13, 13, 14, 16, 19, 22, 23, 20, 14, 8)
"""How many come at each hour (UTC), in proportion."""
WEEKDAYS: Final = (1.0, 0.95, 0.95, 1.0, 1.05, 1.2, 1.3)
"""How many come on each day from Monday, in proportion."""


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
        self._market = Market(
            self._shop,
            Prices(
                frozenset(rng.permutation(categories)[: categories // 2].tolist()),
                tuple((settings.time_ms(d.at), d.strength) for d in settings.drifts if d.kind == "price"),
            ),
            rng.normal(0, 0.5, categories).tolist(),
            settings.sampled,
            self._uniform,
            lambda step: self._push(iter([step])),
        )
        self._open: list[tuple[int, int, Iterator[Step], Step]] = []
        self._pushed = self._truths = self._events = 0

    def share(self) -> float:
        """Return how much of the run has been generated."""
        return self._events / self.settings.events

    def records(self) -> Iterator[Numbered]:
        """Yield events and truth in event time, ending with the last event that was asked for."""
        settings = self.settings
        yield self._truth(settings.start_ms, "world", self._world())
        for drift in settings.drifts:
            yield self._truth(settings.start_ms, "schedule", self._about(drift))
        to_come = list(settings.drifts)
        for time_ms, type_, shopper, data, truth in self._steps():
            while to_come and time_ms >= settings.time_ms(to_come[0].at):
                what = {**self._about(to_come.pop(0)), "event_number": self._events}
                yield self._truth(time_ms, "drift", what)
            id_ = f"sim-{settings.seed}-{self._events}"
            if truth is not None:
                what = {"event_number": self._events, "event_id": id_, "shopper": shopper, **truth}
                yield self._truth(time_ms, "bot" if "bot" in truth else "best", what)
            event = Event(id_, self.origin, type_, at(time_ms), data, "1.0", shopper)
            yield Numbered(self._events, time_ms, shopper.encode(), encode(event))
            self._events += 1
            if self._events >= settings.events:
                return

    def _truth(self, time_ms: int, kind: str, what: dict[str, Any]) -> Numbered:
        id_ = f"sim-{self.settings.seed}-truth-{self._truths}"
        head = {"kind": kind, "source": self.origin, "id": id_, "time_ms": time_ms}
        record = Numbered(self._truths, time_ms, kind.encode(), msgspec.json.encode({**head, **what}), TRUTH)
        self._truths += 1
        return record

    def _about(self, drift: Drift) -> dict[str, Any]:
        settings = self.settings
        times = {"at_ms": settings.time_ms(drift.at), "until_ms": settings.time_ms(drift.until)}
        return {"drift": drift.kind, **times, "strength": drift.strength}

    def _world(self) -> dict[str, Any]:
        return {
            "settings": msgspec.to_builtins(self.settings),
            "cart_logit": CART_LOGIT,
            "category_levels": [round(level, 6) for level in self._market.levels],
            "bought_if_carted": BOUGHT_IF_CARTED,
        }

    def _push(self, steps: Iterator[Step]) -> None:
        if (step := next(steps, None)) is not None:
            self._pushed += 1
            heapq.heappush(self._open, (step.time_ms, self._pushed, steps, step))

    def _steps(self) -> Iterator[Step]:
        """Merge visits, and what follows from them, in event time, without end."""
        settings, arrivals = self.settings, self._arrivals()
        new = round(settings.new_items * settings.items)
        stock = iter([settings.time_ms((i + 1) / (new + 1)) for i in range(new)])
        stock_ms = next(stock, None)
        while True:
            visit_ms, shopper = next(arrivals)
            while self._open and self._open[0][0] <= visit_ms:
                time_ms, _, steps, step = heapq.heappop(self._open)
                while stock_ms is not None and stock_ms <= time_ms:
                    self._shop.arrive()
                    stock_ms = next(stock, None)
                yield step
                self._push(steps)
            if self._uniform() < settings.bots:
                self._push(bot_steps(self._market, visit_ms))
            else:
                self._push(Visit(self._market, shopper, self._structure(visit_ms), visit_ms).steps())

    def _arrivals(self) -> Iterator[tuple[int, Shopper]]:
        """Yield when the next visit begins and whose it is: newcomers, and regulars the more often they came before."""
        settings, uniform = self.settings, self._uniform
        visits = settings.events / EVENTS_PER_VISIT
        known = [self._newcomer(n) for n in range(max(1, settings.shoppers // 5))]
        past = known[:past_max]
        newcomer_share = min(0.9, (settings.shoppers - len(known)) / visits)
        peak, mean = max(HOURS) * max(WEEKDAYS), sum(HOURS) / 24 * sum(WEEKDAYS) / 7
        gap_ms = settings.days * day_ms / visits * mean / peak
        time_ms = float(settings.start_ms)
        while True:
            time_ms -= gap_ms * math.log(1.0 - uniform())
            moment = datetime.fromtimestamp(time_ms / 1000, UTC)
            if uniform() * peak > HOURS[moment.hour] * WEEKDAYS[moment.weekday()]:
                continue
            if uniform() < newcomer_share and len(known) < settings.shoppers:
                shopper = self._newcomer(len(known))
                known.append(shopper)
            else:
                pool = past if uniform() < REGULARS else known
                shopper = pool[int(uniform() * len(pool))]
            if len(past) < past_max:
                past.append(shopper)
            else:
                past[int(uniform() * past_max)] = shopper
            yield int(time_ms), shopper

    def _newcomer(self, number: int) -> Shopper:
        return self._shop.shopper(f"shopper-{number:06d}", self._uniform)

    def _structure(self, time_ms: int) -> Structure:
        """Return the structure of a visit that begins now."""
        settings, held, using = self.settings, 0, 0
        for drift in settings.drifts:
            start_ms, end_ms = settings.time_ms(drift.at), settings.time_ms(drift.until)
            if time_ms < start_ms:
                break
            if drift.kind == "recurring":
                using = 0 if time_ms < end_ms else held
            elif drift.kind != "price":
                held += 1
                ramping = drift.kind == "gradual" and time_ms < end_ms
                old = ramping and self._uniform() * (end_ms - start_ms) > time_ms - start_ms
                using = held - 1 if old else held
        return self._shop.structures[using]


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
