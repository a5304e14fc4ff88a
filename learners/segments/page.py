"""The page about segments: what each is, how many are in it over time, and what became of clusters."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from headrace.pages import Column, Figure, Figures, Listing, Page, Section, course

_RULES: Final = (
    Column("segment", "code"), Column("what it is", "code"), Column("shoppers"), Column("share", "bar"),
    Column("over time", "trend"), Column("entered"), Column("left"),
)  # fmt: skip
_CLUSTERS: Final = (
    Column("cluster", "code"), Column("in what it differs from the mean", "pairs"), Column("shoppers"),
    Column("share", "bar"), Column("over time", "trend"), Column("entered"), Column("left"),
)  # fmt: skip
_CHANGES: Final = (
    Column("when", "time"), Column("what", "text"), Column("cluster", "code"), Column("into", "code"),
    Column("share", "share"),
)  # fmt: skip
_BECAME: Final = {"born": "born", "ended": "ended: its shoppers went to several", "merged": "merged into another"}


def sections(found: Sequence[Any]) -> list[Section]:
    """Return the page's sections, from the family's scores."""
    newest = found[-1].scores
    if not newest.shoppers:
        return []
    figures = Figures(
        (
            Figure("shoppers who are checked", newest.shoppers), Figure("segments by rule", len(newest.segments)),
            Figure("clusters", len(newest.clusters)), Figure("moves of shoppers", _moves(newest)),
        )
    )  # fmt: skip
    return [
        Section("", (figures,)),
        Section("By rule", (*_sizes("segments", _RULES, found),), "" if newest.segments else _NO_RULES),
        Section("Clusters", (*_sizes("clusters", _CLUSTERS, found),), _ABOUT if newest.clusters else _NO_CLUSTERS),
        *([_changes(newest)] if newest.changes else []),
    ]


_NO_RULES: Final = "None are stated. State some with: headrace segments set FILE"
_NO_CLUSTERS: Final = "There are none yet: the first are found once 256 shoppers are known."
_ABOUT: Final = (
    "Groups of similar shoppers, found anew each week; a cluster keeps its name as long as it keeps most of its"
    " shoppers. Differences are in standard deviations."
)


def _moves(scores: Any) -> int:
    return sum(one.entered for one in (*scores.segments, *scores.clusters))


def _sizes(which: str, columns: tuple[Column, ...], found: Sequence[Any]) -> Iterable[Any]:
    """Yield how sizes went over time, and what each segment, or cluster, is."""
    newest = getattr(found[-1].scores, which)
    if not newest:
        return
    over: list[tuple[int, Mapping[str, float | None]]] = [
        (one.time_ms, {each.segment: each.shoppers for each in getattr(one.scores, which)}) for one in found
    ]
    if len(over) > 1:
        yield course("Shoppers over time", over)
    rows = sorted(
        (
            (
                one.segment, one.differs or _rule(one), one.shoppers, one.share,
                tuple(values[one.segment] for _, values in over if one.segment in values), one.entered, one.left,
            )
            for one in newest
        ),
        key=lambda row: (-row[2], row[0]),
    )  # fmt: skip
    yield Listing(columns, tuple(rows))


def _rule(one: Any) -> str:
    """Return what a segment by rule is, in its author's words."""
    where = " ".join(one.where.split())
    return f"{one.about}: {where}" if one.about else where


def _changes(scores: Any) -> Section:
    rows = tuple(
        (one.time_ms, _BECAME.get(one.kind, one.kind), one.cluster, one.into or None, one.share)
        for one in reversed(scores.changes)
    )
    figures = Figures(tuple(Figure(text, getattr(scores, name)) for name, text in _TOLD.items()))
    return Section("What became of clusters", (figures, Listing(_CHANGES, rows)))


_TOLD: Final = {"born": "clusters born", "ended": "clusters ended", "merged": "clusters merged"}

PAGE: Final = Page(
    "segments", "Segments",
    "What each segment is, who comes and goes, and which groups of similar shoppers there are.",
    sections, "No shopper is known yet. Segments appear with the first events.",
)  # fmt: skip
