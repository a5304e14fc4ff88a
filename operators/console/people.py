"""Persons who may log in to the console, by access keys.

An access key is a text of 256 random bits that a person is shown once and keeps in a password manager; the file of
persons holds its SHA-256 digest, as the file of API keys does (`headrace.keys`).
"""

import base64
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

from headrace.clock import wall_ms
from headrace.errors import Misconfigured
from headrace.keys import Followed, digest_of, locked, write_private

Role: TypeAlias = Literal["see", "operate", "administer"]
ROLES: Final[tuple[Role, ...]] = ("see", "operate", "administer")
"""Each may do what those before it may. `see` reads; `operate` also acts on models, records, rules and replays;
`administer` also sees the audit and what is secret to nobody else: who may log in."""
PREFIX: Final = "hc_"
persons_max: Final = 1_000


class Person(Struct, frozen=True, omit_defaults=True):
    """A person of the file.

    Attributes:
        name: as in the audit and in the records that an action writes.
        digest: the SHA-256 digest of the access key, in hexadecimal.
        ends_ms: when it stops working; None for never.
    """

    name: str
    role: Role
    digest: str
    created_ms: int
    ends_ms: int | None = None

    def may(self, role: Role) -> bool:
        """Return whether the person may do what a role may."""
        return ROLES.index(self.role) >= ROLES.index(role)

    def works(self, now_ms: int) -> bool:
        """Return whether the access key has not ended."""
        return self.ends_ms is None or now_ms < self.ends_ms


class People:
    """Those who may log in: the persons of a file, and one for whom a one-time key was made, if any.

    Args:
        once: the role of the one-time key, None for none.

    Attributes:
        once_key: the one-time key, "" if there is none. It opens one session, of a person named `guest`.
    """

    def __init__(self, path: Path, *, once: Role | None = None, clock: Callable[[], int] = wall_ms) -> None:
        self._file, self._clock = Followed(path, read_people), clock
        self.once_key, self._guest = "", Person("guest", once or "see", "", 0)
        if once:
            self.once_key = new_key()
            self._guest = Person("guest", once, digest_of(self.once_key), clock())
        self._spent = False

    @property
    def fault(self) -> str:
        """Why the file of persons cannot be used; empty if it can."""
        return self._file.fault

    def admit(self, key: str) -> Person | None:
        """Return whose access key this is, if it works. A one-time key works no more afterwards."""
        digest = digest_of(key)
        if self.once_key and not self._spent and secrets.compare_digest(digest, self._guest.digest):
            self._spent = True
            return self._guest
        return next((one for one in self._working() if secrets.compare_digest(one.digest, digest)), None)

    def still(self, person: Person) -> Person | None:
        """Return a person as the file has it now, None if the access key was taken back or has ended."""
        if person is self._guest:
            return person
        return next((one for one in self._working() if one.digest == person.digest), None)

    def all(self) -> list[Person]:
        """Return the persons of the file."""
        return self._file.entries()

    def _working(self) -> Iterator[Person]:
        now_ms = self._clock()
        return (one for one in self._file.entries() if one.works(now_ms))


def new_key() -> str:
    """Return a new access key."""
    return PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")


def read_people(path: Path) -> list[Person]:
    """Return the persons of a file; none if it is missing.

    Raises:
        Misconfigured: it is no file of persons.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Person])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Misconfigured(f"people {path}: wanted a file of persons, found: {error}") from error


@contextmanager
def _edited(path: Path) -> Iterator[list[Person]]:
    try:
        with locked(path):
            people = read_people(path)
            yield people
            write_private(path, msgspec.json.format(msgspec.json.encode(people), indent=1) + b"\n")
    except OSError as error:
        raise Misconfigured(f"people {path}: wanted a file that can be written, found {error}") from error


def add(path: Path, name: str, role: Role, *, now_ms: int, ends_ms: int | None = None) -> str:
    """Add a person, or give one that is there a new access key and role; return the key, which is stored nowhere.

    Raises:
        Misconfigured: the name is not one, the file is full or cannot be used.
    """
    if not 1 <= len(name) <= 64 or not name.isprintable() or name != name.strip() or name == "guest":
        raise Misconfigured(f"person {name!r}: wanted a name of 1 to 64 characters, other than guest")
    key = new_key()
    with _edited(path) as people:
        people[:] = [one for one in people if one.name != name]
        if len(people) >= persons_max:
            raise Misconfigured(f"people {path}: wanted at most {persons_max} persons; headrace people remove NAME")
        people.append(Person(name, role, digest_of(key), now_ms, ends_ms))
    return key


def remove(path: Path, name: str) -> None:
    """Remove a person; the sessions end at their next request. Raises Misconfigured if there is none of this name."""
    with _edited(path) as people:
        kept = [one for one in people if one.name != name]
        if len(kept) == len(people):
            known = ", ".join(one.name for one in people) or "none"
            raise Misconfigured(f"people {path}: wanted one of {known}, found {name}")
        people[:] = kept
