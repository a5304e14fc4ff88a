"""Renames: shoppers whose pseudonym has changed keep the name under which everything about them is remembered."""

from collections import OrderedDict
from typing import Any, Self

from headrace.events import Event


class Renames:
    """For each newer name of a shopper, the name under which the families know this shopper: the oldest one.

    Args:
        shoppers_max: most names; the one whose events are longest ago is forgotten first, and its shopper is a new one
            from then on.

    >>> renames = Renames(shoppers_max=9)
    >>> renames.note("p1", "p2"), renames.note("p2", "p3"), renames.name("p3"), renames.name("p4")
    (None, None, 'p1', 'p4')
    """

    def __init__(self, *, shoppers_max: int) -> None:
        self.shoppers_max = shoppers_max
        self._names: OrderedDict[str, str] = OrderedDict()

    def note(self, former: str, newer: str) -> None:
        """Note that a shopper has a newer name. What would lead in a circle is ignored.

        Of several former names of one newer name, an earlier note holds, unless the later one is a newer name itself:
        gateways note all of a shopper's former names, the oldest first, and do not know which of them were ever used.
        """
        name = self.name(former)
        if name == newer or (newer in self._names and name == former):
            return
        if newer not in self._names and len(self._names) >= self.shoppers_max:
            self._names.popitem(last=False)
        self._names[newer] = name

    def follow(self, event: Event) -> None:
        """Give an event the name under which its shopper is known."""
        name = self._names.get(event.shopper)
        if name is not None:
            self._names.move_to_end(event.shopper)
            event.shopper = name

    def name(self, shopper: str) -> str:
        """Return the name under which a shopper is known."""
        return self._names.get(shopper, shopper)

    def __len__(self) -> int:
        """Return the number of newer names."""
        return len(self._names)

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the number of newer names and the maximum."""
        return {"renames": (len(self._names), self.shoppers_max)}

    def state(self) -> list[Any]:
        """Return all newer names with the name that is known, the one used longest ago first."""
        return [list(pair) for pair in self._names.items()]

    @classmethod
    def from_state(cls, state: list[Any], *, shoppers_max: int) -> Self:
        """Return renames that continue where `state` was taken; of more than the maximum, with the newest."""
        renames = cls(shoppers_max=shoppers_max)
        renames._names = OrderedDict((newer, name) for newer, name in state[-shoppers_max:])
        return renames
