"""What is on hand of each item, what it sold on the running day, and the rates that days taught.

Bounded: the items of which nothing was sold or stated for longest are forgotten, a tenth at once.
"""

from collections.abc import Callable
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from headrace.state import State
from headrace.topics import DAY_MS
from learners.parts.portable import power_of_two
from learners.stock.rates import Rates

Floats = NDArray[np.float64]
Slots = NDArray[np.int64]

unusual: Final = 8.0
"""A line teaches at most this multiple of the item's mean line, so that one order does not last for weeks."""
unusual_min: Final = 24.0
"""Pieces up to which no line is unusual."""
_kept: Final = 0.9
_IN: Final = -1
"""In `out_ms`, of an item that is in stock."""
_least_piece: Final = 1e-6
"""A level below this is 0: of what is sold by the metre, differences of fractions leave such remains."""
_monthly: Final = power_of_two(-1 / 20)
"""What is left of a sale after a day in the mean of about 28 days that the usual rule knows."""


class Levels:
    """Items in slots, with what is known of their stock.

    Attributes:
        day: the running day, in days since the epoch; -1 before the first event.
        judged_day: the day of which risks are noted.
        late: events in a row of a time long before the running day.
        rates: what is learned of demand.
        level: pieces on hand, NaN where none was stated.
        stated_ms: when the level was stated, the shop's time.
        sold_since: pieces sold since.
        out_ms: since when an item is out of stock, -1 if it is not.
        warned, warned_simple: whether it was told at the day's begin that the item will be sold out.
        dead: whether the stock lasts too long.
        per_day: what is expected to sell on a day of the next two weeks, NaN before that is known.
        money: at the begin of the day, what the median item costs, and the mean value at cost of a line; NaN before.
        watch: is told each item whose stock has changed.
        counts: items that sold out, those that were foreseen by us and by the usual rule, and how many were told.

    Shapes: arrays: (I,), counts: (5,), money: (2,)
    """

    def __init__(self, items_max: int) -> None:
        self.items_max = items_max
        self.day = self.judged_day = -1
        self.late = 0
        self._slots: dict[str, int] = {}
        self.names: list[str] = []
        capacity = min(items_max, 1_024)
        self.rates = Rates(capacity)
        for name, dtype, value in _COLUMNS:
            setattr(self, name, np.full(capacity, value, dtype))
        self.counts = np.zeros(5, np.int64)
        self.money = np.full(2, np.nan)
        self.watch: Callable[[str], None] | None = None

    level: Floats
    stated_ms: NDArray[np.int64]
    sold_since: Floats
    out_ms: NDArray[np.int64]
    touched: NDArray[np.int64]
    warned: NDArray[np.bool_]
    warned_simple: NDArray[np.bool_]
    dead: NDArray[np.bool_]
    per_day: Floats
    on_sale: NDArray[np.bool_]
    away: Floats
    pieces: Floats
    lines: Floats
    monthly: Floats

    def __len__(self) -> int:
        return len(self.names)

    def slot(self, item: str) -> int | None:
        """Return the slot of an item, None if nothing is known of it."""
        return self._slots.get(item)

    def in_use(self) -> slice:
        """Return the slots that have items."""
        return slice(0, len(self.names))

    def known(self) -> Slots:
        """Return the slots of items with a level."""
        return np.flatnonzero(~np.isnan(self.level[: len(self.names)]))

    def on_hand(self, item: str) -> float | None:
        """Return how many pieces are on hand, None if no level was stated."""
        slot = self._slots.get(item)
        level = None if slot is None else float(self.level[slot])
        return None if level is None or np.isnan(level) else level

    def out_since(self, item: str) -> int | None:
        """Return since when an item is out of stock, in milliseconds; None if it is not known to be."""
        slot = self._slots.get(item)
        since_ms = _IN if slot is None else int(self.out_ms[slot])
        return None if since_ms == _IN else since_ms

    def _enter(self, item: str) -> int:
        slot = self._slots.get(item)
        if slot is None:
            if len(self.names) >= self.items_max:
                self._forget()
            slot = self._slots[item] = len(self.names)
            self.names.append(item)
            if slot == len(self.level):
                self._resize(min(2 * slot, self.items_max))
            self._clear(slot)
        self.touched[slot] = self.day
        return slot

    def _resize(self, capacity: int) -> None:
        self.rates.grow(capacity)
        for name, dtype, value in _COLUMNS:
            more = np.full(capacity - len(getattr(self, name)), value, dtype)
            setattr(self, name, np.concatenate([getattr(self, name), more]))

    def _clear(self, slot: int) -> None:
        for name, _, value in _COLUMNS:
            getattr(self, name)[slot] = value
        self.rates.forget(slot)

    def _forget(self) -> None:
        """Forget the items that were touched longest ago; of equal ones the newest."""
        count = len(self.names)
        self._keep(np.sort(np.argsort(-self.touched[:count], kind="stable")[: max(1, int(_kept * self.items_max))]))

    def _keep(self, kept: Slots) -> None:
        self.names = [self.names[slot] for slot in kept.tolist()]
        self._slots = {name: slot for slot, name in enumerate(self.names)}
        for name, _, value in _COLUMNS:
            column = getattr(self, name)
            column[: len(kept)], column[len(kept) :] = column[kept], value
        self.rates.keep(kept)

    def begin(self, day: int) -> None:
        """Begin a day without the days before it: the first event, or a time long before or after."""
        self.day, self.judged_day, self.late = day, min(self.judged_day, day - 1), 0
        used = self.in_use()
        for column in (self.pieces, self.lines, self.away):
            column[used] = 0.0
        self.on_sale[used] = False

    def end_day(self) -> None:
        """Learn the running day, and begin the next one."""
        end_ms = (self.day + 1) * DAY_MS
        since = np.maximum(self.out_ms, self.day * DAY_MS)
        away = np.where(self.out_ms >= 0, self.away + (end_ms - since) / DAY_MS, self.away)
        # What sells although it is said to be out all day is there: the shop sells more than it has, or states late.
        away[(self.lines > 0) & (self.out_ms >= 0) & (self.out_ms <= self.day * DAY_MS)] = 0.0
        self.rates.day(self.pieces, self.lines, np.clip(away, 0.0, 1.0), self.on_sale)
        self.monthly = self.monthly * _monthly + self.pieces * (1 - _monthly)
        for column in (self.pieces, self.lines, self.away):
            column[:] = 0.0
        self.on_sale[:] = False
        self.day += 1

    def sell(self, item: str, pieces: float, time_ms: int, *, on_sale: bool) -> None:
        """Note a line that was sold."""
        slot = self._enter(item)
        self.pieces[slot] += min(pieces, self._cap(slot))
        self.lines[slot] += 1.0
        if on_sale:
            self.on_sale[slot] = True
        self.sold_since[slot] += pieces
        if self.stated_ms[slot] < self.out_ms[slot] < self.day * DAY_MS:
            # What was sold out by the count of sales sells on a later day: more had come than the shop has stated.
            self._in(slot, self.day * DAY_MS)
        if self.level[slot] > 0:
            left = float(self.level[slot]) - pieces
            self.level[slot] = 0.0 if left < _least_piece else left
            if self.level[slot] == 0 and self.out_ms[slot] < 0:
                self._out(slot, time_ms)
            self._tell(item)

    def _cap(self, slot: int) -> float:
        """Return the most pieces that a line of an item teaches."""
        usual = (self.rates.lines[1, slot] + unusual_min / unusual) / (self.rates.lines[0, slot] + 1.0)
        return max(unusual_min, unusual * float(usual))

    def _tell(self, item: str) -> None:
        if self.watch:
            self.watch(item)

    def lasts(self, item: str) -> float | None:
        """Return for how many days the stock of an item is expected to last, None if that is not known."""
        slot = self._slots.get(item)
        if slot is None:
            return None
        lasts = float(self.level[slot] / self.per_day[slot])
        return None if np.isnan(lasts) else lasts

    def _out(self, slot: int, time_ms: int) -> None:
        """Note that an item whose level was known is sold out from now on."""
        self.out_ms[slot] = time_ms
        self.counts[:3] += (1, int(self.warned[slot]), int(self.warned_simple[slot]))

    def give_back(self, item: str, pieces: float) -> None:
        """Note that pieces were returned: they were no demand."""
        slot = self._slots.get(item)
        if slot is not None:
            pieces = min(pieces, self._cap(slot))  # a large order taught no more, so no more is taken back
            back = min(pieces, float(self.pieces[slot]))
            self.pieces[slot] -= back
            self.rates.take_back(slot, pieces - back)

    def state_level(self, item: str, level: float | None, time_ms: int, *, available: bool) -> None:
        """Note what the shop states. An item that nobody bought and whose level is not stated is not followed."""
        slot = self._slots.get(item)
        if level is None and slot is None:
            return
        slot = self._enter(item)
        out = not available  # what can be ordered before it comes sells at a level of 0, too
        if out and self.out_ms[slot] < 0:
            if self.level[slot] > 0:
                self._out(slot, time_ms)
            self.out_ms[slot] = time_ms
        elif not out and self.out_ms[slot] >= 0:
            self._in(slot, time_ms)
        self.level[slot] = np.nan if level is None else level
        self.stated_ms[slot], self.sold_since[slot] = time_ms, 0.0
        self._tell(item)

    def _in(self, slot: int, time_ms: int) -> None:
        since = max(int(self.out_ms[slot]), self.day * DAY_MS)
        self.away[slot] = min(1.0, float(self.away[slot]) + max(0, time_ms - since) / DAY_MS)
        self.out_ms[slot] = _IN

    def retire(self, item: str) -> None:
        """Note that an item is no longer sold: its level is of no interest."""
        slot = self._slots.get(item)
        if slot is not None:
            self.level[slot], self.out_ms[slot] = np.nan, _IN
            self.warned[slot] = self.warned_simple[slot] = self.dead[slot] = False
            self._tell(item)

    def warn(self, slots: Slots, told: NDArray[np.bool_], simple: NDArray[np.bool_]) -> None:
        """Note which of some items are told to be sold out before an order arrives; of the others none is."""
        for count, column, now in ((3, self.warned, told), (4, self.warned_simple, simple)):
            before = column[slots]
            self.counts[count] += np.count_nonzero(now & ~before)
            column[:] = False
            column[slots] = now

    def state(self) -> State:
        """Return all of it."""
        count = len(self.names)
        return {
            "day": self.day, "judged_day": self.judged_day, "late": self.late, "names": list(self.names),
            "counts": self.counts.copy(), "money": self.money.copy(), "rates": self.rates.state(count),
            **{name: getattr(self, name)[:count].copy() for name, _, _ in _COLUMNS},
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: State, items_max: int) -> Self:
        """Return what continues where `state` was taken; of more items than the maximum, the newest."""
        found = cls(max(items_max, len(state["names"])))
        found.day, found.judged_day, found.late = state["day"], state["judged_day"], state["late"]
        found.counts, found.money = state["counts"].copy(), state["money"].copy()
        found.names = list(state["names"])
        found._slots = {name: slot for slot, name in enumerate(found.names)}
        count, capacity = len(found.names), len(found.level)
        for name, dtype, value in _COLUMNS:
            column = np.full(max(capacity, count), value, dtype)
            column[:count] = state[name]
            setattr(found, name, column)
        found.rates = Rates.from_state(state["rates"])
        if capacity > count:
            found.rates.grow(max(capacity, count))
        found.items_max = items_max
        if count > items_max:
            found._forget()
        return found


_COLUMNS: Final = (
    ("level", np.float64, np.nan), ("stated_ms", np.int64, 0), ("sold_since", np.float64, 0.0),
    ("out_ms", np.int64, _IN), ("touched", np.int64, 0), ("warned", np.bool_, False),
    ("warned_simple", np.bool_, False), ("dead", np.bool_, False), ("on_sale", np.bool_, False),
    ("per_day", np.float64, np.nan),
    ("away", np.float64, 0.0), ("pieces", np.float64, 0.0), ("lines", np.float64, 0.0), ("monthly", np.float64, 0.0),
)  # fmt: skip
