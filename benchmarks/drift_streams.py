"""Streams of the drift scorecard: what a detector may watch, where the drift is, and the alarms of the online shard.

Every stream is a shop's events, folded as the shard `online` folds them, with judging. What other detectors watch is
recorded beside: of each view the price, category and item; of each judged step whether the blend missed the item; of
each label of purchase propensity its loss. Streams of other sources are told as events of a shop: a row is a visit that
views one item and, if its class is 1, buys it; features decide item, category and price.

What the shard's own watchers are told is recorded too (`benchmarks.drift_calls`), so changed watchers need no new fold.
"""

import csv
import gzip
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks import drift_calls, resumable
from benchmarks.drift_calls import Call, Recorder
from benchmarks.online_fold import OnlineFold, next_item, purchase
from headrace.events import Data, Event, EventType, Item, at, encode
from headrace.log.protocol import Record
from headrace.topics import EVENTS, TRUTH
from learners.next_item.judgement import decode as decode_judgements
from learners.parts.prequential import Probability
from learners.protocol import BLEND
from producers.scenario import Drift, SimulationSettings
from producers.simulate import Simulation

DRIFT_AT: Final = 0.6
"""Share of the run at which the drift of each stream begins."""
SHOP: Final[Mapping[str, Mapping[str, Any]]] = {
    "stable": {"drifts": ()},
    "season": {"drifts": (), "season": 0.5},
    "abrupt": {"drifts": (Drift("abrupt", DRIFT_AT, DRIFT_AT),)},
    "gradual": {"drifts": (Drift("gradual", DRIFT_AT, 0.7),)},
    "incremental": {"drifts": (Drift("incremental", DRIFT_AT, 0.7),)},
    "recurring": {"drifts": (Drift("abrupt", 0.25, 0.25), Drift("recurring", DRIFT_AT, 1.0))},
    "local": {"drifts": (Drift("local", DRIFT_AT, DRIFT_AT),)},
    "local views": {"drifts": (Drift("local", DRIFT_AT, DRIFT_AT, 3.0),)},
    "surge": {"drifts": (Drift("surge", DRIFT_AT, 0.7, 0.05),)},
    "price": {"drifts": (Drift("price", DRIFT_AT, DRIFT_AT, 1.4),)},
    "new items": {"drifts": (Drift("new_items", DRIFT_AT, DRIFT_AT, 0.1),)},
}
"""The simulated shop's streams: the settings that differ."""
BRANCHES: Final = (("stable", "local", "local views", "surge", "price", "new items"), ("abrupt", "gradual"))
"""Kinds whose streams of one seed are the same until the drift begins, so that this part is folded once."""
CLASSIFIED: Final = ("sea", "agrawal")
"""Streams of River's generators whose concept changes abruptly."""
ELEC2: Final = "elec2"
NAMED: Final = ("local", "local views", "surge", "price", "new items")
"""Streams whose drift concerns known items or categories."""
NUMBER, CATEGORY, BINARY, LOSS = "number", "category", "binary", "loss"
_arrival_ms: Final = 300
_row_ms: Final = 60_000
_start_ms: Final = 1_736_121_600_000
_shoppers: Final = 997


class Column(NamedTuple):
    """What a detector may watch: values, each with the number of events up to it.

    Attributes:
        kind: `number`, `category` (whole numbers from 0 to 63), `binary` or `loss` (from 0 to 1).
    """

    kind: str
    events: NDArray[np.int64]
    values: NDArray[np.float64]


class Stream(NamedTuple):
    """A stream as detectors see it, and the truth about it.

    Attributes:
        times_ms: event time of each event.
        begin, complete: numbers of events before the drift and until it is complete; None without a known drift.
        other: numbers of events before other drifts, which are not scored.
        planted: items and categories that the drift concerns.
        unknown: whether it is not known where drift is, so that alarms can only be counted.
    """

    times_ms: NDArray[np.int64]
    begin: int | None
    complete: int | None
    other: tuple[int, ...]
    planted: tuple[str, ...]
    unknown: bool
    columns: dict[str, Column]


class Told(NamedTuple):
    """Records of events, and the truth about them, before they are folded."""

    records: list[Record]
    times_ms: list[int]
    begin: int | None = None
    complete: int | None = None
    other: tuple[int, ...] = ()
    planted: tuple[str, ...] = ()
    unknown: bool = False
    columns: Mapping[str, Column] = {}


class _Labels(Probability):
    """Also remembers each label with its probability."""

    def __init__(self, note: Callable[[float, bool], None]) -> None:
        super().__init__()
        self._note = note

    def observe_all(self, pairs: Iterable[tuple[float, bool]], weight: float = 1.0) -> None:
        """Note labels and add them."""
        found = list(pairs)
        for probability, bought in found:
            self._note(probability, bought)
        super().observe_all(found, weight)


def shop(kind: str, seed: int, events: int, days: float) -> Told:
    """Return the events of a simulated shop with one of the drifts of `SHOP`."""
    settings = SimulationSettings(seed=seed, events=events, days=days, sampled=0.0, **SHOP[kind])
    simulation = Simulation(settings)
    records: list[Record] = []
    times_ms: list[int] = []
    begun: list[dict[str, Any]] = []
    # The origin tells the settings; without them, events are the same until they differ.
    origin, source = simulation.origin.encode(), f"simulate:{seed}".encode()
    for one in simulation.records():
        if one.topic == EVENTS:
            value = one.value.replace(origin, source)
            records.append(Record(0, len(records), one.time_ms + _arrival_ms, one.key, value))
            times_ms.append(one.time_ms)
        elif one.topic == TRUTH and one.key == b"drift":
            begun.append(msgspec.json.decode(one.value))
    if not settings.drifts:
        return Told(records, times_ms)
    *other, drift = begun
    spans = drift["drift"] in ("gradual", "incremental")
    complete = int(np.searchsorted(times_ms, drift["until_ms"])) if spans else drift["event_number"]
    named = simulation.planted(len(settings.drifts) - 1)
    planted = (*named.get("items", ()), *named.get("categories", ()))
    return Told(
        records, times_ms, drift["event_number"], complete, tuple(one["event_number"] for one in other), planted
    )


Row = tuple[dict[str, float], bool]
"""Features and class of a row."""


def classified(kind: str, seed: int, rows: int) -> Told:
    """Return the rows of one of River's generators, told as a shop's events, with a classifier's errors beside."""
    from river.datasets import synth
    from river.datasets.base import SyntheticDataset

    position = round(DRIFT_AT * rows)
    before: SyntheticDataset
    after: SyntheticDataset
    if kind == "sea":
        before, after = synth.SEA(2, seed=seed), synth.SEA(3, seed=seed + 1_000)
    else:
        before, after = synth.Agrawal(0, seed=seed), synth.Agrawal(2, seed=seed + 1_000)
    width = max(1, position // 100)  # it overflows with less
    made = synth.ConceptDriftStream(before, after, position=position, width=width, seed=seed)
    found = [({str(name): float(value) for name, value in x.items()}, bool(y)) for x, y in islice(made, rows)]
    return _told(found, _row_ms, seed, position)


def elec2(path: Path, rows: int) -> Told:
    """Return the rows of Elec2, told as a shop's events: half-hours, of which the class is whether the price rises."""
    with gzip.open(path, "rt") as file:
        found = [
            ({name: float(value) for name, value in row.items() if name != "class"}, row["class"] == "1")
            for row in islice(csv.DictReader(file), rows)
        ]
    return _told(found, 1_800_000, 0, None)._replace(unknown=True)


def _told(rows: Sequence[Row], row_ms: int, seed: int, position: int | None) -> Told:
    """Tell rows as events of a shop: the first feature is the price, the second the category, with both the item."""
    from river.naive_bayes import GaussianNB

    names = list(rows[0][0])
    matrix = np.array([[x[name] for name in names] for x, _ in rows])
    low, high = matrix.min(axis=0), matrix.max(axis=0)
    scaled = ((matrix - low) / np.where(high > low, high - low, 1)).tolist()
    classifier, errors, begin = GaussianNB(), [], None
    records: list[Record] = []
    times_ms: list[int] = []
    views = []
    for number, (x, bought) in enumerate(rows):
        if number == position:
            begin = len(records)
        features: dict[Any, Any] = x
        errors.append(float((classifier.predict_one(features) or False) != bought))
        classifier.learn_one(features, bought)
        time_ms = _start_ms + number * row_ms
        price, home, more = (int(8 * value) for value in (*scaled[number], 0.0, 0.0)[:3])
        line = Item(f"item-{price}-{home}-{more}", "", "", f"category-{home}", round(1 + 99 * scaled[number][0], 2))
        shopper, visit = f"shopper-{number % _shoppers}", f"visit-{number}"
        data: dict[EventType, Data] = {"view_item": Data(items=[line], session_id=visit)}
        if bought:
            data["purchase"] = Data(
                items=[line], session_id=visit, currency="EUR", value=line.price, transaction_id=f"order-{number}"
            )
        for place, (kind, of) in enumerate(data.items()):
            moment = time_ms + 10_000 * place
            event = Event(f"row-{number}-{place}", f"rows:{seed}", kind, at(moment), of, "1.0", shopper)
            records.append(Record(0, len(records), moment + _arrival_ms, shopper.encode(), encode(event)))
            times_ms.append(moment)
            if not place:
                views.append(len(records))
    at_events = np.array(views)
    columns = {name: Column(NUMBER, at_events, matrix[:, place]) for place, name in enumerate(names)}
    columns["error"] = Column(BINARY, at_events, np.array(errors))
    return Told(records, times_ms, begin, begin, columns=columns)


def fold(told: Mapping[Path, Told]) -> None:
    """Fold streams and write each to its path, and its watchers' calls beside.

    What a stream has in common with the first is folded once; there, a child process goes on with that stream.
    """
    path, first = next(iter(told.items()))
    branches: dict[int, list[Path]] = {}
    for other, found in told.items():
        if other != path:
            branches.setdefault(_common(first.records, found.records), []).append(other)
    missed: list[tuple[int, float]] = []
    labels: list[tuple[int, float, float]] = []
    calls: list[Call] = []
    number = 0

    def hear(data: bytes) -> None:
        missed.extend((one.offset + 1, float(one.ranks[BLEND] == 0)) for one in decode_judgements(data))

    def note(place: str, method: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        calls.append((number, place, method, arguments, named))

    def read() -> Iterator[Record]:
        nonlocal path, number
        while number < len(told[path].records):
            for other in branches.pop(number, ()):
                if _is_child():
                    path = other
                    branches.clear()
                    break
            record = told[path].records[number]
            number += 1
            yield record

    online = OnlineFold(hear=hear)
    ranking, buying = next_item(online.shop), purchase(online.shop)
    # The time of a label is that of the event that made it known.
    buying.probability = _Labels(
        lambda given, bought: labels.append((number, (bought - given) ** 2, float((given > 0.5) != bought)))
    )
    for name in drift_calls.WATCHERS:
        family, attribute = name.split(".")
        of = online.shop.families[family]
        setattr(of, attribute, Recorder(getattr(of, attribute), name, note))
    ranking.browsing.dependants[-1] = ranking.watching
    process = os.getpid()
    try:
        online.learn(read())
        one = told[path]
        columns = dict(one.columns) or _views(one.records)
        if not one.columns:
            columns["miss"] = _column(BINARY, sorted(missed))
            columns["purchase_loss"] = _column(LOSS, [(event, loss) for event, loss, _ in labels])
            columns["purchase_error"] = _column(BINARY, [(event, error) for event, _, error in labels])
        resumable.write(drift_calls.path_of(path), drift_calls.encode(calls))
        save(
            path, Stream(np.array(one.times_ms), one.begin, one.complete, one.other, one.planted, one.unknown, columns)
        )
    finally:
        if os.getpid() != process:
            os._exit(sys.exc_info()[0] is not None)
        online.close()


def _common(one: Sequence[Record], other: Sequence[Record]) -> int:
    """Return how many records two streams have in common before they differ."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((number for number, (mine, its) in pairs if mine != its), min(len(one), len(other)))


def _is_child() -> bool:
    """Fork, and wait for the child's end in the parent; return whether this is the child."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads may hold locks: the child waits for none
        child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        if status:
            raise RuntimeError(f"a fold ended with code {os.waitstatus_to_exitcode(status)}")
    return not child


def _views(records: Sequence[Record]) -> dict[str, Column]:
    prices, homes, items = [], [], []
    for number, record in enumerate(records, 1):
        event = msgspec.json.decode(record.value or b"")
        if event["type"] == "view_item":
            (line,) = event["data"]["items"]
            prices.append((number, math.log(line["price"])))
            homes.append((number, float(crc32(line["item_category"].encode()) & 63)))
            items.append((number, float(crc32(line["item_id"].encode()) & 63)))
    return {
        "price": _column(NUMBER, prices), "category": _column(CATEGORY, homes), "item": _column(CATEGORY, items),
    }  # fmt: skip


def _column(kind: str, pairs: Sequence[tuple[int, float]]) -> Column:
    events, values = zip(*pairs, strict=True) if pairs else ((), ())
    return Column(kind, np.array(events, dtype=np.int64), np.array(values, dtype=np.float64))


def save(path: Path, stream: Stream) -> None:
    """Write a stream into a .npz file: a pair of arrays for each column, and the rest as JSON."""
    rest = {
        **stream._asdict(), "columns": {name: column.kind for name, column in stream.columns.items()}, "times_ms": None,
    }  # fmt: skip
    arrays = {"times_ms": stream.times_ms, "rest": np.array(json.dumps(rest))}
    for name, column in stream.columns.items():
        arrays |= {f"{name}/events": column.events, f"{name}/values": column.values}
    partial = path.with_name(path.name + ".partial.npz")
    np.savez_compressed(partial, allow_pickle=False, **arrays)
    partial.replace(path)


def restore(path: Path) -> Stream:
    """Read a stream from its file."""
    with np.load(path, allow_pickle=False) as kept:
        rest = json.loads(str(kept["rest"]))
        columns = {
            name: Column(kind, kept[f"{name}/events"], kept[f"{name}/values"])
            for name, kind in rest.pop("columns").items()
        }
        rest |= {name: tuple(rest[name]) for name in ("other", "planted")}
        return Stream(**{**rest, "times_ms": kept["times_ms"], "columns": columns})
