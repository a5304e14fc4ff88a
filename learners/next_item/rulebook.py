"""The rulebook: the newest rules of each placement, as the topic `rules` states them."""

from typing import Any, Final, Self

import msgspec

from headrace.events import Rejection
from headrace.log.protocol import Record
from headrace.rules import EVERY, RuleSet, StatedRules, decode, merged
from learners.next_item.exposure import STEADY, Exposures, Steering
from learners.next_item.rules import Rules

placements_max: Final = 64
"""Most placements that have rules of their own. Rules of more are rejected: forgetting some would break a promise."""


class Rulebook:
    """The rules by placement. Those of every placement hold where a placement states nothing else.

    Args:
        exposures: what steers answers; call `steer` when it has changed.

    >>> from headrace.rules import record_of
    >>> book = Rulebook()
    >>> book.hear(Record(0, 7, 0, b"*", b'{"hidden": ["boots"]}'))
    >>> book.of("cart").stated.hidden, book.of("cart").version
    (('boots',), 7)
    """

    def __init__(self, exposures: Exposures | None = None) -> None:
        self._exposures = exposures or Exposures()
        self._stated: dict[str, tuple[int, RuleSet]] = {}
        self._ready: dict[str, Rules] = {}

    def hear(self, record: Record) -> Rejection | None:
        """Replace a placement's rules by those of a record; return why, if it cannot be used."""
        found = decode(record)
        return found if isinstance(found, Rejection) else self.state_rules(found)

    def state_rules(self, found: StatedRules) -> Rejection | None:
        """Replace a placement's rules; return why, if there is no room."""
        placement, version, rules = found
        if rules is None or rules.states_nothing:
            self._stated.pop(placement, None)
        elif placement not in self._stated and len(self._stated) >= placements_max:
            return Rejection("schema", f"wanted rules of at most {placements_max} placements, found one more")
        else:
            self._stated[placement] = version, rules
        self._ready = {}
        return None

    def of(self, placement: str) -> Rules:
        """Return the rules that hold at a placement."""
        name = placement if placement in self._stated or placement in self._exposures else EVERY
        ready = self._ready.get(name)
        if ready is None:
            every, own = (self._stated.get(one, (-1, RuleSet())) for one in (EVERY, name))
            version = max(every[0], own[0])
            stated = merged(every[1], own[1])
            ready = Rules(stated, None if version < 0 else version, self.steering(stated, name))
            self._ready[name] = ready
        return ready

    def steer(self) -> None:
        """Make rules ready anew: what steers answers has changed."""
        self._ready = {}

    def steering(self, stated: RuleSet, placement: str, experiment: str = "", arm: str = "") -> Steering:
        """Return what steers answers by these rules at a placement, or in an arm there."""
        return self._exposures.of(placement, experiment, arm) if stated.is_steered else STEADY

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the number of placements that have rules, and the maximum."""
        return {"rules_placements": (len(self._stated), placements_max)}

    def state(self) -> list[Any]:
        """Return the placements with the versions of their rules and the rules, by name."""
        return [[name, version, msgspec.to_builtins(rules)] for name, (version, rules) in sorted(self._stated.items())]

    @classmethod
    def from_state(cls, state: list[Any], exposures: Exposures | None = None) -> Self:
        """Return a rulebook that continues where `state` was taken."""
        book = cls(exposures)
        book._stated = {name: (version, msgspec.convert(rules, RuleSet)) for name, version, rules in state}
        return book
