"""What answers are told of exposure: by how much to multiply the scores of brands and sellers, and who lacks how much.

It follows from the newest record of `exposures` for each placement, and for each arm there (`headrace.exposures`).
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Self

import msgspec

from headrace.events import Rejection
from headrace.exposures import Exposure, Steered, decode
from headrace.log.protocol import Record

exposures_max: Final = 256
"""Most placements, and arms there, of which something is remembered; that of the oldest record is forgotten first."""
_ONE: Final = Steered()


class Steering(NamedTuple):
    """What steers brands and sellers, by their names as rules compare them."""

    brands: Mapping[str, Steered] = {}
    sellers: Mapping[str, Steered] = {}

    def factor(self, brand: str, seller: str) -> float:
        """Return what multiplies the score of an item.

        >>> Steering({"acme": Steered(0.5)}, {"smith": Steered(3.0)}).factor("acme", "smith")
        1.5
        """
        return self.brands.get(brand, _ONE).factor * self.sellers.get(seller, _ONE).factor

    def shortfall(self, brand: str, seller: str) -> float:
        """Return which share of the exposure that they merit brand or seller lack, whichever lacks more."""
        return max(self.brands.get(brand, _ONE).shortfall, self.sellers.get(seller, _ONE).shortfall)


STEADY: Final = Steering()


class Exposures:
    """The newest record of each placement, and of each arm there."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str, str], Exposure] = {}

    def __contains__(self, placement: object) -> bool:
        return (placement, "", "") in self._said

    def hear(self, record: Record) -> Rejection | None:
        """Take over what a record says; return why, if it cannot be used."""
        found = decode(record)
        if isinstance(found, Rejection):
            return found
        scope = found.placement, found.experiment, found.arm
        self._said.pop(scope, None)
        self._said[scope] = found
        if len(self._said) > exposures_max:
            del self._said[next(iter(self._said))]
        return None

    def of(self, placement: str, experiment: str = "", arm: str = "") -> Steering:
        """Return what steers answers at a placement, or in an arm there."""
        found = self._said.get((placement, experiment, arm))
        return STEADY if found is None else Steering(found.brands, found.sellers)

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return of how many placements and arms something is remembered, and the maximum."""
        return {"exposures_said": (len(self._said), exposures_max)}

    def state(self) -> list[Any]:
        """Return the newest records, the one said least recently first."""
        return [msgspec.to_builtins(one) for one in self._said.values()]

    @classmethod
    def from_state(cls, state: list[Any]) -> Self:
        """Return what continues where `state` was taken."""
        found = cls()
        for one in msgspec.convert(state, list[Exposure]):
            found._said[one.placement, one.experiment, one.arm] = one
        return found
