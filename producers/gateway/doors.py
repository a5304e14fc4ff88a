"""The doors: whose key a request has, whether it allows what is asked, and how much may come in at once."""

import base64
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from headrace.keys import Key, KeyRing, Role
from headrace.problem import Problem

key_characters_max: Final = 200
"""Longest text that is looked up as a key."""
burst_s: Final = 2.0
"""Seconds of a key's rate that may come at once."""
keys_counted_max: Final = 1_000
"""Most keys whose rates are counted, those used last."""


class _Use:
    """How much a key is used: events that it may still send (below 0: owed), and requests in progress."""

    def __init__(self, events: float, now_s: float) -> None:
        self.events, self.at_s, self.requests = events, now_s, 0


class Doors:
    """Lets requests in by their keys and in bounded numbers. Use it in one thread.

    Args:
        requests_max: most requests in progress.
        key_requests_max: most of them with one key.
        key_events_per_s: events a second with one key.
        seconds: a monotonic clock.
    """

    def __init__(
        self,
        keys: KeyRing,
        *,
        requests_max: int,
        key_requests_max: int,
        key_events_per_s: float,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys, self._requests_max, self._key_requests_max = keys, requests_max, key_requests_max
        self._rate, self._burst, self._seconds = key_events_per_s, burst_s * key_events_per_s, seconds
        self._uses: OrderedDict[str, _Use] = OrderedDict()
        self.requests = 0
        """Requests in progress."""

    @property
    def requests_max(self) -> int:
        """Most requests in progress."""
        return self._requests_max

    def key(self, text: str, role: Role, origin: str | None) -> Key:
        """Return the key of this text.

        Args:
            origin: the page whose script asks, as its browser says; None if none does.

        Raises:
            Problem: there is none that works, or it does not allow this, or not on this page.
        """
        if not text:
            wanted = "wanted Authorization: Bearer KEY, a user of basic authentication, X-API-Key, or the parameter key"
            raise Problem("bad-key", f"{wanted}, found none")
        key = self._keys.find(text) if len(text) <= key_characters_max else None
        if key is None:
            raise Problem("bad-key", "wanted a key that works, found one that is unknown, revoked or over")
        if not key.may(role):
            raise Problem("forbidden", f"wanted a key of the role {role} or operate, found one of {key.role}")
        if key.origins and origin is not None and origin not in key.origins:
            raise Problem("forbidden", f"wanted a page of {', '.join(key.origins)}, found {origin[:100]}")
        return key

    def origins(self) -> set[str]:
        """Return the pages that keys name."""
        return self._keys.origins()

    @contextmanager
    def entered(self, key: Key) -> Iterator[None]:
        """Count a request while it is in progress.

        Raises:
            Problem: too many are, or the key owes time for events that it has sent.
        """
        use = self._use(key)
        if self.requests >= self._requests_max:
            raise Problem("unavailable", f"wanted at most {self._requests_max} requests at a time", retry_s=1)
        if use.requests >= self._key_requests_max:
            detail = f"wanted at most {self._key_requests_max} requests at a time with one key"
            raise Problem("too-many-requests", detail, retry_s=1)
        if use.events <= 0:
            detail = f"wanted at most {self._rate:g} events a second with one key"
            raise Problem("too-many-events", detail, retry_s=max(1, math.ceil((1 - use.events) / self._rate)))
        self.requests += 1
        use.requests += 1
        try:
            yield
        finally:
            self.requests -= 1
            use.requests -= 1

    def charge(self, key: Key, events: float) -> None:
        """Count events of a request that was let in."""
        self._use(key).events -= events

    def _use(self, key: Key) -> _Use:
        now_s = self._seconds()
        use = self._uses.get(key.id)
        if use is None:
            use = self._uses[key.id] = _Use(self._burst, now_s)
            while len(self._uses) > keys_counted_max:
                self._uses.popitem(last=False)
        else:
            self._uses.move_to_end(key.id)
            use.events, use.at_s = min(self._burst, use.events + (now_s - use.at_s) * self._rate), now_s
        return use


def key_text(headers: Mapping[str, str], query: Mapping[str, str]) -> str:
    """Return the text of a request's key; empty if it has none.

    It is a bearer token, the user of basic authentication (as Segment's libraries send it), the header `X-API-Key` (as
    Gorse's clients send it), or the parameter `key` or `api_secret` (for beacons, which cannot set headers, and as
    Google Analytics' clients send it).
    """
    in_header = _bearer(headers.get("authorization", "")) or headers.get("x-api-key")
    return in_header or query.get("key") or query.get("api_secret") or ""


def _bearer(header: str) -> str:
    """Return the key of an Authorization header; empty if it has none.

    >>> _bearer("Bearer hr_1"), _bearer("Basic aHJfMTo="), _bearer("Basic !"), _bearer("Digest x")
    ('hr_1', 'hr_1', '', '')
    """
    scheme, _, rest = header.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).decode().partition(":")[0]
        except ValueError:
            return ""
    return ""
