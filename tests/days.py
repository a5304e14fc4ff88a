"""The days of a shop in which a deep model beats the fast learners."""

import random
from collections import Counter
from pathlib import Path

from headrace.events import Data, Event, Item, at, encode

THEMES, THEME_ITEMS, SHOPPERS = 10, 8, 150
STEP_MS = 60_000
"""Event time between two events; a shopper comes back after hours, so each visit is a session of its own."""


class Days:
    """A shop whose shoppers keep their tastes and come for one item, seldom two.

    A shopper looks at one item of a theme per visit; one visit in seven goes on to the item that follows. Who looks at
    a visit alone (every fast learner) cannot tell the theme; who looks at the shopper's past can.
    """

    def __init__(self) -> None:
        self._chance = random.Random(5)
        self._count = 0
        self._last: dict[int, int] = {}
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.ids: set[str] = set()

    def event(self, shopper: str, item: str) -> Event:
        self._count += 1
        event = Event(
            id=f"e{self._count}", source="shop/web", type="view_item", specversion="1.0", shopper=shopper,
            time=at(1_750_000_000_000 + self._count * STEP_MS), data=Data(items=[Item(item)]),
        )  # fmt: skip
        self.ids.add(event.id)
        return event

    def draw(self, count: int) -> list[Event]:
        """Return a day of at least `count` events."""
        events: list[Event] = []
        while len(events) < count:
            shopper = self._chance.randrange(SHOPPERS)
            theme, last = shopper % THEMES, self._last.get(shopper)
            item = self._chance.choice([number for number in range(THEME_ITEMS) if number != last])
            events.append(self.event(f"u{shopper}", f"i{theme}-{item}"))
            if self._chance.random() < 1 / 7:
                before, item = item, (item + 1) % THEME_ITEMS
                events.append(self.event(f"u{shopper}", f"i{theme}-{item}"))
                self.pairs[f"i{theme}-{before}", f"i{theme}-{item}"] += 1
            self._last[shopper] = item
        return events

    def write(self, path: Path, count: int) -> int:
        """Write a day of at least `count` events as native JSONL, and return how many there are."""
        events = self.draw(count)
        path.write_bytes(b"".join(encode(event) + b"\n" for event in events))
        return len(events)
