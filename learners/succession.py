"""Succession: the one rule by which a record of `models` makes a model the champion, the same in every fold.

Two kinds of records change the champion:

- a *verdict* of the fine-tuner (`promoted`, `rolled_back`), recognised by its id;
- a *request* of a person or a program: `requested`, or a `rolled_back` that is not the fine-tuner's, as in 0.3.0.

A fold obeys a request at the position where it stands in `models`. A verdict states up to which position the fine-tuner
had heard (`heard`). If it had not heard the newest request, the verdict was decided without knowledge of it, and is
void (docs/decisions/0016-who-may-promote.md). The fine-tuner obeys the request when it hears it, so all folds that have
heard the same records have the same champion.
"""

from typing import Final, Self

from headrace.announcement import Announcement
from headrace.state import State

FINE_TUNER: Final = "finetune/"
"""Beginning of the ids of the fine-tuner's announcements, whatever its shard is named."""


def is_verdict(one: Announcement) -> bool:
    """Return whether this is a decision of the fine-tuner about the champion."""
    return one.kind in ("promoted", "rolled_back") and one.id.startswith(FINE_TUNER)


def is_request(one: Announcement) -> bool:
    """Return whether this asks for a champion (or for none); a request to promote nothing is no request.

    >>> ask = Announcement(id="ann/1", kind="requested", round=0, at_events=0, time_ms=0, action="roll_back")
    >>> is_request(ask)
    True
    """
    if one.id.startswith(FINE_TUNER):
        return False
    if one.kind == "requested":
        return one.action == "roll_back" or (one.action == "promote" and bool(one.blob))
    return one.kind == "rolled_back"


class Succession:
    """Follows `models`, and tells which records change the champion.

    Attributes:
        heard: the position after the last announcement.
        obeyed: the position of the newest request; -1 if there was none.
    """

    def __init__(self) -> None:
        self.heard = 0
        self.obeyed = -1

    def hear(self, one: Announcement, position: int) -> bool:
        """Return whether this record makes its model the champion (none, if it names no blob).

        Args:
            one: the announcement.
            position: the record's position in `models`.
        """
        self.heard = position + 1
        if is_request(one):
            self.obeyed = position
            return True
        # A release before requests does not say what it had heard; its verdicts count where they stand, as they did.
        return is_verdict(one) and (one.heard is None or one.heard > self.obeyed)

    def state(self) -> State:
        """Return the positions."""
        return {"heard": self.heard, "obeyed": self.obeyed}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a succession that continues exactly where `state` was taken."""
        succession = cls()
        succession.heard, succession.obeyed = state["heard"], state["obeyed"]
        return succession
