"""Purchase propensity: how likely a view is to end in a purchase of the viewed item. River, on hashed features.

Labels are learned in the order of the views, all of them an attribution window late. To learn a purchase at once, but
what is not bought only when its window ends, would show the model buyers by day and the others by night: its
probabilities were then wrong by 0.07 where 0.04 of the views sell, and its loss swung with the hours.
"""

from collections import OrderedDict, deque
from functools import lru_cache
from math import copysign, log
from typing import Any, ClassVar, Final, Self
from zlib import crc32

from msgspec import Struct

from headrace.events import Event, Item
from headrace.state import State
from learners.regression import Regression

attribution_ms: Final = 6 * 3_600_000
"""A purchase counts for the views of its item by the same shopper in the 6 hours of event time before it."""
open_max: Final = 50_000
"""Views that may wait for their label; the oldest is taken for unsold when there are more."""
shoppers_max: Final = 50_000
categories_max: Final = 10_000
items_max: Final = 100_000
"""Items and categories whose usual price is kept."""
prices_counted_min: Final = 5
prices_counted_max: Final = 200
"""A usual price is an average over about the newest so many, so that it follows prices that drift."""
views_counted_max: Final = 8
carts_counted_max: Final = 3
purchases_counted_max: Final = 5
"""What a shopper did in this visit, and bought ever, is counted up to here: more makes no other word."""
buckets: Final = 1 << 18
"""Hash buckets of the features; bounds the model."""
_DEAR: Final = crc32(b"dearer than its category") % buckets
_RAISED: Final = crc32(b"dearer than it was") % buckets
labelled_max: Final = 100_000
"""Labels kept until they are taken."""


class _Shopper(Struct, gc=False):
    """What this learner keeps of one shopper: counts of the visit, purchases ever, and when the last event was."""

    views: int
    carts: int
    purchases: int
    time_ms: int


_UNKNOWN: Final = _Shopper(0, 0, 0, 0)


class _View(Struct, gc=False):
    """A view that waits for its label: the probability given then, its features, and whether it was bought so far."""

    key: tuple[str, str]
    time_ms: int
    probability: float
    features: dict[int, float]
    bought: bool


class _Usual(Struct, gc=False):
    """A fading mean of log prices, and over how many it is."""

    mean: float
    count: int


class _UsualPrices:
    """Usual prices by name; of names beyond the maximum, those priced longest ago are forgotten."""

    def __init__(self, names_max: int) -> None:
        self.names_max = names_max
        # Least recently priced first. Ordered, for a plain dict looks for its first key past all that left before it.
        self.means: OrderedDict[str, _Usual] = OrderedDict()

    def learn(self, name: str, level: float) -> float:
        """Learn a log price; return how far it lay above the usual one, 0 while that was not known."""
        means = self.means
        usual = means.get(name)
        if usual is None:
            means[name] = _Usual(level, 1)
            if len(means) > self.names_max:
                means.popitem(last=False)
            return 0.0
        means.move_to_end(name)
        count, above = usual.count, level - usual.mean
        known = count >= prices_counted_min
        if count < prices_counted_max:
            usual.count = count = count + 1
        usual.mean += above / count
        return (above if -2.0 < above < 2.0 else copysign(2.0, above)) if known else 0.0

    def above(self, name: str, level: float) -> float:
        """Return what `learn` would."""
        usual = self.means.get(name)
        if usual is None or usual.count < prices_counted_min:
            return 0.0
        above = level - usual.mean
        return above if -2.0 < above < 2.0 else copysign(2.0, above)

    def state(self) -> list[Any]:
        return [[name, usual.mean, usual.count] for name, usual in self.means.items()]

    def restore(self, state: list[Any]) -> None:
        self.means = OrderedDict((name, _Usual(mean, count)) for name, mean, count in state)


def _bucket(word: str) -> int:
    return crc32(word.encode()) % buckets


# Words are hashed once: those of an item by threes, for most come again and again, those of a visit beforehand.
@lru_cache(maxsize=1 << 16)
def _item_buckets(item_id: str, category: str, brand: str) -> tuple[int, int, int]:
    return _bucket(f"i{item_id}"), _bucket(f"c{category}"), _bucket(f"b{brand}")


_SEEN: Final = [
    [_bucket(f"v{views}|{carts}") for carts in range(carts_counted_max + 1)] for views in range(views_counted_max + 1)
]
_BOUGHT: Final = [_bucket(f"n{purchases}") for purchases in range(purchases_counted_max + 1)]
_DAY_PARTS: Final = [_bucket(f"h{part}") for part in range(6)]


def _features(item: Item, shopper: _Shopper, now: int, dear: float, raised: float) -> dict[int, float]:
    a, b, c = _item_buckets(item.item_id, item.item_category, item.item_brand)
    return {
        a: 1.0,
        b: 1.0,
        c: 1.0,
        _SEEN[shopper.views][shopper.carts]: 1.0,
        _BOUGHT[shopper.purchases]: 1.0,
        _DAY_PARTS[now // (4 * 3_600_000) % 6]: 1.0,
        _DEAR: dear,
        _RAISED: raised,
    }


class Propensity:
    """Logistic regression that learns from each view once its label is known, in event time.

    A view opens with the probability given then; a purchase of the item within the attribution window marks it, and
    when the window ends it is learned. Scores are therefore prequential. Kept per shopper, but for usual prices and
    weights, which average over shards.

    `labelled` holds, until somebody takes them, the views whose outcome is known: the probability that was given at the
    view, and whether the item was bought.

    Prices must be finite and bounded (`headrace.events` refuses others): one infinity would spoil the weights for ever.
    """

    name: ClassVar[str] = "propensity"

    def __init__(self, *, learning_rate: float = 0.01) -> None:
        self._rate = learning_rate
        # Before it has learned it takes one view in twenty for sold, not every second one.
        self._model = Regression(rate=learning_rate, intercept=log(0.05 / 0.95))
        self._open: dict[tuple[str, str], _View] = {}
        self._waiting: deque[_View] = deque()  # the same views, oldest first
        self._shoppers: OrderedDict[str, _Shopper] = OrderedDict()  # least recently seen first
        self._of_category = _UsualPrices(categories_max)
        self._of_item = _UsualPrices(items_max)
        self.labelled: deque[tuple[float, bool]] = deque(maxlen=labelled_max)

    def predict(self, event: Event) -> float | None:
        """Return the probability that a view ends in a purchase, or None for what is not a view."""
        if event.type != "view_item":
            return None
        return self._model.probability(self.features(event))

    def learn(self, event: Event) -> None:
        """Open a view, or settle the views that this event decides."""
        kind, now, waiting = event.type, event.time_ms, self._waiting
        expired_ms = now - attribution_ms
        while waiting and (waiting[0].time_ms < expired_ms or len(waiting) >= open_max):
            oldest = waiting.popleft()
            del self._open[oldest.key]
            self._model.learn(oldest.features, oldest.bought)
            self.labelled.append((oldest.probability, oldest.bought))
        if kind == "view_item":
            self._view(event.shopper, event.data.items[0], now)
        elif kind == "add_to_cart":
            shopper = self._visiting(event.shopper, now)
            shopper.carts = min(shopper.carts + 1, carts_counted_max)
        elif kind == "purchase":
            for item in event.data.items:
                view = self._open.get((event.shopper, item.item_id))
                if view and expired_ms <= view.time_ms <= now:  # events may be late
                    view.bought = True
            shopper = self._visiting(event.shopper, now)
            shopper.purchases = min(shopper.purchases + 1, purchases_counted_max)

    def _view(self, name: str, item: Item, now: int) -> None:
        shopper, dear, raised = self._visiting(name, now), 0.0, 0.0
        if item.price:
            level = log(item.price)
            dear = self._of_category.learn(item.item_category, level)
            raised = self._of_item.learn(item.item_id, level)
        key = (name, item.item_id)
        if key not in self._open:
            features = _features(item, shopper, now, dear, raised)
            view = _View(key, now, self._model.probability(features), features, False)
            self._open[key] = view
            self._waiting.append(view)
        if shopper.views < views_counted_max:
            shopper.views += 1

    def _visiting(self, name: str, now: int) -> _Shopper:
        """Return the counts of a shopper who is here now, those of the visit from 0 where a new one begins."""
        shopper = self._shoppers.get(name)
        if shopper is None:
            shopper = self._shoppers[name] = _Shopper(0, 0, 0, now)
            if len(self._shoppers) > shoppers_max:
                self._shoppers.popitem(last=False)
            return shopper
        self._shoppers.move_to_end(name)
        if now - shopper.time_ms > attribution_ms:
            shopper.views = shopper.carts = 0
        shopper.time_ms = max(shopper.time_ms, now)
        return shopper

    def features(self, event: Event) -> dict[int, float]:
        """Return the hashed features of a view: words that are 1 in their buckets, and two amounts."""
        item, dear, raised = event.data.items[0], 0.0, 0.0
        if item.price:
            level = log(item.price)
            dear = self._of_category.above(item.item_category, level)
            raised = self._of_item.above(item.item_id, level)
        shopper = self._shoppers.get(event.shopper, _UNKNOWN)
        if event.time_ms - shopper.time_ms > attribution_ms:
            shopper = _Shopper(0, 0, shopper.purchases, event.time_ms)
        return _features(item, shopper, event.time_ms, dear, raised)

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return open views, shoppers, categories and weights in use, and the maxima."""
        return {
            "open_views": (len(self._open), open_max),
            "shoppers": (len(self._shoppers), shoppers_max),
            "categories": (len(self._of_category.means), categories_max),
            "items": (len(self._of_item.means), items_max),
            "weights": (len(self._model), buckets),
        }

    def state(self) -> State:
        """Return weights by bucket, open views and counts by age, and labels not yet taken."""
        weights = sorted(self._model.weights.items())
        return {
            "learning_rate": self._rate,
            "buckets": [bucket for bucket, _ in weights],
            "weights": [weight for _, weight in weights],
            "intercept": self._model.intercept,
            "open": [
                [*v.key, v.time_ms, v.probability, v.bought, list(v.features), list(v.features.values())]
                for v in self._waiting
            ],
            "shoppers": [[name, s.views, s.carts, s.purchases, s.time_ms] for name, s in self._shoppers.items()],
            "of_category": self._of_category.state(),
            "of_item": self._of_item.state(),
            "labelled": [list(label) for label in self.labelled],
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a learner that continues exactly where `state` was taken."""
        learner = cls(learning_rate=state["learning_rate"])
        learner._model.restore(dict(zip(state["buckets"], state["weights"], strict=True)), state["intercept"])
        for shopper, item, time_ms, probability, bought, places, amounts in state["open"]:
            features = dict(zip(places, amounts, strict=True))
            view = _View((shopper, item), time_ms, probability, features, bought)
            learner._open[view.key] = view
            learner._waiting.append(view)
        learner._shoppers = OrderedDict((name, _Shopper(*counts)) for name, *counts in state["shoppers"])
        learner._of_category.restore(state["of_category"])
        learner._of_item.restore(state["of_item"])
        learner.labelled.extend((given, bought) for given, bought in state["labelled"])
        return learner
