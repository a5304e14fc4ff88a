"""Who is let in: sessions, and how often somebody may try.

Sessions are kept in memory, by the digests of the random texts in their cookies: a restart ends all of them. A session
begins at a log-in, never before, so that no text which somebody else has planted in a browser becomes one.
"""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from headrace.keys import digest_of
from operators.console.people import People, Person

COOKIE: Final = "headrace_session"
sessions_max: Final = 1_000
"""Most sessions; the one that is idle longest ends for a new one."""
tries_max: Final = 10
"""Most failed log-ins in a row from one address, and the number that it gets back a minute."""
all_tries_max: Final = 100
"""The same from all addresses together."""
addresses_max: Final = 10_000


class Session:
    """A log-in: the person, and the text that forms of its pages contain."""

    def __init__(self, person: Person, now_s: float) -> None:
        self.person, self.token = person, secrets.token_urlsafe(32)
        self.began_s = self.seen_s = now_s


class Sessions:
    """The sessions of the persons who are logged in.

    Args:
        idle_s, session_s: after how long without a request, and at most how long, one lasts, in seconds.
    """

    def __init__(
        self, people: People, *, idle_s: float, session_s: float, seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self._people, self._idle_s, self._session_s, self._seconds = people, idle_s, session_s, seconds
        self._by_digest: OrderedDict[str, Session] = OrderedDict()

    def begin(self, person: Person) -> str:
        """Begin a session; return the text of its cookie."""
        text = secrets.token_urlsafe(32)
        self._by_digest[digest_of(text)] = Session(person, self._seconds())
        while len(self._by_digest) > sessions_max:
            self._by_digest.popitem(last=False)
        return text

    def find(self, text: str, *, touch: bool = True) -> Session | None:
        """Return the session of a cookie, if it lasts and its person may still log in.

        Args:
            touch: count it as used; not for what a page asks by itself.
        """
        digest, now_s = digest_of(text), self._seconds()
        session = self._by_digest.get(digest)
        if session is None:
            return None
        person = self._people.still(session.person)
        if person is None or now_s - session.seen_s > self._idle_s or now_s - session.began_s > self._session_s:
            del self._by_digest[digest]
            return None
        session.person = person
        if touch:
            session.seen_s = now_s
            self._by_digest.move_to_end(digest)
        return session

    def end(self, text: str) -> None:
        """End the session of a cookie, if there is one."""
        self._by_digest.pop(digest_of(text), None)


class Tries:
    """How many failed log-ins are left, by the address that they come from."""

    def __init__(self, *, seconds: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def may(self, address: str) -> bool:
        """Return whether somebody at an address may try."""
        return self._at(address, tries_max) >= 1 and self._at("", all_tries_max) >= 1

    def fail(self, address: str) -> None:
        """Note a failed log-in."""
        for name, most in ((address, tries_max), ("", all_tries_max)):
            self._left[name] = (self._at(name, most) - 1, self._seconds())
            self._left.move_to_end(name)
        while len(self._left) > addresses_max:
            self._left.popitem(last=False)

    def _at(self, name: str, most: int) -> float:
        left, at_s = self._left.get(name, (float(most), self._seconds()))
        return min(float(most), left + (self._seconds() - at_s) * most / 60)
