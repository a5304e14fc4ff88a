"""Segments: what rules mean and where they go wrong, who enters and leaves, and that clusters keep their names."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.errors import Misconfigured
from headrace.events import Data, Event, Item, Rejection, at
from headrace.log.protocol import Record
from headrace.pages import Course, Listing
from headrace.segments import (
    KINDS,
    TRAITS,
    Moved,
    Segment,
    SegmentRules,
    Value,
    WrongRule,
    WrongSegment,
    decode,
    nesting_max,
    parse,
    record_of,
)
from headrace.state import decode as decode_state
from headrace.state import digest, encode
from headrace.surface import FamilyScores, Now, Unknown
from headrace.topics import SEGMENT_MOVES, SEGMENTS
from learners.desk.family import Desk
from learners.profiles import traits
from learners.profiles.family import ProfilesFamily
from learners.segments import page
from learners.segments.clusters import Clusters, lloyd, refit_ms, sample_max, sample_min, spread
from learners.segments.family import (
    MembersQuery,
    SegmentsFamily,
    SegmentsQuery,
    SegmentsSettings,
    ShopperSegmentsQuery,
)
from learners.segments.features import FEATURES, features
from learners.shop import Shop
from operators.segments import read_segments
from tests.declared import untranslated

START, MINUTE, HOUR, DAY = 1_736_121_600_000, 60_000, 3_600_000, 86_400_000


class Told:
    """Facts as a test tells them."""

    def __init__(self, inside: tuple[str, ...] = (), **told: Any) -> None:
        self._told, self._inside = told, inside

    def trait(self, name: str) -> float | None:
        found = self._told.get(name)
        return None if found is None else float(found)

    def share(self, kind: str, value: str) -> float:
        return float(self._told.get("shares", {}).get((kind, value), 0.0))

    def top(self, kind: str) -> str | None:
        found: str | None = self._told.get("tops", {}).get(kind)
        return found

    def stated(self, name: str) -> Value | None:
        found: Value | None = self._told.get("says", {}).get(name)
        return found

    def member(self, segment: str) -> bool:
        return segment in self._inside


FACTS = Told(
    inside=("loyal",), orders=3, money=50.5, order_days=10, shares={("category", "Toys"): 0.6},
    tops={"device": "mobile"}, says={"plan": "gold", "age": 30.0, "vip": True},
)  # fmt: skip


def test_the_words_of_rules_are_those_of_profiles() -> None:
    assert set(TRAITS) == set(traits.TRAITS)
    assert set(KINDS) == set(traits.KINDS)


@pytest.mark.parametrize(
    ("rule", "is_true"),
    [
        ("orders >= 3", True), ("orders > 3", False), ("orders == 3", True), ("orders != 3", False),
        ("money <= 50.5 and order_days < 11", True), ("orders in (1, 2)", False), ("orders in (1, 3)", True),
        ("orders > 5 or order_days <= 10", True), ("not orders > 5", True), ("not (orders == 3 or money > 1e3)", False),
        ("orders > 5 or orders > 2 and money < 10", False), ("(orders > 5 or orders > 2) and money > 10", True),
        ("category('Toys') > 0.5", True), ('category("Games") > 0', False), ("top(device) == 'mobile'", True),
        ("top(brand) == 'Acme'", False), ("top(brand) != 'Acme'", False), ("top(device) in ('tablet', 'mobile')", True),
        ("stated('plan') == 'gold'", True), ("stated('plan') != 'gold'", False), ("stated('age') >= 18", True),
        ("stated('vip') == true", True), ("stated('vip') == false", False), ("stated('none') == 'x'", False),
        ("stated('plan') > 3", False), ("stated('vip') > 0", False), ("segment('loyal')", True),
        ("not segment('loyal')", False), ("segment('other')", False), ("known(money)", True), ("known(visits)", False),
        ("visits > 0", False), ("visits != 0", False), ("not visits > 0", True), ("order_gap_days < -1.5", False),
        ("orders\n  >= 3\n  and money > 1", True),
    ],
)  # fmt: skip
def test_what_a_rule_means(rule: str, is_true: bool) -> None:
    assert parse(rule, {"loyal": 1, "other": 1})(FACTS) is is_true


@pytest.mark.parametrize(
    ("rule", "offset", "said"),
    [
        ("", 0, "wanted a trait, a taste, top, stated, known or segment, found the end"),
        ("order >= 3", 0, "found 'order'; did you mean orders?"),
        ("orders >= 'x'", 10, "wanted a number, found"),
        ("orders >= three", 10, "wanted a number, found 'three'"),
        ("orders", 6, "wanted ==, !=, <, <=, >, >= or in, found the end"),
        ("orders = 3", 7, "wanted a name, a number, a text in quotes or a sign, found '='"),
        ("orders >= 3 and", 15, "found the end"),
        ("orders >= 3 money > 1", 12, "wanted and, or, or the end of the rule, found 'money'"),
        ("(orders >= 3", 12, "wanted ')', found the end"),
        ("orders in (3", 12, "wanted ')', found the end"),
        ("orders in ('x')", 11, "wanted a number"),
        ("top(device) < 3", 12, "wanted ==, != or in for a text"),
        ("top(color) == 'x'", 4, "wanted one of category, brand"),
        ("category(Toys) > 1", 9, "wanted a text in quotes, found 'Toys'"),
        ("stated('plan') == gold", 18, "wanted a number or a text in quotes or true or false, found 'gold'"),
        ("segment('vip')", 8, "wanted a segment that is stated above, found 'vip'"),
        ("known(plan)", 6, "wanted one of seen_days"),
        ("orders > 1e999", 9, "wanted a finite number"),
        ("(" * 40 + "orders > 1" + ")" * 40, nesting_max, "wanted at most 32"),
        ("orders > 3 and 'and' > 1", 15, "found \"'and'\""),
    ],
)
def test_where_a_rule_goes_wrong(rule: str, offset: int, said: str) -> None:
    with pytest.raises(WrongRule) as found:
        parse(rule, {})
    assert said in str(found.value)
    assert found.value.offset == offset


FILE = """\
why = "a campaign"

[segments.loyal]
where = "orders >= 3 and order_days <= 60"
about = "come back often"

[segments.lapsing]
where = '''
segment("loyal") and seen_days > 30
  or orders >= 2 and order_day > 90
'''
"""


@pytest.mark.parametrize(
    ("before", "after", "place", "said"),
    [
        ("order_day >", "order_day >", ":10:22", "lapsing: wanted a trait"),
        ("orders >= 3", "orders >= x", ":4:20", "loyal: wanted a number, found 'x'"),
        ("orders >= 3", "orders >== 3", ":4:19", "wanted a name, a number"),
        ("come back often", "come back\u2028often", ":10:22", "lapsing: wanted a trait"),
    ],
)
def test_errors_point_at_the_line(tmp_path: Path, before: str, after: str, place: str, said: str) -> None:
    path = tmp_path / "segments.toml"
    path.write_text(FILE.replace(before, after))
    with pytest.raises(Misconfigured) as found:
        read_segments(path)
    text = str(found.value)
    assert text.startswith(f"{path}{place}: ")
    assert said in text
    line, caret = text.splitlines()[1:]
    assert path.read_text().split("\n")[int(place.split(":")[1]) - 1] == line[4:]
    assert caret.index("^") - 4 == int(place.split(":")[2]) - 1


def test_a_file_is_read_and_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "segments.toml"
    path.write_text(FILE.replace("order_day >", "order_days >"))
    rules = read_segments(path)
    assert list(rules.segments) == ["loyal", "lapsing"]
    for text, said in (
        ("[segments.a]", "missing required field `where`"),
        ("[segments.A]\nwhere = 'x'", "matching regex"),
    ):
        path.write_text(text)
        with pytest.raises(Misconfigured, match=said):
            read_segments(path)
    with pytest.raises(Misconfigured, match="wanted a file"):
        read_segments(tmp_path / "none.toml")
    other = tmp_path / "segments.json"
    other.write_text('{"segments": {"a": {"where": "orders >"}}}')
    with pytest.raises(Misconfigured, match="a: line 1, column 9 of the rule"):
        read_segments(other)


def test_a_record_is_decoded_or_refused() -> None:
    rules = SegmentRules("ann", "a test", {"loyal": Segment("orders > 2")})
    made = record_of(rules)
    found = decode(Record(0, 7, 0, made.key, made.value))
    assert not isinstance(found, Rejection)
    assert (found.version, found.rules) == (7, rules)
    for key, value, reason in (
        (None, b"{}", "key_missing"), (b"x", b"{}", "key_invalid"), (b"*", b"{", "not_json"),
        (b"*", b"[1]", "schema"), (b"*", b'{"segments": {"a": {"where": "x"}}}', "schema"),
        (b"*", b'{"other": 1}', "schema"),
    ):  # fmt: skip
        refused = decode(Record(0, 0, 0, key, value))
        assert isinstance(refused, Rejection), value
        assert refused.reason == reason
    with pytest.raises(WrongSegment, match="b: line 1, column 9"):
        SegmentRules(segments={"b": Segment("segment('b')")}).tests()


class Story:
    """A desk, profiles and segments to which a test tells what happens."""

    def __init__(self, **bounds: int) -> None:
        self.settings = SegmentsSettings(**bounds)
        self.shop, self.count, self.time_ms = self.empty(), 0, START
        self.told: list[Moved] = []

    def empty(self) -> Shop:
        return Shop([Desk, ProfilesFamily, SegmentsFamily], {"segments": self.settings})

    @property
    def family(self) -> SegmentsFamily:
        found = self.shop.families["segments"]
        assert isinstance(found, SegmentsFamily)
        return found

    def state(self, **rules: str) -> None:
        self.count += 1
        made = record_of(SegmentRules("ann", "a test", {name: Segment(rule) for name, rule in rules.items()}))
        assert self.shop.hear(SEGMENTS, Record(0, self.count, 0, made.key, made.value)) is None

    def do(self, kind: Any, who: str, *lines: Item, after: int = 0, **data: Any) -> None:
        import msgspec

        self.time_ms = START + after
        self.count += 1
        event = Event(
            f"e{self.count}", "web", kind, at(self.time_ms), Data(list(lines), **data), "1.0", who, self.time_ms
        )
        if self.shop.prepare(event):
            self.shop.learn(event, 0, self.count)
        for one in self.shop.now.take():
            if one.topic == SEGMENT_MOVES:
                self.told.append(msgspec.json.decode(one.value or b"", type=Moved))

    def of(self, who: str, after: int = 0) -> list[str]:
        return self.family.of_shopper(ShopperSegmentsQuery(who), Now(START + after)).segments


def test_shoppers_enter_and_leave_as_they_do_things_and_as_time_passes() -> None:
    story = Story()
    story.state(buyer="orders >= 1", recent="segment('buyer') and order_days < 7", gone="seen_days > 30")
    story.do("view_item", "ann", Item("a"))
    assert story.told == []
    story.do("purchase", "ann", Item("a", price=5.0), transaction_id="o1", after=MINUTE)
    assert story.told == [Moved("moved", START + MINUTE, "ann", ("buyer", "recent"))]
    for minute in range(40):  # others go on, so that she is checked although she stays away
        story.do("login", "bob", after=40 * DAY + minute * MINUTE)
    moves = [one for one in story.told[1:] if one.shopper == "ann"]
    assert [(one.entered, one.left) for one in moves] == [(("gone",), ("recent",))]
    assert (story.of("ann", 40 * DAY), story.of("ann", MINUTE)) == (["buyer", "gone"], ["buyer", "recent"])
    sizes = {one.segment: (one.shoppers, one.entered, one.left) for one in story.family.scores().segments}
    assert sizes == {"buyer": (1, 1, 0), "recent": (0, 1, 1), "gone": (1, 1, 0)}
    story.do("refund", "ann", transaction_id="o1", after=41 * DAY)
    assert story.of("ann", 41 * DAY) == ["gone"]


def test_all_are_checked_although_some_were_at_a_time_from_which_the_shops_returned() -> None:
    story = Story()
    story.state(gone="seen_days > 30")
    story.do("login", "ahead", after=400 * DAY)
    story.do("login", "ann")
    for minute in range(40):
        story.do("login", "bob", after=40 * DAY + minute * MINUTE)
    assert [(one.shopper, one.entered) for one in story.told] == [("ann", ("gone",))]


def test_other_rules_hold_soon_for_all_and_the_rest_stays() -> None:
    story = Story()
    story.state(all="visits >= 1", odd="orders >= 1")
    for number in range(30):
        story.do("login", f"s{number}", after=number)
    sizes = story.family.members.sizes
    assert sizes["all"] == 30
    story.state(all="visits >= 1", new="visits == 1")
    assert (sizes["all"], sizes["odd"]) == (30, 0), "the rule is the same"
    for number in range(30):
        story.do("search", "s0", after=MINUTE + number, search_term="x")
    sizes = story.family.members.sizes
    assert (sizes["all"], sizes["new"]) == (30, 30)
    assert all(one.version == story.family.stated.version for one in map(story.family.members.of, ["s1", "s29"]) if one)
    story.state()
    assert story.family.scores().segments == []


def test_another_rule_of_a_segment_is_told_of_those_alone_who_leave_it_or_enter() -> None:
    story = Story()
    story.state(often="visits >= 1")
    for number in range(4):
        story.do("login", f"s{number}", after=number)
    story.do("login", "s0", after=HOUR)
    story.told.clear()
    story.state(often="visits >= 2")
    for number in range(6):
        story.do("search", "s0", after=HOUR + number, search_term="x")
    assert sorted((one.shopper, one.entered, one.left) for one in story.told) == [
        (f"s{number}", (), ("often",)) for number in (1, 2, 3)
    ]
    (size,) = story.family.scores().segments
    assert (size.shoppers, size.entered, size.left) == (1, 4, 3)


def test_moves_that_are_written_are_bounded_and_all_are_counted() -> None:
    story = Story(moves_max=5)
    story.state(all="visits >= 1")
    for number in range(20):
        story.do("login", f"s{number}", after=number)
    assert (len(story.told), story.family.untold) == (5, 15)
    assert story.family.members.entered["all"] == 20
    story.do("login", "later", after=2 * MINUTE)
    assert len(story.told) == 6


def test_a_guest_who_logged_in_is_no_member_any_more() -> None:
    story = Story()
    story.state(all="visits >= 1")
    story.do("view_item", "guest", Item("a"), session_id="s1")
    story.do("login", "ann", session_id="s1", after=MINUTE)
    for number in range(40):
        story.do("search", "bob", search_term="x", after=12 * HOUR + number)
    assert "guest" not in story.family.members
    assert story.family.members.sizes["all"] == 2


def test_members_are_told_in_pages_and_what_is_unknown_is_said() -> None:
    story = Story()
    story.state(buyer="orders >= 1")
    for number in range(25):
        kind: Any = "purchase" if number % 2 else "login"
        story.do(kind, f"s{number:02}", Item("a", price=1.0), transaction_id=f"o{number}", after=number)
    found, after = list[str](), ""
    while True:
        page = story.family.page(MembersQuery("buyer", 5, after), Now(story.time_ms))
        found += page.shoppers
        after = page.next
        if not after:
            break
    assert found == [f"s{number:02}" for number in range(1, 25, 2)]
    with pytest.raises(Unknown, match="wanted one of buyer"):
        story.family.page(MembersQuery("nothing"), Now(story.time_ms))
    with pytest.raises(Unknown):
        story.family.of_shopper(ShopperSegmentsQuery("nobody"), Now(story.time_ms))
    assert story.family.all(SegmentsQuery(), Now(story.time_ms)).shoppers == 25


def kinds_of_shoppers(story: Story, count: int, first: int = 0, after: int = 0) -> None:
    """Let shoppers of two kinds come: some look around, others buy much."""
    for number in range(first, first + count):
        who, at_ms = f"s{number}", after + number * MINUTE
        if number % 2:
            story.do("purchase", who, Item("a", price=100.0), transaction_id=f"o{number}-{after}", after=at_ms)
        else:
            story.do("view_item", who, Item("b", price=1.0), after=at_ms)


def test_clusters_are_found_and_keep_their_names_while_they_keep_their_members() -> None:
    story = Story(clusters_max=2)
    kinds_of_shoppers(story, 400)
    family = story.family
    assert family.clusters.counts == {"fits": 1, "born": 2, "ended": 0, "merged": 0}
    assert [one.kind for one in story.told if one.kind != "moved"] == ["born", "born"]
    names = {who: family.of_shopper(ShopperSegmentsQuery(who), Now(story.time_ms)).cluster for who in ("s1", "s2")}
    assert set(names.values()) == {"c1", "c2"}
    for week in range(1, 4):
        kinds_of_shoppers(story, 400, after=week * refit_ms)
    assert family.clusters.counts["fits"] == 4
    assert family.clusters.counts["born"] == 2, "the kinds are the same, and so are their names"
    assert {who: family.of_shopper(ShopperSegmentsQuery(who), Now(story.time_ms)).cluster for who in names} == names
    sizes = {one.segment: one.shoppers for one in family.scores().clusters}
    assert sum(sizes.values()) == len([m for m in map(family.members.of, family.members) if m and m.cluster])


def test_clusters_are_found_anew_where_the_shops_time_has_returned() -> None:
    clusters = Clusters(clusters_max=2)
    for number in range(sample_min):
        clusters.learn(f"s{number}", [float(number)] * len(FEATURES))
    clusters.fit(START + 400 * DAY)
    assert not clusters.is_due(START + 400 * DAY - HOUR)
    assert clusters.is_due(START)


def test_what_becomes_of_clusters_follows_their_members() -> None:
    clusters = Clusters(clusters_max=3)
    clusters.numbers, clusters._next = [1, 2, 3], 4
    former = [0] * 10 + [1] * 10 + [2] * 10
    places = np.array([0] * 10 + [0] * 6 + [1] * 4 + [1] * 5 + [2] * 5)
    told = clusters._name(former, places, np.bincount(places))
    assert clusters.numbers == [1, 4, 5]
    assert {(one.kind, one.number, one.into) for one in told} == {
        ("merged", 2, 1), ("ended", 3, 0), ("born", 4, 0), ("born", 5, 0),
    }  # fmt: skip


def test_centres_without_points_move() -> None:
    points = np.array([[0.0], [0.1], [5.0], [9.0]])
    found = lloyd(points, np.array([[0.0], [100.0], [200.0]]))
    assert sorted(found.places.tolist()) == [0, 0, 1, 2]
    assert found.squares == pytest.approx(0.005)
    same = np.ones((5, 2))
    assert lloyd(same, spread(same, 3, np.random.Generator(np.random.PCG64(1)))).squares == 0.0


def test_features_are_those_of_the_traits() -> None:
    story = Story()
    for number in range(3):
        story.do("view_item", "ann", Item("a", item_category="x", price=2.0), after=number * DAY)
        story.do(
            "purchase", "ann", Item("a", item_category="x", price=2.0), transaction_id=f"o{number}", coupon="c",
            after=number * DAY,
        )  # fmt: skip
    seen = story.family._profiles.seen("ann", START + 9 * DAY)
    assert seen is not None
    found = dict(zip(FEATURES, features(seen), strict=True))
    for name in FEATURES[:10]:
        assert found[name] == pytest.approx(math.log1p(traits.value_of(name, seen) or 0.0)), name
    assert found["price_level"] == pytest.approx(math.log(traits.value_of("price_level", seen) or 0.0))
    assert (found["promoted_share"], found["weekend"], found["evening"]) == (1.0, 0.0, 0.0)
    story.do("login", "eve", after=5 * DAY + 18 * HOUR)
    seen = story.family._profiles.seen("eve", START + 6 * DAY)
    assert seen is not None
    found = dict(zip(FEATURES, features(seen), strict=True))
    assert (found["weekend"], found["evening"], found["orders"]) == (1.0, 1.0, 0.0)
    assert found["order_days"] == found["order_gap_days"] == found["known_days"] > 0


def test_the_sample_is_bounded_and_too_few_are_no_clusters() -> None:
    clusters = Clusters(clusters_max=2)
    for number in range(sample_max + 50):
        assert clusters.is_due(0) == (number >= sample_min)
        clusters.learn(f"s{number}", [float(number)] * len(FEATURES))
    assert clusters.bounds()["sample"] == (sample_max, sample_max)


@pytest.mark.parametrize("seed", range(3))
def test_a_restored_state_goes_on_alike(seed: int) -> None:
    luck, story, other = random.Random(seed), Story(clusters_max=3), Story(clusters_max=3)
    stories = [story]
    story.state(buyer="orders >= 1", often="visits > 2")
    for number in range(700):
        who, kind = f"s{luck.randrange(300)}", luck.choice(["view_item", "login", "purchase"])
        price = luck.choice([1.0, 30.0])
        for one in stories:
            one.do(kind, who, Item("a", price=price), transaction_id=f"o{number}", after=number * 3 * HOUR)
        if number == 400:
            other.count = story.count
            other.shop.restore(decode_state(encode(story.shop.state())), story.shop.stamp)
            stories.append(other)
        if number == 500:
            for one in stories:
                one.state(often="visits > 3", new="known_days < 1")
    assert story.family.clusters.counts["fits"] == 3
    assert digest(other.shop.state()) == digest(story.shop.state())
    sizes = {name: size for name, size in story.family.members.sizes.items() if size}
    assert sizes == {name: size for name, size in other.family.members.sizes.items() if size}


def test_rules_keep_their_order_in_a_state_as_one_may_name_those_above() -> None:
    story, other = Story(), Story()
    story.state(loyal="orders >= 3", again="segment('loyal') and seen_days < 9", all="visits >= 0")
    other.shop.restore(decode_state(encode(story.shop.state())), story.shop.stamp)
    assert list(other.family.stated.tests) == ["loyal", "again", "all"]
    assert digest(other.shop.state()) == digest(story.shop.state())


def test_the_page_shows_sizes_over_time_what_each_segment_is_and_what_became_of_clusters() -> None:
    story = Story(clusters_max=3)
    assert page.sections([FamilyScores(0, START, story.family.scores(), {})]) == []
    story.state(buyer="orders >= 1", often="visits > 2")
    kinds_of_shoppers(story, 300)
    early = FamilyScores(story.count, story.time_ms, story.family.scores(), {})
    kinds_of_shoppers(story, 300, first=300, after=refit_ms + HOUR)
    late = FamilyScores(story.count, story.time_ms, story.family.scores(), {})
    assert late.scores.changes
    found = page.sections([early, late])
    assert untranslated(found, "zh") == set()
    assert [one.title for one in found] == ["", "By rule", "Clusters", "What became of clusters"]
    over, sizes = found[1].drawn
    assert isinstance(over, Course)
    assert isinstance(sizes, Listing)
    assert over.lines["buyer"] == tuple(
        next(each.shoppers for each in one.scores.segments if each.segment == "buyer") for one in (early, late)
    )
    assert {row[0]: row[1] for row in sizes.rows} == {"buyer": "orders >= 1", "often": "visits > 2"}
    _, became = found[3].drawn
    assert isinstance(became, Listing)
    assert len(became.rows) == sum(story.family.clusters.counts[kind] for kind in ("born", "ended", "merged"))


def test_what_became_of_clusters_stays_with_the_state() -> None:
    story, other = Story(clusters_max=3), Story(clusters_max=3)
    kinds_of_shoppers(story, 300)
    assert [one.kind for one in story.family.scores().changes] == ["born"] * 3
    other.shop.restore(decode_state(encode(story.shop.state())), story.shop.stamp)
    assert other.family.scores().changes == story.family.scores().changes
