"""Purchase propensity: how likely a view is to end in a purchase of the viewed item. River, on hashed features."""

from collections import deque
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
buckets: Final = 1 << 18
"""Hash buckets of the features; bounds the model."""
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


class Propensity:
    """Logistic regression that learns from each view once its label is known, in event time.

    A view opens with the probability given then; a purchase of the item closes it as bought, the attribution window
    as not bought. Scores are therefore prequential. Kept per shopper, but for the weights, which average over shards.

    Prices must be finite and bounded (`headrace.events` refuses others): one infinity would spoil the weights for ever.
    """

    name: ClassVar[str] = "propensity"

    def __init__(self, *, learning_rate: float = 0.05) -> None:
        self._rate = learning_rate
        self._model = LogisticRegression(optim.SGD(learning_rate), intercept_lr=learning_rate)
        self._open: dict[tuple[str, str], tuple[int, float, dict[int, float]]] = {}  # oldest first
        self._shoppers: dict[str, _Shopper] = {}
        self._prices: dict[str, tuple[float, int]] = {}  # by category: mean log price, count
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
            if waiting[key][0] >= now - attribution_ms and len(waiting) < open_max:
                break
            self._settle(key, bought=False)
        if kind == "view_item":
            key = (event.shopper, event.data.items[0].item_id)
            if key not in waiting:
                features = self.features(event)
                waiting[key] = (now, float(self._model.predict_proba_one(features)[True]), features)
            self._count(event, views=1)
        elif kind == "add_to_cart":
            self._count(event, carts=1)
        elif kind == "purchase":
            for item in event.data.items:
                if (event.shopper, item.item_id) in waiting:
                    self._settle((event.shopper, item.item_id), bought=True)
            self._count(event, purchases=1)

    def take_labelled(self) -> list[Labelled]:
        """Return and forget the labels since the last call."""
        labelled = list(self._labelled)
        self._labelled.clear()
        return labelled

    def _settle(self, key: tuple[str, str], *, bought: bool) -> None:
        _, probability, features = self._open.pop(key)
        self._model.learn_one(features, bought)
        self._labelled.append(Labelled(probability, bought))

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
            mean, count = self._prices.get(item.item_category, (0.0, 0))
            if count or len(self._prices) < categories_max:
                count = min(count + 1, 1_000)  # an average over about the newest thousand follows prices that drift
                self._prices[item.item_category] = (mean + (log(item.price) - mean) / count, count)

    def features(self, event: Event) -> dict[int, float]:
        """Return the hashed features of a view: each is 1 in its bucket."""
        item = event.data.items[0]
        shopper = self._shoppers.get(event.shopper)
        if shopper is not None and event.time_ms - shopper.time_ms <= attribution_ms:
            visit = f"{min(shopper.views, 12)}|{min(shopper.carts, 3)}"
        else:
            visit = "new"
        past = min(shopper.purchases, 5) if shopper else 0
        price, category = item.price, item.item_category
        if price:
            mean, count = self._prices.get(category, (0.0, 0))
            level = str(int(log(price) * 2))
            relative = str(round((log(price) - mean) * 4)) if count >= 10 else "?"
        else:
            level = relative = "?"
        again = (event.shopper, item.item_id) in self._open
        hour = event.time_ms // 3_600_000 % 24
        words = (
            f"i{item.item_id}", f"c{category}", f"b{item.item_brand}", f"p{level}", f"r{relative}", f"v{visit}",
            f"n{past}", f"a{again}", f"h{hour}", f"cr{category}|{relative}",
        )  # fmt: skip
        return {crc32(word.encode()) % buckets: 1.0 for word in words}

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return open views, shoppers, categories and weights in use, and the maxima."""
        return {
            "open_views": (len(self._open), open_max),
            "shoppers": (len(self._shoppers), shoppers_max),
            "categories": (len(self._prices), categories_max),
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
            "open": [[*key, time_ms, p, list(features)] for key, (time_ms, p, features) in self._open.items()],
            "shoppers": [[name, s.views, s.carts, s.purchases, s.time_ms] for name, s in self._shoppers.items()],
            "prices": [[category, mean, count] for category, (mean, count) in self._prices.items()],
            "labelled": [list(label) for label in self._labelled],
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a learner that continues exactly where `state` was taken."""
        learner = cls(learning_rate=state["learning_rate"])
        model = learner._model
        model._weights.update(dict(zip(state["buckets"], state["weights"], strict=True)))
        model.intercept, model.optimizer.n_iterations = state["intercept"], state["iterations"]
        for shopper, item, time_ms, probability, features in state["open"]:
            learner._open[shopper, item] = (time_ms, probability, dict.fromkeys(features, 1.0))
        learner._shoppers = {name: _Shopper(*counts) for name, *counts in state["shoppers"]}
        learner._prices = {category: (mean, count) for category, mean, count in state["prices"]}
        learner._labelled.extend(Labelled(*label) for label in state["labelled"])
        return learner
