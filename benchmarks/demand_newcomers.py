"""The first four weeks of new items, by their neighbours: on a stream, and in simulated shops. Part of `demand`.

At the beginning of the week in which an item is first sold, it is forecast from what is known until then, as if the
shop had stated its name and the price of its first line before. Items of the first 26 weeks are not asked: on those of
Online Retail the settings were chosen.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np

from headrace.events import Data, Event, Item, at
from headrace.topics import DAY_MS
from learners.demand.model import LEVELS, pinball
from learners.demand.newcomers import Likeness, first_weeks_of
from learners.demand.sales import Floats, Sales, number_of

weeks: Final = 4
skipped: Final = 26
"""The first weeks, whose new items are not asked."""
KNOWN: Final = ("nothing", "price", "name", "price and name")
"""What is known of an item and of its neighbours."""
_begin: Final = 16_440
"""The day on which a simulated shop begins, a Monday: 5 January 2015."""


def newcomers(stream: Sequence[Event], first: int = skipped) -> dict[str, dict[str, float]]:
    """Return the errors of the first weeks of new items, by what is known: of the mean (WAPE), and the pinball loss.

    Args:
        stream: purchases and refunds in time order.
        first: weeks whose new items are not asked.
    """
    sales, stated, begun = Sales(131_072), _stated(stream), dict[str, int]()
    made: dict[str, dict[str, tuple[float, Floats]]] = {known: {} for known in KNOWN}
    entering: dict[int, list[str]] = {}
    for event in stream:
        if event.type == "purchase":
            for line in event.data.items:
                if line.item_id not in begun:
                    begun[line.item_id] = sales.week_of(event.time_ms // DAY_MS)
                    entering.setdefault(begun[line.item_id], []).append(line.item_id)
    for event in stream:
        day, buyer = event.time_ms // DAY_MS, number_of(event.shopper)
        if sales.week_of(day) > sales.week:
            sales.turn(sales.week_of(day))
            if sales.week >= sales.began + first:
                for item in entering.get(sales.week, []):
                    for known in KNOWN:
                        likeness = partial(_likeness, sales, stated, known)
                        forecast = first_weeks_of(sales, weeks, _of(stated[item], known), likeness)
                        if forecast is not None:
                            made[known][item] = forecast.mean, forecast.quantiles
        for line in event.data.items:
            if event.type == "purchase":
                sales.buy(line.item_id, buyer, day, line.quantity, line.price)
            else:
                sales.give_back(line.item_id, buyer, line.quantity)
    sales.apply()
    asked = [item for item in made[KNOWN[0]] if begun[item] + weeks <= sales.week]
    slots = np.array([sales.slot(item) for item in asked])
    truth = sales.sold(slots, np.array([begun[item] for item in asked]), weeks)
    found = {}
    for known, forecasts in made.items():
        means, quantiles = (np.array([forecasts[item][n] for item in asked]) for n in (0, 1))
        losses = [float(pinball(truth, quantiles[:, n], level).sum()) for n, level in enumerate(LEVELS)]
        found[known] = {
            "items": len(asked), "error": float(np.abs(truth - means).sum() / truth.sum()),
            "quantile_loss": float(np.mean(losses) / truth.sum()),
        }  # fmt: skip
    return found


def _stated(stream: Sequence[Event]) -> dict[str, Likeness]:
    found: dict[str, Likeness] = {}
    for event in stream:
        for line in event.data.items:
            found.setdefault(line.item_id, Likeness("", line.price, line.item_name))
    return found


def _likeness(sales: Sales, stated: dict[str, Likeness], known: str, slot: int) -> Likeness:
    return _of(stated[sales.name(slot)], known)


def _of(stated: Likeness, known: str) -> Likeness:
    return Likeness("", stated.price if "price" in known else None, stated.name if "name" in known else "")


def named_shop(telling: bool, seed: int = 7, length: int = 60) -> list[Event]:
    """Return the purchases of a shop with eight new items a week, each of one of ten themes, which is in its name.

    Args:
        telling: whether a theme says how much is sold: from a fifth to five times the usual. Else each item draws that.
    """
    draw = np.random.default_rng(seed)
    rates = np.exp(np.linspace(-np.log(5.0), np.log(5.0), 10))
    items: list[tuple[str, float]] = []
    events = []
    for day in range(7 * length):
        if day % 7 == 0:
            for _ in range(8):
                theme, words = int(draw.integers(10)), draw.integers(26, size=2)
                own = theme if telling else int(draw.integers(10))
                items.append((f"{_THEMES[theme]} {_word(words[0])} {_word(words[1])}", float(rates[own])))
        pieces = draw.poisson([rate for _, rate in items])
        lines = [
            Item(f"item-{n}", items[n][0], quantity=float(pieces[n]), price=5.0)
            for n in np.flatnonzero(pieces).tolist()
        ]  # fmt: skip
        time_ms = (_begin + day) * DAY_MS + DAY_MS // 2
        events.append(Event(f"o-{day}", "s", "purchase", at(time_ms), Data(lines), "1.0", f"s-{day}", time_ms))
    return events


_THEMES: Final = ("heart", "owl", "star", "vintage", "skull", "polkadot", "paisley", "rose", "union", "garden")


def _word(number: int) -> str:
    return f"thing{chr(97 + int(number)) * 2}"
