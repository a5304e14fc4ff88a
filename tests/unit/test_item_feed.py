"""Loading items: JSON lines and feeds for Google Merchant, detection, rejected rows, and loading again."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import Misconfigured
from headrace.items import ItemRecord, decode
from headrace.log.memory import MemoryLog
from headrace.log.scan import topic_records
from headrace.topics import EVENTS, ITEMS, partitions_of
from producers.file import ReadOptions
from producers.load import dry_run, kind_of, load


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog()
    log.create()
    return log


def stated(log: MemoryLog) -> list[ItemRecord]:
    """Return what the log states of items, in order; each record must be valid."""
    found = []
    for record in topic_records(log, ITEMS):
        item = decode(record)
        assert isinstance(item, ItemRecord), item
        found.append(item)
    return found


def write(path: Path, *items: Any) -> Path:
    lines = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in items]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


BOOTS = {"id": "boots", "title": "Red boots", "product_type": "shoes", "price": "50 EUR", "availability": "in stock"}
FEED = (
    "id\ttitle\tdescription\tlink\timage_link\tavailability\tprice\tbrand\tgoogle_product_category\tproduct_type\n"
    'boots\tRed "snow" boots\tWarm\thttps://shop/b\thttps://shop/b.jpg\tin_stock\t50.00 EUR\tAcme\t187\tshoes\n'
    "hat\tHat\t\t\t\tOut of stock\t\t\t\t\n"
)


def test_json_lines_are_published_to_items(log: MemoryLog, tmp_path: Path) -> None:
    path = write(tmp_path / "items.jsonl", BOOTS, b"", {"id": "hat", "retired": True})
    assert kind_of(path) == "items"
    done = load(log, path)
    assert (done.published, done.topic, done.rejected) == (2, ITEMS, {})
    boots, hat = stated(log)
    assert boots == ItemRecord("boots", "Red boots", "", "shoes", {"EUR": 50.0})
    assert (hat.id, hat.retired) == ("hat", True)
    assert all(log.last(place) is None for place in partitions_of(EVENTS))


@pytest.mark.parametrize("delimiter", ["\t", ",", ";"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_feed_for_google_merchant_is_published(log: MemoryLog, tmp_path: Path, delimiter: str, packed: bool) -> None:
    data = ("\ufeff" + FEED.replace("\t", delimiter)).encode()
    path = tmp_path / "feed.txt"
    path.write_bytes(gzip.compress(data) if packed else data)
    assert kind_of(path) == "items"
    assert load(log, path).published == 2
    assert stated(log) == [
        ItemRecord(
            "boots",
            'Red "snow" boots',
            "Acme",
            "shoes",
            {"EUR": 50.0},
            link="https://shop/b",
            image_link="https://shop/b.jpg",
        ),
        ItemRecord("hat", "Hat", available=False),
    ]


def test_without_a_type_of_its_own_an_item_has_google_s(log: MemoryLog, tmp_path: Path) -> None:
    path = tmp_path / "feed.csv"
    path.write_text("id,title,availability,google_product_category\nboots,Boots,in stock,187\n")
    load(log, path)
    assert stated(log) == [ItemRecord("boots", "Boots", category="187")]


def test_what_cannot_be_used_is_counted_by_reason(log: MemoryLog, tmp_path: Path) -> None:
    path = write(
        tmp_path / "items.jsonl", BOOTS, b"noise", {**BOOTS, "price": "cheap"}, {"title": "Hat"}, {"id": "x" * 129},
        {"id": 5, "title": "Hat"}, {**BOOTS, "id": ""},
    )  # fmt: skip
    done = load(log, path)
    boots, unpriced = stated(log)
    assert (boots.prices, unpriced.id, unpriced.prices) == ({"EUR": 50.0}, "boots", {})
    assert done.rejected == {"not_json": 1, "schema": 3, "key_invalid": 1, "key_missing": 1}
    assert done.examples[1].startswith("line 3: schema: price: ")
    with pytest.raises(Misconfigured, match=r"line 2: not_json"):
        load(log, path, options=ReadOptions(strict=True))


def test_a_file_is_stated_anew_each_time(log: MemoryLog, tmp_path: Path) -> None:
    """Its items may have been stated otherwise since, so progress that counts lines would leave the log wrong."""
    first = write(tmp_path / "items.jsonl", BOOTS)
    second = write(tmp_path / "tonight.jsonl", {**BOOTS, "availability": "out of stock"})
    for path in (first, second, first):
        assert load(log, path).published == 1
    assert [item.available for item in stated(log)] == [True, False, True]


def test_a_dry_run_says_what_there_is(tmp_path: Path) -> None:
    found = dry_run(write(tmp_path / "items.jsonl", BOOTS, {"id": "hat", "price": 5}, b"{}"))
    assert (found.types, found.rejected, found.shown[0]["id"]) == ({ITEMS: 2}, {"key_missing": 1}, "boots")


@pytest.mark.parametrize(
    "line",
    [
        b'{"id": "a"}', b'{"title": "x"}', b'{"id": "a", "title": "x", "type": "t"}', b"id,title,price", b"id,title",
        b'{"specversion": "1.0", "id": "a", "title": "x"}', b"[]", b"\xff\xff", b"",
    ],
)  # fmt: skip
def test_other_files_are_no_items(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(Misconfigured, match="its content is of no supported kind"):
        kind_of(write(tmp_path / "file", line))


def test_a_file_of_events_is_still_one(tmp_path: Path) -> None:
    event = {"specversion": "1.0", "type": "view_item", "id": "1", "title": "x", "price": 1}
    assert kind_of(write(tmp_path / "events.jsonl", event, BOOTS)) == "jsonl"


def test_the_example_in_the_documentation_is_a_valid_item(log: MemoryLog, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "publishing.md").read_text(encoding="utf-8")
    _, item = re.findall(r"```json\n(.*?)\n```", page, re.DOTALL)
    load(log, write(tmp_path / "items.jsonl", item.encode()))
    assert stated(log) == [ItemRecord("sku-1", "Red boots", "Acme", "shoes", {"EUR": 49.5})]
