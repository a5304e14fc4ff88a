"""Comparison of a run with the live shard, or with another run: state, quality, drift, rounds and answers."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from headrace.errors import Misconfigured
from headrace.log.protocol import Log, Partition, Record
from headrace.log.scan import partition_records
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.shard.follower import restored
from headrace.surface import FamilyScores, Route
from headrace.topics import JUDGEMENTS
from learners.families import Placement
from learners.shop import MakeShop, Shop
from operators.asking import Asking, sampled_shoppers
from operators.replay.fold import live_fold
from operators.replay.plan import entry_number
from operators.replay.run import Run, RunFolder
from operators.timeline import read_scores

LIVE: Final = "live"
"""The name of the live shard's side."""
top: Final = 20
"""Length of the answers that are compared."""


class Quality(Struct):
    """A chart's values from judgements, by line: the weighted mean over the range, and the number of judgements.

    `points` has them one by one: the number of the journal's entry, the weight, and the value of the line `bold`.
    """

    title: str
    means: dict[str, float]
    judged: int
    bold: str = ""
    points: list[tuple[int, float, float]] = []


class Side(Struct):
    """One of the two that are compared: the state after `number` entries, and what led to it.

    `scores` has, by family, the cells of its tables; `quality` its charts over the range; `alarms` the number of alarms
    by detector; `models` the family's promoted model and the number of its verdicts.
    """

    name: str
    number: int
    digest: str
    events: int
    quality: dict[str, list[Quality]]
    scores: dict[str, dict[str, float]]
    alarms: dict[str, int]
    models: dict[str, tuple[str, int]]
    timeline: dict[str, list[FamilyScores]] = field(default_factory=dict)


class Overlap(Struct):
    """How alike the answers of a route are: the mean share of common items among the best, and of equal answers."""

    route: str
    shoppers: int
    mean: float
    equal: float


class Comparison(Struct):
    """A run and what it is compared with."""

    shard: str
    equal: bool
    sides: tuple[Side, Side]
    answers: list[Overlap]


def compare(
    log: Log, blobs: Blobs, placement: Placement, run: RunFolder, other: RunFolder | None, shoppers: int
) -> Comparison:
    """Compare a run with another one, or with the live shard after the same entry.

    Args:
        shoppers: the number of shoppers in the sample.

    Raises:
        Misconfigured: a run has no state yet, the runs are of different shards, or the live state is not kept.
    """
    first, shop = _of_run(log, placement, run)
    if other is None:
        second, against = _live(log, blobs, placement, run.read())
    else:
        second, against = _of_run(log, placement, other)
    folded = run.read().state
    sample = sampled_shoppers(log, shoppers, folded.positions if folded else None)
    answers = [
        found
        for kind in placement.kinds
        for route in kind.surface.routes
        if (found := _overlap(route, kind.name, (shop, run.blobs()), (against, blobs), sample))
    ]
    return Comparison(placement.shard.name, first.digest == second.digest, (second, first), answers)


def _of_run(log: Log, placement: Placement, folder: RunFolder) -> tuple[Side, Shop]:
    run = folder.read()
    if run.state is None or run.shard != placement.shard.name:
        raise Misconfigured(f"run {run.name}: wanted a state of {placement.shard.name}, found {run.shard} without one")
    shop, _ = restored(folder.blobs(), MakeShop(placement.kinds), run.state)
    with folder.log() as own:
        quality = {}
        for kind in placement.kinds:
            anew = kind.name in run.judged_anew
            quality[kind.name] = _quality(own if anew else log, log, placement, kind.name, run.begin, run.number)
        side = _side(run.name, run.number, run.digest, shop, quality)
        side.timeline = read_scores(own, placement.kinds)
    return side, shop


def _live(log: Log, blobs: Blobs, placement: Placement, run: Run) -> tuple[Side, Shop]:
    found = live_fold(log, blobs, placement, run.number)
    if found is None:
        raise Misconfigured(
            f"run {run.name}: wanted a live snapshot of entry {run.number:,} or before it, found none; make a run of"
            f" the live state by headrace replay --into NAME --to {run.number}, and compare with that"
        )
    follower, _ = found
    quality = {kind.name: _quality(log, log, placement, kind.name, run.begin, run.number) for kind in placement.kinds}
    side = _side(LIVE, run.number, follower.digest(), follower.fold, quality)
    begin, end = (entry_events(log, placement, number) for number in (run.begin, run.number))
    side.timeline = {
        name: [one for one in scores if begin <= one.events <= (end or one.events)]
        for name, scores in read_scores(log, placement.kinds).items()
    }
    return side, follower.fold


def entry_events(log: Log, placement: Placement, number: int) -> int:
    """Return the number of events learned before an entry, 0 if the journal does not tell it."""
    entry = entry_number(log, placement.shard, number - 1) if number else None
    return entry.results.learned if entry and entry.results else 0


def _side(name: str, number: int, digest: str, shop: Shop, quality: dict[str, list[Quality]]) -> Side:
    scores: dict[str, dict[str, float]] = {}
    models = {}
    for family in shop.families.values():
        surface, found = family.surface, family.scores()
        for table in surface.tables if found else ():
            for label, *cells in table.rows(found):
                named = zip(table.columns[1:], cells, strict=True)
                scores.setdefault(family.name, {}).update(
                    {f"{label} {column}": cell for column, cell in named if isinstance(cell, float)}
                )
        if surface.artifact:
            current = surface.artifact.current(family)
            verdicts = surface.artifact.verdicts(family) if surface.artifact.verdicts else 0
            models[family.name] = current.version if current else "", verdicts
    return Side(name, number, digest, shop.events, quality, scores, dict(shop.alarms), models)


def _quality(source: Log, log: Log, placement: Placement, name: str, begin: int, end: int) -> list[Quality]:
    """Return a family's charts that are drawn from judgements, over a range of the journal's entries."""
    surface = next(kind.surface for kind in placement.kinds if kind.name == name)
    charts = [(chart.title, chart.bold, chart.judged) for chart in surface.charts if chart.judged]
    if not charts or surface.judgements is None:
        return []
    sums: list[dict[str, list[float]]] = [{} for _ in charts]
    made = [Quality(title, {}, 0, bold, []) for title, bold, _ in charts]
    keys = {name, *surface.former_judgement_keys}
    for number, record in _judgements(source, log, placement, begin, end):
        if journal.judging_family(record.key) not in keys:
            continue
        for one in msgspec.msgpack.decode(record.value or b"", type=surface.judgements):
            for (_, bold, judged), total, chart in zip(charts, sums, made, strict=True):
                _, weight, values = judged(one)
                chart.judged += 1
                for line, value in values.items():
                    entry = total.setdefault(line, [0.0, 0.0])
                    entry[0] += weight
                    entry[1] += weight * value
                if bold in values:
                    chart.points.append((number, weight, values[bold]))
    for total, chart in zip(sums, made, strict=True):
        chart.means = {line: value / weight for line, (weight, value) in total.items()}
    return made


def _judgements(
    source: Log, log: Log, placement: Placement, begin: int, end: int
) -> Iterator[tuple[int, Record]]:  # fmt: skip
    """Yield the judgements of a range of entries, each with the number of its entry."""
    place = Partition(JUDGEMENTS, placement.shard.number)
    first = entry_number(log, placement.shard, begin) if source is log else None
    with closing(partition_records(source, place, start=first.judgements if first else None)) as records:
        for record in records:
            _, _, counted = (record.key or b"").decode(errors="replace").rpartition("/")
            number = int(counted) if counted.isdecimal() else -1
            if number >= end:
                return
            if number >= begin:
                yield number, record


def _overlap(
    route: Route, name: str, first: tuple[Shop, Blobs], second: tuple[Shop, Blobs], shoppers: list[str]
) -> Overlap | None:
    """Return how alike a route's answers are, None if they are no lists of items that one shopper is shown."""
    asked, answered = (msgspec.structs.fields(kind) for kind in (route.query, route.answer))
    needed = {one.name for one in asked if one.required}
    is_list = {"shopper", "n"} <= {one.name for one in asked} and "items" in {one.name for one in answered}
    if not (is_list and route.shows) or needed != {"shopper"}:
        return None
    ask = [Asking(route, name, *side) for side in (first, second)]
    shares, equal = list[float](), 0
    for shopper in shoppers:
        one, other = (_items(answer({"shopper": shopper, "n": top})) for answer in ask)
        if longest := max(len(one), len(other)):
            shares.append(len({*one} & {*other}) / longest)
            equal += one == other
    return Overlap(route.path, len(shares), sum(shares) / len(shares), equal / len(shares)) if shares else None


def _items(answer: Any) -> list[str]:
    return [] if answer is None else [one.item_id for one in answer.items]
