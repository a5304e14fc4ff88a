"""Lists of items, as Gorse answers: recommended, popular, latest, and neighbours.

`n` and `offset` are those of Gorse: a list is fetched in pages up to the end of what is asked for.

Source: Gorse, `server/rest.go`, and its documentation, "RESTful APIs"; PyGorse 0.5.1.
"""

from collections.abc import Sequence
from typing import Any, Final

from headrace.problem import Problem
from producers.gateway.fields import entries_of, id_of, json_of, mapping, time_ms_of, words_of
from producers.gateway.gorse.asked import Asked, Outcome, listed_max, usual_n
from producers.gateway.gorse.forms import GorseScore, ItemList, ListedItem
from producers.gateway.gorse.writes import made_event
from producers.gateway.made import Made
from producers.values import Unusable

page_items: Final = 100
"""Items of one page of a list: the default bound of `headrace serve`, `next_item.recommendations_max`."""


async def recommend(asked: Asked) -> Outcome:
    """Recommend items to a user; with `write-back-type`, write that they were shown."""
    user = asked.query["user"]
    found, id_ = await _list(asked, "recommendations", user)
    made: Sequence[Sequence[Made]] = ()
    if (type_ := asked.query.get("write-back-type")) and found:
        if asked.types.event(type_) is None:
            raise Problem("bad-query", f"write-back-type: wanted {asked.types.wanted()}, found {type_[:50]!r}")
        # That an item was listed is no view of it, whatever the type: a model would learn its own answers.
        items, time_ms = [one.item_id for one in found], asked.request.received_ms
        made = [[made_event(asked.request, "view_item_list", user, items, time_ms, id_, recommendation_id=id_)]]
    scores = _scores(found)
    return Outcome(scores if asked.scored else [one.id for one in scores], made)


async def session(asked: Asked) -> Outcome:
    """Recommend items for a visit whose feedback is in the body."""
    entries = entries_of(json_of(asked.request.body), "an array of feedback")
    n, offset = _span(asked)
    found = list[ListedItem]()
    body = {"events": _happened(asked, entries), "category": list(asked.categories)}
    while True:
        part = await asked.post(
            ItemList, ("v1", "recommendations"), {**body, "n": min(page_items, n + offset - len(found))}
        )
        found += part.items
        if len(found) >= n + offset or not part.next_page:
            return Outcome(_scores(found[offset : offset + n]))
        body["page"] = part.next_page


def _happened(asked: Asked, entries: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the events of a visit, the oldest first. Raises Problem."""
    found = []
    for entry in map(mapping, entries):
        type_, item = words_of(entry.get("FeedbackType")), id_of(entry.get("ItemId"))
        kind = asked.types.event(type_)
        if kind is None:
            raise Problem("bad-body", f"wanted FeedbackType as one of {asked.types.wanted()}, found {type_[:50]!r}")
        try:
            time_ms = time_ms_of(entry.get("Timestamp"), "Timestamp")
        except Unusable as fault:
            raise Problem("bad-body", fault.detail) from None
        if kind and item:
            found.append((time_ms or 0, {"type": kind, "items": [item]}))
    return [event for _, event in sorted(found, key=lambda one: one[0])]


async def popular(asked: Asked) -> Outcome:
    """List the most popular items; with `user-id`, without what that user has seen."""
    return Outcome(_scores((await _list(asked, "popular", shopper=asked.query.get("user-id", "")))[0]))


async def latest(asked: Asked) -> Outcome:
    """List the newest items; with `user-id`, without what that user has seen."""
    return Outcome(_scores((await _list(asked, "new", shopper=asked.query.get("user-id", "")))[0]))


async def neighbors(asked: Asked) -> Outcome:
    """List the items that can stand for an item."""
    shopper = asked.query.get("user-id", "")
    return Outcome(_scores((await _list(asked, "similar", asked.query["item"], shopper=shopper))[0]))


async def _list(asked: Asked, *path: str, shopper: str = "") -> tuple[list[ListedItem], str]:
    """Return the part of a list that is asked for, and the list's id."""
    n, offset = _span(asked)
    found, page = list[ListedItem](), ""
    while True:
        part = await asked.get(
            ItemList, "v1", *path, n=min(page_items, n + offset - len(found)), page=page, shopper=shopper,
            category=list(asked.categories),
        )  # fmt: skip
        found, page = found + part.items, part.next_page
        if len(found) >= n + offset or not page:
            return found[offset : offset + n], part.recommendation_id


def _span(asked: Asked) -> tuple[int, int]:
    n, offset = asked.number("n", usual_n, 1), asked.number("offset", 0, 0)
    if n + offset > listed_max:
        raise Problem("bad-query", f"offset: wanted at most {listed_max} with n, found {n + offset}")
    return n, offset


def _scores(items: Sequence[ListedItem]) -> list[GorseScore]:
    return [GorseScore(one.item_id, one.score) for one in items]
