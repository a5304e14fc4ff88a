"""The items that are viewed, watched for a shift: all, single ones, those within a category, and new ones."""

from collections import deque
from collections.abc import Iterable, Sequence
from heapq import nlargest
from math import log, sqrt
from sys import intern
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.drift import Moved
from headrace.state import State
from learners.parts import portable
from learners.parts.drift import Alarm
from learners.parts.features import (
    Shares,
    chance_deviations,
    deviations_of,
    divergence_of_chance,
    most_moved,
    named_max,
)
from learners.parts.monitor import half_life_ms
from learners.parts.shift import LongSums, Sums, Watch, long_blocks, window_blocks

settled_ms: Final = 4 * 86_400_000
"""Least time from an item's first view to the end of the reference, which knows its usual share then."""
peak_min: Final = 5.0
mix_min: Final = 5.0
new_min: Final = 4.5
"""Least thresholds of the deviations of a single item, of a category's items, and of the number of new items."""
mix_views_min: Final = 30
"""Least number of views of a category in the window whose items are compared."""
names_max: Final = 4_096
"""Items of the reference."""
_unit: Final = 2.0**-30
"""Sums over items are of multiples of this, so that they are exact in any order."""


_Seen = tuple[float, list[Moved]]
"""A distance, and what moved."""


class WatchedItem:
    """An item of the catalogue: its id, the category of its newest view, when it was first viewed, its usual price.

    `usual` is the price's logarithm; None without a price.
    """

    __slots__ = ("category", "first_ms", "id", "usual")

    def __init__(self, id_: str, category: str, first_ms: int, usual: float | None = None) -> None:
        self.id, self.category, self.first_ms, self.usual = id_, intern(category), first_ms, usual


class WatchedItems(Shares):
    """The shares of viewed items, with four detectors.

    - `item`: all items, as `Shares`.
    - `item_peak`: the greatest rise of a single item's share, in standard deviations of chance.
    - `category_items`: how much the items of one category have changed their shares within it: the sum of the squares
      of their deviations, in standard deviations from what chance leads to expect. The greatest of all categories
      counts. The alarm names the category, with its share of all views, and the two items that moved most.
    - `new_items`: the rise of the share of views that are the first of their item, in standard deviations of chance.
      The alarm names the newest items.

    Only settled items take part in the second and third: the share of an item that has just come rises. Of the first
    week new items are not counted, because then all are new.

    Attributes:
        items: by slot of the catalogue.
    """

    def __init__(self) -> None:
        super().__init__("item", names_max=names_max)
        self._single = Watch("item_peak", least=peak_min)
        self._mix = Watch("category_items", least=mix_min)
        self._new = Watch("new_items", least=new_min)
        self.watches = (self._distance, self._single, self._mix, self._new)
        self.items: dict[int, WatchedItem] = {}
        self._by_id: dict[str, WatchedItem] = {}
        self._firsts = Sums(2)
        self._newest: deque[str] = deque(maxlen=named_max)
        self._since_ms = 0  # when the reference began; 0 with the shop's first block
        self._ended_ms: deque[int] = deque(maxlen=long_blocks + 1)  # when the newest blocks ended
        self._long_sums = LongSums(names_max)

    def viewed(self, slot: int, id_: str, category: str, time_ms: int) -> WatchedItem:
        """Note the view of an item of the catalogue; return the item."""
        item = self.items.get(slot)
        if item is None:
            item = self.items[slot] = self._by_id[id_] = WatchedItem(id_, category, time_ms)
        elif category and category != item.category:
            item.category = intern(category)
        return item

    def add_views(self, ids: Sequence[str], shoppers: Sequence[str], fresh: Sequence[str]) -> None:
        """Count views as `add` does; `fresh` are the items that nobody viewed before, in order."""
        self.add(ids, shoppers)
        block = self._firsts.block
        block["new"] = block.get("new", 0) + len(fresh)
        block["known"] = block.get("known", 0) + len(ids) - len(fresh)
        self._newest.extend(fresh)

    def forget(self, slots: Iterable[int]) -> None:
        """Delete what is stored for these slots, which will be reused for other items."""
        for slot in slots:
            if (item := self.items.pop(slot, None)) is not None:
                del self._by_id[item.id]

    def end(self, fading: float, *, ready: bool, usual: bool, time_ms: int) -> list[Alarm]:
        """See `Feature.end`."""
        sums = self._sums
        self._counted.clear()
        if not self._since_ms:
            self._since_ms = time_ms
        self._ended_ms.append(time_ms)
        long = self._long_sums.take(sums.block, fading, usual=usual)
        sums.end(fading, usual=usual)
        found = self._end_firsts(fading, ready=ready, usual=usual)
        if not sums.full or not sums.size:
            return found
        chance = divergence_of_chance * (sqrt(max(1, len(sums.window) - 1) - 0.5) + chance_deviations)
        unit = sqrt(1 / sums.size + 1 / sums.reference_size)
        told: list[tuple[Watch, Sequence[Moved]]] = []
        if self._distance.observe(self._jensen_shannon(), unit, fading, ready=ready, usual=usual, chance=chance):
            told.append((self._distance, most_moved(sums, *deviations_of(sums))))
        looked = [self._look(sums, self._ended_ms[max(0, len(self._ended_ms) - window_blocks - 1)])]
        if long:
            looked.append(self._look(self._long_sums, self._ended_ms[0]))
        for watch, seen in zip((self._single, self._mix), zip(*looked, strict=True), strict=True):
            score, moved = max(seen, key=_score)
            if watch.observe(score, 1.0, fading, ready=ready, usual=usual):
                told.append((watch, moved))
        if told and usual:
            sums.begin_anew()
            self._long_sums.begin_anew()
            self._since_ms = time_ms
            self._ended_ms.clear()
        return [*found, *(Alarm(watch.name, watch.score, watch.threshold, tuple(moved)) for watch, moved in told)]

    def _end_firsts(self, fading: float, *, ready: bool, usual: bool) -> list[Alarm]:
        firsts = self._firsts
        if not ready:  # a shop's items are all new at first
            firsts.block = {}
            return []
        firsts.end(fading, usual=usual)
        if not firsts.full or not firsts.size:
            return []
        share = firsts.reference_share("new")
        scale = 2 / sqrt(1 + firsts.size / firsts.reference_size)
        rise = scale * (sqrt(firsts.window.get("new", 0) + 0.375) - sqrt(firsts.size * share + 0.375))
        if not self._new.observe(max(0.0, rise), 1.0, fading, ready=ready, usual=usual):
            return []
        if usual:
            firsts.begin_anew()
        moved = tuple(Moved(name, 0.0, self._sums.window.get(name, 0) / self._sums.size, "%") for name in self._newest)
        return [Alarm(self._new.name, self._new.score, self._new.threshold, moved)]

    def _look(self, sums: Sums, end_ms: int) -> tuple[_Seen, _Seen]:
        """Return the rise of single items and the change within a category; the reference ends at a time."""
        settled = self._settled(sums, end_ms)
        return _risen(sums, settled), _mixed(sums, settled)

    def _settled(self, sums: Sums, end_ms: int) -> "_Settled":
        """Return the settled items of window and reference, which ends at a time."""
        known, since_ms = self._by_id.get, self._since_ms
        until_ms = max(since_ms, end_ms - settled_ms)
        names, homes, codes, ages = list[str](), list[int](), dict[str, int](), list[int]()
        window = sums.window
        for name in (*window, *(name for name in sums.reference_names() if name not in window)):
            item = known(name)
            if item is not None and item.first_ms <= until_ms:
                names.append(name)
                homes.append(codes.setdefault(item.category, len(codes)))
                ages.append(end_ms - max(item.first_ms, since_ms))
        # An item that came while the reference was made has its share in the part of it since then.
        weights = 1 - portable.exp(np.maximum(1, [end_ms - since_ms, *ages]) * (-log(2) / half_life_ms))
        return _Settled(
            names, np.array(homes, np.int64), list(codes),
            np.array([window.get(name, 0) for name in names], np.float64),
            sums.reference_shares(names) * weights[0] / weights[1:],
        )  # fmt: skip

    def forget_window(self) -> None:
        """See `Feature.forget_window`."""
        super().forget_window()
        self._firsts.forget_window()
        self._long_sums.forget_window()
        self._newest.clear()
        self._ended_ms.clear()

    def state(self) -> State:
        """See `Feature.state`."""
        items = self.items.values()
        return {
            **super().state(), "firsts": self._firsts.state(), "long_sums": self._long_sums.state(),
            "newest": list(self._newest), "since_ms": self._since_ms, "ended_ms": list(self._ended_ms),
            "slots": np.array(list(self.items), np.int32), "ids": [item.id for item in items],
            "categories": [item.category for item in items],
            "first_ms": np.array([item.first_ms for item in items], np.int64),
            "priced": np.array([slot for slot, item in self.items.items() if item.usual is not None], np.int32),
            "usual": np.array([item.usual for item in items if item.usual is not None]),
        }  # fmt: skip

    def restore(self, state: State) -> None:
        """See `Feature.restore`."""
        super().restore(state)
        self._firsts.restore(state["firsts"])
        self._long_sums.restore(state["long_sums"])
        self._newest = deque(state["newest"], named_max)
        self._since_ms = state["since_ms"]
        self._ended_ms = deque(state["ended_ms"], long_blocks + 1)
        usual = dict(zip(state["priced"].tolist(), state["usual"].tolist(), strict=True))
        found = zip(state["slots"].tolist(), state["ids"], state["categories"], state["first_ms"].tolist(), strict=True)
        self.items = {
            slot: WatchedItem(id_, category, first_ms, usual.get(slot)) for slot, id_, category, first_ms in found
        }
        self._by_id = {item.id: item for item in self.items.values()}


class _Settled(NamedTuple):
    """Items; the number of each one's category; its views in the window; its share in the reference."""

    names: list[str]
    homes: NDArray[np.int64]
    categories: list[str]
    views: NDArray[np.float64]
    shares: NDArray[np.float64]


def _score(seen: _Seen) -> float:
    return seen[0]


def _risen(sums: Sums, settled: _Settled) -> _Seen:
    """Return by how many standard deviations an item's share has risen at most, and the items that have risen most."""
    scale = 2 / sqrt(1 + sums.size / sums.reference_size)
    rises = scale * (np.sqrt(settled.views + 0.375) - np.sqrt(settled.shares * sums.size + 0.375))
    most = nlargest(named_max, zip(rises.tolist(), settled.names, strict=True))
    return (most[0][0], [_moved(sums, name) for _, name in most]) if most else (0.0, [])


def _mixed(sums: Sums, settled: _Settled) -> _Seen:
    """Return how far the items of the category that has changed most have done so, and these."""
    homes, number = settled.homes, len(settled.categories)
    if not number:
        return 0.0, []
    views = np.bincount(homes, settled.views, number)
    shares = np.bincount(homes, np.rint(settled.shares / _unit), number) * _unit
    enough = (views >= mix_views_min) & (shares > 0)
    expected = settled.shares * np.where(enough, views / np.where(enough, shares, 1.0), 0.0)[homes]
    scale = np.where(enough, 2 / np.sqrt(1 + views / np.where(enough, shares * sums.reference_size, 1.0)), 0.0)
    found = scale[homes] * (np.sqrt(settled.views + 0.375) - np.sqrt(expected + 0.375))
    squares = np.bincount(homes, np.rint(found * found / _unit), number) * _unit
    # What a Poisson count of each mean is expected to add, nearly.
    by_chance = np.bincount(homes, np.rint((1 - portable.exp(-1.2 * expected)) / _unit), number) * _unit
    distances = np.where(enough, (squares - by_chance) / np.sqrt(2 * np.maximum(by_chance, 1.0)), 0.0)
    home = min(range(number), key=lambda one: (-distances[one], settled.categories[one]))
    sizes = np.abs(found).tolist()
    places = [place for place, of in enumerate(homes.tolist()) if of == home]
    most = nlargest(named_max - 1, ((sizes[place], settled.names[place]) for place in places))
    category = Moved(settled.categories[home], float(shares[home]), float(views[home]) / sums.size, "%")
    return float(distances[home]), [category, *(_moved(sums, name) for _, name in most)]


def _moved(sums: Sums, name: str) -> Moved:
    return Moved(name, sums.reference_share(name), sums.window.get(name, 0) / sums.size, "%")
