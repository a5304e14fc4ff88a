"""Users and their feedback, as Gorse answers, and feedback that is taken back.

Source: Gorse, `server/rest.go`, and its documentation, "RESTful APIs"; PyGorse 0.5.1.
"""

from collections.abc import Mapping
from typing import Final

from headrace.problem import Problem
from producers.gateway.fields import rfc3339
from producers.gateway.gorse.asked import Asked, Outcome, listed_max, usual_n
from producers.gateway.gorse.forms import (
    Entry,
    GorseFeedback,
    GorseFeedbacks,
    GorseSuccess,
    GorseUser,
    GorseUsers,
    HistoryPage,
    KnownShopper,
    ShopperPage,
)
from producers.gateway.gorse.writes import made_event


async def user(asked: Asked) -> Outcome:
    """Tell what is known of a user."""
    known = await _shopper(asked, asked.query["id"], 1)
    return Outcome(GorseUser(asked.query["id"], known.traits))


async def users(asked: Asked) -> Outcome:
    """List the users, by their pseudonyms."""
    n = asked.number("n", usual_n, 1)
    page = await asked.get(ShopperPage, "v1", "shoppers", n=n, after=asked.query.get("cursor", ""))
    return Outcome(GorseUsers(page.next, [GorseUser(one.shopper, one.traits) for one in page.shoppers]))


async def _shopper(asked: Asked, user: str, n: int = listed_max) -> KnownShopper:
    return await asked.get(KnownShopper, "v1", "shoppers", user, n=n)


async def _feedback(asked: Asked, type_: str = "", item: str = "") -> list[GorseFeedback]:
    """Return a user's feedback; none of one of whom nothing is known, as Gorse answers. Raises Problem."""
    user = asked.query["user"]
    if type_ and asked.types.kind(type_) is None:
        wanted = f"wanted a type that is a view, a cart, a wishlist or a purchase, found {type_[:50]!r}"
        raise Problem("unknown", f"{wanted}; {asked.types.wanted()}")
    try:
        known = await _shopper(asked, user)
    except Problem as problem:
        if problem.code != "unknown":
            raise
        return []
    return known.feedback(user, asked.types, type_, item)


async def user_feedback(asked: Asked) -> Outcome:
    """List what a user did, of one type or of all."""
    return Outcome(await _feedback(asked, asked.query.get("type", "")))


async def pair_feedback(asked: Asked) -> Outcome:
    """List what a user did with an item."""
    return Outcome(await _feedback(asked, item=asked.query["item"]))


async def one_feedback(asked: Asked) -> Outcome:
    """Tell whether a user gave an item feedback of a type."""
    found = await _feedback(asked, asked.query["type"], asked.query["item"])
    if not found:
        raise Problem("unknown", "wanted feedback of this type, user and item, found none")
    return Outcome(found[0])


async def feedback(asked: Asked) -> Outcome:
    """List what users did, by their pseudonyms, of one type or of all."""
    n, type_ = asked.number("n", usual_n, 1), asked.query.get("type", "")
    kind = asked.types.kind(type_)
    if type_ and kind is None:
        raise Problem("unknown", f"wanted a type of which something is kept, found {type_[:50]!r}")
    page = await asked.get(HistoryPage, "v1", "history", n=n, after=asked.query.get("cursor", ""))
    found = [_of_entry(asked, one) for one in page.entries if not type_ or one.kind == kind]
    return Outcome(GorseFeedbacks(page.next, found))


def _of_entry(asked: Asked, one: Entry) -> GorseFeedback:
    named = asked.query.get("type") or asked.types.name(one.kind)
    return GorseFeedback(named, one.shopper, one.item_id, one.times, rfc3339(one.newest_ms))


async def delete_feedback(asked: Asked) -> Outcome:
    """Take back what a user did with an item, of one type or of all, as far as there is an event that says so."""
    item, type_ = asked.query["item"], asked.query.get("type", "")
    made = []
    for one in await _feedback(asked, type_, item):
        kind = asked.types.kind(one.feedback_type)
        if kind not in _TAKEN_BACK_BY:
            continue
        what = f"{one.feedback_type}\0{one.user_id}\0{item}\0deleted"
        event = made_event(asked.request, _TAKEN_BACK_BY[kind], one.user_id, [item], asked.request.received_ms, what)
        made.append([event])
    return Outcome(GorseSuccess(len(made)), made)


_TAKEN_BACK_BY: Final[Mapping[str | None, str]] = {"carted": "remove_from_cart", "bought": "refund"}
