"""What requests for items ask: whose list of which kind, what may be in it, and what was shown before."""

import base64
import binascii
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta, Struct

from headrace.events import Id
from headrace.rules import PLACEMENT, Brands, Categories, PriceLimits, RuleSet
from headrace.surface import Refused
from learners.next_item.rules import Rules

list_items_max: Final = 1_000
shown_max: Final = 1_000
"""Most items that the pages of a list may have in all."""
_mark_bytes: Final = 5
"""Length of the hash by which a page remembers an item; two of 1,000 items are equal once in two million times."""

Amount: TypeAlias = Annotated[float, Meta(ge=0, le=1_000_000_000)]
Texts: TypeAlias = list[Annotated[str, Meta(max_length=10_000)]]
ItemId: TypeAlias = Annotated[Id, Meta(description="The item's id, percent-encoded.")]
ShopperId: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=128, description="The shopper's id, percent-encoded.")
]
MaybeShopper: TypeAlias = Annotated[
    str, Meta(max_length=128, description="The shopper's id; the rules `bought` and `seen` need it.")
]
OnItem: TypeAlias = Annotated[
    str,
    Meta(
        max_length=256,
        description="The item whose page it is. It counts as viewed last, also if the event of it is still on its way,"
        " and is not in the list.",
    ),
]
Label: TypeAlias = Annotated[str, Meta(max_length=32, description="Kept with the impression, for evaluation.")]
Kind: TypeAlias = Literal["recommended", "similar", "bought_together", "trending", "new", "popular"]


class Wanted(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many items are wanted, and which ones may be in the list."""

    n: Annotated[int, Meta(ge=1, le=list_items_max, description="Number of items to return.")] = 20
    placement: Annotated[
        str,
        Meta(
            max_length=64,
            pattern=f"^$|{PLACEMENT}",
            description="Where the items will be shown; decides which [rules](rules.md) hold.",
        ),
    ] = ""
    exclude: Annotated[
        Texts,
        Meta(max_length=500, description="Ids of items that are not wanted, separated by commas; may be repeated."),
    ] = []
    category: Annotated[
        Texts, Meta(max_length=50, description="Only items of one of these categories, or below it; may be repeated.")
    ] = []
    brand: Annotated[Texts, Meta(max_length=50, description="Only items of one of these brands; may be repeated.")] = []
    price_min: (
        Annotated[float, Meta(ge=0, le=1_000_000_000, description="Least price, in the shop's currency.")] | None
    ) = None
    price_max: (
        Annotated[float, Meta(ge=0, le=1_000_000_000, description="Highest price, in the shop's currency.")] | None
    ) = None
    availability: Annotated[
        Literal["", "in_stock"],
        Meta(
            description="`in_stock`: only items that the shop states, and that can be bought. Empty: also those of"
            " which nothing is known."
        ),
    ] = ""
    page: Annotated[
        str, Meta(max_length=8_000, description="The `next_page` of an answer: what it has is not shown again.")
    ] = ""

    @property
    def filters(self) -> bool:
        """Whether categories, brands or prices are limited."""
        return bool(self.category or self.brand or self.price_min is not None or self.price_max is not None)

    def filter(self) -> Rules | None:
        """Return the filter as rules, None if there is none. Raises Refused."""
        low, high = self.price_min, self.price_max
        if low is not None and high is not None and low > high:
            raise Refused(f"price_min: wanted at most price_max, found {low:g} and {high:g}")
        if not self.filters:
            return None
        return _rules(tuple(self.category), tuple(self.brand), low, high)


@lru_cache(256)
def _rules(categories: tuple[str, ...], brands: tuple[str, ...], low: float | None, high: float | None) -> Rules:
    price = None if low is None and high is None else PriceLimits(low, high)
    return Rules(RuleSet(categories=Categories(only=categories), brands=Brands(only=brands), price=price))


class WantedHere(Wanted, frozen=True, kw_only=True):
    """A list, and where the shopper is."""

    on_item: OnItem = ""
    device: Label = ""
    country: Label = ""


class Here(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the shopper is."""

    on_item: OnItem = ""
    device: Label = ""
    country: Label = ""


class RecommendationQuery(WantedHere, frozen=True, kw_only=True):
    """The parameters of a request for recommendations."""

    shopper: ShopperId


class ExplanationQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of a request for what recommendations to a shopper follow from."""

    shopper: ShopperId
    n: Annotated[int, Meta(ge=1, le=100, description="Number of recommendations that are explained.")] = 10
    placement: Annotated[
        str, Meta(max_length=64, pattern=f"^$|{PLACEMENT}", description="Whose rules hold; empty: those of all.")
    ] = ""


class Happened(Struct, frozen=True, forbid_unknown_fields=True):
    """Something that a visitor did: an event's type, and its items, the first one first."""

    type: Annotated[str, Meta(max_length=40)]
    items: Annotated[list[Id], Meta(max_length=100)]


class SessionQuery(WantedHere, frozen=True, kw_only=True):
    """The parameters of a request for recommendations for a visit whose events are in the request."""

    shopper: MaybeShopper = ""
    events: Annotated[
        list[Happened],
        Meta(
            max_length=200,
            description='What happened in this visit, the oldest first, such as `{"type": "view_item", "items":'
            ' ["boots"]}`; types that teach nothing of items are passed over. With a `shopper`, it follows what is'
            " known of the shopper from before the visit.",
        ),
    ] = []


class ItemQuery(Wanted, frozen=True, kw_only=True):
    """The parameters of a request for items that go with an item."""

    item: ItemId
    shopper: MaybeShopper = ""


class CartQuery(ItemQuery, frozen=True, kw_only=True):
    """The parameters of a request for items that are bought with others."""

    cart: Annotated[
        Texts, Meta(max_length=100, description="Further items of the cart, separated by commas; may be repeated.")
    ] = []


class ListQuery(Wanted, frozen=True, kw_only=True):
    """The parameters of a request for a list that is the same for all shoppers, apart from the rules."""

    shopper: MaybeShopper = ""


class RerankQuery(Here, frozen=True, kw_only=True):
    """The parameters of a request that orders given items for a shopper."""

    items: Annotated[list[Id], Meta(min_length=1, max_length=list_items_max, description="The items, in their order.")]
    n: Annotated[int, Meta(ge=1, le=list_items_max, description="Number of items to return.")] = list_items_max
    placement: Annotated[str, Meta(max_length=64, pattern=f"^$|{PLACEMENT}", description="As above.")] = ""
    shopper: MaybeShopper = ""
    events: Annotated[list[Happened], Meta(max_length=200, description="What happened in this visit.")] = []


class PageList(Wanted, frozen=True, kw_only=True):
    """One list of a page."""

    kind: Annotated[Kind, Meta(description="Which list.")] = "recommended"
    item: Annotated[str, Meta(max_length=256, description="The item that others are to go with.")] = ""


class PageQuery(Here, frozen=True, kw_only=True):
    """The parameters of a request for all lists of a page."""

    lists: Annotated[
        list[PageList],
        Meta(min_length=1, max_length=20, description="The lists, the most important first: no item is in two."),
    ]
    shopper: MaybeShopper = ""
    events: Annotated[list[Happened], Meta(max_length=200, description="What happened in this visit.")] = []


class BatchQuery(Wanted, frozen=True, kw_only=True):
    """The parameters of a request for the recommendations of many shoppers."""

    shoppers: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=128)]],
        Meta(min_length=1, max_length=10_000, description="The shoppers, each of whom gets a line."),
    ]


def items_in(texts: Iterable[str]) -> list[str]:
    """Return the items of a parameter; an id may have a comma if it is given alone.

    >>> items_in(["a,b", "c"])
    ['a,b', 'a', 'b', 'c']
    """
    return [item for text in texts for item in dict.fromkeys((text, *text.split(","))) if item]


class Shown:
    """The items of earlier pages of a list, by their hashes.

    >>> first = Shown.of("").and_these(["boots", "hat"])
    >>> later = Shown.of(first)
    >>> "boots" in later, "shirt" in later, len(Shown.of(later.and_these(["shirt"])))
    (True, False, 3)
    """

    def __init__(self, marks: frozenset[bytes]) -> None:
        self._marks = marks

    def __contains__(self, item: str) -> bool:
        return bool(self._marks) and _mark(item) in self._marks

    def __len__(self) -> int:
        return len(self._marks)

    @classmethod
    def of(cls, page: str) -> "Shown":
        """Return what a page's text says. Raises Refused: no answer has given this text."""
        if not page:
            return _NOTHING
        try:
            data = base64.b64decode(page.encode() + b"=" * (-len(page) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            data = b"?"
        if len(data) % _mark_bytes:
            raise Refused("page: wanted the next_page of an answer, found another text")
        return cls(frozenset(data[start : start + _mark_bytes] for start in range(0, len(data), _mark_bytes)))

    def and_these(self, items: Iterable[str]) -> str:
        """Return the text of the page after one with these items; empty if no more may be shown."""
        marks = self._marks | {_mark(item) for item in items}
        if len(marks) >= shown_max:
            return ""
        return base64.urlsafe_b64encode(b"".join(sorted(marks))).decode().rstrip("=")


def _mark(item: str) -> bytes:
    return blake2b(item.encode(), digest_size=_mark_bytes).digest()


_NOTHING: Final = Shown(frozenset())
