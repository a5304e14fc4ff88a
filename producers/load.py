"""Loading files: the user's own events (JSONL) and public data sets, published to `events`.

Each kind of file is a reader that turns a file into a numbered sequence of records; `load` finds the kind by content,
checks the sum, and gives the sequence to the publisher. Shopper ids are passed on as they are in the file.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

from headrace.clock import Clock, wall_ms
from headrace.errors import Misconfigured
from headrace.log import Log
from producers import diginetica, jsonl, online_retail
from producers.file import FileReader, Source
from producers.publisher import Gate, Numbered, Published, Report, publish, silent

KINDS: Final[dict[str, type[FileReader]]] = {
    reader.source.kind: reader for reader in (jsonl.Jsonl, online_retail.OnlineRetail, diginetica.Diginetica)
}
"""The kinds of file that can be loaded, in the order in which they are tried."""

name_max: Final = 80
"""Characters of a file's name that its origin holds."""

KNOWN_SHA256: Final = {
    "online_retail.csv.gz": "98d00fe61566d867c4aa8c4b7fc718eb6a3d0c04983175809b8cbcd215c2d2e8",
    "diginetica_periods.tar.gz": "8b2f61ef049ba7b6c284cd84422b054536f19055e73af5a1b228f689dab29017",
}
"""Sums of public files by their name; a file of such a name with another sum is damaged or not what it says."""


def kind_of(path: Path, kind: str | None = None) -> str:
    """Return the kind of a file, by its content unless the user said it.

    Raises:
        Misconfigured: there is no such file or kind, or the content is of no kind that we know.
    """
    if kind is not None and kind not in KINDS:
        raise Misconfigured(f"kind {kind!r}: wanted one of {', '.join(KINDS)}")
    if not path.exists():
        raise Misconfigured(f"{path}: there is no such file or folder")
    for name, reader in KINDS.items():
        if kind in (None, name) and reader.recognises(path):
            return name
    wanted = "; ".join(f"{name}: {reader.looks_like}" for name, reader in KINDS.items() if kind in (None, name))
    raise Misconfigured(f"{path}: its content is of no kind that can be loaded. Wanted {wanted}")


def source_of(path: Path, kind: str | None = None) -> Source:
    """Return what kind of source a file is and what it lacks. Raises Misconfigured as `kind_of`."""
    return KINDS[kind_of(path, kind)].source


def check_sum(path: Path, found: str, wanted: str | None) -> None:
    """Raise Misconfigured unless the sum is the one that the user gave, or else the known one of the file's name."""
    if wanted is not None and not re.fullmatch("[0-9a-fA-F]{64}", wanted):
        raise Misconfigured(f"sha256 {wanted!r}: wanted 64 hexadecimal digits")
    expected = wanted or KNOWN_SHA256.get(path.name)
    if expected and found != expected.lower():
        hint = "" if wanted else "; fetch it again, or say --sha256 with its sum if it is meant to differ"
        raise Misconfigured(f"{path}: wanted sha256 {expected.lower()}, found {found}{hint}")


def load(
    log: Log,
    path: str | Path,
    *,
    kind: str | None = None,
    sha256: str | None = None,
    strict: bool = False,
    speed: float | None = None,
    time_from_ms: int | None = None,
    time_to_ms: int | None = None,
    limit: int | None = None,
    gate: Gate | None = None,
    progress: Report = silent,
    clock: Clock = wall_ms,
) -> Published:
    """Publish a file's events to `events`; started again after a kill, go on where it was, with nothing twice.

    Input that cannot be used is counted by reason in the result, never published and never fatal, unless `strict` or
    unless there is nothing else.

    Args:
        kind: one of KINDS, where the content should not decide.
        sha256: the sum that the file must have; for a folder, the one that the error names.
        strict: publish nothing if a line cannot be used; all are looked at first.
        clock: the time of day, against which an event's time may not lie far ahead.
        speed, time_from_ms, time_to_ms, limit, gate, progress: as `producers.publisher.publish`.

    Raises:
        Misconfigured: the file is missing, of an unknown kind, has another sum, is damaged, holds nothing that can be
            used, or was loaded before under the same name with other content; or an option is wrong.
        LogUnavailable: the log did not acknowledge in time.
    """
    path = Path(path)
    reader_type = KINDS[kind_of(path, kind)]
    digest = reader_type.digest(path)
    check_sum(path, digest, sha256)
    reader_type.check(path)
    origin = f"load:{reader_type.source.kind}:{_short(path)}:{digest[:16]}"
    if strict:  # once without publishing: what is then put right is another file, of which nothing was published
        for _ in reader_type(path, origin=origin, strict=True, clock=clock).records():
            pass
    reader = reader_type(path, origin=origin, strict=strict, clock=clock)
    published = publish(
        log,
        _usable(reader, path),
        origin=origin,
        speed=speed,
        time_from_ms=time_from_ms,
        time_to_ms=time_to_ms,
        limit=limit,
        gate=gate,
        share=reader.share,
        progress=progress,
    )
    return published._replace(rejected=dict(reader.rejected), examples=tuple(reader.examples))


def _short(path: Path) -> str:
    """Return a file's name for an origin: of other names, others.

    >>> _short(Path("week 1.jsonl"))
    'week%201.jsonl'
    """
    name = quote(os.fsencode(path.name), safe="")
    return (
        name if len(name) <= name_max else f"{hashlib.sha256(name.encode()).hexdigest()[:16]}-{name[17 - name_max :]}"
    )


def _usable(reader: FileReader, path: Path) -> Iterator[Numbered]:
    """Yield a reader's records. Raises Misconfigured if there is none, though there was input."""
    records = reader.records()
    first = next(records, None)
    if first is not None:
        yield first
        yield from records
    elif reader.rejected:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reader.rejected.items()))
        raise Misconfigured(f"{path}: wanted at least one event, found only {reasons}; the first: {reader.examples[0]}")
