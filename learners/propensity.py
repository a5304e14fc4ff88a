"""Purchase propensity: how likely a view is to end in a purchase of the viewed item. River, on hashed features.

Labels are learned in the order of the views, all of them an attribution window late. To learn a purchase at once, but
what is not bought only when its window ends, would show the model buyers by day and the others by night: its
probabilities were then wrong by 0.07 where 0.04 of the views sell, and its loss swung with the hours.
"""

from collections import deque
from functools import lru_cache
from math import log
from typing import ClassVar, Final, NamedTuple, Self
from zlib import crc32

from river import optim
from river.linear_model import LogisticRegression

from headrace.events import Event
from headrace.state import State

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
buckets: Final = 1 << 18
"""Hash buckets of the features; bounds the model."""
_DEAR: Final = crc32(b"dearer than its category") % buckets
_RAISED: Final = crc32(b"dearer than it was") % buckets
labelled_max: Final = 100_000
"""Labels kept until they are taken."""


class Labelled(NamedTuple):
    """A view whose outcome is known: the probability that was given at the view, and what happened."""

    probability: float
    bought: bool


class _Shopper:
    """What this learner keeps of one shopper: counts of the visit, and when the last event was."""

    __slots__ = ("carts", "purchases", "time_ms", "views")

    def __init__(self, views: int, carts: int, purchases: int, time_ms: int) -> None:
        self.views, self.carts, self.purchases, self.time_ms = views, carts, purchases, time_ms


class _View:
    """A view that waits for its label: the probability given then, its features, and whether it was bought so far."""

    __slots__ = ("bought", "features", "probability", "time_ms")

    def __init__(self, time_ms: int, probability: float, features: dict[int, float], bought: bool) -> None:
        self.time_ms, self.probability, self.features, self.bought = time_ms, probability, features, bought


class _UsualPrices:
    """Fading means of log prices by name; of names beyond the maximum, those priced longest ago are forgotten."""

    def __init__(self, names_max: int) -> None:
        self.names_max = names_max
        self.means: dict[str, tuple[float, int]] = {}  # log price, count; least recently priced first

    def learn(self, name: str, level: float) -> None:
        mean, count = self.means.pop(name, (0.0, 0))
        count = min(count + 1, prices_counted_max)
        self.means[name] = (mean + (level - mean) / count, count)
        if len(self.means) > self.names_max:
            del self.means[next(iter(self.means))]

    def above(self, name: str, level: float) -> float:
        """Return how far a log price lies above the usual one; 0 while that is not known."""
        mean, count = self.means.get(name, (level, 0))
        return max(-2.0, min(2.0, level - mean)) if count >= prices_counted_min else 0.0


@lru_cache(maxsize=1 << 16)
def _bucket(word: str) -> int:
    """Return a word's bucket; remembered, for most words come again and again."""
    return crc32(word.encode()) % buckets


class Propensity:
    """Logistic regression that learns from each view once its label is known, in event time.

    A view opens with the probability given then; a purchase of the item within the attribution window marks it, and
    when the window ends it is learned. Scores are therefore prequential. Kept per shopper, but for usual prices and
    weights, which average over shards.

    Prices must be finite and bounded (`headrace.events` refuses others): one infinity would spoil the weights for ever.
    """

    name: ClassVar[str] = "propensity"

    def __init__(self, *, learning_rate: float = 0.01) -> None:
        self._rate = learning_rate
        # Before it has learned it takes one view in twenty for sold, not every second one.
        self._model = LogisticRegression(
            optim.SGD(learning_rate), intercept_init=log(0.05 / 0.95), intercept_lr=learning_rate
        )
        self._open: dict[tuple[str, str], _View] = {}  # oldest first
        self._shoppers: dict[str, _Shopper] = {}
        self._of_category = _UsualPrices(categories_max)
        self._of_item = _UsualPrices(items_max)
        self._labelled: deque[Labelled] = deque(maxlen=labelled_max)

    def predict(self, event: Event) -> float | None:
        """Return the probability that a view ends in a purchase, or None for what is not a view."""
        if event.type != "view_item":
            return None
        return float(self._model.predict_proba_one(self.features(event))[True])

    def learn(self, event: Event) -> None:
        """Open a view, or settle the views that this event decides."""
        kind, now = event.type, event.time_ms
        waiting = self._open
        while waiting:
            key = next(iter(waiting))
            if waiting[key].time_ms >= now - attribution_ms and len(waiting) < open_max:
                break
            self._settle(waiting.pop(key))
        if kind == "view_item":
            key = (event.shopper, event.data.items[0].item_id)
            if key not in waiting:
                features = self.features(event)
                waiting[key] = _View(now, float(self._model.predict_proba_one(features)[True]), features, False)
            self._count(event, views=1)
        elif kind == "add_to_cart":
            self._count(event, carts=1)
        elif kind == "purchase":
            for item in event.data.items:
                if view := waiting.get((event.shopper, item.item_id)):
                    view.bought = True
            self._count(event, purchases=1)

    def take_labelled(self) -> list[Labelled]:
        """Return and forget the labels since the last call."""
        labelled = list(self._labelled)
        self._labelled.clear()
        return labelled

    def _settle(self, view: _View) -> None:
        self._model.learn_one(view.features, view.bought)
        self._labelled.append(Labelled(view.probability, view.bought))

    def _count(self, event: Event, views: int = 0, carts: int = 0, purchases: int = 0) -> None:
        shopper = self._shoppers.pop(event.shopper, None)
        if shopper is None or event.time_ms - shopper.time_ms > attribution_ms:
            shopper = _Shopper(0, 0, shopper.purchases if shopper else 0, event.time_ms)
            if len(self._shoppers) >= shoppers_max:
                del self._shoppers[next(iter(self._shoppers))]
        self._shoppers[event.shopper] = shopper
        shopper.views += views
        shopper.carts += carts
        shopper.purchases += purchases
        shopper.time_ms = event.time_ms
        item = event.data.items[0] if event.data.items else None
        if views and item and item.price:
            level = log(item.price)
            self._of_category.learn(item.item_category, level)
            self._of_item.learn(item.item_id, level)

    def features(self, event: Event) -> dict[int, float]:
        """Return the hashed features of a view: words that are 1 in their buckets, and two amounts."""
        item = event.data.items[0]
        shopper = self._shoppers.get(event.shopper)
        if shopper is not None and event.time_ms - shopper.time_ms <= attribution_ms:
            visit = f"{min(shopper.views, 8)}|{min(shopper.carts, 3)}"
        else:
            visit = "new"
        past = min(shopper.purchases, 5) if shopper else 0
        day_part = event.time_ms // 3_600_000 % 24 // 4
        words = (
            f"i{item.item_id}", f"c{item.item_category}", f"b{item.item_brand}",
            f"v{visit}", f"n{past}", f"h{day_part}",
        )  # fmt: skip
        found = {_bucket(word): 1.0 for word in words}
        if item.price:
            level = log(item.price)
            found[_DEAR] = self._of_category.above(item.item_category, level)
            found[_RAISED] = self._of_item.above(item.item_id, level)
        return found

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return open views, shoppers, categories and weights in use, and the maxima."""
        return {
            "open_views": (len(self._open), open_max),
            "shoppers": (len(self._shoppers), shoppers_max),
            "categories": (len(self._of_category.means), categories_max),
            "items": (len(self._of_item.means), items_max),
            "weights": (len(self._model._weights), buckets),
        }

    def state(self) -> State:
        """Return weights by bucket, open views and counts by age, and labels not yet taken."""
        weights = sorted(self._model.weights.items())
        return {
            "learning_rate": self._rate,
            "buckets": [bucket for bucket, _ in weights],
            "weights": [weight for _, weight in weights],
            "intercept": self._model.intercept,
            "iterations": self._model.optimizer.n_iterations,
            "open": [
                [*key, view.time_ms, view.probability, view.bought, list(view.features), list(view.features.values())]
                for key, view in self._open.items()
            ],
            "shoppers": [[name, s.views, s.carts, s.purchases, s.time_ms] for name, s in self._shoppers.items()],
            "of_category": [[name, *usual] for name, usual in self._of_category.means.items()],
            "of_item": [[name, *usual] for name, usual in self._of_item.means.items()],
            "labelled": [list(label) for label in self._labelled],
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a learner that continues exactly where `state` was taken."""
        learner = cls(learning_rate=state["learning_rate"])
        model = learner._model
        model._weights.update(dict(zip(state["buckets"], state["weights"], strict=True)))
        model.intercept, model.optimizer.n_iterations = state["intercept"], state["iterations"]
        for shopper, item, time_ms, probability, bought, places, amounts in state["open"]:
            features = dict(zip(places, amounts, strict=True))
            learner._open[shopper, item] = _View(time_ms, probability, features, bought)
        learner._shoppers = {name: _Shopper(*counts) for name, *counts in state["shoppers"]}
        learner._of_category.means = {name: (mean, count) for name, mean, count in state["of_category"]}
        learner._of_item.means = {name: (mean, count) for name, mean, count in state["of_item"]}
        learner._labelled.extend(Labelled(*label) for label in state["labelled"])
        return learner
