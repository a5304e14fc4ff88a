"""Joins: a login in a session joins the guest who began the session to the shopper who logged in."""

from collections import OrderedDict
from typing import Any, Final, Self

from msgspec import Struct

from headrace.events import Event
from learners.family import Move

idle_ms_max: Final = 30 * 60_000
"""Shop time after which a session's events are no longer one visit, so that a login joins nobody."""
late_ms_max: Final = 30 * 60_000
"""Shop time for which events of a guest from before the login may arrive after it: they may be in another partition, of
which more is read at once while a backlog is learned."""
LOGINS: Final = frozenset({"login", "sign_up"})
SHARED: Final = ""
"""The owner of a session name that several shoppers use without a login: it joins nobody."""


class _Session(Struct, gc=False):
    """A session: whose it is, when that shopper logged in by the sender's clock (0: not), the guest who was joined, and
    its newest shop time."""

    owner: str
    login_ms: int
    guest: str
    time_ms: int


class Joins:
    """Whose each session is. A join takes effect at its position in the journal: later events of the guest in this
    session are the shopper's, until a `login_undone` of the shopper takes it back.

    Args:
        sessions_max: most sessions; the one idle longest is forgotten first.
    """

    def __init__(self, *, sessions_max: int) -> None:
        self.sessions_max = sessions_max
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    def follow(self, event: Event) -> Move | None:
        """Attribute an event to the shopper whose session it is; return the move of a trail that it causes, if any."""
        name, shopper, now = event.data.session_id, event.shopper, event.time_ms
        if not name:
            return None
        session = self._sessions.get(name)
        login_ms = (event.own_ms or now) if event.type in LOGINS else 0
        if session is None:
            if len(self._sessions) >= self.sessions_max:
                self._sessions.popitem(last=False)
            session = self._sessions[name] = _Session(shopper, login_ms, "", now)
        else:
            self._sessions.move_to_end(name)
        idle_ms, session.time_ms = now - session.time_ms, max(now, session.time_ms)
        if shopper == session.owner:
            if event.type == "login_undone" and session.guest:
                guest, session.owner, session.guest, session.login_ms = session.guest, session.guest, "", 0
                return Move(shopper, guest, name, taken_back=True)
            session.login_ms = session.login_ms or login_ms
            return None
        if login_ms:
            return self._log_in(session, shopper, name, login_ms, idle_ms)
        if shopper == session.guest:
            event.shopper = session.owner
        elif not session.login_ms:
            session.owner = SHARED
        elif not session.guest and event.own_ms <= session.login_ms and idle_ms <= late_ms_max:
            session.guest, event.shopper = shopper, session.owner  # it happened before the login, and arrives after it
        return None

    @staticmethod
    def _log_in(session: _Session, shopper: str, name: str, login_ms: int, idle_ms: int) -> Move | None:
        before, was_guest = session.owner, not session.login_ms
        if before == SHARED:
            return None
        session.owner, session.login_ms = shopper, login_ms
        if not was_guest:  # another shopper on the same device
            return None
        if idle_ms > idle_ms_max:  # another visit
            session.guest = ""
            return None
        session.guest = before
        return Move(before, shopper, name)

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the number of sessions and the maximum."""
        return {"sessions": (len(self._sessions), self.sessions_max)}

    def state(self) -> list[Any]:
        """Return all sessions, the one idle longest first."""
        return [[name, s.owner, s.login_ms, s.guest, s.time_ms] for name, s in self._sessions.items()]

    @classmethod
    def from_state(cls, state: list[Any], *, sessions_max: int) -> Self:
        """Return joins that continue where `state` was taken; of more sessions than the maximum, with the newest."""
        joins = cls(sessions_max=sessions_max)
        joins._sessions = OrderedDict((name, _Session(*rest)) for name, *rest in state[-sessions_max:])
        return joins
