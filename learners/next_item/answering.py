"""Answers to requests for items: candidates of a kind, chosen by rules, with what a page needs to show them."""

import re
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from itertools import islice
from operator import is_
from typing import Any, Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from headrace.impressions import Explored
from headrace.rules import RuleSet, Seen
from headrace.surface import Now, Refused
from learners.desk.family import Desk
from learners.experiments.interleaving import interleave, length_max
from learners.next_item import ranking
from learners.next_item.contexts import pushed, steps_of
from learners.next_item.exploring import Exploring, candidates_in, context_of, ranker_of
from learners.next_item.history import Facts, History
from learners.next_item.kept import Kept, Moment
from learners.next_item.questions import (
    BatchQuery,
    CartQuery,
    ExplanationQuery,
    Happened,
    ItemQuery,
    ListQuery,
    PageQuery,
    RecommendationQuery,
    RerankQuery,
    SessionQuery,
    Shown,
    Wanted,
    items_in,
)
from learners.next_item.ranking import PINNED, Ask, Learned, Mask, Ranked, Reason, first_max
from learners.next_item.rulebook import Rulebook
from learners.next_item.rules import EXCLUDE, Answer, Rules
from learners.next_item.shelf import Product, Shelf
from learners.next_item.trade import Trading
from learners.next_item.variants import NO_VARIANT, Variant, Variants
from learners.parts.assignment import Assignment
from learners.parts.policies import Policies
from learners.protocol import Context, Scores
from learners.stock.family import StockFamily

hour_ms: Final = 3_600_000
day_ms: Final = 24 * hour_ms
predicted_max: Final = 256
"""Most contexts whose predictions are kept: about 5 MiB."""
candidates_max: Final = 1_024
"""Most lists whose candidates are kept: about 10 MiB."""
finished_max: Final = 200_000
"""Most items, shown or looked at, of the finished lists that are kept: 8,000 lists of ten items, about 35 MiB."""
_list_size: Final = 5
"""What keeping a list takes beside its items, in items."""
_NOBODY: Final = ""


class Because(Struct, frozen=True):
    """Why an item is in a list: a code, for shops that have texts of their own, the item that it goes with, and a text.

    The codes are `popular`, `trending`, `new`, `viewed_together`, `similar_visits`, `viewed_before`, `taste`,
    `bought_together`, `like`, `same_category` and `pinned`.
    """

    code: str
    item_id: str
    text: str


class ListedItem(Struct, frozen=True):
    """An item of a list. What is not known is empty or null; prices are in the shop's `currency`.

    In recommendations `score` is the blend's probability of the item (in an arm of an experiment, that of its ranker);
    items that fill up a list have 0.
    """

    item_id: str
    score: float
    reason: Because
    name: str
    brand: str
    category: str
    price: float | None
    currency: str
    link: str
    image_link: str


class AppliedRules(Struct, frozen=True, omit_defaults=True):
    """The rules that were applied. `version` is the offset of the newest of them in the topic, null if there are none.

    `left_out` has, by rule, how many candidates it left out before the answer was full. If the answer has no items,
    `left_nothing` names the rules that did it. `relevance_kept` is there if a rule trades relevance: the share of the
    relevance that the list keeps. `unknown_segments` are those that the rules name and that there are not.
    """

    version: int | None
    left_out: dict[str, int]
    left_nothing: list[str]
    relevance_kept: float | None = None
    unknown_segments: list[str] = []


class ItemList(Struct, frozen=True):
    """A list of items. `recommendation_id` is new for each: later events name it, so that clicks can be told.

    `next_page`, as `page` of the same request, brings further items; it is empty if there are none. `experiments` has
    the arms that the shopper is in here; of an interleaved one, a letter for each item: A if the first arm's list gave
    it, B if the second one's, - if neither. `model` is the version of the deep model that was used; in a page, only of
    one that an arm tries. `explored` is what an arm left to chance, null if nothing was. `segments` are those that the
    shopper is in, if rules of the placement ask for them, or the shopper is in an experiment; else there are none.
    """

    recommendation_id: str
    kind: str
    shopper: str
    placement: str
    items: list[ListedItem]
    next_page: str
    rules: AppliedRules
    experiments: dict[str, str]
    model: str = ""
    explored: Explored | None = None
    segments: list[str] = []


class Page(Struct, frozen=True):
    """The lists of a page."""

    lists: list[ItemList]


class ExplainedItem(Struct, frozen=True):
    """A candidate: at which place it is recommended, or which rule leaves it out, and what its score follows from.

    `place` is 0 if it is left out, else `left_out_by` is empty. `parts` has by how much the item's utility (the
    logarithm of its odds, in nats) would be lower without what each learner says of it; `traits` are what is known of
    the item itself. Parts need not add up, because the blend is not linear. An item that fills up a list has none.
    """

    item_id: str
    name: str
    place: int
    left_out_by: str
    score: float
    reason: Because
    parts: dict[str, float]


class Explanation(Struct, frozen=True):
    """What recommendations to a shopper follow from. `context` are the remembered items, the oldest first.

    Of the candidates that rules left out, those are told that would have been recommended.
    """

    shopper: str
    placement: str
    context: list[str]
    items: list[ExplainedItem]


class _Want(NamedTuple):
    """What is wanted of one list, whatever request it comes from."""

    kind: str
    n: int
    rules: Rules
    filter: Rules | None
    in_stock: bool
    shown: Shown
    gone: Mapping[str, str]
    variant: Variant = NO_VARIANT


class _Finished(NamedTuple):
    """A list that was finished, and what it follows from beside its candidates and the rules.

    Attributes:
        items, products: the items that were looked at, and what was known of each, None if nothing was.
        model: kept so that no other one has its address.
    """

    gone: Mapping[str, str]
    items: tuple[str, ...]
    products: tuple[Product | None, ...]
    found: ItemList
    model: Any

    def holds(self, gone: Mapping[str, str], products: Mapping[str, Product]) -> bool:
        """Return whether it would be the same list now."""
        return gone == self.gone and all(map(is_, map(products.get, self.items), self.products))


class _Candidates(NamedTuple):
    """Candidates, and when they were made. The model is kept so that no other one has its address."""

    ranked: Ranked
    made: Moment
    model: Any


class Answering:
    """Answers requests from a fold. It changes nothing of it; what it keeps follows from the fold.

    The parts of an answer are kept for a moment, and for as long as nothing is learned: what the fast learners predict
    for a context, the candidates of a kind of list, and finished lists. What the shopper does makes another context.
    Whether rules hold is looked at in each answer: a finished list is only given again if what is known of its items,
    and what the shopper must not get, are the same.

    Args:
        desk: None where the shard has none.
        stock: None where the shard has none.
        n_max: most items of a list.

    Attributes:
        shelf: all items that are known; `sync` it before it is read.
    """

    def __init__(
        self, learned: Learned, history: History, rulebook: Rulebook, desk: Desk | None, *, n_max: int,
        assignment: Assignment, policies: Policies, stock: StockFamily | None = None,
    ) -> None:  # fmt: skip
        self._learned, self._history, self._rulebook, self._n_max = learned, history, rulebook, n_max
        self._variants = Variants(rulebook, assignment, policies)
        browsing = learned.browsing
        self.shelf = Shelf(browsing.catalogue, history, browsing.traits, desk, stock)
        self._trading = Trading(self.shelf)
        self._predicted = Kept[dict[str, Scores]](predicted_max)
        self._candidates, self._finished = Kept[_Candidates](candidates_max), Kept[_Finished](finished_max)

    def forget(self, slots: Sequence[int]) -> None:
        """Keep nothing: slots will be reused for other items."""
        for kept in (self._predicted, self._candidates, self._finished):
            kept.clear()

    # The routes

    def recommend(self, query: RecommendationQuery, now: Now) -> ItemList:
        """Return recommendations for a shopper."""
        shopper = now.known_as(query.shopper)
        ask = self._ask(now, shopper, (), query.on_item, query.device)
        return self._wanted(query, "recommended", ask, now.id, query.shopper, shopper, on_item=query.on_item)

    def recommend_in_visit(self, query: SessionQuery, now: Now) -> ItemList:
        """Return recommendations for a visit whose events are in the request."""
        shopper = now.known_as(query.shopper) if query.shopper else _NOBODY
        ask = self._ask(now, shopper, query.events, query.on_item, query.device)
        return self._wanted(
            query, "recommended", ask, now.id, query.shopper, shopper, query.events, on_item=query.on_item
        )

    def recommend_to_many(self, query: BatchQuery, now: Now) -> Iterator[ItemList]:
        """Yield recommendations for many shoppers, one after the other."""
        self._check_n(query.n)
        query.filter()
        return self._for_each(query, now)

    def _for_each(self, query: BatchQuery, now: Now) -> Iterator[ItemList]:
        for number, asked in enumerate(query.shoppers, 1):
            shopper = now.known_as(asked)
            ask = self._ask(now, shopper)._replace(clock_s=0.0)  # events may have been folded since this turn
            yield self._wanted(query, "recommended", ask, f"{now.id}-{number}", asked, shopper)

    def similar(self, query: ItemQuery, now: Now) -> ItemList:
        """Return items that stand for an item."""
        return self._with_item(query, "similar", [query.item], now)

    def bought_together(self, query: CartQuery, now: Now) -> ItemList:
        """Return items that are bought in one order with others."""
        return self._with_item(query, "bought_together", [query.item, *items_in(query.cart)], now)

    def _with_item(self, query: ItemQuery, kind: str, items: list[str], now: Now) -> ItemList:
        shopper = now.known_as(query.shopper) if query.shopper else _NOBODY
        return self._wanted(query, kind, self._ask(now), now.id, query.shopper, shopper, items=items)

    def trending(self, query: ListQuery, now: Now) -> ItemList:
        """Return the items that rise."""
        return self._for_all(query, "trending", now)

    def new(self, query: ListQuery, now: Now) -> ItemList:
        """Return the newest items."""
        return self._for_all(query, "new", now)

    def popular(self, query: ListQuery, now: Now) -> ItemList:
        """Return the most popular items."""
        return self._for_all(query, "popular", now)

    def _for_all(self, query: ListQuery, kind: str, now: Now) -> ItemList:
        shopper = now.known_as(query.shopper) if query.shopper else _NOBODY
        return self._wanted(query, kind, self._ask(now), now.id, query.shopper, shopper)

    def rerank(self, query: RerankQuery, now: Now) -> ItemList:
        """Return given items in the order in which a shopper is likely to want them."""
        shopper = now.known_as(query.shopper) if query.shopper else _NOBODY
        variant = self._variants.of(query.placement, shopper, now.tried, now.segments)
        rules = variant.rules
        # Search results must not lack what was just seen, unless a rule says so.
        seen = rules.stated.seen or Seen(leave_out=False)
        gone = self._gone(shopper, now.time_ms, rules.stated, seen, query.events, ())
        ask = self._ask(now, shopper, query.events, query.on_item, query.device)
        want = _Want("reranked", query.n, rules, None, False, Shown.of(""), gone, variant)
        items = list(dict.fromkeys(query.items))
        return self._list(want, ask, now.id, query.shopper, query.placement, items)

    def page(self, query: PageQuery, now: Now) -> Page:
        """Return the lists of a page; no item is in two of them."""
        shopper = now.known_as(query.shopper) if query.shopper else _NOBODY
        ask, taken = self._ask(now, shopper, query.events, query.on_item, query.device), set[str]()
        lists = list[ItemList]()
        for number, one in enumerate(query.lists, 1):
            if one.kind in _WITH_ITEM and not (one.item or query.on_item):
                raise Refused(f"lists: wanted an item for the list {one.kind}, found none")
            found = self._wanted(
                one, one.kind, ask, f"{now.id}-{number}", query.shopper, shopper, query.events,
                items=[one.item or query.on_item] if one.kind in _WITH_ITEM else (), on_item=query.on_item, taken=taken,
            )  # fmt: skip
            taken.update(item.item_id for item in found.items)
            lists.append(found)
        return Page(lists)

    def explain(self, query: ExplanationQuery, now: Now) -> Explanation:
        """Return what recommendations to a shopper follow from, and what rules leave out."""
        self._check_n(query.n)
        shopper = now.known_as(query.shopper)
        variant = self._variants.of(query.placement, shopper, now.tried, now.segments)
        rules = variant.rules
        gone = self._gone(shopper, now.time_ms, rules.stated, rules.stated.seen or Seen(), (), ())
        want = _Want("recommended", query.n, rules, None, False, Shown.of(""), gone)
        ask, allowed, facts = variant.asks(self._ask(now, shopper))[0], self._allowed(want), self.shelf.facts
        first = self._ranked_or_kept(want.kind, ask, allowed, ())
        answer, ranked = self._chosen(want, ask, (), allowed, first, facts)
        places = {item: place for place, (item, _) in enumerate(answer.items, 1)}
        last = max((place for place, (item, _) in enumerate(first.pool) if item in places), default=-1)
        before = first.pool[: last + 1] if len(places) == want.n else first.pool
        last_rule = "at_most" if answer.kept in (None, 1.0) else "trade"
        missing = {
            item: gone.get(item) or rules.forbids(item, facts(item) or Facts()) or last_rule
            for item, _ in before if item not in places
        }  # fmt: skip
        pinned = {pin.item for pin in rules.stated.pinned or ()}
        found = []
        for candidates, scored in (
            (ranked, answer.items), (first, [one for one in first.pool if one[0] in missing])
        ):  # fmt: skip
            names = [item for item, _ in scored]
            for (item, score), reason, parts in zip(
                scored, candidates.why(names), candidates.parts(names), strict=True
            ):
                shown = _shown(item, score, Reason(PINNED) if item in pinned else reason, self.shelf.products.get)
                found.append(
                    ExplainedItem(
                        item, shown.name, places.get(item, 0), missing.get(item, ""), score, shown.reason, parts
                    )
                )
        return Explanation(query.shopper, query.placement, self._learned.browsing.ids(ask.context.items), found)

    # What they share

    def prepare(self, asked: Sequence[tuple[Any, Now]]) -> None:
        """Compute together what answers to several queries need: one step for all contexts after the other.

        What a step and the processor need for one context then lies near for the next one. What is kept already, or is
        needed by few answers, is not computed.

        Args:
            asked: each a RecommendationQuery, a SessionQuery, a RerankQuery, or a PageQuery.
        """
        contexts, ranked = dict[Hashable, Ask](), dict[Hashable, Ask]()
        for query, now in asked:
            shopper = now.known_as(query.shopper) if query.shopper else _NOBODY
            ask = self._ask(now, shopper, getattr(query, "events", ()), query.on_item)
            if not now.clock_s or self._is_kept(query, shopper, ask):
                continue
            visit = _visit(ask.context)
            contexts[visit] = ask
            key = self._key("recommended", ask, ())
            if _recommends(query) and self._candidates.get(key, ask.moment) is None:
                ranked[key] = ask
        browsing, predicted = self._learned.browsing, self._predicted
        new = {visit: ask for visit, ask in contexts.items() if predicted.get(visit, ask.moment) is None}
        predictions = browsing.predictions_of([ask.context for ask in new.values()])
        for (visit, ask), found in zip(new.items(), predictions, strict=True):
            predicted.put(visit, found, ask.moment)
        models = {id(ask.model): ask.model for ask in contexts.values() if ask.model is not None}
        for model in models.values():
            model.prepare([browsing.prefix(ask.context) for ask in contexts.values() if ask.model is model])
        given = [ranking.Given(ask, None, self._predictions(ask)) for ask in ranked.values()]
        self.shelf.sync()
        for (key, ask), its in zip(
            ranked.items(), ranking.recommended_each(self._learned, self.shelf, given), strict=True
        ):  # fmt: skip
            self._candidates.put(key, _Candidates(its, ask.moment, ask.model), ask.moment)

    def _is_kept(self, query: Any, shopper: str, ask: Ask) -> bool:
        """Return whether the list that a query asks for is kept, as far as that is easily told."""
        if isinstance(query, PageQuery):
            return False
        variant = self._variants.of(query.placement, shopper, ask.tried, ask.segments)
        kind, items = ("reranked", query.items) if isinstance(query, RerankQuery) else ("recommended", ())
        key = self._key(kind, variant.asks(ask)[0], list(dict.fromkeys(items))), query.n, variant.rules
        return self._finished.get(key, ask.moment) is not None

    def choose(
        self, shopper: str, time_ms: int, n: int, model: Any, rules: Rules, exclude: Collection[str] = ()
    ) -> Answer:
        """Return the best n items for a shopper that obey the rules, and what each rule left out.

        Fewer are returned only if there are no more. An unknown shopper gets popular items.

        Args:
            shopper: as the fold knows the shopper.
            model: the deep model in use, None if there is none.
        """
        gone = self._gone(shopper, time_ms, rules.stated, rules.stated.seen or Seen(), (), exclude)
        want = _Want("recommended", n, rules, None, False, Shown.of(""), gone)
        ask, allowed = self._ask(Now(time_ms, artifact=model), shopper), self._allowed(want)
        candidates = self._ranked_or_kept(want.kind, ask, allowed, [])
        return self._chosen(want, ask, [], allowed, candidates, self.shelf.facts)[0]

    def _check_n(self, n: int) -> None:
        if n > self._n_max:
            raise Refused(f"n: wanted 1 to {self._n_max}, found {n}")

    def _ask(
        self, now: Now, shopper: str = _NOBODY, events: Sequence[Happened] = (), on_item: str = "", device: str = ""
    ) -> Ask:  # fmt: skip
        """Return for whom a list is made. Events of the request are the whole visit; what was before it stays known."""
        browsing = self._learned.browsing
        context = browsing.contexts.newest(shopper, now.time_ms)
        if events:
            items, start = list(context.items[: context.start]), context.start
            seen: list[str] = []
            for event in events:
                for item in steps_of(event.type, event.items, seen):
                    seen.append(item)
                    if (slot := browsing.catalogue.slot(item)) is not None:
                        items, start = pushed(items, start, slot)
            context = Context(items, start, context.session if shopper else -1, now.time_ms)
        slot = browsing.catalogue.slot(on_item) if on_item else None
        if slot is not None and (context.start == len(context.items) or context.items[-1] != slot):
            context = Context(*pushed(context.items, context.start, slot), context.session, now.time_ms)
        visit, returning = len(context.items) - context.start, context.start > 0
        if not visit and context.items:  # between sessions: use all remembered items
            context = replace(context, start=0)
        return Ask(
            context, now.time_ms, now.artifact, clock_s=now.clock_s, turn=now.turn, tried=now.tried, visit=visit,
            returning=returning, on_item=bool(on_item), device=device, segments=now.segments,
        )  # fmt: skip

    def _predictions(self, ask: Ask) -> Mapping[str, Scores]:
        """Return the fast learners' predictions, which lists for one context share."""
        context = ask.context
        if not ask.clock_s:
            return self._learned.browsing.predictions(context)
        key, moment = _visit(context), ask.moment
        found = self._predicted.get(key, moment)
        if found is None:
            found = self._learned.browsing.predictions(context)
            self._predicted.put(key, found, moment)
        return found

    def _wanted(
        self, query: Wanted, kind: str, ask: Ask, id_: str, asked: str, shopper: str,
        events: Sequence[Happened] = (), *, items: Sequence[str] = (), on_item: str = "", taken: Collection[str] = (),
    ) -> ItemList:  # fmt: skip
        self._check_n(query.n)
        variant = self._variants.of(query.placement, shopper, ask.tried, ask.segments)
        rules = variant.rules
        exclude = [*items_in(query.exclude), *items, *taken, *([on_item] if on_item else [])]
        gone = self._gone(shopper, ask.time_ms, rules.stated, rules.stated.seen or Seen(), events, exclude)
        want = _Want(
            kind, query.n, rules, query.filter(), query.availability == "in_stock", Shown.of(query.page), gone, variant
        )  # fmt: skip
        return self._list(want, ask, id_, asked, query.placement, items)

    def _list(
        self, want: _Want, ask: Ask, id_: str, asked: str, placement: str, items: Sequence[str]
    ) -> ItemList:  # fmt: skip
        allowed = self._allowed(want)
        ask = ask._replace(strangers=allowed is None)
        asks, told = want.variant.asks(ask), want.variant.told
        if len(asks) > 1 and want.kind in _IN_CONTEXT:
            return self._drafted(want, asks, id_, asked, placement, items, allowed)
        explored: Explored | None = None
        if want.kind in _IN_CONTEXT:
            ask = asks[0]
            explores = want.variant.explores if not len(want.shown) else None  # further pages: the present ranking
            if explores and explores.explore.slot:
                return self._with_slot(want, explores, ask, id_, asked, placement, items, allowed)
            if explores:
                explored = explores.draw(explores.explore.actions, self._context(explores, ask, want), id_)
                ask = ask._replace(ranker=ranker_of(explored))
        products, key = self.shelf.products, None
        if allowed is None and ask.clock_s and not len(want.shown):
            key = self._key(want.kind, ask, items), want.n, want.rules
            kept = self._finished.get(key, ask.moment)
            if kept and kept.holds(want.gone, products):
                return replace(
                    kept.found, recommendation_id=id_, shopper=asked, placement=placement, experiments=dict(told),
                    model=want.variant.model, explored=explored, segments=list(want.variant.segments),
                )  # fmt: skip
        read = dict[str, Product | None]()

        def product(item: str) -> Product | None:
            found = read[item] = products.get(item)
            return found

        def facts(item: str) -> Facts | None:
            found = product(item)
            return None if found is None else found.facts

        candidates = self._candidates_of(want.kind, ask, allowed, items)
        answer, wider = self._chosen(want, ask, items, allowed, candidates.ranked, facts)
        made = self._made(want, answer, wider.why([item for item, _ in answer.items]), product, id_, asked, placement)
        if key and wider is candidates.ranked:  # others follow from all items
            finished = _Finished(want.gone, tuple(read), tuple(read.values()), made, ask.model)
            size = _list_size + len(read) + len(made.items)
            self._finished.put(key, finished, ask.moment, size=size, made=candidates.made)
        return replace(made, explored=explored) if explored else made

    @staticmethod
    def _context(explores: Exploring, ask: Ask, want: _Want) -> list[float]:
        return context_of(ask, explores.explore.segments, want.variant.segments)

    def _with_slot(
        self, want: _Want, explores: Exploring, ask: Ask, id_: str, asked: str, placement: str, items: Sequence[str],
        allowed: Mask | None,
    ) -> ItemList:  # fmt: skip
        """Return a list of which a slot's item is drawn from the next candidates, which obey the rules, too."""
        explore, facts = explores.explore, self.shelf.facts
        candidates = self._ranked_or_kept(want.kind, ask, allowed, items)
        longer = want._replace(n=want.n + explore.candidates)
        answer, wider = self._chosen(longer, ask, items, allowed, candidates, facts)
        found, names = answer.items, [item for item, _ in answer.items]
        pinned = frozenset([pin.item for pin in want.rules.stated.pinned or ()])
        places = candidates_in(names, explore, pinned) if explore.slot <= want.n else []
        explored: Explored | None = None
        if places:
            explored = explores.draw([names[place] for place in places], self._context(explores, ask, want), id_)
            first, chosen = places[0], places[explored.action]
            found[first], found[chosen] = found[chosen], found[first]
        answer = answer._replace(items=found[: want.n])
        whys = wider.why([item for item, _ in answer.items])
        made = self._made(want, answer, whys, self.shelf.products.get, id_, asked, placement)
        return replace(made, explored=explored)

    def _made(
        self, want: _Want, answer: Answer, whys: Sequence[Reason], product: Callable[[str], Product | None], id_: str,
        asked: str, placement: str,
    ) -> ItemList:  # fmt: skip
        """Return a list with what a page needs to show its items."""
        names = [item for item, _ in answer.items]
        pinned = {pin.item for pin in want.rules.stated.pinned or ()}
        reasons = [Reason(PINNED) if item in pinned else why for item, why in zip(names, whys, strict=True)]
        shown = [
            _shown(item, score, reason, product) for (item, score), reason in zip(answer.items, reasons, strict=True)
        ]
        next_page = want.shown.and_these(names) if len(names) == want.n and want.kind != "reranked" else ""
        left_out = dict(sorted(answer.left_out.items()))
        variant = want.variant
        applied = AppliedRules(
            want.rules.version, left_out, [] if names else list(left_out), answer.kept, list(variant.unknown)
        )  # fmt: skip
        return ItemList(
            id_, want.kind, asked, placement, shown, next_page, applied, dict(variant.told), variant.model,
            segments=list(variant.segments),
        )  # fmt: skip

    def _drafted(
        self, want: _Want, asks: Sequence[Ask], id_: str, asked: str, placement: str, items: Sequence[str],
        allowed: Mask | None,
    ) -> ItemList:  # fmt: skip
        """Return two arms' lists, drafted into one that obeys the rules as each of them does."""
        facts, reasons, names, left_out = self.shelf.facts, dict[str, Reason](), list[list[str]](), dict[str, int]()
        for ask in asks:
            candidates = self._ranked_or_kept(want.kind, ask, allowed, items)
            answer, wider = self._chosen(want, ask, items, allowed, candidates, facts)
            names.append([item for item, _ in answer.items])
            reasons |= dict(zip(names[-1], wider.why(names[-1]), strict=True))
            left_out = {name: max(left_out.get(name, 0), count) for name, count in (left_out | answer.left_out).items()}
        drafted, teams = interleave(names[0], names[1], min(2 * want.n, length_max), id_)
        pool = [(item, 1 / place) for place, item in enumerate(drafted, 1)]
        answer = self._applied(want, Ranked(pool, (), lambda _: []), allowed, facts)
        of = dict(zip(drafted, teams, strict=True))
        told = {**want.variant.told, want.variant.drafts: "".join(of[item] for item, _ in answer.items)}
        return self._made(
            want._replace(variant=want.variant._replace(told=told)), answer._replace(left_out=left_out),
            [reasons[item] for item, _ in answer.items], self.shelf.products.get, id_, asked, placement,
        )  # fmt: skip

    def _allowed(self, want: _Want) -> Mask | None:
        """Return which rows of the shelf the request allows, None if it allows all."""
        shelf = self.shelf
        shelf.sync()
        allowed = want.filter.mask(shelf) if want.filter else None
        if want.in_stock:
            stocked = shelf.stated & shelf.available
            allowed = stocked if allowed is None else allowed & stocked
        return allowed

    def _chosen(
        self, want: _Want, ask: Ask, items: Sequence[str], allowed: Mask | None, candidates: Ranked,
        facts: Callable[[str], Facts | None],
    ) -> tuple[Answer, Ranked]:  # fmt: skip
        """Return the items that obey the rules, traded if a rule says so, and the candidates that they are from."""
        answer, wider = self._obeying(want, ask, items, allowed, candidates, facts)
        if want.rules.stated.trade is None or want.kind not in _IN_CONTEXT or ask.ranker:  # others have no probability
            return answer, wider

        def is_free(item: str) -> bool:
            if item in want.gone or item in want.shown or facts(item) is None:
                return False
            return allowed is None or bool((row := self.shelf.row(item)) >= 0 and allowed[row])

        return self._trading.trade(want.rules, answer, wider.pool, is_free, ask.time_ms), wider

    def _obeying(
        self, want: _Want, ask: Ask, items: Sequence[str], allowed: Mask | None, candidates: Ranked,
        facts: Callable[[str], Facts | None],
    ) -> tuple[Answer, Ranked]:  # fmt: skip
        """Return the items that obey the rules, and the candidates that they are from.

        Rules that forbid much are applied to all candidates before the best ones are taken, if too few of the best ones
        obey them.
        """
        if want.kind == "reranked":
            return self._applied(want, candidates, allowed, facts), candidates
        first = islice(candidates.more, 0 if want.kind == "recommended" else first_max)
        answer = self._applied(want, candidates._replace(more=first), allowed, facts)
        if len(answer.items) < want.n:
            mask = want.rules.mask(self.shelf)
            wider = self._ranked(want.kind, ask, mask if allowed is None else mask & allowed, items)
            filled = self._applied(want, wider, allowed, facts)
            left_out = {name: max(answer.left_out.get(name, 0), count) for name, count in filled.left_out.items()}
            return Answer(filled.items, answer.left_out | left_out), wider
        return answer, candidates

    def _ranked_or_kept(self, kind: str, ask: Ask, allowed: Mask | None, items: Sequence[str]) -> Ranked:
        return self._candidates_of(kind, ask, allowed, items).ranked

    def _candidates_of(self, kind: str, ask: Ask, allowed: Mask | None, items: Sequence[str]) -> _Candidates:
        """Return candidates. Those of which no filter leaves any out are kept."""
        if allowed is not None or not ask.clock_s:
            return _Candidates(self._ranked(kind, ask, allowed, items), ask.moment, ask.model)
        key, moment = self._key(kind, ask, items), ask.moment
        kept = self._candidates.get(key, moment)
        if kept is None:
            kept = _Candidates(self._ranked(kind, ask, None, items), moment, ask.model)
            self._candidates.put(key, kept, moment)
        return kept

    def _key(self, kind: str, ask: Ask, items: Sequence[str]) -> Hashable:
        """Return what candidates follow from, beside the fold."""
        context, begun = ask.context, self.shelf.begun  # lists that are read further name rows
        if kind not in _IN_CONTEXT:
            return kind, id(ask.model), begun, tuple(items)
        return kind, id(ask.model), begun, tuple(items), _visit(context), ask.ranker, ask.without

    def _ranked(self, kind: str, ask: Ask, allowed: Mask | None, items: Sequence[str]) -> Ranked:
        learned, shelf = self._learned, self.shelf
        if kind == "reranked":
            return ranking.reranked(learned, shelf, ask, allowed, self._predictions(ask), items)
        if kind == "recommended":
            if ask.ranker in ranking.LISTS:
                return ranking.LISTS[ask.ranker](learned, shelf, ask, allowed)
            rank = ranking.alone if ask.ranker else ranking.recommended
            return rank(learned, shelf, ask, allowed, self._predictions(ask))
        if kind == "similar":
            return ranking.similar(learned, shelf, ask, allowed, items[0])
        if kind == "bought_together":
            return ranking.bought_together(learned, shelf, ask, allowed, items)
        return ranking.LISTS[kind](learned, shelf, ask, allowed)

    def _applied(
        self, want: _Want, candidates: Ranked, allowed: Mask | None, facts: Callable[[str], Facts | None]
    ) -> Answer:  # fmt: skip
        shown, shelf = want.shown, self.shelf
        pool = [one for one in candidates.pool if one[0] not in shown] if len(shown) else candidates.pool
        more = (item for item in candidates.more if item not in shown) if len(shown) else candidates.more
        wanted = facts
        if len(shown) or allowed is not None:  # pinned items must be in the filter, and on the first page

            def wanted(item: str) -> Facts | None:
                inside = item not in shown and (allowed is None or ((row := shelf.row(item)) >= 0 and allowed[row]))
                return facts(item) if inside else None

        return want.rules.apply(pool, more, wanted, want.gone, want.n)

    def _gone(
        self, shopper: str, time_ms: int, rules: RuleSet, seen: Seen, events: Sequence[Happened],
        exclude: Collection[str],
    ) -> dict[str, str]:  # fmt: skip
        """Return the items that a shopper must not get at a shop time, each with the name of the rule."""
        browsing, history, gone = self._learned.browsing, self._history, dict[str, str]()
        if rules.bought and rules.bought.leave_out:
            days = rules.bought.again_after_days
            after_ms = None if days is None else time_ms - int(days * day_ms)
            gone |= dict.fromkeys(history.bought.after(shopper, after_ms), "bought")
            if bought := [item for event in events if event.type == "purchase" for item in event.items]:
                gone |= dict.fromkeys(bought, "bought")
        if seen.leave_out:
            gone |= dict.fromkeys(browsing.ids([*browsing.recent.slots(shopper, time_ms)]), "seen")
            gone |= dict.fromkeys((item for event in events for item in event.items), "seen")
            if seen.within_hours is not None:
                after_ms = time_ms - int(seen.within_hours * hour_ms)
                gone |= dict.fromkeys(history.seen.after(shopper, after_ms), "seen")
        return gone | dict.fromkeys(exclude, EXCLUDE)


def _recommends(query: Any) -> bool:
    """Return whether a query asks for recommendations of which no filter leaves any out."""
    lists = query.lists if isinstance(query, PageQuery) else [query]
    return any(
        getattr(one, "kind", "recommended") == "recommended" and not (one.filters or one.availability)
        for one in lists if isinstance(one, Wanted)
    )  # fmt: skip


def _visit(context: Context) -> Hashable:
    """Return what predictions for a context follow from, beside the fold."""
    return tuple(context.items), context.start, context.session


def _shown(item: str, score: float, reason: Reason, product: Callable[[str], Product | None]) -> ListedItem:
    facts, currency, link, image_link = product(item) or _UNKNOWN
    code, other = reason
    text = _TEXTS[code]
    if other:
        text = text.format((product(other) or _UNKNOWN).facts.name or other)
    elif code in _BY_CATEGORY and facts.category:
        names = [name for part in re.split("[>/]", facts.category) if (name := part.strip())]
        text = f"{text} in {names[-1]}" if names else text
    return ListedItem(
        item, score, Because(code, other, text), facts.name, facts.brand, facts.category, facts.price, currency, link,
        image_link,
    )  # fmt: skip


_UNKNOWN: Final = Product(Facts(), "", "", "")
_WITH_ITEM: Final = frozenset({"similar", "bought_together"})
_IN_CONTEXT: Final = frozenset({"recommended", "reranked"})
"""The kinds of lists that depend on the shopper."""
_TEXTS: Final[Mapping[str, str]] = {
    "popular": "popular this week",
    "trending": "viewed more and more",
    "new": "new",
    "viewed_together": "often viewed together with {}",
    "similar_visits": "viewed in visits like this one",
    "viewed_before": "viewed earlier in this visit",
    "taste": "fits what was viewed before",
    "bought_together": "bought together with {}",
    "like": "like {}",
    "same_category": "of the same kind as {}",
    PINNED: "chosen by the shop",
}
_BY_CATEGORY: Final = frozenset({"popular", "trending", "new"})
