"""A shopper's profile card: what the server's answers about one shopper say, as it is shown."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from msgspec import Struct

from operators.catalogue import Catalogue

AMOUNTS: Final = frozenset({"money", "order_value"})
"""Traits in the shop's currency."""
PICTURED: Final = ("category", "brand", "price")
"""Kinds of tastes that are shown as bars, the strongest ones first."""
WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
tastes_shown: Final = 6
reasons_shown: Final = 8

Sure = Literal["sure", "rather", "guess", "unknown"]
Unit = Literal["", "days", "share", "amount"]


class Told(Struct, kw_only=True):
    """An answer about a shopper: what it says, or why there is none. `unknown`: the server knows nothing."""

    answer: dict[str, Any] | None = None
    why: str = ""
    unknown: bool = False


class TraitRow(Struct, kw_only=True):
    """A trait: its value, None if it is not known, and how sure that is."""

    name: str
    value: float | None
    unit: Unit
    confidence: float
    sure: Sure
    evidence: int
    since_ms: int


class ReasonRow(Struct, kw_only=True):
    """A reason of an intent: a bar in a picture 100 wide, whose middle is what is usual."""

    name: str
    value: float | str
    adds: float
    x: float
    width: float


def sure_of(confidence: float) -> Sure:
    """Return how sure a trait is, in a word.

    >>> [sure_of(confidence) for confidence in (0.0, 0.3, 0.6, 0.9)]
    ['unknown', 'guess', 'rather', 'sure']
    """
    return "unknown" if confidence <= 0 else "guess" if confidence < 0.5 else "rather" if confidence < 0.8 else "sure"


def trait_rows(profile: Mapping[str, Any]) -> list[TraitRow]:
    """Return the traits of a profile."""
    return [
        TraitRow(
            name=name, value=one["value"], unit=_unit(name), confidence=one["confidence"],
            sure="unknown" if one["value"] is None else sure_of(one["confidence"]), evidence=one["evidence"],
            since_ms=one["since_ms"],
        )
        for name, one in profile["traits"].items()
    ]  # fmt: skip


def _unit(name: str) -> Unit:
    if name in AMOUNTS:
        return "amount"
    return "share" if name.endswith("_share") else "days" if name.endswith("_days") else ""


def shares(profile: Mapping[str, Any], kind: str, values: Sequence[str]) -> list[float]:
    """Return the share of each value of a kind, 0 of those that the shopper has not turned to."""
    found = {one["value"]: one["share"] for one in profile["tastes"].get(kind, [])}
    return [found.get(value, 0.0) for value in values]


def why_leaving(says: Catalogue, reason: Mapping[str, Any]) -> str:
    """Return why a shopper seems to leave; a server of another release may state no numbers."""
    return says(f"leaving.{reason['code']}", **reason["values"]) if reason["values"] else str(reason["text"])


def why_then(says: Catalogue, best: Mapping[str, Any]) -> str:
    """Return why a day is the best one to write to a shopper."""
    if not best["code"]:
        return str(best["why"])
    due = says(f"write.{best['code']}", days=best["days"])
    return says("write.on_weekday", why=due, weekday=best["weekday"]) if best["weekday"] else due


def reason_rows(intent: Mapping[str, Any]) -> list[ReasonRow]:
    """Return the strongest reasons of an intent."""
    found = intent["reasons"][:reasons_shown]
    most = max((abs(one["adds"]) for one in found), default=0.0) or 1.0
    widths = [48 * abs(one["adds"]) / most for one in found]
    return [
        ReasonRow(
            name=one["name"], value=one["value"], adds=one["adds"], x=50 if one["adds"] > 0 else 50 - width, width=width
        )
        for one, width in zip(found, widths, strict=True)
    ]
