"""What every reader of a file shares: what its source lacks, sums, how far it is, and what it could not use."""

import gzip
import hashlib
import tarfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, ClassVar, Final, Literal, NamedTuple

from headrace.clock import Clock
from headrace.errors import Misconfigured
from headrace.events import Rejection, decode
from headrace.log import Record
from producers.publisher import Numbered

examples_max: Final = 20
"""Rejected lines that are told in full; the others are only counted."""
GZIP_MAGIC: Final = b"\x1f\x8b"
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
"""What some programs write before a text in UTF-8."""

Lack = Literal["clock", "views", "purchases"]


class Source(NamedTuple):
    """What a kind of file is and what it lacks: learners without input say so instead of showing zeros."""

    kind: str
    lacks: frozenset[Lack] = frozenset()


class FileReader(ABC):
    """Turns one file into a numbered sequence of records that depends on its content alone.

    Subclasses are final. `rejected` counts what was left out, by reason; `examples` names the first few.
    """

    source: ClassVar[Source]
    looks_like: ClassVar[str]

    def __init__(self, path: Path, *, origin: str, strict: bool, clock: Clock) -> None:
        self._path, self._origin, self._strict, self._clock = path, origin, strict, clock
        self._raw: BinaryIO | None = None
        self._size = max(1, path.stat().st_size)
        self.rejected: Counter[str] = Counter()
        self.examples: list[str] = []

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Say whether the content is of this kind. Never raises for what the bytes hold."""

    @classmethod
    def digest(cls, path: Path) -> str:
        """Return the SHA-256 of the content, in hex."""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @classmethod
    def check(cls, path: Path) -> None:
        """Raise Misconfigured if the file is cut short or damaged: to be known before the first event is published,
        for the whole file is then another one."""
        with path.open("rb") as raw, damage_told(path), unpacked(raw) as file:
            if file is not raw:
                while file.read(1 << 20):
                    pass

    @abstractmethod
    def records(self) -> Iterator[Numbered]:
        """Yield the records in order. Raises Misconfigured if the file is damaged, or at bad input if `strict`."""

    def share(self) -> float | None:
        """Return how much of the file has been read, 0 to 1."""
        return None if self._raw is None or self._raw.closed else min(1.0, self._raw.tell() / self._size)

    def _reject(self, reason: str, where: str, detail: str) -> None:
        if self._strict:
            raise Misconfigured(f"{self._path}, {where}: {reason}: {detail}")
        self.rejected[reason] += 1
        if len(self.examples) < examples_max:
            self.examples.append(f"{where}: {reason}: {detail}")

    def _usable(self, record: Numbered, where: str) -> bool:
        """Say whether consumers will take a record that was made of the file; reject it if not."""
        found = decode(Record(0, 0, self._clock(), record.key, record.value))
        if isinstance(found, Rejection):
            self._reject(found.reason, where, found.detail)
            return False
        return True

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        with self._path.open("rb") as raw, damage_told(self._path):
            self._raw = raw
            with unpacked(raw) as file:
                yield file


def unpacked(raw: BinaryIO) -> IO[bytes]:
    """Return the content of a plain or gzipped file, by its first bytes, behind a byte order mark if it has one."""
    magic = raw.read(2)
    raw.seek(0)
    file: IO[bytes] = gzip.GzipFile(fileobj=raw) if magic == GZIP_MAGIC else raw  # type: ignore[assignment]  # an IO[bytes]
    if file.read(len(BYTE_ORDER_MARK)) != BYTE_ORDER_MARK:
        file.seek(0)
    return file


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Turn what a damaged gzip or tar file raises into Misconfigured."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError) as error:
        raise Misconfigured(f"{path}: the file is damaged or cut short: {error}") from error


def first_line(path: Path) -> bytes:
    """Return the first line that is not blank (at most 64 KB of it), or nothing if the file cannot be unpacked."""
    if not path.is_file():
        return b""
    try:
        with path.open("rb") as raw, unpacked(raw) as file:
            for _ in range(100):
                line = file.readline(65_536)
                if not line or line.strip():
                    return line.strip()
    except (EOFError, OSError, zlib.error):
        return b""
    return b""
