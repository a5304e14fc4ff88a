"""The open connections of a server, in bounded numbers."""

import asyncio
from collections import OrderedDict
from email.utils import formatdate
from typing import Protocol

from starlette.responses import Response


class Observer(Protocol):
    """Is told what the server does with connections."""

    def count_turned_away(self) -> None:
        """Count a connection that was ended, as too many were open, or for slowness."""

    def refuse(self) -> Response:
        """Count what is no HTTP, and return its answer."""


class Member(Protocol):
    """A connection, as the set of them sees it.

    Attributes:
        deadline_s: when its time is over, by the loop's clock.
    """

    deadline_s: float

    @property
    def busy(self) -> bool:
        """Whether it waits for an answer."""

    def end_late(self) -> None:
        """End it as its time is over, or give it some more."""

    def stop(self) -> None:
        """End it after the answer in progress."""

    def cut(self) -> None:
        """End it at once."""


class Connections:
    """The open connections, those without a request in progress in the order in which they became idle.

    Where as many are open as may be, a new one takes the place of the one that has been idle longest, so that whoever
    holds connections open does not keep others out; only if none is idle, the new one is closed at once.

    Attributes:
        tasks: those that answer.
        date: the header `date`, as a line.
    """

    def __init__(self, connections_max: int, observer: Observer) -> None:
        self._most, self.observer = connections_max, observer
        self._open: OrderedDict[Member, None] = OrderedDict()
        self.tasks: set[asyncio.Task[None]] = set()
        self.tell_date()

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: Member) -> bool:
        """Return whether a new connection may stay."""
        if len(self._open) >= self._most:
            idle = next((one for one in self._open if not one.busy), None)
            self.observer.count_turned_away()
            if idle is None:
                return False
            self.leave(idle)
            idle.cut()
        self._open[connection] = None
        return True

    def used(self, connection: Member) -> None:
        """Note that a connection has become idle."""
        if connection in self._open:
            self._open.move_to_end(connection)

    def leave(self, connection: Member) -> None:
        """Note that a connection has ended."""
        self._open.pop(connection, None)

    def tell_date(self) -> None:
        """Let answers have the date of now."""
        self.date = f"date: {formatdate(usegmt=True)}\r\n".encode()

    def end_late(self, now_s: float) -> None:
        """End those whose time is over."""
        for connection in [one for one in self._open if one.deadline_s <= now_s]:
            connection.end_late()

    def stop(self) -> None:
        """Let each end after the request that it answers."""
        for connection in list(self._open):
            connection.stop()

    def cut(self) -> None:
        """End all."""
        for connection in list(self._open):
            connection.cut()
