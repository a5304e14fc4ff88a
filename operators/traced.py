"""What a trace of an event says (`operators.trace`), and as lines of text."""

from typing import Final, Literal

from msgspec import Struct

from headrace.events import at

State = Literal["learned", "applied", "repeated", "unused", "rejected", "waiting", "expired", "passed"]


class Applied(Struct, kw_only=True):
    """What a shard has done with a record of `events`.

    Attributes:
        state: `learned`; `applied` if it may have been left out, as other records of its entry were; `repeated`, if an
            event of the same id and source came before; `unused`, `rejected`; `waiting` to be read; `expired`: the
            journal no longer tells; `passed` over: later records were applied, but not this one.
        families: those that learn from events of its type.
        entry, time_ms, after_ms: the journal entry that applied it, when it was committed, and how long after the
            record was appended.
        waiting: of a waiting record, how many offsets of its partition the shard has to read before it.
        newest_ms: of a waiting record, when the shard's newest entry was committed; None if it has none.
        repeats: the place of the event that it repeats, as partition/offset.
    """

    shard: str
    state: State
    families: list[str]
    entry: int | None = None
    time_ms: int | None = None
    after_ms: int | None = None
    waiting: int = 0
    newest_ms: int | None = None
    repeats: str = ""


class Letter(Struct, kw_only=True):
    """The dead letter that a record became, and what was decided about it; `decision` is "" while it is open."""

    reason: str
    time_ms: int
    decision: str = ""


class Judged(Struct, kw_only=True):
    """A judgement that scored an event: the rank of the true item in each member's list, 0 if it was not among the
    first; `model` is the deep model's version."""

    family: str
    shard: str
    time_ms: int
    step: int
    model: str
    ranks: dict[str, int]


class Alarmed(Struct, kw_only=True):
    """A drift alarm that an event set off."""

    detector: str
    time_ms: int
    score: float | None
    threshold: float | None
    silenced: bool


class Answered(Struct, kw_only=True):
    """The first logged answer for an event's shopper whose state includes the event.

    `time_ms` is by the server's clock, `entries` the number of entries of `shard` that the answer includes.
    """

    time_ms: int
    route: str
    placement: str
    model: str
    shard: str
    entries: int
    after_ms: int | None


class Trace(Struct, kw_only=True):
    """What became of one record of `events`. Times are in ms since the epoch, None where the log does not tell them.

    `happened_ms` is the event's time as its sender states it. `unknown` are sentences on what the log cannot tell.
    """

    place: str
    id: str
    source: str
    type: str
    shopper: str
    happened_ms: int | None
    appended_ms: int | None
    shards: list[Applied]
    letter: Letter | None
    judgements: list[Judged]
    alarms: list[Alarmed]
    answer: Answered | None
    unknown: list[str]


_BLEND: Final = "blend"
_COLUMN: Final = 23
"""Characters of the times that begin a line."""


def lines_of(trace: Trace) -> list[str]:
    """Return a trace as lines for a terminal, which must escape them, in the order of what happened."""
    head = f"{trace.type or 'a record'} {trace.id}".rstrip()
    head += f" of {trace.source}" if trace.source else ""
    head += f", shopper {trace.shopper}" if trace.shopper else ""
    lines = [f"{head} ({trace.place})"]
    happened, appended = trace.happened_ms, trace.appended_ms
    if happened is not None:
        lines.append(_line(happened, "happened, by its sender's clock"))
    delay = "" if happened is None or appended is None else f", {span(appended - happened)} after it happened"
    lines.append(_line(appended, f"appended{delay}"))
    lines += [_line(one.time_ms or one.newest_ms, _applied(one)) for one in trace.shards]
    if trace.letter:
        decision = trace.letter.decision or "open"
        lines.append(_line(trace.letter.time_ms, f"dead letter: {trace.letter.reason} ({decision})"))
    lines += [_line(one.time_ms, _judged(one)) for one in trace.judgements]
    if not trace.judgements and any(one.state in ("learned", "applied") for one in trace.shards):
        lines.append(_line(None, "no judgement: judges take a sample of the events with items, in visits under way"))
    for alarm in trace.alarms:
        scores = f": {alarm.score:.3g} over {alarm.threshold:.3g}" if alarm.score and alarm.threshold else ""
        lines.append(_line(alarm.time_ms, f"drift alarm{scores}, by {alarm.detector}{_silenced(alarm)}"))
    if answer := trace.answer:
        where = f"{answer.route}{f' ({answer.placement})' if answer.placement else ''}"
        after = "" if answer.after_ms is None else f", {span(answer.after_ms)} after the append"
        text = f"first answer that includes it{after}: {where}, model {answer.model or 'none'}"
        lines.append(_line(answer.time_ms, f"{text}, {answer.entries:,} entries of {answer.shard}"))
    elif any(one.state in ("learned", "applied") for one in trace.shards):
        lines.append(_line(None, "no logged answer for this shopper includes it"))
    return lines + [f"not known: {one}" for one in trace.unknown]


def span(ms: int) -> str:
    """Return a duration in words.

    >>> span(310), span(150_000), span(-90_000_000)
    ('0.31 s', '2.5 min', '-25.0 h')
    """
    for unit, size, limit in (("s", 1_000, 120_000), ("min", 60_000, 7_200_000), ("h", 3_600_000, 172_800_000)):
        if abs(ms) < limit:
            return f"{ms / size:.2f} {unit}" if size == 1_000 else f"{ms / size:.1f} {unit}"
    return f"{ms / 86_400_000:,.1f} days"


def _line(time_ms: int | None, text: str) -> str:
    time = "" if time_ms is None else f"{at(time_ms):%Y-%m-%d %H:%M:%S}.{time_ms % 1000:03}"
    return f"{time:{_COLUMN}}  {text}"


def _applied(one: Applied) -> str:
    by = f"{one.shard} ({', '.join(one.families) or 'no family learns from its type'})"
    where = f"entry {one.entry:,}" if one.entry is not None else ""
    where += f", {span(one.after_ms)} after the append" if one.after_ms is not None else ""
    match one.state:
        case "learned":
            return f"learned by {by}: {where}"
        case "applied":
            return f"applied by {by}: {where}; learned, unless it was left out"
        case "repeated":
            return f"not learned by {one.shard}: it repeats events/{one.repeats}; {where}"
        case "unused":
            return f"not learned by {one.shard}: nothing can be learned from it; {where}"
        case "rejected":
            return f"rejected by {one.shard}: {where}"
        case "waiting":
            ahead = f"{one.waiting:,} records of its partition come before it"
            newest = "its newest entry is of this time" if one.newest_ms is not None else "it has no journal entry"
            return f"not yet read by {by}: {ahead}; {newest}"
        case "expired":
            return f"{by}: its journal of that time has expired"
        case "passed":
            return f"passed over by {by}: no entry applies it, but later ones apply what came after it"


def _judged(one: Judged) -> str:
    names = sorted(one.ranks, key=lambda name: (name != _BLEND, name))
    ranks = ", ".join(f"{name} {one.ranks[name] or 'none'}" for name in names)
    step = f", step {one.step}" if one.step else ""
    return f"judged by {one.family}{step}: rank of the true item: {ranks or 'none'}; model {one.model or 'none'}"


def _silenced(alarm: Alarmed) -> str:
    return ", silenced" if alarm.silenced else ""
