"""Exploring: what an arm may leave to chance, how it is drawn, and what an answer and its impression say of it."""

from collections import Counter
from typing import Any

import msgspec
import pytest

from headrace.events import Rejection
from headrace.experiments import Arm, Experiment, Explore, decode, objection
from headrace.experiments import record_of as experiment_record_of
from headrace.impressions import Explored, Shown
from headrace.log.protocol import Record
from headrace.policies import FEATURES, Policy
from headrace.policies import decode as decode_policy
from headrace.policies import record_of as policy_record_of
from headrace.rules import AtMost, Pin, RuleSet
from headrace.state import digest
from headrace.topics import POLICIES
from learners.next_item.answering import ItemList
from learners.next_item.family import NextItemFamily
from learners.next_item.questions import PageList, PageQuery, RecommendationQuery, RerankQuery
from learners.parts.policies import Policies, policies_max, probabilities
from tests.shards import next_item
from tests.unit.test_variants import CONTROL, Asked, names

RANKERS = Explore(rankers=("recommended", "popular", "trending"), floor=0.1)
SLOT = Explore(slot=2, candidates=3, floor=0.1)


def exploring(explore: Explore, **fields: Any) -> Asked:
    return Asked(CONTROL, Arm("new", explore=explore), **fields)


def ask(asked: Asked, id_: str, shopper: str = "", **fields: Any) -> ItemList:
    query = RecommendationQuery(**{"shopper": shopper or asked.of_arm("new"), "placement": "home", "n": 8, **fields})
    return next_item(asked.shop).answering.recommend(query, asked.now()._replace(id=id_))


def shown(found: ItemList) -> Shown:
    route = next(one for one in NextItemFamily.surface.routes if one.shows and "{shopper}" in one.path)
    assert route.shows is not None
    (one,) = route.shows(found)
    assert isinstance(one, Shown)
    return one


def drawn(found: ItemList) -> Explored:
    assert found.explored is not None
    return found.explored


def policy(explore: Explore, means: list[float], spread: float = 0.001, **fields: Any) -> Policy:
    """Return a policy that expects these rewards of the actions, in any context."""
    size = len(FEATURES)
    values: dict[str, Any] = {
        "version": "p7", "state": "learned", "actions": explore.actions, "floor": explore.floor,
        "means": tuple([(mean, *[0.0] * (size - 1)) for mean in means]),
        "spreads": ((spread, *[0.0] * (size * (size + 1) // 2 - 1)),) * len(means),
    }  # fmt: skip
    return Policy(**values | fields)


def tell(asked: Asked, policy: Policy | None, arm: str = "new") -> None:
    made = policy_record_of("trial", arm, policy)
    assert asked.shop.hear(POLICIES, Record(0, 3, 0, made.key, made.value)) is None


@pytest.mark.parametrize(
    ("explore", "found"),
    [
        ({}, "explore: wanted rankers or slot, found neither"),
        ({"rankers": ["recommended", "new"], "slot": 1}, "explore: wanted rankers or slot, found both"),
        ({"rankers": ["new"]}, "explore: wanted two rankers or more, each once, found new"),
        ({"rankers": ["new", "new"]}, "explore: wanted two rankers or more, each once, found new, new"),
        ({"rankers": ["new", "best"]}, "Invalid enum value 'best'"),
        ({"slot": 1, "candidates": 8, "floor": 0.1}, "wanted a floor of at most 0.0625 for each action, found 0.1"),
        ({"slot": 1, "window_minutes": 0}, "Expected `float` >= 1.0"),
        ({"slot": 1, "rewards": "click"}, "Object contains unknown field `rewards`"),
    ],
)
def test_what_cannot_be_explored_is_refused(explore: dict[str, Any], found: str) -> None:
    value = msgspec.json.encode({"arms": [{"name": "a"}, {"name": "b", "explore": explore}]})
    rejection = decode(Record(0, 0, 0, b"home", value))
    assert isinstance(rejection, Rejection)
    assert found in rejection.detail


def test_the_control_other_kinds_and_arms_with_a_ranker_do_not_explore() -> None:
    new = Arm("new", explore=RANKERS)
    for arms, kind in (((new, CONTROL), "arms"), ((CONTROL, new), "interleaved"), ((CONTROL, new), "holdout")):
        with pytest.raises(ValueError, match="explore: wanted in an arm behind the control"):
            Experiment(arms, kind=kind)  # type: ignore[arg-type]
    ways: tuple[dict[str, Any], ...] = ({"ranker": "new"}, {"without": ("deep",)})
    for fields in ways:
        with pytest.raises(ValueError, match=r"wanted explore.rankers, or ranker or without, found both"):
            Arm("new", explore=RANKERS, **fields)
        assert Arm("new", explore=SLOT, **fields).ranks


def test_what_is_explored_does_not_change_while_it_runs() -> None:
    one = Experiment((CONTROL, Arm("new", explore=RANKERS)), state="running")
    other = msgspec.structs.replace(one, arms=(CONTROL, Arm("new", explore=SLOT)))
    assert objection("home", other, {"home": one}).startswith("wanted arms as it was")
    assert objection("cart", Experiment(other.arms, layer="else", state="running"), {"home": one}).startswith(
        "wanted the layer default of home, which ranks at the same placement"
    )


def test_before_the_first_policy_the_present_ranking_is_followed_apart_from_the_floor() -> None:
    asked = exploring(RANKERS)
    found = [ask(asked, f"r{number}") for number in range(300)]
    counts = Counter(drawn(one).action for one in found)
    assert {(one.policy, tuple(one.probabilities)) for one in map(drawn, found)} == {("", (0.8, 0.1, 0.1))}
    assert counts[0] == pytest.approx(240, abs=25)
    assert min(counts[1], counts[2]) > 12
    by = {ranker: names(ask(exploring_by(ranker), "r0")) for ranker in ("popular", "trending")}
    by["recommended"] = names(ask(asked, "r0", placement="cart"))
    for one in found:
        assert names(one) == by[drawn(one).actions[drawn(one).action]]
        assert one.experiments == {"trial": "new"}


def exploring_by(ranker: Any) -> Asked:
    return Asked(CONTROL, Arm("new", ranker=ranker))


def test_an_answer_can_be_drawn_again_by_its_id_and_is_not_drawn_for_others() -> None:
    asked = exploring(RANKERS)
    assert [drawn(ask(asked, f"r{n}")).action for n in range(40)] == [
        drawn(ask(asked, f"r{n}")).action for n in range(40)
    ]
    assert ask(asked, "r1", asked.of_arm("control")).explored is None
    assert ask(asked, "r1", placement="cart").explored is None


def test_a_server_follows_a_policy_as_soon_as_it_hears_it() -> None:
    asked = exploring(RANKERS)
    tell(asked, policy(RANKERS, [0.1, 0.1, 0.3]))
    one = drawn(ask(asked, "r0"))
    assert one.policy == "p7"
    assert one.probabilities == pytest.approx([0.1, 0.1, 0.8], abs=1e-3)
    tell(asked, policy(RANKERS, [0.1, 0.1, 0.3], state="apprentice", version="p8"))
    assert drawn(ask(asked, "r0")).probabilities == [0.8, 0.1, 0.1]
    tell(asked, policy(RANKERS, [0.1, 0.1, 0.3], state="held", version="p9"))
    assert drawn(ask(asked, "r0")).probabilities == pytest.approx([0.1, 0.1, 0.8], abs=1e-3)
    tell(asked, None)
    assert drawn(ask(asked, "r0")).policy == ""
    # What is of other actions, or of another release's features, is not followed.
    tell(asked, policy(SLOT, [0.1, 0.1, 0.3]))
    assert drawn(ask(asked, "r0")).policy == ""
    short = Policy(
        version="p1", state="learned", actions=RANKERS.actions, floor=0.1, features=("always",),
        means=((1.0,),) * 3, spreads=((1.0,),) * 3,
    )  # fmt: skip
    tell(asked, short)
    assert drawn(ask(asked, "r0")).policy == ""
    assert probabilities(short, [1.0]).tolist() == pytest.approx([1 / 3] * 3, abs=1e-3)
    with pytest.raises(ValueError, match="wanted a context of 1 numbers, found 2"):
        probabilities(short, [1.0, 2.0])


def test_the_context_says_where_the_shopper_is() -> None:
    asked = exploring(RANKERS)
    here = dict(zip(FEATURES, drawn(ask(asked, "r0", device="mobile", on_item="i03")).context, strict=True))
    assert (here["always"], here["phone"], here["on_item"], here["deep"]) == (1.0, 1.0, 1.0, 1.0)
    assert here["visit"] > 0
    assert here["first"] == 0.0
    assert here["weekend"] == 0.0
    assert here["hour_sin"] ** 2 + here["hour_cos"] ** 2 == pytest.approx(1.0, abs=1e-3)
    asked.model = None
    there = dict(zip(FEATURES, drawn(ask(asked, "r0")).context, strict=True))
    assert (there["phone"], there["on_item"], there["deep"]) == (0.0, 0.0, 0.0)


def test_reranked_lists_and_pages_explore_and_further_pages_do_not() -> None:
    asked = exploring(RANKERS)
    answering, shopper = next_item(asked.shop).answering, asked.of_arm("new")
    now = asked.now()._replace(id="r5")
    reranked = answering.rerank(RerankQuery(shopper=shopper, items=["i03", "i01"], placement="home"), now)
    assert drawn(reranked).actions == list(RANKERS.rankers)
    lists = [PageList(kind="recommended", placement="home", n=4), PageList(kind="popular", placement="home", n=4)]
    page = answering.page(PageQuery(shopper=shopper, lists=lists), now)
    assert [one.explored is not None for one in page.lists] == [True, False]
    first = ask(asked, "r0")
    assert ask(asked, "r1", page=first.next_page).explored is None


def test_an_impression_has_the_probability_of_its_list() -> None:
    asked = exploring(RANKERS)
    for number in range(20):
        found = ask(asked, f"r{number}")
        one = shown(found)
        assert one.explored == found.explored
        assert {item.propensity for item in one.items} == {drawn(found).probabilities[drawn(found).action]}
    assert {item.propensity for item in shown(ask(asked, "r0", placement="cart")).items} == {1.0}


def test_a_slots_item_changes_places_with_one_of_the_next() -> None:
    asked, seen = exploring(SLOT), Counter[int]()
    usual = names(ask(asked, "r0", placement="cart", n=12))
    for number in range(200):
        found = ask(asked, f"r{number}", n=3)
        one = drawn(found)
        assert (one.position, one.actions) == (2, usual[1:4])
        expected = list(usual)
        place = 1 + one.action
        expected[1], expected[place] = expected[place], expected[1]
        assert names(found) == expected[:3]
        seen[one.action] += 1
        chances = {item.item_id: item.propensity for item in shown(found).items}
        assert chances[expected[0]] == 1.0
        assert chances[expected[1]] == one.probabilities[one.action]
        if one.action != 1:
            assert chances[expected[2]] == pytest.approx(1 - one.probabilities[1])
    assert seen[0] == pytest.approx(160, abs=22)
    assert len(seen) == 3


def test_a_slot_obeys_the_rules_and_leaves_what_is_pinned_where_it_is() -> None:
    rules = RuleSet(pinned=(Pin("i30", 3),), at_most=AtMost(brand=1), hidden=("i00",))
    asked = exploring(SLOT, rules=rules)
    for number in range(60):
        found = names(ask(asked, f"r{number}", n=6))
        assert found[2] == "i30"
        assert "i00" not in found
        brands = [int(item[1:]) % 8 for item in found if item != "i30"]
        assert len({*brands}) == len(brands)
    pinned = exploring(SLOT, rules=RuleSet(pinned=(Pin("i30", 2),)))
    assert ask(pinned, "r0").explored is None
    assert ask(exploring(SLOT), "r0", n=1).explored is None


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (None, b"{}", "key_invalid"), (b"home", b"{}", "key_invalid"), (b"home/new/x", b"{}", "key_invalid"),
        (b"\xff/a", b"{}", "bad_utf8"), (b"home/new", b"noise", "not_json"), (b"home/new", b"{}", "schema"),
        (b"home/new", b'{"version":"p","state":"learned","actions":["a","b"],"floor":0.1}', "schema"),
        (b"home/new", b'{"version":"p","state":"apprentice","actions":["a","b"],"floor":0.5,"means":[[1]]}', "schema"),
        (b"home/new", b'{"x":' + b"[" * 100_000, "too_deep"),
    ],
)  # fmt: skip
def test_what_is_no_policy_is_rejected(key: bytes | None, value: bytes, reason: str) -> None:
    policies = Policies()
    rejection = policies.hear(Record(0, 0, 0, key, value))
    assert rejection is not None
    assert rejection.reason == reason
    assert isinstance(decode_policy(Record(0, 0, 0, key, value)), Rejection)
    assert policies.bounds()["policies"] == (0, policies_max)


def test_policies_are_bounded_and_continue_where_they_were() -> None:
    asked = exploring(RANKERS)
    for number in range(policies_max + 3):
        tell(asked, policy(RANKERS, [0.1, 0.2, 0.3]), f"arm{number}")
    policies = next_item(asked.shop).policies
    assert policies.bounds()["policies"] == (policies_max, policies_max)
    again = Policies.from_state(policies.state())
    assert digest({"policies": again.state()}) == digest({"policies": policies.state()})
    assert again.of("trial", "arm1", RANKERS) is None
    found = again.of("trial", "arm5", RANKERS)
    assert found is not None
    assert found.probabilities([1.0] * len(FEATURES)).tolist() == pytest.approx([0.1, 0.1, 0.8], abs=1e-3)


def test_what_explores_is_stated_like_any_arm() -> None:
    one = Experiment((CONTROL, Arm("new", explore=SLOT)))
    made = experiment_record_of("home", one)
    found = decode(Record(0, 0, 0, made.key, made.value))
    assert not isinstance(found, Rejection)
    assert found.experiment == one
    assert one.arms[1].explore is not None
    assert one.arms[1].explore.actions == ("1", "2", "3")
