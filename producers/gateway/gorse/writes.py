"""What Gorse's clients write: feedback becomes events, users become traits, items become items.

Source: Gorse, `server/rest.go`, `storage/data/database.go`, and its documentation, "RESTful APIs"; PyGorse 0.5.1.
"""

import hashlib
from typing import Any, Final

from producers.gateway.fields import (
    entries_of,
    event,
    id_of,
    json_of,
    line,
    made_of,
    mapping,
    object_of,
    time_ms_of,
    traits_of,
    words_of,
)
from producers.gateway.made import Made, MadeItem, MadeTraits, Refused, Request, Unused
from producers.values import Unusable

FEED: Final = "gorse"
BETWEEN: Final = " > "
"""Stands between the categories of an item, which are one path here."""
LABELS: Final = (
    "title", "brand", "price", "currency", "availability", "link", "image_link", "item_group_id", "gtin", "quantity",
)  # fmt: skip
"""Labels of an item that are kept: those with names of an item's document."""


def feedback(request: Request) -> list[list[Made]]:
    """Return the events of an array of feedback. Raises BadBody."""
    return made_of(entries_of(json_of(request.body), "an array of feedback"), lambda _, one: [_event(request, one)])


def _event(request: Request, entry: dict[str, Any]) -> Made:
    type_ = words_of(entry.get("FeedbackType"))
    user, item = id_of(entry.get("UserId")), id_of(entry.get("ItemId"))
    kind = request.feedback.event(type_)
    if kind is None:
        wanted = f"wanted FeedbackType as one of {request.feedback.wanted()}"
        return Refused("unknown_event", f"found {type_[:50]!r}, {wanted}")
    if not kind:
        return Unused(f"{type_[:50]}: unused by the setting gateway.gorse_feedback")
    if not item:
        raise Unusable("items_missing", "wanted ItemId, found none")
    time_ms = time_ms_of(entry.get("Timestamp"), "Timestamp")
    time_ms = request.received_ms if time_ms is None else time_ms
    return made_event(request, kind, user, [item], time_ms, f"{type_}\0{user}\0{item}")


def made_event(
    request: Request, kind: str, user: str, items: list[str], time_ms: int, what: str, **data: Any
) -> Made:  # fmt: skip
    """Return an event with these items; its id follows from `what` and the time. Raises Unusable."""
    id_ = hashlib.sha256(f"{what}\0{time_ms}".encode(errors="surrogatepass")).hexdigest()[:32]
    lines = [line(item) for item in items]
    return event(request, FEED, kind, id_=id_, shopper=user, time_ms=time_ms, data={"items": lines, **data})


def user(request: Request) -> list[list[Made]]:
    """Return the traits of a user. Raises BadBody."""
    return made_of([object_of(json_of(request.body), "a user as an object")], lambda _, one: [_traits(one)])


def users(request: Request) -> list[list[Made]]:
    """Return the traits of an array of users. Raises BadBody."""
    return made_of(entries_of(json_of(request.body), "an array of users"), lambda _, one: [_traits(one)])


def user_patch(request: Request) -> list[list[Made]]:
    """Return the traits of the user whom the path names. Raises BadBody."""
    patch = object_of(json_of(request.body), "a user as an object")
    return made_of([{**patch, "UserId": request.query["id"]}], lambda _, one: [_traits(one)])


def _traits(entry: dict[str, Any]) -> Made:
    return MadeTraits(id_of(entry.get("UserId")), traits_of(entry.get("Labels")), announces=True)


def item(request: Request) -> list[list[Made]]:
    """Return an item. Raises BadBody."""
    return made_of([object_of(json_of(request.body), "an item as an object")], lambda _, one: [_item(one)])


def items(request: Request) -> list[list[Made]]:
    """Return the items of an array. Raises BadBody."""
    return made_of(entries_of(json_of(request.body), "an array of items"), lambda _, one: [_item(one)])


def retired_item(request: Request) -> list[list[Made]]:
    """Return that the item of the path is no longer sold."""
    return [[MadeItem(request.query["id"], None)]]


def _item(entry: dict[str, Any]) -> Made:
    id_ = id_of(entry.get("ItemId"))
    return MadeItem(id_, document_of(entry)) if id_ else Refused("key_missing", "wanted ItemId, found none")


def document_of(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an item's document that an item, or a change of one, states.

    >>> document_of({"Categories": ["shoes", "boots"], "IsHidden": True, "Labels": {"price": 5}, "Comment": "Red"})
    {'price': 5, 'title': 'Red', 'product_type': 'shoes > boots', 'availability': 'out_of_stock'}
    >>> document_of({"Categories": None, "IsHidden": None})
    {}
    """
    labels = mapping(entry.get("Labels"))
    document = {name: labels[name] for name in LABELS if labels.get(name) is not None}
    if comment := words_of(entry.get("Comment")):
        document["title"] = comment
    categories, hidden = entry.get("Categories"), entry.get("IsHidden")
    if isinstance(categories, list):
        document["product_type"] = BETWEEN.join(name for one in categories if (name := words_of(one).strip()))
    if hidden is not None and (hidden or "availability" not in document):
        document["availability"] = "out_of_stock" if hidden else "in_stock"
    return document
