"""Pseudonyms: what the log has instead of a shop's own ids of shoppers and sessions.

A pseudonym is an HMAC-SHA256 of the id, cut to 128 bits, under a secret that has a version: `p1.` and 22 characters.
Whoever lacks the secret can neither find the id of a pseudonym nor try ids. The secrets are in a file that only its
user may read; nothing prints or logs them. A rotation adds a version; the older ones stay until they are retired, so
that what is known of a shopper under an older pseudonym can be linked to the new one.
"""

import base64
import hmac
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from headrace.errors import Misconfigured
from headrace.keys import locked, look_every_s, write_private

SECRET_BYTES: Final = 32
_SHOPPER, _SESSION = b"shopper\0", b"session\0"


class Secret(Struct, frozen=True):
    """A secret and its version. Its text form leaves the secret out."""

    version: Annotated[int, Meta(ge=1)]
    secret: Annotated[bytes, Meta(min_length=SECRET_BYTES)]
    created_ms: int

    def __repr__(self) -> str:
        return f"Secret(version={self.version})"

    def _pseudonym(self, kind: bytes, text: str) -> str:
        digest = hmac.digest(self.secret, kind + text.encode(errors="surrogatepass"), "sha256")[:16]
        return f"p{self.version}.{base64.urlsafe_b64encode(digest)[:22].decode()}"

    def shopper(self, id_: str) -> str:
        """Return the pseudonym of a shopper.

        >>> Secret(1, b"0" * 32, 0).shopper("ann")
        'p1.wNonaZXl8QQJvnQrud-qLg'
        """
        return self._pseudonym(_SHOPPER, id_)

    def session(self, id_: str) -> str:
        """Return the pseudonym of a session; it differs from that of a shopper with the same id."""
        return self._pseudonym(_SESSION, id_)


class Pseudonyms:
    """The secrets of a file, the newest last; follows changes of the file. Thread-safe.

    Args:
        path: a missing file has no secrets, as long as it is missing.
        seconds: a monotonic clock.

    Raises:
        Misconfigured: the file is none of secrets. Later, a file that cannot be read, or has none, changes nothing.
    """

    def __init__(self, path: Path, *, seconds: Callable[[], float] = time.monotonic) -> None:
        self._path, self._seconds, self._looked_at = path, seconds, seconds()
        self._seen = self._signature()
        self._secrets = tuple(read_secrets(path))

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The secrets, the one in use last; empty if there is no file."""
        now_s = self._seconds()
        if now_s - self._looked_at >= look_every_s:
            self._looked_at = now_s
            seen = self._signature()
            if seen is not None and seen != self._seen:
                with suppress(Misconfigured):  # somebody edits it by hand; it is read again at the next look
                    if found := read_secrets(self._path):  # without a secret, ids would be written as they are
                        self._secrets, self._seen = tuple(found), seen
        return self._secrets

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def names_of(self, shopper: str) -> list[str]:
        """Return the names under which a shopper may be known, the likeliest first: the id itself last."""
        return [*(secret.shopper(shopper) for secret in reversed(self.secrets)), shopper]


def read_secrets(path: Path) -> list[Secret]:
    """Return the secrets of a file by version; none if it is missing.

    Raises:
        Misconfigured: it is no file of secrets. The text does not repeat its content.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=list[Secret])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Misconfigured(
            f"pseudonyms {path}: wanted a file made by headrace pseudonyms, found another ({type(error).__name__})"
        ) from None
    if sorted({one.version for one in found}) != [one.version for one in found]:
        raise Misconfigured(f"pseudonyms {path}: wanted rising versions")
    return found


def add_secret(path: Path, now_ms: int) -> Secret:
    """Add a version to the file, which is made if it is missing; it is in use from then on. Raises Misconfigured."""
    with _edited(path) as known:
        added = Secret(known[-1].version + 1 if known else 1, secrets.token_bytes(SECRET_BYTES), now_ms)
        known.append(added)
    return added


def ensure_secret(path: Path, now_ms: int) -> bool:
    """Make the first version if the file has none; return whether it was made. Raises Misconfigured.

    A file that has one is only read: where several machines share it, it may be one that cannot be written.
    """
    if read_secrets(path):
        return False
    with _edited(path) as known:
        if not known:
            known.append(Secret(1, secrets.token_bytes(SECRET_BYTES), now_ms))
            return True
    return False


def retire_secret(path: Path, version: int) -> None:
    """Remove a version that is no longer in use.

    Raises:
        Misconfigured: it is the newest one, or there is none of this version.
    """
    with _edited(path) as known:
        if version not in [one.version for one in known[:-1]]:
            older = ", ".join(str(one.version) for one in known[:-1]) or "none, as only the newest is there"
            raise Misconfigured(f"pseudonyms {path}: wanted an older version ({older}), found {version}")
        known[:] = [one for one in known if one.version != version]


@contextmanager
def _edited(path: Path) -> Iterator[list[Secret]]:
    """Return the secrets of a file, and write what the block makes of them. Others who edit it wait."""
    try:
        with locked(path):
            known = read_secrets(path)
            before = tuple(known)
            yield known
            if tuple(known) != before:
                write_private(path, msgspec.json.encode(known) + b"\n")
    except OSError as error:
        raise Misconfigured(f"pseudonyms {path}: wanted a file that can be written, found {error}") from error
