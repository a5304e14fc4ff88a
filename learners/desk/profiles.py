"""Profiles: what the shop states of its shoppers, such as country, language or plan."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from sys import intern
from typing import Any, Self

from headrace.traits import Value, traits_max


class Profiles:
    """The newest value of each trait, by shopper. Bounded: the shopper of whom something is stated least recently goes
    first; of one shopper's traits, the one stated least recently.

    Args:
        shoppers_max: most shoppers.

    >>> profiles = Profiles(shoppers_max=9)
    >>> profiles.note("ann", {"plan": "free", "country": "NO"}), profiles.note("ann", {"plan": "gold"})
    (None, None)
    >>> profiles.of("ann"), profiles.of("bob")
    ({'country': 'NO', 'plan': 'gold'}, None)
    """

    def __init__(self, *, shoppers_max: int) -> None:
        self.shoppers_max = shoppers_max
        self._traits: OrderedDict[str, dict[str, Value]] = OrderedDict()

    def __contains__(self, shopper: str) -> bool:
        return shopper in self._traits

    def __iter__(self) -> Iterator[str]:
        """Yield the shoppers, the one who is forgotten first being the first."""
        return iter(self._traits)

    def of(self, shopper: str) -> Mapping[str, Value] | None:
        """Return what is stated of a shopper; None if nothing ever was."""
        return self._traits.get(shopper)

    def note(self, shopper: str, traits: Mapping[str, Value]) -> None:
        """Note what is stated of a shopper now; what is not named stays."""
        known = self._traits.setdefault(shopper, {})
        self._traits.move_to_end(shopper)
        for name, value in traits.items():
            known.pop(name, None)
            known[intern(name)] = value
        while len(known) > traits_max:
            del known[next(iter(known))]
        while len(self._traits) > self.shoppers_max:
            self._traits.popitem(last=False)

    def rename(self, former: str, newer: str) -> None:
        """Move what is stated under one name of a shopper to another, where it goes before what was stated there."""
        if former != newer and (stated := self._traits.pop(former, None)) is not None:
            self.note(newer, stated)

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the number of shoppers and the maximum."""
        return {"profiles": (len(self._traits), self.shoppers_max)}

    def state(self) -> list[Any]:
        """Return all profiles as pairs of names and values, the one that is forgotten first being the first."""
        return [[shopper, [list(pair) for pair in traits.items()]] for shopper, traits in self._traits.items()]

    @classmethod
    def from_state(cls, state: list[Any], *, shoppers_max: int) -> Self:
        """Return profiles that continue where `state` was taken; of more than the maximum, the newest."""
        profiles = cls(shoppers_max=shoppers_max)
        for shopper, traits in state[-shoppers_max:]:
            profiles.note(shopper, dict(traits))
        return profiles
