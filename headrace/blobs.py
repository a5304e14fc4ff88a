"""Blobs: snapshots and models, content-addressed files in a folder that all processes mount.

A blob is durable before anybody is told its name, and its bytes are checked against its name before they are decoded.
"""

import hashlib
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from headrace.errors import BlobCorrupt, BlobMissing, BlobUnwritable, Misconfigured


class Blobs:
    """A folder of blobs named `KIND-SHA256`.

    Raises:
        Misconfigured: there is something else at that path, or no folder can be made.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._put_ns: dict[str, int] = {}  # when the newest of a kind was put here
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Misconfigured(f"blobs {self._folder}: wanted a folder, found {error}") from error

    def check_writable(self) -> None:
        """Raise Misconfigured if no file can be made here: a process that will write should know before it works."""
        try:
            with TemporaryFile(dir=self._folder):
                pass
        except OSError as error:
            raise Misconfigured(f"blobs {self._folder}: wanted a folder to write to, found {error}") from error

    def put(self, kind: str, data: bytes) -> str:
        """Store bytes durably and return their name; storing the same bytes again mends what was damaged.

        Raises:
            BlobUnwritable: the disk did not take them; nothing is left behind.
        """
        name = f"{kind}-{hashlib.sha256(data).hexdigest()}"
        path = self._folder / name
        if not path.exists() or path.read_bytes() != data:
            part = self._folder / f"{name}.{os.getpid()}.part"
            try:
                self._write(part, data)
                part.rename(path)
                self._sync_folder()
            except OSError as error:
                part.unlink(missing_ok=True)
                raise BlobUnwritable(f"blob {name} cannot be written to {self._folder}: {error}") from error
        self._put_ns[kind] = max(self._put_ns.get(kind, 0), path.stat().st_mtime_ns)
        return name

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
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
            BlobMissing: no such blob, or none that can be read.
            BlobCorrupt: its bytes do not have the hash in its name.
        """
        try:
            data = (self._folder / name).read_bytes()
        except FileNotFoundError:
            raise BlobMissing(f"blob {name} is not in {self._folder}; do all processes share that folder?") from None
        except OSError as error:
            raise BlobMissing(f"blob {name} cannot be read from {self._folder}: {error}") from error
        if hashlib.sha256(data).hexdigest() != name.rpartition("-")[2]:
            raise BlobCorrupt(f"blob {name} in {self._folder} does not have the bytes that its name promises")
        return data

    def sweep(self, kind: str, keep: Collection[str], before_ns: int | None = None) -> list[str]:
        """Delete all blobs of a kind but those to keep, and those younger than what was put here; return what is gone.

        Only the kind's writer calls it. One that was fenced meanwhile does not know what its successor keeps.

        Args:
            before_ns: also keep what is younger than this, in ns since 1970: others put blobs of this kind, too, and
                tell of them later.
        """
        gone, put_ns = [], self._put_ns.get(kind, 0)
        if before_ns is not None:
            put_ns = min(put_ns, before_ns)
        for path in sorted(self._folder.glob(f"{kind}-*")):
            with suppress(FileNotFoundError):  # its successor deletes, too
                if path.name not in keep and path.stat().st_mtime_ns <= put_ns:
                    path.unlink()
                    gone.append(path.name)
        return gone
