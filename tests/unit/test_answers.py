"""Every kind of list that is answered, from a fold to the answer."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from headrace.events import Data, Event, Item, at
from headrace.http import parse_body, parse_query
from headrace.log.protocol import Record
from headrace.rules import EVERY
from headrace.state import digest
from headrace.surface import Now, Refused, Route, Unknown
from headrace.topics import ITEMS, RULES
from learners.deep.answering import AnsweringModel
from learners.deep.model import DeepModel, DeepSettings
from learners.next_item.answering import ItemList
from learners.next_item.browsing import Browsing
from learners.next_item.questions import RecommendationQuery
from learners.next_item.routes import ROUTES
from learners.protocol import Context, Scores
from tests.shards import next_item, online

START_MS = 1_736_121_600_000
MINUTE_MS, DAY_MS = 60_000, 86_400_000
BY_PATH = {route.path: route for route in ROUTES if route.path != "/v1/recommendations/{shopper}"} | {
    "/v1/recommendations/": next(route for route in ROUTES if route.path == "/v1/recommendations/{shopper}")
}


class Asked:
    """A shop that learns events and is asked as over HTTP."""

    def __init__(self) -> None:
        self.shop = online()(None)
        self.time_ms, self.count = START_MS, 0
        self.model: AnsweringModel | None = None

    def state(self, item: str, **fields: Any) -> None:
        self.shop.now.time_ms = self.time_ms
        assert self.shop.hear(ITEMS, Record(0, 0, 0, item.encode(), json.dumps(fields).encode())) is None

    def rules(self, placement: str = EVERY, /, **rules: Any) -> None:
        self.count += 1
        record = Record(0, self.count, 0, placement.encode(), json.dumps(rules).encode())
        assert self.shop.hear(RULES, record) is None

    def learn(self, shopper: str, *items: str | Item, kind: Any = "view_item", **data: Any) -> None:
        self.time_ms += MINUTE_MS
        self.count += 1
        lines = [Item(one) if isinstance(one, str) else one for one in items]
        event = Event(
            f"e{self.count}", "test", kind, at(self.time_ms), Data(lines, **data), "1.0", shopper, self.time_ms
        )
        if self.shop.prepare(event):
            self.shop.learn(event, 0, self.count)
        self.shop.emit()

    def order(self, shopper: str, *items: str | Item) -> None:
        self.learn(shopper, *items, kind="purchase", transaction_id=f"T{self.count}")

    def ask(self, path: str, /, *of: str, **query: Any) -> Any:
        route = BY_PATH[path]
        name = route.path.rpartition("{")[2].rstrip("}") if of else ""
        return route.call(next_item(self.shop), _query(route, query, {name: of[0]} if of else {}), self.now)

    @property
    def now(self) -> Now:
        return Now(self.time_ms, "id", self.model, lambda shopper: shopper)

    def items(self, path: str, /, *of: str, **query: Any) -> list[str]:
        return named(self.ask(path, *of, **query))


def _query(route: Route, query: dict[str, Any], parameters: dict[str, str]) -> Any:
    if route.method == "POST":
        return parse_body(route.query, json.dumps(query).encode(), parameters)
    given = [
        (name, str(one)) for name, value in query.items() for one in (value if isinstance(value, list) else [value])
    ]
    return parse_query(route.query, [*given, *parameters.items()])


def named(found: ItemList) -> list[str]:
    return [one.item_id for one in found.items]


@pytest.fixture
def shop() -> Asked:
    """A shop with shoes and hats, of which red ones are viewed and bought together."""
    asked = Asked()
    for number in range(6):
        for kind, price in (("shoes", 50.0), ("hats", 20.0)):
            asked.state(
                f"{kind}-{number}", title=f"Red {kind} {number}", brand=f"b{number % 2}", product_type=f"Wear > {kind}",
                price=f"{price + number} EUR", link=f"https://shop.example/{kind}-{number}",
                image_link=f"https://shop.example/{kind}-{number}.jpg",
            )  # fmt: skip
    for number in range(5):
        for visitor in range(12 - 2 * number):
            asked.learn(f"s{visitor}", f"shoes-{number}")
            asked.learn(f"s{visitor}", f"hats-{number}")
    for visitor in range(8):
        asked.order(f"buyer{visitor}", "shoes-0", "hats-3")
        asked.order(f"other{visitor}", "hats-0")
    return asked


def test_an_item_comes_with_what_a_page_shows(shop: Asked) -> None:
    (found,) = shop.ask("/v1/recommendations/", "stranger", n=1).items
    assert found.item_id == "hats-0"
    assert (found.name, found.brand, found.category) == ("Red hats 0", "b0", "Wear > hats")
    assert (found.price, found.currency) == (20.0, "EUR")
    assert (found.link, found.image_link) == ("https://shop.example/hats-0", "https://shop.example/hats-0.jpg")
    assert (found.reason.code, found.reason.text) == ("popular", "popular this week in hats")


def test_what_lines_say_is_shown_where_the_shop_states_nothing() -> None:
    shop = Asked()
    shop.learn("ann", Item("mug", "Blue mug", "acme", "Kitchen", 8.5))
    (found,) = shop.ask("/v1/recommendations/", "bob", n=1).items
    assert (found.name, found.brand, found.category, found.price, found.link) == (
        "Blue mug",
        "acme",
        "Kitchen",
        8.5,
        "",
    )


def test_a_visit_in_the_request_is_answered_as_one_that_was_learned(shop: Asked) -> None:
    unlearned = shop.ask("/v1/recommendations", events=[{"type": "view_item", "items": ["shoes-1"]}], n=5)
    shop.learn("ann", "shoes-1")
    learned = shop.ask("/v1/recommendations/", "ann", n=5)
    assert named(unlearned) == named(learned)
    assert "shoes-1" not in named(unlearned), "it was just seen"
    assert unlearned.items[0].reason.code in ("viewed_together", "similar_visits")
    assert named(shop.ask("/v1/recommendations", n=3)) == named(shop.ask("/v1/recommendations/", "stranger", n=3))


def test_events_that_teach_nothing_and_items_that_are_not_known_do_no_harm(shop: Asked) -> None:
    events = [{"type": "scroll", "items": []}, {"type": "view_item", "items": ["never-seen"]}]
    assert shop.items("/v1/recommendations", events=events, n=3) == shop.items("/v1/recommendations", n=3)
    with pytest.raises(Refused, match="JSON object"):
        shop.ask("/v1/recommendations", events=[{"type": "view_item"}])
    with pytest.raises(Refused, match="unknown field `colour`"):
        shop.ask("/v1/recommendations", colour="red")


def test_the_item_of_a_page_counts_as_viewed_and_is_not_in_the_list(shop: Asked) -> None:
    there = shop.items("/v1/recommendations/", "stranger", on_item="shoes-4", n=5)
    viewed = shop.items("/v1/recommendations", events=[{"type": "view_item", "items": ["shoes-4"]}], n=5)
    assert there == viewed
    assert there != shop.items("/v1/recommendations/", "stranger", n=5)
    assert "shoes-4" not in there


def test_filters(shop: Asked) -> None:
    ask = "/v1/recommendations/"
    assert shop.items(ask, "x", category="shoes", n=20) == []
    shoes = shop.items(ask, "x", category="Wear > Shoes", n=20)
    assert shoes == [f"shoes-{number}" for number in range(6)], "also the one that nobody viewed"
    assert set(shop.items(ask, "x", category=["wear/hats"], brand=["b1"])) == {"hats-1", "hats-3", "hats-5"}
    assert set(shop.items(ask, "x", price_min=52, price_max=54)) == {"shoes-2", "shoes-3", "shoes-4"}
    shop.learn("ann", Item("unstated"))
    assert "unstated" in shop.items(ask, "x", n=20)
    assert "unstated" not in shop.items(ask, "x", n=20, availability="in_stock")
    shop.state("shoes-2", title="Red shoes 2", product_type="Wear > shoes", availability="out_of_stock")
    assert "shoes-2" not in shop.items(ask, "x", category="Wear > shoes", n=20)
    with pytest.raises(Refused, match="price_min: wanted at most price_max, found 9 and 3"):
        shop.ask(ask, "x", price_min=9, price_max=3)


@pytest.mark.parametrize(
    "path", ["/v1/recommendations/", "/v1/similar/{item}", "/v1/trending", "/v1/new", "/v1/popular"]
)
def test_pages_repeat_nothing_and_miss_nothing(shop: Asked, path: str) -> None:
    of = {"/v1/recommendations/": ["x"], "/v1/similar/{item}": ["shoes-0"]}.get(path, [])
    whole = shop.items(path, *of, n=100)
    assert len(whole) > 5
    seen, page = list[str](), ""
    while True:
        found = shop.ask(path, *of, n=2, page=page)
        seen += named(found)
        page = found.next_page
        if not page:
            break
    assert len(seen) == len(set(seen))
    assert set(seen) == set(whole)


@pytest.mark.parametrize("page", ["x", "%%%", "AAAA", "ä"])
def test_a_page_that_no_answer_gave_is_refused(shop: Asked, page: str) -> None:
    with pytest.raises(Refused, match="page: wanted the next_page of an answer"):
        shop.ask("/v1/popular", page=page)


def test_a_pinned_item_is_on_the_first_page_alone(shop: Asked) -> None:
    shop.rules(pinned=[{"item": "hats-4", "place": 1}])
    first = shop.ask("/v1/popular", n=2)
    assert named(first)[0] == "hats-4"
    assert (first.items[0].reason.code, first.items[0].reason.text) == ("pinned", "chosen by the shop")
    assert "hats-4" not in shop.items("/v1/popular", n=2, page=first.next_page)
    assert "hats-4" not in shop.items("/v1/popular", n=9, category="Wear > shoes"), "the filter holds, too"


def test_similar_items_are_of_the_same_kind_first(shop: Asked) -> None:
    found = shop.ask("/v1/similar/{item}", "hats-5", n=4)
    assert set(named(found)) <= {f"hats-{number}" for number in range(5)}
    assert {one.reason.text for one in found.items} == {"of the same kind as Red hats 5"}
    assert shop.items("/v1/similar/{item}", "never-seen") == []
    assert "shoes-1" not in shop.items("/v1/similar/{item}", "shoes-1", n=50)


def test_similar_items_come_from_the_deep_model_too(shop: Asked) -> None:
    model = DeepModel(DeepSettings(width=16), 1)
    model.grow([f"{kind}-{number}" for kind in ("shoes", "hats") for number in range(6)])
    shop.model = answering = AnsweringModel.from_bytes(model.to_bytes())
    near = answering.similar("shoes-5", 3)
    names, cosines = zip(*near, strict=True)
    assert len(names) == 3
    assert "shoes-5" not in names
    assert list(cosines) == sorted(cosines, reverse=True)
    assert max(cosines) <= 1
    assert answering.similar("never-seen", 3) == []
    assert set(names) <= set(shop.items("/v1/similar/{item}", "shoes-5", n=12))
    assert shop.items("/v1/similar/{item}", "shoes-5", category="Wear > hats", n=50) != []


def test_what_is_bought_together_and_nothing_else(shop: Asked) -> None:
    found = shop.ask("/v1/bought-together/{item}", "shoes-0")
    assert named(found) == ["hats-3"]
    assert (found.items[0].reason.code, found.items[0].reason.item_id) == ("bought_together", "shoes-0")
    assert found.items[0].reason.text == "bought together with Red shoes 0"
    assert shop.items("/v1/bought-together/{item}", "hats-0") == []
    shop.order("eve", "hats-1", "shoes-2")
    assert shop.items("/v1/bought-together/{item}", "shoes-0", cart="hats-1") == ["hats-3", "shoes-2"]
    assert shop.items("/v1/bought-together/{item}", "shoes-0", cart=["hats-3"]) == []


def test_what_rises_is_told_from_what_is_popular() -> None:
    shop = Asked()
    for number in range(400):
        shop.learn(f"a{number}", "always")
    shop.time_ms += 30 * DAY_MS
    for number in range(60):
        shop.learn(f"b{number}", "always")
        shop.learn(f"c{number % 20}", "rising")
    found = shop.ask("/v1/trending", n=2)
    assert [(one.item_id, one.reason.code) for one in found.items] == [("rising", "trending"), ("always", "popular")]
    assert shop.items("/v1/popular", n=2)[0] == "always"


def test_new_items_are_those_first_stated_or_viewed_last(shop: Asked) -> None:
    shop.time_ms += DAY_MS
    shop.state("shirt", title="Shirt", product_type="Wear > shirts")
    shop.time_ms += DAY_MS
    shop.learn("ann", "unstated")
    shop.state("hats-1", title="Red hats 1, now with a band", product_type="Wear > hats")
    found = shop.ask("/v1/new", n=3)
    assert named(found)[:2] == ["unstated", "shirt"]
    assert found.items[1].reason.text == "new in shirts"
    assert shop.items("/v1/new", category="wear > hats", n=1) == ["hats-0"], "restating makes nothing new"


def test_given_items_are_ordered_and_what_is_not_known_stays_behind(shop: Asked) -> None:
    shop.learn("ann", "shoes-1")
    given = ["what", "hats-4", "is", "hats-1", "shoes-1"]
    found = shop.items("/v1/rerank", items=given, shopper="ann")
    assert set(found) == set(given), "what was just seen stays, too"
    assert found.index("hats-1") < found.index("hats-4")
    assert found[-3:] == ["what", "is", "shoes-1"], "the item viewed last is not the next one"
    assert shop.items("/v1/rerank", items=given, shopper="ann", n=1) == found[:1]
    shop.rules(hidden=["hats-4"], seen={})
    assert set(shop.items("/v1/rerank", items=given, shopper="ann")) == {"what", "is", "hats-1"}
    shop.rules(categories={"only": ["Wear"]}, seen={"leave_out": False})
    assert set(shop.items("/v1/rerank", items=given, shopper="ann")) == {"hats-4", "hats-1", "shoes-1"}


def test_lists_for_one_shopper_share_predictions_while_nothing_is_folded(
    shop: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, predictions = list[Context](), Browsing.predictions

    def counted(self: Browsing, context: Context) -> dict[str, Scores]:
        made.append(context)
        return predictions(self, context)

    monkeypatch.setattr(Browsing, "predictions", counted)
    lists: dict[str, dict[str, Any]] = {
        "/v1/recommendations/": {"shopper": "s1", "n": 5},
        "/v1/rerank": {"shopper": "s1", "items": ["hats-4", "shoes-5"]},
    }
    for turn in (1, 2):
        made.clear()
        now = shop.now._replace(clock_s=float(turn), turn=turn)
        found = [
            BY_PATH[path].call(next_item(shop.shop), _query(BY_PATH[path], query, {}), now)
            for path, query in lists.items()
        ]
        assert len(made) == 1
        assert found == [shop.ask(path, **query) for path, query in lists.items()], "equal to those made anew"
        shop.learn("s2", "hats-4", "shoes-5")


def test_a_page_has_no_item_twice(shop: Asked) -> None:
    lists = [
        {"placement": "top", "n": 3},
        {"kind": "similar", "item": "shoes-1", "n": 4},
        {"kind": "bought_together", "item": "shoes-0", "n": 3},
        {"kind": "trending", "n": 2},
        {"kind": "new", "n": 2},
        {"kind": "popular", "n": 12},
    ]
    found = shop.ask("/v1/lists", shopper="x", lists=lists).lists
    items = [item for one in found for item in named(one)]
    assert len(items) == len(set(items))
    assert [one.kind for one in found] == [one.get("kind", "recommended") for one in lists]
    assert len({one.recommendation_id for one in found}) == len(lists)
    assert found[0].placement == "top"
    with pytest.raises(Refused, match="wanted an item for the list similar, found none"):
        shop.ask("/v1/lists", lists=[{"kind": "similar"}])
    (beside,) = shop.ask("/v1/lists", on_item="shoes-0", lists=[{"kind": "bought_together"}]).lists
    assert named(beside) == ["hats-3"]


def test_many_shoppers_get_a_list_each(shop: Asked) -> None:
    found = shop.ask("/v1/bulk", shoppers=["s1", "x", "s1"], n=3)
    assert isinstance(found, Iterator)
    first, stranger, again = found
    assert [one.shopper for one in (first, stranger, again)] == ["s1", "x", "s1"]
    assert named(first) == named(again) == shop.items("/v1/recommendations/", "s1", n=3)
    assert named(stranger) == shop.items("/v1/recommendations/", "x", n=3)
    assert len({one.recommendation_id for one in (first, stranger, again)}) == 3
    with pytest.raises(Refused, match="n: wanted 1 to 100, found 101"):
        shop.ask("/v1/bulk", shoppers=["x"], n=101)


def test_candidates_are_reused_for_a_moment_but_not_beyond_what_the_shopper_does(shop: Asked) -> None:
    def asked(clock_s: float, turn: int = 2) -> ItemList:
        now = shop.now._replace(clock_s=clock_s, turn=turn)
        found = BY_PATH["/v1/recommendations/"].call(
            next_item(shop.shop), RecommendationQuery(shopper="ann", n=3), now
        )  # fmt: skip
        assert isinstance(found, ItemList)
        return found

    shop.learn("ann", "shoes-1")
    before = asked(1.0, turn=1)
    assert asked(1.4, turn=1) == asked(9.0, turn=1) == before, "nothing was learned"
    for number in range(5):
        shop.learn(f"crowd-{number}", "hats-5")
    assert asked(1.4).items == before.items, "what others do shows a little later"
    assert asked(1.6).items != before.items
    shop.state("hats-0", title="Red hats 0", product_type="Wear > hats", availability="out_of_stock")
    assert "hats-0" not in named(asked(1.6)), "rules hold at once"
    first, second, *_ = named(asked(1.6))
    shop.state(first, title="Brand new", product_type="Wear > hats", price="3.00 EUR")
    again = asked(1.6).items[0]
    assert (again.item_id, again.name) == (first, "Brand new"), "what is stated of an item shows at once"
    shop.rules(hidden=[second])
    assert second not in named(asked(1.6))
    shop.rules()
    assert named(asked(1.6))[:2] == [first, second]
    shop.learn("ann", first)
    assert first not in named(asked(1.6)), "and so does what the shopper does"


def test_answers_that_are_prepared_together_are_those_that_are_made_one_by_one(shop: Asked) -> None:
    model = DeepModel(DeepSettings(width=16), 1)
    model.grow([f"{kind}-{number}" for kind in ("shoes", "hats") for number in range(6)])
    data = model.to_bytes()
    paths: list[tuple[str, dict[str, str], dict[str, Any]]] = [
        *(("/v1/recommendations/", {"shopper": f"s{number}"}, {"n": 4}) for number in (1, 2, 3, 3)),
        ("/v1/recommendations/", {"shopper": "s4"}, {"n": 2, "price_max": "30"}),
        ("/v1/recommendations/", {"shopper": "s4"}, {"price_min": "30", "price_max": "20"}),
        ("/v1/recommendations/", {"shopper": "nobody"}, {"n": 3}),
        ("/v1/recommendations", {}, {"events": [{"type": "view_item", "items": ["shoes-1", "hats-2"]}], "n": 3}),
        ("/v1/rerank", {}, {"shopper": "s5", "items": [f"hats-{number}" for number in range(6)]}),
        ("/v1/lists", {}, {"shopper": "s6", "on_item": "hats-1", "lists": [{"n": 2}, {"kind": "similar", "n": 2}]}),
    ]  # fmt: skip
    asked = [(BY_PATH[path], _query(BY_PATH[path], query, of)) for path, of, query in paths]

    def answers(*, together: bool) -> list[Any]:
        family = next_item(shop.shop)
        family.answering.forget(())
        shop.model = AnsweringModel.from_bytes(data)
        now = shop.now._replace(clock_s=5.0, turn=3)
        if together:
            (prepare,) = {route.prepare for route, _ in asked}
            assert prepare is not None
            prepare(family, [(query, now) for _, query in asked])
        found = []
        for route, query in asked:
            try:
                found.append(msgspec.to_builtins(route.call(family, query, now)))
            except Refused as refused:
                found.append(str(refused))
        return found

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: rounded(one) for name, one in value.items()}
        if isinstance(value, list):
            return [rounded(one) for one in value]
        return float(f"{value:.4g}") if isinstance(value, float) else value

    before = digest(shop.shop.state())
    assert rounded(answers(together=True)) == rounded(answers(together=False))
    assert digest(shop.shop.state()) == before


def test_answers_change_nothing_and_are_repeatable(shop: Asked) -> None:
    before = digest(shop.shop.state())
    paths: list[tuple[str, list[str], dict[str, Any]]] = [
        ("/v1/recommendations/", ["s3"], {"n": 5}), ("/v1/similar/{item}", ["hats-1"], {}), ("/v1/trending", [], {}),
        ("/v1/new", [], {}), ("/v1/popular", [], {}), ("/v1/rerank", [], {"items": ["hats-1", "hats-2"]}),
    ]  # fmt: skip
    first = [shop.ask(path, *of, **query) for path, of, query in paths]
    assert [shop.ask(path, *of, **query) for path, of, query in paths] == first
    assert digest(shop.shop.state()) == before


def test_rules_that_forbid_nearly_everything_find_the_rest() -> None:
    """The few items that are allowed are far behind all candidates of the learners."""
    shop = Asked()
    for number in range(600):
        for visitor in range(2 if number < 590 else 1):
            shop.learn(
                f"v{visitor}-{number // 20}", Item(f"i{number}", item_category="rare" if number >= 590 else "common")
            )
    shop.time_ms += DAY_MS
    shop.rules(categories={"only": ["rare"]})
    found = shop.ask("/v1/recommendations/", "v0-1", n=10)
    assert set(named(found)) == {f"i{number}" for number in range(590, 600)}
    assert found.rules.left_out["categories"] > 50
    assert set(shop.items("/v1/popular", n=10)) == set(named(found))


@pytest.mark.parametrize("route", [route for route in ROUTES if route.example[1]], ids=lambda route: route.path)
def test_examples_have_the_fields_of_their_answers(route: Route) -> None:
    shown = json.loads(route.example[1])
    read = msgspec.to_builtins(msgspec.convert(shown, route.answer))
    others = {"model", "fresh", "logged"} if route.shows else {"model", "fresh"}
    assert shown.keys() == read.keys() | others
    assert {name: shown[name] for name in read} == read


def test_an_explanation_has_the_recommendations_the_parts_of_their_scores_and_what_rules_took_out(shop: Asked) -> None:
    shop.learn("ann", "shoes-1")
    shop.learn("ann", "shoes-2")
    shop.rules(hidden=["hats-1"])
    answered = shop.ask("/v1/recommendations/", "ann", n=4)
    found = shop.ask("/v1/explanations/{shopper}", "ann", n=4)
    recommended = [one for one in found.items if one.place]
    assert [(one.item_id, one.place) for one in recommended] == list(zip(named(answered), range(1, 5), strict=True))
    assert [one.score for one in recommended] == [one.score for one in answered.items]
    assert [one.reason for one in recommended] == [one.reason for one in answered.items]
    left_out = {one.item_id: one.left_out_by for one in found.items if not one.place}
    assert left_out == {"hats-1": "hidden", "shoes-1": "seen"}
    assert answered.rules.left_out == {"hidden": 1, "seen": 1}
    assert found.context == ["shoes-1", "shoes-2"]
    for one in found.items:
        assert one.parts, one
        assert set(one.parts) <= {"popularity", "transitions", "session_knn", "revisits", "traits"}
    best = recommended[0]
    assert best.parts["transitions"] > 0


def test_parts_are_what_the_blend_says_without_a_member(shop: Asked) -> None:
    shop.learn("ann", "shoes-1")
    family = next_item(shop.shop)
    context = family.browsing.contexts.newest("ann", shop.time_ms)
    predictions = family.browsing.predictions(context)
    slots = sorted({slot for scores in predictions.values() for slot in scores.slots.tolist()})
    whole = family.blend.judge(predictions, 1)
    without = family.blend.judge({name: one for name, one in predictions.items() if name != "transitions"}, 1)
    for slot, parts in zip(slots, whole.parts(slots), strict=True):
        if slot in without.slots and "transitions" in parts:
            utility = [float(family.blend._predicted_utility(one.inputs[one.slots == slot], one.group)[0])
                       for one in (whole, without)]  # fmt: skip
            assert parts["transitions"] == pytest.approx(utility[0] - utility[1], abs=1e-4)


def test_neighbours_of_an_item_by_each_learner(shop: Asked) -> None:
    model = DeepModel(DeepSettings(width=16), 1)
    model.grow([f"{kind}-{number}" for kind in ("shoes", "hats") for number in range(6)])
    shop.model = AnsweringModel.from_bytes(model.to_bytes())
    shop.rules(hidden=["hats-0"])
    found = shop.ask("/v1/neighbours/{item}", "shoes-0", n=2).learners
    assert set(found) == {"transitions", "session_knn", "together", "deep"}
    assert found["transitions"][0].item_id == "hats-0", "rules hold in answers; here the learner speaks"
    assert found["transitions"][0].name == "Red hats 0"
    assert [one.item_id for one in found["together"]] == ["hats-3"]
    for near in found.values():
        assert 0 < len(near) <= 2
        assert "shoes-0" not in [one.item_id for one in near]
    shop.state("gloves", title="Gloves")
    assert shop.ask("/v1/neighbours/{item}", "gloves").learners == {}, "nothing was learned of it"
    with pytest.raises(Unknown):
        shop.ask("/v1/neighbours/{item}", "never")
