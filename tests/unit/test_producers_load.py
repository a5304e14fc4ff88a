"""Loading files: detection of the kind, checksums, the rules of each kind, damaged files, and resuming."""

import csv
import gzip
import hashlib
import io
import json
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import Misconfigured
from headrace.events import Event, decode, items_max
from headrace.log.memory import MemoryLog
from headrace.log.protocol import Log
from headrace.log.scan import partition_records
from headrace.pseudonyms import Secret
from headrace.topics import EVENTS, partitions_of
from producers.file import ReadOptions
from producers.load import KNOWN_SHA256, dry_run, kind_of, load, source_of
from producers.online_retail import COLUMNS
from producers.publisher import Progress

STRICT = ReadOptions(strict=True)


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog()
    log.create()
    return log


def published(log: Log) -> list[Event]:
    """Return all events, in order within each partition; each must be valid."""
    out = []
    for place in partitions_of(EVENTS):
        for record in partition_records(log, place):
            event = decode(record)
            assert isinstance(event, Event), event
            out.append(event)
    return out


def by_id(log: Log) -> list[Event]:
    return sorted(published(log), key=lambda event: int(event.id.partition("-")[0]))


def native(n: int, **changed: Any) -> dict[str, Any]:
    event = {
        "specversion": "1.0", "id": f"mine-{n}", "source": "shop", "type": "view_item", "subject": f"anna-{n % 5}",
        "time": f"2025-03-01T00:00:{n % 60:02d}Z", "data": {"items": [{"item_id": f"i{n}"}]},
    }  # fmt: skip
    return {**event, **changed}


def write_jsonl(path: Path, lines: list[bytes]) -> Path:
    content = b"\n".join(lines)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.gz"])
def test_jsonl_keeps_the_users_events_and_counts_bad_lines(log: MemoryLog, tmp_path: Path, name: str) -> None:
    good = [json.dumps(native(n)).encode() for n in range(40)]
    bad = {
        "not_json": b"{not json}",
        "bad_utf8": json.dumps(native(91)).encode().replace(b"anna", b"\xff"),
        "unknown_event": json.dumps(native(92, type="teleport")).encode(),
        "key_missing": json.dumps(native(93, subject="")).encode(),
        "key_invalid": json.dumps(native(94, subject="ä" * 128 + "x")).encode(),
        "items_missing": json.dumps(native(95, data={})).encode(),
        "time_ahead": json.dumps(native(96, time="2125-01-01T00:00:00Z")).encode(),
        "time_absurd": json.dumps(native(97, time="1925-01-01T00:00:00Z")).encode(),
        "too_large": json.dumps(native(98, junk="x" * 1_100_000)).encode(),
        "too_deep": b'{"specversion":"1.0","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    }
    lines = [*good[:10], b"", b"  \r", *bad.values(), *good[10:39], b"  " + good[39] + b" \r"]
    result = load(log, write_jsonl(tmp_path / name, lines))
    assert (result.published, result.already_published) == (40, 0)
    assert {reason: 1 for reason in bad if reason != "key_invalid"} | {"schema": 1} == dict(result.rejected)
    assert result.examples[0].startswith("line 13: not_json")
    found = published(log)
    assert sorted(event.id for event in found) == sorted(f"mine-{n}" for n in range(40))
    assert {event.source for event in found} == {"shop"}


def test_jsonl_counts_repeated_ids_of_the_file(log: MemoryLog, tmp_path: Path) -> None:
    """They are published as they are, because the log may be read by others; consumers drop them."""
    again = [native(0, subject="bob"), native(1), native(2, source="another shop")]  # the last one is no repeat
    path = write_jsonl(tmp_path / "mine.jsonl", [json.dumps(one).encode() for one in [*map(native, range(10)), *again]])
    assert (dry_run(path).events, dry_run(path).repeats) == (13, 2)
    for published_now in (13, 0):
        result = load(log, path)
        assert (result.published, result.repeats) == (published_now, 2)


def test_jsonl_resumes(log: MemoryLog, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "mine.jsonl", [json.dumps(native(n)).encode() for n in range(50)])
    assert load(log, path, limit=20).published == 20
    shares: list[Progress] = []
    again = load(log, path, progress=shares.append)
    assert (again.published, again.already_published) == (30, 20)
    assert sorted(event.id for event in published(log)) == sorted(f"mine-{n}" for n in range(50))
    assert shares[-1].share == 1.0


def test_a_grown_file_publishes_its_new_part(log: MemoryLog, tmp_path: Path) -> None:
    """The last line is torn at first; the file is renamed and packed at last."""
    lines = [json.dumps(native(n)).encode() for n in range(60)]
    path = write_jsonl(tmp_path / "mine.jsonl", [*lines[:50], lines[50][:40]])
    assert load(log, path)[:2] == (50, 0)
    write_jsonl(path, lines)
    assert load(log, path)[:2] == (10, 50)
    renamed = write_jsonl(tmp_path / "renamed.gz", [*lines, json.dumps(native(60)).encode()])
    assert load(log, renamed)[:2] == (1, 60)
    assert load(log, write_jsonl(tmp_path / "shorter.jsonl", lines[:40]))[:2] == (0, 40)
    assert sorted({event.id for event in published(log)}) == sorted(f"mine-{n}" for n in range(61))


def test_strict_publishes_nothing_of_a_file_with_a_bad_line(log: MemoryLog, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "mine.jsonl", [json.dumps(native(0)).encode(), b"{}"])
    with pytest.raises(Misconfigured, match="line 2"):
        load(log, path, options=STRICT)
    write_jsonl(path, [json.dumps(native(n)).encode() for n in range(2)])
    assert load(log, path, options=STRICT)[:2] == (2, 0), "the repaired file is accepted"


def test_files_with_different_names_have_different_origins(log: MemoryLog, tmp_path: Path) -> None:
    for n, name in enumerate(
        ("月.jsonl", "火.jsonl", "a b.jsonl", "a_b.jsonl", f"{'x' * 99}1.jsonl", f"{'x' * 99}2.jsonl")
    ):
        assert load(log, write_jsonl(tmp_path / name, [json.dumps(native(n)).encode()])).published == 1


def test_a_file_without_a_valid_line_is_rejected(log: MemoryLog, tmp_path: Path) -> None:
    bad = b'{"specversion":"1.0","type":"view_item"}'
    path = write_jsonl(tmp_path / "mine.jsonl", [bad, b"{}", b"not json"])
    with pytest.raises(Misconfigured, match=r"at least one event, found only 1 not_json, 2 schema; the first: line 1:"):
        load(log, path)
    one = write_jsonl(tmp_path / "one.jsonl", [bad, json.dumps(native(0)).encode()])
    assert load(log, one, time_to_ms=0).published == 0, "a valid event outside the range is no error"


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.gz", "retail.csv"])
def test_a_byte_order_mark_is_skipped(log: MemoryLog, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "retail.csv":
        retail(path, [line("100"), line("101")])
    else:
        write_jsonl(path, [json.dumps(native(n)).encode() for n in range(2)])
    content, mark = path.read_bytes(), b"\xef\xbb\xbf"
    path.write_bytes(gzip.compress(mark + gzip.decompress(content)) if path.suffix == ".gz" else mark + content)
    assert load(log, path)[:2] == (2, 0)
    assert load(log, path)[:2] == (0, 2)


def test_a_truncated_gzip_file_is_misconfigured(log: MemoryLog, tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "mine.gz", [json.dumps(native(n, junk=os.urandom(90).hex())).encode() for n in range(2_000)]
    )
    path.write_bytes(path.read_bytes()[:-50_000])
    with pytest.raises(Misconfigured, match="truncated"):
        load(log, path)
    assert not published(log), "nothing may be published, as the complete file has another origin"


def retail(path: Path, rows: list[list[str]]) -> Path:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([COLUMNS, *rows])
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def line(invoice: str, code: str = "85123A", quantity: str = "2", time: str = "08:26", price: str = "2.55",
         customer: str = "17850.0", day: str = "2010-12-01") -> list[str]:  # fmt: skip
    return [invoice, code, "A, LANTERN", quantity, f"{day} {time}:00", price, customer, "United Kingdom"]


@pytest.mark.parametrize("name", ["retail.csv", "retail.csv.gz"])
def test_online_retail_follows_its_rules(log: MemoryLog, tmp_path: Path, name: str) -> None:
    rows = [
        line("100", time="09:00"), line("100", "22423", "1", "09:01", "10.0"), line("100", "POST", time="09:00"),
        line("C101", quantity="-3", time="08:30"),
        line("102", customer="", time="08:29"), line("102", "71053", "0", "08:29"), line("102", "71053", "-5", "08:29"),
        line("103", price="0", time="08:40"),
        line("A104", "B", "1", "08:50", "-11062.06"),
        line("105", quantity="many", time="08:51"),
        line("106", "DCGS0003", day="2010-12-02", time="07:00"),
    ]  # fmt: skip
    result = load(log, retail(tmp_path / name, rows))
    guest, refund, purchase, next_day = by_id(log)
    assert (purchase.type, purchase.shopper, purchase.data.transaction_id) == ("purchase", "17850", "100")
    assert [(item.item_id, item.quantity, item.price) for item in purchase.data.items] == [
        ("85123A", 2, 2.55),
        ("22423", 1, 10.0),
    ]
    assert (purchase.data.value, purchase.data.currency) == (15.1, "GBP")
    assert purchase.data.items[0].item_name == "A, LANTERN"
    assert purchase.time.isoformat() == "2010-12-01T09:00:00+00:00"
    assert (refund.type, refund.data.items[0].quantity, refund.data.transaction_id) == ("refund", 3, "C101")
    assert (guest.shopper, len(guest.data.items)) == ("guest-102", 1)
    assert next_day.data.items[0].item_id == "DCGS0003"
    assert dict(result.rejected) == {
        "not_a_product": 1, "quantity": 2, "price": 1, "invoice_empty": 1, "adjustment": 1, "row": 1,
    }  # fmt: skip


def test_online_retail_splits_an_invoice_with_too_many_lines(log: MemoryLog, tmp_path: Path) -> None:
    rows = [line("100", f"{n:05d}") for n in range(items_max * 2 + 5)]
    load(log, retail(tmp_path / "retail.csv", [*rows, line("101")]))
    found = by_id(log)
    assert [len(event.data.items) for event in found] == [items_max, items_max, 5, 1]
    assert [event.data.transaction_id for event in found] == ["100", "100", "100", "101"]
    assert sum(event.data.value or 0 for event in found[:3]) == pytest.approx(5.1 * len(rows))


def test_online_retail_resumes(log: MemoryLog, tmp_path: Path) -> None:
    rows = [line(str(n), customer=f"{n % 9}.0", time=f"{8 + n // 60:02d}:{n % 60:02d}") for n in range(200)]
    path = retail(tmp_path / "retail.csv", rows)
    assert load(log, path, limit=77).published == 77
    assert load(log, path)[:2] == (123, 77)
    assert [event.data.transaction_id for event in by_id(log)] == [str(n) for n in range(200)]


PERIODS = {0: "7 1\n8 2\n7 3\n", 2: "9 1\nbad line here\n9 5\n", 10: "11 6\n"}


@pytest.mark.parametrize("packed", [False, True])
def test_diginetica_keeps_the_order_and_marks_synthetic_times(log: MemoryLog, tmp_path: Path, packed: bool) -> None:
    folder = tmp_path / "periods"
    folder.mkdir()
    for number, text in PERIODS.items():
        (folder / f"period_{number}.txt").write_text(text)
    path = folder
    if packed:
        path = tmp_path / "periods.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for file in sorted(folder.iterdir()):
                archive.add(file, file.name)
    result = load(log, path)
    found = by_id(log)
    assert [(event.shopper, event.data.items[0].item_id) for event in found] == [
        ("session-7", "1"), ("session-8", "2"), ("session-7", "3"),
        ("session-9", "1"), ("session-9", "5"),
        ("session-11", "6"),
    ]  # fmt: skip
    assert all(event.data.made_up == ["time"] and event.type == "view_item" for event in found)
    times = [event.time_ms for event in found]
    assert times == sorted(times)
    assert times[3] - times[0] == 2 * 7 * 86_400_000
    assert dict(result.rejected) == {"row": 1}
    assert source_of(path).lacks == {"clock", "purchases"}
    assert load(log, path)[:2] == (0, 6)


@pytest.mark.parametrize(
    ("day", "customer", "reason"),
    [
        ("0001-01-01", "17850.0", "time_absurd"),
        ("2099-01-01", "17850.0", "time_ahead"),
        ("2010-12-01", "x" * 200, "schema"),
    ],
)
def test_online_retail_rejects_what_no_consumer_accepts(
    log: MemoryLog, tmp_path: Path, day: str, customer: str, reason: str
) -> None:
    path = retail(tmp_path / "retail.csv", [line("100"), line("101", day=day, customer=customer)])
    result = load(log, path)
    assert (result.published, dict(result.rejected)) == (1, {reason: 1})
    with pytest.raises(Misconfigured, match="line 3"):
        load(
            log, retail(tmp_path / "other.csv", [line("100"), line("101", day=day, customer=customer)]), options=STRICT
        )
    assert len(published(log)) == 1


def archive_of(path: Path, *members: tuple[str, bytes | None]) -> Path:
    """Write a plain tar file; a member without content is a broken link."""
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "nowhere"
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content or b""))
    return path


@pytest.mark.parametrize("again", ["period_0.txt", "b/period_00.txt"])
def test_a_duplicate_period_is_misconfigured(log: MemoryLog, tmp_path: Path, again: str) -> None:
    path = archive_of(tmp_path / "p.tar", ("period_0.txt", b"1 2\n"), (again, b"3 4\n"))
    with pytest.raises(Misconfigured, match=f"each period once, found period_0.txt and {again}"):
        load(log, path)


def test_a_truncated_tar_file_is_misconfigured(log: MemoryLog, tmp_path: Path) -> None:
    path = archive_of(tmp_path / "p.tar", ("period_0.txt", b"1 2\n"), ("period_1.txt", b"3 4\n" * 1_000))
    path.write_bytes(path.read_bytes()[:2_000])
    with pytest.raises(Misconfigured, match="damaged or truncated"):
        load(log, path)
    assert not published(log)


def test_periods_that_are_not_files_or_have_too_high_a_number_are_rejected(log: MemoryLog, tmp_path: Path) -> None:
    odd = (("period_1.txt", None), ("period_999999.txt", b"5 6\n"))
    result = load(log, archive_of(tmp_path / "p.tar", ("period_0.txt", b"1 2\n"), *odd))
    assert (result.published, dict(result.rejected)) == (1, {"period": 2})
    folder = tmp_path / "periods"
    (folder / "period_1.txt").mkdir(parents=True)
    (folder / "period_0.txt").write_bytes(b"3 4\n")
    result = load(log, folder)
    assert (result.published, dict(result.rejected)) == (1, {"period": 1})


@pytest.mark.parametrize(
    "content",
    [b"", b"hello\n", b"user item\n1 2\n", b'{"a": 1}\n', b"\x1f\x8bnot gzip", b"\x00\xff" * 100, b"[1, 2]\n"],
)
def test_an_unknown_kind_says_what_is_wanted(log: MemoryLog, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(Misconfigured, match=r"no supported kind. Wanted jsonl: .*online_retail: .*diginetica: "):
        load(log, path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "nothing in it"), (b" \n\n", "nothing in it"), (b"hello\n", "a file that begins with 'hello'"),
        (json.dumps([native(0)] * 20_000).encode(), r"a JSON array: .*jq -c '\.\[\]'"),
        (json.dumps([native(0)], indent=1).encode("utf-16"), "a JSON array"),
        (json.dumps(native(0), indent=2).encode(), "JSON in which a document has several lines: .*jq -c"),
        (gzip.compress(json.dumps(native(0), indent=2).encode()), "JSON in which a document has several lines"),
        (b"{torn}\n{torn}\n", "a file that begins with '{torn}"),
        (json.dumps(native(0)).encode("utf-16-le") * 2, "a file that begins with '{"),
        (json.dumps({"a": "x" * 5_000}).encode(), "a file that begins with '{\"a\": \"xx"),
    ],
)  # fmt: skip
def test_what_an_unknown_kind_holds_is_said(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(Misconfigured, match=f"Found {found}"):
        kind_of(path)


def test_a_file_without_rows_is_refused(log: MemoryLog, tmp_path: Path) -> None:
    path = retail(tmp_path / "retail.csv", [])
    for read_file in (lambda: load(log, path), lambda: dry_run(path)):
        with pytest.raises(Misconfigured, match=r"at least one event, found none: it is empty, or has a header alone"):
            read_file()
    array = write_jsonl(tmp_path / "array", [json.dumps([native(0)]).encode()])
    with pytest.raises(Misconfigured, match=r"found only 1 schema; .*; the file is a JSON array: write each"):
        load(log, array, kind="ga4_export")


def test_kind_and_path_are_checked(log: MemoryLog, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "mine.jsonl", [json.dumps(native(0)).encode()])
    assert kind_of(path) == "jsonl"
    with pytest.raises(Misconfigured, match=r"wanted one of jsonl, ga4_export, .*, diginetica, mapped"):
        load(log, path, kind="parquet")
    with pytest.raises(Misconfigured, match=r"wanted the columns InvoiceNo, .*; found \{"):
        load(log, path, kind="online_retail")
    with pytest.raises(Misconfigured, match="no such file"):
        load(log, tmp_path / "absent")
    with pytest.raises(Misconfigured, match="no supported kind"):
        load(log, tmp_path)


def test_checksums_are_verified(log: MemoryLog, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "mine.jsonl", [json.dumps(native(0)).encode()])
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(Misconfigured, match=f"found {right}"):
        load(log, path, sha256="0" * 64)
    with pytest.raises(Misconfigured, match="64 hexadecimal"):
        load(log, path, sha256="abc")
    assert load(log, path, sha256=right.upper()).published == 1
    known = retail(tmp_path / "online_retail.csv.gz", [line("100")])
    with pytest.raises(Misconfigured, match=KNOWN_SHA256["online_retail.csv.gz"]):
        load(log, known)
    assert load(log, known, sha256=hashlib.sha256(known.read_bytes()).hexdigest()).published == 1


@pytest.mark.full  # a million events; files of these kinds are made and tested always
@pytest.mark.parametrize(("name", "events"), [("online_retail.csv.gz", 23_196), ("diginetica_periods.tar.gz", 993_483)])
def test_the_published_files(log: MemoryLog, name: str, events: int) -> None:
    folder = os.environ.get("HEADRACE_DATA")
    if not folder or not (Path(folder) / name).exists():
        pytest.skip(f"needs HEADRACE_DATA: a folder that holds {name}")
    limit = 30_000
    assert load(log, Path(folder) / name, limit=limit).published == min(limit, events)
    assert len(published(log)) == min(limit, events)


def test_the_example_in_the_documentation_is_a_valid_event(log: MemoryLog, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "publishing.md").read_text(encoding="utf-8")
    line, _ = re.findall(r"```json\n(.*?)\n```", page, re.DOTALL)
    load(log, write_jsonl(tmp_path / "events.jsonl", [line.encode()]))
    assert [(event.shopper, event.type) for event in published(log)] == [("shopper-1", "purchase")]


def test_ids_become_the_pseudonyms_of_the_gateway(log: MemoryLog, tmp_path: Path) -> None:
    secret = Secret(1, b"0" * 32, 0)
    session = {"items": [{"item_id": "i0"}], "session_id": "s-1", "email": "ann@example.com"}
    lines = [native(0, data=session), native(1), native(2, subject="(not set)")]
    path = write_jsonl(tmp_path / "own.jsonl", [json.dumps(line).encode() for line in lines])
    options = ReadOptions(secret=secret)
    assert load(log, path, options=options).published == 2
    found = {event.id: event for event in published(log)}
    assert {id_: event.shopper for id_, event in found.items()} == {
        "mine-0": secret.shopper("anna-0"),
        "mine-1": secret.shopper("anna-1"),
    }
    assert (found["mine-0"].data.session_id, found["mine-1"].data.session_id) == (secret.session("s-1"), "")
    for place in partitions_of(EVENTS):
        for record in partition_records(log, place):
            assert record.value is not None
            assert not any(own in record.value for own in (b"anna", b"s-1", b"ann@")), record.value
    assert [one["subject"] for one in dry_run(path, options=options).shown] == [
        secret.shopper("anna-0"),
        secret.shopper("anna-1"),
    ]
    again = load(log, path, options=ReadOptions(secret=Secret(2, b"1" * 32, 0)))
    assert (again.published, again.already_published) == (0, 2), (
        "an event is published once, however its ids are written"
    )
