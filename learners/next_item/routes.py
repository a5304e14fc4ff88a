"""The routes of the family: which request is answered by which function, with an example of each."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from headrace.impressions import Shown
from headrace.surface import Now, Route
from learners.next_item import examples
from learners.next_item.answering import Answering, Explanation, ItemList, Page
from learners.next_item.exploring import shown_items
from learners.next_item.inspecting import (
    Audience,
    AudienceQuery,
    HistoryPage,
    HistoryQuery,
    Inspecting,
    ItemPage,
    ItemsQuery,
    KnownItem,
    KnownItemQuery,
    KnownShopper,
    Neighbours,
    NeighboursQuery,
    ShopperPage,
    ShopperQuery,
    ShoppersQuery,
)
from learners.next_item.questions import (
    BatchQuery,
    CartQuery,
    ExplanationQuery,
    ItemQuery,
    ListQuery,
    PageQuery,
    RecommendationQuery,
    RerankQuery,
    SessionQuery,
)


def _by(call: Callable[[Answering, Any, Now], Any]) -> Callable[[Any, Any, Now], Any]:
    return lambda family, query, now: call(family.answering, query, now)


def _prepare(family: Any, asked: Sequence[tuple[Any, Now]]) -> None:
    family.answering.prepare(asked)


def _shown(answer: ItemList) -> list[Shown]:
    """Return what an answer shows; within an arm that does not explore the ranking is deterministic."""
    items = shown_items([one.item_id for one in answer.items], answer.explored)
    arms = answer.experiments
    return [
        Shown(
            answer.recommendation_id, items, answer.placement, answer.shopper, arms, answer.model, answer.explored,
            answer.segments,
        )
    ]  # fmt: skip


def _shown_on_page(page: Page) -> list[Shown]:
    return [shown for one in page.lists for shown in _shown(one)]


def _known_by(call: Callable[[Inspecting, Any, Now], Any]) -> Callable[[Any, Any, Now], Any]:
    return lambda family, query, now: call(family.inspecting, query, now)


RANKED: Final = frozenset({"/v1/recommendations/{shopper}", "/v1/recommendations", "/v1/rerank"})
"""The paths of the routes whose lists an arm's ranker ranks."""

ROUTES: Final = (
    Route(
        path="/v1/recommendations/{shopper}",
        doc="The items that a shopper is most likely to view or buy next, best first.",
        query=RecommendationQuery,
        answer=ItemList,
        shows=_shown,
        call=_by(Answering.recommend),
        prepare=_prepare,
        example=("/v1/recommendations/shopper-1?n=1", examples.RECOMMENDATIONS),
        notes=(
            "A shopper without events gets the items that are popular now.",
            "Items that are out of stock or retired ([items](publishing.md#items)) are left out.",
            "What is left out, pinned or limited is decided by [rules](rules.md), by placement. They always hold: an"
            " answer has fewer than `n` items only if no more are allowed, and says how many each rule left out.",
            "The upper bound of `n` is also a [setting](settings.md#next_item), `recommendations_max`.",
        ),
    ),
    Route(
        path="/v1/recommendations",
        method="POST",
        doc="Recommendations for a visit whose events are in the request, known to the log or not.",
        query=SessionQuery,
        answer=ItemList,
        shows=_shown,
        call=_by(Answering.recommend_in_visit),
        prepare=_prepare,
        example=('/v1/recommendations {"events": [{"type": "view_item", "items": ["item-00847"]}], "n": 1}', ""),
        notes=("The events are learned only if they are published, too.",),
    ),
    Route(
        path="/v1/similar/{item}",
        doc="Items that can stand for an item: viewed with it, near it for the deep model, like it in name and price.",
        query=ItemQuery,
        answer=ItemList,
        shows=_shown,
        call=_by(Answering.similar),
        example=("/v1/similar/item-00847?n=3", ""),
        notes=("If these do not suffice, items of its category follow, the most popular first; then the list ends.",),
    ),
    Route(
        path="/v1/bought-together/{item}",
        doc="Items that are bought in one order with an item, or with what is in a cart.",
        query=CartQuery,
        answer=ItemList,
        shows=_shown,
        call=_by(Answering.bought_together),
        example=("/v1/bought-together/item-00847?n=3", ""),
        notes=("Only these: the list is as long as there are such items.",),
    ),
    Route(
        path="/v1/trending",
        doc="Items whose share of all steps rises, the most significant rise first; then popular ones.",
        query=ListQuery,
        answer=ItemList,
        shows=_shown,
        call=_by(Answering.trending),
        example=("/v1/trending?category=shirts&n=3", ""),
    ),
    Route(
        path="/v1/new",
        doc="Items, the one that was first stated or viewed last first.",
        query=ListQuery,
        answer=ItemList,
        shows=_shown,
        call=_by(Answering.new),
        example=("/v1/new?category=shirts&n=3", ""),
    ),
    Route(
        path="/v1/popular",
        doc="Items, the most popular first; counts lose half of their weight in a week.",
        query=ListQuery,
        answer=ItemList,
        shows=_shown,
        call=_by(Answering.popular),
        example=("/v1/popular?category=shirts&n=3", ""),
    ),
    Route(
        path="/v1/rerank",
        method="POST",
        doc="Given items, such as a page of search results, in the order in which a shopper is likely to want them.",
        query=RerankQuery,
        answer=ItemList,
        shows=_shown,
        call=_by(Answering.rerank),
        prepare=_prepare,
        example=('/v1/rerank {"shopper": "shopper-1", "items": ["item-00853", "item-00847"]}', ""),
        notes=(
            "Rules hold, apart from the one that leaves out what was just seen, unless it is stated for the placement.",
            "Items of which nothing is known, and the one viewed last, keep their order, behind the others.",
        ),
    ),
    Route(
        path="/v1/lists",
        method="POST",
        doc="All lists of a page in one request; no item is in two of them.",
        query=PageQuery,
        answer=Page,
        shows=_shown_on_page,
        call=_by(Answering.page),
        prepare=_prepare,
        example=(
            '/v1/lists {"shopper": "shopper-1",'
            ' "lists": [{"placement": "home", "n": 1}, {"kind": "trending", "n": 1}]}',
            examples.LISTS,
        ),
        notes=(
            "`kind` is `recommended`, `similar`, `bought_together`, `trending`, `new` or `popular`; the other fields of"
            " a list are those of its own route.",
        ),
    ),
    Route(
        path="/v1/bulk",
        method="POST",
        doc="Recommendations for many shoppers, as for e-mails, one JSON line each, sent while they are made.",
        query=BatchQuery,
        answer=ItemList,
        shows=_shown,
        call=_by(Answering.recommend_to_many),
        streams=True,
        example=('/v1/bulk {"shoppers": ["shopper-1", "shopper-2"], "n": 3}', ""),
    ),
    Route(
        path="/v1/explanations/{shopper}",
        doc="What recommendations to a shopper follow from: the parts of each score, and what rules leave out.",
        query=ExplanationQuery,
        answer=Explanation,
        call=_by(Answering.explain),
        example=("/v1/explanations/shopper-1?n=3", ""),
        notes=("It shows nothing to anybody, so it is no impression.",),
    ),
    Route(
        path="/v1/items/{item}",
        doc="What is known of an item.",
        query=KnownItemQuery,
        answer=KnownItem,
        call=_known_by(Inspecting.item),
        example=("/v1/items/item-00847", examples.ITEM),
    ),
    Route(
        path="/v1/neighbours/{item}",
        doc="The neighbours of an item by each learner, whatever rules say.",
        query=NeighboursQuery,
        answer=Neighbours,
        call=_known_by(Inspecting.neighbours),
        example=("/v1/neighbours/item-00847?n=3", ""),
    ),
    Route(
        path="/v1/audience/{item}",
        doc="The shoppers who turned to an item, of those who did something last.",
        query=AudienceQuery,
        answer=Audience,
        call=_known_by(Inspecting.audience),
        example=("/v1/audience/item-00847?n=3", ""),
    ),
    Route(
        path="/v1/items",
        doc="The items that are known, in the order of their ids.",
        query=ItemsQuery,
        answer=ItemPage,
        call=_known_by(Inspecting.items),
        example=("/v1/items?n=2", examples.ITEMS),
    ),
    Route(
        path="/v1/shoppers/{shopper}",
        doc="What is known of a shopper: traits, the current visit, and what was done with which items.",
        query=ShopperQuery,
        answer=KnownShopper,
        call=_known_by(Inspecting.shopper),
        example=("/v1/shoppers/shopper-1?n=2", examples.SHOPPER),
    ),
    Route(
        path="/v1/shoppers",
        doc="The shoppers that are known, by their names in the log, in the order of these.",
        query=ShoppersQuery,
        answer=ShopperPage,
        call=_known_by(Inspecting.shoppers),
        example=("/v1/shoppers?n=2", examples.SHOPPERS),
    ),
    Route(
        path="/v1/history",
        doc="What shoppers did with items, by the shoppers' names in the log.",
        query=HistoryQuery,
        answer=HistoryPage,
        call=_known_by(Inspecting.history),
        example=("/v1/history?n=2", examples.HISTORY),
    ),
)
