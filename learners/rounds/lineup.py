"""The lineup: the role of each model, from proposal to former champion."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from headrace.announcement import Announcement
from headrace.state import State

former_max: Final = 8
"""Most former champions whose blobs are kept, the newest ones."""


class Lineup:
    """The models by their roles.

    Attributes:
        champion: the promoted model; None if the blend has no deep model.
        candidate: the model in the gate.
        predecessor: the champion before this one, while it may return.
        proposed: a model that an operator proposed, until it is checked.
        former: blobs of earlier champions, newest first.
    """

    _ROLES: Final = ("champion", "candidate", "predecessor", "proposed")

    def __init__(self) -> None:
        self.champion: Announcement | None = None
        self.candidate: Announcement | None = None
        self.predecessor: Announcement | None = None
        self.proposed: Announcement | None = None
        self.former: list[str] = []

    def contestants(self) -> list[Announcement]:
        """Return the models that are scored on new events: candidate, champion and predecessor, those that exist."""
        return [one for one in (self.candidate, self.champion, self.predecessor) if one]

    def promote(self, announcement: Announcement) -> None:
        """Make the candidate champion; the champion before becomes its predecessor."""
        self.predecessor, self.champion = self.champion, announcement
        if self.predecessor:
            self._remember(self.predecessor)

    def return_to(self, announcement: Announcement) -> None:
        """Make the announced model champion (none if it has no blob), without a predecessor."""
        if self.champion:
            self._remember(self.champion)
        self.champion = announcement if announcement.blob else None
        self.predecessor = None

    def _remember(self, champion: Announcement) -> None:
        self.former = [champion.blob, *(blob for blob in self.former if blob != champion.blob)][:former_max]

    def loaded_blobs(self) -> set[str]:
        """Return the blobs of the models that may have to predict."""
        return {one.blob for role in self._ROLES if (one := getattr(self, role))}

    def kept_blobs(self) -> set[str]:
        """Return the blobs that must not be deleted: those of models in a role and of the newest former champions."""
        return self.loaded_blobs() | set(self.former)

    def state(self) -> State:
        """Return the complete state."""
        roles: Mapping[str, Any] = {role: msgspec.to_builtins(getattr(self, role)) for role in self._ROLES}
        return {**roles, "former": list(self.former)}

    def restore(self, state: State) -> None:
        """Continue exactly where `state` was taken."""
        for role in self._ROLES:
            setattr(self, role, msgspec.convert(state[role], Announcement | None))
        self.former = list(state["former"])
