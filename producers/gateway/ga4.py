"""GA4's Measurement Protocol: the bodies of `POST /mp/collect`, and what `POST /debug/mp/collect` answers.

An event keeps its name, except that `view_search_results` is a `search`; names that GA4 does not have are refused. The
shopper is `user_id`, else `client_id` or, of an app, `app_instance_id`. A session is named by the device and
`session_id`, because the latter is the second in which it began. A `login` without `user_id` says nothing of who logged
in, and is unused.

The protocol has no ids of events: an id is a digest of the body with the event's place and time, so that a body that
is delivered twice is recognised if it states a time. Without one, the time is that of its arrival, and each arrival is
new.

Source: Google Analytics developer documentation, "Measurement Protocol reference", "Validate events" and "Recommended
events", https://developers.google.com/analytics/devguides/collection/protocol/ga4/reference.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Any, Final

from headrace.events import UNUSED_TYPES
from producers.ga4 import RENAMED
from producers.gateway.fields import (
    amount_of,
    currency_of,
    digest_of,
    entries_of,
    event,
    granted,
    id_of,
    json_of,
    line,
    made_of,
    mapping,
    names_max,
    number_of,
    object_of,
    objects,
    time_ms_of,
    traits_of,
    words_of,
    written_by_shopper,
)
from producers.gateway.made import Made, MadeTraits, Refused, Request, Unused
from producers.mapping import EVENT_TYPES

FEED: Final = "ga4"
PURPOSES: Final = {
    "analytics_storage": "analytics",
    "ad_personalization": "personalization",
    "ad_user_data": "marketing",
}
"""What each consent of a body permits; the protocol has the last two, Google's consent mode all three."""
_LOGINS: Final = frozenset({"login", "sign_up"})
_CODES: Final = {
    "unknown_event": ("", "NAME_INVALID"),
    "items_missing": (".params.items", "VALUE_REQUIRED"),
    "search_term_missing": (".params.search_term", "VALUE_REQUIRED"),
    "rating_missing": (".params.rating", "VALUE_REQUIRED"),
    "time_ahead": (".timestamp_micros", "VALUE_OUT_OF_BOUNDS"),
    "time_absurd": (".timestamp_micros", "VALUE_OUT_OF_BOUNDS"),
    "too_large": ("", "VALUE_OUT_OF_BOUNDS"),
    "too_many": ("", "EXCEEDED_MAX_ENTITIES"),
}
"""For the reason of a refusal, the field below the event and the code with which Google's server answers."""


def adapt(request: Request) -> list[list[Made]]:
    """Return what is made of each event of a body; the first entry also holds the traits. Raises BadBody."""
    body = object_of(json_of(request.body), "an object with events")
    entries = entries_of(body.get("events"), "events as an array")
    digest = digest_of(request.body)
    made = made_of(entries, lambda index, entry: [_event(request, body, entry, f"{digest}-{index}")])
    device = id_of(body.get("client_id"), body.get("app_instance_id"))
    shopper = id_of(body.get("user_id")) or device
    properties = mapping(body.get("user_properties"))
    looked_at = islice(properties.items(), names_max)
    traits = traits_of({name: mapping(stated).get("value") for name, stated in looked_at})
    if traits and shopper:
        made = [[MadeTraits(shopper, traits, _consent(body)), *first] for first in made[:1] or [[]]] + made[1:]
    return made


def _event(request: Request, body: dict[str, Any], entry: dict[str, Any], id_: str) -> Made:
    name, user = words_of(entry.get("name")), id_of(body.get("user_id"))
    type_ = RENAMED.get(name, name)
    if type_ not in EVENT_TYPES and type_ not in UNUSED_TYPES:
        return Refused("unknown_event", f"wanted an event that GA4 recommends or collects, found {name[:100]!r}")
    if type_ in _LOGINS and not user:
        return Unused(f"{type_} without user_id")
    device = id_of(body.get("client_id"), body.get("app_instance_id"))
    time_ms = time_ms_of(entry.get("timestamp_micros"), "timestamp_micros")
    if time_ms is None:
        time_ms = time_ms_of(body.get("timestamp_micros"), "timestamp_micros")
    if time_ms is None:
        time_ms = request.received_ms
    data = _data(mapping(entry.get("params")), device or user) if type_ in EVENT_TYPES else {}
    return event(
        request, FEED, type_, id_=f"{id_}-{time_ms}", shopper=user or device, time_ms=time_ms,
        data={**data, "consent": _consent(body), **_segments(body)},
    )  # fmt: skip


def _segments(body: dict[str, Any]) -> dict[str, str]:
    return {
        "device": words_of(mapping(body.get("device")).get("category")),
        "country": words_of(mapping(body.get("user_location")).get("country_id")),
    }


def _consent(body: dict[str, Any]) -> list[str] | None:
    return granted(mapping(body.get("consent")), PURPOSES)


def _data(params: dict[str, Any], device: str) -> dict[str, Any]:
    session = id_of(params.get("session_id"), params.get("ga_session_id"))
    return {
        "items": [_line(item) for item in objects(params.get("items"))],
        "session_id": f"{device}.{session}" if session else "",
        "currency": currency_of(params.get("currency")),
        "value": amount_of(params.get("value")),
        "transaction_id": id_of(params.get("transaction_id")),
        "coupon": words_of(params.get("coupon")),
        "search_term": written_by_shopper(params.get("search_term")),
        "item_list_id": words_of(params.get("item_list_id")),
        "promotion_id": words_of(params.get("promotion_id")),
        "recommendation_id": id_of(params.get("recommendation_id")),
        "rating": number_of(params.get("rating")),
        "review": written_by_shopper(params.get("review"), 10_000),
    }


def _line(item: dict[str, Any]) -> dict[str, Any]:
    return line(
        id_of(item.get("item_id")),
        name=item.get("item_name"),
        brand=item.get("item_brand"),
        category=item.get("item_category"),
        price=item.get("price"),
        quantity=item.get("quantity"),
        index=item.get("index"),
        list_id=item.get("item_list_id"),
        propensity=item.get("propensity"),
    )


def validation(faults: Iterable[tuple[int | None, str, str]]) -> dict[str, Any]:
    """Return what Google's validation server answers for the faults of a body.

    Args:
        faults: of each, the place of the event (None if it is one of the body), its reason and its detail.

    >>> validation([(0, "unknown_event", "found '_bad'")])["validationMessages"][0]["description"]
    "Event at index: [0] found '_bad'"
    >>> validation([])
    {'validationMessages': []}
    """
    return {"validationMessages": [_message(*fault) for fault in faults]}


def _message(index: int | None, reason: str, detail: str) -> dict[str, str]:
    if reason == "key_missing":
        return {"fieldPath": "client_id", "description": detail, "validationCode": "VALUE_REQUIRED"}
    field, code = _CODES.get(reason, ("", "VALUE_INVALID"))
    if index is None:
        return {"fieldPath": "events", "description": detail, "validationCode": code}
    path = f"events[{index}]{field}" if field else "events"
    return {"fieldPath": path, "description": f"Event at index: [{index}] {detail}", "validationCode": code}
