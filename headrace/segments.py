"""Segments: groups of shoppers by rules over their profiles, stated by a person, decoded and validated in one pass.

A record of the topic `segments` has all segments of a shop and replaces the record before; its offset is their version.
Its key is `KEY`, its value one JSON document; one without segments, or an empty value, says that there are none.
`decode` returns a `StatedSegments` or a `Rejection` and never raises, whatever the bytes are.

A segment's rule is an expression:

    orders >= 3 and order_days <= 60 and not category("Gift cards") > 0.5

It compares traits of a profile (`TRAITS`), shares of tastes (`category("Toys")`; the kinds are `KINDS`), the strongest
taste (`top(device) == "mobile"`), what the shop states (`stated("plan") in ("gold", "silver")`), and membership of a
segment above it (`segment("loyal")`). `known(order_gap_days)` says whether a trait is known; a comparison with one that
is not known is false.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from math import isfinite
from typing import Annotated, Any, Final, Literal, NamedTuple, NoReturn, Protocol, get_args

import msgspec
from msgspec import Meta, Struct, field

from headrace.events import Rejection
from headrace.log.protocol import RECORD_BYTES_MAX, Outgoing, Record
from headrace.topics import SEGMENT_MOVES, SEGMENTS

KEY: Final = "*"
"""The key of the record: it has the segments of all shoppers."""
TRAITS: Final = (
    "seen_days", "known_days", "visits", "views_per_visit", "carts_per_visit", "searches_per_visit", "orders",
    "orders_per_visit", "orders_per_month", "order_days", "order_gap_days", "order_gap_spread", "money", "order_value",
    "order_units", "refunded_share", "price_level", "lowered_share", "promoted_share",
)  # fmt: skip
"""The traits of a profile that a rule can compare; all are numbers."""
KINDS: Final = ("category", "brand", "price", "hour", "weekday", "device", "channel")
"""The kinds of tastes."""
segments_max: Final = 32
"""Most segments by rule."""
nesting_max: Final = 32
"""Most parentheses and negations within each other."""

_CLUSTER: Final = r"c[0-9]{1,9}"
Name = Annotated[str, Meta(pattern=rf"^(?!{_CLUSTER}$)[a-z][a-z0-9_-]{{0,63}}$(?!\n)")]
"""The name of a segment by rule; `c1` and the like are clusters."""
Class = Literal["A", "B", "C"]
"""Classes of shoppers by what is expected of them (`headrace.shopper_classes`)."""
CLASSES: Final[tuple[Class, ...]] = get_args(Class)
AnyName = Annotated[str, Meta(pattern=r"^([a-z][a-z0-9_-]{0,63}|[ABC])$(?!\n)")]
"""The name of a segment by rule, of a cluster, or of a class: no name is that of two kinds."""
Value = str | float | bool


class Facts(Protocol):
    """What a rule may ask of a shopper."""

    def trait(self, name: str) -> float | None:
        """Return the value of a trait, None if it is not known."""

    def share(self, kind: str, value: str) -> float:
        """Return the share of a taste in its kind, 0 if there is none."""

    def top(self, kind: str) -> str | None:
        """Return the strongest taste of a kind."""

    def stated(self, name: str) -> Value | None:
        """Return what the shop states, None if it states nothing."""

    def member(self, segment: str) -> bool:
        """Return whether the shopper is in a segment."""


class WrongRule(ValueError):
    """A rule that cannot be used. `offset` is that of the character in the rule at which it goes wrong."""

    def __init__(self, text: str, offset: int) -> None:
        super().__init__(text)
        self.offset = offset


Test = Callable[[Facts], bool]
_Found = Literal["number", "text", "word", "sign", "end"]


class _Token(NamedTuple):
    kind: _Found
    text: str
    offset: int


_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(?P<text>"[^"\n]*"|'[^'\n]*')|(?P<word>[A-Za-z_]\w*)"""
    r"""|(?P<sign>==|!=|<=|>=|<|>|\(|\)|,)|(?P<end>$))"""
)
_WANTED: Final = "wanted a trait, a taste, top, stated, known or segment"
_ORDERED: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
}  # fmt: skip


def _tokens(rule: str) -> list[_Token]:
    found, at = list[_Token](), 0
    while not found or found[-1].kind != "end":
        match = _TOKEN.match(rule, at)
        if match is None:
            at = len(rule) - len(rule[at:].lstrip())
            raise WrongRule(f"wanted a name, a number, a text in quotes or a sign, found {rule[at]!r}", at)
        kind: Any = match.lastgroup
        found.append(_Token(kind, match[kind], match.start(kind)))
        at = match.end()
    return found


class _Parser:
    """Parses one rule; `known` are the names of the segments above it."""

    def __init__(self, rule: str, known: Mapping[str, Any]) -> None:
        self._tokens, self._known, self._depth = _tokens(rule), known, 0

    def parse(self) -> Test:
        test = self._any()
        if self._next.kind != "end":
            self._refuse("and, or, or the end of the rule")
        return test

    @property
    def _next(self) -> _Token:
        return self._tokens[0]

    def _take(self) -> _Token:
        return self._tokens.pop(0)

    def _refuse(self, wanted: str) -> NoReturn:
        found = repr(self._next.text) if self._next.kind != "end" else "the end"
        raise WrongRule(f"wanted {wanted}, found {found}", self._next.offset)

    def _skip(self, text: str) -> bool:
        if self._next.text != text or self._next.kind == "text":
            return False
        self._take()
        return True

    def _want(self, text: str) -> None:
        if not self._skip(text):
            self._refuse(repr(text))

    def _any(self) -> Test:
        tests = [self._all()]
        while self._skip("or"):
            tests.append(self._all())
        return tests[0] if len(tests) == 1 else lambda facts: any(test(facts) for test in tests)

    def _all(self) -> Test:
        tests = [self._not()]
        while self._skip("and"):
            tests.append(self._not())
        return tests[0] if len(tests) == 1 else lambda facts: all(test(facts) for test in tests)

    def _not(self) -> Test:
        self._depth += 1
        if self._depth > nesting_max:
            self._refuse(f"at most {nesting_max} parentheses and negations within each other")
        if self._skip("not"):
            test = self._not()
            found: Test = lambda facts: not test(facts)  # noqa: E731
        elif self._skip("("):
            found = self._any()
            self._want(")")
        else:
            found = self._comparison()
        self._depth -= 1
        return found

    def _comparison(self) -> Test:
        if self._next.kind != "word":
            self._refuse(_WANTED.removeprefix("wanted "))
        word = self._take()
        if word.text == "segment":
            (name,) = self._arguments()
            if name.text[1:-1] not in self._known:
                raise WrongRule(f"wanted a segment that is stated above, found {name.text}", name.offset)
            return lambda facts: facts.member(name.text[1:-1])
        if word.text == "known":
            trait = self._argument(TRAITS)
            return lambda facts: facts.trait(trait) is not None
        if word.text in TRAITS:
            return self._compared(lambda facts: facts.trait(word.text), numbers=True)
        if word.text in KINDS:
            value = self._arguments()[0].text[1:-1]
            return self._compared(lambda facts: facts.share(word.text, value), numbers=True)
        if word.text == "top":
            kind = self._argument(KINDS)
            return self._compared(lambda facts: facts.top(kind), texts=True)
        if word.text == "stated":
            name = self._arguments()[0]
            return self._compared(lambda facts: facts.stated(name.text[1:-1]), numbers=True, texts=True, truths=True)
        near = _near(word.text, (*TRAITS, *KINDS, "top", "stated", "known", "segment"))
        raise WrongRule(f"{_WANTED}, found {word.text!r}{near}", word.offset)

    def _arguments(self) -> list[_Token]:
        """Return the text within parentheses."""
        self._want("(")
        if self._next.kind != "text":
            self._refuse("a text in quotes")
        found = [self._take()]
        self._want(")")
        return found

    def _argument(self, known: tuple[str, ...]) -> str:
        """Return the name within parentheses, which must be one of these."""
        self._want("(")
        if self._next.text not in known or self._next.kind != "word":
            self._refuse(f"one of {', '.join(known)}")
        found = self._take().text
        self._want(")")
        return found

    def _compared(
        self, value: Callable[[Facts], Value | None], *, numbers: bool = False, texts: bool = False,
        truths: bool = False,
    ) -> Test:  # fmt: skip
        kinds = {float: numbers, str: texts, bool: truths}
        if self._skip("in"):
            self._want("(")
            values = [self._value(kinds)]
            while self._skip(","):
                values.append(self._value(kinds))
            self._want(")")
            return lambda facts: any(_same(value(facts), one) for one in values)
        sign = self._next
        if sign.text not in ("==", "!=", *_ORDERED) or sign.kind != "sign":
            self._refuse("==, !=, <, <=, >, >= or in")
        self._take()
        if sign.text in _ORDERED:
            if not numbers:
                raise WrongRule(f"wanted ==, != or in for a text, found {sign.text!r}", sign.offset)
            limit, ordered = self._value({float: True}), _ORDERED[sign.text]
            assert isinstance(limit, float)
            return lambda facts: _is_ordered(value(facts), limit, ordered)
        other = self._value(kinds)
        if sign.text == "==":
            return lambda facts: _same(value(facts), other)
        return lambda facts: (found := value(facts)) is not None and not _same(found, other)

    def _value(self, kinds: Mapping[type, bool]) -> Value:
        token = self._next
        if token.kind == "number" and kinds.get(float):
            found = float(self._take().text)
            if not isfinite(found):
                raise WrongRule("wanted a finite number", token.offset)
            return found
        if token.kind == "text" and kinds.get(str):
            return self._take().text[1:-1]
        if token.kind == "word" and token.text in ("true", "false") and kinds.get(bool):
            return self._take().text == "true"
        names = {float: "a number", str: "a text in quotes", bool: "true or false"}
        return self._refuse(" or ".join(name for kind, name in names.items() if kinds.get(kind)))


def _same(found: Value | None, other: Value) -> bool:
    return found == other and isinstance(found, bool) == isinstance(other, bool)


def _is_ordered(found: Value | None, limit: float, ordered: Callable[[float, float], bool]) -> bool:
    return isinstance(found, int | float) and not isinstance(found, bool) and ordered(found, limit)


def _near(word: str, known: tuple[str, ...]) -> str:
    from difflib import get_close_matches

    found = get_close_matches(word, known, n=1)
    return f"; did you mean {found[0]}?" if found else ""


def parse(rule: str, above: Mapping[str, Any]) -> Test:
    """Return the test that a rule is.

    Args:
        above: the segments that it may name.

    Raises:
        WrongRule: it cannot be used; the error says where.

    >>> parse("orders >= three", {})
    Traceback (most recent call last):
        ...
    headrace.segments.WrongRule: wanted a number, found 'three'
    """
    return _Parser(rule, above).parse()


class _Part(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of a document."""


class Segment(_Part, frozen=True):
    """A segment: its rule, and what it is for."""

    where: Annotated[str, Meta(min_length=1, max_length=2_000)]
    about: Annotated[str, Meta(max_length=500)] = ""


class Among(_Part, frozen=True):
    """For which shoppers something holds: those in at least one of the segments `in`, and in none of `not_in`.

    A shopper of whom nothing is known is in no segment. One without `in` is for all who are in none of `not_in`.

    >>> loyal = Among(in_=("loyal", "A"), not_in=("c3",))
    >>> [loyal.admits(one) for one in ((), ("loyal",), ("A", "c1"), ("loyal", "c3"))]
    [False, True, True, False]
    """

    in_: Annotated[tuple[AnyName, ...], Meta(max_length=segments_max)] = field(default=(), name="in")
    not_in: Annotated[tuple[AnyName, ...], Meta(max_length=segments_max)] = ()

    def __post_init__(self) -> None:
        """Refuse what holds for everybody, or for nobody.

        Raises:
            ValueError: no segment is named, or one is both wanted and not wanted.
        """
        if not (self.in_ or self.not_in):
            raise ValueError("wanted segments in `in` or `not_in`, found none")
        if both := next((one for one in self.in_ if one in self.not_in), None):
            raise ValueError(f"wanted each segment in `in` or in `not_in`, found {both!r} in both")

    @property
    def names(self) -> tuple[str, ...]:
        """The segments that it names."""
        return (*self.in_, *self.not_in)

    def admits(self, segments: Collection[str]) -> bool:
        """Return whether it holds for a shopper who is in these segments."""
        return (not self.in_ or any(one in segments for one in self.in_)) and not any(
            one in segments for one in self.not_in
        )

    def wrong(self, known: Collection[str], path: str) -> Iterator[str]:
        """Yield what is wrong with each name that is none of these segments by rule; see `wrong_names`."""
        yield from wrong_names(self.in_, known, f"{path}.in")
        yield from wrong_names(self.not_in, known, f"{path}.not_in")


def wrong_names(names: Iterable[str], known: Collection[str], path: str) -> Iterator[str]:
    """Yield what is wrong with each name that is none of the segments by rule `known`, of a cluster or of a class.

    Args:
        path: where the names are in their document.

    >>> print(*wrong_names(["A", "loyl", "c4"], ["loyal"], "$.in"))
    wanted loyal, a cluster such as c1, or a class A, B or C, found 'loyl'; did you mean loyal? - at `$.in[1]`
    """
    for number, name in enumerate(names):
        if name not in known and name not in CLASSES and not is_cluster(name):
            wanted = "".join(f"{one}, " for one in known)
            yield (
                f"wanted {wanted}a cluster such as c1, or a class A, B or C, found {name!r}"
                f"{_near(name, tuple(known))} - at `{path}[{number}]`"
            )


def is_cluster(name: str) -> bool:
    """Return whether a name is a cluster's.

    >>> [is_cluster(name) for name in ("c12", "c", "gold", "C")]
    [True, False, False, False]
    """
    return re.fullmatch(_CLUSTER, name) is not None


class SegmentRules(_Part, frozen=True):
    """The value of a record: who stated the segments and why, and the segments by name, in their order."""

    by: Annotated[str, Meta(max_length=200)] = ""
    why: Annotated[str, Meta(max_length=500)] = ""
    segments: Annotated[dict[Name, Segment], Meta(max_length=segments_max)] = {}

    def tests(self) -> dict[str, Test]:
        """Return the test of each segment.

        Raises:
            WrongSegment: a rule cannot be used.
        """
        found: dict[str, Test] = {}
        for name, segment in self.segments.items():
            try:
                found[name] = parse(segment.where, found)
            except WrongRule as error:
                raise WrongSegment(name, segment.where, error) from None
        return found


class WrongSegment(ValueError):
    """A segment whose rule cannot be used: its name, and the line and column in the rule, from 1 on."""

    def __init__(self, name: str, rule: str, error: WrongRule) -> None:
        before = rule[: error.offset]
        self.name, self.text = name, str(error)
        self.line, self.column = before.count("\n") + 1, error.offset - (before.rfind("\n") + 1) + 1
        super().__init__(f"{name}: line {self.line}, column {self.column} of the rule: {error}")


class StatedSegments(NamedTuple):
    """A decoded record: the version, the rules, and the test of each segment."""

    version: int
    rules: SegmentRules
    tests: Mapping[str, Test]


_decode = msgspec.json.Decoder(SegmentRules).decode


def decode(record: Record) -> StatedSegments | Rejection:
    """Return what a record states, or the reason why it cannot be used."""
    value = record.value
    if record.key != KEY.encode():
        return Rejection("key_invalid" if record.key else "key_missing", f"wanted the key {KEY}, found another")
    if not value:
        return StatedSegments(record.offset, SegmentRules(), {})
    if len(value) > RECORD_BYTES_MAX:
        return Rejection("too_large", f"wanted at most {RECORD_BYTES_MAX} bytes, found {len(value)}")
    try:
        rules = _decode(value)
        return StatedSegments(record.offset, rules, rules.tests())
    except (msgspec.ValidationError, WrongSegment) as error:
        return Rejection("schema", str(error)[:300])
    except msgspec.DecodeError as error:
        return Rejection("not_json", str(error)[:300])
    except UnicodeDecodeError as error:
        return Rejection("bad_utf8", str(error)[:300])
    except RecursionError:
        return Rejection("too_deep", "wanted a document of at most a few levels, found one nested too deeply")


def record_of(rules: SegmentRules) -> Outgoing:
    """Return the record that states segments."""
    return Outgoing(SEGMENTS, KEY.encode(), msgspec.json.encode(rules))


class Moved(Struct, frozen=True, omit_defaults=True):
    """A record of the topic `segment-moves`: a shopper entered and left segments, or a cluster came or went.

    `kind` is `moved` of a shopper, and `born`, `ended` or `merged` of a cluster, most of which went `into` another one.
    `share` is its share of the shoppers. `time_ms` is the shop's time.
    """

    kind: Literal["moved", "born", "ended", "merged"]
    time_ms: int
    shopper: str = ""
    entered: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    segment: str = ""
    into: str = ""
    share: float = 0.0


def record_of_move(move: Moved) -> Outgoing:
    """Return the record of a move."""
    return Outgoing(SEGMENT_MOVES, (move.shopper or move.segment).encode(), msgspec.json.encode(move))
