"""The stream's axis: what the records of `scores` say of each event number, and means of judgements over slices of it.

An event number is the number of events that the shard with the scores (by default `online`) had learned. The shards
learn at their own pace: an announcement of the fine-tuner stands where that shard was when it was written.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from msgspec import Struct

from headrace.announcement import Announcement
from headrace.log.protocol import Log
from headrace.log.scan import topic_records
from headrace.reading import decode_scores
from headrace.records import Logged
from headrace.surface import FamilyScores
from headrace.topics import SCORES
from learners.family import Family

slices_max: Final = 60
"""Approximate number of slices of the stream by which quality is shown."""
slice_judged_min: Final = 80
"""Minimum number of judged predictions per slice; with fewer, a mean would be noise."""


class Slice(Struct):
    """Means over a slice of the stream, up to event number `events`, of a chart's values from judgements, by line.

    Slices do not overlap, so that a drift is visible at once, which a long window would smooth away. `middles` has the
    mean event number of each line's predictions, at which its value is drawn.
    """

    events: int
    judged: int
    values: dict[str, float]
    middles: dict[str, float]


def read_scores(log: Log, kinds: Sequence[type[Family]]) -> dict[str, list[FamilyScores]]:
    """Return each family's records of scores, in order, without those that this version cannot read."""
    types = {kind.name: kind.surface.scores for kind in kinds}
    found: dict[str, list[FamilyScores]] = {name: [] for name, type_ in types.items() if type_}
    for record in topic_records(log, SCORES):
        if scored := decode_scores(record, types):
            found[scored[0]].append(scored[1])
    return found


def slices_of(
    judged: Iterable[tuple[int, float, Mapping[str, float]]], timeline: Sequence[FamilyScores]
) -> list[Slice]:
    """Return means over slices of judgements, which are given in the order in which they were learned."""
    if len(timeline) < 2:
        return []
    width = timeline[-1].events / slices_max
    slices: list[Slice] = []
    begin, count = 0.0, 0
    sums: dict[str, list[float]] = {}
    found = list(judged)
    for events, (_, weight, values) in zip(_numbers_at([one[0] for one in found], timeline), found, strict=True):
        if count >= slice_judged_min and events - begin >= width:
            slices.append(_slice(events, count, sums))
            begin, count, sums = events, 0, {}
        count += 1
        for name, value in values.items():
            entry = sums.setdefault(name, [0.0, 0.0, 0.0])
            entry[0] += weight
            entry[1] += weight * value
            entry[2] += weight * events
    if count >= slice_judged_min:
        slices.append(_slice(timeline[-1].events, count, sums))
    return slices


def _numbers_at(times_ms: Sequence[int], scores: Sequence[FamilyScores]) -> list[int]:
    """Return the approximate number of events before each time; before the first one there were none."""
    known = np.maximum.accumulate([*times_ms[:1], *(one.time_ms for one in scores)])
    numbers = np.interp(times_ms, known, [0] * len(times_ms[:1]) + [one.events for one in scores])
    return [int(number) for number in numbers]


def _slice(events: int, judged: int, sums: Mapping[str, Sequence[float]]) -> Slice:
    values = {name: value / total for name, (total, value, _) in sums.items()}
    return Slice(events, judged, values, {name: middle / total for name, (total, _, middle) in sums.items()})


def event_number_at(time_ms: int, scores: Sequence[FamilyScores]) -> int:
    """Return the approximate number of events before a time, interpolated from the scores' times."""
    if not scores:
        return 0
    return int(np.interp(time_ms, [one.time_ms for one in scores], [one.events for one in scores]))


def event_number_of(one: Logged[Announcement], scores: Sequence[FamilyScores]) -> int:
    """Return the approximate number of events that the shard with the scores had learned at an announcement."""
    times_ms = [score.appended_ms for score in scores]
    if not one.appended_ms or not all(times_ms):  # a Kafka topic that keeps producers' times
        return event_number_at(one.value.time_ms, scores)
    if not scores:
        return one.value.at_events
    return int(np.interp(one.appended_ms, np.maximum.accumulate(times_ms), [score.events for score in scores]))
