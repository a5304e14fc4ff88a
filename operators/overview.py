"""Four answers about a shop's models: are they fresh, good and safe, and what changed.

`headrace status` and the console show the same answers. Each has a level and its causes, the worst first; a cause is a
code, of which `operators.catalogue` has the words in each language, and the values in them.

Values are named by what they are: `..._at_ms` is a time (ms since the epoch), `..._ms` a duration, `..._share` a share;
other whole numbers are counts.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Final, Literal, NamedTuple, TypeAlias

from msgspec import Struct

from headrace.surface import FamilyScores, Quality
from headrace.topics import DAY_MS
from operators.history import Row
from operators.running import ProcessStatus
from operators.tables import NONE

Level: TypeAlias = Literal["good", "watch", "bad", "unknown"]
LEVELS: Final[tuple[Level, ...]] = ("good", "unknown", "watch", "bad")
"""From the best to the worst."""
Value: TypeAlias = str | int | float
QUESTIONS: Final = ("fresh", "good", "safe", "changed")
late_watch_ms: Final = 10_000
late_bad_ms: Final = 30_000
"""Age of the oldest event that waits to be learned, in ms, above which models count as late; the latter is the default
of `serve.stale_s_max`."""
drop_watch: Final = 0.2
drop_bad: Final = 0.4
"""Relative loss of quality against its median before, above which it is told."""
usual_min: Final = 10
"""Least number of scores of which a median is taken."""
trend_max: Final = 60
"""Most points of a trend."""
recent_ms: Final = DAY_MS
"""For how long what happened counts as recent."""
letters_bad: Final = 100
"""Open dead letters of the recent time from which on they are bad."""
trend_hours: Final = 24


class Cause(Struct, frozen=True, kw_only=True):
    """`causes`: why an answer has its level: a code and the values of its sentence."""

    level: Level
    code: str
    values: dict[str, Value] = {}


class Answer(Struct, frozen=True, kw_only=True):
    """`answers`: the answer to one of the questions `fresh`, `good`, `safe` and `changed`.

    `figure` is its main number, the first of the values, which its code names; `causes` are sentences, the worst first.
    `trend` has the newest values of what `trend_of` names, the oldest first; with `trend_share`, they are shares.
    """

    question: Literal["fresh", "good", "safe", "changed"]
    level: Level
    figure: Cause
    causes: list[Cause]
    trend_of: str
    trend: list[float]
    trend_share: bool = False


class Waiting(NamedTuple):
    """What a shard has not learned: how many records, whether these are counted, and the age of the oldest (ms)."""

    shard: str
    records: int
    counted: bool
    oldest_ms: int
    ever: bool


class Told(NamedTuple):
    """An alarm: when it was appended, its detector, what it says, and whether a person had silenced it."""

    time_ms: int
    detector: str
    text: str
    silenced: bool
    of_loss: bool


def worst(causes: Iterable[Cause], otherwise: Level = "good") -> Level:
    """Return the worst level of some causes."""
    return max((one.level for one in causes), key=LEVELS.index, default=otherwise)


def _ordered(causes: Iterable[Cause]) -> list[Cause]:
    return sorted(causes, key=lambda one: -LEVELS.index(one.level))


def fresh(
    waiting: Sequence[Waiting], processes: Sequence[ProcessStatus], speeds: Sequence[float], serve: Cause | None
) -> Answer:
    """Answer whether the models know what happened.

    Args:
        speeds: events learned a minute, over the newest scores.
        serve: what the server says of its answers, None if none is known to run.
    """
    causes = [
        Cause(level="bad", code="process_away", values={"name": one.name, "restarts": one.restarts})
        for one in processes
        if one.state == "waiting"
    ]
    for one in waiting:
        level: Level = "bad" if one.oldest_ms > late_bad_ms else "watch" if one.oldest_ms > late_watch_ms else "good"
        values: dict[str, Value] = {"shard": one.shard, "records": one.records, "waiting_ms": one.oldest_ms}
        if not one.ever:
            causes.append(Cause(level="unknown", code="never_run", values={"shard": one.shard}))
        elif not one.records:
            causes.append(Cause(level="good", code="up_to_date", values={"shard": one.shard}))
        else:
            causes.append(Cause(level=level, code="waits" if one.counted else "waits_at_most", values=values))
    causes += [serve] if serve else []
    oldest = max((one.oldest_ms for one in waiting), default=0)
    known = any(one.ever for one in waiting)
    figure = Cause(level="good", code="oldest_waiting", values={"waiting_ms": oldest})
    return Answer(
        question="fresh", level=worst(causes) if known else "unknown",
        figure=figure if known else Cause(level="unknown", code="nothing_learned"),
        causes=_ordered(causes), trend_of="learned_per_minute", trend=list(speeds[-trend_max:]),
    )  # fmt: skip


def speeds_of(timeline: Sequence[FamilyScores]) -> list[float]:
    """Return the events learned a minute between records of scores, by their append times."""
    found = []
    for one, other in pairwise(timeline):
        ms = other.appended_ms - one.appended_ms
        if one.appended_ms and ms > 0 and other.events >= one.events:
            found.append((other.events - one.events) * 60_000 / ms)
    return found


def good(
    qualities: Mapping[str, Quality], scores: Mapping[str, Sequence[FamilyScores]], alarms: Sequence[Told],
    now_ms: int,
) -> Answer:  # fmt: skip
    """Answer whether the models predict as well as they did.

    Args:
        qualities: what each family declares as its quality, by the family.
        scores: the newest records of each family's scores, the oldest first.
    """
    causes, figure, trend, trend_of, share = list[Cause](), None, list[float](), "", False
    for family, quality in qualities.items():
        values = [value for one in scores.get(family, ()) if (value := quality.of(one.scores)) is not None]
        if not values:
            continue
        newest = values[-1]
        named: dict[str, Value] = {"family": family, "name": quality.name}
        named["now_share" if quality.percent else "now"] = newest
        if figure is None:
            main = "now_share" if quality.percent else "now"
            figure = Cause(level="good", code="quality", values={main: newest, "name": quality.name})
            trend, trend_of, share = values[-trend_max:], quality.name, quality.percent
        if len(values) <= usual_min:
            causes.append(Cause(level="unknown", code="quality_early", values=named))
            continue
        usual = median(values[:-1])
        better = newest - usual if quality.higher_is_better else usual - newest
        change = better / abs(usual) if usual else 0.0
        named |= {"usual_share" if quality.percent else "usual": usual, "change_share": abs(change)}
        level: Level = "bad" if -change > drop_bad else "watch" if -change > drop_watch else "good"
        code = "quality_usual" if level == "good" else "quality_worse"
        causes.append(Cause(level=level, code=f"{code}{'_share' if quality.percent else ''}", values=named))
    recent = [one for one in alarms if one.of_loss and not one.silenced and now_ms - one.time_ms <= recent_ms]
    if recent:
        values_: dict[str, Value] = {
            "count": len(recent),
            "detector": recent[-1].detector,
            "newest_at_ms": recent[-1].time_ms,
        }
        causes.append(Cause(level="watch", code="loss_alarms", values=values_))
    return Answer(
        question="good", level=worst(causes) if figure else "unknown",
        figure=figure or Cause(level="unknown", code="no_scores"), causes=_ordered(causes), trend_of=trend_of,
        trend=trend, trend_share=share,
    )  # fmt: skip


def safe(
    wrong: Sequence[str], alarms: Sequence[Told], letters: Sequence[int], open_letters: int, verdicts: Sequence[Row],
    now_ms: int,
) -> Answer:  # fmt: skip
    """Answer whether anything needs a person.

    Args:
        letters: when each open dead letter was appended.
        verdicts: rows of models.
    """
    causes = [Cause(level="bad", code="wrong", values={"text": text}) for text in wrong]
    recent = [one for one in alarms if now_ms - one.time_ms <= recent_ms and not one.silenced]
    floods = [one for one in recent if one.detector == "flood"]
    if floods:
        values: dict[str, Value] = {"count": len(floods), "newest_at_ms": floods[-1].time_ms}
        causes.append(Cause(level="bad", code="floods", values=values))
    if drifts := [one for one in recent if one.detector != "flood"]:
        newest = next((one for one in reversed(drifts) if one.text), drifts[-1])
        values = {"count": len(drifts), "detector": newest.detector, "moved": newest.text or NONE}
        causes.append(Cause(level="watch", code="drifts", values=values))
    new = sum(now_ms - time_ms <= recent_ms for time_ms in letters)
    if open_letters:
        level: Level = "bad" if new >= letters_bad else "watch"
        causes.append(Cause(level=level, code="letters", values={"count": open_letters, "recent": new}))
    for row in verdicts:
        if row.step == "rolled_back" and now_ms - row.time_ms <= recent_ms:
            causes.append(Cause(level="watch", code="rolled_back", values={"at_ms": row.time_ms, "reason": row.text}))
    serious = sum(one.level in ("watch", "bad") for one in causes)
    if not serious:
        causes.append(Cause(level="good", code="nothing_wrong"))
    return Answer(
        question="safe", level=worst(causes), figure=Cause(level="good", code="to_look_at", values={"count": serious}),
        causes=_ordered(causes), trend_of="alarms_per_hour", trend=per_hour([one.time_ms for one in alarms], now_ms),
    )  # fmt: skip


def changed(rows: Sequence[Row], now_ms: int) -> Answer:
    """Answer what changed. It has no level of its own: a change is neither good nor bad."""
    recent = [row for row in rows if now_ms - row.time_ms <= recent_ms]
    by_person = sum(bool(row.who) for row in recent)
    causes = [Cause(level="good", code="changes_by_persons", values={"count": by_person})] if by_person else []
    if newest := max(rows, key=lambda row: row.time_ms, default=None):
        values: dict[str, Value] = {"what": newest.what, "step": newest.step, "subject": newest.subject}
        causes.insert(0, Cause(level="good", code="newest_change", values=values | {"newest_at_ms": newest.time_ms}))
    return Answer(
        question="changed", level="good" if rows else "unknown",
        figure=Cause(level="good", code="changes_recent", values={"count": len(recent)}),
        causes=causes, trend_of="changes_per_hour", trend=per_hour([row.time_ms for row in rows], now_ms),
    )  # fmt: skip


def per_hour(times_ms: Sequence[int], now_ms: int) -> list[float]:
    """Return how many times lie in each of the last 24 hours, the oldest hour first.

    >>> per_hour([0, 1, 3_600_000], 3_600_001)[-2:]
    [2.0, 1.0]
    """
    counts = [0.0] * trend_hours
    for time_ms in times_ms:
        hours = (now_ms - time_ms) // 3_600_000
        if 0 <= hours < trend_hours:
            counts[trend_hours - 1 - hours] += 1
    return counts
