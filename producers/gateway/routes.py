"""The routes of the gateway as data: who may ask, and which adapter reads the body."""

from typing import Final, NamedTuple

from headrace.keys import Role
from producers.gateway import ga4, merchant, native, segment, shopify
from producers.gateway.made import Adapter

SHOPIFY_WEBHOOK: Final = "/v1/shopify/webhooks"
GA4_DEBUG: Final = "/debug/mp/collect"


class Route(NamedTuple):
    """A route that takes a body.

    Attributes:
        role: of the key; None where the body is signed instead.
        reply: whose answer it gives: `headrace` says per entry what became of it; the others as the format's own
            server answers, so that its clients understand it.
    """

    method: str
    path: str
    role: Role | None
    adapter: Adapter
    doc: str
    reply: str = "headrace"


ROUTES: Final = (
    Route(
        "POST", "/v1/events", "ingest", native.take_events, "Events in Headrace's form: one, an array, or `{events}`."
    ),
    Route("PUT", "/v1/items/{id}", "operate", merchant.one, "What the shop states of an item; replaces what was."),
    Route("DELETE", "/v1/items/{id}", "operate", native.retire_item, "An item that is no longer sold."),
    Route("PUT", "/v1/items", "operate", merchant.many, "Many items: an array, `{items}`, or JSON lines."),
    Route("PUT", "/v1/shoppers/{shopper}/traits", "operate", native.take_traits, "What the shop states of a shopper."),
    *(
        route
        for path, whose in (("/v1/rules/{placement}", "of a placement"), ("/v1/rules", "of every placement"))
        for route in (
            Route("PUT", path, "operate", native.take_rules, f"The rules {whose}; replaces what was."),
            Route("DELETE", path, "operate", native.clear_rules, f"Take back all rules {whose}."),
        )
    ),
    Route("POST", "/mp/collect", "ingest", ga4.adapt, "Google Analytics 4, Measurement Protocol.", "ga4"),
    Route("POST", GA4_DEBUG, "ingest", ga4.adapt, "The same, only validated: nothing is written.", "ga4-debug"),
    *(
        Route("POST", f"/v1/{call}", "ingest", adapter, f"Segment's `{call}`.", "segment")
        for call, adapter in segment.ADAPTERS.items()
    ),
    Route("POST", "/v1/shopify/pixel", "ingest", shopify.pixel, "Events of a Shopify web pixel: one, or an array."),
    Route("POST", SHOPIFY_WEBHOOK, None, shopify.webhook, "Shopify's webhooks, by their signature.", "shopify"),
)
