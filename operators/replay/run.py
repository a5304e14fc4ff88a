"""A shadow run: a folder with a manifest, the run's own log and its blobs. Nothing in it is read by the live shop."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from headrace.errors import BlobMissing, Misconfigured
from headrace.log.protocol import Log
from headrace.log.sqlite import SqliteLog
from headrace.shard.blobs import Blobs
from headrace.shard.journal import Pointer
from headrace.shard.without import LeftOut

FOLDER: Final = "runs"
"""The folder of all runs, in the folder of blobs."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Run(Struct, kw_only=True):
    """The manifest of a run.

    Attributes:
        log: the log that is replayed.
        begin, end: the range of the shard's journal, by numbers of entries, without the end.
        base: the snapshot with which the fold begins; None: the journal's start.
        settings: the values of `--set`.
        sections: the settings of each family; a run that differs from the live shard has them, others the journal's.
        without: the rules of `--without`.
        judged_anew: the families whose events are judged again instead of by the journal's judgements.
        trained: for each partition of `events`, the end of what the promoted deep model `model` had read.
        headrace: the release that folds.
        number: the number of entries before the run's state `state`.
        written: the number of entries in the run's own journal and before it.
        records, seconds: folded so far, and how long that took.
        digest: of the state at `number`.
        live: the digest of the live state there; "" if it is not known.
        live_from: the entry of the live snapshot from which that was folded.
    """

    name: str
    shard: str
    log: str
    begin: int
    end: int
    base: Pointer | None
    settings: list[str]
    sections: dict[str, dict[str, Any]]
    without: list[str]
    judged_anew: list[str]
    who: str
    created_ms: int
    headrace: str
    model: str = ""
    trained: dict[int, int] = field(default_factory=dict)
    number: int
    state: Pointer | None = None
    records: int = 0
    seconds: float = 0.0
    digest: str = ""
    live: str = ""
    live_from: int = 0
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def adopts(self) -> bool:
        """Whether the fold has other settings than the live shard, or lacks records."""
        return bool(self.settings or self.without)

    @property
    def done(self) -> bool:
        """Whether the whole range is folded."""
        return self.state is not None and self.number >= self.end

    @property
    def rate(self) -> float:
        """Records folded per second, 0 if none were."""
        return self.records / self.seconds if self.seconds else 0.0


class RunBlobs(Blobs):
    """The blobs of a run. What it does not hold is read from those of the shop, to which nothing is written."""

    def __init__(self, folder: Path, shop: Blobs) -> None:
        super().__init__(folder)
        self._shop = shop

    def get(self, name: str) -> bytes:
        """Return a blob's bytes; see `Blobs.get`."""
        try:
            return super().get(name)
        except BlobMissing:
            return self._shop.get(name)


class RunFolder:
    """The folder of one run.

    Raises:
        Misconfigured: the name is not one.
    """

    def __init__(self, shop: Blobs, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise Misconfigured(f"run {name!r}: wanted a name of letters, digits and . _ - of at most 64 characters")
        self.name, self._shop = name, shop
        self.path = shop.folder / FOLDER / name

    @property
    def exists(self) -> bool:
        """Whether there is such a run."""
        return self._manifest.exists()

    @property
    def _manifest(self) -> Path:
        return self.path / "manifest.json"

    def read(self) -> Run:
        """Return the manifest. Raises Misconfigured if there is no such run, or another release has written it."""
        try:
            return msgspec.json.decode(self._manifest.read_bytes(), type=Run)
        except FileNotFoundError:
            known = ", ".join(path.parent.name for path in _manifests(self._shop)) or "none"
            raise Misconfigured(f"run {self.name}: wanted one of {known}") from None
        except msgspec.MsgspecError as error:
            raise Misconfigured(f"run {self.name}: its manifest cannot be read: {error}; delete the run") from None

    def write(self, run: Run) -> None:
        """Replace the manifest durably."""
        part = self.path / "manifest.part"
        with part.open("wb") as file:
            file.write(msgspec.json.encode(run))
            file.flush()
            os.fsync(file.fileno())
        part.rename(self._manifest)

    def blobs(self) -> RunBlobs:
        """Return the run's blobs."""
        return RunBlobs(self.path / "blobs", self._shop)

    @contextmanager
    def log(self) -> Iterator[Log]:
        """Open the run's own log."""
        with closing(SqliteLog(str(self.path / "log.db"))) as log:
            log.create()
            yield log

    def size(self) -> int:
        """Return the bytes of its files."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep others from changing the run meanwhile.

        Raises:
            Misconfigured: another process is changing it, or its folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise Misconfigured(f"run {self.name}: wanted a folder to write to, found {error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino != (self.path / "lock").stat().st_ino:
                raise FileNotFoundError
        except (BlockingIOError, FileNotFoundError):  # the latter: another process has just deleted the run
            os.close(descriptor)
            raise Misconfigured(f"run {self.name}: wanted it idle, found another process that changes it") from None
        try:
            yield
        finally:
            if not self.exists:
                shutil.rmtree(self.path, ignore_errors=True)
            os.close(descriptor)

    def delete(self) -> None:
        """Delete the run. Raises Misconfigured if there is none, or a process is changing it."""
        if not self.path.is_dir():
            self.read()
        with self.alone():
            self._manifest.unlink(missing_ok=True)  # what is left of an interrupted deletion is no run


def _manifests(shop: Blobs) -> list[Path]:
    return sorted((shop.folder / FOLDER).glob("*/manifest.json"))


def runs(shop: Blobs) -> list[Run]:
    """Return the manifests of all runs that can be read, the oldest first."""
    found = []
    for path in _manifests(shop):
        with suppress(Misconfigured):
            found.append(RunFolder(shop, path.parent.name).read())
    return sorted(found, key=lambda run: run.created_ms)
