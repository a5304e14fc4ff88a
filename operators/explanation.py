"""The fate of an event: what becomes of a JSON document as a record of `events`, and which families learn from it.

Whether an event is used, and what of it, is asked of `headrace.events.decode`, what it teaches of the families'
declarations. So the only rule here is the comparison of a document with the event that was made of it.
"""

from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import IO, Any, Final

import msgspec
from msgspec import Raw, Struct

from headrace.events import Event, Item, Rejection, at, decode
from headrace.log.protocol import RECORD_BYTES_MAX, Record
from headrace.text import visible
from learners.families import Placement
from learners.family import EVERY_SHARD
from producers.file import in_utf8

_WHITE: Final = b" \t\r\n"
_UNKNOWN_KEY: Final = b"?"
_LINES: Final = "data.items"
found_characters_max: Final = 80
"""Most characters of a value that a note repeats."""
items_shown_max: Final = 10
"""Most items, and most numbers of lines, that are shown on a terminal."""


class Note(Struct, omit_defaults=True):
    """A field that an event does not have as the document says it, and why.

    `found` is its value in the document and `used` the one in the event, both in JSON; empty if there is none. `lines`
    are the numbers of the lines of `data.items` that it is about.
    """

    field: str
    why: str
    found: str = ""
    used: str = ""
    lines: list[int] = []


class Lesson(Struct):
    """What a family learns from an event; empty if it learns nothing."""

    family: str
    shard: str
    what: str


class Fate(Struct, kw_only=True, omit_defaults=True):
    """What becomes of a document that begins in a line of the input.

    Of a rejected one, `reason` is the code and `detail` says what was wanted and found. Of an accepted one, `time` is
    the event's time in UTC, `items` are the lines that are used, and `lessons` has each family of each shard.
    """

    line: int
    accepted: bool
    reason: str = ""
    detail: str = ""
    type: str = ""
    shopper: str = ""
    session: str = ""
    time: str = ""
    items: list[Item] = []
    notes: list[Note] = []
    lessons: list[Lesson] = []

    @property
    def unused(self) -> bool:
        """Whether it is an event of GA4 that teaches nothing: it is no fault, and becomes no dead letter."""
        return self.reason == "unused"


class _Subject(Struct):
    subject: str


def documents(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the documents of a file, each with the number of the line in which it begins.

    The file is in UTF-8, or in UTF-16 with a mark.
    Each line that is not blank is a document, unless the first is none and all lines are one together. Of a longer line
    than a record may be, only a part is returned, which is too long, too.
    """
    lines, first, size = _lines(file), list[tuple[int, bytes]](), 0
    for number, line in lines:
        first.append((number, line))
        size += len(line)
        if size > RECORD_BYTES_MAX or (len(first) == 1 and _is_json(line)):
            break
    else:
        whole = b"\n".join(line for _, line in first)
        if len(first) > 1 and _is_json(whole):
            first = [(first[0][0], whole)]
    yield from first
    yield from lines


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    number = 0
    with in_utf8(file) as readline:
        while line := readline(RECORD_BYTES_MAX + 1):
            number += 1
            part = line
            while len(part) > RECORD_BYTES_MAX and not part.endswith(b"\n"):
                part = readline(RECORD_BYTES_MAX + 1)
            if document := line.removeprefix(BOM_UTF8).strip(_WHITE):
                yield number, document


def _is_json(document: bytes) -> bool:
    try:
        msgspec.json.decode(document, type=Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def explain(
    document: bytes, placements: Iterable[Placement], *, line: int, appended_ms: int, key: bytes | None = None
) -> Fate:
    """Return what would become of a document, if it were appended to `events` now.

    Whether it repeats an earlier event depends on the log, and is not known here.

    Args:
        line: the number of the line in which it begins.
        appended_ms: its append time, in ms since the epoch.
        key: its record's key; by default the document's `subject`.
    """
    key = key or _subject(document)
    found = decode(Record(0, 0, appended_ms, key or _UNKNOWN_KEY, document))
    if key is None and isinstance(found, Event):
        found = decode(Record(0, 0, appended_ms, None, document))
    if isinstance(found, Rejection):
        return Fate(line=line, accepted=False, reason=found.reason, detail=found.detail)
    assert key is not None, "decode accepts no record without a key"
    places = [(kind, placement.shard.name) for placement in placements for kind in placement.kinds]
    own = {kind: "every shard" if kind.shard == EVERY_SHARD else shard for kind, shard in places}
    lessons = [Lesson(kind.name, shard, kind.surface.teaches.get(found.type, "")) for kind, shard in own.items()]
    return Fate(
        line=line, accepted=True, type=found.type, shopper=found.shopper, session=found.data.session_id,
        time=at(found.time_ms).isoformat(), items=found.data.items,
        notes=_merged(_notes(document, found, key, appended_ms)), lessons=lessons,
    )  # fmt: skip


def _subject(document: bytes) -> bytes | None:
    try:
        return msgspec.json.decode(document, type=_Subject).subject.encode() or None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _notes(document: bytes, event: Event, key: bytes, appended_ms: int) -> Iterator[Note]:
    """Yield in what an event differs from its document."""
    try:
        given = msgspec.json.decode(document)
    except msgspec.ValidationError:  # a number out of range, in a field that is ignored
        return
    yield from _differences(given, event, "")
    if event.time_ms != int(event.time.timestamp() * 1000):
        yield Note("time", "counts as another time", _short(given["time"]), _short(at(event.time_ms)))
    lines = given["data"].get("items")
    for number, line in enumerate(lines if isinstance(lines, list) else (), 1):
        alone = given | {"data": given["data"] | {"items": [line]}}
        found = decode(Record(0, 0, appended_ms, key, msgspec.json.encode(alone)))
        if isinstance(found, Rejection) or not found.data.items:
            detail = f": {found.detail}" if isinstance(found, Rejection) else ""
            yield Note(_LINES, f"dropped{detail}", _short(line), lines=[number])
        else:
            for note in _differences(line, found.data.items[0], f"{_LINES}[]."):
                yield msgspec.structs.replace(note, lines=[number])


def _differences(given: Mapping[str, Any], made: Struct, path: str) -> Iterator[Note]:
    """Yield in what a part of an event differs from that part of the document, apart from the lines."""
    fields = {
        field.encode_name: getattr(made, field.name)
        for field in msgspec.structs.fields(made)
        if not field.encode_name.startswith("_")  # not on the wire
    }
    for name in given:
        if name not in fields:
            yield Note(f"{path}{name}", "unknown, ignored", _short(given[name]))
    for name, value in fields.items():
        if f"{path}{name}" == _LINES:
            continue
        if name not in given:
            if value:
                yield Note(f"{path}{name}", "absent", used=_short(value))
        elif isinstance(value, Struct) and isinstance(given[name], dict):
            yield from _differences(given[name], value, f"{path}{name}.")
        elif not _same(given[name], value):
            why = "null, counts as absent" if given[name] is None else "not used as it is"
            yield Note(f"{path}{name}", why, _short(given[name]), _short(value) if value else "")


def _same(given: Any, value: Any) -> bool:
    if isinstance(value, datetime):
        try:
            return bool(msgspec.convert(given, datetime) == value)
        except msgspec.ValidationError:
            return False
    return bool(given == msgspec.to_builtins(value))


def _short(value: Any) -> str:
    return visible(msgspec.json.encode(value).decode(), found_characters_max)


def _merged(notes: Iterable[Note]) -> list[Note]:
    """Merge equal notes about several lines into one, which repeats the value in the first of them."""
    found: dict[tuple[str, str, str], Note] = {}
    for note in notes:
        first = found.setdefault((note.field, note.why, note.used), note)
        if first is not note:
            first.lines += note.lines
    return list(found.values())


def lines_of(fate: Fate) -> list[str]:
    """Return a fate as lines for a terminal, which must escape them."""
    if not fate.accepted:
        what = "unused" if fate.unused else f"rejected: {fate.reason}"
        return [f"line {fate.line}: {what}: {fate.detail}"]
    session = f", session {fate.session}" if fate.session else ""
    lines = [f"line {fate.line}: accepted: {fate.type} of shopper {fate.shopper}{session} at {fate.time}"]
    for item in fate.items[:items_shown_max]:
        values = {name: value for name, value in msgspec.to_builtins(item).items() if name != "item_id"}
        lines.append(f"item {item.item_id}" + "".join(f", {name} {value}" for name, value in values.items()))
    if len(fate.items) > items_shown_max:
        lines.append(f"and {len(fate.items) - items_shown_max:,} more items")
    lines += [_note_text(note) for note in fate.notes]
    for one in fate.lessons:
        by = f"{one.family} ({one.shard})"
        lines.append(f"learned by {by}: {one.what}" if one.what else f"nothing for {by}")
    return lines


def _note_text(note: Note) -> str:
    where = ", ".join(map(str, note.lines[:items_shown_max])) + (", …" if len(note.lines) > items_shown_max else "")
    return (
        f"{note.field}: {note.why}"
        + (f"; found {note.found}" if note.found else "")
        + (f"; used {note.used}" if note.used else "")
        + (f" (line {where} of the items)" if where else "")
    )
