"""What was learned of a simulated shop beside the truth: a line for each family, beside a simple rule.

The server is asked, as a shop's own programs would ask it, about the shoppers whom the topic `truth` names; what the
families' scores say is read from the topic. So is the rule's figure, or it is computed from the same answers.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Struct
from rich.table import Table as RichTable

from operators.tables import percent

listed_max: Final = 50
"""Shoppers of the retention list that are compared with the truth."""
profiles_max: Final = 400
"""Buyers whose profiles are asked for."""
timeout_s: Final = 10.0


class Planted(Struct):
    """The truth about a shopper."""

    shopper: str
    group: Literal["churner", "big_spender", "returner", "other"]
    brands: list[str]
    stops_ms: int | None = None


class Line(NamedTuple):
    """How well something was learned, and how well a simple rule does: both as they are shown."""

    family: str
    what: str
    learned: str
    simple: str
    rule: str


COLUMNS: Final = ("family", "what", "learned", "simple", "the simple rule")
"""The heads of a table of lines."""
FAMILIES: Final = ("value", "churn", "profiles", "segments", "intent", "demand", "stock")
"""What lines are about, in their order."""
NUMERIC: Final = frozenset({2, 3})
"""Its columns of numbers."""


class _Buyer(Struct):
    """An answer about a shopper's value."""

    spent: float
    returned: float
    orders: int
    last_order_ms: int
    expected: list[dict[str, float]]


class Asked:
    """One connection to a server of answers."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._connection = HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)

    def __call__(self, path: str) -> Any | None:
        """Return an answer, None if nothing is known.

        Raises:
            OSError, HTTPException: there is no answer, or the server is not ready.
        """
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        body = response.read()
        if response.status not in (200, 404):
            raise HTTPException(f"wanted an answer to {path}, found {response.status}")
        return msgspec.json.decode(body) if response.status == 200 else None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def lines(planted: Sequence[Planted], scores: Mapping[str, Any], address: str) -> list[Line]:
    """Return a line or two for each family; none of what is not known yet, or was not answered.

    Args:
        scores: the newest scores of families, by their names.
        address: that of a server of answers.
    """
    found = list(_scored(scores))
    with suppress(OSError, HTTPException), closing(Asked(address)) as ask:
        found += list(_answered(planted, ask))
    return sorted(found, key=lambda line: FAMILIES.index(line.family))


def _scored(scores: Mapping[str, Any]) -> Iterator[Line]:
    """Yield what the families' own scores say."""
    value, intent = scores.get("shopper_value"), getattr(scores.get("purchase"), "intent", None)
    if value and value.horizons:
        one = value.horizons[-1]
        for family, what, learned, simple, rule in (
            ("value", "order by spend, {} days: Spearman", one.correlation, one.past_correlation, "past spend"),
            ("churn", "a purchase, {} days: AUC", one.auc, one.past_auc, "last order"),
        ):
            if learned is not None:
                yield Line(family, what.format(one.days), f"{learned:.3f}", f"{simple:.3f}", rule)
    demand = scores.get("demand")
    if demand and demand.horizons:
        ahead, median = demand.horizons[0], demand.horizons[0].simple["median of 8"]
        time = "day" if demand.week_days == 1 else "period"
        yield Line("demand", f"pieces of the next {time}: error", percent(ahead.error), percent(median), "median of 8")
    auc = {member: one.get("auc") for member, one in intent.whole.items()} if intent else {}
    learned, simple = auc.get("visit"), auc.get("items")
    if learned is not None and simple is not None:
        yield Line("intent", "a purchase in this visit: AUC", f"{learned:.3f}", f"{simple:.3f}", "chances of items")
    stock = scores.get("stock")
    if stock and stock.sold_out:
        for what, right, simple in (
            ("{} stock-outs: foreseen", stock.sold_out, stock.sold_out),
            ("{} times told that one sells out: right", stock.warned, stock.warned_simple),
        ):
            learned, rule = percent(stock.foreseen / max(1, right)), percent(stock.foreseen_simple / max(1, simple))
            yield Line("stock", what.format(right), learned, rule, "sales of a lead time")


def _answered(planted: Sequence[Planted], ask: Asked) -> Iterator[Line]:
    """Yield what the answers about planted shoppers say."""
    truth = {one.shopper: one for one in planted}
    buyers = {
        shopper: msgspec.convert(answer, _Buyer)
        for shopper in truth
        if (answer := ask(_about(shopper, "value"))) is not None
    }
    if buyers:
        yield from _valued(truth, buyers)
        yield from _leaving(truth, buyers, ask)
        yield from _profiled(truth, list(buyers)[:profiles_max], ask)
    yield from _clustered(truth, buyers, ask)


def _about(shopper: str, what: str) -> str:
    return f"/v1/shoppers/{quote(shopper, safe='')}/{what}"


def _valued(truth: Mapping[str, Planted], buyers: Mapping[str, _Buyer]) -> Iterator[Line]:
    def first(group: str, key: Callable[[_Buyer], float]) -> tuple[int, float]:
        """Return how many buyers are of a group, and their share among as many with the highest key."""
        count = sum(truth[shopper].group == group for shopper in buyers)
        chosen = sorted(buyers, key=lambda shopper: key(buyers[shopper]), reverse=True)[:count]
        return count, sum(truth[shopper].group == group for shopper in chosen) / max(1, count)

    if all(one.expected for one in buyers.values()):
        count, learned = first("big_spender", lambda one: one.expected[-1]["spend"])
        _, simple = first("big_spender", lambda one: one.spent)
        yield Line("value", f"big spenders, of {count} by value", percent(learned), percent(simple), "past spend")
    count, learned = first("returner", lambda one: one.returned / (one.spent + one.returned + 1e-9))
    chance = percent(count / len(buyers))
    yield Line("value", f"returners, of {count} by returns", percent(learned), chance, "chance")


def _leaving(truth: Mapping[str, Planted], buyers: Mapping[str, _Buyer], ask: Asked) -> Iterator[Line]:
    answer = ask(f"/v1/retention?n={listed_max}")
    listed = [one["shopper"] for one in answer["shoppers"]] if answer else []
    if not listed:
        return
    again = (shopper for shopper, one in buyers.items() if one.orders > 1)
    silent = sorted(again, key=lambda shopper: buyers[shopper].last_order_ms)[: len(listed)]
    learned, simple = (
        [buyers[shopper] for shopper in chosen if shopper in buyers and truth[shopper].group == "churner"]
        for chosen in (listed, silent)
    )
    yield Line("churn", f"churners, of {len(listed)} to write to", str(len(learned)), str(len(simple)), "last order")
    all_learned, all_simple = (f"{sum(one.spent for one in chosen):,.0f}" for chosen in (learned, simple))
    yield Line("churn", "what these churners had spent", all_learned, all_simple, "last order")


def _profiled(truth: Mapping[str, Planted], shoppers: Iterable[str], ask: Asked) -> Iterator[Line]:
    brands = {
        shopper: found[0]["value"]
        for shopper in shoppers
        if (answer := ask(_about(shopper, "profile?tastes=1"))) and (found := answer["tastes"].get("brand"))
    }
    if brands:
        popular = Counter(brands.values()).most_common(1)[0][0]
        learned = sum(brand in truth[shopper].brands for shopper, brand in brands.items()) / len(brands)
        simple = sum(popular in truth[shopper].brands for shopper in brands) / len(brands)
        yield Line("profiles", "the strongest brand is liked", percent(learned), percent(simple), "one for all")


def _clustered(truth: Mapping[str, Planted], buyers: Mapping[str, _Buyer], ask: Asked) -> Iterator[Line]:
    cluster = {
        shopper: answer["cluster"]
        for shopper in truth
        if (answer := ask(_about(shopper, "segments"))) and answer["cluster"]
    }
    if cluster:
        groups = [truth[shopper].group for shopper in cluster]
        spent = [buyers[shopper].spent if shopper in buyers else 0.0 for shopper in cluster]
        count, ordered = len(set(cluster.values())), sorted(spent)
        bands = [bisect_left(ordered, one) * count // len(ordered) for one in spent]  # of equal spend, all are in one
        learned, simple = (percent(explained(groups, labels)) for labels in (list(cluster.values()), bands))
        yield Line("segments", "what clusters tell of the groups", learned, simple, "bands of spend")


def shown(found: Sequence[Line]) -> RichTable:
    """Return the lines as a table, for a terminal."""
    made = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, column in enumerate(COLUMNS):
        made.add_column(column, justify="right" if place in NUMERIC else "left")
    for line in found:
        made.add_row(*line)
    return made


def explained(truth: Sequence[str], labels: Sequence[str | int]) -> float:
    """Return which share of the entropy of a truth is known from labels.

    >>> explained(["a", "a", "b", "b"], [1, 1, 2, 2]), explained(["a", "b", "a", "b"], [1, 1, 2, 2])
    (1.0, 0.0)

    Source: Theil, "On the estimation of relationships involving qualitative variables", AJS 1970.
    """
    whole = _entropy(Counter(truth).values())
    both, known = _entropy(Counter(zip(truth, labels, strict=True)).values()), _entropy(Counter(labels).values())
    return (whole + known - both) / whole if whole else 0.0


def _entropy(counts: Iterable[int]) -> float:
    known = list(counts)
    total = sum(known)
    return -sum(count / total * math.log(count / total) for count in known)
