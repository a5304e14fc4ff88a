"""Policies that are judged: with which probabilities each would have chosen, by a name or a file.

`policy_of` is the one place where a text becomes a policy.
"""

import tomllib
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, Protocol

import msgspec
from msgspec import Meta, Struct

from headrace import policies
from headrace.errors import Misconfigured
from headrace.events import Rejection
from headrace.impressions import actions_max, features_max
from headrace.log.protocol import Log
from headrace.log.scan import topic_records
from headrace.topics import POLICIES
from learners.parts.policies import Chooser

LOGGED: Final = "logged"
UNIFORM: Final = "uniform"
ALWAYS: Final = "always:"
LEARNED: Final = "policy:"
rules_max: Final = 100
TEXTS: Final = ("device", "country", "placement", "route", "model")
NUMBERS: Final = ("hour", "weekday", "position", *(f"context_{number}" for number in range(features_max)))
"""What conditions may name. `hour` (0 to 23) and `weekday` (Monday is 0) are of the answer, in UTC; `position` is the
place in the list; `context_0` and so on are the numbers that an exploring policy knew, in its order."""


class Situation(NamedTuple):
    """One choice that was left to chance.

    Attributes:
        actions: what could be chosen; of a list, only the item that was shown, as the others are not known.
        logged: with which probabilities it was, in the same order.
        values: what is known by name (`TEXTS`, `NUMBERS`).
        context: the numbers that the exploring policy knew.
    """

    actions: Sequence[str]
    logged: Sequence[float]
    values: Mapping[str, str | float]
    context: Sequence[float] = ()

    @property
    def whole(self) -> bool:
        """Whether all actions are known."""
        return abs(sum(self.logged) - 1) < 1e-6


class Policy(Protocol):
    """What chooses."""

    @property
    def names(self) -> frozenset[str]:
        """The actions that it names; each must be one that was possible at least once."""

    def probabilities(self, situation: Situation) -> Sequence[float]:
        """Return the probability of each action of a situation, in its order."""


class Range(Struct, frozen=True, forbid_unknown_fields=True):
    """Numbers from `from` on and below `to`."""

    since: Annotated[float, Meta(description="The least number")] = msgspec.field(default=float("-inf"), name="from")
    until: Annotated[float, Meta(description="The least number beyond it")] = msgspec.field(
        default=float("inf"), name="to"
    )


Probabilities = dict[Annotated[str, Meta(min_length=1, max_length=128)], Annotated[float, Meta(ge=0, le=1)]]
Choice = Probabilities | Literal["logged", "uniform"]


class PolicyRule(Struct, frozen=True, forbid_unknown_fields=True):
    """What is chosen where all conditions hold: `when` has, by name, a text, a number, or a range of numbers."""

    choose: Choice
    when: dict[str, str | float | Range] = {}

    def __post_init__(self) -> None:
        """Refuse what means nothing.

        Raises:
            ValueError: a condition, or the probabilities, cannot be.
        """
        for name, value in self.when.items():
            if name not in (*TEXTS, *NUMBERS):
                raise ValueError(f"when: wanted one of {', '.join((*TEXTS, *NUMBERS[:4]))}, …, found {name!r}")
            if isinstance(value, str) != (name in TEXTS):
                raise ValueError(f"when.{name}: wanted a {'text' if name in TEXTS else 'number'}, found {value!r}")
        _check(self.choose, "choose")

    def holds(self, values: Mapping[str, str | float]) -> bool:
        """Return whether all conditions hold; one on what is not known does not."""
        for name, wanted in self.when.items():
            found = values.get(name)
            if isinstance(wanted, Range):
                if not isinstance(found, (int, float)) or not wanted.since <= found < wanted.until:
                    return False
            elif found != wanted:
                return False
        return True


class StatedPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """A file: the first rule that holds chooses, else `otherwise`.

    Probabilities are by action, and add up to 1. Of actions that could not be chosen, the probability goes to the
    others in proportion; where none of them could be, the policy chooses as was logged.
    """

    otherwise: Choice
    rules: Annotated[tuple[PolicyRule, ...], Meta(max_length=rules_max)] = ()

    def __post_init__(self) -> None:
        """Raise ValueError if the probabilities of `otherwise` cannot be."""
        _check(self.otherwise, "otherwise")

    @property
    def names(self) -> frozenset[str]:
        """The actions that it names."""
        choices = [self.otherwise, *(rule.choose for rule in self.rules)]
        return frozenset([name for one in choices if isinstance(one, dict) for name in one])

    def probabilities(self, situation: Situation) -> Sequence[float]:
        """Return the probability of each action of a situation."""
        rule = next((rule.choose for rule in self.rules if rule.holds(situation.values)), self.otherwise)
        return _chosen(rule, situation)


class _Fixed:
    def __init__(self, choice: Choice) -> None:
        self._choice = choice

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._choice if isinstance(self._choice, dict) else ())

    def probabilities(self, situation: Situation) -> Sequence[float]:
        return _chosen(self._choice, situation)


class _Learned:
    """A policy that an exploring arm has learned, as it was written: it chooses by the context that was logged."""

    names: frozenset[str] = frozenset()

    def __init__(self, stated: policies.Policy) -> None:
        self._stated, self._chooser = stated, Chooser(stated)

    def probabilities(self, situation: Situation) -> Sequence[float]:
        stated, count = self._stated, len(situation.actions)
        is_explored = "context_0" in situation.values
        if not is_explored or len(situation.context) != len(stated.features) or count > len(stated.actions):
            found = (
                f"{count} actions and {len(situation.context)} numbers" if is_explored else "choices without contexts"
            )
            raise Misconfigured(
                f"policy {stated.version}: wanted explored choices of at most {len(stated.actions)} actions with"
                f" contexts of {len(stated.features)} numbers, found {found}"
            )
        return [float(one) for one in self._chooser.probabilities(situation.context, count)]


def _learned(log: Log, version: str) -> _Learned:
    known: dict[str, policies.Policy] = {}
    for record in topic_records(log, POLICIES):
        stated = policies.decode(record)
        if not isinstance(stated, Rejection) and stated.policy:
            if stated.policy.version == version:
                return _Learned(stated.policy)
            known.pop(stated.policy.version, None)
            known[stated.policy.version] = stated.policy
    newest = ", ".join(list(known)[-5:])
    raise Misconfigured(
        f"policy {version}: wanted a version that was learned ({newest or 'there is none'}), found none"
    )


def policy_of(log: Log, text: str) -> Policy:
    """Return the policy of a text: `logged`, `uniform`, `always:ACTION`, `policy:VERSION`, or the path of a file.

    Args:
        log: holds the policies that were learned.

    Raises:
        Misconfigured: it is none of these, or the file states no policy; the text says what was wanted and found.
    """
    if text in (LOGGED, UNIFORM):
        return _Fixed("logged" if text == LOGGED else "uniform")
    if text.startswith(ALWAYS):
        action = text.removeprefix(ALWAYS)
        if not action:
            raise Misconfigured(f"policy {text}: wanted an action's name after {ALWAYS}, found none")
        return _Fixed({action: 1.0})
    if text.startswith(LEARNED):
        return _learned(log, text.removeprefix(LEARNED))
    path = Path(text)
    if path.suffix not in (".toml", ".json"):
        raise Misconfigured(
            f"policy {text}: wanted {LOGGED}, {UNIFORM}, {ALWAYS}ACTION, {LEARNED}VERSION or a file .toml or .json,"
            " found none of these"
        )
    try:
        data = path.read_bytes()
        if path.suffix == ".toml":
            return msgspec.convert(tomllib.loads(data.decode()), StatedPolicy)
        return msgspec.json.decode(data, type=StatedPolicy)
    except OSError as error:
        raise Misconfigured(f"{path}: wanted a file, found {error.strerror}") from None
    except (msgspec.MsgspecError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Misconfigured(f"{path}: {error}") from None


def _chosen(choice: Choice, situation: Situation) -> Sequence[float]:
    if choice == LOGGED:
        return situation.logged
    if choice == UNIFORM:
        if not situation.whole:
            raise Misconfigured("policy uniform: wanted choices of which all actions are logged, found lists of items")
        possible = [probability > 0 for probability in situation.logged]
        return [one / sum(possible) for one in possible]
    assert isinstance(choice, dict)
    if not situation.whole:
        return [choice.get(action, 0.0) for action in situation.actions]
    found = [
        choice.get(action, 0.0) if probability > 0 else 0.0
        for action, probability in zip(situation.actions, situation.logged, strict=True)
    ]
    total = sum(found)
    return [one / total for one in found] if total > 0 else situation.logged


def _check(choice: Choice, what: str) -> None:
    if not isinstance(choice, dict):
        return
    total = sum(choice.values())
    if len(choice) > actions_max or not isfinite(total) or abs(total - 1) > 1e-6:
        raise ValueError(
            f"{what}: wanted probabilities of 1 to {actions_max} actions that add up to 1, found {len(choice)} that"
            f" add up to {total:g}"
        )
