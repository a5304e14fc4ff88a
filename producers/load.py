"""Publishes files: events (JSONL, exports of shops and of GA4, public data sets), and a shop's items.

Each kind of file has a reader that converts a file to a numbered sequence of records. `load` detects the kind by the
content, checks the checksum, and passes the sequence to the publisher. Ids of shoppers are passed on as they are in the
file, or become pseudonyms as at the gateway (`ReadOptions.secret`).
"""

import hashlib
import io
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgspec
from msgspec import Struct

from headrace.errors import Misconfigured
from headrace.log.protocol import Log, decode_json
from headrace.topics import EVENTS
from producers import amazon, diginetica, diginetica_raw, ga4, item_feed, jsonl, online_retail, retailrocket
from producers.file import DEFAULTS, FileReader, ReadOptions, Source, decompressed, lines_of
from producers.mapped import MAPPED, Mapped
from producers.publisher import ProgressCallback, PublishGate, PublishResult, ignore_progress, publish, retry_s_default
from producers.sequence import NumberedRecord
from producers.table import decoded

KINDS: Final[dict[str, type[FileReader]]] = {
    reader.source.kind: reader
    for reader in (
        jsonl.Jsonl,
        ga4.Ga4Export,
        item_feed.ItemFeed,
        amazon.AmazonReviews,
        online_retail.OnlineRetail,
        retailrocket.RetailRocket,
        diginetica_raw.DigineticaRaw,
        diginetica.Diginetica,
        Mapped,
    )
}
"""The supported kinds of files, in the order in which they are tried."""

name_max: Final = 80
"""Maximum number of characters of a file's name in its origin."""
shown_bytes: Final = 4_096
"""Size of the beginning of a file by which it is said what it holds."""
shown_max: Final = 5
"""Number of events that a dry run shows."""

KNOWN_SHA256: Final = {
    "online_retail.csv.gz": "98d00fe61566d867c4aa8c4b7fc718eb6a3d0c04983175809b8cbcd215c2d2e8",
    "diginetica_periods.tar.gz": "8b2f61ef049ba7b6c284cd84422b054536f19055e73af5a1b228f689dab29017",
}
"""Checksums of public files by name. A file of this name with another checksum is damaged or a different file."""


class DryRun(NamedTuple):
    """What a file gives, without publishing it: counts, the first events, and what could not be used and why.

    `events` counts usable events, `types` these by type; `shown` has the first as they would be published, with their
    shopper. The times are the earliest and the latest. `repeats` counts usable events with an earlier one's id.
    """

    origin: str
    events: int
    types: Mapping[str, int]
    shown: Sequence[Mapping[str, Any]]
    rejected: Mapping[str, int]
    left_out: Mapping[str, int]
    examples: Sequence[str]
    first_time_ms: int | None
    last_time_ms: int | None
    repeats: int


def kind_of(path: Path, kind: str | None = None, options: ReadOptions = DEFAULTS) -> str:
    """Return the kind of a file: `kind` if it is given, `mapped` if the options have a mapping, else by its content.

    Raises:
        Misconfigured: the file or the kind does not exist, it may not be read, or its content is of no supported kind.
    """
    if kind is not None and kind not in KINDS:
        raise Misconfigured(f"kind {kind!r}: wanted one of {', '.join(KINDS)}")
    if options.mapping is not None and kind not in (None, MAPPED):
        raise Misconfigured(f"kind {kind!r}: wanted no kind, or {MAPPED}, with a mapping file")
    if options.mapping is None and kind == MAPPED:
        raise Misconfigured(f"kind {kind!r}: wanted a mapping file with it, --map")
    if not os.path.exists(path):  # a path that no file can have included
        raise Misconfigured(f"{path}: there is no such file or folder")
    if not os.access(path, os.R_OK):
        raise Misconfigured(f"{path}: wanted a file or folder that this user may read, found one that it may not")
    if options.mapping is not None:
        return MAPPED
    if kind is not None:
        return kind
    for name, reader in KINDS.items():
        if reader.recognises(path):
            return name
    wanted = "; ".join(f"{name}: {reader.description}" for name, reader in KINDS.items())
    raise Misconfigured(f"{path}: its content is of no supported kind. Wanted {wanted}. Found {_form(path)}")


def _form(path: Path) -> str:
    """Return what a file holds that is of no supported kind, and how to convert it if that is known."""
    if path.is_dir():
        return "a folder"
    try:
        start = _start(path)
    except (OSError, EOFError, zlib.error) as error:
        return f"a file that cannot be read: {error}"
    return _json_form(start) or (f"a file that begins with {decoded(start[:60])!r}" if start else "nothing in it")


def _start(path: Path) -> bytes:
    with path.open("rb") as raw, decompressed(raw) as file:
        return b"".join(line or b"" for line in lines_of(io.BytesIO(file.read(shown_bytes)))).strip()


def _json_form(start: bytes) -> str:
    """Return how a file is no JSON lines although it begins as JSON; empty if it is something else."""
    lines = start.splitlines()
    if start.startswith(b"["):
        return "a JSON array: write each of its documents in a line, as `jq -c '.[]'` does"
    several = len(lines) > 1 and not lines[0].rstrip().endswith(b"}") and b"\0" not in lines[0]
    if start.startswith(b"{") and several and decode_json(lines[0], Struct) is None:
        return "JSON in which a document has several lines: write each in one line, as `jq -c .` does"
    return ""


def source_of(path: Path, kind: str | None = None) -> Source:
    """Return the kind of a file and the inputs that it lacks. Raises Misconfigured as `kind_of` does."""
    return KINDS[kind_of(path, kind)].source


def check_sum(path: Path, found: str, wanted: str | None) -> None:
    """Raise Misconfigured unless the checksum equals `wanted`, or else the known one of the file's name."""
    if wanted is not None and not re.fullmatch("[0-9a-fA-F]{64}", wanted):
        raise Misconfigured(f"sha256 {wanted!r}: wanted 64 hexadecimal digits")
    expected = wanted or KNOWN_SHA256.get(path.name)
    if expected and found != expected.lower():
        hint = "" if wanted else "; download it again, or give its checksum as --sha256 if it is meant to differ"
        raise Misconfigured(f"{path}: wanted sha256 {expected.lower()}, found {found}{hint}")


def _opened(path: Path, kind: str | None, sha256: str | None, options: ReadOptions) -> tuple[FileReader, str]:
    """Return the reader of a file, which is complete and not damaged, and the file's origin."""
    reader_type = KINDS[kind_of(path, kind, options)]
    digest = reader_type.digest(path)
    check_sum(path, digest, sha256)
    reader_type.check(path)
    return reader_type(path, options), f"load:{reader_type.source.kind}:{_origin_name(path)}:{digest[:16]}"


def load(
    log: Log,
    path: str | Path,
    *,
    kind: str | None = None,
    sha256: str | None = None,
    options: ReadOptions = DEFAULTS,
    speed: float | None = None,
    time_from_ms: int | None = None,
    time_to_ms: int | None = None,
    limit: int | None = None,
    gate: PublishGate | None = None,
    retry_s: float = retry_s_default,
    progress: ProgressCallback = ignore_progress,
) -> PublishResult:
    """Publish a file's events to `events`, except for those that the log has from it already; or its items to `items`.

    A restart continues after the last published event. A file that has grown, or a copy of it under another name,
    continues after what both have in common. Unusable input is not published but counted by reason in the result. It
    raises an error only if the options are strict, or if the file has no usable input.

    Args:
        kind: one of KINDS; None to detect it by the content.
        sha256: the checksum that the file must have; for a folder, the one that the error message shows.
        options: how to read the file. If strict, nothing is published if any line is unusable; the whole file is
            checked first.
        speed, time_from_ms, time_to_ms, limit, gate, retry_s, progress: as for `producers.publisher.publish`.

    Raises:
        Misconfigured: the file is missing, of an unknown kind or damaged, has another checksum, lacks columns or has no
            usable input; or an option is invalid.
        Fenced, LogUnavailable: as for `producers.publisher.publish`.
    """
    path = Path(path)
    reader, origin = _opened(path, kind, sha256, options)
    if options.strict:  # nothing may be published of a file that needs repair
        for _ in reader.records():
            pass
    published = publish(
        log,
        lambda: _usable(reader, path),
        origin=origin,
        topics=(reader.topic,),
        speed=speed,
        time_from_ms=time_from_ms,
        time_to_ms=time_to_ms,
        limit=limit,
        gate=gate if reader.topic == EVENTS else None,
        retry_s=retry_s,
        share=reader.share,
        progress=progress,
    )
    return published._replace(
        rejected=dict(reader.rejected),
        examples=tuple(reader.examples),
        left_out=dict(reader.left_out),
        repeats=reader.repeats,
    )


def dry_run(
    path: str | Path, *, kind: str | None = None, sha256: str | None = None, options: ReadOptions = DEFAULTS
) -> DryRun:
    """Return what `load` would publish of a file, without a log. Raises Misconfigured as `load` does."""
    path = Path(path)
    reader, origin = _opened(path, kind, sha256, options)
    types: Counter[str] = Counter()
    shown: list[Mapping[str, Any]] = []
    first_ms = last_ms = None
    for record in reader.records():
        event = msgspec.json.decode(record.value)
        types[event.get("type", reader.topic)] += 1
        if len(shown) < shown_max:
            shown.append(event)
        first_ms = record.time_ms if first_ms is None else min(first_ms, record.time_ms)
        last_ms = record.time_ms if last_ms is None else max(last_ms, record.time_ms)
    if not (types or reader.rejected or reader.left_out):
        raise _without_input(reader, path)
    return DryRun(
        origin, types.total(), dict(types.most_common()), shown, dict(reader.rejected), dict(reader.left_out),
        tuple(reader.examples), first_ms, last_ms, reader.repeats,
    )  # fmt: skip


def _origin_name(path: Path) -> str:
    """Return a file's name for its origin; different names give different results.

    >>> _origin_name(Path("week 1.jsonl"))
    'week%201.jsonl'
    """
    name = quote(os.fsencode(path.name), safe="")
    return (
        name if len(name) <= name_max else f"{hashlib.sha256(name.encode()).hexdigest()[:16]}-{name[17 - name_max :]}"
    )


def _usable(reader: FileReader, path: Path) -> Iterator[NumberedRecord]:
    """Yield a reader's records. Raises Misconfigured if the file has input but none is usable."""
    records = reader.records()
    first = next(records, None)
    if first is not None:
        yield first
        yield from records
    else:
        raise _without_input(reader, path)


def _without_input(reader: FileReader, path: Path) -> Misconfigured:
    what = "event" if reader.topic == EVENTS else "item"
    if not (reader.rejected or reader.left_out):
        return Misconfigured(f"{path}: wanted at least one {what}, found none: it is empty, or has a header alone")
    counts = sorted((reader.rejected + reader.left_out).items())
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts)
    example = f"; the first: {reader.examples[0]}" if reader.examples else ""
    form = _json_form(_start(path)) if path.is_file() else ""
    hint = f"; the file is {form}" if form else ""
    return Misconfigured(f"{path}: wanted at least one {what}, found only {reasons}{example}{hint}")
