"""No body makes an adapter raise anything but `BadBody`, or make what is no JSON, whatever JSON it holds."""

import json
from typing import Any, Final

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.gateway import ga4, merchant, segment, shopify
from producers.gateway.made import Adapter, BadBody, MadeEvent, MadeItem, MadeTraits
from tests.hostile import json_texts
from tests.made import decoded, request

TOPICS: Final = ("orders/create", "orders/cancelled", "refunds/create", "products/update", "products/delete", "x")
ADAPTERS: Final[dict[Adapter, dict[str, str]]] = {
    ga4.adapt: {},
    **{adapter: {} for adapter in segment.ADAPTERS.values()},
    shopify.pixel: {},
    merchant.many: {},
    merchant.one: {"id": "a"},
}
NAMES: Final = st.sampled_from([
    "events", "batch", "items", "client_id", "user_id", "timestamp_micros", "user_properties", "consent", "name",
    "params", "item_id", "price", "quantity", "index", "value", "currency", "session_id", "type", "event", "properties",
    "products", "product_id", "userId", "anonymousId", "previousId", "messageId", "timestamp", "sentAt",
    "originalTimestamp", "context", "traits", "clientId", "customer", "data", "checkout", "order", "id", "lineItems",
    "productVariant", "cartLine", "merchandise", "line_items", "refund_line_items", "transactions", "amount", "kind",
    "created_at", "cancelled_at", "order_id", "variants", "image", "sale_price", "sale_price_effective_date",
    "offerId", "productAttributes", "amountMicros", "customerPrivacy", "discount_codes",
])  # fmt: skip
SCALARS: Final[st.SearchStrategy[Any]] = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False),
    json_texts,
    st.sampled_from(["GRANTED", "gid://", "1e308", "1" * 400, "9999-12-31T23:59:59-23:59", "0001-01-01T00:00+23:59"]),
    st.sampled_from(["2026-03-01T10:00:00Z/2026-03-02T10:00:00Z", "2026-03-01T10:00:00Z", "DISCOUNT_CODE", "a@b"]),
)  # fmt: skip
DOCUMENTS: Final = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | json_texts, inner, max_size=8),
    max_leaves=25,
)
ENTRIES: Final = st.builds(
    lambda kind, found: {**found, **kind},
    st.sampled_from([
        {"name": "purchase"}, {"name": "view_search_results", "client_id": "c"}, {"name": "product_viewed"},
        {"name": "checkout_completed"}, {"name": "collection_viewed", "clientId": "c"}, {"type": "identify"},
        {"type": "alias"}, {"type": "track", "event": "Order Completed"}, {},
        {"type": "track", "event": "Product Reviewed"}, {"type": "track", "event": "Signed In", "userId": 1},
    ]),
    st.dictionaries(NAMES, DOCUMENTS, min_size=3),
)  # fmt: skip
BODIES: Final = st.one_of(
    st.binary(max_size=20),
    DOCUMENTS.map(lambda found: json.dumps(found).encode()),
    ENTRIES.map(lambda entry: json.dumps({**entry, "events": [entry], "batch": [entry], "items": [entry]}).encode()),
)


@settings(max_examples=40, deadline=None)
@given(BODIES, st.sampled_from(TOPICS))
def test_no_body_makes_an_adapter_raise(body: bytes, topic: str) -> None:
    for adapter, query in {**ADAPTERS, shopify.webhook: {"topic": topic}}.items():
        try:
            entries = adapter(request(body, query))
        except BadBody:
            continue
        for one in (one for entry in entries for one in entry):
            if isinstance(one, MadeEvent):
                decoded(one)
            elif isinstance(one, MadeItem):
                msgspec.json.encode(one.document)
            elif isinstance(one, MadeTraits):
                msgspec.json.encode(one.traits)
