"""Where an archive's files are: a folder, or a place that fsspec knows, such as `s3://bucket/shop`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from headrace.errors import ArchiveUnavailable, Misconfigured


class Store(Protocol):
    """Files by name; names may have folders. Reading and writing raise ArchiveUnavailable."""

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes; None if there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file: afterwards it is durable, and nobody ever sees a part of it."""

    def delete(self, name: str) -> None:
        """Delete a file, if there is one."""

    def names(self) -> Iterator[str]:
        """Yield the names of all files."""


class FolderStore:
    """A folder on a local disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes | None:
        with self._translated(name):
            try:
                return (self._folder / name).read_bytes()
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        path = self._folder / name
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        with self._translated(name):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with part.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                part.rename(path)
            except OSError:
                part.unlink(missing_ok=True)
                raise
            for folder in (path.parent, *path.parent.parents):
                _sync(folder)
                if folder == self._folder:
                    break

    def delete(self, name: str) -> None:
        with self._translated(name):
            (self._folder / name).unlink(missing_ok=True)

    def names(self) -> Iterator[str]:
        with self._translated(""):
            for path in sorted(self._folder.rglob("*")):
                if path.is_file() and not path.name.startswith("."):
                    yield path.relative_to(self._folder).as_posix()

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ArchiveUnavailable(f"archive {self._folder / name}: {error.strerror or error}") from error


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


class RemoteStore:
    """A place that fsspec knows. One that stores objects whole, as S3 does, never shows a part of one."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        try:
            self._files: Any
            self._files, root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise Misconfigured(
                f"archive {url}: wanted a folder or an URL that fsspec can open, found: {error}"
            ) from None
        self._url, self._root = url, root.rstrip("/")

    def read(self, name: str) -> bytes | None:
        with self._translated(name):
            try:
                return bytes(self._files.cat_file(f"{self._root}/{name}"))
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        path = f"{self._root}/{name}"
        with self._translated(name):
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(path, data)

    def delete(self, name: str) -> None:
        with self._translated(name):
            if self._files.exists(path := f"{self._root}/{name}"):
                self._files.rm_file(path)

    def names(self) -> Iterator[str]:
        with self._translated(""):
            self._files.invalidate_cache()
            for path in sorted(self._files.find(self._root)):
                yield path.removeprefix(f"{self._root}/")

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ArchiveUnavailable(f"archive {self._url}/{name}: {error}") from error


def open_store(url: str) -> Store:
    """Return the store of a folder or URL; nothing is created yet."""
    if "://" in url and not url.startswith("file://"):
        return RemoteStore(url)
    return FolderStore(Path(url.removeprefix("file://")))
