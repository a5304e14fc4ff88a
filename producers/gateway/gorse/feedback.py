"""Types of Gorse's feedback: which event each is, and what the server of answers calls what came of it."""

from collections.abc import Mapping
from typing import Final

from headrace.config import FeedbackEvent

USUAL: Final[Mapping[str, FeedbackEvent]] = {
    "read": "view_item", "view": "view_item", "visit": "view_item", "click": "select_item",
    "like": "add_to_wishlist", "star": "add_to_wishlist", "favorite": "add_to_wishlist",
    "favourite": "add_to_wishlist", "bookmark": "add_to_wishlist", "wishlist": "add_to_wishlist",
    "cart": "add_to_cart", "purchase": "purchase", "buy": "purchase", "order": "purchase",
    "impression": "view_item_list",
    "view_item": "view_item", "select_item": "select_item", "add_to_wishlist": "add_to_wishlist",
    "add_to_cart": "add_to_cart", "view_item_list": "view_item_list",
}  # fmt: skip
"""The event of each usual type. In Gorse a shop chooses the names; these are of its documentation and of shops."""
KINDS: Final[Mapping[str, str]] = {
    "view_item": "seen", "select_item": "seen", "add_to_cart": "carted", "add_to_wishlist": "wished",
    "purchase": "bought",
}  # fmt: skip
"""What `/v1/history` calls what these events leave."""
_NAMES: Final[Mapping[str, str]] = {"seen": "read", "carted": "cart", "wished": "like", "bought": "purchase"}


class FeedbackTypes:
    """The types of feedback that a shop uses.

    Args:
        own: the setting `gateway.gorse_feedback`: types beside the usual ones, or in their place.

    >>> types = FeedbackTypes({"star": "add_to_wishlist", "dislike": ""})
    >>> types.event("star"), types.event("dislike"), types.event("buy"), types.event("hug")
    ('add_to_wishlist', '', 'purchase', None)
    >>> types.kind("buy"), types.kind("dislike"), types.name("wished"), types.name("bought")
    ('bought', None, 'star', 'purchase')
    """

    def __init__(self, own: Mapping[str, FeedbackEvent]) -> None:
        self._events = {**USUAL, **own}
        named = {KINDS[event]: name for name, event in reversed(list(own.items())) if event in KINDS}
        self._names: dict[str, str] = {**_NAMES, **named}

    def event(self, name: str) -> FeedbackEvent | None:
        """Return the event of a type, "" if such feedback is unused, None if the type is not known."""
        return self._events.get(name)

    def kind(self, name: str) -> str | None:
        """Return the kind of what a type leaves; None if it leaves nothing that answers know."""
        return KINDS.get(self._events.get(name) or "")

    def name(self, kind: str) -> str:
        """Return the type by which a kind is shown: the first of the setting, else the usual one."""
        return self._names[kind]

    def wanted(self) -> str:
        """Return the types that are known, as text."""
        return f"{', '.join(self._events)} (the setting gateway.gorse_feedback adds others)"
