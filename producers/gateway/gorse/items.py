"""Items, as Gorse answers, and changes of them, which are merged with what is known.

Source: Gorse, `server/rest.go`, and its documentation, "RESTful APIs"; PyGorse 0.5.1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from headrace.problem import Problem
from producers.gateway.fields import json_of, object_of
from producers.gateway.gorse.asked import Asked, Outcome, usual_n
from producers.gateway.gorse.forms import GorseItem, GorseItems, GorseSuccess, ItemPage, KnownItem
from producers.gateway.gorse.writes import BETWEEN, document_of
from producers.gateway.made import MadeItem


async def item(asked: Asked) -> Outcome:
    """Tell what is known of an item."""
    return Outcome((await _known(asked, asked.query["id"])).gorse())


async def _known(asked: Asked, item: str) -> KnownItem:
    known = await asked.get(KnownItem, "v1", "items", item)
    if known.retired:
        raise Problem("unknown", "wanted an item that is sold, found one that is no longer")
    return known


async def items(asked: Asked) -> Outcome:
    """List the items, or with `q` those whose id or name has these words."""
    n, words = asked.number("n", usual_n, 1), asked.query.get("q", "").strip()
    found, cursor = list[GorseItem](), asked.query.get("cursor", "")
    while True:  # where all of a page are no longer sold, or have not the words, there may be others behind it
        page = await asked.get(ItemPage, "v1", "items", n=n - len(found), after=cursor, words=words)
        found += [one.gorse() for one in page.items if not one.retired]
        cursor = page.next
        if len(found) >= n or not cursor:
            return Outcome(GorseItems(cursor, found))


async def patch_item(asked: Asked) -> Outcome:
    """Change what is stated of an item: what the body leaves out stays."""
    patch = object_of(json_of(asked.request.body), "a change of an item as an object")
    return await _changed(asked, document_of(patch), asked.query["id"])


async def add_category(asked: Asked) -> Outcome:
    """Add a category to an item."""
    before = await _categories(asked)
    return await _categorised(asked, [*before, *({asked.query["category"]} - {*before})])


async def remove_category(asked: Asked) -> Outcome:
    """Remove a category from an item."""
    return await _categorised(asked, [one for one in await _categories(asked) if one != asked.query["category"]])


async def _categorised(asked: Asked, categories: Sequence[str]) -> Outcome:
    return await _changed(asked, {"product_type": BETWEEN.join(categories)}, asked.query["item"])


async def _categories(asked: Asked) -> list[str]:
    stated = str((await _document(asked, asked.query["item"])).get("product_type") or "")
    return stated.split(BETWEEN) if stated else []


async def _changed(asked: Asked, change: Mapping[str, Any], item: str) -> Outcome:
    return Outcome(GorseSuccess(1), [[MadeItem(item, {**await _document(asked, item), **change})]])


async def _document(asked: Asked, item: str) -> dict[str, Any]:
    """Return what is stated of an item: what this gateway wrote a moment ago, else what the server knows."""
    recent = asked.stated.of(item, asked.request.received_ms)
    if recent is None:
        return (await _known(asked, item)).document()
    if recent.value is None:
        raise Problem("unknown", "wanted an item that is sold, found one that is no longer")
    found: dict[str, Any] = msgspec.json.decode(recent.value)
    return found
