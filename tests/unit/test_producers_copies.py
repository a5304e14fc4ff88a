"""Online Retail's copies, and lines as they come: dates, zones, encodings, delimiters, quotes, byte order marks."""

import gzip
import json
from collections.abc import Callable
from datetime import UTC
from pathlib import Path

import pytest

from headrace.errors import Misconfigured
from headrace.log.protocol import RECORD_BYTES_MAX
from producers.file import DEFAULTS, ReadOptions
from producers.jsonl import Jsonl
from producers.load import dry_run, kind_of
from producers.table import record_lines_max
from producers.times import DateOrder, zone_of
from tests.files import read

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"
# Source: the columns of Online Retail II, doi 10.24432/C5CG6D.
HEADER_II = "Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country"


def retail(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def row(invoice: int, date: str = "2010-12-01 08:26:00", customer: str = "17850", name: str = "A HEART") -> str:
    return f"{invoice},85123A,{name},6,{date},2.55,{customer},United Kingdom"


def times(path: Path, options: ReadOptions) -> list[str]:
    return [event.time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S") for event in read(path, options)[0]]


@pytest.mark.parametrize(
    ("dates", "options", "wanted"),
    [
        (["12/1/2010 8:26", "12/2/2010 8:26"], (), ["2010-12-01T08:26:00", "2010-12-02T08:26:00"]),
        (["10/12/2010 8:26", "11/11/2010 08:26"], (), ["2010-10-12T08:26:00", "2010-11-11T08:26:00"]),
        (["12/1/2010 8:26", "12/13/2010 8:26"], (), ["2010-12-01T08:26:00", "2010-12-13T08:26:00"]),
        (["01/12/2010 08:26", "13/12/2010 08:26"], (), ["2010-12-01T08:26:00", "2010-12-13T08:26:00"]),
        (["12/01/2010 08:26", "12/31/2010 08:26"], (), ["2010-12-01T08:26:00", "2010-12-31T08:26:00"]),
        (["01/12/10 08:26:59", "13/12/10 08:26"], (), ["2010-12-01T08:26:59", "2010-12-13T08:26:00"]),
        (["01.12.2010 08:26", "31.12.2010 08:26"], (), ["2010-12-01T08:26:00", "2010-12-31T08:26:00"]),
        (["12/1/2010 8:26 PM", "12/1/2010 12:26 AM"], (), ["2010-12-01T00:26:00", "2010-12-01T20:26:00"]),
        (["01-Dec-10 08:26", "2 December 2010"], (), ["2010-12-01T08:26:00", "2010-12-02T00:00:00"]),
        (["2010/12/1 8:26"], (), ["2010-12-01T08:26:00"]),
        (["2010-12-01T08:26:00+05:30"], (), ["2010-12-01T02:56:00"]),
        (["2010-12-01T08:26:00Z"], ("Europe/Berlin",), ["2010-12-01T08:26:00"]),
        (["2010-12-01 08:26"], ("Europe/Berlin",), ["2010-12-01T07:26:00"]),
        (["2010-12-01 08:26"], ("-0300",), ["2010-12-01T11:26:00"]),
        (["01/12/2010 08:26"], ("UTC", "day-first"), ["2010-12-01T08:26:00"]),
        (["01/12/2010 08:26"], ("UTC", "month-first"), ["2010-01-12T08:26:00"]),
    ],
)
def test_dates_are_read_as_they_are_meant(
    tmp_path: Path, dates: list[str], options: tuple[str, DateOrder] | tuple[str] | tuple[()], wanted: list[str]
) -> None:
    path = retail(tmp_path / "retail.csv", *(row(100 + n, date) for n, date in enumerate(dates)))
    zone = zone_of(options[0]) if options else UTC
    assert times(path, ReadOptions(zone=zone, date_order=options[1] if len(options) > 1 else None)) == wanted


@pytest.mark.parametrize(
    ("dates", "said"),
    [
        (["01/12/2010 08:26", "05/12/2010 08:26"], "the date '01/12/2010 08:26' is ambiguous.* --dates month-first or"),
        (["1/12/2010 8:26", "01/12/2010 8:26"], "the date '1/12/2010 8:26' is ambiguous"),
        (["10/12/2010 18:26"], "the date '10/12/2010 18:26' is ambiguous"),
        (["1.12.2010 8:26"], "the date '1.12.2010 8:26' is ambiguous"),
        (["13/12/2010 08:26", "12/13/2010 08:26"], "found 1 with the month first and as many with the day first"),
    ],
)
def test_dates_that_could_be_either_are_refused(tmp_path: Path, dates: list[str], said: str) -> None:
    path = retail(tmp_path / "retail.csv", *(row(100 + n, date) for n, date in enumerate(dates)))
    with pytest.raises(Misconfigured, match=said):
        read(path)


def test_an_unknown_zone_is_refused() -> None:
    with pytest.raises(Misconfigured, match="zone 'Europe/Nowhere': wanted a name such as Europe/Berlin"):
        zone_of("Europe/Nowhere")


@pytest.mark.parametrize("customer", ["", "NA", "nan", "NULL", "None", " null "])
def test_a_missing_customer_is_a_guest_of_the_invoice(tmp_path: Path, customer: str) -> None:
    path = retail(tmp_path / "retail.csv", row(100, customer=customer), row(101, customer="17850.0"))
    assert [event.shopper for event in read(path)[0]] == ["guest-100", "17850"]


def windows(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode("cp1252")


def indexed(text: str) -> bytes:
    return "\n".join(f"{n - 1 if n else ''},{line}" for n, line in enumerate(text.splitlines())).encode()


@pytest.mark.parametrize(
    "converted",
    [
        str.encode,
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: gzip.compress(text.encode("utf-16")),
        windows,
        indexed,
        lambda text: indexed(text).removeprefix(b","),
        lambda text: text.replace(",", ";").encode(),
        lambda text: ("sep=;\n" + text.replace(",", ";")).encode(),
        lambda text: text.replace(",", "\t").encode(),
        lambda text: "\n".join(",".join(f'"{f}"' for f in line.split(",")) for line in text.splitlines()).encode(),
        lambda text: text.replace(HEADER, HEADER_II).encode(),
        lambda text: f"{text}\ufeff{text}".encode(),
    ],
)
def test_copies_of_one_file_give_the_same_events(tmp_path: Path, converted: Callable[[str], bytes]) -> None:
    plain = retail(tmp_path / "plain.csv", row(100, name="FÜR £5"), row(101))
    copy = tmp_path / "copy.csv"
    copy.write_bytes(converted(plain.read_text()))
    assert kind_of(copy) == "online_retail"
    wanted, found = read(plain)[0], read(copy)
    assert found[0][:2] == wanted
    assert wanted[0].data.items[0].item_name == "FÜR £5"
    assert not found[1].rejected


def test_a_comma_may_be_the_decimal_mark(tmp_path: Path) -> None:
    text = row(100).replace(",", ";").replace("2.55", "2,55")
    path = retail(tmp_path / "retail.csv", text, header=HEADER.replace(",", ";"))
    assert read(path)[0][0].data.items[0].price == 2.55


def test_an_unclosed_quote_costs_one_line(tmp_path: Path) -> None:
    """Lines after it hold quotes, too, or none for long, or the file ends."""
    long = [row(1_000 + n) for n in range(record_lines_max + 50)]
    rows = [
        row(100), row(101, name='"A HEART'), row(102), row(103, name='"A, ""LANTERN"""'), row(104, name='12" PLATE'),
        row(105, name='"A HEART'), *long, row(106, name='"TWO\nLINES"'), row(107, name='"A HEART'), row(108),
    ]  # fmt: skip
    events, reader = read(retail(tmp_path / "retail.csv", *rows))
    good = [100, 102, 103, 104, *range(1_000, 1_000 + len(long)), 106, 108]
    assert [event.data.transaction_id for event in events] == [str(n) for n in good]
    assert dict(reader.rejected) == {"quote": 3}
    names = {event.data.transaction_id: event.data.items[0].item_name for event in events}
    assert (names["103"], names["104"], names["106"]) == ('A, "LANTERN"', '12" PLATE', "TWO\nLINES")
    assert reader.examples[0].startswith("line 3: quote: ")


def test_a_torn_row_costs_one_line(tmp_path: Path) -> None:
    events, reader = read(retail(tmp_path / "retail.csv", row(100), row(101)[:20], row(102)))
    assert [event.data.transaction_id for event in events] == ["100", "102"]
    assert reader.examples == ["line 3: row: wanted 8 columns, found 4"]


def native(id_: str, **changed: object) -> str:
    event = {"specversion": "1.0", "id": id_, "source": "shop", "type": "login", "subject": "ann", "data": {}}
    return json.dumps({**event, "time": "2025-03-01T00:00:00Z", **changed})


def test_a_long_or_a_torn_first_line_does_not_hide_the_kind(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join([native("torn")[20:], native("long", junk="x" * 900_000), native("1")]))
    events, reader = read(path)
    assert [event.id for event in events] == ["long", "1"]
    assert sum(reader.rejected.values()) == 1


def test_a_given_kind_wins(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join(["{torn"] * 200 + [native("1")]))
    with pytest.raises(Misconfigured, match="no supported kind"):
        kind_of(path)
    assert [event.id for event in read(path, kind="jsonl")[0]] == ["1"]
    with pytest.raises(Misconfigured, match="wanted the columns InvoiceNo"):
        read(path, kind="online_retail")


def test_byte_order_marks_may_be_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    one, two, three = native("1"), native("2"), native("3")
    path.write_bytes(f"\ufeff{one}\n\ufeff{two}\n".encode() + gzip.decompress(gzip.compress(f"\ufeff{three}".encode())))
    assert [event.id for event in read(path)[0]] == ["1", "2", "3"]
    path.write_bytes(gzip.compress(f"\ufeff{one}\n".encode()) + gzip.compress(f"\ufeff{two}\n".encode()))
    assert [event.id for event in read(path)[0]] == ["1", "2"]


def test_a_reader_starts_anew_while_an_abandoned_reading_is_still_referred_to(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join(native(str(n), junk="x" * 1_000) for n in range(100)))
    reader = Jsonl(path, DEFAULTS)
    abandoned = reader.records()
    next(abandoned)
    again = reader.records()
    next(again)
    del abandoned  # a generator, which is closed now
    assert len(list(again)) == 99


def test_a_line_has_the_size_of_a_record_at_most(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    room = RECORD_BYTES_MAX - len("ann") - len(native("1", junk=""))
    path.write_text("\r\n".join([native("1", junk="x" * room), native("2", junk="x" * (room + 1)), native("3")]))
    events, reader = read(path)
    assert [event.id for event in events] == ["1", "3"]
    assert dict(reader.rejected) == {"too_large": 1}


def test_a_dry_run_counts_and_shows(tmp_path: Path) -> None:
    found = dry_run(retail(tmp_path / "retail.csv", *(row(n) for n in range(100, 120)), row(200)[:20]))
    assert (found.events, dict(found.types), dict(found.rejected)) == (20, {"purchase": 20}, {"row": 1})
    assert [event["data"]["transaction_id"] for event in found.shown] == ["100", "101", "102", "103", "104"]
    assert found.first_time_ms == found.last_time_ms == 1_291_191_960_000
    assert found.origin.startswith("load:online_retail:retail.csv:")
