"""The routes of the gateway as data: who may ask, and which adapter reads the body, or which call answers."""

from typing import Final

from producers.gateway import ga4, merchant, native, segment, shopify
from producers.gateway.gorse import routes as gorse
from producers.gateway.route import Call, Route, Unoffered

SHOPIFY_WEBHOOK: Final = "/v1/shopify/webhooks"
GA4_DEBUG: Final = "/debug/mp/collect"

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
    Route("PUT", "/v1/experiments/{name}", "operate", native.take_experiment, "An experiment; replaces what was."),
    Route(
        "DELETE",
        "/v1/experiments/{name}",
        "operate",
        native.remove_experiment,
        "Remove an experiment, a draft or one that has stopped.",
    ),
    Route("POST", "/mp/collect", "ingest", ga4.adapt, "Google Analytics 4, Measurement Protocol.", "ga4"),
    Route("POST", GA4_DEBUG, "ingest", ga4.adapt, "The same, only validated: nothing is written.", "ga4-debug"),
    *(
        Route("POST", f"/v1/{call}", "ingest", adapter, f"Segment's `{call}`.", "segment")
        for call, adapter in segment.ADAPTERS.items()
    ),
    Route("POST", "/v1/shopify/pixel", "ingest", shopify.pixel, "Events of a Shopify web pixel: one, or an array."),
    Route("POST", SHOPIFY_WEBHOOK, None, shopify.webhook, "Shopify's webhooks, by their signature.", "shopify"),
    *gorse.ROUTES,
)
CALLS: Final[tuple[Call, ...]] = gorse.CALLS
UNOFFERED: Final[tuple[Unoffered, ...]] = gorse.UNOFFERED
