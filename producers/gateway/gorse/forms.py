"""The shapes in which Gorse answers, and what of the server's answers becomes of them.

Source: Gorse, `storage/data/database.go`, `storage/cache/database.go`; PyGorse 0.5.1.
"""

from typing import Any, Final

from msgspec import Struct

from producers.gateway.fields import rfc3339
from producers.gateway.gorse.feedback import FeedbackTypes
from producers.gateway.gorse.writes import BETWEEN

NO_TIME: Final = "0001-01-01T00:00:00Z"
"""How Go writes a time that is not known."""


class GorseSuccess(Struct, rename="pascal"):
    """How many entries were taken."""

    row_affected: int


class GorseScore(Struct, rename="pascal"):
    """An item of a list."""

    id: str
    score: float


class GorseFeedback(Struct, rename="pascal"):
    """What a user did with an item; `value` is how often, `timestamp` the newest time."""

    feedback_type: str
    user_id: str
    item_id: str
    value: float
    timestamp: str
    comment: str = ""


class GorseItem(Struct, rename="pascal"):
    """An item. The name is the comment; labels have the names of an item's document."""

    item_id: str
    is_hidden: bool
    categories: list[str]
    timestamp: str
    labels: dict[str, Any]
    comment: str


class GorseUser(Struct, rename="pascal"):
    """A user; labels are the traits that are kept."""

    user_id: str
    labels: dict[str, Any]
    comment: str = ""


class GorseItems(Struct, rename="pascal"):
    """A page of items."""

    cursor: str
    items: list[GorseItem]


class GorseUsers(Struct, rename="pascal"):
    """A page of users."""

    cursor: str
    users: list[GorseUser]


class GorseFeedbacks(Struct, rename="pascal"):
    """A page of feedback."""

    cursor: str
    feedback: list[GorseFeedback]


class ListedItem(Struct):
    """What is read of an item of a list."""

    item_id: str
    score: float


class ItemList(Struct):
    """What is read of a list."""

    recommendation_id: str
    items: list[ListedItem]
    next_page: str


class KnownItem(Struct):
    """What is read of what is known of an item."""

    item_id: str
    name: str
    brand: str
    category: str
    price: float | None
    currency: str
    link: str
    image_link: str
    available: bool
    retired: bool
    first_ms: int

    def gorse(self) -> GorseItem:
        """Return it as Gorse has it."""
        labels = {
            "brand": self.brand, "price": self.price, "currency": self.currency, "link": self.link,
            "image_link": self.image_link,
        }  # fmt: skip
        return GorseItem(
            self.item_id, not self.available, self.category.split(BETWEEN) if self.category else [],
            rfc3339(self.first_ms) if self.first_ms else NO_TIME,
            {name: value for name, value in labels.items() if value not in (None, "")}, self.name,
        )  # fmt: skip

    def document(self) -> dict[str, Any]:
        """Return it as a document of an item, as far as it is known."""
        price = None if self.price is None else {self.currency: self.price} if self.currency else self.price
        found = {
            "title": self.name, "brand": self.brand, "product_type": self.category, "price": price,
            "availability": "in_stock" if self.available else "out_of_stock", "link": self.link,
            "image_link": self.image_link,
        }  # fmt: skip
        return {name: value for name, value in found.items() if value not in (None, "")}


class ItemPage(Struct):
    """What is read of a page of items."""

    items: list[KnownItem]
    next: str


class Done(Struct):
    """What is read of something that a shopper did."""

    item_id: str
    times: int
    newest_ms: int


class KnownShopper(Struct):
    """What is read of what is known of a shopper."""

    traits: dict[str, Any]
    seen: list[Done]
    carted: list[Done]
    wished: list[Done]
    bought: list[Done]

    def feedback(self, user: str, types: FeedbackTypes, type_: str = "", item: str = "") -> list[GorseFeedback]:
        """Return what a user did, of all types or of one, with all items or with one; the newest first."""
        kinds = {"seen": self.seen, "carted": self.carted, "wished": self.wished, "bought": self.bought}
        wanted = types.kind(type_)
        found = [
            (done, type_ or types.name(kind))
            for kind, done_ in kinds.items()
            if not type_ or kind == wanted
            for done in done_
            if not item or done.item_id == item
        ]
        found.sort(key=lambda one: -one[0].newest_ms)
        return [
            GorseFeedback(name, user, done.item_id, done.times, rfc3339(done.newest_ms)) for done, name in found
        ]  # fmt: skip


class ListedShopper(Struct):
    """What is read of a shopper of a page."""

    shopper: str
    traits: dict[str, Any]


class ShopperPage(Struct):
    """What is read of a page of shoppers."""

    shoppers: list[ListedShopper]
    next: str


class Entry(Struct):
    """What is read of an entry of a page of what shoppers did."""

    shopper: str
    item_id: str
    kind: str
    times: int
    newest_ms: int


class HistoryPage(Struct):
    """What is read of a page of what shoppers did."""

    entries: list[Entry]
    next: str
