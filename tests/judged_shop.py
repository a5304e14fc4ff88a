"""A shop that leaves answers partly to chance, and whose shoppers do what is known: so policies can be judged."""

import random
from collections.abc import Callable
from contextlib import closing
from typing import Any, Final

import msgspec

from headrace.events import Data, Event, Item, at, encode
from headrace.experiments import Arm, Experiment
from headrace.experiments import record_of as record_of_experiment
from headrace.impressions import Explored, Impression, ShownItem, record_of
from headrace.log.protocol import Log, Outgoing, Record
from headrace.log.sqlite import SqliteLog
from headrace.log.sqlite_time import Uptime
from headrace.topics import EVENTS
from learners.parts.assignment import Assignment

START_MS: Final = 1_767_225_600_000
"""2026-01-01T00:00Z, when the first answer is given."""
ROUND_MS: Final = 3_600_000
RATES: Final = {
    ("control", "mobile"): 0.2, ("control", "desktop"): 0.4, ("rising", "mobile"): 0.5, ("rising", "desktop"): 0.3,
}  # fmt: skip
"""Probability of a click by what is shown and on what device; half of the clicks are followed by an order of 10."""
HOME: Final = Experiment((Arm("control"), Arm("rising", share=3.0, ranker="trending")), state="running")
ITEMS: Final = ("a", "b")
ITEM_RATES: Final = {"a": 0.1, "b": 0.4}
"""Probability of a click on an item of a list, at each of its two places."""


class JudgedShop:
    """Writes a log in a file, whose clock it sets.

    Attributes:
        shown: what was shown.
        sold: the shoppers and transactions of orders.
    """

    def __init__(self, path: str, seed: int = 0) -> None:
        self.now_ms = START_MS
        self.chance = random.Random(seed)
        self.log: Log = SqliteLog(path, clock=lambda: self.now_ms, uptime=lambda: Uptime("", 0))
        self.log.create()
        self.sold: list[tuple[str, str]] = []
        self.shown: list[Impression] = []
        self._events = self._answers = 0

    def close(self) -> None:
        """Close the log."""
        self.log.close()

    def append(self, *records: Outgoing) -> None:
        """Append records at the present time."""
        with closing(self.log.appender()) as appender:
            for record in records:
                appender.append(record)

    def state(self, name: str = "home", experiment: Experiment = HOME) -> None:
        """State an experiment."""
        self.append(record_of_experiment(name, experiment))

    def event(self, kind: Any, shopper: str, items: list[Item], **data: Any) -> Outgoing:
        """Return the record of an event of now."""
        self._events += 1
        made = Event(
            f"e{self._events}", "shop/web", kind, at(self.now_ms), Data(items, **data), "1.0", shopper, self.now_ms
        )
        return Outgoing(EVENTS, shopper.encode(), encode(made))

    def answer(self, shopper: str, items: list[ShownItem], **more: Any) -> Impression:
        """Return what an answer of now shows."""
        self._answers += 1
        path = "/v1/recommendations/{shopper}"
        return Impression(f"r{self._answers}", self.now_ms, path, items, "home", "", shopper, **more)

    def _item(self) -> ShownItem:
        """Return an item of its own, so that an order is that of one answer."""
        return ShownItem(f"i{self._answers}")

    def live(self, rounds: int, shoppers: int, show: Callable[[str], tuple[Impression, list[float]]]) -> None:
        """Let new shoppers come in each round: each is answered twice, clicks as told by item, and may buy."""
        for number in range(rounds):
            self.now_ms = START_MS + number * ROUND_MS
            shown = [show(f"s{number}-{one}") for one in range(shoppers) for _ in range(2)]
            self.append(*[record_of(one) for one, _ in shown])
            self.shown += [one for one, _ in shown]
            self.now_ms += 60_000
            clicked = [
                (one, item.item_id) for one, rates in shown
                for item, rate in zip(one.items, rates, strict=True) if self.chance.random() < rate
            ]  # fmt: skip
            self.append(*[
                self.event("select_item", one.shopper, [Item(item)], recommendation_id=one.recommendation_id)
                for one, item in clicked
            ])  # fmt: skip
            self.now_ms += 60_000
            bought = [one for one in clicked if self.chance.random() < 0.5]
            names = [f"t{number}-{one}" for one in range(len(bought))]
            self.sold += [(one.shopper, name) for (one, _), name in zip(bought, names, strict=True)]
            self.append(*[
                self.event("purchase", one.shopper, [Item(item, price=10.0)], transaction_id=name)
                for (one, item), name in zip(bought, names, strict=True)
            ])  # fmt: skip

    def arm_of(self, shopper: str, name: str = "home", layer: str = "default") -> dict[str, str]:
        """Return the arm of a shopper as an impression has it, by the function that servers use."""
        assignment, stated = Assignment(), record_of_experiment(name, msgspec.structs.replace(HOME, layer=layer))
        assignment.hear(Record(0, 0, 0, stated.key, stated.value))
        return {one.name: one.arm.name for one in assignment.of("home", shopper)}

    def by_arms(self, rounds: int, shoppers: int, name: str = "home", layer: str = "default") -> None:
        """Let an experiment run."""

        def show(shopper: str) -> tuple[Impression, list[float]]:
            arms = self.arm_of(shopper, name, layer)
            device = _device(shopper)
            return self.answer(shopper, [self._item()], device=device, experiments=arms), [RATES[arms[name], device]]

        self.live(rounds, shoppers, show)

    def by_exploring(self, rounds: int, shoppers: int) -> None:
        """Let an arm of `home` explore: it chooses between two rankers, `rising` with 0.8 on mobiles, else with 0.3."""

        def show(shopper: str) -> tuple[Impression, list[float]]:
            device = _device(shopper)
            rising = 0.8 if device == "mobile" else 0.3
            action = int(self.chance.random() < rising)
            names = ["control", "rising"]
            explored = Explored("home", names, [1 - rising, rising], action, context=[float(device == "mobile")])
            made = self.answer(shopper, [self._item(), ShownItem("b")], device=device, explored=explored)
            return made, [RATES[names[action], device], 0.0]

        self.live(rounds, shoppers, show)

    def by_lists(self, rounds: int, shoppers: int) -> None:
        """Show lists of two items, each drawn at its place with 0.5."""

        def show(shopper: str) -> tuple[Impression, list[float]]:
            items = [self.chance.choice(ITEMS) for _ in range(2)]
            made = self.answer(shopper, [ShownItem(item, 0.5) for item in items])
            # An item that is shown twice is clicked once, so that each has a rate of its own only if they differ.
            return made, [ITEM_RATES[item] * (at == 0 or items[0] != item) for at, item in enumerate(items)]

        self.live(rounds, shoppers, show)


def _device(shopper: str) -> str:
    return "mobile" if int(shopper.rpartition("-")[2]) % 2 else "desktop"
