"""Rankings: the candidates of each kind of list, best first, before rules are applied. All are pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from headrace.surface import NoSegments, Segments
from learners.next_item.blend import Blend, Judged
from learners.next_item.browsing import Browsing
from learners.next_item.candidates import Candidates
from learners.next_item.judgement import list_length
from learners.next_item.kept import Moment
from learners.next_item.popularity import Popularity
from learners.next_item.shelf import Shelf
from learners.next_item.together import Together
from learners.next_item.transitions import Transitions
from learners.protocol import DEEP, Context, Listed, Scores, top

deep_within_max: Final = 1_000
"""Best items of the deep model among which those that a filter allows are looked for."""
named_at_once: Final = 32
"""Items of a ranking that are named together."""
first_max: Final = 256
"""Items that are sorted first where a whole catalogue is ranked; the others only if these do not suffice."""
siblings_max: Final = 500
"""Most items of a category, the most popular ones, that are compared with an item."""
fusion: Final = 60
"""The constant of reciprocal rank fusion, as its source has it."""

Mask = NDArray[np.bool_]


class Learned(NamedTuple):
    """What rankings follow from."""

    browsing: Browsing
    blend: Blend
    together: Together


class Reason(NamedTuple):
    """Why an item is in a list: a code, and the item that it goes with, "" if there is none."""

    code: str
    item: str = ""


class Ask(NamedTuple):
    """For whom a list is made: a shopper's context at a shop time, and the deep model in use, None if there is none.

    `strangers` is whether items may be listed that only the deep model knows, as a filter knows nothing of them.
    `clock_s` and `turn` are those of `headrace.surface.Now`. `ranker` and `without` are those of an experiment's arm
    (`headrace.experiments.Arm`), `tried` the models that arms may name, by blob. `visit` is the number of items of the
    running visit, `returning` whether there are items of earlier ones, `on_item` whether it is on an item's page;
    `device` is as the request states it. `segments` tells who is in which.
    """

    context: Context
    time_ms: int
    model: Any = None
    strangers: bool = True
    clock_s: float = 0.0
    turn: int = 0
    ranker: str = ""
    without: tuple[str, ...] = ()
    tried: Mapping[str, Any] = {}
    visit: int = 0
    returning: bool = False
    on_item: bool = False
    device: str = ""
    segments: Segments = NoSegments()

    @property
    def moment(self) -> Moment:
        """When it is asked."""
        return Moment(self.turn, self.clock_s)


class Again:
    """Items that are looked for anew each time somebody asks, so that whoever asks for none costs nothing."""

    def __init__(self, find: Callable[[], Iterator[str]]) -> None:
        self._find = find

    def __iter__(self) -> Iterator[str]:
        return self._find()


class Found:
    """Items that are looked for once, as far as somebody asks."""

    def __init__(self, items: Iterator[str]) -> None:
        self._items, self._found = items, list[str]()

    def __iter__(self) -> Iterator[str]:
        place = 0
        while True:
            while place < len(self._found):
                yield self._found[place]
                place += 1
            item = next(self._items, None)
            if item is None:
                return
            self._found.append(item)


class Pool(Sequence[tuple[str, float]]):
    """Scored items, best first. They are named as far as somebody reads: an answer needs a few of many.

    Args:
        keys: stand for the items, distinct.
        name: returns the items of keys.

    Shapes:
        keys: (N,), scores: (N,)
    """

    def __init__(
        self, keys: NDArray[np.int32], scores: NDArray[np.float32], name: Callable[[NDArray[np.int32]], list[str]]
    ) -> None:  # fmt: skip
        self._keys, self._scores, self._name = keys, scores, name
        self._named = list[tuple[str, float]]()
        self._places = dict[str, int]()

    def __len__(self) -> int:
        return len(self._keys)

    def _read(self, end: int) -> None:
        """Name the items before a place."""
        start = len(self._named)
        if start < end:
            names = self._name(self._keys[start:end])
            self._places.update(zip(names, range(start, end), strict=True))
            self._named += zip(names, self._scores[start:end].tolist(), strict=True)

    @overload
    def __getitem__(self, place: int) -> tuple[str, float]: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[tuple[str, float]]: ...
    def __getitem__(self, place: int | slice) -> tuple[str, float] | Sequence[tuple[str, float]]:
        self._read(len(self))
        return self._named[place]

    def __iter__(self) -> Iterator[tuple[str, float]]:
        for start in range(0, len(self), named_at_once):
            end = min(start + named_at_once, len(self))
            self._read(end)
            yield from self._named[start:end]

    def key(self, item: str) -> int | None:
        """Return what stands for an item; None if it is not among these."""
        place = self._places.get(item)
        if place is None and len(self._named) < len(self):
            self._read(len(self))
            place = self._places.get(item)
        return None if place is None else int(self._keys[place])


def no_parts(items: Sequence[str]) -> list[dict[str, float]]:
    """Return no parts of each item's score."""
    return [{} for _ in items]


class Ranked(NamedTuple):
    """Ranked with scores, best first; further ones without a score; why an item is among them, and its score's parts.

    It may be read again.
    """

    pool: Sequence[tuple[str, float]]
    more: Iterable[str]
    why: Callable[[Sequence[str]], list[Reason]]
    parts: Callable[[Sequence[str]], list[dict[str, float]]] = no_parts


class _Reasons:
    """Why a blend has chosen items. What it takes to tell is dropped when it has told once: it is large.

    Args:
        judge: returns it again.
        pool: the items, their keys being their slots in what is judged.
    """

    def __init__(
        self, learned: Learned, context: Context, pool: Pool, judged: Judged, judge: Callable[[], Judged]
    ) -> None:  # fmt: skip
        self._learned, self._context, self._pool = learned, context, pool
        self._judged: Judged | None = judged
        self._judge, self._told = judge, dict[str, Reason]()

    def of(self, items: Sequence[str]) -> list[Reason]:
        """Return the reason for each item."""
        told = self._told
        if asked := [item for item in items if item not in told]:
            ranked = self._ranked(asked)
            judged, self._judged = self._judged or self._judge(), None
            members = judged.decisive(list(ranked.values()))
            told.update(dict.fromkeys(asked, POPULAR))
            for item, member in zip(ranked, members, strict=True):
                told[item] = _reason(self._learned, self._context, item, member)
        return [told[item] for item in items]

    def parts(self, items: Sequence[str]) -> list[dict[str, float]]:
        """Return the parts of each item's score (`Judged.parts`), none of one that is not ranked."""
        ranked = self._ranked(items)
        found = dict(zip(ranked, self._judge().parts(list(ranked.values())), strict=True))
        return [found.get(item, {}) for item in items]

    def _ranked(self, items: Iterable[str]) -> dict[str, int]:
        return {item: key for item in items if (key := self._pool.key(item)) is not None}


class Given(NamedTuple):
    """What the blend ranks from.

    Attributes:
        allowed: which rows of the shelf may be candidates; None: all.
        predictions: what the fast learners predict for the context.
        deep: the deep model's answer, if it is known.
    """

    ask: Ask
    allowed: Mask | None
    predictions: Mapping[str, Scores]
    deep: "Listed | None" = None


def recommended(
    learned: Learned, shelf: Shelf, ask: Ask, allowed: Mask | None, predictions: Mapping[str, Scores],
    deep: "Listed | None" = None,
) -> Ranked:  # fmt: skip
    """Return what the blend ranks for a context; then what is popular. Arguments as of `Given`."""
    return recommended_each(learned, shelf, [Given(ask, allowed, predictions, deep)])[0]


def recommended_each(learned: Learned, shelf: Shelf, given: Sequence[Given]) -> list[Ranked]:
    """Return `recommended` for each of several contexts, one step for all of them after the other.

    What a step and the processor need for one context then lies near for the next one.
    """
    browsing, blend = learned.browsing, learned.blend
    deep = [_deep_of(browsing, shelf, one) for one in given]
    found = [_candidates_of(browsing, shelf, one, its) for one, its in zip(given, deep, strict=True)]
    traits = [browsing.traits.of(its.slots, one.ask.context) for one, its in zip(given, found, strict=True)]
    judges = [
        partial(blend.judge, its.lists, len(one.ask.context.items) - one.ask.context.start, known.__getitem__)
        for one, its, known in zip(given, found, traits, strict=True)
    ]
    judged = [judge() for judge in judges]
    scored = [its.scores() for its in judged]
    return [
        _ranked(learned, shelf, one, its, judge, at_first, scores)
        for one, its, judge, at_first, scores in zip(given, found, judges, judged, scored, strict=True)
    ]


def _deep_of(browsing: Browsing, shelf: Shelf, given: Given) -> "Listed | None":
    ask = given.ask
    if DEEP in ask.without:
        return None
    if given.deep is None and ask.model is not None and (prefix := browsing.prefix(ask.context)):
        return _deep(ask, prefix, shelf, given.allowed)
    return given.deep


def _candidates_of(browsing: Browsing, shelf: Shelf, given: Given, deep: "Listed | None") -> Candidates:
    ask, allowed, predictions = given.ask, given.allowed, given.predictions
    if ask.without:
        predictions = {name: scores for name, scores in predictions.items() if name not in ask.without}
    allows = None if allowed is None else lambda slots: allowed[shelf.rows_of(slots)]
    return browsing.candidates(ask.context, deep, allows, predictions)


def _ranked(
    learned: Learned, shelf: Shelf, given: Given, candidates: Candidates, judge: Callable[[], Judged], judged: Judged,
    scored: Scores,
) -> Ranked:  # fmt: skip
    order = (-scored.scores).argsort(kind="stable")  # the slots ascend: of equally probable items, the lower one first
    named = partial(candidates.named, catalogue=learned.browsing.catalogue)
    best = Pool(scored.slots.take(order), scored.scores.take(order), named)
    reasons = _Reasons(learned, given.ask.context, best, judged, judge)
    allowed = given.allowed
    return Ranked(best, Again(lambda: popular_items(learned, shelf, allowed)), reasons.of, reasons.parts)


def alone(
    learned: Learned, shelf: Shelf, ask: Ask, allowed: Mask | None, predictions: Mapping[str, Scores],
    deep: "Listed | None" = None,
) -> Ranked:  # fmt: skip
    """Return what one learner of the blend, `ask.ranker`, ranks for a context; then what is popular.

    Arguments as of `recommended`. Scores are the learner's own.
    """
    browsing, context, member = learned.browsing, ask.context, ask.ranker
    if member == DEEP:
        prefix = browsing.prefix(context)
        if ask.model is not None and prefix and deep is None:
            deep = _deep(ask, prefix, shelf, allowed)
        items, scores = deep or ([], np.zeros(0, np.float32))
        last = browsing.last(context)
        named = [one for one in zip(items, scores.tolist(), strict=True) if one[0] != last]
    else:
        allows = None if allowed is None else lambda slots: allowed[shelf.rows_of(slots)]
        best = browsing.best(context, allows, {member: predictions[member]})[member]
        named = list(zip(browsing.ids(best.slots.tolist()), best.scores.tolist(), strict=True))
    ranked = {item for item, _ in named}

    def why(items: Sequence[str]) -> list[Reason]:
        return [_reason(learned, context, item, member) if item in ranked else POPULAR for item in items]

    return Ranked(named, Again(lambda: popular_items(learned, shelf, allowed)), why)


def _deep(ask: Ask, prefix: list[str], shelf: Shelf, allowed: Mask | None) -> Listed:
    if allowed is None:
        listed: Listed = ask.model.predict([prefix], list_length)[0]
        return listed
    items, scores = ask.model.predict([prefix], deep_within_max)[0]
    rows = map(shelf.row, items)
    kept = [place for place, row in enumerate(rows) if (allowed[row] if row >= 0 else ask.strangers)][:list_length]
    return [items[place] for place in kept], scores[kept]


def _reason(learned: Learned, context: Context, item: str, member: str) -> Reason:
    """Return the reason for an item that a member has decided about."""
    reason = _MEMBERS.get(member, POPULAR)
    if reason.code != VIEWED_TOGETHER:
        return reason
    browsing = learned.browsing
    slot, transitions = browsing.catalogue.slot(item), browsing.members[Transitions.name]
    assert isinstance(transitions, Transitions)
    other = None if slot is None else transitions.because(context, slot)
    return SIMILAR_VISITS if other is None else Reason(VIEWED_TOGETHER, browsing.catalogue.item(other))


def popular_items(learned: Learned, shelf: Shelf, allowed: Mask | None) -> Iterator[str]:
    """Yield all items that somebody viewed or chose, the most popular first; then what else is stated, newest first.

    An item of which all steps were taken back, and which the shop does not state, is not among them.
    """
    rows = np.flatnonzero(shelf.present if allowed is None else shelf.present & allowed)
    member = learned.browsing.members[Popularity.name]
    assert isinstance(member, Popularity)
    placed = rows[shelf.slot[rows] >= 0]
    counts = member.counts_of(shelf.slot[placed])
    counted = counts > 0
    yield from _in_order(shelf, placed[counted], counts[counted])
    others = np.concatenate([placed[~counted], rows[shelf.slot[rows] < 0]])
    others = others[shelf.stated[others]]
    yield from _in_order(shelf, others, shelf.since_ms(others).astype(np.float64))


def _in_order(shelf: Shelf, rows: NDArray[np.int64], values: NDArray[np.float64]) -> Iterator[str]:
    """Yield the items of rows by falling values, of equal ones the lower slot and row first."""
    if len(rows) > 2 * first_max:
        least = np.partition(values, -first_max)[-first_max]
        first = values > least
        yield from _in_order(shelf, rows[first], values[first])
        rows, values = rows[~first], values[~first]
    yield from shelf.named(rows[np.lexsort((rows, shelf.slot[rows], -values))].tolist())


def popular(learned: Learned, shelf: Shelf, ask: Ask, allowed: Mask | None) -> Ranked:
    """Return all items, the most popular first."""
    return Ranked((), Found(popular_items(learned, shelf, allowed)), lambda items: [POPULAR] * len(items))


def trending(learned: Learned, shelf: Shelf, ask: Ask, allowed: Mask | None) -> Ranked:
    """Return the items whose share of the steps rises most significantly; then what is popular."""
    slots, rises = learned.browsing.traits.rises(ask.time_ms)
    rows = shelf.rows_of(slots)
    kept = np.flatnonzero(rows >= 0 if allowed is None else (rows >= 0) & allowed[rows])
    best = top(Scores(slots[kept], rises[kept].astype(np.float32)), first_max)
    rising = list(zip(learned.browsing.ids(best.slots.tolist()), best.scores.tolist(), strict=True))
    names = {item for item, _ in rising}

    def why(items: Sequence[str]) -> list[Reason]:
        return [TRENDING if item in names else POPULAR for item in items]

    return Ranked(rising, Found(popular_items(learned, shelf, allowed)), why)


def new(learned: Learned, shelf: Shelf, ask: Ask, allowed: Mask | None) -> Ranked:
    """Return all items, the one that was first stated or viewed last first; of equal ones, the more popular first."""

    def newest() -> Iterator[str]:
        rows = np.flatnonzero(shelf.present if allowed is None else shelf.present & allowed)
        since_ms, slots = shelf.since_ms(rows), shelf.slot[rows]
        member, counts = learned.browsing.members[Popularity.name], np.zeros(len(rows))
        assert isinstance(member, Popularity)
        counts[slots >= 0] = member.counts_of(slots[slots >= 0])
        order = np.lexsort((rows, -counts, -since_ms))
        yield from shelf.named(rows[order[(counts > 0)[order] | shelf.stated[rows[order]]]].tolist())

    return Ranked((), Found(newest()), lambda items: [NEW] * len(items))


def bought_together(learned: Learned, shelf: Shelf, ask: Ask, allowed: Mask | None, items: Sequence[str]) -> Ranked:
    """Return what is bought in one order with items. There are no others."""
    catalogue = learned.browsing.catalogue
    slots = [slot for item in dict.fromkeys(items) if (slot := catalogue.slot(item)) is not None]
    found = _allowed(learned.together.companions(slots, ask.time_ms), shelf, allowed)
    best = top(found, len(found.slots))
    named = list(zip(learned.browsing.ids(best.slots.tolist()), best.scores.tolist(), strict=True))

    def why(companions: Sequence[str]) -> list[Reason]:
        return [Reason(BOUGHT_TOGETHER, items[0]) for _ in companions]

    return Ranked(named, (), why)


def similar(learned: Learned, shelf: Shelf, ask: Ask, allowed: Mask | None, item: str) -> Ranked:
    """Return items that stand for an item: viewed with it, near it in the deep model, or like it in name and price.

    The three lists are joined by reciprocal rank fusion. Items of its category follow, the most popular first.

    Source: Cormack, Clarke & Buettcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning
    methods", SIGIR 2009.
    """
    slot, row = learned.browsing.catalogue.slot(item), shelf.row(item)
    lists: dict[str, list[str]] = {}
    if slot is not None:
        viewed = learned.browsing.members[Transitions.name].predict(Context((slot,), 0, -1, ask.time_ms))
        viewed = top(_allowed(viewed, shelf, allowed), 2 * list_length)
        lists[VIEWED_TOGETHER] = learned.browsing.ids(viewed.slots.tolist())
    if ask.model is not None:
        near = ask.model.similar(item, deep_within_max if allowed is not None else 2 * list_length)
        lists[LIKE] = [
            one for one, _ in near if (of := shelf.row(one)) >= 0 and (allowed is None or allowed[of])
        ][: 2 * list_length]  # fmt: skip
    category = int(shelf.category[row]) if row >= 0 else -1
    siblings = np.zeros(0, np.int64)
    if row >= 0 and shelf.categories.names[category]:
        same = shelf.present & (shelf.category == category)
        siblings = np.flatnonzero(same if allowed is None else same & allowed)
        lists[SAME_CATEGORY] = _like_it(learned, shelf, row, siblings)
    scores: dict[str, float] = {}
    codes: dict[str, str] = {}
    for code, ranked in lists.items():
        for rank, one in enumerate(ranked, 1):
            if one != item:
                scores[one] = scores.get(one, 0.0) + 1 / (fusion + rank)
                codes.setdefault(one, code)
    found = sorted(scores.items(), key=lambda one: -one[1])

    def others() -> Iterator[str]:
        mask = np.zeros(len(shelf.present), np.bool_)
        mask[siblings] = True
        return (one for one in popular_items(learned, shelf, mask) if one != item)

    def why(items: Sequence[str]) -> list[Reason]:
        return [Reason(codes.get(one, SAME_CATEGORY), item) for one in items]

    return Ranked(found, Again(others), why)


def _like_it(learned: Learned, shelf: Shelf, row: int, siblings: NDArray[np.int64]) -> list[str]:
    """Return the items of a category in the order of how like an item they are, in name and price."""
    slots = shelf.slot[siblings]
    if len(siblings) > siblings_max:
        member = learned.browsing.members[Popularity.name]
        assert isinstance(member, Popularity)
        counts = np.zeros(len(siblings))
        counts[slots >= 0] = member.counts_of(slots[slots >= 0])
        most = np.argpartition(-counts, siblings_max)[:siblings_max]
        siblings, slots = siblings[most], slots[most]
    ratio = np.abs(np.log(np.maximum(shelf.price[siblings], 0.01)) - np.log(max(shelf.price[row], 0.01)))
    likeness = np.nan_to_num(1 / (1 + ratio))
    if shelf.slot[row] >= 0:
        likeness += learned.browsing.traits.name_likeness(slots, int(shelf.slot[row]))
    order = np.lexsort((siblings, -likeness))[: 2 * list_length]
    return shelf.named(siblings[order].tolist())


def reranked(
    learned: Learned, shelf: Shelf, ask: Ask, allowed: Mask | None, predictions: Mapping[str, Scores],
    items: Sequence[str],
) -> Ranked:  # fmt: skip
    """Return given items in the blend's order, then in the deep model's, and those that neither knows as they were."""
    mask, prefix = shelf.mask_of(items), learned.browsing.prefix(ask.context)
    mask = mask if allowed is None else mask & allowed
    if ask.ranker in LISTS:
        found = LISTS[ask.ranker](learned, shelf, ask, mask)
        return found._replace(more=[*found.more, *items])
    answers = ask.model is not None and prefix and ask.ranker in ("", DEEP) and DEEP not in ask.without
    deep = ask.model.among(prefix, items) if answers else None
    best = None if deep is None else (deep[0][:list_length], deep[1][:list_length])
    found = (alone if ask.ranker else recommended)(learned, shelf, ask, mask, predictions, best)
    wanted = set(items)
    return Ranked([one for one in found.pool if one[0] in wanted], [*(deep[0] if deep else ()), *items], found.why)


def _allowed(scores: Scores, shelf: Shelf, allowed: Mask | None) -> Scores:
    if allowed is None:
        return scores
    kept = allowed[shelf.rows_of(scores.slots)]
    return Scores(scores.slots[kept], scores.scores[kept])


LISTS: Final[Mapping[str, Callable[[Learned, Shelf, Ask, Mask | None], Ranked]]] = {
    "trending": trending, "new": new, "popular": popular,
}  # fmt: skip
"""The lists that are the same for all shoppers."""
PINNED, SAME_CATEGORY, BOUGHT_TOGETHER, VIEWED_TOGETHER, LIKE = (
    "pinned", "same_category", "bought_together", "viewed_together", "like",
)  # fmt: skip
POPULAR, TRENDING, NEW = Reason("popular"), Reason("trending"), Reason("new")
SIMILAR_VISITS: Final = Reason("similar_visits")
_MEMBERS: Final = {
    Popularity.name: POPULAR, Transitions.name: Reason(VIEWED_TOGETHER), "session_knn": SIMILAR_VISITS,
    "revisits": Reason("viewed_before"), DEEP: Reason("taste"),
}  # fmt: skip
