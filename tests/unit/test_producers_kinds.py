"""Public data sets and exports, as small samples with the columns that the readers' docstrings give."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from headrace.log.memory import MemoryLog
from producers.load import kind_of, load, source_of
from tests.files import read


def write(path: Path, *lines: str | dict[str, Any]) -> Path:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def parameter(key: str, **value: Any) -> dict[str, Any]:
    kinds = {"string_value": None, "int_value": None, "float_value": None, "double_value": None}
    return {"key": key, "value": {**kinds, **value}}


def ga4(name: str, **changed: Any) -> dict[str, Any]:
    row = {
        "event_date": "20240301", "event_timestamp": "1709280000123456", "event_name": name, "user_id": None,
        "user_pseudo_id": "123.456", "event_params": [parameter("ga_session_id", int_value="1709280000")],
        "items": [], "ecommerce": None, "platform": "WEB",
    }  # fmt: skip
    return {**row, **changed}


def ga4_item(id_: str, **changed: Any) -> dict[str, Any]:
    return {
        "item_id": id_, "item_name": "Cap", "item_brand": "(not set)", "item_category": "Hats", "price": 12.5,
        "quantity": None, "item_list_name": "(not set)", "item_list_index": "(not set)", **changed,
    }  # fmt: skip


def test_ga4_export(tmp_path: Path) -> None:
    order = {"transaction_id": "T9", "purchase_revenue": 25.0, "total_item_quantity": 2}
    searched = [parameter("search_term", string_value="hat"), parameter("ga_session_id", int_value=7)]
    path = write(
        tmp_path / "events.json.gz",
        ga4("page_view"),
        ga4("view_item", items=[ga4_item("sku-1")], device={"category": "mobile"}, geo={"country": "France"}),
        ga4("view_item", items=[ga4_item("(not set)")]),
        ga4("purchase", event_timestamp=1709280001000000, user_id="ann", ecommerce=order,
            items=[ga4_item("sku-1", quantity="2", item_list_index="3"), ga4_item("(other)")]),
        ga4("view_search_results", event_params=searched),
        ga4("purchase", items=[ga4_item("sku-1")], ecommerce={"transaction_id": "(not set)"}),
        ga4("refund", ecommerce={"transaction_id": "T9", "refund_value": 12.5, "purchase_revenue": 0.0}),
        ga4("login", user_pseudo_id=None),
        ga4("login", event_timestamp="soon"),
        '{"event_name": "login"',
    )  # fmt: skip
    assert kind_of(path) == "ga4_export"
    events, reader = read(path)
    view, purchase, search, unknown, refund = events
    assert (view.type, view.shopper, view.data.session_id) == ("view_item", "123.456", "123.456.1709280000")
    assert view.time.isoformat() == "2024-03-01T08:00:00.123000+00:00"
    assert (view.data.device, view.data.country, purchase.data.device) == ("mobile", "France", "")
    (item,) = view.data.items
    assert (item.item_id, item.item_name, item.item_brand, item.item_category) == ("sku-1", "Cap", "", "Hats")
    assert (item.price, item.quantity, item.index) == (12.5, 1, None)
    assert (purchase.shopper, purchase.data.transaction_id, purchase.data.value) == ("ann", "T9", 25.0)
    assert [(line.item_id, line.quantity, line.index) for line in purchase.data.items] == [("sku-1", 2, 3)]
    assert (search.type, search.data.search_term, search.data.session_id) == ("search", "hat", "123.456.7")
    assert (unknown.type, unknown.data.transaction_id) == ("purchase", "")
    assert (refund.type, refund.data.value) == ("refund", 12.5)
    assert dict(reader.rejected) == {"key_missing": 1, "time": 1, "not_json": 1}
    assert dict(reader.left_out) == {"event_type": 1, "item": 2, "items_missing": 1}


def test_ga4_export_without_what_cannot_be_used(tmp_path: Path) -> None:
    odd = [
        ga4_item("a", price="cheap"), None, "b", ga4_item("c", quantity="two"), ga4_item("d", quantity=-1),
        ga4_item("e"), ga4_item("f" * 129), ga4_item("(not set)"), ga4_item("g", item_list_index=1e300),
    ]  # fmt: skip
    order = {"transaction_id": "T" * 129, "purchase_revenue": "abc"}
    parameters = [None, parameter("currency", string_value="EURO"), parameter("coupon", string_value="C")]
    path = write(
        tmp_path / "events.json",
        ga4("purchase", items=odd, ecommerce=order, event_params=parameters),
        ga4("purchase", items=[None, ga4_item("a", price="cheap")]),
        ga4("purchase", items=[ga4_item("a")], ecommerce=[1], event_params={"key": 1}, user_id=["x"]),
        ga4(
            "login",
            event_timestamp="2024-03-01 08:00:00.500000 UTC",
            items=[None],
            ecommerce={"transaction_id": {"a": 1}},
        ),
        ga4("view_item", items={"item_id": "a"}),
    )
    (first, second, login), reader = read(path)
    assert [line.item_id for line in first.data.items] == ["e"]
    data = first.data
    assert (data.value, data.currency, data.transaction_id, data.coupon) == (None, "", "", "C")
    assert (second.shopper, second.data.value, len(second.data.items)) == ("123.456", None, 1)
    assert (login.type, login.data.items, login.time_ms) == ("login", [], 1709280000500)
    assert dict(reader.rejected) == {"number": 3, "schema": 9, "items_missing": 1}
    assert dict(reader.left_out) == {"item": 1}
    assert "line 1: number: wanted a number, found 'abc'" in reader.examples


@pytest.mark.parametrize("year", [2018, 2023])
def test_amazon_reviews(tmp_path: Path, year: int) -> None:
    rows: list[dict[str, Any]] = [
        {
            "overall": 5.0, "verified": True, "reviewTime": "06 3, 2015", "reviewerID": "A2", "asin": "B2",
            "reviewerName": "Ann", "reviewText": "Fits.", "summary": "Good", "unixReviewTime": 1433289600,
        },
        {"overall": 2.0, "reviewerID": "A1", "asin": "B1", "summary": "Bad", "unixReviewTime": 1433203200},
        {"overall": None, "reviewerID": "A3", "asin": "B1", "unixReviewTime": 1433203201},
    ]  # fmt: skip
    if year == 2023:
        rows = [
            {
                "rating": 5.0, "title": "Good", "text": "Fits.", "images": [], "asin": "B9", "parent_asin": "B2",
                "user_id": "A2", "timestamp": 1433289600000, "helpful_vote": 0, "verified_purchase": True,
            },
            {"rating": 2.0, "title": "Bad", "asin": "B1", "user_id": "A1", "timestamp": 1433203200000},
            {"rating": None, "title": "", "asin": "B1", "user_id": "A3", "timestamp": 1433203201000},
        ]  # fmt: skip
    path = write(tmp_path / "reviews.jsonl", *rows)
    assert kind_of(path) == "amazon_reviews"
    assert source_of(path).lacks == {"views", "purchases"}
    events, reader = read(path)
    found = [(one.type, one.shopper, one.data.items[0].item_id, one.data.rating, one.data.review) for one in events]
    assert found == [("review", "A1", "B1", 2.0, "Bad"), ("review", "A2", "B2", 5.0, "Fits.")]
    assert [one.time_ms for one in events] == [1433203200000, 1433289600000]
    assert dict(reader.rejected) == {"rating_missing": 1}


def test_retailrocket(tmp_path: Path) -> None:
    path = write(
        tmp_path / "events.csv",
        "timestamp,visitorid,event,itemid,transactionid",
        "1433221400000,7,transaction,100,55",
        "1433221332117,7,view,100,",
        "1433221350000.0,8,view,100,",
        "1433221390000,7,addtocart,100,",
        "1433221399999,9,view,200,",
        "1433221400001,8,view,300,",
        "1433221400002,7,transaction,200,55",
        "soon,7,view,100,",
        "1433221400003,7,like,100,",
    )
    first = ("timestamp,itemid,property,value", "1433221340000,100,categoryid,12", "1433221340000,100,790,n55")
    write(tmp_path / "item_properties_part1.csv", *first, "1433221300000.0,100,categoryid,11", "²,100,categoryid,1")
    write(tmp_path / "item_properties_part2.csv.gz", first[0], "1433221500000,200,categoryid,13")
    assert kind_of(path) == "retailrocket"
    events, reader = read(path)
    found = [(one.type, one.shopper, [(i.item_id, i.item_category) for i in one.data.items]) for one in events]
    assert found == [
        ("view_item", "7", [("100", "11")]), ("view_item", "8", [("100", "12")]), ("add_to_cart", "7", [("100", "12")]),
        ("view_item", "9", [("200", "13")]),
        ("purchase", "7", [("100", "12"), ("200", "13")]),
        ("view_item", "8", [("300", "")]),
    ]  # fmt: skip
    assert events[4].data.transaction_id == "55"
    assert (dict(reader.rejected), dict(reader.left_out)) == ({"time": 1, "row": 1}, {"event_type": 1})


def test_diginetica_as_published(tmp_path: Path) -> None:
    path = write(
        tmp_path / "train-item-views.csv",
        "sessionId;userId;itemId;timeframe;eventdate",
        "1;NA;81766;526309;2016-05-09",
        "1;NA;31331;1031018;2016-05-09",
        "2;77;32118;243569;2016-05-08",
        "2;77;32118;late;2016-05-08",
    )
    events, _ = read(path)
    assert [len(one.data.items) for one in events] == [1, 1, 1], "the other files need not be there"
    write(
        tmp_path / "train-purchases.csv",
        "sessionId;userId;timeframe;eventdate;ordernumber;itemId",
        "2;77;343569;2016-05-08;16421;32118",
        "2;77;343569;2016-05-08;16421;81766",
    )
    write(tmp_path / "products.csv", "itemId;pricelog2;product.name.tokens", "32118;3.5;1,2", "81766;NA;3")
    write(tmp_path / "product-categories.csv", "itemId;categoryId", "32118;904", "81766;905")
    assert kind_of(path) == "diginetica_raw"
    assert source_of(path).lacks == {"clock"}
    events, reader = read(path)
    assert [(one.type, one.shopper, one.time.date().isoformat()) for one in events] == [
        ("view_item", "77", "2016-05-08"), ("purchase", "77", "2016-05-08"),
        ("view_item", "session-1", "2016-05-09"), ("view_item", "session-1", "2016-05-09"),
    ]  # fmt: skip
    assert events[1].time_ms - events[0].time_ms == 100_000
    assert events[1].data.transaction_id == "16421"
    lines = [(line.item_id, line.item_category, line.price) for line in events[1].data.items]
    assert lines == [("32118", "904", 11.31), ("81766", "905", None)]
    assert all(one.data.made_up == ["time"] and one.data.session_id for one in events)
    assert dict(reader.rejected) == {"time": 1}


RETAIL = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"
ROCKET = "timestamp,visitorid,event,itemid,transactionid"
GROWN = {
    "online_retail": [
        RETAIL,
        *(f"10{n},85123A,HEART,6,2010-12-0{d} 0{8 + n % 2}:26,2.55,17850,UK" for d in (1, 2) for n in range(4)),
    ],
    "retailrocket": [ROCKET, *(f"14332213{n * 7 % 10}2117,{n % 2},view,{n // 3}," for n in range(9))],
    "amazon_reviews": [
        json.dumps({"reviewerID": "A", "asin": f"B{n % 3}", "overall": 5, "unixReviewTime": 1433203200 + n % 2 * 86400})
        for n in range(9)
    ],
}


@pytest.mark.parametrize("kind", GROWN)
@pytest.mark.parametrize("first", [3, 5, 8])
def test_of_a_grown_file_that_is_sorted_the_new_lines_are_published(tmp_path: Path, kind: str, first: int) -> None:
    """They belong before what is published; some rows are equal."""
    log, lines = MemoryLog(), [*GROWN[kind], GROWN[kind][-1]]
    log.create()
    path = write(tmp_path / "file", *lines[:first])
    begun = load(log, path)
    assert kind_of(path) == kind
    grown = load(log, write(tmp_path / "grown", *lines))
    assert (begun.already_published, grown.already_published) == (0, begun.published)
    assert load(log, write(tmp_path / "again", *lines))[:2] == (0, begun.published + grown.published)
    whole = MemoryLog()
    whole.create()
    assert load(whole, path.parent / "grown").published == begun.published + grown.published
