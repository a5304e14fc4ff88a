"""What the fold knows, for people and for other systems: of one item or shopper, or of all in pages.

Pages have a stable order, so that a listing has each entry once which is known all the time. A page of shoppers, or of
what they did, takes a look at the names of all shoppers, which are bounded.
"""

import base64
import binascii
import heapq
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta, Struct

from headrace.surface import Now, Refused, Unknown
from headrace.traits import Value
from learners.desk.family import Desk
from learners.next_item.history import Facts, History, ItemTimes
from learners.next_item.popularity import Popularity
from learners.next_item.questions import ItemId, ShopperId
from learners.next_item.ranking import Learned
from learners.next_item.session_knn import SessionKnn
from learners.next_item.shelf import Shelf
from learners.next_item.transitions import Transitions
from learners.protocol import DEEP, Context, top

page_max: Final = 1_000
search_items_max: Final = 20_000
"""Most items that one page of a search looks at."""
search_words_max: Final = 10
audience_shoppers_max: Final = 5_000
"""Most shoppers, those who did something last, among whom an item's audience is looked for."""
_NOTHING: Final = Facts()

PageLength: TypeAlias = Annotated[int, Meta(ge=1, le=page_max, description="Most entries to return.")]
After: TypeAlias = Annotated[
    str, Meta(max_length=2_000, description="The `next` of an answer: the page behind it; empty for the first one.")
]
Deed: TypeAlias = Literal["seen", "carted", "wished", "bought"]


class KnownItemQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of a request for what is known of an item."""

    item: ItemId


class NeighboursQuery(KnownItemQuery, frozen=True, kw_only=True):
    """The parameters of a request for the neighbours of an item."""

    n: Annotated[int, Meta(ge=1, le=100, description="Most neighbours of each learner.")] = 10


class AudienceQuery(KnownItemQuery, frozen=True, kw_only=True):
    """The parameters of a request for the shoppers who turned to an item."""

    n: Annotated[int, Meta(ge=1, le=page_max, description="Most shoppers to return.")] = 20


class ItemsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of a request for a page of items."""

    n: PageLength = 100
    after: After = ""
    words: Annotated[
        str,
        Meta(
            max_length=200,
            description="Only items whose id or name has all of these words, or parts of words, in any case.",
        ),
    ] = ""


class ShopperQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of a request for what is known of a shopper."""

    shopper: ShopperId
    n: Annotated[int, Meta(ge=1, le=page_max, description="Most items of each kind, the newest ones.")] = 100


class ShoppersQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of a request for a page of shoppers."""

    n: PageLength = 100
    after: After = ""


class HistoryQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of a request for a page of what shoppers did."""

    n: PageLength = 100
    after: After = ""


class KnownItem(Struct, frozen=True):
    """What is known of an item: what the shop states, before what lines of events say. What is not known is empty.

    `price` is in the shop's `currency`, null if it is not known. `stated` is whether the shop states the item,
    `available` whether it can be bought as far as is known, `retired` whether the shop no longer sells it. `popularity`
    is the number of views and choices, each of which loses half of its weight in a week. `first_ms` is the shop's time
    at which the item was first stated or viewed, in milliseconds since the epoch; 0 if that is not known.
    """

    item_id: str
    name: str
    brand: str
    category: str
    price: float | None
    currency: str
    link: str
    image_link: str
    stated: bool
    available: bool
    retired: bool
    popularity: float
    first_ms: int


class ItemPage(Struct, frozen=True):
    """A page of items. `next` is the `after` of the next page; empty if there is none.

    A page of a search looks at a bounded number of items, so it may have fewer than `n`, or none, although there is a
    next one.
    """

    items: list[KnownItem]
    next: str


class Neighbour(Struct, frozen=True):
    """An item that a learner finds near another, with the learner's own score, which compares with no other one's."""

    item_id: str
    name: str
    score: float


class Neighbours(Struct, frozen=True):
    """The neighbours of an item by each learner that has any, best first.

    `transitions` and `session_knn` say what comes next in a visit that has this item alone, `together` what is bought
    in one order with it, `deep` which items' vectors are near its own.
    """

    item_id: str
    learners: dict[str, list[Neighbour]]


class Turned(Struct, frozen=True):
    """How often a shopper had turned to an item, in any way and by buying it, and the newest shop time (ms)."""

    shopper: str
    seen: int
    bought: int
    newest_ms: int


class Audience(Struct, frozen=True):
    """Who turned to an item: of the `looked_at` shoppers who did something last, the newest first."""

    item_id: str
    looked_at: int
    shoppers: list[Turned]


class Done(Struct, frozen=True):
    """An item, how often a shopper did something with it, and the newest shop time (ms since the epoch)."""

    item_id: str
    times: int
    newest_ms: int


class KnownShopper(Struct, frozen=True):
    """What is known of a shopper. Lists of items are bounded, the newest first.

    `traits` are what the shop states. `visit` are the items of the visit that has not ended. `seen` are the items that
    were viewed or chosen in any way; `carted` those put into the cart and not removed, `wished` those put on the
    wishlist, `bought` those bought and not returned.
    """

    shopper: str
    traits: dict[str, Value]
    visit: list[str]
    seen: list[Done]
    carted: list[Done]
    wished: list[Done]
    bought: list[Done]


class ListedShopper(Struct, frozen=True):
    """A shopper of a page: the name in the log, what the shop states, and how many items were seen and bought."""

    shopper: str
    traits: dict[str, Value]
    seen: int
    bought: int


class ShopperPage(Struct, frozen=True):
    """A page of shoppers. `next` is the `after` of the next page; empty if there is none."""

    shoppers: list[ListedShopper]
    next: str


class Entry(Struct, frozen=True):
    """What a shopper did with an item: `seen`, `carted`, `wished` or `bought`, as of a known shopper."""

    shopper: str
    item_id: str
    kind: Deed
    times: int
    newest_ms: int


class HistoryPage(Struct, frozen=True):
    """A page of what shoppers did, by shopper, item and kind. `next` is the `after` of the next page, or empty."""

    entries: list[Entry]
    next: str


class Inspecting:
    """Says what a fold knows. It changes nothing.

    Args:
        desk: None where the shard has none.
        shelf: all items that are known.
    """

    def __init__(self, learned: Learned, history: History, desk: Desk | None, shelf: Shelf) -> None:
        self._browsing, self._together = learned.browsing, learned.together
        self._history, self._desk, self._shelf = history, desk, shelf

    # The routes

    def item(self, query: KnownItemQuery, now: Now) -> KnownItem:
        """Return what is known of an item. Raises Unknown."""
        self._check(query.item)
        return self._item(query.item)

    def neighbours(self, query: NeighboursQuery, now: Now) -> Neighbours:
        """Return the neighbours of an item by each learner. Raises Unknown."""
        self._check(query.item)
        browsing, found = self._browsing, dict[str, list[Neighbour]]()
        slot = browsing.catalogue.slot(query.item)
        if slot is not None:
            alone = Context((slot,), 0, -1, now.time_ms)
            lists = {name: browsing.members[name].predict(alone) for name in (Transitions.name, SessionKnn.name)}
            lists["together"] = self._together.companions([slot], now.time_ms)
            for name, scores in lists.items():
                best = top(scores, query.n + 1)  # one may be the item itself
                named = zip(browsing.ids(best.slots.tolist()), best.scores.tolist(), strict=True)
                found[name] = [self._neighbour(item, score) for item, score in named if item != query.item][: query.n]
        if now.artifact is not None:
            near = now.artifact.similar(query.item, query.n)
            found[DEEP] = [self._neighbour(item, score) for item, score in near]
        return Neighbours(query.item, {name: one for name, one in found.items() if one})

    def _neighbour(self, item: str, score: float) -> Neighbour:
        return Neighbour(item, (self._shelf.facts(item) or _NOTHING).name, round(score, 6))

    def audience(self, query: AudienceQuery, now: Now) -> Audience:
        """Return who turned to an item lately. Raises Unknown."""
        self._check(query.item)
        seen, bought, found, looked_at = self._history.seen, self._history.bought, list[Turned](), 0
        for shopper in islice(reversed(seen), audience_shoppers_max):
            looked_at += 1
            if noted := seen.noted(shopper, query.item):
                found.append(Turned(shopper, noted[1], (bought.noted(shopper, query.item) or (0, 0))[1], noted[0]))
                if len(found) == query.n:
                    break
        return Audience(query.item, looked_at, found)

    def _check(self, item: str) -> None:
        self._shelf.sync()
        if self._shelf.row(item) < 0:
            raise Unknown("wanted an item that an event or the shop has named, found none of this id")

    def items(self, query: ItemsQuery, now: Now) -> ItemPage:
        """Return a page of items."""
        self._shelf.sync()
        ids = self._shelf.ids()
        start = bisect_right(ids, query.after)
        if not query.words:
            found = ids[start : start + query.n]
            return ItemPage([self._item(item) for item in found], found[-1] if start + query.n < len(ids) else "")
        words = query.words.casefold().split()[:search_words_max]
        hits, end = list[str](), min(start + search_items_max, len(ids))
        for place in range(start, end):
            if self._has(ids[place], words):
                hits.append(ids[place])
                if len(hits) == query.n:
                    end = place + 1
                    break
        return ItemPage([self._item(item) for item in hits], ids[end - 1] if start < end < len(ids) else "")

    def shopper(self, query: ShopperQuery, now: Now) -> KnownShopper:
        """Return what is known of a shopper. Raises Unknown."""
        shopper, browsing = now.known_as(query.shopper), self._browsing
        traits = self._traits(shopper)
        if traits is None and shopper not in browsing.contexts and not self._history.knows(shopper):
            raise Unknown("wanted a shopper of an event, or of whom the shop states something, found none of this id")
        visit = browsing.ids([*browsing.recent.slots(shopper, now.time_ms)])
        done = {kind: [Done(item, times, at_ms) for item, at_ms, times in table.of(shopper)[: query.n]]
                for kind, table in self._tables.items()}  # fmt: skip
        return KnownShopper(query.shopper, dict(traits or {}), visit, **done)

    def shoppers(self, query: ShoppersQuery, now: Now) -> ShopperPage:
        """Return a page of shoppers."""
        names, more = self._names(query.after, query.n)
        history = self._history
        found = [
            ListedShopper(
                name, dict(self._traits(name) or {}), len(history.seen.of(name)), len(history.bought.of(name))
            )
            for name in names
        ]
        return ShopperPage(found, names[-1] if more else "")

    def history(self, query: HistoryQuery, now: Now) -> HistoryPage:
        """Return a page of what shoppers did."""
        shopper, item, kind = _place_of(query.after)
        behind = (one for one in self._entries(shopper, query.n) if (one.shopper, one.item_id, one.kind) > (
            shopper, item, kind
        ))  # fmt: skip
        found = list(islice(behind, query.n))
        return HistoryPage(found, _text_of(found[-1]) if len(found) == query.n else "")

    # What they share

    @property
    def _tables(self) -> dict[Deed, ItemTimes]:
        history = self._history
        return {"seen": history.seen, "carted": history.carted, "wished": history.wished, "bought": history.bought}

    def _traits(self, shopper: str) -> Mapping[str, Value] | None:
        return self._desk.profiles.of(shopper) if self._desk else None

    def _item(self, item: str) -> KnownItem:
        shelf = self._shelf
        facts, stated = shelf.facts(item) or _NOTHING, shelf.stated_of(item)
        row = shelf.row(item)
        slot, popular = int(shelf.slot[row]), self._browsing.members[Popularity.name]
        assert isinstance(popular, Popularity)
        count = float(popular.counts_of(np.array([slot], np.int32))[0]) if slot >= 0 else 0.0
        return KnownItem(
            item, facts.name, facts.brand, facts.category, facts.price,
            "" if facts.price is None else shelf.currency, stated.link if stated else "",
            stated.image_link if stated else "", stated is not None, facts.available,
            stated is not None and stated.retired, round(count, 6), int(shelf.since_ms(np.array([row]))[0]),
        )  # fmt: skip

    def _has(self, item: str, words: list[str]) -> bool:
        text = f"{item} {(self._shelf.facts(item) or _NOTHING).name}".casefold()
        return all(word in text for word in words)

    def _names(self, after: str, n: int) -> tuple[list[str], bool]:
        """Return the first n names of shoppers behind one, and whether there are more."""
        profiles = self._desk.profiles if self._desk else ()
        names = {name for name in chain(self._history.seen, profiles) if name > after}
        found = heapq.nsmallest(n + 1, names)
        return found[:n], len(found) > n

    def _entries(self, shopper: str, n: int) -> Iterator[Entry]:
        """Yield what n shoppers did, those of a name and behind it; each did something, so n entries are among them."""
        names = heapq.nsmallest(n + 1, (name for name in self._history.seen if name >= shopper))
        for name in names:
            entries = [
                Entry(name, item, kind, times, at_ms)
                for kind, table in self._tables.items()
                for item, at_ms, times in table.of(name)
            ]
            yield from sorted(entries, key=lambda one: (one.item_id, one.kind))


def _place_of(text: str) -> tuple[str, str, str]:
    """Return the shopper, the item and the kind behind which a page begins. Raises Refused."""
    if not text:
        return "", "", ""
    try:
        data = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return msgspec.msgpack.decode(data, type=tuple[str, str, str])
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise Refused("after: wanted the next of an answer, found another text") from None


def _text_of(entry: Entry) -> str:
    data = msgspec.msgpack.encode((entry.shopper, entry.item_id, entry.kind))
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
