"""Blobs: snapshots and models, content-addressed files in a folder that all processes mount.

A blob is durable before its name is published. Its bytes are checked against its name before they are decoded.
"""

import hashlib
import os
import threading
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from headrace.errors import BlobCorrupt, BlobMissing, BlobUnwritable, Misconfigured


def blob_name(kind: str, data: bytes) -> str:
    """Return the name of a blob.

    >>> blob_name("model", b"")[:14]
    'model-e3b0c442'
    """
    return f"{kind}-{hashlib.sha256(data).hexdigest()}"


class Blobs:
    """A folder of blobs named `KIND-SHA256`.

    Raises:
        Misconfigured: the path is not a folder, or no folder can be created there.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._put_ns: dict[str, int] = {}  # modification time of the newest blob of each kind that this object wrote
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Misconfigured(f"blobs {self._folder}: wanted a folder, found {error}") from error

    @property
    def folder(self) -> Path:
        """The folder, as it was given."""
        return self._folder

    def check_writable(self) -> None:
        """Raise Misconfigured if no file can be created here, so that a process that will write fails at its start."""
        try:
            with TemporaryFile(dir=self._folder):
                pass
        except OSError as error:
            raise Misconfigured(f"blobs {self._folder}: wanted a folder to write to, found {error}") from error

    def put(self, kind: str, data: bytes) -> str:
        """Store bytes durably and return their name; storing the same bytes again repairs a damaged blob.

        Raises:
            BlobUnwritable: the bytes cannot be written to disk; no partial file is left.
        """
        name = blob_name(kind, data)
        path = self._folder / name
        part = self._folder / f"{name}.{os.getpid()}-{threading.get_ident()}.part"
        try:
            if not path.exists() or path.read_bytes() != data:
                self._write(part, data)
                part.rename(path)
            self._sync_folder()  # also for a blob whose first writer died before it came to this
            put_ns = path.stat().st_mtime_ns  # fails if the sweep of a successor has deleted it
        except OSError as error:
            part.unlink(missing_ok=True)
            raise BlobUnwritable(f"blob {name} cannot be written to {self._folder}: {error}") from error
        self._put_ns[kind] = max(self._put_ns.get(kind, 0), put_ns)
        return name

    def _write(self, path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _sync_folder(self) -> None:
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def get(self, name: str) -> bytes:
        """Return a blob's bytes.

        Raises:
            BlobMissing: there is no such blob, or it cannot be read.
            BlobCorrupt: the hash of its bytes is not the one in its name.
        """
        try:
            data = (self._folder / name).read_bytes()
        except FileNotFoundError:
            raise BlobMissing(f"blob {name} is not in {self._folder}; do all processes share that folder?") from None
        except (OSError, ValueError) as error:  # ValueError: the name is no file name
            raise BlobMissing(f"blob {name} cannot be read from {self._folder}: {error}") from error
        if hashlib.sha256(data).hexdigest() != name.rpartition("-")[2]:
            raise BlobCorrupt(f"blob {name} in {self._folder} does not have the hash in its name")
        return data

    def names(self, kind: str) -> list[str]:
        """Return the names of the blobs of a kind, the newest first."""
        found = [path for path in self._folder.glob(f"{kind}-*") if path.suffix != ".part"]
        return [path.name for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)]

    def size(self, name: str) -> int:
        """Return the number of bytes of a blob, 0 if there is none."""
        path = self._folder / name
        return path.stat().st_size if path.exists() else 0

    def put_ms(self, name: str) -> int:
        """Return when a blob was put here (ms since the epoch).

        Raises:
            BlobMissing: there is no such blob.
        """
        try:
            return (self._folder / name).stat().st_mtime_ns // 1_000_000
        except OSError as error:
            raise BlobMissing(f"blob {name} is not in {self._folder}: {error}") from None

    def renew(self, name: str) -> None:
        """Make a blob as new as one that was just put here, so that no sweep deletes it before it is announced.

        Also for a blob that a child of this process has put.

        Raises:
            BlobMissing: there is no such blob.
        """
        path = self._folder / name
        try:
            os.utime(path)
            put_ns = path.stat().st_mtime_ns
        except (OSError, ValueError) as error:
            raise BlobMissing(f"blob {name} is not in {self._folder}: {error}") from None
        kind = name.rpartition("-")[0]
        self._put_ns[kind] = max(self._put_ns.get(kind, 0), put_ns)

    def sweep(self, kind: str, keep: Collection[str], before_ns: int | None = None) -> list[str]:
        """Delete the blobs of a kind, except those to keep and those newer than the newest that was put here.

        Return the deleted names. Only the kind's writer calls this. Newer blobs stay because a writer that was fenced
        meanwhile does not know which ones its successor keeps.

        Args:
            before_ns: also keep blobs newer than this (ns since the epoch): other processes put blobs of this kind too,
                and announce them later.
        """
        deleted, put_ns = [], self._put_ns.get(kind, 0)
        if before_ns is not None:
            put_ns = min(put_ns, before_ns)
        for path in sorted(self._folder.glob(f"{kind}-*")):
            with suppress(FileNotFoundError):  # the writer's successor may have deleted it already
                if path.name not in keep and path.stat().st_mtime_ns <= put_ns:
                    path.unlink()
                    deleted.append(path.name)
        return deleted
