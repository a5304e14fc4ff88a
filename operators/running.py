"""Which processes of `headrace up` run: one `up` at a time holds a log and a folder, and writes down its processes.

A lock is a file in the system's folder for temporary files, named by the user and by what it locks. The system frees
the lock of a process that ends in any way.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Struct

from headrace.errors import Misconfigured

PROCESSES: Final = "processes.json"
"""The file in a folder of `up` that says which processes it runs."""
TARGETS: Final = "targets.json"
"""The file in a folder of `up` that says where its processes are scraped, as Prometheus reads it (`file_sd`)."""


State: TypeAlias = Literal["starting", "up", "waiting", "ended"]


class ProcessStatus(Struct, kw_only=True):
    """`processes`: the processes of the `headrace up` that runs on the log on this machine; empty if none does.

    `state` is `starting`, `up`, `waiting` (it ended, and is started again later) or `ended` (a producer that has
    published all). `address` is where it listens or will listen, empty while the system has not chosen the
    port yet; `restarts` counts its starts after the first one.
    """

    name: str
    state: State
    pid: int
    address: str
    restarts: int


class Owner(Struct):
    """What a lock says of its holder."""

    pid: int
    folder: str


class Held(NamedTuple):
    """Something of which only one `headrace up` may have hold: `kind` is `log` or `folder`."""

    kind: str
    name: str

    @property
    def path(self) -> Path:
        """The file of its lock."""
        digest = hashlib.sha256(f"{self.kind} {self.name}".encode(errors="surrogatepass")).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"headrace-up-{os.getuid()}-{digest}.lock"


def held_log(url: str) -> Held:
    """Return a log as something that is held; a file is the same by any path."""
    scheme, _, path = url.partition(":")
    if scheme != "sqlite":
        return Held("log", url)
    try:
        return Held("log", f"sqlite:{os.path.realpath(path)}")
    except ValueError:  # a path that no file can have
        return Held("log", url)


def held_folder(folder: Path) -> Held:
    """Return a folder as something that is held."""
    return Held("folder", os.path.realpath(folder))


@contextmanager
def hold(held: Held, folder: Path) -> Iterator[None]:
    """Hold a log or a folder during the block; `folder` is where the holder writes down its processes.

    Raises:
        Misconfigured: another process holds it, or the lock's file cannot be written.
    """
    try:
        opened = os.open(held.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Misconfigured(f"lock {held.path}: wanted a file that can be written, found {error.strerror}") from error
    with open(opened, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(held)
            other = f"process {owner.pid}, folder {owner.folder}" if owner else "another process"
            raise Misconfigured(
                f"{held.kind} {held.name}: wanted one that no headrace up runs on, found {other}; stop that one, or"
                f" choose another {held.kind} (--{held.kind})"
            ) from None
        file.truncate(0)
        file.write(msgspec.json.encode(Owner(os.getpid(), str(folder.resolve()))))
        file.flush()
        yield


def _owner(held: Held) -> Owner | None:
    """Return the process that holds something, None if none does."""
    try:
        with held.path.open("rb") as file:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            return msgspec.json.decode(file.read(), type=Owner)
    except (OSError, msgspec.MsgspecError):  # no such file, or it is about to be written
        return None


def running_on(url: str) -> list[ProcessStatus]:
    """Return the processes of the `headrace up` that runs on a log on this machine; empty if none does."""
    owner = _owner(held_log(url))
    if owner is None:
        return []
    try:
        return msgspec.json.decode((Path(owner.folder) / PROCESSES).read_bytes(), type=list[ProcessStatus])
    except (OSError, msgspec.MsgspecError):
        return []


def write_down(folder: Path, processes: Sequence[ProcessStatus]) -> None:
    """Write the files of a folder that say which processes run, and where Prometheus scrapes them.

    Raises:
        OSError: they cannot be written.
    """
    targets = [
        {"targets": [one.address.removeprefix("http://")], "labels": {"job": one.name}}
        for one in processes
        if one.address.startswith("http://") and one.state != "ended"
    ]
    for name, content in ((PROCESSES, processes), (TARGETS, targets)):
        part = folder / f".{name}.part"
        part.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
        part.replace(folder / name)
