"""API keys: who may write events, ask for answers, or operate, over HTTP.

A key is a text of 256 random bits that its owner is shown once; the file of keys holds its SHA-256 digest (a text that
cannot be guessed needs no slow hash). The file is JSON, replaced as a whole, and read again within a second of a
change.
"""

import base64
import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Generic, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from headrace.clock import wall_ms
from headrace.errors import Misconfigured

Role: TypeAlias = Literal["ingest", "read", "operate"]
"""What a key is for: `ingest` sends events, `read` asks for answers, `operate` does both, and states items and
traits."""
GRANTS: Final[dict[Role, frozenset[Role]]] = {
    "ingest": frozenset({"ingest"}),
    "read": frozenset({"read"}),
    "operate": frozenset({"ingest", "read", "operate"}),
}
PREFIX: Final = "hr_"
_ORIGIN: Final = re.compile(r"https?://[^/?#@\sA-Z]+")
keys_max: Final = 1_000
"""Most keys in a file."""
look_every_s: Final = 0.5
"""Least time, in seconds, between two looks at the file: how long a revoked key works at most."""


class Key(Struct, frozen=True, omit_defaults=True):
    """A key as the file has it.

    Attributes:
        id: names the key in commands, metrics and logs.
        shop: the shop whose key it is; begins the `source` of events whose format has none.
        digest: the SHA-256 digest of its text, in hexadecimal.
        origins: web pages that may use it, such as `https://shop.example`; empty if it is not for browsers.
        ends_ms: when it stops working; None for never.
    """

    id: str
    shop: str
    role: Role
    digest: str
    created_ms: int
    origins: tuple[str, ...] = ()
    ends_ms: int | None = None

    def may(self, role: Role) -> bool:
        """Return whether the key grants what another role does."""
        return role in GRANTS[self.role]

    def works(self, now_ms: int) -> bool:
        """Return whether it is neither revoked nor past its end."""
        return self.ends_ms is None or now_ms < self.ends_ms


def digest_of(text: str) -> str:
    """Return the digest by which a key is found.

    >>> digest_of("hr_abc")[:12]
    '6168bd260d5b'
    """
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


E = TypeVar("E")


class Followed(Generic[E]):
    """The entries of a file, for a process that checks them; follows changes of the file. Thread-safe.

    A file that is missing or cannot be read has none, so nobody is let in by a damaged one.

    Args:
        read: returns the entries of a file; raises Misconfigured.
        seconds: a monotonic clock.

    Attributes:
        fault: why the file cannot be used; empty if it can.
    """

    def __init__(
        self, path: Path, read: Callable[[Path], list[E]], seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._read, self._seconds = path, read, seconds
        self._looked_at = -look_every_s
        self._seen: tuple[int, int, int] | None = None
        self._entries: list[E] = []
        self.fault = ""

    def entries(self) -> list[E]:
        """Return the entries of the file. The list is another one when it has changed."""
        now_s = self._seconds()
        if now_s - self._looked_at < look_every_s:
            return self._entries
        self._looked_at = now_s
        try:
            found = self._path.stat()
            seen = found.st_mtime_ns, found.st_ino, found.st_size
            if seen == self._seen:
                return self._entries
            entries = self._read(self._path)
        except (OSError, Misconfigured) as error:
            self._seen, self._entries, self.fault = None, [], str(error)
            return self._entries
        self._seen, self._entries, self.fault = seen, entries, ""
        return self._entries


class KeyRing:
    """The keys of a file, for a process that checks them (`Followed`).

    Args:
        seconds: a monotonic clock.
    """

    def __init__(
        self, path: Path, *, clock: Callable[[], int] = wall_ms, seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self._file, self._clock = Followed(path, read_keys, seconds), clock
        self._keys: list[Key] = []
        self._by_digest: dict[str, Key] = {}

    @property
    def fault(self) -> str:
        """Why the file cannot be used; empty if it can."""
        return self._file.fault

    def find(self, text: str) -> Key | None:
        """Return the key of this text, if there is one and it works."""
        self._follow()
        key = self._by_digest.get(digest_of(text))
        return key if key and key.works(self._clock()) else None

    def origins(self) -> set[str]:
        """Return the origins of all working keys."""
        self._follow()
        now_ms = self._clock()
        return {origin for key in self._by_digest.values() if key.works(now_ms) for origin in key.origins}

    def _follow(self) -> None:
        keys = self._file.entries()
        if keys is not self._keys:
            self._keys, self._by_digest = keys, {key.digest: key for key in keys}


def read_keys(path: Path) -> list[Key]:
    """Return the keys of a file; none if it is missing.

    Raises:
        Misconfigured: it is no file of keys.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Key])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Misconfigured(f"keys {path}: wanted a file of keys, found: {error}") from error


@contextmanager
def edited(path: Path) -> Iterator[list[Key]]:
    """Return the keys of a file, and write what the block makes of them. Others who edit it wait.

    Raises:
        Misconfigured: the file is none of keys, or cannot be written.
    """
    try:
        with locked(path):
            keys = read_keys(path)
            yield keys
            write_private(path, msgspec.json.format(msgspec.json.encode(keys), indent=1) + b"\n")
    except OSError as error:
        raise Misconfigured(f"keys {path}: wanted a file that can be written, found {error}") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let nobody else change a file during the block; its folder is made if it is missing. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_private(path: Path, content: bytes) -> None:
    """Replace a file by one that only this user may read, durably. Raises OSError."""
    part = path.with_name(f".{path.name}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    part.replace(path)


def create(
    path: Path, shop: str, role: Role, *, origins: Sequence[str] = (), ends_ms: int | None = None, now_ms: int
) -> tuple[Key, str]:
    """Add a key to a file; return it and its text, which is stored nowhere.

    Raises:
        Misconfigured: the file holds `keys_max` keys, or cannot be used, or the shop's name is no short word.
    """
    if not 1 <= len(shop) <= 64 or not shop.isprintable() or " " in shop:
        raise Misconfigured(f"shop {shop!r}: wanted 1 to 64 characters without blanks")
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise Misconfigured(f"origin {origin!r}: wanted https://HOST[:PORT] in lower case, as browsers send it")
    with edited(path) as keys:
        return _added(path, keys, shop, role, origins, ends_ms, now_ms)


def _added(
    path: Path, keys: list[Key], shop: str, role: Role, origins: Sequence[str], ends_ms: int | None, now_ms: int
) -> tuple[Key, str]:
    """Add a key to those of a file; return it and its text."""
    if len(keys) >= keys_max:
        raise Misconfigured(f"keys {path}: wanted at most {keys_max} keys; remove some: headrace keys revoke ID")
    id_ = secrets.token_hex(4)
    text = f"{PREFIX}{id_}_{base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip('=')}"
    key = Key(id_, shop, role, digest_of(text), now_ms, tuple(origins), ends_ms)
    keys.append(key)
    return key, text


def revoke(path: Path, id_: str) -> Key:
    """Remove a key. Raises Misconfigured if there is none of this id."""
    with edited(path) as keys:
        key = _named(path, keys, id_)
        keys.remove(key)
    return key


def rotate(path: Path, id_: str, *, grace_ms: int, now_ms: int) -> tuple[Key, str]:
    """Add a key like another one, which stops working after `grace_ms`; return the new one and its text.

    The new one ends when the other one would have.

    Raises:
        Misconfigured: there is none of this id, or it has ended, or the file cannot be used or is full.
    """
    with edited(path) as keys:
        old = _named(path, keys, id_)
        if not old.works(now_ms):
            raise Misconfigured(f"keys {path}: wanted a key that works, found {id_}, which has ended")
        ends_ms = now_ms + grace_ms if old.ends_ms is None else min(old.ends_ms, now_ms + grace_ms)
        keys[keys.index(old)] = msgspec.structs.replace(old, ends_ms=ends_ms)
        return _added(path, keys, old.shop, old.role, old.origins, old.ends_ms, now_ms)


def _named(path: Path, keys: Sequence[Key], id_: str) -> Key:
    found = next((key for key in keys if key.id == id_), None)
    if found is None:
        known = ", ".join(key.id for key in keys) or "none"
        raise Misconfigured(f"keys {path}: wanted one of {known}, found {id_}")
    return found
