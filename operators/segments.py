"""Segments by the word of a person: which hold, which are to hold, who would be in them, and who is, as a file."""

import csv
import re
import tomllib
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from headrace.errors import Misconfigured
from headrace.events import Rejection
from headrace.log.protocol import Log, Partition, Record
from headrace.log.scan import topic_records
from headrace.segments import SegmentRules, StatedSegments, WrongSegment, decode, record_of
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.surface import Now, Route
from headrace.topics import SEGMENTS
from learners.families import Placement
from learners.shop import Shop
from operators.deployment import Deployment
from operators.experiments import stated_experiments
from operators.replay.fold import live_fold
from operators.rules import stated_rules

_HEADER: Final = re.compile(r"\s*\[\s*segments\s*\.\s*[\"']?([a-z][a-z0-9_-]*)[\"']?\s*\]")
_WHERE: Final = re.compile(r"\s*where\s*=\s*(\"\"\"|'''|\"|')")


class Change(Struct):
    """How many shoppers a segment has, and would have."""

    segment: str
    before: int
    after: int
    entering: int
    leaving: int


def read_segments(path: Path) -> SegmentRules:
    """Return the segments of a file: TOML if its name ends so, else JSON.

    Raises:
        Misconfigured: the file cannot be read, or has a rule that cannot be used; the text says at which line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            rules = msgspec.convert(tomllib.loads(text), SegmentRules)
        else:
            rules = msgspec.json.decode(text, type=SegmentRules)
        rules.tests()
        return rules
    except OSError as error:
        raise Misconfigured(f"{path}: wanted a file, found {error.strerror}") from None
    except WrongSegment as error:
        raise Misconfigured(f"{path}{_place(text, error)}") from None
    except (msgspec.MsgspecError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Misconfigured(f"{path}: {error}") from None


def _place(text: str, error: WrongSegment) -> str:
    """Return where in a file a rule goes wrong, the line itself, and what is wrong.

    In JSON, or where the rule is written in an unusual way, the place in the rule is told.
    """
    lines = text.split("\n")  # as TOML has lines: nothing else ends one
    header = next((n for n, line in enumerate(lines) if (m := _HEADER.match(line)) and m[1] == error.name), None)
    if header is None:
        return f": {error}"
    for number, line in enumerate(lines[header + 1 :], header + 1):
        if _HEADER.match(line):
            break
        if where := _WHERE.match(line):
            quote, start = where[1], where.end()
            if len(quote) == 3 and line[start:] == "":  # a line end right behind the quotes is no part of the rule
                at, column = number + error.line, error.column
            else:
                at, column = number + error.line - 1, error.column + (start if error.line == 1 else 0)
            if at >= len(lines):
                break
            return f":{at + 1}:{column}: {error.name}: {error.text}\n    {lines[at]}\n    {' ' * (column - 1)}^"
    return f": {error}"


def stated_segments(log: Log) -> StatedSegments | None:
    """Return the segments that hold; None if none were ever stated."""
    newest = None
    for record in topic_records(log, SEGMENTS):
        found = decode(record)
        if not isinstance(found, Rejection):
            newest = found
    return newest


def check_named(log: Log, what: str, wrong: Callable[[Collection[str]], Iterator[str]]) -> None:
    """Refuse a document that names a segment that is not stated. Whether there is a cluster, only a fold knows.

    Args:
        what: the document's name.
        wrong: yields what is wrong with each name in it, given the names that are stated.

    Raises:
        Misconfigured: it names one.
    """
    if not any(wrong(())):  # it names none by rule
        return
    stated = stated_segments(log)
    if text := next(wrong(stated.rules.segments if stated else {}), ""):
        raise Misconfigured(f"{what}: {text}")


def still_named(log: Log) -> list[str]:
    """Return where segments are named that are not stated: rules by placement, and experiments that may run."""
    stated = stated_segments(log)
    known = stated.rules.segments if stated else {}
    found = [
        (f"the rules of {one.placement}", one.rules.wrong_segments(known)) for one in stated_rules(log) if one.rules
    ]
    found += [
        (f"the experiment {name}", one.wrong_segments(known))
        for name, one in stated_experiments(log).stated.items() if one.state != "stopped"
    ]  # fmt: skip
    return [f"{where}: {text}" for where, wrong in found for text in wrong]


def state_segments(log: Log, rules: SegmentRules) -> None:
    """Write the segments. Shards and servers know them as soon as they read them."""
    with closing(log.appender()) as appender:
        appender.append(record_of(rules))


class _Page(Protocol):
    shoppers: list[str]
    next: str


class Sample:
    """The live state, folded where nobody else sees it, that is asked who is in which segment.

    Raises:
        Misconfigured: no shard folds segments, or the log does not hold what a fold of its state needs.
    """

    def __init__(self, log: Log, blobs: Blobs, deployment: Deployment, what: str) -> None:
        place, kind, sizes, members = _asked(deployment, what)
        last = journal.newest(log, place.shard)
        folded = live_fold(log, blobs, place, last.number + 1) if last else None
        if folded is None:
            raise Misconfigured(f"{what}: wanted a log and blobs from which the live state can be folded, found none")
        self._shop: Shop = folded[0].fold
        self._family, self._sizes, self._members = self._shop.families[kind], sizes, members
        self._offset, self._what = log.end(Partition(SEGMENTS, 0)), what
        if (stated := stated_segments(log)) is not None:  # the shard may not have read it yet
            self.state(stated.rules)

    def state(self, rules: SegmentRules) -> None:
        """Let these segments hold.

        Raises:
            Misconfigured: they cannot be stated.
        """
        record = record_of(rules)
        if rejected := self._shop.hear(SEGMENTS, Record(0, self._offset, 0, record.key, record.value)):
            raise Misconfigured(f"{self._what}: {rejected.detail}")
        self._offset += 1

    def names(self) -> list[tuple[str, str]]:
        """Return the segments by rule and the clusters: `rule` or `cluster`, and the name."""
        found: Any = self._sizes.call(self._family, self._sizes.query(), Now(self._shop.time_ms))
        return [("rule", one.segment) for one in found.segments] + [("cluster", one.segment) for one in found.clusters]

    def members(self, segment: str) -> Iterator[str]:
        """Yield who is in a segment now, by name."""
        after = ""
        while True:
            query = msgspec.convert({"segment": segment, "n": 1_000, "after": after}, self._members.query)
            page: _Page = self._members.call(self._family, query, Now(self._shop.time_ms))
            yield from page.shoppers
            after = page.next
            if not after:
                return


def _asked(deployment: Deployment, what: str) -> tuple[Placement, str, Route, Route]:
    """Return a shard, the name of its family that hears segments, and the family's routes of sizes and of members."""
    for place in deployment.placements.values():
        for kind in place.kinds:
            if SEGMENTS in kind.surface.hears:
                fields = {route.path: set(route.query.__struct_fields__) for route in kind.surface.routes}
                sizes = next(route for route in kind.surface.routes if not fields[route.path])
                members = next(route for route in kind.surface.routes if "segment" in fields[route.path])
                return place, kind.name, sizes, members
    raise Misconfigured(f"{what}: wanted a shard of a family that hears segments, found none")


def try_segments(log: Log, blobs: Blobs, deployment: Deployment, rules: SegmentRules) -> list[Change]:
    """Fold the live state, read-only, and count who is in which segment, and would be by other rules.

    Raises:
        Misconfigured: no shard folds segments, or the log does not hold what a fold of its state needs.
    """
    sample = Sample(log, blobs, deployment, "segments try")
    before = {name: set(sample.members(name)) for kind, name in sample.names() if kind == "rule"}
    sample.state(rules)
    after = {name: set(sample.members(name)) for name in rules.segments}
    found = []
    for name in dict.fromkeys((*before, *after)):
        was, is_ = before.get(name, set()), after.get(name, set())
        found.append(Change(name, len(was), len(is_), len(is_ - was), len(was - is_)))
    return found


def changes_text(changes: list[Change]) -> str:
    """Return what a trial found, as text."""
    return "\n".join(
        f"{one.segment}: {one.after:,} shoppers (now {one.before:,}), {one.entering:,} enter, {one.leaving:,} leave"
        for one in changes
    )


def export_segments(log: Log, blobs: Blobs, deployment: Deployment, path: Path, only: list[str]) -> int:
    """Write who is in which segment as CSV: shopper, kind (`rule` or `cluster`), segment; return the number of rows.

    Args:
        only: the segments that are written; all if it is empty.

    Raises:
        Misconfigured: a segment is unknown, or the live state cannot be folded, or the file cannot be written.
    """
    sample = Sample(log, blobs, deployment, "segments export")
    names = sample.names()
    known = [name for _, name in names]
    if unknown := [name for name in only if name not in known]:
        raise Misconfigured(f"segment: wanted one of {', '.join(known) or 'none'}, found {unknown[0]!r}")
    rows = 0
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("shopper", "kind", "segment"))
            for kind, name in names:
                if not only or name in only:
                    for shopper in sample.members(name):
                        writer.writerow((shopper, kind, name))
                        rows += 1
    except OSError as error:
        raise Misconfigured(f"{path}: wanted a file to write to, found {error.strerror}") from None
    return rows
