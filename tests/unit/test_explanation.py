"""`headrace explain-event`: what becomes of an event, compared with what `decode` and the families do."""

import gzip
import io
import json
import os
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from typer.testing import CliRunner

from headrace.errors import Misconfigured
from headrace.events import LEARNED_TYPES, Event, EventType, Rejection, decode
from headrace.log.protocol import RECORD_BYTES_MAX, Record
from headrace.text import visible
from learners.families import FAMILIES, default_placements
from operators.cli import app
from operators.explanation import Fate, Note, documents, explain, lines_of
from tests.hostile import json_texts

NOW_MS = 1_772_400_000_000
NOW = "2026-03-01T21:20:00Z"
PLACEMENTS = list(default_placements().values())


def document(**changes: Any) -> dict[str, Any]:
    event = {
        "specversion": "1.0", "id": "17", "source": "my-shop/web", "type": "purchase", "subject": "ann",
        "time": "2026-03-01T10:00:00Z", "data": {"items": [{"item_id": "sku-1", "price": 12.5, "quantity": 2}]},
    }  # fmt: skip
    return event | changes


def fate(document: dict[str, Any] | bytes, key: bytes | None = None) -> Fate:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return explain(data, PLACEMENTS, line=1, appended_ms=NOW_MS, key=key)


def test_an_accepted_event_says_as_what_it_is_used() -> None:
    found = fate(document(data={"session_id": "s1", "items": [{"item_id": "sku-1", "price": 12.5, "quantity": 2}]}))
    assert (found.accepted, found.type, found.shopper, found.session) == (True, "purchase", "ann", "s1")
    assert found.time == "2026-03-01T10:00:00+00:00"
    assert [(item.item_id, item.price, item.quantity) for item in found.items] == [("sku-1", 12.5, 2)]
    assert found.notes == []


@pytest.mark.parametrize("kind", get_args(EventType))
def test_every_family_says_what_it_learns(kind: str) -> None:
    data = {
        "items": [{"item_id": "a"}], "search_term": "shoes", "rating": 5, "transaction_id": "t", "former_shopper": "p",
    }  # fmt: skip
    found = fate(document(type=kind, data=data))
    assert {one.family: one.what for one in found.lessons} == {
        family.name: family.surface.teaches.get(kind, "") for family in FAMILIES
    }
    by_rounds = [line for line in lines_of(found) if line.startswith("learned by rounds (finetune): ")]
    assert len(by_rounds) == (kind in LEARNED_TYPES)
    assert len([line for line in lines_of(found) if line.startswith("learned by desk (every shard): ")]) == 1


def test_an_unused_event_is_no_fault(clean_environment: None) -> None:
    Path("events.jsonl").write_text(json.dumps(document(type="scroll")))
    assert run("events.jsonl", code=0).startswith("line 1: unused: wanted an event that something can be learned from")


def test_what_is_ignored_or_assumed_is_named() -> None:
    items = [{"item_id": "a", "colour": "red"}, {"item_id": "b", "quantity": 3, "colour": "blue"}, {"item_id": "c"}]
    found = fate(document(trace={"x": 1}, data={"items": items, "shelf": "top"}))
    assert found.notes == [
        Note("trace", "unknown, ignored", '{"x":1}'),
        Note("data.shelf", "unknown, ignored", '"top"'),
        Note("data.items[].colour", "unknown, ignored", '"red"', lines=[1, 2]),
        Note("data.items[].quantity", "absent", used="1", lines=[1, 3]),
    ]
    text = "\n".join(lines_of(found))
    assert 'data.items[].colour: unknown, ignored; found "red" (line 1, 2 of the items)' in text
    assert "data.items[].quantity: absent; used 1 (line 1, 3 of the items)" in text


def test_the_key_is_the_subject_unless_it_is_given() -> None:
    without = document()
    del without["subject"]
    assert fate(document()).shopper == "ann"
    found = fate(without, b"bob")
    assert (found.shopper, found.notes) == ("bob", [Note("subject", "absent", used='"bob"')])
    assert (fate(without).reason, fate(document(), b"bob").reason) == ("key_missing", "key_mismatch")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"nonsense", "not_json"),
        (b'"text"', "schema"),
        (b"[1]", "schema"),
        (b"\xff", "not_json"),
        (b'{"a":' * 100_000, "too_deep"),
        (b'{"a": "' + b"x" * RECORD_BYTES_MAX + b'"}', "too_large"),
        (json.dumps(document(type="view_itm")).encode(), "unknown_event"),
        (json.dumps(document(id=17)).encode(), "schema"),
        (json.dumps(document(data={})).encode(), "items_missing"),
        (json.dumps(document(time="2030-01-01T00:00:00Z")).encode(), "time_ahead"),
        (json.dumps(document(time="1990-01-01T00:00:00Z")).encode(), "time_absurd"),
    ],
)
def test_a_rejected_event_says_why_in_the_words_of_decode(data: bytes, reason: str) -> None:
    """Although it has no key: what is wrong with the document itself comes first."""
    found, wanted = fate(data), decode(Record(0, 0, NOW_MS, b"ann", data))
    assert isinstance(wanted, Rejection)
    assert (found.accepted, found.reason, found.detail) == (False, *wanted)
    assert lines_of(found) == [f"line 1: rejected: {wanted.reason}: {wanted.detail}"]
    assert wanted.reason in (reason, "bad_utf8")


def test_a_number_out_of_range_in_an_ignored_field_is_no_failure() -> None:
    data = json.dumps(document()).encode()[:-1] + b', "big": ' + b"9" * 5_000 + b"}"
    assert isinstance(decode(Record(0, 0, NOW_MS, b"ann", data)), Event)
    assert fate(data).accepted


def read(data: bytes) -> list[tuple[int, bytes]]:
    return list(documents(io.BytesIO(data)))


def test_documents_are_lines_or_one_in_all() -> None:
    one = json.dumps(document()).encode()
    pretty = json.dumps(document(), indent=2).encode()
    assert read(one + b"\n\n  \r\n" + one) == [(1, one), (4, one)]
    assert read(b"\xef\xbb\xbf" + one) == [(1, one)]
    for marked in ("utf-16", "utf-16-le", "utf-16-be"):
        mark = "" if marked == "utf-16" else "\ufeff"
        assert read(f"{mark}{one.decode()}\r\n\n{one.decode()}".encode(marked)) == [(1, one), (3, one)]
    ((line, whole),) = read(b"\n" + pretty + b"\n")
    assert (line, json.loads(whole)) == (2, document())
    assert read(b"nonsense\n" + one) == [(1, b"nonsense"), (2, one)]
    assert read(b"{\n}\nnonsense") == [(1, b"{"), (2, b"}"), (3, b"nonsense")]
    assert read(b"") == read(b"\n \n") == []
    first, second = read(b"x" * (3 * RECORD_BYTES_MAX) + b"\n" + one)
    assert (first[0], len(first[1]) > RECORD_BYTES_MAX, second) == (1, True, (2, one))


@settings(max_examples=200)
@given(json_texts, json_texts)
def test_any_text_is_explained_and_shown(name: str, text: str) -> None:
    given_ = document(subject=text, source=text, data={"session_id": text, name: text, "items": [{"item_id": text}]})
    found = fate(given_)
    expected = decode(Record(0, 0, NOW_MS, text.encode() or b"?", json.dumps(given_).encode()))
    assert found.accepted == (isinstance(expected, Event) and text != "")
    assert all(visible(line).isprintable() for line in lines_of(found))


def run(*arguments: str, stdin: bytes = b"", code: int) -> str:
    result = CliRunner().invoke(app, ["explain-event", *arguments, "--now", NOW], input=stdin)
    assert result.exit_code == code, result.output
    return result.output


def test_the_command_explains_a_file_line_by_line(clean_environment: None) -> None:
    lines = [json.dumps(document(id="\x1b[2J\n")), "nonsense"]
    Path("events.jsonl").write_text("\n".join(lines))
    Path("events.jsonl.gz").write_bytes(gzip.compress(lines[0].encode()))
    text = run("events.jsonl", code=1)
    assert text.startswith(
        "line 1: accepted: purchase of shopper ann at 2026-03-01T10:00:00+00:00\n  item sku-1, price"
    )
    assert "\nline 2: rejected: not_json: JSON is malformed" in text
    assert run("events.jsonl.gz", code=0).startswith("line 1: accepted")
    assert "line 1: rejected: key_mismatch" in run("events.jsonl", "--key", "bob", code=1)


def test_the_command_writes_json_of_standard_input(clean_environment: None) -> None:
    pretty = json.dumps(document(data={"items": [{"item_id": "x" * 100}] * 200}), indent=1)
    (line,) = run("-", "--json", stdin=pretty.encode(), code=0).splitlines()
    found = json.loads(line)
    assert (found["accepted"], found["line"], len(found["items"])) == (True, 1, 200)
    assert [(one["family"], one["shard"]) for one in found["lessons"]] == [
        ("desk", "every shard"),
        *((kind.name, placement.shard.name) for placement in PLACEMENTS for kind in placement.own_kinds),
    ]
    (line,) = run("-", "--json", stdin="ä\u202e".encode(), code=1).splitlines()
    assert json.loads(line)["reason"] == "not_json"
    assert line.isascii()


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["nothing.jsonl"], "nothing.jsonl: wanted a file with events"),
        (["."], "wanted a file with events"),
        (["empty.jsonl"], "wanted at least one event in JSON, found none"),
        (["damaged.gz"], "damaged or truncated"),
        (["empty.jsonl", "--now", "noon"], "--now noon: wanted a time such as"),
    ],
)
def test_what_cannot_be_read_is_misconfigured(clean_environment: None, arguments: list[str], wanted: str) -> None:
    Path("empty.jsonl").touch()
    Path("damaged.gz").write_bytes(gzip.compress(b"{}" * 1_000)[:-9])
    result = CliRunner().invoke(app, ["explain-event", *arguments])
    assert isinstance(result.exception, Misconfigured), result.output
    assert wanted in str(result.exception)


def test_a_pipe_in_utf_16_is_read() -> None:
    event = json.dumps(document()).encode()
    reading, writing = os.pipe()
    with open(writing, "wb") as source:
        source.write(event.decode().encode("utf-16"))
    with open(reading, "rb") as pipe:
        assert list(documents(pipe)) == [(1, event)]
