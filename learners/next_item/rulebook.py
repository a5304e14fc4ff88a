"""The rulebook: the newest rules of each placement, as the topic `rules` states them."""

from collections.abc import Collection
from typing import Any, Final, Self

import msgspec

from headrace.events import Rejection
from headrace.log.protocol import Record
from headrace.rules import EVERY, RuleSet, StatedRules, decode, for_cases, merged
from learners.next_item.exposure import STEADY, Exposures, Steering
from learners.next_item.rules import Rules

placements_max: Final = 64
"""Most placements that have rules of their own. Rules of more are rejected: forgetting some would break a promise."""

cases_max: Final = 1_024
"""Most combinations of cases (`RuleSet.when`) whose rules are kept ready."""


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
        self._cases: dict[tuple[Rules, tuple[int, ...]], Rules] = {}

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
        self._drop()
        return None

    def _drop(self) -> None:
        self._ready, self._cases = {}, {}

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
        self._drop()

    def among(self, rules: Rules, segments: Collection[str]) -> Rules:
        """Return the rules that hold, of those of a placement (`of`), for a shopper who is in these segments."""
        cases = rules.stated.cases(segments)
        if not cases:
            return rules
        found = self._cases.get((rules, cases))
        if found is None:
            if len(self._cases) >= cases_max:
                self._cases.clear()
            found = Rules(for_cases(rules.stated, cases), rules.version, rules.steering)
            self._cases[rules, cases] = found
        return found

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
