"""A spool: entries that wait on this machine's disk, in order, until they are taken elsewhere. Bounded and durable.

It is a folder of segments. `add` appends to the last segment and returns once the disk has it; `first` reads the oldest
segment, and `remove` deletes one whose entries have been taken. A process that dies in between takes a segment again:
whoever takes entries must recognise repetitions. An entry that was cut off by a crash ends its segment; it was not
acknowledged. One process at a time has a spool.
"""

import fcntl
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

from headrace.errors import BrokenWorld, Misconfigured

segment_bytes_max: Final = 4 * 2**20
"""Size from which a new segment is begun."""
_HEAD: Final = Struct("<II")
_SUFFIX: Final = ".spool"


class SpoolFull(BrokenWorld):
    """The spool holds as much as it may, or the disk is full; the entries were not added."""

    retriable = True


class Segment(NamedTuple):
    """Entries of a spool that are taken together. `number` names it."""

    number: int
    entries: list[bytes]


class Spool:
    """Entries on disk. Not thread-safe.

    Args:
        folder: made if it is missing.
        bytes_max: most bytes on disk.

    Raises:
        Misconfigured: the folder cannot be used, or another process uses it.
    """

    def __init__(self, folder: Path, *, bytes_max: int) -> None:
        self._folder, self._bytes_max = folder, bytes_max
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                self._lock = stack.enter_context((folder / "lock").open("a"))
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._sizes = {int(path.stem): path.stat().st_size for path in sorted(folder.glob(f"*{_SUFFIX}"))}
                stack.pop_all()
        except BlockingIOError:
            raise Misconfigured(f"spool {folder}: wanted one that no process uses, found one in use") from None
        except (OSError, ValueError) as error:
            raise Misconfigured(f"spool {folder}: wanted a folder of spooled entries, found {error}") from error
        # A segment of an earlier process may end in a part of an entry, so nothing is appended to it.
        self._next = max(self._sizes, default=0) + 1
        self._file: int | None = None
        self.size = sum(self._sizes.values())
        """Bytes on disk."""

    def __len__(self) -> int:
        """Return the number of segments."""
        return len(self._sizes)

    @property
    def bytes_max(self) -> int:
        """Most bytes on disk."""
        return self._bytes_max

    def add(self, entries: Sequence[bytes]) -> None:
        """Append entries durably: all of them, or none if it fails.

        Raises:
            SpoolFull: they do not fit.
        """
        data = b"".join(_HEAD.pack(len(entry), zlib.crc32(entry)) + entry for entry in entries)
        if self.size + len(data) > self._bytes_max:
            raise SpoolFull(f"spool {self._folder}: wanted at most {self._bytes_max} bytes, found {self.size} and more")
        number = self._next
        try:
            if self._file is None:
                path = self._path(number)
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
                self._sizes[number] = 0
                self._sync_folder()
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]
            os.fdatasync(self._file)
        except OSError as error:
            self._end_segment()  # what is half written ends it; entries that follow are in another one
            raise SpoolFull(f"spool {self._folder}: {error}") from error
        self._sizes[number] += len(data)
        self.size += len(data)
        if self._sizes[number] >= segment_bytes_max:
            self._end_segment()

    def first(self) -> Segment | None:
        """Return the oldest segment, to which nothing is added any more; None if there is none."""
        if not self._sizes:
            return None
        number = min(self._sizes)
        if number == self._next:
            self._end_segment()
        try:
            return Segment(number, list(_entries(self._path(number).read_bytes())))
        except OSError as error:
            raise Misconfigured(f"spool {self._folder}: wanted segment {number}, found {error}") from error

    def remove(self, segment: Segment) -> None:
        """Delete a segment whose entries have been taken."""
        self._path(segment.number).unlink(missing_ok=True)
        self._sync_folder()
        self.size -= self._sizes.pop(segment.number, 0)

    def close(self) -> None:
        """Close the files. May be called twice."""
        self._end_segment()
        self._lock.close()

    def _end_segment(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._next in self._sizes:
            size = self._path(self._next).stat().st_size  # with what a failed write has left
            self.size += size - self._sizes[self._next]
            self._sizes[self._next] = size
            self._next += 1

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012}{_SUFFIX}"

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _entries(data: bytes) -> Iterator[bytes]:
    """Yield the entries of a segment up to one that is cut off or damaged."""
    at = 0
    while at + _HEAD.size <= len(data):
        length, digest = _HEAD.unpack_from(data, at)
        entry = data[at + _HEAD.size : at + _HEAD.size + length]
        if len(entry) < length or zlib.crc32(entry) != digest:
            return
        yield entry
        at += _HEAD.size + length
