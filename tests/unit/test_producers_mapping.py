"""Mapping files: the example of docs/publishing.md, every field, formats, filters, and what is wrong with a mapping."""

import json
import re
import sys
from datetime import UTC, datetime
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import Misconfigured
from headrace.events import Event
from headrace.log.memory import MemoryLog
from producers.file import FileReader, ReadOptions
from producers.load import load
from producers.mapping import read_mapping
from producers.sorting import Keyed, in_order
from tests.files import read

PAGE = (Path(__file__).parents[2] / "docs" / "publishing.md").read_text(encoding="utf-8")
PLAIN = '[event]\ntype = "view_item"\ntime = "at"\nshopper = "who"\n[item]\nitem_id = "what"\n'


def documented(language: str) -> str:
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(text)


def mapped(folder: Path, mapping: str, content: str | bytes, **options: Any) -> tuple[list[Event], FileReader]:
    """Return the events that a mapping gives for a file's content."""
    (folder / "map.toml").write_text(mapping)
    path = folder / "file"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read(path, ReadOptions(mapping=read_mapping(folder / "map.toml"))._replace(**options))


def test_the_documented_mapping_gives_the_orders_of_the_documented_file(tmp_path: Path) -> None:
    events, reader = mapped(tmp_path, documented("toml"), documented("csv"))
    order, refund = events
    assert (order.type, order.shopper, order.data.transaction_id, order.data.currency) == (
        "purchase", "c-7", "1001", "EUR",
    )  # fmt: skip
    assert order.time.isoformat() == "2026-03-01T09:15:00+00:00"
    assert [(item.item_id, item.item_name, item.price, item.quantity) for item in order.data.items] == [
        ("sku-1", "Red cap", 12.5, 2), ("sku-2", "Blue cap", 9.0, 1),
    ]  # fmt: skip
    assert (refund.type, refund.shopper, refund.data.transaction_id) == ("refund", "c-9", "1003")
    assert dict(reader.left_out) == {"filter": 1}
    assert not reader.rejected


def test_a_mapped_file_that_has_grown_publishes_its_new_part(tmp_path: Path) -> None:
    (tmp_path / "map.toml").write_text(documented("toml"))
    options, log = ReadOptions(mapping=read_mapping(tmp_path / "map.toml")), MemoryLog()
    log.create()
    lines = documented("csv").splitlines()
    for name, count, wanted in (("a", 3, (1, 0)), ("a", 5, (1, 1)), ("b", 5, (0, 2))):
        (tmp_path / name).write_text("\n".join(lines[:count]))
        assert load(log, tmp_path / name, options=options)[:2] == wanted
    (tmp_path / "map.toml").write_text(documented("toml").replace("EUR", "CHF"))
    again = load(log, tmp_path / "b", options=ReadOptions(mapping=read_mapping(tmp_path / "map.toml")))
    assert again[:2] == (2, 0), "another mapping gives other events"


EVERY = """
delimiter = "|"
made_up = ["time"]
[event]
type = "purchase"
time = { column = ["day", "hour"], format = "%Y%m%d %H" }
shopper = "f0"
session_id = "f1"
currency = "f2"
value = "f3"
transaction_id = "f4"
coupon = "f5"
search_term = "f6"
item_list_id = "f7"
promotion_id = "f8"
recommendation_id = "f9"
rating = "f10"
review = "f11"
device = "f20"
country = "f21"
[item]
item_id = "f12"
item_name = "f13"
item_brand = { column = "f14", values = { b = "Brand" } }
item_category = "f15"
price = "f16"
quantity = "f17"
index = "f18"
item_list_id = "f19"
"""


def test_every_field_can_be_mapped(tmp_path: Path) -> None:
    values = "ann|s1|EUR|1,250.5|T1|C|cap|L|P|R|4.5|Good|i1|Cap|b|Hats|2.5|3|4|M|phone|NL"
    header = "|".join(["day", "hour", *(f"f{n}" for n in range(22))])
    (event,), _ = mapped(tmp_path, EVERY, f"{header}\n20260301|7|{values}\n")
    data, (item,) = event.data, event.data.items
    assert (event.shopper, event.time.isoformat()) == ("ann", "2026-03-01T07:00:00+00:00")
    assert (data.session_id, data.currency, data.value, data.transaction_id) == ("s1", "EUR", 1250.5, "T1")
    assert (data.coupon, data.search_term, data.item_list_id, data.promotion_id) == ("C", "cap", "L", "P")
    assert (data.recommendation_id, data.rating, data.review, data.made_up) == ("R", 4.5, "Good", ["time"])
    assert (data.device, data.country) == ("phone", "NL")
    assert (item.item_id, item.item_name, item.item_brand, item.item_category) == ("i1", "Cap", "Brand", "Hats")
    assert (item.price, item.quantity, item.index, item.item_list_id) == (2.5, 3, 4, "M")


@pytest.mark.parametrize(
    ("time", "text", "wanted"),
    [
        ('"at"', "2026-03-01T08:00:00+02:00", 6),
        ('"at"', "2026-03-01 08:00", 8),
        ('{ column = "at", zone = "+02:00" }', "2026-03-01 08:00:00 UTC", 8),
        ('"at"', "2026-03-01 08:00:00.000000 UTC", 8),
        ('"at"', "2026-03-01 08:00:00 +0000", 8),
        ('"at"', "2026-03-01 08:00:00 +0200", 6),
        ('"at"', "1772352000", 8),
        ('"at"', "1772352000000", 8),
        ('"at"', "1772352000000000", 8),
        ('{ column = "at", unit = "s" }', "1772352000.0", 8),
        ('{ column = "at", unit = "us" }', "1772352000000000", 8),
        ('{ column = "at", zone = "+02:00" }', "2026-03-01 08:00", 6),
        ('{ column = "at", format = "%d %b %Y, %H Uhr" }', "01 Mar 2026, 08 Uhr", 8),
        ('{ column = "at", format = "%d/%m/%y %H:%M %z" }', "01/03/26 08:00 +0200", 6),
        ('{ column = "at", date_order = "day-first" }', "01/03/2026 08:00", 8),
        ('"at"', "13/03/2026 08:00", 8 + 12 * 24),
    ],
)
def test_times(tmp_path: Path, time: str, text: str, wanted: int) -> None:
    (event,), _ = mapped(tmp_path, PLAIN.replace('"at"', time), f'at,who,what\n"{text}",ann,i1\n')
    assert (event.time - datetime(2026, 3, 1, tzinfo=UTC)).total_seconds() == wanted * 3_600


def test_types_by_a_column_and_filters(tmp_path: Path) -> None:
    typed = PLAIN.replace('"view_item"', '{ column = "type", values = { v = "view_item", c = "add_to_cart" } }')
    filters = '[[filter]]\ncolumn = "bot"\nnot = [true, "yes"]\n[[filter]]\ncolumn = "shop"\nin = [1, 2]\n'
    rows: list[dict[str, object]] = [
        {"type": "v", "bot": False, "shop": 1}, {"type": "c", "shop": "2"}, {"type": "v", "bot": True, "shop": 1},
        {"type": "v", "bot": "yes", "shop": 1}, {"type": "v", "shop": 3}, {"type": "x", "shop": 1},
    ]  # fmt: skip
    lines = [json.dumps({**row, "at": 1772352000, "who": "ann", "what": 17.0}) for row in rows]
    events, reader = mapped(tmp_path, typed + filters, "\n".join([*lines, "{torn", "[1]"]))
    assert [(event.type, event.data.items[0].item_id) for event in events] == [
        ("view_item", "17"),
        ("add_to_cart", "17"),
    ]
    assert dict(reader.left_out) == {"filter": 3, "event_type": 1}
    assert dict(reader.rejected) == {"not_json": 2}
    own = PLAIN.replace('"view_item"', '{ column = "type" }')
    events, _ = mapped(tmp_path, own, "type,at,who,what\nadd_to_cart,1772352000,ann,i1\nteleport,1772352000,ann,i1\n")
    assert [event.type for event in events] == ["add_to_cart"]


def test_json_may_be_nested(tmp_path: Path) -> None:
    mapping = PLAIN.replace('"who"', '{ column = ["user.id", "user.device"] }')
    rows = [
        {"at": 1772352000 + n, "user": user, "what": "i1"} for n, user in enumerate(({"id": 7}, {"device": "d"}, 3))
    ]
    events, reader = mapped(tmp_path, mapping, "\n".join(map(json.dumps, rows)))
    assert [event.shopper for event in events] == ["7", "d"]
    assert dict(reader.rejected) == {"key_missing": 1}


def test_unusable_rows_are_counted_by_reason(tmp_path: Path) -> None:
    priced = PLAIN + 'price = "price"\n'
    rows = ["1772352000,ann,i1,2.5", ",ann,i1,1", "soon,ann,i1,1", "1772352000,NA,i1,1", "1772352000,ann,i1,cheap",
            "1772352000,ann,(not set),1", "1772352000,ann,i1,-3", "1772352000,ann"]  # fmt: skip
    events, reader = mapped(tmp_path, priced, "\n".join(["at,who,what,price", *rows]))
    assert len(events) == 1
    assert dict(reader.rejected) == {
        "time_missing": 1, "time": 1, "key_missing": 1, "number": 1, "items_missing": 1, "schema": 1, "row": 1,
    }  # fmt: skip
    assert "line 3: time_missing: wanted a time in at, found none" in reader.examples


def test_a_bad_row_of_an_order_costs_itself(tmp_path: Path) -> None:
    mapping = (
        'group = ["order"]\n'
        + PLAIN.replace('"view_item"', '"purchase"').replace(
            "[item]", 'transaction_id = "order"\ncurrency = "money"\nvalue = "total"\n[item]'
        )
        + 'price = "price"\nquantity = "pieces"\n'
    )
    rows = [
        "1,i1,5,1,EUR,5", "1,i2,abc,1,EUR,5", "2,i1,5,0,EUR,5", "2,i2,5,1,EUR,5", "3,i1,-5,1,EUR,5", "3,i2,5,1,EUR,5",
        f"4,{'i' * 129},5,1,EUR,5", "4,i2,5,1,EUR,5", "5,i2,5,1,EURO,cheap", f"{'6' * 129},i2,5,1,EUR,5",
        "7,i1,abc,1,EUR,5", "7,i2,abc,1,EUR,5",
    ]  # fmt: skip
    lines = ["at,who,order,what,price,pieces,money,total", *(f"1772352000,ann,{row}" for row in rows)]
    events, reader = mapped(tmp_path, mapping, "\n".join(lines))
    found = [(one.data.transaction_id, [line.item_id for line in one.data.items]) for one in events]
    assert found == [("1", ["i1"]), *((number, ["i2"]) for number in ("2", "3", "4", "5", ""))]
    assert (events[4].data.currency, events[4].data.value) == ("", None)
    assert dict(reader.rejected) == {"number": 3, "schema": 5}
    assert "line 3: number: wanted a number in price, found 'abc'" in reader.examples


def test_rows_are_sorted_also_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"{1772352000 + n * 37 % 100},ann,i{n}" for n in range(100)]
    monkeypatch.setattr("producers.sorting.run_bytes_max", 5_000)
    events, _ = mapped(tmp_path, "sort = true\n" + PLAIN, "\n".join(["at,who,what", *rows]))
    assert [event.time_ms for event in events] == [1000 * (1772352000 + n) for n in range(100)]
    assert {event.data.items[0].item_id for event in events} == {f"i{n}" for n in range(100)}
    keyed = [Keyed(n * 7 % 10, n % 3, n, b"%d" % n) for n in range(1_000)]
    assert list(in_order(keyed)) == sorted(keyed)


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ("", "missing required field `event`"),
        ("[event", "wanted a TOML file, found: "),
        (PLAIN.replace('shopper = "who"', ""), "missing required field `shopper`"),
        (PLAIN + 'colour = "c"', r"unknown field `colour` - at `\$.item`; known are item_id, item_name, .*_list_id$"),
        ("sorted = true\n" + PLAIN, "unknown field `sorted`; known are event, item, format, .*, filter$"),
        (PLAIN.replace('"at"', '{ column = "at", units = "s" }'), "unknown field `units`.*known are column, format, "),
        (PLAIN.replace('"who"', '{ col = "who" }'), "unknown field `col`.*known are column, value, values$"),
        (PLAIN + '[[filter]]\ncolumn = "a"\nout = 1', "unknown field `out`.*known are column, equals, in, not$"),
        (PLAIN + '[[filter]]\ncolumn = "a"', "filter on a: wanted one of equals, in and not, found none or several"),
        (PLAIN.replace('"view_item"', '"teleport"'), "Invalid enum value 'teleport'"),
        (PLAIN.replace('"who"', "{}"), "wanted either a column or a value for each field"),
        (PLAIN.replace('"at"', '{ column = "at", format = "%Y", unit = "s" }'), "wanted a format or a unit, found"),
        (PLAIN.replace('"at"', '{ column = "at", zone = "Mars" }'), "zone 'Mars': wanted a name such as"),
        ('decimal = ";"\n' + PLAIN, "Invalid enum value ';'"),
    ],
)  # fmt: skip
def test_a_wrong_mapping_says_what_is_wanted(tmp_path: Path, mapping: str, said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        mapped(tmp_path, mapping, "at,who,what\n")


def test_missing_columns_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="wanted the columns at, who, what; found at, user, what"):
        mapped(tmp_path, PLAIN, "at,user,what\n1,ann,i1\n")
    with pytest.raises(Misconfigured, match=r"mapping .*none.toml: wanted a TOML file, found No such file"):
        read_mapping(tmp_path / "none.toml")
    path = tmp_path / "file"
    with pytest.raises(Misconfigured, match="kind 'mapped': wanted a mapping file with it, --map"):
        read(path, kind="mapped")
    with pytest.raises(Misconfigured, match="kind 'jsonl': wanted no kind, or mapped, with a mapping file"):
        read(path, ReadOptions(mapping=read_mapping(tmp_path / "map.toml")), kind="jsonl")


def test_parquet_names_the_extra_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Misconfigured, match=r"Parquet files need pyarrow: pip install 'headrace\[parquet\]'"):
        mapped(tmp_path, PLAIN, b"PAR1")


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="needs pyarrow: pip install 'headrace[parquet]'")
def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [
        {"at": datetime(2026, 3, 1, 8, tzinfo=UTC), "who": 7.0, "what": "i1", "cost": Decimal("2.50")},
        {"at": datetime(2026, 3, 1, 9, tzinfo=UTC), "who": None, "what": "i2", "cost": None},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "table")
    content = (tmp_path / "table").read_bytes()
    events, reader = mapped(tmp_path, PLAIN + 'price = "cost"\n', content)
    (event,) = events
    assert (event.time_ms, event.shopper, event.data.items[0].price) == (1772352000000, "7", 2.5)
    assert dict(reader.rejected) == {"key_missing": 1}
    with pytest.raises(Misconfigured, match="wanted the columns price; found at, who, what, cost"):
        mapped(tmp_path, PLAIN + 'price = "price"\n', content)
    with pytest.raises(Misconfigured, match="wanted a Parquet file, found: "):
        mapped(tmp_path, PLAIN, content[:-20])
