"""Pieces sold of each item by week: the history from which demand is learned.

Lines are buffered and applied together, so that an event costs a few microseconds. Each item has a ring of weeks with
the pieces that were sold, the pieces that teach forecasts (one unusually large line counts only as a multiple of what
is usual for the item), the number of lines, and the share of the week in which the item was out of stock. What is
returned is taken back in the week in which it was bought, where the line is still remembered.

Memory: 16 bytes an item and week, so 126 MB for 131,072 items and 60 weeks, and 24 bytes a remembered line.
"""

from collections import defaultdict
from typing import Any, Final, Self
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from learners.parts import portable

Floats = NDArray[np.float64]
Slots = NDArray[np.int64]

weeks_max: Final = 60
"""Weeks of the ring: a year, and some so that what sold a year ago is known for the whole longest horizon."""
buffered_max: Final = 2_048
"""Lines that are applied together."""
lines_max: Final = 262_144
"""Most lines that are remembered so that returns are known to be of them, the newest."""
began_lines_min: Final = 32
"""Lines of a week before all others from which on something is known of it: fewer may be of a wrong clock."""
unusual: Final = 8.0
"""A line counts as at most this multiple of the item's usual line, in what forecasts learn from."""
unusual_min: Final = 24.0
"""Pieces up to which no line is unusual."""
_usual_lines_max: Final = 64.0
"""Lines after which the sums of an item's usual line are halved."""
_usual_prior: Final = 3.0
"""Lines before which no usual one is known, so nothing is capped by it."""
_first_cap: Final = 96.0
"""The most that a line counts for an item with fewer lines."""
_kept: Final = 0.9
"""Share of the items that is kept when there are too many: those that sold last."""
NO_SLOT: Final = -1
_MONDAY: Final = 4
"""The first Monday, in days since the epoch."""


class Sales:
    """The weekly sales of items, each in a slot. Bounded: items that have not sold for longest go, a tenth at once.

    Weeks are numbered from the first Monday after the epoch. `week` is the one being filled; those before it that are
    in the ring are complete, apart from what returns take back and what arrives late.

    Args:
        items_max: most items.
        period_days: days of a week; a shop that is observed for a few days can have shorter ones.

    Attributes:
        forgotten: how many items were forgotten.
        uncounted: pieces that were bought, or returned, of weeks or lines no longer remembered.
    """

    def __init__(self, items_max: int, period_days: int = 7) -> None:
        self.items_max, self.period_days = items_max, period_days
        self.week = NO_SLOT
        self.began = NO_SLOT  # the first week of which anything is known
        self.forgotten = 0
        self.uncounted = 0.0
        self._slots: dict[str, int] = {}
        self._names: list[str] = []
        capacity = min(items_max, 1_024)
        self._pieces = np.zeros((weeks_max, capacity), np.float32)
        self._learned = np.zeros((weeks_max, capacity), np.float32)
        self._lines = np.zeros((weeks_max, capacity), np.int32)
        self._away = np.zeros((weeks_max, capacity), np.float32)
        self._facts = np.zeros((len(_FACTS), capacity))
        self._weekdays = np.zeros((7, capacity), np.float32)
        self.shop_weekdays = np.zeros(7)
        self._line_slots = np.full(lines_max, NO_SLOT, np.int32)
        self._line_buyers = np.zeros(lines_max, np.uint32)
        self._line_days = np.zeros(lines_max, np.int32)
        self._line_pieces = np.zeros((2, lines_max), np.float32)
        self._next_line = 0
        self._remembered = 0
        self._buffer: list[tuple[int, int, float, float, int]] = []

    def __len__(self) -> int:
        return len(self._names)

    def slot(self, item: str) -> int | None:
        """Return the slot of an item, None if it has not been sold."""
        return self._slots.get(item)

    def name(self, slot: int) -> str:
        """Return the item of a slot."""
        return self._names[slot]

    def week_of(self, day: int) -> int:
        """Return the week of a day since the epoch."""
        return (day - _MONDAY) // self.period_days

    def first_day(self, week: int) -> int:
        """Return the first day of a week, in days since the epoch."""
        return week * self.period_days + _MONDAY

    def enter(self, item: str) -> int:
        """Return the slot of an item, a new one if it has none."""
        slot = self._slots.get(item)
        if slot is None:
            slot = self._slots[item] = len(self._names)
            self._names.append(item)
            if slot == self._pieces.shape[1]:
                self._grow()
            self._facts[:, slot] = _NOTHING
        return slot

    def _grow(self) -> None:
        capacity = self._pieces.shape[1]
        more = min(capacity, max(1, self.items_max + 1 - capacity))  # one too many is there until `fit`
        for name in _BY_ITEM:
            one = getattr(self, name)
            setattr(self, name, np.concatenate([one, np.zeros((len(one), more), one.dtype)], axis=1))

    def buy(self, item: str, buyer: int, day: int, pieces: float, price: float | None) -> None:
        """Note a line that was bought. The week must have been turned to.

        Args:
            buyer: as `number_of`.
            day: in days since the epoch.
            price: of a piece, None if it is not known.
        """
        slot = self._slots.get(item)
        if slot is None:
            slot = self.enter(item)
        self._buffer.append((slot, day, pieces, -1.0 if price is None else price, buyer))
        if len(self._buffer) >= buffered_max:
            self.apply()

    def apply(self) -> None:
        """Apply the lines that are buffered."""
        if self._buffer:
            slots, days, pieces, prices, buyers = map(np.array, zip(*self._buffer, strict=True))
            self._buffer = []
            self.record(slots, days, pieces, prices, buyers.astype(np.uint32))

    def record(
        self,
        slots: Slots,
        days: NDArray[np.int64],
        pieces: Floats,
        prices: Floats | None = None,
        buyers: NDArray[np.uint32] | None = None,
    ) -> None:
        """Note lines that were bought, as arrays. Their weeks must not be later than `week`.

        Shapes: all (R,). A price below 0 is not known. Lines without buyers are not remembered for returns.
        """
        weeks = (days - _MONDAY) // self.period_days
        kept = (weeks > self.week - weeks_max) & (weeks <= self.week)
        if not kept.all():
            self.uncounted += float(np.add.reduce(pieces[~kept]))
            slots, days, pieces, weeks = slots[kept], days[kept], pieces[kept], weeks[kept]
            prices = None if prices is None else prices[kept]
            buyers = None if buyers is None else buyers[kept]
        learned = np.minimum(pieces, self._caps(slots))
        row = weeks % weeks_max
        np.add.at(self._pieces, (row, slots), pieces.astype(np.float32))
        np.add.at(self._learned, (row, slots), learned.astype(np.float32))
        np.add.at(self._lines, (row, slots), np.int32(1))
        for week in np.unique(weeks[weeks < self.began]).tolist():  # a history may be loaded after what is live
            if int(np.add.reduce(self._lines[week % weeks_max], dtype=np.int64)) >= began_lines_min:
                self.began = min(self.began, week)
        weekday = (days - _MONDAY) % 7
        np.add.at(self._weekdays, (weekday, slots), learned.astype(np.float32))
        self.shop_weekdays += np.bincount(weekday, learned, 7)
        facts = self._facts
        np.add.at(facts[_USUAL], slots, portable.log(1.0 + learned))
        np.add.at(facts[_COUNT], slots, 1.0)
        full = slots[facts[_COUNT, slots] > _usual_lines_max]
        facts[_USUAL : _COUNT + 1, np.unique(full)] *= 0.5
        np.maximum.at(facts[_LAST], slots, weeks)
        np.minimum.at(facts[_FIRST], slots, weeks)
        if prices is not None and (priced := prices >= 0).any():
            facts[_PRICE, slots[priced]] = prices[priced]  # of several, the last
        if buyers is not None:
            self._remember(slots, days, buyers, pieces, learned)

    def _caps(self, slots: Slots) -> Floats:
        """Return the most that a line of each slot counts."""
        count = self._facts[_COUNT, slots]
        usual = portable.exp(self._facts[_USUAL, slots] / np.maximum(count, 1.0)) - 1.0
        return np.where(count >= _usual_prior, np.maximum(unusual * usual, unusual_min), _first_cap)

    def _remember(
        self, slots: Slots, days: NDArray[np.int64], buyers: NDArray[np.uint32], pieces: Floats, learned: Floats
    ) -> None:
        place = (self._next_line + np.arange(len(slots))) % lines_max
        self._line_slots[place], self._line_buyers[place], self._line_days[place] = slots, buyers, days
        self._line_pieces[0, place], self._line_pieces[1, place] = pieces, learned
        self._next_line = int((self._next_line + len(slots)) % lines_max)
        self._remembered = min(lines_max, self._remembered + len(slots))

    def give_back(self, item: str, buyer: int, pieces: float) -> None:
        """Take back what was returned, in the weeks when the buyer bought it, the newest line first.

        Pieces of lines that are not remembered are not taken back.
        """
        self.apply()
        slot = self._slots.get(item)
        if slot is None:
            self.uncounted += pieces
            return
        pieces = float(np.float32(pieces))  # as lines are remembered, so that a whole line leaves nothing
        used = slice(0, self._remembered)
        found = np.flatnonzero((self._line_slots[used] == slot) & (self._line_buyers[used] == buyer))
        age = (self._next_line - 1 - found) % lines_max
        for place in found[np.argsort(age)].tolist():
            bought, learned = self._line_pieces[:, place].tolist()
            back = min(bought, pieces)
            if back <= 0:
                continue
            left = bought - back
            self._line_pieces[:, place] = left, min(left, learned)
            day = int(self._line_days[place])
            week = self.week_of(day)
            if self.week - weeks_max < week <= self.week:
                row = week % weeks_max
                self._pieces[row, slot] -= np.float32(back)
                self._learned[row, slot] -= np.float32(learned - min(left, learned))
                if left <= 0:
                    self._lines[row, slot] -= 1
            pieces -= back
            if pieces <= 0:
                return
        self.uncounted += pieces

    def away(self, slot: int, week: int, share: float) -> None:
        """Note that an item was out of stock for a share of a week, in addition to what was noted before."""
        if self.week - weeks_max < week <= self.week:
            row = week % weeks_max
            self._away[row, slot] = min(1.0, float(self._away[row, slot]) + share)

    def away_between(self, slot: int, since_day: float, until_day: float) -> None:
        """Note that an item was out of stock between two times, in days since the epoch."""
        first = max(self.week_of(int(since_day)), self.week - weeks_max + 1)
        for week in range(first, min(self.week_of(int(until_day)), self.week) + 1):
            begins = self.first_day(week)
            share = (min(until_day, begins + self.period_days) - max(since_day, begins)) / self.period_days
            if share > 0:
                self.away(slot, week, share)

    def turn(self, week: int) -> None:
        """Begin a week: what is recorded until then is of weeks before it. An earlier week changes nothing."""
        if week <= self.week:
            return
        self.apply()
        if self.week == NO_SLOT:
            self.week = self.began = week
            return
        passed = min(week - self.week, weeks_max)
        rows = (week - np.arange(passed)) % weeks_max
        for one in (self._pieces, self._learned, self._lines, self._away):
            one[rows] = 0
        fading = portable.power_of_two(-passed / _weekday_half_life)
        self._weekdays *= np.float32(fading)
        self.shop_weekdays *= fading
        self.week = week

    @property
    def known(self) -> int:
        """Complete weeks in the ring."""
        return 0 if self.week == NO_SLOT else min(self.week - self.began, weeks_max - 1)

    def before(self, slots: Slots, weeks: NDArray[np.int64], count: int) -> tuple[Floats, Floats, Floats]:
        """Return the pieces that teach forecasts, the lines, and the shares of stock-outs, of the weeks before some.

        Weeks that are not in the ring are empty. Shapes: slots, weeks (R,); results (count, R), the newest week last.
        """
        back = weeks - np.arange(count, 0, -1)[:, None]
        known = (back > self.week - weeks_max) & (back <= self.week)
        rows = back % weeks_max
        found = [
            np.where(known, np.maximum(one[rows, slots], 0), 0).astype(np.float64)
            for one in (self._learned, self._lines, self._away)
        ]
        return found[0], found[1], found[2]

    def sold(self, slots: Slots, weeks: NDArray[np.int64], count: int = 1) -> Floats:
        """Return all pieces sold in `count` weeks from each of some on. Shapes: slots, weeks, result (R,)"""
        rows = (weeks + np.arange(count)[:, None]) % weeks_max
        return np.asarray(np.add.reduce(np.maximum(self._pieces[rows, slots], 0).astype(np.float64), axis=0))

    def absent(self, slots: Slots, weeks: NDArray[np.int64], count: int = 1) -> Floats:
        """Return the largest share of `count` weeks in which items were out of stock. Shapes as of `sold`."""
        rows = (weeks + np.arange(count)[:, None]) % weeks_max
        return np.asarray(self._away[rows, slots].astype(np.float64).max(axis=0))

    def course(self, slot: int, count: int) -> list[tuple[int, float, float]]:
        """Return the newest weeks of an item, the one being filled last: week, pieces, and share of its stock-outs."""
        first = max(self.began, self.week - min(count, weeks_max) + 1)
        waiting: dict[int, float] = defaultdict(float)
        for line in self._buffer:
            if line[0] == slot:
                waiting[self.week_of(line[1])] += line[2]
        found = []
        for week in range(first, self.week + 1):
            row = week % weeks_max
            pieces = float(self._pieces[row, slot]) + waiting[week]
            found.append((week, max(0.0, pieces), float(self._away[row, slot])))
        return found

    def means(self) -> Floats:
        """Return the mean pieces a week of each item that teach forecasts, over the weeks in the ring.

        Shape (len(self),)
        """
        return np.asarray(np.add.reduce(self._learned[:, : len(self)], axis=0, dtype=np.float64) / max(1, self.known))

    def first_weeks(self, slots: Slots) -> Floats:
        """Return the week in which each item was first sold. Shape (S,)"""
        return np.asarray(self._facts[_FIRST, slots])

    def price(self, slot: int) -> float | None:
        """Return the price at which an item was last sold, None if none is known."""
        price = float(self._facts[_PRICE, slot])
        return price if price >= 0 else None

    def cap(self, slot: int) -> float:
        """Return the most pieces that a line of an item teaches."""
        return float(self._caps(np.array([slot]))[0])

    def usual(self, slots: Slots) -> Floats:
        """Return the pieces of each item's usual line. Shape (S,)"""
        return portable.exp(self._facts[_USUAL, slots] / np.maximum(self._facts[_COUNT, slots], 1.0)) - 1.0

    def weekday_shares(self, slot: int) -> Floats:
        """Return which share of an item's pieces is sold on each weekday, Monday first; the shop's where it sells
        little. Shape (7,)"""
        own = np.maximum(self._weekdays[:, slot].astype(np.float64), 0.0)
        total = float(np.add.reduce(self.shop_weekdays))
        shop = self.shop_weekdays / total if total > 0 else np.full(7, 1 / 7)
        prior = _weekday_prior * max(1.0, float(self.usual(np.array([slot]))[0]))
        return np.asarray((own + prior * shop) / (float(np.add.reduce(own)) + prior))

    def fit(self) -> NDArray[np.int32] | None:
        """Forget items if there are too many: those that have not sold for longest, and of equal ones the newest.

        Returns the new slot of each former one, `NO_SLOT` where it is forgotten; None if none was.
        """
        count = len(self._names)
        if count <= self.items_max:
            return None
        self.apply()
        kept = np.sort(np.argsort(-self._facts[_LAST, :count], kind="stable")[: max(1, int(_kept * self.items_max))])
        self.forgotten += count - len(kept)
        moved = np.full(count + 1, NO_SLOT, np.int32)  # the last is of `NO_SLOT`
        moved[kept] = np.arange(len(kept))
        self._names = [self._names[slot] for slot in kept.tolist()]
        self._slots = {name: slot for slot, name in enumerate(self._names)}
        for name in _BY_ITEM:
            one = getattr(self, name)
            one[:, : len(kept)], one[:, len(kept) :] = one[:, kept], 0
        self._line_slots = moved[self._line_slots]
        return moved[:count]

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the use and the maximum of items, remembered lines and buffered ones."""
        return {
            "items": (len(self), self.items_max),
            "lines": (self._remembered, lines_max),
            "buffered": (len(self._buffer), buffered_max),
        }

    def state(self) -> dict[str, Any]:
        """Return all of it."""
        count, used = len(self), slice(0, self._remembered)
        return {
            "names": list(self._names), "week": self.week, "began": self.began, "period_days": self.period_days,
            "forgotten": self.forgotten, "uncounted": self.uncounted, "shop_weekdays": self.shop_weekdays.copy(),
            "by_item": [getattr(self, name)[:, :count].copy() for name in _BY_ITEM],
            "remembered": [
                self._line_slots[used].copy(), self._line_buyers[used].copy(), self._line_days[used].copy(),
                self._line_pieces[:, used].copy(),
            ],
            "next_line": self._next_line,
            "buffer": [list(line) for line in self._buffer],
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any], items_max: int, period_days: int) -> Self:
        """Return what continues where `state` was taken; of more items than the maximum, `fit` forgets some.

        With another length of weeks it is empty.
        """
        found = cls(items_max, period_days)
        if state["period_days"] != period_days:
            return found
        found.week, found.began, found.forgotten = state["week"], state["began"], state["forgotten"]
        found.uncounted, found.shop_weekdays = state["uncounted"], state["shop_weekdays"].copy()
        found._names = list(state["names"])
        found._slots = {name: slot for slot, name in enumerate(found._names)}
        count, capacity = len(found._names), found._pieces.shape[1]
        while capacity < count:
            capacity *= 2
        for name, values in zip(_BY_ITEM, state["by_item"], strict=True):
            one = np.zeros((len(values), capacity), values.dtype)
            one[:, :count] = values
            setattr(found, name, one)
        slots, buyers, days, pieces = state["remembered"]
        found._remembered = len(slots)
        used = slice(0, len(slots))
        found._line_slots[used], found._line_buyers[used], found._line_days[used] = slots, buyers, days
        found._line_pieces[:, used] = pieces
        found._next_line = state["next_line"]
        found._buffer = [tuple(line) for line in state["buffer"]]
        return found


_FACTS: Final = ("usual", "count", "last", "first", "price")
_USUAL, _COUNT, _LAST, _FIRST, _PRICE = range(5)
"""Sum of the logarithms of 1 + pieces of lines, and their count; the weeks of the last and first sale; the last
price."""
_NOTHING: Final = np.array([0.0, 0.0, -1.0, 2.0**31, -1.0])
_BY_ITEM: Final = ("_pieces", "_learned", "_lines", "_away", "_facts", "_weekdays")
"""The tables with a column for each item."""
_weekday_half_life: Final = 26.0
"""Weeks after which what a weekday sold counts half."""
_weekday_prior: Final = 20.0
"""Usual lines of the shop's weekdays that each item is given."""


def number_of(buyer: str) -> int:
    """Return the number under which a buyer's lines are remembered.

    >>> number_of("anna")
    559726263
    """
    return crc32(buyer.encode())
