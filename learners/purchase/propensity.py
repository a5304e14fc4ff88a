"""Purchase propensity: the probability that a view leads to a purchase of the viewed item, from hashed features.

Labels are learned in the order of the views, all of them one attribution window late. If purchases were learned at
once, but views without a purchase only when their window ends, the model would learn the two at different hours of the
day: its probabilities were then wrong by 0.07 where 0.04 of the views sell, and its loss varied with the hour.

A purchase that comes later, and a return, repair the label that was learned. For the same reason a repair is learned a
whole number of days after the label (docs/decisions/0050).
"""

from array import array
from bisect import insort
from collections import OrderedDict, deque
from collections.abc import Iterable
from functools import lru_cache
from math import log
from operator import attrgetter
from typing import Any, ClassVar, Final, NamedTuple, Self
from zlib import crc32

from msgspec import Struct

from headrace.events import Event, Item
from headrace.state import State
from learners.family import Move
from learners.parts.prices import MeanPrices
from learners.parts.regression import Regression, sigmoid

attribution_ms: Final = 6 * 3_600_000
"""A purchase counts for the views of its item by the same shopper in the 6 hours of the shop's time before it."""
open_max: Final = 50_000
"""Most views without a label; above it, the oldest view is labelled as not bought."""
shoppers_max: Final = 50_000
categories_max: Final = 10_000
items_max: Final = 100_000
"""Most items and categories whose mean price is kept."""
views_counted_max: Final = 8
carts_counted_max: Final = 3
purchases_counted_max: Final = 5
"""Counts of views and carts of a visit, and of all purchases, end here: higher counts share one feature."""
buckets: Final = 1 << 18
"""Hash buckets of the features; bounds the model."""
_ABOVE_CATEGORY: Final = crc32(b"dearer than its category") % buckets
_ABOVE_BEFORE: Final = crc32(b"dearer than it was") % buckets
_PRICE_BUCKETS: Final = (_ABOVE_CATEGORY, _ABOVE_BEFORE)
"""Buckets of the price's difference to the mean of its category, and to the item's own mean before."""
sold_max: Final = 10_000
"""Newest learned sales that a refund can take back."""
late_ms: Final = 7 * 86_400_000
"""A purchase within 7 days of a view that was learned as not bought repairs what was learned."""
unsold_max: Final = 50_000
"""Newest views learned as not bought that a late purchase can repair."""
due_max: Final = 10_000
"""Most repairs that wait for their hour; above it, the first one is learned at once."""
_day_ms: Final = 86_400_000
REPAIRS: Final = ("late_purchases", "returns")
"""What repairs a label that was learned."""
labelled_max: Final = 100_000
"""Most labels in the queue `labelled`; the oldest are dropped above it."""


class _Shopper(Struct, gc=False):
    """One shopper: counts of the current visit, all purchases, and the time of the last event."""

    views: int
    carts: int
    purchases: int
    time_ms: int


_NEW_SHOPPER: Final = _Shopper(0, 0, 0, 0)


class _View(Struct, gc=False):
    """A view without a label: the probability predicted for it, its features, and how often it was bought so far.

    `guest` is the shopper who viewed the item before a login, if it was another one.
    """

    key: tuple[str, str]
    time_ms: int
    probability: float
    features: dict[int, float]
    bought: int
    guest: str = ""

    def row(self) -> list[Any]:
        """Return the view as a row of a state."""
        features = self.features
        return [
            *self.key, self.time_ms, self.probability, self.bought, list(features), list(features.values()), self.guest,
        ]  # fmt: skip

    @classmethod
    def of_row(cls, row: list[Any]) -> Self:
        """Return the view of a row of a state."""
        shopper, item, time_ms, probability, bought, places, amounts, guest = row
        return cls((shopper, item), time_ms, probability, dict(zip(places, amounts, strict=True)), bought, guest)


class _Learned(Struct, gc=False):
    """A view whose label was learned. To take less room, its features are packed: the places, then the amounts."""

    key: tuple[str, str]
    time_ms: int
    bought: int
    features: bytes

    def row(self) -> list[Any]:
        """Return the view as a row of a state."""
        return [*self.key, self.time_ms, self.bought, *_listed(self.features)]

    @classmethod
    def of_row(cls, row: list[Any]) -> Self:
        """Return the view of a row of a state."""
        shopper, item, time_ms, bought, places, amounts = row
        return cls((shopper, item), time_ms, bought, _packed(places, amounts))


def _packed(places: Iterable[int], amounts: Iterable[float]) -> bytes:
    return array("q", places).tobytes() + array("d", amounts).tobytes()


def _listed(features: bytes) -> tuple[list[int], list[float]]:
    places, amounts, middle = array("q"), array("d"), len(features) // 2
    places.frombytes(features[:middle])
    amounts.frombytes(features[middle:])
    return places.tolist(), amounts.tolist()


class _Repair(NamedTuple):
    """A label that is to be learned anew, before the first label of a view at `due_ms` or later."""

    due_ms: int
    bought: bool
    features: bytes


_due_ms: Final = attrgetter("due_ms")
_NO_VIEWS: Final[dict[str, _View]] = {}


class Chance(Struct, frozen=True):
    """The prediction for a view at this time: the probability, and the log-odds of which it is the sum."""

    item_id: str
    viewed_ms: int
    probability: float
    parts: dict[str, float]


def _bucket(word: str) -> int:
    return crc32(word.encode()) % buckets


# Features are hashed once: an item's three are cached because most items recur, those of a visit are precomputed.
@lru_cache(maxsize=1 << 16)
def _item_buckets(item_id: str, category: str, brand: str) -> tuple[int, int, int]:
    return _bucket(f"i{item_id}"), _bucket(f"c{category}"), _bucket(f"b{brand}")


_VISIT_BUCKETS: Final = [
    [_bucket(f"v{views}|{carts}") for carts in range(carts_counted_max + 1)] for views in range(views_counted_max + 1)
]
_PURCHASE_BUCKETS: Final = [_bucket(f"n{purchases}") for purchases in range(purchases_counted_max + 1)]
_HOUR_BUCKETS: Final = [_bucket(f"h{part}") for part in range(6)]
_MOMENT_BUCKETS: Final = frozenset(
    [bucket for row in _VISIT_BUCKETS for bucket in row] + _PURCHASE_BUCKETS + _HOUR_BUCKETS
)
"""Buckets of the features that depend on the time of the view and on the visit."""


def _features(item: Item, shopper: _Shopper, now: int, above_category: float, above_before: float) -> dict[int, float]:
    a, b, c = _item_buckets(item.item_id, item.item_category, item.item_brand)
    return {
        a: 1.0,
        b: 1.0,
        c: 1.0,
        _VISIT_BUCKETS[shopper.views][shopper.carts]: 1.0,
        _PURCHASE_BUCKETS[shopper.purchases]: 1.0,
        _HOUR_BUCKETS[now // (4 * 3_600_000) % 6]: 1.0,
        _ABOVE_CATEGORY: above_category,
        _ABOVE_BEFORE: above_before,
    }


class Propensity:
    """Logistic regression that learns from each view once its label is known, in event time.

    A view opens with the probability predicted for it; a purchase of the item within the attribution window marks it as
    bought, and when the window ends it is learned. Scores are therefore prequential. State is kept per shopper, except
    mean prices and weights.

    `labelled` is a queue of the views whose outcome is known, for scoring: the predicted probability, and whether the
    item was bought. `predicted` has the views that the last event opened: the probability, and the item's category.

    Prices must be finite and bounded (`headrace.events` refuses others): one infinity would make the weights useless
    permanently.
    """

    name: ClassVar[str] = "propensity"

    def __init__(self, *, learning_rate: float = 0.01) -> None:
        self._rate = learning_rate
        # The intercept before learning corresponds to a purchase after 1 view in 20, not after 1 in 2.
        self._model = Regression(rate=learning_rate, intercept=log(0.05 / 0.95))
        self._open: dict[tuple[str, str], _View] = {}
        # The newest views that were learned, by key, in the order of learning: the bought ones, and the others.
        self._sold: OrderedDict[tuple[str, str], _Learned] = OrderedDict()
        self._unsold: dict[tuple[str, str], _Learned] = {}
        self._unsold_full = unsold_max // 16  # number of them at which some are forgotten
        self._due: list[_Repair] = []  # the first one first
        self._unlabelled: deque[_View] = deque()  # the same views, oldest first
        self._shoppers: OrderedDict[str, _Shopper] = OrderedDict()  # least recently seen first
        self._category_prices = MeanPrices(categories_max)
        self._item_prices = MeanPrices(items_max)
        self.labelled: deque[tuple[float, bool]] = deque(maxlen=labelled_max)
        self.predicted: list[tuple[float, str]] = []
        self.repairs = dict.fromkeys(REPAIRS, 0)
        # Open views by shopper and item, from the first question on: a process that only learns need not keep it.
        self._by_shopper: dict[str, dict[str, _View]] | None = None

    def predict(self, event: Event) -> float | None:
        """Return the probability that a view leads to a purchase, or None if the event is not a view."""
        if event.type != "view_item":
            return None
        return self._model.probability(self.features(event))

    def chance(self, shopper: str, item_id: str) -> float:
        """Return the probability that was given to an open view, 0 if it is not open."""
        view = self._open.get((shopper, item_id))
        return view.probability if view else 0.0

    def learn(self, event: Event) -> None:
        """Learn the views whose window has ended, then open a view or update the shopper's counts and views."""
        kind, now, unlabelled = event.type, event.time_ms, self._unlabelled
        expired_ms = now - attribution_ms
        if unlabelled and unlabelled[0].time_ms > now + attribution_ms:
            unlabelled.rotate(-1)  # of a time to which the shop's may return: those behind it do not wait
        while unlabelled and (unlabelled[0].time_ms < expired_ms or len(unlabelled) >= open_max):
            oldest = unlabelled.popleft()
            del self._open[oldest.key]
            if self._by_shopper is not None:
                self._close(self._by_shopper, oldest)
            while self._due and self._due[0].due_ms <= oldest.time_ms:
                self._learn_repair()
            self._model.learn(oldest.features, oldest.bought > 0)
            self.labelled.append((oldest.probability, oldest.bought > 0))
            features = oldest.features
            learned = _Learned(
                oldest.key, oldest.time_ms, oldest.bought, _packed(features, features.values())
            )  # fmt: skip
            if learned.bought:
                self._keep_sold(learned)
            else:
                self._keep_unsold(learned, now)
        if kind == "view_item":
            if event.counts:
                self._view(event.shopper, event.data.items[0], now)
        elif kind == "add_to_cart":
            shopper = self._visit_counts(event.shopper, now)
            shopper.carts = min(shopper.carts + 1, carts_counted_max)
        elif kind == "purchase":
            for item in event.data.items:
                key = event.shopper, item.item_id
                view = self._open.get(key)
                # A purchase that arrives after the view followed it, whatever the clocks of page and server say.
                if view and expired_ms <= view.time_ms:
                    view.bought += 1
                else:
                    self._sell_late(key, now)
            shopper = self._visit_counts(event.shopper, now)
            shopper.purchases = min(shopper.purchases + 1, purchases_counted_max)
        elif kind == "remove_from_cart":
            shopper = self._visit_counts(event.shopper, now)
            shopper.carts = max(shopper.carts - 1, 0)
        elif kind == "refund":
            self._refund(event)

    def _view(self, name: str, item: Item, now: int) -> None:
        shopper, above_category, above_before = self._visit_counts(name, now), 0.0, 0.0
        if item.price:
            level = log(item.price)
            above_category = self._category_prices.learn(item.item_category, level)
            above_before = self._item_prices.learn(item.item_id, level)
        key = (name, item.item_id)
        if key not in self._open:
            features = _features(item, shopper, now, above_category, above_before)
            view = _View(key, now, self._model.probability(features), features, 0)
            self._open[key] = view
            self._unlabelled.append(view)
            self.predicted.append((view.probability, item.item_category))
            if self._by_shopper is not None:
                self._by_shopper.setdefault(name, {})[item.item_id] = view
        if shopper.views < views_counted_max:
            shopper.views += 1

    def _keep_sold(self, view: _Learned) -> None:
        """Keep a view that was learned as bought, so that a return can repair it."""
        self._unsold.pop(view.key, None)
        self._sold[view.key] = view
        self._sold.move_to_end(view.key)
        if len(self._sold) > sold_max:
            self._sold.popitem(last=False)

    def _keep_unsold(self, view: _Learned, now: int) -> None:
        """Keep a view that was learned as not bought, so that a late purchase can repair it."""
        unsold, key = self._unsold, view.key
        if key in unsold:
            del unsold[key]
        unsold[key] = view
        if len(unsold) >= self._unsold_full:
            self._forget_unsold(now)

    def _forget_unsold(self, now: int) -> None:
        """Forget views of which a purchase would be too late and, if there are too many, the oldest ones.

        Many at once: a dict finds its first key only after all deleted ones.
        """
        unsold, past_ms, some = self._unsold, now - late_ms, max(1, unsold_max // 16)
        over, gone = some if len(unsold) >= unsold_max else 0, list[tuple[str, str]]()
        for key, view in unsold.items():
            if len(gone) >= over and view.time_ms >= past_ms:
                break
            gone.append(key)
        for key in gone:
            del unsold[key]
        self._unsold_full = min(unsold_max, len(unsold) + some)

    def _sell_late(self, key: tuple[str, str], now: int) -> None:
        """Count a purchase for the newest view of its item whose label was learned; repair a label that was no."""
        if (view := self._unsold.get(key)) and view.time_ms >= now - late_ms:
            view.bought = 1
            self._keep_sold(view)
            self._repair("late_purchases", view, now)
        elif (view := self._sold.get(key)) and view.time_ms >= now - late_ms:
            view.bought += 1

    def _refund(self, event: Event) -> None:
        """Take back what a sale taught: the label or, once that is learned, what it taught."""
        for item in event.data.items:
            key = event.shopper, item.item_id
            if (view := self._open.get(key)) and view.bought:
                view.bought -= 1
            elif sold := self._sold.get(key):
                sold.bought -= 1
                if not sold.bought:
                    del self._sold[key]
                    if key not in self._unsold:  # of a newer view
                        self._keep_unsold(sold, event.time_ms)
                    self._repair("returns", sold, event.time_ms)
        if event.data.items and (shopper := self._shoppers.get(event.shopper)):
            shopper.purchases = max(shopper.purchases - 1, 0)

    def _repair(self, why: str, view: _Learned, now: int) -> None:
        """Have the label of a view learned anew, before the next label of a view at the same time of a day."""
        days = max(0, -((view.time_ms + attribution_ms - now) // _day_ms))
        repair = _Repair(view.time_ms + days * _day_ms, view.bought > 0, view.features)
        insort(self._due, repair, key=_due_ms)
        self.repairs[why] += 1
        if len(self._due) > due_max:
            self._learn_repair()

    def _learn_repair(self) -> None:
        first = self._due.pop(0)
        self._model.relabel(dict(zip(*_listed(first.features), strict=True)), first.bought)

    def move(self, move: Move) -> None:
        """Move the open views of a guest to the shopper who logged in, or back to the guest."""
        by_shopper = self._views_by_shopper()
        for item_id, view in list(by_shopper.get(move.from_shopper, _NO_VIEWS).items()):
            key = move.to_shopper, item_id
            if key in self._open or (move.taken_back and view.guest != move.to_shopper):
                continue
            del self._open[view.key]
            self._close(by_shopper, view)
            view.key, view.guest = key, "" if move.taken_back else move.from_shopper
            self._open[key] = by_shopper.setdefault(move.to_shopper, {})[item_id] = view
        guest = self._shoppers.get(move.from_shopper)
        if guest and not move.taken_back:
            shopper = self._visit_counts(move.to_shopper, guest.time_ms)
            shopper.views = min(shopper.views + guest.views, views_counted_max)
            shopper.carts = min(shopper.carts + guest.carts, carts_counted_max)
            guest.views = guest.carts = 0

    def _views_by_shopper(self) -> dict[str, dict[str, _View]]:
        """Return the open views by shopper and item; the index is made when it is first needed, then kept."""
        if self._by_shopper is None:
            self._by_shopper = {}
            for view in self._unlabelled:
                self._by_shopper.setdefault(view.key[0], {})[view.key[1]] = view
        return self._by_shopper

    @staticmethod
    def _close(by_shopper: dict[str, dict[str, _View]], view: _View) -> None:
        name, item_id = view.key
        views = by_shopper[name]
        del views[item_id]
        if not views:
            del by_shopper[name]

    def _visit_counts(self, name: str, now: int) -> _Shopper:
        """Return the counts of a shopper at an event; where a new visit begins, its counts are 0."""
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
        """Return the hashed features of a view: six buckets with 1, and two price differences."""
        item, above_category, above_before = event.data.items[0], 0.0, 0.0
        if item.price:
            level = log(item.price)
            above_category = self._category_prices.above(item.item_category, level)
            above_before = self._item_prices.above(item.item_id, level)
        shopper = self._shoppers.get(event.shopper, _NEW_SHOPPER)
        if event.time_ms - shopper.time_ms > attribution_ms:
            shopper = _Shopper(0, 0, shopper.purchases, event.time_ms)
        return _features(item, shopper, event.time_ms, above_category, above_before)

    def visit_chances(self, name: str, now: int) -> list[Chance]:
        """Return the predictions for the items that a shopper viewed in the current visit, newest view first.

        Each is the prediction for a view of the item at `now`: the features of item and price are those of its view,
        the visit's counts and the hour are those of `now`. Items bought since are left out. Changes nothing.
        """
        shopper = self._shoppers.get(name)
        if shopper is None or now - shopper.time_ms > attribution_ms:
            return []
        seen, bought = _VISIT_BUCKETS[shopper.views][shopper.carts], _PURCHASE_BUCKETS[shopper.purchases]
        weights, found = self._model.weights_of, []
        for view in reversed(self._views_by_shopper().get(name, _NO_VIEWS).values()):
            if view.bought or view.time_ms < now - attribution_ms:
                continue
            constant = {bucket: amount for bucket, amount in view.features.items() if bucket not in _MOMENT_BUCKETS}
            parts = {"base rate": self._model.intercept}
            for part, features in (
                ("item, category and brand", {b: a for b, a in constant.items() if b not in _PRICE_BUCKETS}),
                ("price", {b: a for b, a in constant.items() if b in _PRICE_BUCKETS}),
                ("this visit", {seen: 1.0}),
                ("past purchases", {bought: 1.0}),
                ("time of day", {_HOUR_BUCKETS[now // (4 * 3_600_000) % 6]: 1.0}),
            ):
                parts[part] = weights(features)
            odds = sum(parts.values())
            found.append(Chance(view.key[1], view.time_ms, sigmoid(odds), parts))
        return found

    def __contains__(self, shopper: str) -> bool:
        """Return whether views, carts or purchases of a shopper are counted."""
        return shopper in self._shoppers

    @property
    def unlabelled(self) -> int:
        """Number of the views without a label, and of those whose label waits in `labelled`."""
        return len(self._unlabelled) + len(self.labelled)

    def open_probabilities(self) -> list[float]:
        """Return the probabilities of the `unlabelled` views."""
        return [view.probability for view in self._unlabelled] + [given for given, _ in self.labelled]

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return, for each bounded table, how much is in use and the maximum."""
        return {
            "open_views": (len(self._unlabelled), open_max),
            "shoppers": (len(self._shoppers), shoppers_max),
            "categories": (len(self._category_prices.means), categories_max),
            "items": (len(self._item_prices.means), items_max),
            "sold": (len(self._sold), sold_max),
            "unsold": (len(self._unsold), unsold_max),
            "repairs_due": (len(self._due), due_max),
            "weights": (len(self._model), buckets),
        }

    def state(self) -> State:
        """Return weights by bucket, open views and counts by age, and the queue of labels."""
        weights = sorted(self._model.weights.items())
        return {
            "learning_rate": self._rate,
            "buckets": [bucket for bucket, _ in weights],
            "weights": [weight for _, weight in weights],
            "intercept": self._model.intercept,
            "open": [view.row() for view in self._unlabelled],
            "shoppers": [[name, s.views, s.carts, s.purchases, s.time_ms] for name, s in self._shoppers.items()],
            "of_category": self._category_prices.state(),
            "of_item": self._item_prices.state(),
            "labelled": [list(label) for label in self.labelled],
            "sold": [view.row() for view in self._sold.values()],
            "unsold": [view.row() for view in self._unsold.values()],
            "unsold_full": self._unsold_full,
            "due": [[one.due_ms, one.bought, *_listed(one.features)] for one in self._due],
            "repairs": dict(self.repairs),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a learner that continues exactly where `state` was taken."""
        learner = cls(learning_rate=state["learning_rate"])
        learner._model.restore(dict(zip(state["buckets"], state["weights"], strict=True)), state["intercept"])
        for view in map(_View.of_row, state["open"]):
            learner._open[view.key] = view
            learner._unlabelled.append(view)
        learner._shoppers = OrderedDict((name, _Shopper(*counts)) for name, *counts in state["shoppers"])
        learner._category_prices.restore(state["of_category"])
        learner._item_prices.restore(state["of_item"])
        learner.labelled.extend((given, bought) for given, bought in state["labelled"])
        learner._sold = OrderedDict((view.key, view) for view in map(_Learned.of_row, state["sold"]))
        learner._unsold = {view.key: view for view in map(_Learned.of_row, state["unsold"])}
        learner._unsold_full = state["unsold_full"]
        for due_ms, bought, places, amounts in state["due"]:
            learner._due.append(_Repair(due_ms, bought, _packed(places, amounts)))
        learner.repairs = dict(state["repairs"])
        return learner


def from_version_1(state: State) -> State:
    """Return the state of a learner of today; one of version 1 knew no logins, and repaired no learned labels."""
    late = {"sold": [], "unsold": [], "unsold_full": unsold_max // 16, "due": [], "repairs": dict.fromkeys(REPAIRS, 0)}
    return {**state, "open": [[*view, ""] for view in state["open"]], **late}
