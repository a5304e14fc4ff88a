"""What a request for recommendations asks and is answered, and what rules are applied to beside the blend's ranking."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Final

from msgspec import Meta, Struct

from headrace.rules import PLACEMENT, RuleSet, Seen
from learners.desk.family import Desk
from learners.next_item.browsing import Browsing
from learners.next_item.history import Facts, History
from learners.next_item.popularity import Popularity
from learners.next_item.rules import EXCLUDE, Answer
from learners.protocol import Context, top

hour_ms: Final = 3_600_000
day_ms: Final = 24 * hour_ms


class RecommendationQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of a request for recommendations."""

    shopper: Annotated[str, Meta(min_length=1, max_length=128, description="The shopper's id, percent-encoded.")]
    n: Annotated[int, Meta(ge=1, le=1_000, description="Number of items to return.")] = 20
    placement: Annotated[
        str,
        Meta(
            max_length=64,
            pattern=f"^$|{PLACEMENT}",
            description="Where the items will be shown; decides which [rules](rules.md) hold.",
        ),
    ] = ""
    exclude: Annotated[
        list[Annotated[str, Meta(max_length=10_000)]],
        Meta(
            max_length=500,
            description="Ids of items that are not wanted, separated by commas; may be repeated.",
        ),
    ] = []


class Recommended(Struct, frozen=True):
    """One recommended item. `score` is the blend's probability of it; popular items that fill up a list have 0."""

    item_id: str
    score: float


class AppliedRules(Struct, frozen=True):
    """The rules that were applied. `version` is the offset of the newest of them in the topic, null if there are none.

    `left_out` has, by rule, how many candidates it left out before the answer was full. If the answer has no items,
    `left_nothing` names the rules that did it.
    """

    version: int | None
    left_out: dict[str, int]
    left_nothing: list[str]


class Recommendations(Struct, frozen=True):
    """Recommendations for a shopper. `recommendation_id` is new for each answer; events name it as what led to them."""

    recommendation_id: str
    shopper: str
    placement: str
    items: list[Recommended]
    rules: AppliedRules


def applied(version: int | None, answer: Answer) -> AppliedRules:
    """Return what an answer says of the rules of a version."""
    left_out = dict(sorted(answer.left_out.items()))
    return AppliedRules(version, left_out, [] if answer.items else list(left_out))


def excluded(texts: Iterable[str]) -> set[str]:
    """Return the items that a request excludes; an id may have a comma if it is given alone.

    >>> sorted(excluded(["a,b", "c"]))
    ['a', 'a,b', 'b', 'c']
    """
    return {item for text in texts for item in (text, *text.split(",")) if item}


class Shelf:
    """What answers choose from beside the blend's candidates, and what is known of all of them.

    Args:
        desk: None where the shard has none; then all items are available.
    """

    def __init__(self, browsing: Browsing, history: History, desk: Desk | None) -> None:
        self._browsing, self._history, self._desk = browsing, history, desk

    def facts(self, item: str) -> Facts | None:
        """Return what the shop states of an item, before what lines of events said; None if it is not known."""
        said = self._history.lines.of(item)
        stated = self._desk.stated(item) if self._desk else None
        if stated is None:
            return None if said is None and self._browsing.catalogue.slot(item) is None else said or Facts()
        said = said or Facts()
        assert self._desk is not None
        price = self._desk.price(stated)
        return Facts(
            stated.brand or said.brand, stated.category or said.category, said.price if price is None else price,
            stated.available,
        )  # fmt: skip

    def more(self, context: Context) -> Iterator[str]:
        """Yield all items that somebody viewed or chose, the most popular first; some twice."""
        popularity = self._browsing.members[Popularity.name]
        assert isinstance(popularity, Popularity)
        yield from self._browsing.ids(top(popularity.predict(context), popularity.leaders_max)[0].tolist())
        yield from self._browsing.ids(popularity.ranked().tolist())

    def gone(self, shopper: str, time_ms: int, rules: RuleSet, exclude: Iterable[str]) -> dict[str, str]:
        """Return the items that a shopper must not get at a shop time, each with the name of the rule."""
        gone: dict[str, str] = {}
        if rules.bought and rules.bought.leave_out:
            days = rules.bought.again_after_days
            after_ms = None if days is None else time_ms - int(days * day_ms)
            gone |= dict.fromkeys(self._history.bought.after(shopper, after_ms), "bought")
        seen = rules.seen or Seen()
        if seen.leave_out:
            gone |= dict.fromkeys(self._browsing.ids([*self._browsing.recent.slots(shopper, time_ms)]), "seen")
            if seen.within_hours is not None:
                after_ms = time_ms - int(seen.within_hours * hour_ms)
                gone |= dict.fromkeys(self._history.seen.after(shopper, after_ms), "seen")
        return gone | dict.fromkeys(exclude, EXCLUDE)
