"""Whatever the rule and the shopper: a rule means what it says, and what is none is refused with its place."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.events import Rejection
from headrace.log.protocol import Record
from headrace.segments import KEY, KINDS, TRAITS, StatedSegments, Test, Value, WrongRule, decode, parse

NUMBERS = st.integers(-9, 9).map(float) | st.floats(-1e6, 1e6).map(lambda one: float(f"{one:.3f}"))
TEXTS = st.text(st.characters(exclude_characters='"\n', exclude_categories=["Cs"]), max_size=6)
NAMES = st.sampled_from(["plan", "city"])
ABOVE = {"loyal": None, "new": None}
SIGNS = {
    "<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b, "!=": lambda a, b: a != b,
}  # fmt: skip


class Shopper(NamedTuple):
    """What is known of a shopper."""

    traits: dict[str, float]
    shares: dict[tuple[str, str], float]
    tops: dict[str, str]
    states: dict[str, Value]
    segments: frozenset[str]

    def trait(self, name: str) -> float | None:
        return self.traits.get(name)

    def share(self, kind: str, value: str) -> float:
        return self.shares.get((kind, value), 0.0)

    def top(self, kind: str) -> str | None:
        return self.tops.get(kind)

    def stated(self, name: str) -> Value | None:
        return self.states.get(name)

    def member(self, segment: str) -> bool:
        return segment in self.segments


SHOPPERS = st.builds(
    Shopper,
    st.dictionaries(st.sampled_from(TRAITS[:4]), NUMBERS),
    st.dictionaries(st.tuples(st.sampled_from(KINDS[:2]), TEXTS), st.floats(0, 1)),
    st.dictionaries(st.sampled_from(KINDS[:2]), TEXTS),
    st.dictionaries(NAMES, TEXTS | NUMBERS | st.booleans()),
    st.frozensets(st.sampled_from(sorted(ABOVE))),
)


class Said(NamedTuple):
    """A rule, and for a shopper what it means: a second reading, by comparisons of Python's."""

    rule: str
    means: bool


@st.composite
def said(draw: st.DrawFn, shopper: Shopper, depth: int = 3) -> Said:
    """Return a rule and its meaning for a shopper."""
    form = draw(st.sampled_from(["and", "or", "not", "()"] if depth and draw(st.booleans()) else ["one"]))
    if form in ("and", "or"):  # in parentheses, so that a rule within a rule keeps its meaning
        parts = [draw(said(shopper, depth - 1)) for _ in range(draw(st.integers(2, 3)))]
        means = (all if form == "and" else any)(one.means for one in parts)
        return Said("(" + f" {form} ".join(one.rule for one in parts) + ")", means)
    if form in ("not", "()"):
        part = draw(said(shopper, depth - 1))
        return Said(f"not {part.rule}", not part.means) if form == "not" else Said(f"( {part.rule})", part.means)
    return draw(compared(shopper))


@st.composite
def compared(draw: st.DrawFn, shopper: Shopper) -> Said:
    """Return a comparison and its meaning for a shopper."""
    what = draw(st.sampled_from(["trait", "share", "top", "stated", "segment", "known"]))
    trait, kind, text = draw(st.sampled_from(TRAITS[:4])), draw(st.sampled_from(KINDS[:2])), draw(TEXTS)
    if what == "segment":
        name = draw(st.sampled_from(sorted(ABOVE)))
        return Said(f'segment("{name}")', name in shopper.segments)
    if what == "known":
        return Said(f"known({trait})", trait in shopper.traits)
    if what in ("trait", "share"):
        found = shopper.traits.get(trait) if what == "trait" else shopper.shares.get((kind, text), 0.0)
        asked = trait if what == "trait" else f'{kind}("{text}")'
        sign = draw(st.sampled_from(sorted(SIGNS)))
        limit = draw(NUMBERS if found is None else NUMBERS | st.just(found))
        return Said(f"{asked} {sign} {limit!r}", found is not None and SIGNS[sign](found, limit))
    name = draw(NAMES)
    other: Value | None = shopper.tops.get(kind) if what == "top" else shopper.states.get(name)
    asked = f"top({kind})" if what == "top" else f'stated("{name}")'
    values: list[Value] = draw(
        st.lists(TEXTS if what == "top" else TEXTS | NUMBERS | st.booleans(), min_size=1, max_size=3)
    )
    if other is not None and draw(st.booleans()):
        values[-1] = other
    same = [type(one) is type(other) and one == other for one in values]
    sign = draw(st.sampled_from(["in", "==", "!="]))
    if sign == "in":
        return Said(f"{asked} in ({', '.join(map(written, values))})", any(same))
    return Said(f"{asked} {sign} {written(values[0])}", other is not None and same[0] == (sign == "=="))


def written(value: Value) -> str:
    """Return a value as a rule writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


@given(st.data(), SHOPPERS)
def test_a_rule_means_what_it_says(data: st.DataObject, shopper: Shopper) -> None:
    rule, means = data.draw(said(shopper))
    assert parse(rule, ABOVE)(shopper) == means


@given(st.data(), SHOPPERS)
def test_and_binds_closer_than_or(data: st.DataObject, shopper: Shopper) -> None:
    first, second, third = (data.draw(compared(shopper)) for _ in range(3))
    rule = f"{first.rule} or {second.rule} and {third.rule}"
    assert parse(rule, ABOVE)(shopper) == (first.means or (second.means and third.means))


def parsed(rule: str) -> Test | WrongRule:
    """Return a rule's test, or why it is none."""
    try:
        return parse(rule, ABOVE)
    except WrongRule as error:
        return error


PIECES = st.sampled_from([
    *TRAITS[:3], *KINDS, "top", "stated", "known", "segment", "and", "or", "not", "in", "(", ")", ",", "==", "!=", "<",
    ">=", "1", "-2.5e3", '"a"', "'b'", '"', "true", "loyal", "=", "é", "\n", "1e999",
])  # fmt: skip


@given(st.lists(PIECES, max_size=12).map(" ".join) | st.text(max_size=40), SHOPPERS)
def test_what_is_no_rule_is_refused_with_its_place(rule: str, shopper: Shopper) -> None:
    found = parsed(rule)
    if isinstance(found, WrongRule):
        assert 0 <= found.offset <= len(rule)
        assert str(found).startswith("wanted ")
    else:
        assert found(shopper) in (True, False)


@given(st.binary(max_size=200) | st.text(max_size=60).map(lambda one: f'{{"segments":{{"a":{one}}}}}'.encode()))
def test_bytes_are_segments_or_a_rejection(value: bytes) -> None:
    assert isinstance(decode(Record(0, 7, 0, KEY.encode(), value)), StatedSegments | Rejection)


@pytest.mark.parametrize("deep", ["(" * 50 + "orders > 1" + ")" * 50, "not " * 5_000 + "orders > 1", "(" * 50_000])
def test_a_rule_that_is_nested_too_deeply_is_refused(deep: str) -> None:
    with pytest.raises(WrongRule, match="at most 32"):
        parse(deep, {})
