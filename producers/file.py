"""The base class of file readers: lines, checksums, progress, rejected input, and events that a reader makes up."""

import codecs
import gzip
import hashlib
import io
import tarfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, tzinfo
from pathlib import Path
from typing import IO, BinaryIO, ClassVar, Final, Literal, NamedTuple

import msgspec

from headrace.clock import Clock, wall_ms
from headrace.errors import Misconfigured
from headrace.events import Data, Event, EventType, Item, Rejection, at, decode, encode
from headrace.log.protocol import RECORD_BYTES_MAX, Record
from headrace.pseudonyms import Secret
from headrace.topics import EVENTS
from producers.mapping import Mapping
from producers.sequence import InputDigest, NumberedRecord
from producers.times import DateOrder

examples_max: Final = 20
"""Maximum number of rejected lines that are reported in full; the others are only counted."""
sniffed_lines_max: Final = 100
"""Maximum number of lines by which the kind of a file is detected."""
sniffed_bytes_max: Final = 8 * RECORD_BYTES_MAX
"""Approximate size at which the lines by which the kind is detected end."""
GZIP_MAGIC: Final = b"\x1f\x8b"
_UTF16_MARKS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_WHITE: Final = b" \t\r\n"

MissingInput = Literal["clock", "views", "purchases"]


class Source(NamedTuple):
    """A kind of file, and the inputs that it lacks: learners report a missing input instead of showing zeros."""

    kind: str
    lacks: frozenset[MissingInput] = frozenset()


class ReadOptions(NamedTuple):
    """How to read a file.

    Args:
        strict: raise an error at the first unusable input.
        zone: the zone of times that state none.
        date_order: the order of day and month in dates such as 1/12/2010; None to decide it by the file's values.
        mapping: which column is what, for the kind `mapped`.
        clock: the wall clock, which an event's time may not exceed by far.
        secret: the one under which ids of shoppers and sessions become pseudonyms, as at the gateway; None to pass them
            on as they are in the file.
    """

    strict: bool = False
    zone: tzinfo = UTC
    date_order: DateOrder | None = None
    mapping: Mapping | None = None
    clock: Clock = wall_ms
    secret: Secret | None = None


DEFAULTS: Final = ReadOptions()


def _pseudonymised(record: NumberedRecord, secret: Secret) -> NumberedRecord:
    """Return an event as the gateway writes it: with pseudonyms, and without fields that nothing reads."""
    event = decode(Record(0, 0, record.time_ms, record.key, record.value))
    assert isinstance(event, Event), event  # readers yield usable events alone
    event.shopper = secret.shopper(record.key.decode())
    data = event.data
    data.session_id = data.session_id and secret.session(data.session_id)
    data.former_shopper = data.former_shopper and secret.shopper(data.former_shopper)
    return record._replace(key=event.shopper.encode(), value=encode(event))


class FileReader(ABC):
    """Converts one file to a numbered sequence of records that depends only on its content and the options.

    Subclasses are final. `rejected` counts the rejected input by reason; `examples` describes the first rejections;
    `left_out` counts what is valid but no input of learners; `repeats` counts the events with the id of an earlier one,
    which consumers drop.
    """

    source: ClassVar[Source]
    description: ClassVar[str]
    topic: ClassVar[str] = EVENTS
    """The topic of its records."""

    def __init__(self, path: Path, options: ReadOptions) -> None:
        self._path, self._options = path, options
        self._raw: BinaryIO | None = None
        self._calls = 0
        self._size = max(1, path.stat().st_size)
        self._digest = InputDigest(self._seed())
        self.rejected: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.examples: list[str] = []
        self.repeats = 0

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Return whether the content is of this kind. Never raises, whatever the bytes are."""

    @classmethod
    def digest(cls, path: Path) -> str:
        """Return the SHA-256 of the content, in hex."""
        if path.is_dir():
            raise Misconfigured(f"{path}: wanted a file of kind {cls.source.kind}, found a folder")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @classmethod
    def check(cls, path: Path) -> None:
        """Raise Misconfigured if the file is truncated or damaged, before the first event is published."""
        with path.open("rb") as raw, translated_damage(path), decompressed(raw) as file:
            if file is not raw:
                while file.read(1 << 20):
                    pass

    def records(self) -> Iterator[NumberedRecord]:
        """Yield the records in order, from the beginning at each call, and count anew what is rejected.

        Raises:
            Misconfigured: the file is damaged or lacks columns, or it has bad input and the options are strict.
        """
        self._close()  # the file of an earlier call, which a caller may have abandoned
        self._begin()
        number = self._calls = self._calls + 1
        try:
            secret = self._options.secret if self.topic == EVENTS else None
            yield from self._records() if secret is None else (_pseudonymised(one, secret) for one in self._records())
        finally:
            if number == self._calls:
                self._close()

    def _close(self) -> None:
        if self._raw is not None:
            self._raw.close()

    @abstractmethod
    def _records(self) -> Iterator[NumberedRecord]:
        """Yield the records in order; `records` has reset the counters."""

    def _begin(self) -> None:
        self._digest = InputDigest(self._seed())
        self.rejected.clear()
        self.left_out.clear()
        self.examples.clear()
        self.repeats = 0

    def _seed(self) -> str:
        """Return what else the events depend on: equal input that is read otherwise gives other events."""
        return self.source.kind

    def share(self) -> float | None:
        """Return the share of the file that has been read, 0 to 1; None before and after reading."""
        return None if self._raw is None or self._raw.closed else min(1.0, self._raw.tell() / self._size)

    def _reject(self, reason: str, where: str, detail: str) -> None:
        if self._options.strict:
            raise Misconfigured(f"{self._path}, {where}: {reason}: {detail}")
        self.rejected[reason] += 1
        if len(self.examples) < examples_max:
            self.examples.append(f"{where}: {reason}: {detail}")

    def _event(
        self, number: int, digest: str, type_: EventType, time_ms: int, shopper: str, data: Data, where: str
    ) -> NumberedRecord | None:
        """Return the record of an event that the reader made, unless consumers would reject it.

        A line or an optional field that they would reject is counted, and the record is without it.

        Its source depends on how the input begins and its id on `digest`, so that a copy of the file under another
        name, and a file that has grown, give the same events.
        """
        source = f"load:{self.source.kind}:{self._digest.beginning}"
        try:
            time = at(time_ms)
        except (ValueError, OverflowError, OSError):  # what datetime raises for years after 9999
            self._reject("time", where, "wanted a time of the years 1995 to 9999, found a later or an earlier one")
            return None
        event = Event(f"{number}-{digest[16:28]}", source, type_, time, data, "1.0", shopper)
        record = NumberedRecord(number, time_ms, shopper.encode(), encode(event), digest=digest)
        found, faults = self._decoded(record), list[str]()
        if found.reason == "schema" if isinstance(found, Rejection) else found.lines_dropped:
            faults = _without_faults(data)
            record = record._replace(value=encode(event))
            again = self._decoded(record)
            found = again if isinstance(again, Event) else found
        if isinstance(found, Rejection):
            self._reject(found.reason, where, found.detail)
            return None
        for fault in faults:
            self._reject("schema", where, fault)
        return record

    def _decoded(self, record: NumberedRecord) -> Event | Rejection:
        return decode(Record(0, 0, self._options.clock(), record.key, record.value))

    def _lines(self, path: Path | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield the numbered lines of the file, or of one beside it; reject those that are too long."""
        if path is None:
            with self._path.open("rb") as raw, translated_damage(self._path):
                self._raw = raw
                with decompressed(raw) as file:
                    yield from self._bounded(file)
        else:
            with path.open("rb") as raw, translated_damage(path), decompressed(raw) as file:
                yield from self._bounded(file)

    def _bounded(self, file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
        for number, line in enumerate(lines_of(file), 1):
            if line is None:
                self._reject("too_large", f"line {number}", f"wanted at most {RECORD_BYTES_MAX} bytes")
            else:
                yield number, line


def _without_faults(data: Data) -> list[str]:
    """Remove the lines and the optional fields that consumers would reject; return what was wrong with each."""
    faults, kept = list[str](), list[Item]()
    for line in data.items:
        try:
            msgspec.convert(msgspec.to_builtins(line), Item)
        except msgspec.ValidationError as error:
            faults.append(f"item {line.item_id[:100]}: {error}"[:300])
        else:
            kept.append(line)
    data.items = kept
    for field in msgspec.structs.fields(Data):
        try:
            msgspec.convert({field.name: msgspec.to_builtins(getattr(data, field.name))}, Data)
        except msgspec.ValidationError as error:
            faults.append(str(error)[:300])
            setattr(data, field.name, field.default)
    return faults


def decompressed(raw: BinaryIO) -> IO[bytes]:
    """Return the content of a plain or gzipped file, which is detected by its first bytes."""
    magic = raw.read(2)
    raw.seek(0)
    return gzip.GzipFile(fileobj=raw) if magic == GZIP_MAGIC else raw  # type: ignore[return-value]  # GzipFile has the methods of an IO[bytes], but does not declare it


def lines_of(file: IO[bytes]) -> Iterator[bytes | None]:
    """Yield each line with its end and without a byte order mark; None for one of over RECORD_BYTES_MAX bytes.

    Files that begin with the mark of UTF-16 are converted to UTF-8.

    >>> list(lines_of(io.BytesIO("a\\n\\ufeffb".encode("utf-16"))))
    [b'a\\n', b'b']
    """
    with in_utf8(file) as readline:
        while line := readline(RECORD_BYTES_MAX + 2):
            if len(line) > RECORD_BYTES_MAX and len(line.rstrip(b"\r\n")) > RECORD_BYTES_MAX:
                while not line.endswith(b"\n") and (line := readline(RECORD_BYTES_MAX)):
                    pass
                yield None
            else:
                yield line.removeprefix(codecs.BOM_UTF8)


@contextmanager
def in_utf8(file: IO[bytes]) -> Iterator[Callable[[int], bytes]]:
    """Yield the `readline` of a file that is at its beginning, which converts UTF-16 with a mark to UTF-8."""
    if isinstance(file, io.BufferedReader):
        head = file.peek(2)[:2]  # also of a pipe
    else:
        head = file.read(2)
        file.seek(0)
    if head not in _UTF16_MARKS:
        yield file.readline
        return
    text = io.TextIOWrapper(file, "utf-16", errors="replace", newline="\n")
    try:
        yield lambda size: text.readline(size).encode("utf-8", "replace")
    finally:
        text.detach()  # the file is closed by whoever opened it


@contextmanager
def translated_damage(path: Path) -> Iterator[None]:
    """Translate the exceptions of a damaged gzip or tar file to Misconfigured."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError) as error:
        raise Misconfigured(f"{path}: the file is damaged or truncated: {error}") from error


def first_lines(path: Path) -> Sequence[bytes]:
    """Return the first lines that are not blank, stripped; none if the file cannot be read."""
    found: list[bytes] = []
    if not path.is_file():
        return found
    try:
        with path.open("rb") as raw, decompressed(raw) as file:
            for line in lines_of(file):
                if line is not None and (text := line.strip(_WHITE)):
                    found.append(text)
                if len(found) >= sniffed_lines_max or raw.tell() > sniffed_bytes_max:
                    break
    except (EOFError, OSError, zlib.error):
        return found
    return found
