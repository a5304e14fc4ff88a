"""Rules: what answers must obey whatever is learned, by placement, decoded and validated in one pass.

A record of the topic `rules` states all rules of a placement and replaces the record before; its offset is the rules'
version. Its key is the placement's name, or `EVERY` for every placement (an empty key could not be told from a
missing one). Its value is one JSON document; one without rules, or an empty value, says that the placement has none
of its own. A placement inherits what it does not state (`merged`). `decode` returns a `StatedRules` or a `Rejection`
and never raises, whatever the bytes are. Unlike in events, an unknown field is an error: a rule that is not
understood would not be obeyed. `docs/rules.schema.json` is generated from these types.
"""

from collections.abc import Collection, Iterator
from math import isfinite
from re import fullmatch
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from headrace.events import Id, Price, Rejection, id_in_key
from headrace.log.protocol import RECORD_BYTES_MAX, Outgoing, Record
from headrace.segments import Among
from headrace.topics import RULES

EVERY: Final = "*"
"""Stands for every placement."""
PLACEMENT: Final = r"^[A-Za-z0-9_.-]{1,64}$(?!\n)"
"""The names of placements."""

_Brands = Annotated[tuple[Annotated[str, Meta(max_length=500, pattern=r"\S")], ...], Meta(max_length=1_000)]
_Categories = Annotated[tuple[Annotated[str, Meta(max_length=500, pattern=r"[^>/\s]")], ...], Meta(max_length=1_000)]
_Days = Annotated[float, Meta(gt=0, le=3_650)]
_Hours = Annotated[float, Meta(gt=0, le=8_784)]
_Count = Annotated[int, Meta(ge=1, le=1_000)]


class _Rule(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, repr_omit_defaults=True):
    """A part of a document; what it does not state is not written."""


class Bought(_Rule, frozen=True):
    """Whether what the shopper has bought is left out: for ever, or until `again_after_days` later."""

    leave_out: bool = True
    again_after_days: _Days | None = None

    def __post_init__(self) -> None:
        if not self.leave_out and self.again_after_days is not None:
            raise ValueError("wanted again_after_days only where leave_out is true")
        _check_finite(self.again_after_days)


class Seen(_Rule, frozen=True):
    """Whether what the shopper saw or bought in the running visit is left out, and what was seen `within_hours`."""

    leave_out: bool = True
    within_hours: _Hours | None = None

    def __post_init__(self) -> None:
        if not self.leave_out and self.within_hours is not None:
            raise ValueError("wanted within_hours only where leave_out is true")
        _check_finite(self.within_hours)


class Categories(_Rule, frozen=True):
    """If `only` has categories, an item must be of one of them or below it; it must be of none in `never`."""

    only: _Categories = ()
    never: _Categories = ()


class Brands(_Rule, frozen=True):
    """If `only` has brands, an item must be of one of them; it must be of none in `never`."""

    only: _Brands = ()
    never: _Brands = ()


class PriceLimits(_Rule, frozen=True):
    """The least and the highest price, in the shop's currency."""

    min: Price | None = None
    max: Price | None = None

    def __post_init__(self) -> None:
        _check_finite(self.min, self.max)
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"wanted min of at most max, found {self.min:g} and {self.max:g}")


class Stock(_Rule, frozen=True):
    """Items whose stock is expected to last for fewer than `least_days` days are left out or, with `demote`, their
    scores are multiplied by it. Items of which no level is stated are not touched."""

    least_days: _Days
    demote: Annotated[float, Meta(gt=0, lt=1)] | None = None

    def __post_init__(self) -> None:
        _check_finite(self.least_days, self.demote)


class AtMost(_Rule, frozen=True):
    """The most items of one brand, and of one category, in an answer."""

    brand: _Count | None = None
    category: _Count | None = None


class Pin(_Rule, frozen=True):
    """An item that has this place, from 1 on, in each answer that is as long."""

    item: Id
    place: _Count


class Boost(_Rule, frozen=True):
    """Multiplies the scores of items, which are named or of one of these categories or brands."""

    factor: Annotated[float, Meta(gt=0, le=100)]
    items: Annotated[tuple[Id, ...], Meta(max_length=1_000)] = ()
    categories: _Categories = ()
    brands: _Brands = ()

    def __post_init__(self) -> None:
        _check_finite(self.factor)
        if not (self.items or self.categories or self.brands):
            raise ValueError("wanted items, categories or brands, found none")


_Weight = Annotated[float, Meta(ge=0, le=1_000)]


class Trade(_Rule, frozen=True):
    """What may be given up of an answer's relevance, and for what.

    An answer keeps at least the share `relevance_min` of the relevance that it would have without this rule: the sum
    over its places k of the blend's probability of the item / log2(1 + k). The objectives have weights among them:
    `margin` (what is likely to be earned), `freshness` (items that are new: half as much after `fresh_days`),
    `diversity` (brands and categories that the answer does not have yet), `exposure` (brands and sellers that are
    shown less than they merit) and `stock` (items of which there is plenty: half as much as most where it lasts for 30
    days).
    """

    relevance_min: Annotated[float, Meta(gt=0, le=1)]
    margin: _Weight = 0.0
    freshness: _Weight = 0.0
    diversity: _Weight = 0.0
    exposure: _Weight = 0.0
    stock: _Weight = 0.0
    fresh_days: _Days = 30.0

    def __post_init__(self) -> None:
        weights = self.margin, self.freshness, self.diversity, self.exposure, self.stock
        _check_finite(self.relevance_min, self.fresh_days, *weights)
        if not any(weights):
            raise ValueError("wanted a weight of margin, freshness, diversity, exposure or stock, found none above 0")


_Part = Annotated[float, Meta(gt=0, le=1)]


class ExposureBounds(_Rule, frozen=True):
    """Bounds of the exposure that brands and sellers get at a placement over many answers.

    Exposure is the attention that a place gets: 1 / log2(1 + place). `brand_max` and `seller_max` are the largest share
    of it for one brand, or seller. `brand_merit_min` and `seller_merit_min` are the least part that each gets of what
    it merits: its share of the steps that shoppers take without being led by an answer.
    """

    brand_max: _Part | None = None
    seller_max: _Part | None = None
    brand_merit_min: _Part | None = None
    seller_merit_min: _Part | None = None

    def __post_init__(self) -> None:
        _check_finite(self.brand_max, self.seller_max, self.brand_merit_min, self.seller_merit_min)


class When(Among, frozen=True, kw_only=True):
    """Rules for some shoppers alone, beside those for all, in place of those of the same kind."""

    rules: "RuleSet"

    def __post_init__(self) -> None:
        """Refuse rules that cannot be for some shoppers alone.

        Raises:
            ValueError: there are none, or there are such.
        """
        super().__post_init__()
        if self.rules.states_nothing:
            raise ValueError("rules: wanted a rule, found none")
        if self.rules.when:
            raise ValueError("rules: wanted rules without `when`, found one within another")
        if self.rules.is_steered:
            raise ValueError("rules: wanted rules of single answers, found bounds of the exposure over all of them")


class RuleSet(_Rule, frozen=True):
    """The value of a record: who stated the rules and why, and the rules. A field that is None is not stated.

    `when` has rules for the shoppers of some segments; of several that admit a shopper, later ones replace earlier
    ones, kind by kind.
    """

    by: Annotated[str, Meta(max_length=200)] = ""
    why: Annotated[str, Meta(max_length=500)] = ""
    bought: Bought | None = None
    seen: Seen | None = None
    hidden: Annotated[tuple[Id, ...], Meta(max_length=5_000)] | None = None
    categories: Categories | None = None
    brands: Brands | None = None
    price: PriceLimits | None = None
    stock: Stock | None = None
    at_most: AtMost | None = None
    pinned: Annotated[tuple[Pin, ...], Meta(max_length=100)] | None = None
    boosted: Annotated[tuple[Boost, ...], Meta(max_length=100)] | None = None
    trade: Trade | None = None
    exposure: ExposureBounds | None = None
    when: Annotated[tuple[When, ...], Meta(max_length=32)] | None = None

    def __post_init__(self) -> None:
        for name in ("item", "place"):
            values = [getattr(pin, name) for pin in self.pinned or ()]
            if twice := next((one for one in values if values.count(one) > 1), None):
                raise ValueError(f"pinned: wanted each {name} once, found {twice!r} twice")

    @property
    def is_steered(self) -> bool:
        """Whether answers by these rules depend on the exposure so far."""
        return self.exposure is not None or (self.trade is not None and self.trade.exposure > 0)

    def cases(self, segments: Collection[str]) -> tuple[int, ...]:
        """Return the numbers of those in `when` that admit a shopper who is in these segments."""
        return tuple([number for number, one in enumerate(self.when or ()) if one.admits(segments)])

    def wrong_segments(self, known: Collection[str], path: str = "$") -> Iterator[str]:
        """Yield what is wrong with each name in `when` that is none of the segments by rule `known`, and where."""
        for number, one in enumerate(self.when or ()):
            yield from one.wrong(known, f"{path}.when[{number}]")

    @property
    def states_nothing(self) -> bool:
        """Whether it has no rules: who took all of them back, and why, is all that it says."""
        return all(getattr(self, name) is None for name in self.__struct_fields__[2:])


class StatedRules(NamedTuple):
    """A decoded record: the placement, the version, and the rules; None if the placement has none of its own."""

    placement: str
    version: int
    rules: RuleSet | None


_decode = msgspec.json.Decoder(RuleSet).decode


def decode(record: Record) -> StatedRules | Rejection:
    """Return what a record states of a placement, or the reason why it cannot be used."""
    value, key = record.value, record.key
    if not key:
        return Rejection("key_missing", f"wanted the placement's name as the record's key, or {EVERY}, found none")
    try:
        placement = id_in_key(key.decode())
        if isinstance(placement, Rejection):
            return placement
        if not is_placement(placement):
            return Rejection("key_invalid", f"wanted a placement's name as {PLACEMENT}, or {EVERY}, as the key")
        if not value:
            return StatedRules(placement, record.offset, None)
        if len(value) > RECORD_BYTES_MAX:
            return Rejection("too_large", f"wanted at most {RECORD_BYTES_MAX} bytes, found {len(value)}")
        return StatedRules(placement, record.offset, _decode(value))
    except msgspec.ValidationError as error:
        return Rejection("schema", str(error)[:300])
    except msgspec.DecodeError as error:
        return Rejection("not_json", str(error)[:300])
    except UnicodeDecodeError as error:
        return Rejection("bad_utf8", str(error)[:300])
    except RecursionError:
        return Rejection("too_deep", "wanted a document of at most a few levels, found one nested too deeply")


def record_of(placement: str, rules: RuleSet | None) -> Outgoing:
    """Return the record that states a placement's rules; None if it has none of its own."""
    return Outgoing(RULES, placement.encode(), None if rules is None else msgspec.json.encode(rules))


def is_placement(name: str) -> bool:
    """Return whether rules may be stated for a placement of this name.

    >>> [is_placement(name) for name in ("home.top", EVERY, "", "a b")]
    [True, True, False, False]
    """
    return name == EVERY or fullmatch(PLACEMENT, name) is not None


def merged(every: RuleSet, own: RuleSet) -> RuleSet:
    """Return the rules that hold at a placement: its own, and those of every placement that it does not state.

    What is hidden at every placement stays hidden, and what holds for some shoppers there (`when`) holds for them.

    >>> merged(RuleSet(hidden=("a",), price=PriceLimits(max=9)), RuleSet(hidden=("b",), seen=Seen()))
    RuleSet(seen=Seen(), hidden=('a', 'b'), price=PriceLimits(max=9))
    """
    stated = {name: rule for name in own.__struct_fields__ if (rule := getattr(own, name)) is not None}
    if every.hidden and own.hidden:
        stated["hidden"] = tuple(dict.fromkeys((*every.hidden, *own.hidden)))
    if every.when and own.when:
        stated["when"] = (*every.when, *own.when)
    return msgspec.structs.replace(every, **stated)


def for_cases(stated: RuleSet, cases: Collection[int]) -> RuleSet:
    """Return the rules that hold where these of `when` admit the shopper, by number; they replace others of their kind.

    >>> rules = RuleSet(seen=Seen(), when=(When(("loyal",), rules=RuleSet(price=PriceLimits(max=9))),))
    >>> for_cases(rules, rules.cases(["loyal"])), for_cases(rules, rules.cases([]))
    (RuleSet(seen=Seen(), price=PriceLimits(max=9)), RuleSet(seen=Seen()))
    """
    found = msgspec.structs.replace(stated, when=None)
    for number in cases:
        found = merged(found, (stated.when or ())[number].rules)
    return found


def _check_finite(*numbers: float | None) -> None:
    if not all(number is None or isfinite(number) for number in numbers):
        raise ValueError("wanted a finite number")  # TOML has others


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a placement's rules."""
    schema = msgspec.json.schema(RuleSet)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Headrace rules", **schema}


def reference() -> str:
    """Return the content of docs/rules.schema.json."""
    return msgspec.json.format(msgspec.json.encode(json_schema()), indent=2).decode() + "\n"
