"""At most k items per brand and per category, and never fewer items than these limits admit."""

from collections import Counter, defaultdict, deque
from typing import Final, NamedTuple

from headrace.rules import AtMost

NO_LIMIT: Final = 1 << 30


class Line(NamedTuple):
    """A candidate: its place among all, its item and score, and its brand and category, "" where they are unknown."""

    rank: int
    item: str
    score: float
    brand: str = ""
    category: str = ""


class Limited:
    """Lines of which at most k are of one brand, and of one category. An unknown brand or category has no limit.

    Lines are taken greedily, in the order of their ranks. That can end with fewer lines than the limits admit: one that
    was taken may stand in the way of two. `fill` then exchanges lines along shortest augmenting paths, in the graph
    whose nodes are brands and categories and whose edges are lines, until no further line fits.

    >>> limited = Limited(AtMost(brand=1, category=1), lines_max=2)
    >>> for line in (Line(0, "a", 0.9, "x", "p"), Line(1, "b", 0.8, "x", "q"), Line(2, "c", 0.7, "y", "p")):
    ...     limited.take(line)
    True
    False
    False
    >>> limited.fill(2)
    >>> [line.item for line in limited.lines]
    ['b', 'c']

    Source: Ford and Fulkerson, "Flows in Networks", 1962 (augmenting paths of a bipartite matching with capacities).
    """

    def __init__(self, limits: AtMost, *, lines_max: int) -> None:
        self._brand_max, self._category_max = limits.brand or NO_LIMIT, limits.category or NO_LIMIT
        self._limits, self._exchanges = bool(limits.brand or limits.category), bool(limits.brand and limits.category)
        self._lines_max = lines_max
        self._brands, self._categories = Counter[str](), Counter[str]()
        self._waiting: defaultdict[str, defaultdict[str, list[Line]]] = defaultdict(lambda: defaultdict(list))
        self.lines: list[Line] = []

    def fix(self, line: Line) -> bool:
        """Take a line that `fill` must not exchange, if it fits; return whether it does. It is not in `lines`."""
        if not self._fits(line):
            return False
        self._count(line, 1)
        return True

    def take(self, line: Line) -> bool:
        """Take a line, if it fits; return whether it does. Ranks must not fall."""
        if not self._limits:
            self.lines.append(line)
            return True
        if self._fits(line):
            self._count(line, 1)
            self.lines.append(line)
            return True
        if self._exchanges:
            alike = self._waiting[line.brand][line.category]
            if len(alike) < self._lines_max:
                alike.append(line)
        return False

    def fill(self, count: int) -> None:
        """Exchange lines until there are `count`, or no more can be; lines are in the order of their ranks then."""
        while len(self.lines) < count and self._waiting and self._augment():
            pass
        self.lines.sort()

    def _fits(self, line: Line) -> bool:
        return self._brand_free(line.brand) and self._category_free(line.category)

    def _brand_free(self, brand: str) -> bool:
        return not brand or self._brands[brand] < self._brand_max

    def _category_free(self, category: str) -> bool:
        return not category or self._categories[category] < self._category_max

    def _count(self, line: Line, change: int) -> None:
        self._brands[line.brand] += change
        self._categories[line.category] += change

    def _augment(self) -> bool:
        """Exchange lines so that one more is taken; return whether that is possible."""
        taken: defaultdict[str, list[Line]] = defaultdict(list)
        for line in self.lines:
            taken[line.category].append(line)
        queue = deque(brand for brand in self._waiting if self._brand_free(brand))
        leaves: dict[str, Line | None] = dict.fromkeys(queue)  # by brand: the line that must be given up for it
        enters: dict[str, Line] = {}  # by category: the line that would be taken
        while queue:
            for category, waiting in self._waiting[queue.popleft()].items():
                if category in enters or not waiting:
                    continue
                enters[category] = waiting[0]
                if self._category_free(category):
                    self._exchange(category, enters, leaves)
                    return True
                for line in taken[category]:
                    if line.brand not in leaves:
                        leaves[line.brand] = line
                        if line.brand in self._waiting:
                            queue.append(line.brand)
        return False

    def _exchange(self, category: str, enters: dict[str, Line], leaves: dict[str, Line | None]) -> None:
        step: Line | None = enters[category]
        while step is not None:
            self._waiting[step.brand][step.category].remove(step)
            self._count(step, 1)
            self.lines.append(step)
            gone = leaves[step.brand]
            if gone is None:
                return
            self.lines.remove(gone)
            self._count(gone, -1)
            self._waiting[gone.brand][gone.category].append(gone)
            step = enters[gone.category]
