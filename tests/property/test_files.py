"""Whatever the cells of a file hold, its reader raises nothing but Misconfigured, and each of its events is valid."""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import Misconfigured
from producers.file import DEFAULTS, ReadOptions
from producers.load import KINDS
from producers.mapping import EventFields, ItemFields, Mapping, TypeField
from tests.files import read
from tests.hostile import json_texts

CELLS: Final = st.one_of(
    st.sampled_from([
        "", "0", "-1", "1e308", "1e999", "-inf", "nan", "9" * 5_000, "9" * 400,
        "1433221332117.0", "1433221332117", "1.5e12", "²",
        "١٢", "0x1f", "1_000", "1,5", "1.299,00", "true", "null", "NA", "(not set)", "2010-12-01 08:26:00", "abc", "5",
        "0001-01-01", "9999-12-31 23:59:59-23:59", "2010-02-30", "12/1/2010 8:26", "1/13/10 13:00 PM", "+99:99",
        "2016-05-09", "99999-01-01", "view", "purchase", "C100", "85123A", "1e30", "-1e30", "1e-320", "3.5",
    ]),
    json_texts,
)  # fmt: skip
VALUES: Final[st.SearchStrategy[Any]] = st.recursive(
    st.one_of(CELLS, st.none(), st.booleans(), st.integers(-(2**64), 2**64), st.floats(allow_nan=False)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["value", "key", "item_id"]), inner),
    max_leaves=5,
)  # fmt: skip
GA4_PARAMETERS: Final = (
    "ga_session_id",
    "search_term",
    "item_list_id",
    "currency",
    "value",
    "transaction_id",
    "coupon",
)
MAPPING: Final = Mapping(
    event=EventFields(
        type=TypeField("type"), time="at", shopper="who", session_id="session", currency="currency", value="value",
        transaction_id="order", coupon="coupon", rating="rating", review="review",
    ),
    item=ItemFields(item_id="item", item_name="name", price="price", quantity="quantity", index="index"),
    group=("order",),
)  # fmt: skip
MAPPED_ROW: Final = {
    "type": "purchase", "at": "2026-03-01 10:00", "who": "ann", "session": "s", "currency": "EUR", "value": "1",
    "order": "1", "coupon": "c", "rating": "4", "review": "Good", "item": "i1", "name": "Cap", "price": "2.5",
    "quantity": "1", "index": "1",
}  # fmt: skip


class Table(NamedTuple):
    """A file of a kind: its name, a usable row, and the kind and options by which it is read."""

    name: str
    row: dict[str, str]
    kind: str
    options: ReadOptions = DEFAULTS


RETAIL: Final = {
    "InvoiceNo": "100", "StockCode": "85123A", "Description": "A HEART", "Quantity": "6",
    "InvoiceDate": "2010-12-01 08:26:00", "UnitPrice": "2.55", "CustomerID": "17850", "Country": "UK",
}  # fmt: skip
ROCKET: Final = {"timestamp": "1433221332117", "visitorid": "7", "event": "view", "itemid": "1", "transactionid": ""}
VIEWS: Final = {"sessionId": "1", "userId": "NA", "itemId": "1", "timeframe": "5", "eventdate": "2016-05-09"}
TABLES: Final = {
    "online_retail": [Table("retail.csv", RETAIL, "online_retail")],
    "retailrocket": [
        Table("events.csv", ROCKET, "retailrocket"),
        Table(
            "item_properties_part1.csv",
            {"timestamp": "1433221332117", "itemid": "1", "property": "categoryid", "value": "5"},
            "retailrocket",
        ),
    ],
    "diginetica_raw": [
        Table("train-item-views.csv", VIEWS, "diginetica_raw"),
        Table("train-purchases.csv", {**VIEWS, "ordernumber": "1"}, "diginetica_raw"),
        Table("products.csv", {"itemId": "1", "pricelog2": "3.5"}, "diginetica_raw"),
        Table("product-categories.csv", {"itemId": "1", "categoryId": "5"}, "diginetica_raw"),
    ],
    "mapped": [Table("mapped.csv", MAPPED_ROW, "mapped", ReadOptions(mapping=MAPPING))],
    "mapped, sorted": [
        Table("mapped.csv", MAPPED_ROW, "mapped", ReadOptions(mapping=msgspec.structs.replace(MAPPING, sort=True)))
    ],
    "items": [Table("feed.csv", {
        "id": "1", "title": "Cap", "availability": "in stock", "price": "5 EUR", "gtin": "5", "link": "https://shop",
    }, "items")],
}  # fmt: skip
DOCUMENTS: Final[dict[str, tuple[dict[str, Any], ReadOptions]]] = {
    "jsonl": (
        {
            "specversion": "1.0", "id": "1", "source": "shop", "type": "view_item", "subject": "ann",
            "time": "2026-03-01T10:00:00Z", "data": {"items": [{"item_id": "1"}]},
        },
        DEFAULTS,
    ),
    "ga4_export": (
        {
            "event_name": "purchase", "event_timestamp": "1709280000123456", "user_pseudo_id": "1.2", "user_id": None,
            "event_params": [{"key": "ga_session_id", "value": {"int_value": 7}}], "items": [{"item_id": "1"}],
            "ecommerce": {"transaction_id": "T9", "purchase_revenue": 25.0},
        },
        DEFAULTS,
    ),
    "amazon_reviews": (
        {"user_id": "A2", "asin": "B9", "parent_asin": "B2", "rating": 5.0, "timestamp": 1433289600000, "text": "Ok"},
        DEFAULTS,
    ),
    "mapped": (dict(MAPPED_ROW), ReadOptions(mapping=MAPPING)),
    "items": ({"id": "1", "title": "Cap", "availability": "in_stock", "price": 5, "retired": False}, DEFAULTS),
}  # fmt: skip
GA4_LINES: Final = st.lists(
    st.one_of(
        VALUES,
        st.fixed_dictionaries(
            {"item_id": st.just("1")},
            optional=dict.fromkeys(("item_name", "price", "quantity", "item_list_index", "item_list_id"), VALUES),
        ),
    ),
    max_size=3,
)
NESTED: Final[dict[str, st.SearchStrategy[Any]]] = {
    "items": GA4_LINES,
    "event_params": st.lists(
        st.fixed_dictionaries({"key": st.sampled_from(GA4_PARAMETERS), "value": VALUES}) | VALUES, max_size=3
    ),
    "ecommerce": st.fixed_dictionaries({}, optional=dict.fromkeys(("transaction_id", "purchase_revenue"), VALUES)),
}


def test_each_kind_is_among_those_tested() -> None:
    assert {*TABLES, *DOCUMENTS} - {"mapped, sorted"} == KINDS.keys() - {"diginetica"}, "whose cells are ids only"


def outcome(path: Path, kind: str, options: ReadOptions) -> None:
    """Read a file; each event must be valid."""
    try:
        if kind == "items":
            list(KINDS[kind](path, options).records())
        else:
            read(path, options, None if kind == "mapped" else kind)
    except Misconfigured:
        pass


def edited(draw: Callable[[Any], Any], row: dict[str, Any], values: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Return a row with some other values."""
    changed = draw(st.lists(st.sampled_from(sorted(row)), max_size=3))
    return {name: draw(NESTED.get(name, values) | values) if name in changed else row[name] for name in row}


@pytest.mark.parametrize("tables", TABLES.values(), ids=TABLES)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_cells_of_tables(tables: list[Table], data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        for table in tables:
            rows = [edited(data.draw, table.row, CELLS) for _ in range(data.draw(st.integers(1, 3)))]
            lines = [";".join(row.values()) for row in (dict(zip(table.row, table.row, strict=True)), *rows)]
            Path(folder, table.name).write_text("\n".join(lines), encoding="utf-8")
        outcome(Path(folder, tables[0].name), tables[0].kind, tables[0].options)


@pytest.mark.parametrize("kind", DOCUMENTS)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_values_of_documents(kind: str, data: st.DataObject) -> None:
    row, options = DOCUMENTS[kind]
    rows = [edited(data.draw, row, VALUES) for _ in range(data.draw(st.integers(1, 3)))]
    with TemporaryDirectory() as folder:
        path = Path(folder, "file")
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        outcome(path, kind, options)
